"""Checkpoints of a training: saved in the background, found again after a restart."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from mimii_jax import log
from mimii_jax.errors import DataError, require
from mimii_jax.train.mesh import wait_for_processes
from mimii_jax.train.runs import CheckpointPolicy

KEEP = 2  # latest checkpoints, beside the one of the smallest validation loss


class Checkpoints:
    """The checkpoints in one folder, named by step; each appears when it is whole."""

    def __init__(self, folder: Path, policy: CheckpointPolicy) -> None:
        self.folder = folder.absolute()
        self.policy = policy
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
        # Any: Orbax's own policies don't fit the type of its parameter.
        keep: Any = policies.AnyPreservationPolicy([policies.LatestN(KEEP), best])
        return ocp.training.Checkpointer(
            str(self.folder), preservation_policy=keep, cleanup_tmp_directories=True
        )

    @property
    def latest(self) -> int:
        """Step of the latest checkpoint; 0: none."""
        return self._manager.latest.step if self._manager.latest else 0

    def restore(self, like: Any, sharding: jax.sharding.Sharding) -> tuple[int, Any]:
        """Step and state of the latest readable checkpoint, or 0 and `like`.

        An unreadable one is renamed, with a warning. `like` gives shapes and types.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like
        )
        while step := self.latest:
            self._require_same_shapes(step, abstract)
            try:
                state = self._manager.load(step, abstract)
            except Exception as error:  # Orbax has many, for every kind of damage
                self._set_aside(step, error)
                continue
            known: list[Any] = [c.metrics for c in self._manager.checkpoints]
            self.best = min((m["loss"] for m in known if m), default=np.inf)
            self._saved_step = step
            return step, state
        return 0, like

    def _require_same_shapes(self, step: int, abstract: Any) -> None:
        """Raise ConfigError if the checkpoint is of another model or number of runs."""
        try:
            saved: Any = self._manager.metadata(step).metadata
        except Exception:  # damaged
            return
        found, expected = (
            sorted(leaf.shape for leaf in jax.tree.leaves(tree))
            for tree in (saved, abstract)
        )
        require(
            found in ([], expected),  # []: damaged
            f"{self.folder / str(step)}: checkpoint of another model or other runs; "
            "use the config and runs of its training, or another workdir",
        )

    def _set_aside(self, step: int, error: Exception) -> None:
        aside = self.folder / f"unreadable_{step}"
        reason = str(error).split("\n", 1)[0][:200]
        log.warning(
            f"{self.folder / str(step)}: unreadable checkpoint, skipped and renamed to "
            f"{aside.name} ({type(error).__name__}: {reason})"
        )
        self._manager.close()
        if jax.process_index() == 0:
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / str(step)).rename(aside)
        wait_for_processes("set aside")
        self._manager = self._open()

    def due(self, step: int) -> bool:
        """Whether the policy asks for a checkpoint now."""
        policy, minutes = self.policy, (time.monotonic() - self._saved_time) / 60
        return step - self._saved_step >= (policy.every_steps or np.inf) or minutes >= (
            policy.every_minutes or np.inf
        )

    def better(self, loss: jax.Array | None) -> bool:
        """Whether the mean validation loss over the runs is the smallest so far."""
        return loss is not None and bool(np.mean(loss) < self.best)

    def save(self, step: int, state: Any, loss: jax.Array | None) -> None:
        """Save in the background, after the save before; DataError if that failed."""
        metrics: Any = None
        if loss is not None and np.all(np.isfinite(loss)):
            metrics = {"loss": float(np.mean(loss))}
            self.best = min(self.best, metrics["loss"])
        with _save_errors(self.folder):
            self._manager.save_async(
                step, state, force=True, overwrite=True, metrics=metrics
            )
        self._saved_step, self._saved_time = step, time.monotonic()

    def close(self) -> None:
        """Wait until the last save is whole."""
        with _save_errors(self.folder):
            self._manager.close()


@contextmanager
def _save_errors(folder: Path) -> Iterator[None]:
    """Turn errors while saving, most of them wrapped by Orbax, into DataError."""
    try:
        yield
    except Exception as error:
        line = str(error).strip().split("\n", 1)[0][:300]
        if any(t in str(error) for t in ("No space left", "ENOSPC", "Disk quota")):
            line = "the disk is full; free some space and rerun to resume"
        raise DataError(
            f"{folder}: failed to save a checkpoint; earlier checkpoints are intact: "
            f"{line}"
        ) from error
