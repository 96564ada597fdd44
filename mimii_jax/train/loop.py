"""Training: many runs of one model over shared features, as one compiled program."""

import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Float32, Int

from mimii_jax import log
from mimii_jax.errors import ConfigError
from mimii_jax.features.windows import Standardiser, Windows
from mimii_jax.train.checkpoints import Checkpoints
from mimii_jax.train.mesh import DATA, RUN, agree, put, replicated
from mimii_jax.train.records import Records
from mimii_jax.train.runs import Labels, Run, Settings
from mimii_jax.train.state import (
    Plan,
    TrainState,
    init_runs,
    make_plan,
    restore_runs,
    spread,
)
from mimii_jax.train.step import (
    compile_order,
    compile_steps,
    compile_validation,
    group_size,
)

# Seconds of steps in one dispatch: how often the bar moves and a stop is noticed.
DISPATCH = 1.0
PROFILED = 2  # dispatch, counted from 0; the first two have a single step


class Diverged(ConfigError):
    """Every run diverged."""

    exit_code = 3


class Features(NamedTuple):
    """Features on every device or in a file, and the standardiser of each run."""

    train: Float[Array, "clip frame bin"] | Records
    held_out: Float[Array, "clip frame bin"]
    standardisers: Sequence[Standardiser]
    labels: Labels | None = None  # of a model that classifies
    groups: Labels | None = None  # of standardisers that have any


def train_runs(
    build: Callable[..., Any],
    windows: Windows,
    features: Features,
    settings: Settings,
    runs: Sequence[Run],
    mesh: Mesh,
    checkpoints: Checkpoints | None = None,
    *,
    group: int | None = None,
    profile: Path | None = None,
) -> tuple[nnx.GraphDef, TrainState]:
    """Train all runs at once; no run depends on the others.

    `nnx.merge(graph, params, fixed)` is the model of one run; leaves of the state have
    the run as first axis, and are on every device. A run whose loss is not finite keeps
    its state from before; `Diverged` if none is left. After `log.stop_requested` the
    state is saved and `Interrupted` raised.
    """
    per_clip = windows.per_clip(features.train.shape[1])
    plan = make_plan(settings, runs, per_clip, features.labels, features.groups)
    graph, state = init_runs(build, settings, runs, features.standardisers)
    step = 0
    if checkpoints:
        step, state = restore_runs(checkpoints, state, mesh)
        if step:
            log.info(f"Resuming from {checkpoints.folder / str(step)}")
    log.rewind(step)
    group = group or group_size(mesh, len(runs))
    state, plans = spread(mesh, group, state, plan)
    collect = _collector(mesh, len(runs))
    advance = compile_steps(graph, windows, settings, mesh, group)
    if isinstance(features.train, Records):
        order = _order(settings.batch_size, per_clip, state, plans, mesh)
        batches = features.train.batches(order, step, int(plan.total.max()))
        advance = _fed(advance, batches, mesh)
    validate = compile_validation(graph, windows, mesh, group)
    unit = "windows" if windows.width else "clips"
    progress = Progress(runs, plan, settings.batch_size, step, unit)
    last, n = progress.last, 1  # the first dispatch compiles
    while step < last:
        epoch_end = progress.epoch_end(step)
        with progress.epoch(), log.deferred_stop():
            while step < epoch_end:
                n = min(n, epoch_end - step)
                start = time.perf_counter()
                if not progress.dispatches:
                    progress.advance(0, "compiling the training step, once, ")
                with _profiled(profile, progress.dispatches):
                    state = advance(state, plans, features.train, n)
                    metrics = jax.device_get(collect(Metrics(*state[:4])))
                step += n
                progress.show(step, metrics)
                n = max(1, round(n * DISPATCH / (time.perf_counter() - start)))
                due = checkpoints is not None and checkpoints.due(step)
                n, due, stop = agree(n, due, log.stop_requested())
                val_loss = None
                if step == epoch_end:
                    if plan.n_validation.any():
                        val_loss = collect(validate(state, plans, features.held_out))
                    progress.record(val_loss)
                if checkpoints and (
                    due or stop or step == last or checkpoints.better(val_loss)
                ):
                    checkpoints.save(step, collect(state)._asdict(), val_loss)
                if stop and step < last:
                    raise log.Interrupted
    return graph, collect(state)


def _order(
    batch_size: int, per_clip: int, state: TrainState, plan: Plan, mesh: Mesh
) -> Callable[[int], Int[np.ndarray, "run batch"]]:
    """A function step -> examples of its batches, padded for the devices of a row."""
    keys, plan = jax.device_get((state.key, plan))
    examples = compile_order(batch_size, per_clip)
    padding = (0, -batch_size % mesh.shape[DATA])

    def of_step(step: int) -> np.ndarray:
        found = np.asarray(examples(keys, step, plan))
        return np.pad(found, ((0, 0), padding), mode="edge")

    return of_step


def _fed(
    advance: Callable[..., TrainState], batches: Iterator[np.ndarray], mesh: Mesh
) -> Callable[..., TrainState]:
    """`advance` by steps whose plans bring their batches."""

    def steps(state: TrainState, plans: Plan, records: Records, n: int) -> TrainState:
        none = np.zeros((0, *records.shape[1:]), records.dtype)
        for batch in islice(batches, n):
            found = put(batch, NamedSharding(mesh, P(RUN, DATA)))
            state = advance(state, plans._replace(batch=found), none, 1)
        return state

    return steps


