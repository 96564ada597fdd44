"""Training: many runs of one model over shared features, as one compiled program."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float32, Int

from mimii_jax.checkpoints import Checkpoints
from mimii_jax.examples import Standardiser
from mimii_jax.runs import Run, Start
from mimii_jax.sharding import EMPTY, Layout, agree
from mimii_jax.step import (
    OF_SETTINGS,
    OPTIMIZER,
    Examples,
    Pool,
    Settings,
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


class NonFiniteLoss(Exception):
    """Every run diverged."""


def init_runs(
    build: Callable[..., Any],
    settings: Settings,
    runs: Sequence[Run],
    standardiser: Sequence[Standardiser],
) -> tuple[nnx.GraphDef, TrainState]:
    """The structure that the models share, and each run's state before its first step.

    The leaves of the state are on the host, and have the run as first axis.
    """
    graph, *_ = settings.split(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))

    @jax.jit
    def start(seed: Array) -> tuple[Any, Any, Any, Array]:
        model_key, train_key = jax.random.split(jax.random.key(seed))
        model = build(rngs=nnx.Rngs(model_key))
        _, params, fixed = settings.split(model)
        return params, fixed, OPTIMIZER.init(params), jax.random.key_data(train_key)

    states = []
    for run, own in zip(runs, standardiser, strict=True):
        params, fixed, moments, key = start(np.uint32(run.seed))
        for name in run.changes.keys() - OF_SETTINGS:
            if name not in fixed or isinstance(fixed[name], nnx.Param):
                raise ValueError(f"runs cannot differ in {name}")
            fixed[name][...] = jnp.float32(run.changes[name])
        if run.start:
            own = run.start.standardiser
            for part in (params, fixed):
                _begin_with(run.start, part)
        states.append(
            TrainState(
                step=np.zeros((), np.int32),
                alive=np.ones((), bool),
                loss_sum=np.zeros((), np.float32),
                epoch_loss=np.full((), np.inf, np.float32),
                params=params,
                fixed=fixed,
                moments=moments,
                key=key,
                standardiser=own,
            )
        )
    return graph, jax.tree.map(lambda *leaves: np.stack(leaves), *states)


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
    pools = [
        pool_of(settings.of(run), clips, held_out, per_clip)
        for run, clips, held_out in zip(
            runs, features.clips, features.held_out, strict=True
        )
    ]
    graph, state = init_runs(build, settings, runs, features.standardiser)
    step = 0
    if checkpoints:
        step, state = checkpoints.restore(state, layout.everywhere)
        if step:
            watch.say(f"goes on from {checkpoints.folder / str(step)}")
    watch.rewind(step)
    state, pool = layout.spread(state), layout.spread(stack_pools(pools))
    total = np.array([pool.total for pool in pools])
    pool = pool._replace(total=layout.spread(total, empty=0))
    advance = compile_steps(graph, examples, settings, layout)
    validate = compile_validation(graph, examples, layout)
    progress = _Progress(runs, pools, settings.batch_size, step, watch)
    ends = sorted({int(pool.total) for pool in pools})
    n = 1  # the first dispatch compiles, and is short
    profile = _Profile(watch)
    while step < ends[-1]:
        epoch_end = progress.epoch_end(step)
        with progress.epoch(step), watch.patience():
            while step < epoch_end:
                n = min(n, epoch_end - step, min(e for e in ends if e > step) - step)
                profile.dispatch()
                start = time.perf_counter()
                slots = _slots_in_use(layout, pools, step)
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
    progress.require_alive()
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
    )


def stack_pools(pools: Sequence[Pool]) -> Pool:
    """Pools with the run as first axis; rows of clips are filled to the same length."""

    def stack(*leaves: Any) -> np.ndarray:
        length = max(np.size(leaf) for leaf in leaves)
        if np.ndim(leaves[0]):
            leaves = tuple(np.resize(leaf, length) for leaf in leaves)
        return np.stack(leaves).astype(np.asarray(leaves[0]).dtype)

    return jax.tree.map(stack, *pools)


def _slots_in_use(layout: Layout, pools: Sequence[Pool], step: int) -> int:
    """Slots of a shard up to the last in which a run has steps to do."""
    total = np.array([pool.total for pool in pools])
    going = (layout.slots != EMPTY) & (total[layout.slots] > step)
    return 1 + int(np.flatnonzero(going.any(axis=0))[-1])


class _Profile:
    """A JAX profile of the second and third dispatch of a training; the first compiles.

    Nothing where `watch.profile` is None.
    """

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.number = 0
        self.on = False

    def dispatch(self) -> None:
        """Tell that a dispatch begins."""
        self.number += 1
        if self.watch.profile and self.number == 2:
            jax.profiler.start_trace(str(self.watch.profile))
            self.on = True
        if self.number == 4:
            self.stop()

    def stop(self) -> None:
        """Write what there is."""
        if self.on:
            jax.profiler.stop_trace()
            self.watch.say(f"profile: {self.watch.profile}")
        self.on = False


class _Progress:
    """What a training shows and records.

    An epoch here is one of the run that takes longest.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        pools: Sequence[Pool],
        batch_size: int,
        step: int,
        watch: Watch,
    ) -> None:
        self.runs = runs
        self.watch = watch
        self.batch_size = batch_size
        self.pools = stack_pools(pools)
        longest = pools[int(np.argmax(self.pools.total))]
        self.n_steps, self.total = int(longest.n_steps), int(longest.total)
        self.begun = time.perf_counter()
        self.first = self._examples(step)  # done before this process began
        self.step = step
        self.busy = 0.0
        self.to_first_step: float | None = None
        self.alive = np.ones(len(runs), bool)

    def _examples(self, step: int) -> int:
        """Examples that all runs have seen at this step."""
        p = self.pools
        step_of_run = np.minimum(step, p.total)
        epoch, at = step_of_run // p.n_steps, step_of_run % p.n_steps
        seen = np.minimum(at * self.batch_size, p.n_examples)
        return int(np.sum(epoch.astype(np.int64) * p.n_examples + seen))

    def epoch_end(self, step: int) -> int:
        """The step at which the epoch ends that goes on."""
        return (step // self.n_steps + 1) * self.n_steps

    @contextmanager
    def epoch(self, step: int) -> Iterator[None]:
        """Show a bar for the rest of this epoch."""
        name = f"epoch {step // self.n_steps + 1}/{self.total // self.n_steps}"
        examples = self._examples(self.epoch_end(step)) - self._examples(step)
        with self.watch.bar(name, examples, "windows") as self.advance:
            yield

    def show(
        self,
        step: int,
        *told: Array,
        since: float,
    ) -> None:
        """Move the bar; name the runs that have just diverged."""
        step_of_run, alive, loss_sum, self.epoch_loss = map(np.asarray, told)
        now = time.perf_counter()
        self.busy += now - since
        if self.to_first_step is None:
            self.to_first_step = now - self.begun
        for run in np.flatnonzero(self.alive & ~alive).tolist():
            self.watch.say(
                f"seed {self.runs[run].seed}: the loss is not finite at step "
                f"{step_of_run[run] + 1}; this run stays as it was, the others go on "
                "(a smaller train.learning_rate may help)"
            )
        self.alive = alive
        at = (step_of_run - 1) % self.pools.n_steps + 1
        seen = np.minimum(at * self.batch_size, self.pools.n_examples)
        loss = float(np.mean((loss_sum / seen)[alive])) if alive.any() else np.nan
        done, last = self._examples(step), self._examples(self.total)
        left = (now - self.begun) * (last - done) / max(done - self.first, 1)
        self.advance(
            done - self._examples(self.step),
            f"loss {loss:.4g}, {left:.0f} s left in all, ",
        )
        self.step = step
        self.require_alive()

    def require_alive(self) -> None:
        """NonFiniteLoss if no run is."""
        if not self.alive.any():
            seeds = ", ".join(str(run.seed) for run in self.runs)
            raise NonFiniteLoss(
                f"the loss is not finite under any seed ({seeds}): try a smaller "
                "train.learning_rate"
            )

    def record(self, step: int, held_out: Array | None, *, since: float) -> None:
        """Keep what is known at the end of an epoch."""
        now = time.perf_counter()
        self.busy += now - since
        seconds = now - self.begun
        memory = [device.memory_stats() or {} for device in jax.local_devices()]
        self.watch.record(
            epoch=step // self.n_steps,
            step=step,
            seeds=[run.seed for run in self.runs],
            train_loss=_finite(self.epoch_loss),
            validation_loss=None if held_out is None else _finite(held_out),
            seconds=round(seconds, 3),
            seconds_to_first_step=round(self.to_first_step or 0, 3),
            windows_per_second=round((self._examples(step) - self.first) / seconds),
            host_share=round(1 - self.busy / seconds, 4),
            device_bytes=max(m.get("peak_bytes_in_use", 0) for m in memory) or None,
        )


def _finite(values: Array | np.ndarray) -> list[float | None]:
    """JSON knows no infinity."""
    return [x if np.isfinite(x) else None for x in np.asarray(values).tolist()]
