"""Training: many runs of one model over shared features, as one compiled program."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float32, Int

from mimii_jax.features.windows import Standardiser
from mimii_jax.train.checkpoints import Checkpoints
from mimii_jax.train.mesh import EMPTY, Layout, agree, everywhere
from mimii_jax.train.progress import Profile, Progress
from mimii_jax.train.runs import Run, Start
from mimii_jax.train.settings import Settings
from mimii_jax.train.step import (
    OPTIMIZER,
    Examples,
    Pool,
    TrainState,
    compile_steps,
    compile_validation,
)
from mimii_jax.watch import Interrupted, Watch

# Seconds of steps in one dispatch: how often the bar moves and a stop is noticed.
DISPATCH = 1.0


class Features(NamedTuple):
    """What the runs learn from.

    Attributes
    ----------
    array : f32 [shape=(shard, clip, frame, bin)]
    clips, held_out : for each run, the rows of its shard that it is trained on, and
        those of its validation loss
    standardiser : of each run
    """

    array: Float32[Array, "shard clip frame bin"]
    clips: Sequence[Int[np.ndarray, " clip"]]
    held_out: Sequence[Int[np.ndarray, " clip"]]
    standardiser: Sequence[Standardiser]


class StartError(Exception):
    """The model to begin with is not of this kind."""


def init_runs(
    build: Callable[..., Any],
    settings: Settings,
    runs: Sequence[Run],
    standardiser: Sequence[Standardiser],
) -> tuple[nnx.GraphDef, TrainState]:
    """The structure that the models share, and each run's state before its first step.

    The leaves of the state are on the host, and have the run as first axis.
    """
    graph, start = _starter(build, settings)
    start = jax.jit(start)
    states = []
    for run, own in zip(runs, standardiser, strict=True):
        state = start(np.uint32(run.seed), run.start.standardiser if run.start else own)
        for name in run.changes.keys() - settings.may_differ:
            if name not in state.fixed or isinstance(state.fixed[name], nnx.Param):
                raise ValueError(f"runs cannot differ in {name}")
            state.fixed[name][...] = jnp.float32(run.changes[name])
        if run.start:
            for part in (state.params, state.fixed):
                _begin_with(run.start, part)
        states.append(state)
    return graph, jax.tree.map(lambda *leaves: np.stack(leaves), *states)


def abstract_runs(
    build: Callable[..., Any], settings: Settings, n_runs: int, n_bins: int
) -> tuple[nnx.GraphDef, TrainState]:
    """As `init_runs`, but of the state shapes and types only: nothing is computed."""
    graph, start = _starter(build, settings)
    one = jax.eval_shape(start, np.uint32(0), Standardiser.identity(n_bins))
    return graph, jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((n_runs, *x.shape), x.dtype), one
    )


def _starter(
    build: Callable[..., Any], settings: Settings
) -> tuple[nnx.GraphDef, Callable[..., TrainState]]:
    """A model's structure, and what makes a run's state of seed and standardiser."""
    graph, *_ = settings.split(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))

    def start(seed: Array, standardiser: Standardiser) -> TrainState:
        model_key, train_key = jax.random.split(jax.random.key(seed))
        _, params, fixed = settings.split(build(rngs=nnx.Rngs(model_key)))
        return TrainState(
            step=jnp.int32(0),
            alive=jnp.bool(True),
            loss_sum=jnp.float32(0),
            epoch_loss=jnp.float32(np.inf),
            params=params,
            fixed=fixed,
            moments=OPTIMIZER.init(params),
            key=jax.random.key_data(train_key),
            standardiser=standardiser,
        )

    return graph, start


def _begin_with(start: Start, variables: Any) -> None:
    """Put the parameters of a trained model in the place of these."""
    for path, variable in nnx.to_flat_state(variables):
        if isinstance(variable, nnx.Param):
            value = start.params.get(path)
            if value is None or value.shape != variable.shape:
                there = "none" if value is None else f"the shape {value.shape}"
                raise StartError(
                    f"init_from: {'.'.join(map(str, path))} has {there} in the model "
                    f"to begin with, {variable.shape} in this one"
                )
            variable[...] = jnp.asarray(value)


def train_runs(
    build: Callable[..., Any],
    examples: Examples,
    features: Features,
    settings: Settings,
    runs: Sequence[Run],
    layout: Layout,
    checkpoints: Checkpoints | None,
    watch: Watch,
) -> tuple[nnx.GraphDef, TrainState]:
    """Train all runs at once; no run depends on what others there are.

    A run whose loss is not finite stays as it was before that step, and is not alive
    any more; the others go on.

    Parameters
    ----------
    build : makes a `Model` from random number streams `rngs` and a run's changes
    examples : what is gathered from the features as one example
    features : of all clips that any run sees
    settings : epochs, batch size, learning rate
    runs : what each has of its own
    layout : of these runs
    checkpoints : where to save, and what to go on from; None: nowhere
    watch : shows a bar per epoch and keeps its losses

    Returns
    -------
    graph, state : `nnx.merge(graph, params, fixed)` of one run is its model; the leaves
        of the state have the run as first axis

    Raises
    ------
    NonFiniteLoss : if no run is left
    Interrupted : if `watch` is told to stop; the state is saved before
    """
    per_clip = examples.per_clip(features.array.shape[2])
    pool = stack_pools(
        [
            pool_of(settings.of(run), clips, held_out, per_clip)
            for run, clips, held_out in zip(
                runs, features.clips, features.held_out, strict=True
            )
        ]
    )
    graph, state = init_runs(build, settings, runs, features.standardiser)
    step = 0
    if checkpoints:
        step, state = checkpoints.restore(state, everywhere(layout.mesh))
        if step:
            watch.say(f"goes on from {checkpoints.folder / str(step)}")
    watch.rewind(step)
    progress = Progress(runs, pool, settings.batch_size, step, watch)
    advance = compile_steps(graph, examples, settings, layout)
    validate = compile_validation(graph, examples, layout)
    state, total = layout.spread(state), pool.total
    pool = layout.spread(pool)._replace(total=layout.spread(total, empty=0))
    ends = np.unique(total).tolist()
    n = 1  # the first dispatch compiles, and is short
    profile = Profile(watch)
    while step < ends[-1]:
        epoch_end = progress.epoch_end(step)
        with progress.epoch(step), watch.patience():
            while step < epoch_end:
                n = min(n, epoch_end - step, min(e for e in ends if e > step) - step)
                profile.dispatch()
                start = time.perf_counter()
                slots = slots_in_use(layout, total, step)
                state = advance(state, pool, features.array, n, slots)
                step += n
                told = (state.step, state.alive, state.loss_sum, state.epoch_loss)
                progress.show(step, *layout.collect(told), since=start)
                n = max(1, round(n * DISPATCH / (time.perf_counter() - start)))
                due = checkpoints is not None and checkpoints.due(step)
                n, due, stop = agree(n, due, watch.stopped)
                loss = None
                if step == epoch_end:
                    start = time.perf_counter()
                    if any(map(len, features.held_out)):
                        loss = layout.collect(validate(state, pool, features.array))
                    progress.record(step, loss, since=start)
                if checkpoints and (
                    due or stop or step == ends[-1] or checkpoints.better(loss)
                ):
                    checkpoints.save(step, layout.collect(state), loss)
                if stop and step < ends[-1]:
                    raise Interrupted
    profile.stop()
    return graph, layout.collect(state)


def pool_of(settings: Settings, clips: Any, held_out: Any, per_clip: int) -> Pool:
    """What one run is to do."""
    n_examples = len(clips) * per_clip
    n_steps = -(-n_examples // settings.batch_size)
    return Pool(
        clips=clips,
        n_examples=np.array(n_examples, np.int32),
        n_steps=np.array(n_steps, np.int32),
        total=np.array(settings.epochs * n_steps, np.int32),
        peak=np.array(settings.learning_rate, np.float32),
        held_out=held_out,
        n_held_out=np.array(len(held_out), np.int32),
        augment={
            name: np.array(value, np.float32)
            for name, value in (
                settings.augment.values if settings.augment else {}
            ).items()
        },
    )


def stack_pools(pools: Sequence[Pool]) -> Pool:
    """Pools with the run as first axis; rows of clips are filled to the same length."""

    def stack(*leaves: Any) -> np.ndarray:
        length = max(np.size(leaf) for leaf in leaves)
        if np.ndim(leaves[0]):
            leaves = tuple(np.resize(leaf, length) for leaf in leaves)
        return np.stack(leaves).astype(np.asarray(leaves[0]).dtype)

    return jax.tree.map(stack, *pools)


def slots_in_use(layout: Layout, total: Int[np.ndarray, " run"], step: int) -> int:
    """Slots of a shard up to the last in which a run has steps to do."""
    going = (layout.slots != EMPTY) & (total[layout.slots] > step)
    return 1 + int(np.flatnonzero(going.any(axis=0))[-1])
