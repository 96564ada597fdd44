"""The training step: written for one run, lifted over all of them, compiled once.

`vmap` lifts the step over the runs of a shard (in groups, where a cache is small) and
`shard_map` over the shards, so that shards cannot wait for each other; the devices of
one shard divide its batches. Examples are gathered from the features inside the step.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float32, Int, UInt32

from mimii_jax.examples import Standardiser
from mimii_jax.order import example_at
from mimii_jax.runs import Run
from mimii_jax.sharding import DATA, RUN, Layout

OF_SETTINGS = frozenset({"epochs", "learning_rate"})  # in which runs may differ
SCHEDULES = ("constant", "cosine")
OPTIMIZER = optax.scale_by_adam()


# On the devices, or on the host before a training and in a checkpoint.
Leaf = Any


class Model(Protocol):
    """What a neural detector is made of; an example is [frame, bin]."""

    def loss(self, x: Array, key: Array) -> Array:
        """Training loss [batch] of examples [batch, frame, bin]."""
        ...

    def error(self, x: Array) -> Array:
        """Squared error [batch, step, bin] along the time of examples; deterministic.

        A step is what the model judges at once: a window, a patch.
        """
        ...

    def predict(self, x: Array) -> Array:
        """What examples should be, [batch, frame, bin]; NaN in frames not predicted."""
        ...


class Examples(Protocol):
    """Which part of the features is one example; hashable."""

    def per_clip(self, n_frames: int) -> int:
        """Examples in a clip."""
        ...

    def gather(self, features: Array, index: Array) -> Array:
        """Examples by index; example i of clip c has index c * per_clip + i."""
        ...


class Augment(Protocol):
    """How examples are changed before a model is trained on them."""

    @property
    def values(self) -> Mapping[str, float]:
        """Numbers in which runs may differ, by name."""
        ...

    def changed(self, changes: Mapping[str, float]) -> "Augment":
        """With the numbers of a run that differs in some."""
        ...

    def __call__(
        self, values: Mapping[str, Array], key: Array, x: Array, n: Array
    ) -> Array:
        """Examples [batch, frame, bin], of which the first n count, changed."""
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
    freeze : parts of the model that are not trained, such as "encoder" or "encoder.0"
    augment : of the standardised examples, for the training loss alone; None: nothing
    """

    epochs: int
    batch_size: int
    learning_rate: float
    schedule: str
    warmup: float
    freeze: tuple[str, ...] = ()
    augment: Augment | None = None

    def __post_init__(self) -> None:
        for field in ("epochs", "batch_size", "learning_rate"):
            if not getattr(self, field) > 0:
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

    def of(self, run: Run) -> "Settings":
        """The settings of one run; what else it changes belongs to its model."""
        own: Any = {k: v for k, v in run.changes.items() if k in OF_SETTINGS}
        if self.augment:
            own["augment"] = self.augment.changed(run.changes)
        return replace(self, **own)

    @property
    def may_differ(self) -> frozenset[str]:
        """Names of the settings in which runs may differ."""
        return OF_SETTINGS.union(self.augment.values if self.augment else ())

    def rate(self, step: Array, total: Array, peak: Array) -> Array:
        """Learning rate at a step of so many."""
        rise = jnp.round(self.warmup * total)
        share = jnp.minimum((step - rise) / jnp.maximum(total - rise, 1), 1)
        rate = 0.5 * (1 + jnp.cos(jnp.pi * share)) if self.schedule == "cosine" else 1.0
        return peak * jnp.where(step < rise, step / jnp.maximum(rise, 1), rate)

    def split(self, model: Any) -> tuple[nnx.GraphDef, Any, Any]:
        """Structure of a model, its variables that are trained, and the others.

        Raises
        ------
        ValueError : `freeze` names no part of the model, or all of it
        """

        def within(path: Sequence[Any], part: str) -> bool:
            return f"{'.'.join(map(str, path))}.".startswith(f"{part}.")

        paths = [path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))]
        for part in self.freeze:
            if not any(within(path, part) for path in paths):
                raise ValueError(f"train.freeze={self.freeze}: no part is named {part}")

        def trained(path: Sequence[Any], value: Any) -> bool:
            frozen = any(within(path, part) for part in self.freeze)
            return isinstance(value, nnx.Param) and not frozen

        graph, params, fixed = nnx.split(model, trained, ...)
        if not jax.tree.leaves(params):
            raise ValueError(f"train.freeze={self.freeze}: leaves nothing to train")
        return graph, params, fixed


