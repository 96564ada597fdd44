"""The convolutional network: sizes, blocks, gradients."""

import itertools
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from slowly import slow
from small_runs import trained

from configs import conv_vae
from mimii_jax.config import build
from mimii_jax.errors import ConfigError
from mimii_jax.models.conv_vae import (
    ConvVAE,
    convolve,
    convolve_on_cpu,
    from_blocks,
    level_sizes,
    to_blocks,
)
from mimii_jax.results.table import read_scores

TWO = ((2, 2), (2, 2))


def vae(shape, channels=(3, 4), strides=TWO, kernel_blocks=2, segment=1):
    """Model with NumPy's random kernels: JAX's take a second per shape to compile."""
    model = nnx.eval_shape(
        lambda: ConvVAE(
            shape,
            channels=channels,
            strides=strides,
            kernel_blocks=kernel_blocks,
            segment=segment,
            latent=2,
            kl_weight=0.1,
            rngs=nnx.Rngs(0),
        )
    )
    rng = np.random.default_rng(0)

    def filled(leaf):
        if leaf.ndim < 2:  # biases, and the KL weight
            return jnp.full(leaf.shape, 0.1 if leaf.ndim == 0 else 0.0)
        kernel = rng.normal(size=leaf.shape) / np.prod(leaf.shape[:-1]) ** 0.5
        return jnp.asarray(kernel, jnp.float32)

    graph, state = nnx.split(model)
    return nnx.merge(graph, jax.tree.map(filled, state))


def parameters(variant, shape):
    spec = build(conv_vae.get_config(variant)).detector.model
    model = nnx.eval_shape(lambda: spec(shape, rngs=nnx.Rngs(0)))
    return sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_the_reference_has_about_a_million_parameters():
    config = conv_vae.get_config("reference")
    assert parameters("reference", (313, 128)) == 968_748
    assert "968,748" in conv_vae.__doc__
    assert config.train.epochs == 10
    assert config.windows.width is None
    assert set(config.augment.names) == {"cutout", "warp"}


def test_the_literature_variant_has_its_sizes():
    c = conv_vae.get_config("literature")
    assert c.detector.channels == (32, 64, 128, 256, 512)
    assert (c.windows.width, c.windows.scoring_hop, c.detector.latent) == (32, 6, 40)


@pytest.mark.parametrize(
    ("shape", "strides", "kernel_blocks"),
    [
        ((33, 16), TWO, 2),  # a remainder of one frame
        ((7, 5), TWO, 3),
        ((7, 5), ((1, 2), (3, 4)), 1),
        ((1, 1), TWO, 2),
    ],
)
def test_any_size_is_encoded_and_decoded(shape, strides, kernel_blocks):
    model = vae(shape, strides=strides, kernel_blocks=kernel_blocks)
    x = jax.random.normal(jax.random.key(1), (2, *shape))

    @jax.jit
    def predicted(x):
        gradient = jax.grad(lambda x: jnp.sum(model.loss(x, jax.random.key(0))))(x)
        return model.predict(x), model.error(x), gradient

    expected, error, gradient = predicted(x)
    assert expected.shape == error.shape == x.shape
    np.testing.assert_allclose(error, (x - expected) ** 2, rtol=1e-5, atol=1e-12)
    assert np.all(np.any(np.asarray(gradient) != 0, axis=0))  # every pixel counts


def test_the_error_of_a_segment_is_the_mean_of_its_frames():
    bounds = {None: [0, 7], 3: [0, 3, 6, 7], 9: [0, 7], 1: range(8)}
    models = {segment: vae((7, 5), segment=segment) for segment in bounds}
    x = jax.random.normal(jax.random.key(1), (2, 7, 5))
    found = jax.jit(lambda x: [model.error(x) for model in models.values()])(x)
    each = np.asarray(found[-1])
    for (segment, own), error in zip(bounds.items(), found, strict=True):
        pairs = list(itertools.pairwise(own))
        parts = [each[:, a:b].mean(1) for a, b in pairs]
        np.testing.assert_allclose(error, np.stack(parts, axis=1), rtol=1e-5)
        middles = [(a + b) / 2 for a, b in pairs]
        np.testing.assert_array_equal(models[segment].segment_centres(), middles)


