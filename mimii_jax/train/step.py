"""The training step: written for one run, lifted over runs and devices, compiled once.

Runs that a device steps together are a batch of the step (`vmap`); the rows of the mesh
have a share of the runs each (`shard_map`) and no communication; the devices of a row
share each batch. Examples are gathered from the features inside the step, unless the
plan brings them, read from a file.
"""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.sharding import Mesh, get_abstract_mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Float32, Int

from mimii_jax.features.windows import Windows
from mimii_jax.train.mesh import DATA, RUN
from mimii_jax.train.runs import Settings
from mimii_jax.train.shuffle import permute
from mimii_jax.train.state import OPTIMIZER, Plan, TrainState

Features = Float[Array, "clip frame bin"]


def one_step(
    graph: nnx.GraphDef,
    windows: Windows,
    settings: Settings,
    state: TrainState,
    plan: Plan,
    features: Features,
) -> TrainState:
    """One optimiser step of one run; no change once it is done or has diverged."""
    at = state.step % plan.n_steps
    per_clip = windows.per_clip(features.shape[1])
    index, mask = batch_of(settings.batch_size, per_clip, state.key, state.step, plan)
    found = windows.gather(features, index) if plan.batch is None else plan.batch
    standardiser = state.standardiser
    if plan.groups is not None:
        standardiser = standardiser.of(plan.groups[index // per_clip])
    x = standardiser.apply(found.astype(jnp.float32))
    key = jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step)
    count = jnp.sum(mask)
    if settings.augment:
        x = settings.augment(plan.augment, jax.random.fold_in(key, 1), x, count)

    known = ()
    if plan.labels is not None:
        known = (plan.labels[index // per_clip], count)

    def mean_loss(params: Any) -> Array:
        losses = nnx.merge(graph, params, state.fixed).loss(x, key, *known)
        return jnp.sum(jnp.where(mask, losses, 0)) / count

    loss, grads = jax.value_and_grad(mean_loss)(state.params)
    updates, opt_state = OPTIMIZER.update(grads, state.opt_state)
    if settings.weight_decay:
        decay = partial(jnp.multiply, settings.weight_decay)
        updates = jax.tree.map(lambda u, p: u + decay(p), updates, state.params)
    rate = settings.rate(state.step, plan.total, plan.peak_lr)
    loss_sum = jnp.where(at == 0, 0, state.loss_sum) + loss * count
    mean = loss_sum / plan.n_examples
    new = state._replace(
        step=state.step + 1,
        loss_sum=loss_sum,
        epoch_loss=jnp.where(at == plan.n_steps - 1, mean, state.epoch_loss),
        params=jax.tree.map(lambda p, update: p - rate * update, state.params, updates),
        opt_state=opt_state,
    )
    finite = jnp.isfinite(loss)
    running = state.alive & (state.step < plan.total)
    state = jax.tree.map(partial(jnp.where, running & finite), new, state)
    return state._replace(alive=state.alive & (finite | ~running))


def batch_of(
    batch_size: int, per_clip: int, key: Array, step: Array, plan: Plan
) -> tuple[Int[Array, " batch"], Bool[Array, " batch"]]:
    """Examples of a run's next batch, and which of them aren't padding."""
    n_devices = get_abstract_mesh().shape.get(DATA, 1)
    batch = jnp.arange(-(-batch_size // n_devices) * n_devices)
    epoch, at = step // plan.n_steps, step % plan.n_steps
    position = at * batch_size + batch
    mask = (batch < batch_size) & (position < plan.n_examples)
    position = jnp.where(mask, position, 0)
    index = permute(key, epoch, plan.n_examples, position)
    index = plan.clips[index // per_clip] * per_clip + index % per_clip
    if n_devices > 1:
        index, mask = lax.with_sharding_constraint((index, mask), P(DATA))
    return index, mask


@cache
def compile_order(batch_size: int, per_clip: int) -> Callable[..., Array]:
    """A function (keys, step, plan) -> examples [run, batch] of a step."""
    return jax.jit(
        jax.vmap(
            lambda *of: batch_of(batch_size, per_clip, *of)[0], in_axes=(0, None, 0)
        )
    )


def group_size(mesh: Mesh, n_runs: int) -> int:
    """Runs that a device steps together: all; a CPU one, whose state fits its cache."""
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return 1 if on_cpu else -(-n_runs // mesh.shape[RUN])


def _over_rows(mesh: Mesh, *shared: P) -> Callable[..., Any]:
    """Decorator: each row of the mesh has its share of the states and plans."""
    return partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(RUN), P(RUN), *shared),
        out_specs=P(RUN),
        axis_names={RUN},
    )


@cache
def compile_steps(
    graph: nnx.GraphDef, windows: Windows, settings: Settings, mesh: Mesh, group: int
) -> Callable[..., TrainState]:
    """A function (state, plan, features, n) -> state after n steps, in one dispatch.

    The state is donated. `group` divides the runs of a device.
    """
    one = partial(one_step, graph, windows, settings)
    step = one if group == 1 else jax.vmap(one, in_axes=(0, 0, None))

    @partial(jax.jit, donate_argnums=0)
    @_over_rows(mesh, P(), P())
    def steps(state: TrainState, plan: Plan, features: Features, n: Array) -> Any:
        def step_group(i: Array, states: TrainState) -> TrainState:
            def read(leaf: Array) -> Array:
                found = lax.dynamic_slice_in_dim(leaf, i * group, group)
                return found[0] if group == 1 else found

            def write(leaf: Array, new: Array) -> Array:
                new = new[None] if group == 1 else new
                return lax.dynamic_update_slice_in_dim(leaf, new, i * group, 0)

            state, todo = jax.tree.map(read, (states, plan))
            # A dynamic trip count: nothing is compiled again, and runs that are done
            # cost nothing.
            left = jnp.max(jnp.where(state.alive, todo.total - state.step, 0))
            state = lax.fori_loop(
                0, jnp.minimum(n, left), lambda _, s: step(s, todo, features), state
            )
            return jax.tree.map(write, states, state)

        # Groups are updated in place: `lax.map` would copy all states.
        return lax.fori_loop(0, len(state.step) // group, step_group, state)

    return steps


@cache
def compile_validation(
    graph: nnx.GraphDef, windows: Windows, mesh: Mesh, group: int
) -> Callable[..., Float32[Array, " run"]]:
    """A function (state, plan, features) -> mean loss on the validation clips.

    The noise of the loss is drawn from a fixed key. Infinite without validation clips.
    """

    @jax.jit
    @_over_rows(mesh, P())
    def validate(state: TrainState, plan: Plan, features: Features) -> Array:
        per_clip = windows.per_clip(features.shape[1])

        def of_run(run: tuple[TrainState, Plan]) -> Array:
            state, plan = run
            model = nnx.merge(graph, state.params, state.fixed)

            def of_clip(i: Array) -> Array:
                index = plan.validation[i] * per_clip + jnp.arange(per_clip)
                standardiser = state.standardiser
                if plan.held_out_groups is not None:
                    row = plan.held_out_groups[plan.validation[i]]
                    standardiser = standardiser.of(row)
                x = standardiser.apply(windows.gather(features, index))
                key, known = jax.random.fold_in(jax.random.key(0), i), ()
                if plan.held_out_labels is not None:
                    label = plan.held_out_labels[index // per_clip]
                    known = (label, per_clip)
                loss = jnp.mean(model.loss(x, key, *known))
                return jnp.where(i < plan.n_validation, loss, 0)

            total = jnp.sum(lax.map(of_clip, jnp.arange(len(plan.validation))))
            mean = total / jnp.maximum(plan.n_validation, 1)
            return jnp.where(plan.n_validation > 0, mean, jnp.inf)

        batch = group if group > 1 else None
        return lax.map(of_run, (state, plan), batch_size=batch)

    return validate