class TrainState(NamedTuple):
    """All that a run is.

    On the devices every leaf has (shard, slot) as its first axes; in a checkpoint it
    has the run.
    """

    step: Int[Leaf, "..."]
    alive: Bool[Leaf, "..."]  # no loss was ever not finite
    loss_sum: Float32[Leaf, "..."]  # over this epoch's examples so far
    epoch_loss: Float32[Leaf, "..."]  # mean of the last whole epoch
    params: Any  # what is trained
    fixed: Any  # what is not: frozen parameters, knobs
    moments: Any  # of Adam
    key: UInt32[Leaf, "... 2"]
    standardiser: Standardiser


class Pool(NamedTuple):
    """What a run is to do; every leaf has (shard, slot) as its first axes."""

    clips: Int[Leaf, "... clip"]  # rows of the shard's features, padded
    n_examples: Int[Leaf, "..."]
    n_steps: Int[Leaf, "..."]  # per epoch
    total: Int[Leaf, "..."]  # steps of all epochs
    peak: Float32[Leaf, "..."]  # learning rate
    held_out: Int[Leaf, "... clip"]  # rows as well, padded
    n_held_out: Int[Leaf, "..."]
    augment: dict[str, Float32[Leaf, "..."]]  # numbers of its augmentations


def in_groups(of_run: Callable[[Any], Any], runs: Any, group: int) -> Any:
    """A function of one run, of all of them, a group at a time."""
    n_runs = len(jax.tree.leaves(runs)[0])
    if group == 1:
        return lax.map(of_run, runs)
    if n_runs <= group:
        return jax.vmap(of_run)(runs)
    return lax.map(of_run, runs, batch_size=group)


