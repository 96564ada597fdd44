"""The training step: written for one run, lifted over all of them, compiled once.

`vmap` lifts the step over the runs of a shard (in groups, where a cache is small) and
`shard_map` over the shards, so that shards cannot wait for each other; the devices of
one shard divide its batches. Examples are gathered from the features inside the step.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float32, Int, UInt32

from mimii_jax.features.windows import Standardiser
from mimii_jax.train.mesh import DATA, RUN, Layout
from mimii_jax.train.settings import Settings
from mimii_jax.train.shuffle import example_at

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
