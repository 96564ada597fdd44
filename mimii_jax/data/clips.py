"""A set of recordings of one machine type, in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np
from jaxtyping import Bool, Int8, Int16, Shaped

from mimii_jax.errors import DataError

NORMAL, ANOMALOUS, UNKNOWN = 0, 1, -1
COLUMNS = ("split", "machine_id", "label", "name", "domain")


@dataclass(frozen=True, eq=False)
class Clips:
    """Clips of equal length, one row per clip in every array.

    Attributes
    ----------
    audio : i16 [shape=(clip, time)], full scale is 32768
    machine_id : str [shape=(clip,)], two digits, such as "00"
    split : str [shape=(clip,)], "train" or "test"
    label : i8 [shape=(clip,)], NORMAL, ANOMALOUS or UNKNOWN
    name : str [shape=(clip,)], file name, such as "normal_id_00_00000000.wav"
    machine_type : str, one for all clips, such as "slider"
    sample_rate : int > 0, in Hz
    domain : str [shape=(clip,)], "source" or "target", as the later challenges have it;
        "" for all clips unless given
    """

    audio: Int16[np.ndarray, "clip time"]
    machine_id: Shaped[np.ndarray, " clip"]
    split: Shaped[np.ndarray, " clip"]
    label: Int8[np.ndarray, " clip"]
    name: Shaped[np.ndarray, " clip"]
    machine_type: str
    sample_rate: int
    domain: Shaped[np.ndarray, " clip"] = field(default_factory=lambda: np.array(()))

    def __post_init__(self) -> None:
        if not self.domain.size:
            object.__setattr__(self, "domain", np.full(len(self.audio), ""))
        for column in COLUMNS:
            if len(getattr(self, column)) != len(self.audio):
                raise ValueError(f"Clips.{column} and Clips.audio differ in length")

    def __len__(self) -> int:
        return len(self.audio)

    def __getitem__(self, index: np.ndarray | slice) -> Self:
        """Select clips by mask, indices or slice; a slice keeps audio as a view."""
        rows = {column: getattr(self, column)[index] for column in ("audio", *COLUMNS)}
        return replace(self, **rows)

    @property
    def train(self) -> Self:
        """The training clips."""
        return self[_as_slice(self.split == "train")]

    @property
    def test(self) -> Self:
        """The test clips."""
        return self[_as_slice(self.split == "test")]

    @property
    def ids(self) -> list[str]:
        """The machine IDs that occur, sorted."""
        return sorted(set(self.machine_id.tolist()))

    def count(self, split: str, machine_id: str, label: int) -> int:
        """Number of clips of this split, machine ID and label."""
        of = (self.split == split) & (self.machine_id == machine_id)
        return int(np.sum(of & (self.label == label)))


def _as_slice(mask: np.ndarray) -> np.ndarray | slice:
    """A contiguous mask as a slice, so that a gigabyte of audio is not copied."""
    rows = np.flatnonzero(mask)
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return mask


def require_ids(present: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Raise `DataError` when a wanted machine ID is not among those present."""
    missing = sorted(set(wanted) - set(present))
    if missing:
        raise DataError(
            f"{where}: no clips of id {', '.join(missing)}; "
            f"present: {', '.join(present) or 'none'}"
        )


def hold_out(
    machine_id: Shaped[np.ndarray, " clip"], fraction: float
) -> Bool[np.ndarray, " clip"]:
    """Choose a fraction of each machine ID's clips; always the same ones.

    Parameters
    ----------
    machine_id : str [shape=(clip,)]
    fraction : float in [0, 1); rounded to whole clips per ID, never all of an ID

    Returns
    -------
    held_out : bool [shape=(clip,)]
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"a held-out fraction of {fraction}: must be in [0, 1)")
    held_out = np.zeros(len(machine_id), bool)
    for value in np.unique(machine_id):
        rows = np.flatnonzero(machine_id == value)
        n = min(round(fraction * len(rows)), len(rows) - 1)
        held_out[np.random.default_rng(0).permutation(rows)[:n]] = True
    return held_out
