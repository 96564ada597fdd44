"""Every model that predicts has the interface of `Model`."""

import importlib

import jax
import numpy as np
import pytest
from flax import nnx

from mimii_jax.config import MODELS, build
from mimii_jax.models.model import RunVariable

FRAMES, BINS = 32, 16


@pytest.mark.parametrize("name", [n for n in MODELS if hasattr(MODELS[n], "predict")])
def test_losses_errors_predictions_and_centres_have_their_shapes(name):
    config = importlib.import_module(f"configs.{name}").get_config("quick")
    spec = build(config).detector.model
    frames = config.windows.width or FRAMES
    x = jax.random.normal(jax.random.key(0), (3, frames, BINS))

    def shapes(x):
        model = spec((frames, BINS), rngs=nnx.Rngs(0))
        loss = model.loss(x, jax.random.key(0))
        run_variables = jax.tree.leaves(nnx.state(model, RunVariable))
        return loss, model.error(x), model.predict(x), run_variables

    loss, error, predicted, run_variables = jax.eval_shape(shapes, x)
    assert (loss.shape, predicted.shape) == ((3,), x.shape)
    assert {variable.shape for variable in run_variables} <= {()}
    model = nnx.eval_shape(lambda: spec((frames, BINS), rngs=nnx.Rngs(0)))
    centres = model.segment_centres()
    assert error.shape == (3, len(centres), BINS)
    assert np.all(np.diff(centres) > 0)
    assert 0 < centres[0] <= centres[-1] < frames