@cache
def _collector(mesh: Mesh, n_runs: int) -> Callable[[Any], Any]:
    """A function that puts arrays [run, ...] on every device, without padding."""
    return jax.jit(
        lambda tree: jax.tree.map(lambda leaf: leaf[:n_runs], tree),
        out_shardings=replicated(mesh),
    )


class Metrics(NamedTuple):
    """The first fields of a state, which the host reads after a dispatch."""

    step: Any
    alive: Any
    loss_sum: Any
    epoch_loss: Any


class Progress:
    """Bar, warnings and metrics rows; an epoch is one of the run with most steps."""

    def __init__(
        self, runs: Sequence[Run], plan: Plan, batch_size: int, step: int, unit: str
    ) -> None:
        self.runs, self.plan, self.batch_size, self.unit = runs, plan, batch_size, unit
        longest = np.argmax(plan.total)
        self.n_steps, self.last = int(plan.n_steps[longest]), int(plan.total[longest])
        self.start, self.to_first_step = time.perf_counter(), 0.0
        self.first = self._examples(step)  # of earlier processes
        self.step, self.dispatches = step, 0
        self.alive = np.ones(len(runs), bool)
        self.metrics: Metrics

    def _examples(self, step: int) -> int:
        """Examples that all runs have seen at this step."""
        plan = self.plan
        epoch, at = np.divmod(np.minimum(step, plan.total), plan.n_steps)
        seen = np.minimum(at * self.batch_size, plan.n_examples)
        return int(np.sum(epoch.astype(np.int64) * plan.n_examples + seen))

    def epoch_end(self, step: int) -> int:
        """The last step of the current epoch."""
        return (step // self.n_steps + 1) * self.n_steps

    @contextmanager
    def epoch(self) -> Iterator[None]:
        """Show a bar for the rest of this epoch."""
        name = f"epoch {self.step // self.n_steps + 1}/{self.last // self.n_steps}"
        examples = self._examples(self.epoch_end(self.step)) - self._examples(self.step)
        with log.bar(name, examples, self.unit) as self.advance:
            yield

    def show(self, step: int, metrics: Metrics) -> None:
        """Move the bar; warn of runs that diverged, `Diverged` if none is left."""
        seconds = time.perf_counter() - self.start
        self.to_first_step = self.to_first_step or seconds
        self.dispatches += 1
        alive = metrics.alive
        for run in np.flatnonzero(self.alive & ~alive).tolist():
            log.warning(
                f"seed {self.runs[run].seed}: the loss is not finite at step "
                f"{metrics.step[run] + 1}; this run stops there, the others continue. "
                "Try a smaller train.learning_rate"
            )
        if not alive.any():
            seeds = ", ".join(str(run.seed) for run in self.runs)
            raise Diverged(
                f"every run diverged (seeds {seeds}): try a smaller train.learning_rate"
            )
        loss = np.mean(loss_so_far(metrics, self.plan, self.batch_size)[alive])
        done, last = self._examples(step), self._examples(self.last)
        left = seconds * (last - done) / max(done - self.first, 1)
        text = f"loss {loss:.4g}, {left:.0f} s left in all, "
        self.advance(done - self._examples(self.step), text)
        self.step, self.metrics, self.alive = step, metrics, alive

    def record(self, val_loss: Array | None) -> None:
        """Write a metrics row at the end of an epoch."""
        seconds = time.perf_counter() - self.start
        done = self._examples(self.step) - self.first
        log.record(
            epoch=self.step // self.n_steps,
            step=self.step,
            seeds=[run.seed for run in self.runs],
            train_loss=_finite(self.metrics.epoch_loss),
            val_loss=None if val_loss is None else _finite(val_loss),
            seconds=round(seconds, 3),
            seconds_to_first_step=round(self.to_first_step, 3),
            examples_per_second=round(done / seconds),
            device_bytes=_peak_memory(),
        )


def loss_so_far(
    metrics: Metrics, plan: Plan, batch_size: int
) -> Float32[np.ndarray, " run"]:
    """Mean loss over the examples of this epoch that each run has seen."""
    at = (metrics.step - 1) % plan.n_steps + 1
    return metrics.loss_sum / np.minimum(at * batch_size, plan.n_examples)


@contextmanager
def _profiled(folder: Path | None, dispatch: int) -> Iterator[None]:
    """Write a JAX profile of dispatch `PROFILED` into the folder, if given."""
    if folder is None or dispatch != PROFILED:
        yield
        return
    with jax.profiler.trace(str(folder)):
        yield
    log.info(f"Profile: {folder}")


def _peak_memory() -> int:
    """Peak bytes in use on a device so far; on a CPU, of this process."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peak = max(stat.get("peak_bytes_in_use", 0) for stat in stats)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return peak or unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _finite(values: Array | np.ndarray) -> list[float | None]:
    """Replace infinity, which JSON lacks, by None."""
    return [x if np.isfinite(x) else None for x in np.asarray(values).tolist()]
