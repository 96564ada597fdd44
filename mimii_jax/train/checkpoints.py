"""Checkpoints of a training: written while it goes on, found again when it restarts."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from mimii_jax.train.mesh import wait_for_processes
from mimii_jax.watch import Watch


class CheckpointError(Exception):
    """A checkpoint cannot be written or read; the message is for the user."""


class Checkpoints:
    """The checkpoints in one folder, each named by its step.

    The latest `keep` stay, and the one with the least loss on held-out clips. Saving
    goes on in the background; a checkpoint appears under its name when it is whole.

    Parameters
    ----------
    folder : of all checkpoints of one training
    every_steps : save when so many steps are done since the last one; 0: do not count
    every_minutes : save when so many minutes are gone; 0: do not look at the clock
    keep : > 0, latest checkpoints that stay
    watch : told what is wrong with a checkpoint
    """

    def __init__(
        self,
        folder: Path,
        *,
        every_steps: int,
        every_minutes: float,
        keep: int,
        watch: Watch,
    ) -> None:
        self.folder = folder.absolute()
        self.every_steps = every_steps
        self.every_minutes = every_minutes
        self.keep = keep
        self.watch = watch
        self.best = np.inf
        self._saved_step = 0
        self._saved_time = time.monotonic()
        self._manager = self._open()

    def _open(self) -> ocp.training.Checkpointer:
        policies = ocp.training.preservation_policies
        best = policies.BestN(
            get_metric_fn=lambda metrics: metrics["loss"],
            reverse=True,
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        # Any: Orbax's own policies do not fit the type that it asks for.
        stay: Any = policies.AnyPreservationPolicy([policies.LatestN(self.keep), best])
        return ocp.training.Checkpointer(
            str(self.folder),
            preservation_policy=stay,
            cleanup_tmp_directories=True,
        )

    def restore(self, like: Any, sharding: jax.sharding.Sharding) -> tuple[int, Any]:
        """Step and state of the latest checkpoint that can be read, or 0 and `like`.

        The arrays have the shapes and types of those of `like`.

        One that cannot be read is set aside under another name, with a warning.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like
        )
        while latest := self._manager.latest:
            try:
                state = self._manager.load(latest.step, abstract)
            except Exception as error:  # Orbax has many, for every kind of damage
                self._set_aside(latest.step, error)
                continue
            known: list[Any] = [c.metrics for c in self._manager.checkpoints]
            self.best = min((m["loss"] for m in known if m), default=np.inf)
            self._saved_step = latest.step
            return latest.step, state
        return 0, like

    def _set_aside(self, step: int, error: Exception) -> None:
        aside = self.folder / f"unreadable_{step}"
        reason = str(error).split("\n", 1)[0][:200]
        self.watch.say(
            f"warning: checkpoint {self.folder / str(step)} cannot be read and is "
            f"skipped, now {aside.name} ({type(error).__name__}: {reason})"
        )
        self._manager.close()
        if jax.process_index() == 0:
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / str(step)).rename(aside)
        wait_for_processes("set aside")
        self._manager = self._open()

    def due(self, step: int) -> bool:
        """Whether it is time to save."""
        steps, seconds = step - self._saved_step, time.monotonic() - self._saved_time
        return (0 < self.every_steps <= steps) or (
            0 < 60 * self.every_minutes <= seconds
        )

    def better(self, loss: jax.Array | None) -> bool:
        """Whether the mean validation loss over the runs is the least so far."""
        return loss is not None and bool(np.mean(loss) < self.best)

    def save(self, step: int, state: Any, loss: jax.Array | None) -> None:
        """Begin to save; waits for the save before it, and for the copy of the state.

        Raises
        ------
        CheckpointError : when the one before could not be written, as on a full disk
        """
        metrics: Any = None
        if loss is not None and np.all(np.isfinite(loss)):
            metrics = {"loss": float(np.mean(loss))}
            self.best = min(self.best, metrics["loss"])
        with _errors_in_one_line(self.folder):
            self._manager.save_async(
                step, state, force=True, overwrite=True, metrics=metrics
            )
        self._saved_step, self._saved_time = step, time.monotonic()

    def close(self) -> None:
        """Wait until the last save is whole."""
        with _errors_in_one_line(self.folder):
            self._manager.close()


@contextmanager
def _errors_in_one_line(folder: Path) -> Iterator[None]:
    """What goes wrong while saving, as a CheckpointError; Orbax wraps most of it."""
    try:
        yield
    except Exception as error:
        text = str(error)
        if "No space left" in text or "ENOSPC" in text or "Disk quota" in text:
            text = "the disk is full; make room and start the same command again"
        line = text.strip().split("\n", 1)[0][:300]
        raise CheckpointError(
            f"{folder}: cannot save a checkpoint, those before it are whole: {line}"
        ) from error
