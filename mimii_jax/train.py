"""Training: many runs of one model over shared features, as one compiled program.

The step is written for one run and lifted over the runs by `vmap`. Examples are
gathered from the features inside the step.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax
from jaxtyping import Array, Float32, Int

from mimii_jax.watch import Watch

# Dispatches per epoch: how often the progress bar moves.
REPORTS_PER_EPOCH = 10
SCHEDULES = ("constant", "cosine")
# Streams of a run's key: the order of its examples, and the noise of its loss.
ORDER, NOISE = 0, 1


class Model(Protocol):
    """What a neural detector is made of."""

    def loss(self, x: Array, key: Array) -> Array:
        """Training loss per example."""
        ...

    def error(self, x: Array) -> Array:
        """Anomaly score per example; deterministic."""
        ...


class Examples(Protocol):
    """Which part of the features is one example; hashable."""

    def per_clip(self, n_frames: int) -> int:
        """Examples in a clip."""
        ...

    def gather(self, features: Array, index: Array) -> Array:
        """Examples by index; example i of clip c has index c * per_clip + i."""
        ...


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes
    ----------
    epochs : int > 0; each visits every example once, in a fresh order
    batch_size : int > 0; the last batch of an epoch may be smaller
    learning_rate : float > 0, the peak, for Adam
    schedule : "constant" or "cosine" (to zero at the end)
    warmup : float in [0, 1), share of all steps with a linear rise from zero
    """

    epochs: int
    batch_size: int
    learning_rate: float
    schedule: str
    warmup: float

    def __post_init__(self) -> None:
        for field in ("epochs", "batch_size", "learning_rate"):
            if getattr(self, field) <= 0:
                raise ValueError(
                    f"train.{field}={getattr(self, field)}: must be positive"
                )
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"train.schedule='{self.schedule}': must be one of "
                f"{', '.join(SCHEDULES)}"
            )
        if not 0 <= self.warmup < 1:
            raise ValueError(f"train.warmup={self.warmup}: must be in [0, 1)")

    def optimizer(self, n_steps: int) -> optax.GradientTransformation:
        """Adam under the schedule, for a training of `n_steps`."""
        rate = optax.constant_schedule(self.learning_rate)
        rise = round(self.warmup * n_steps)
        if self.schedule == "cosine":
            rate = optax.cosine_decay_schedule(self.learning_rate, n_steps - rise)
        if rise:
            warm = optax.linear_schedule(0.0, self.learning_rate, rise)
            rate = optax.join_schedules([warm, rate], [rise])
        return optax.adam(rate)


class TrainState(NamedTuple):
    """All that changes; every leaf has the run as its first axis."""

    step: Int[Array, " run"]
    params: Any
    opt_state: Any
    key: Array


class NonFiniteLoss(Exception):
    """Training diverged."""


def init_runs(
    build: Callable[[nnx.Rngs], Any], seeds: Sequence[int]
) -> tuple[nnx.GraphDef, Any, Array]:
    """A model per seed: the shared structure, stacked parameters, and training keys."""
    keys = [jax.random.split(jax.random.key(seed)) for seed in seeds]
    models = [nnx.split(build(nnx.Rngs(model_key))) for model_key, _ in keys]
    params = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(p for _, p in models))
    return models[0][0], params, jnp.stack([train_key for _, train_key in keys])