def compile_steps(
    graph: nnx.GraphDef,
    examples: Examples,
    settings: Settings,
    layout: Layout,
) -> Callable[..., TrainState]:
    """A function that does n steps of all runs that are not done, in one dispatch.

    Its arguments: state (donated), pool, features [shard, clip, frame, bin], n, and the
    number of slots that are in use; for each such number it is compiled once.
    """
    n_devices = layout.mesh.shape[DATA]
    batch = jnp.arange(-(-settings.batch_size // n_devices) * n_devices)

    def one_step(state: TrainState, pool: Pool, features: Array) -> TrainState:
        epoch, at = state.step // pool.n_steps, state.step % pool.n_steps
        position = at * settings.batch_size + batch
        real = (batch < settings.batch_size) & (position < pool.n_examples)
        index = example_at(
            state.key, epoch, pool.n_examples, jnp.where(real, position, 0)
        )
        per_clip = examples.per_clip(features.shape[1])
        index = pool.clips[index // per_clip] * per_clip + index % per_clip
        if n_devices > 1:
            index, real = lax.with_sharding_constraint((index, real), P(DATA))
        x = state.standardiser.apply(examples.gather(features, index))
        noise_key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
        count = jnp.sum(real)
        if settings.augment:
            x = settings.augment(
                pool.augment, jax.random.fold_in(noise_key, 1), x, count
            )

        def loss_of(params: Any) -> Array:
            losses = nnx.merge(graph, params, state.fixed).loss(x, noise_key)
            return jnp.sum(jnp.where(real, losses, 0)) / count

        loss, grads = jax.value_and_grad(loss_of)(state.params)
        finite = jnp.isfinite(loss)
        moves, moments = OPTIMIZER.update(grads, state.moments)
        rate = settings.rate(state.step, pool.total, pool.peak)
        params = jax.tree.map(lambda p, move: p - rate * move, state.params, moves)
        loss_sum = jnp.where(at == 0, 0, state.loss_sum) + loss * count
        last = at == pool.n_steps - 1
        new = state._replace(
            step=state.step + 1,
            loss_sum=loss_sum,
            epoch_loss=jnp.where(last, loss_sum / pool.n_examples, state.epoch_loss),
            params=params,
            moments=moments,
        )
        goes_on = state.alive & (state.step < pool.total)
        moved = goes_on & finite
        state = jax.tree.map(lambda a, b: jnp.where(moved, a, b), new, state)
        return state._replace(alive=state.alive & (finite | ~goes_on))

    @partial(jax.jit, donate_argnums=0, static_argnums=4)
    def steps(state: TrainState, pool: Pool, features: Array, n: Array, slots: int):
        @partial(
            jax.shard_map,
            mesh=layout.mesh,
            in_specs=(P(RUN), P(RUN), P(RUN), P()),
            out_specs=P(RUN),
            axis_names={RUN},
        )
        def of_shard(
            state: TrainState, pool: Pool, features: Array, n: Array
        ) -> TrainState:
            def of_run(run: tuple[TrainState, Pool]) -> TrainState:
                state, todo = run
                # A dynamic trip count: one compilation serves every number of steps.
                return lax.fori_loop(
                    0, n, lambda _, state: one_step(state, todo, features[0]), state
                )

            def turn(first: Array | int, size: int, state: TrainState) -> TrainState:
                """Of a group of runs; what they change is written in its place."""

                def of_group(leaf: Array) -> Array:
                    return lax.dynamic_slice_in_dim(leaf, first, size, 1)[0]

                runs = jax.tree.map(of_group, (state, pool))
                return jax.tree.map(
                    lambda all, new: lax.dynamic_update_slice_in_dim(
                        all, new[None], first, 1
                    ),
                    state,
                    in_groups(of_run, runs, size),
                )

            group = min(layout.group, slots)
            state = lax.fori_loop(
                0, slots // group, lambda i, s: turn(i * group, group, s), state
            )
            rest = slots % group
            return turn(slots - rest, rest, state) if rest else state

        return of_shard(state, pool, features, n)

    return steps


def compile_validation(
    graph: nnx.GraphDef, examples: Examples, layout: Layout
) -> Callable[..., Float32[Array, "shard slot"]]:
    """A function of state, pool and features: the mean loss on held-out clips.

    The noise of the loss is drawn from a fixed key. Infinite without held-out clips.
    """

    def of_run(run: tuple[TrainState, Pool], features: Array) -> Array:
        state, pool = run
        per_clip = examples.per_clip(features.shape[1])
        model = nnx.merge(graph, state.params, state.fixed)

        def of_clip(i: Array) -> Array:
            x = examples.gather(
                features, pool.held_out[i] * per_clip + jnp.arange(per_clip)
            )
            key = jax.random.fold_in(jax.random.key(0), i)
            loss = jnp.mean(model.loss(state.standardiser.apply(x), key))
            return jnp.where(i < pool.n_held_out, loss, 0)

        total = jnp.sum(lax.map(of_clip, jnp.arange(len(pool.held_out))))
        return jnp.where(
            pool.n_held_out > 0, total / jnp.maximum(pool.n_held_out, 1), jnp.inf
        )

    @jax.jit
    @partial(
        jax.shard_map,
        mesh=layout.mesh,
        in_specs=P(RUN),
        out_specs=P(RUN),
        axis_names={RUN},
    )
    def validate(state: TrainState, pool: Pool, features: Array) -> Array:
        runs = jax.tree.map(lambda leaf: leaf[0], (state, pool))
        loss = in_groups(partial(of_run, features=features[0]), runs, layout.group)
        return loss[None]

    return validate