def test_sizes_of_levels_are_rounded_up():
    sizes = level_sizes((313, 128), ((2, 2),) * 5)
    assert sizes == ((313, 128), (157, 64), (79, 32), (40, 16), (20, 8), (10, 4))
    assert level_sizes((7, 5), ((1, 2), (3, 4))) == ((7, 5), (7, 3), (3, 1))


@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (3, 2), (8, 9)])
def test_blocks_are_laid_out_as_they_were(stride):
    image = jax.random.normal(jax.random.key(0), (2, 7, 5, 3))
    blocks = to_blocks(image, stride)
    assert blocks.shape[-1] == 3 * stride[0] * stride[1]
    np.testing.assert_array_equal(from_blocks(blocks, stride, (7, 5)), image)


def test_a_convolution_over_blocks_is_a_strided_one():
    """Of kernel 4 and stride 2 at the even places, where the filter starts there."""
    x = jax.random.normal(jax.random.key(0), (2, 8, 6, 3))
    kernel = jax.random.normal(jax.random.key(1), (4, 4, 3, 5))
    layout = ("NHWC", "HWIO", "NHWC")
    strided = lax.conv_general_dilated(
        x, kernel, (2, 2), ((0, 2), (0, 2)), dimension_numbers=layout
    )
    of_blocks = kernel.reshape(2, 2, 2, 2, 3, 5).transpose(0, 2, 1, 3, 4, 5)
    of_blocks = of_blocks.reshape(2, 2, 12, 5)
    found = convolve(to_blocks(x, (2, 2)), of_blocks, 0)
    np.testing.assert_allclose(found, strided, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_out", [2, 4])
@pytest.mark.parametrize(("size", "before"), [(1, 0), (2, 1), (4, 0)])
def test_the_convolution_for_a_cpu_and_its_gradients_are_those_of_jax(
    size, before, n_out
):
    x = jax.random.normal(jax.random.key(0), (2, 6, 5, 3))
    kernel = jax.random.normal(jax.random.key(1), (size, size, 3, n_out))
    away = jax.random.normal(jax.random.key(2), (2, 6, 5, n_out))

    @partial(jax.jit, static_argnums=0)
    def gradients(run):
        value, back = jax.vjp(partial(run, before=before), x, kernel)
        return value, *back(away)

    of_both = gradients(convolve_on_cpu), gradients(convolve)
    for mine, theirs in zip(*of_both, strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("channels", ()),
        ("channels", (3, 0)),
        ("strides", ((2, 2),)),
        ("strides", ((2, 2), (2, 0))),
        ("kernel_blocks", 0),
        ("segment", 0),
    ],
)
def test_bad_sizes_are_refused(field, value):
    with pytest.raises(ConfigError, match=f"detector.{field}=.*positive"):
        vae((8, 8), **{field: value})


@pytest.mark.parametrize("variant", [slow("literature"), slow("reference")])
def test_windows_and_whole_clips_train_two_steps_when_shrunk_and_score(
    variant, recordings, tmp_path, no_figures
):
    config = conv_vae.get_config(variant)
    config.seeds = (0, 1)
    config.data.root = str(recordings)
    config.features.n_mels = 16
    config.windows.width = config.windows.width and 9
    config.detector.channels, config.detector.latent = (2, 3), 2
    config.detector.strides = config.detector.strides[:2]
    config.train.epochs, config.train.batch_size = 2, 1000
    config.eval.bootstrap = 0
    trained(config, tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    scores = read_scores(tmp_path / "run" / "scores.csv")
    of_model = scores[scores.detector == "conv_vae"]
    assert of_model.seeds == [0, 1]
    assert len(np.unique(of_model.score)) == len(of_model) > 0
    with np.load(tmp_path / "run" / "examples.npz") as file:
        names = [name for name in file.files if name.endswith("/expected")]
        assert names
        for name in names:
            features = file[name.replace("expected", "features")]
            assert file[name].shape == features.shape
            assert np.all(np.isfinite(file[name]))