def train_runs(
    build: Callable[[nnx.Rngs], Any],
    examples: Examples,
    features: Float32[Array, "clip frame bin"],
    validation: Float32[Array, "clip frame bin"] | None,
    settings: Settings,
    seeds: Sequence[int],
    watch: Watch,
) -> tuple[nnx.GraphDef, Any]:
    """Train one run per seed, all at once, on the same clips.

    Parameters
    ----------
    build : makes a `Model` from its random number streams
    examples : what is gathered from the features as one example
    features : f32 [shape=(clip, frame, bin)], training clips
    validation : f32 [shape=(clip, frame, bin)], held-out normal clips, or None
    settings : epochs, batch size, learning rate
    seeds : one per run; a run depends on its own seed only
    watch : shows a bar per epoch and keeps its losses

    Returns
    -------
    graph, params : `nnx.merge(graph, params)` of one run is its model; the leaves of
        `params` have the run as first axis

    Raises
    ------
    NonFiniteLoss
        If the loss of any run is not finite, within a tenth of an epoch.
    """
    n_examples = len(features) * examples.per_clip(features.shape[1])
    n_steps = -(-n_examples // settings.batch_size)
    optimizer = settings.optimizer(settings.epochs * n_steps)
    graph, params, keys = init_runs(build, seeds)
    state = TrainState(
        jnp.zeros(len(seeds), np.int32), params, jax.vmap(optimizer.init)(params), keys
    )
    advance = _compile_steps(graph, optimizer, examples)
    interval = -(-n_steps // REPORTS_PER_EPOCH)
    start = time.perf_counter()
    for epoch in range(settings.epochs):
        name = f"epoch {epoch + 1}/{settings.epochs}"
        with watch.bar(name, n_examples * len(seeds), "windows") as show:
            order = _epoch_order(state.key, epoch, n_examples, settings.batch_size)
            total, seen, loss = jnp.zeros(len(seeds)), 0, np.zeros(len(seeds))
            for first in range(0, n_steps, interval):
                last = min(first + interval, n_steps)
                state, total = advance(state, total, features, order, first, last)
                new = min(last * settings.batch_size, n_examples) - seen
                seen += new
                loss = np.asarray(total) / seen
                _require_finite(loss, seeds, epoch, last)
                share = (epoch + last / n_steps) / settings.epochs
                left = (time.perf_counter() - start) * (1 / share - 1)
                text = f"loss {loss.mean():.4g}, {left:.0f} s left in all, "
                show(new * len(seeds), text)
            held_out = None
            if validation is not None:
                held_out = mean_loss(graph, examples, state.params, validation).tolist()
        watch.record(
            epoch=epoch + 1,
            seeds=list(seeds),
            train_loss=loss.tolist(),
            validation_loss=held_out,
            seconds=round(time.perf_counter() - start, 3),
        )
    return graph, state.params


@partial(jax.jit, static_argnums=(0, 1))
def mean_loss(
    graph: nnx.GraphDef,
    examples: Examples,
    params: Any,
    features: Float32[Array, "clip frame bin"],
) -> Float32[Array, " run"]:
    """Mean loss per example of each run, its noise drawn from a fixed key."""
    per_clip = examples.per_clip(features.shape[1])

    def of_clip(clip: Array) -> Array:
        x = examples.gather(features, clip * per_clip + jnp.arange(per_clip))
        key = jax.random.fold_in(jax.random.key(0), clip)
        one_run = lambda p: jnp.mean(nnx.merge(graph, p).loss(x, key))  # noqa: E731
        return jax.vmap(one_run)(params)

    return jnp.mean(lax.map(of_clip, jnp.arange(len(features))), axis=0)


@partial(jax.jit, static_argnums=(2, 3))
def _epoch_order(
    keys: Array, epoch: Array, n_examples: int, batch_size: int
) -> Int[Array, "run step batch"]:
    """Each run's examples in this epoch's order; -1 fills the last batch."""
    n_steps = -(-n_examples // batch_size)

    def of_run(key: Array) -> Array:
        order_key = jax.random.fold_in(jax.random.fold_in(key, ORDER), epoch)
        order = jax.random.permutation(order_key, n_examples).astype(np.int32)
        padding = (0, n_steps * batch_size - n_examples)
        return jnp.pad(order, padding, constant_values=-1).reshape(n_steps, batch_size)

    return jax.vmap(of_run)(keys)


def _compile_steps(
    graph: nnx.GraphDef, optimizer: optax.GradientTransformation, examples: Examples
) -> Callable[..., tuple[TrainState, Array]]:
    """Steps first to last of an epoch, for all runs, in one dispatch."""

    def one_step(
        state: TrainState, features: Array, index: Array
    ) -> tuple[TrainState, Array]:
        x = examples.gather(features, jnp.maximum(index, 0))
        real = index >= 0
        noise_key = jax.random.fold_in(jax.random.fold_in(state.key, NOISE), state.step)

        def loss_of(params: Any) -> Array:
            losses = nnx.merge(graph, params).loss(x, noise_key)
            return jnp.sum(jnp.where(real, losses, 0)) / jnp.sum(real)

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = TrainState(state.step + 1, params, opt_state, state.key)
        return new, loss * jnp.sum(real)

    @partial(jax.jit, donate_argnums=(0, 1))
    def steps(
        state: TrainState,
        total: Array,
        features: Array,
        order: Array,
        first: Array,
        last: Array,
    ) -> tuple[TrainState, Array]:
        def body(i: Array, carry: tuple[TrainState, Array]) -> Any:
            state, total = carry
            index = lax.dynamic_index_in_dim(order, i, axis=1, keepdims=False)
            state, loss = jax.vmap(one_step, (0, None, 0))(state, features, index)
            return state, total + loss

        # A dynamic trip count: one compilation serves every interval.
        return lax.fori_loop(first, last, body, (state, total))

    return steps


def _require_finite(
    loss: np.ndarray, seeds: Sequence[int], epoch: int, step: int
) -> None:
    for seed, value in zip(seeds, loss, strict=True):
        if not np.isfinite(value):
            raise NonFiniteLoss(
                f"the loss of seed {seed} is {value} in epoch {epoch + 1}, by step "
                f"{step}: try a smaller train.learning_rate"
            )
