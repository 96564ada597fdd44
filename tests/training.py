"""A small training for the tests: five clips of eleven frames of two bins."""

import json
import tempfile
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mimii_jax import log
from mimii_jax.features.windows import Standardiser, Windows
from mimii_jax.models.mlp import MLPVAE
from mimii_jax.train.loop import Features, train_runs
from mimii_jax.train.mesh import make_mesh, replicate
from mimii_jax.train.runs import Run, Settings
from mimii_jax.train.shuffle import permute

SETTINGS = Settings(
    epochs=2, batch_size=16, learning_rate=1e-2, schedule="constant", warmup=0.0
)
WINDOWS = Windows(3)
DIFFERENT = [
    Run(0, np.arange(4), np.array([4])),
    Run(7, np.arange(3), changes={"epochs": 3, "learning_rate": 3e-3}),
    Run(2, np.array([1, 3, 4]), np.array([0, 2]), {"kl_weight": 2.0}),
]


class Centre(nnx.Module):
    """One parameter per feature; every loss can be worked out by hand."""

    def __init__(self, n_features, rngs):
        self.w = nnx.Param(jax.random.uniform(rngs.params(), (n_features,)))

    def loss(self, x, key):
        del key
        return self.error(x)

    def error(self, x):
        return jnp.sum((x.reshape(len(x), -1) - self.w[None]) ** 2, axis=-1)


def build_centre(rngs):
    return Centre(3 * 2, rngs)


def build_vae(rngs):
    return MLPVAE((3, 2), hidden=(8,), latent=2, kl_weight=0.1, rngs=rngs)


def some_features(clips=5, frames=11, bins=2):
    """Sound with a structure: a sine over the frames at a level per clip."""
    key = jax.random.key(3)
    level = jax.random.normal(key, (clips, 1, bins))
    frame = jnp.sin(jnp.arange(float(frames)))[None, :, None]
    return level * frame + 0.1 * jax.random.normal(key, (clips, frames, bins))


def all_clips(seeds, held_out=0):
    """A run per seed on the five clips, of which the last ones are held out."""
    return [
        Run(seed, np.arange(5 - held_out), np.arange(5 - held_out, 5)) for seed in seeds
    ]


def train_on(
    build=build_vae,
    seeds=(0,),
    *,
    runs=None,
    settings=SETTINGS,
    held_out=0,
    mesh=(1, 1),
    group=None,
    checkpoints=None,
    metrics=None,
):
    """The trained graph and state; lines are printed."""
    runs = runs or all_clips(seeds, held_out)
    mesh = make_mesh(len(runs), *mesh)
    array = replicate(some_features(), mesh)
    features = Features(array, array, [Standardiser.identity(2)] * len(runs))
    if metrics:
        log.open_metrics(metrics, {})
    try:
        return train_runs(
            build, WINDOWS, features, settings, runs, mesh, checkpoints, group=group
        )
    finally:
        log.close_metrics()


@cache
def alone(i):
    """State and validation loss of one of `DIFFERENT`, trained alone."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        _, state = train_on(runs=DIFFERENT[i : i + 1], metrics=path)
        (val_loss,) = epochs(path)[-1]["val_loss"] or [None]
    return state, val_loss


@cache
def together():
    """The state of `DIFFERENT`, trained on one device."""
    return train_on(runs=DIFFERENT)[1]


def epochs(path):
    """Rows of a metrics file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def order_of(key, epoch, n):
    """The examples of an epoch, in their order."""
    position = jnp.arange(n)
    return np.asarray(permute(key, jnp.int32(epoch), jnp.int32(n), position))


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
