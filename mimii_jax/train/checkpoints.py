"""Checkpoints of a training: saved in the background, found again after a restart."""

import json
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from orbax.checkpoint import v1 as ocp

from mimii_jax import log
from mimii_jax.errors import DataError, require
from mimii_jax.files import file_errors
from mimii_jax.train.mesh import wait_for_processes
from mimii_jax.train.runs import CheckpointPolicy

KEEP = 2  # latest checkpoints, beside the one of the smallest validation loss
CHECKSUM = "checksum"
OPEN_FILES = 64  # with fewer, threads of TensorStore print tracebacks


class Checkpoints:
    """The checkpoints in one folder, named by step; each appears when it is whole."""

    def __init__(
        self, folder: Path, policy: CheckpointPolicy, writes: bool = True
    ) -> None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        enough = not 0 <= limit < OPEN_FILES  # below 0: no limit
        require(enough, f"ulimit -n {limit}: must be {OPEN_FILES} or more")
        self.folder = folder.absolute()
        self.policy = policy
        self.writes = writes  # False: nothing in the folder is changed
        self.best = np.inf
        self._saved_step = 0
        self._saved_time = time.monotonic()
        self._manager = self._open()

    def _open(self) -> ocp.training.Checkpointer:
        for path in sorted(self.folder.glob("[0-9]*/metrics/metrics")):
            with file_errors(path):
                content = path.read_bytes()
            try:
                json.loads(content)  # Orbax opens none of them if one is damaged
            except ValueError as error:
                self._set_aside(path.parents[1], error)
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
            str(self.folder),
            preservation_policy=keep,
            cleanup_tmp_directories=self.writes,
        )

    @property
    def latest(self) -> int:
        """Step of the latest checkpoint; 0: none."""
        return self._manager.latest.step if self._manager.latest else 0

    def restore(self, like: Any, sharding: jax.sharding.Sharding) -> tuple[int, Any]:
        """Step and state of the latest readable checkpoint, or 0 and `like`.

        A damaged one is renamed, with a warning. `like` gives shapes and types.
        """
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like
        )
        while step := self.latest:
            self._require_same_shapes(step, abstract)
            try:
                state = self._manager.load(step, abstract)
                self._require_same_bits(step, state)
            except Exception as error:  # Orbax has many, for every kind of damage
                _require_damaged(self.folder / str(step), error)
                self._manager.close()
                self._set_aside(self.folder / str(step), error)
                self._manager = self._open()
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

    def _require_same_bits(self, step: int, state: Any) -> None:
        """Raise ValueError unless the state is the one that was saved."""
        saved: Any = self._manager.metadata(step).custom_metadata
        if saved and saved.get(CHECKSUM) != _checksum(state):  # none: an older one
            raise ValueError("other bits than those that were saved")

    def _set_aside(self, path: Path, error: Exception) -> None:
        """Rename a damaged checkpoint; a command that only reads raises DataError."""
        damage = f"{path}: damaged checkpoint ({type(error).__name__}: {_line(error)})"
        if not self.writes:
            raise DataError(f"{damage}; run the training again to repair it") from error
        names = (f"unreadable_{path.name}" + f"_{i}" * (i > 1) for i in count(1))
        aside = next(p for p in map(self.folder.joinpath, names) if not p.exists())
        wait_for_processes("named")
        if jax.process_index() == 0:
            path.rename(aside)
        wait_for_processes("set aside")
        log.warning(f"{damage}, skipped and renamed to {aside.name}")

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
                step,
                state,
                force=True,
                overwrite=True,
                metrics=metrics,
                custom_metadata={CHECKSUM: _checksum(state)},
            )
        self._saved_step, self._saved_time = step, time.monotonic()

    def close(self) -> None:
        """Wait until the last save is whole."""
        with _save_errors(self.folder):
            self._manager.close()


def _checksum(state: Any) -> int:
    """Sum of all words mod 2**32, the same on any mesh; array files have none."""
    return int(_sum_words(jax.tree.leaves(state)))


@jax.jit
def _sum_words(leaves: list[Any]) -> jax.Array:
    total = jnp.uint32(0)
    for leaf in leaves:
        if leaf.dtype != bool:
            leaf = lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}")
        total += jnp.sum(leaf, dtype=jnp.uint32)
    return total


# Errors of the system, which say nothing about a checkpoint, in words of TensorStore's.
_OF_THE_SYSTEM = ("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "Too many open files")


def _require_damaged(folder: Path, error: Exception) -> None:
    """Raise DataError for a failure to read that the system explains."""
    for here, _, names in os.walk(folder, onerror=_raise):
        for name in names:
            path = Path(here, name)
            with file_errors(path), path.open("rb") as file:
                while file.read(2**24):
                    pass
    if isinstance(error, MemoryError) or any(t in str(error) for t in _OF_THE_SYSTEM):
        raise DataError(f"{folder}: can't be read now: {_line(error)}") from error


def _raise(error: OSError) -> None:
    with file_errors(error.filename):
        raise error


def _line(error: Exception) -> str:
    """First line of a message."""
    return str(error).strip().split("\n", 1)[0][:300]


@contextmanager
def _save_errors(folder: Path) -> Iterator[None]:
    """Turn errors while saving, most of them wrapped by Orbax, into DataError."""
    try:
        yield
    except Exception as error:
        line = _line(error)
        if any(t in str(error) for t in ("No space left", "ENOSPC", "Disk quota")):
            line = "the disk is full; free some space and rerun to resume"
        raise DataError(
            f"{folder}: failed to save a checkpoint; earlier checkpoints are intact: "
            f"{line}"
        ) from error
