"""What a training shows and records while it goes on, and its profile."""

import resource
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import jax
import numpy as np
from jaxtyping import Array, Float32, Int

from mimii_jax.train.runs import Run
from mimii_jax.train.step import Pool
from mimii_jax.watch import Watch


class NonFiniteLoss(Exception):
    """Every run diverged."""


class Profile:
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


class Progress:
    """What a training shows and records.

    An epoch here is one of the run that takes longest.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        pool: Pool,
        batch_size: int,
        step: int,
        watch: Watch,
    ) -> None:
        self.runs = runs
        self.watch = watch
        self.batch_size = batch_size
        self.pool = pool
        longest = np.argmax(pool.total)
        self.n_steps, self.total = int(pool.n_steps[longest]), int(pool.total[longest])
        self.begun = time.perf_counter()
        self.first = self._examples(step)  # done before this process began
        self.step = step
        self.busy = 0.0
        self.to_first_step: float | None = None
        self.alive = np.ones(len(runs), bool)

    def _examples(self, step: int) -> int:
        """Examples that all runs have seen at this step."""
        p = self.pool
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

    def show(self, step: int, *told: Array, since: float) -> None:
        """Move the bar; name the runs that have just diverged.

        Raises
        ------
        NonFiniteLoss : if no run is left
        """
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
        losses = loss_so_far(step_of_run, loss_sum, self.pool, self.batch_size)
        loss = float(np.mean(losses[alive])) if alive.any() else np.nan
        done, last = self._examples(step), self._examples(self.total)
        left = (now - self.begun) * (last - done) / max(done - self.first, 1)
        self.advance(
            done - self._examples(self.step),
            f"loss {loss:.4g}, {left:.0f} s left in all, ",
        )
        self.step = step
        if not alive.any():
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
            device_bytes=_peak_memory(),
        )


def _peak_memory() -> int:
    """The most bytes in use so far on a device; a CPU's are those of this process."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    peak = max(of.get("peak_bytes_in_use", 0) for of in stats)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return peak or unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def loss_so_far(
    step: Int[np.ndarray, " run"],
    loss_sum: Float32[np.ndarray, " run"],
    pool: Pool,
    batch_size: int,
) -> Float32[np.ndarray, " run"]:
    """Mean loss over the examples of this epoch that each run has seen."""
    at = (step - 1) % pool.n_steps + 1
    return loss_sum / np.minimum(at * batch_size, pool.n_examples)


def _finite(values: Array | np.ndarray) -> list[float | None]:
    """JSON knows no infinity."""
    return [x if np.isfinite(x) else None for x in np.asarray(values).tolist()]
