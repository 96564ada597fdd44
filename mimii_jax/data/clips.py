"""A set of recordings of one machine type, or of several, in memory."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Self

import numpy as np
from jaxtyping import Bool, Int8, Shaped

from mimii_jax.data.recordings import Audio, concatenate
from mimii_jax.errors import DataError

NORMAL, ANOMALOUS, UNKNOWN = 0, 1, -1
ALL_TYPES = "all"  # machine type of clips of several: IDs and names begin with theirs
COLUMNS = ("split", "machine_id", "label", "name", "domain")


@dataclass(frozen=True, eq=False)
class Clips:
    """Clips of equal length, one row per clip in every array."""

    audio: Audio  # i16 [clip time], full scale is 32768
    machine_id: Shaped[np.ndarray, " clip"]  # any text, such as "00"
    split: Shaped[np.ndarray, " clip"]  # "train" or "test"
    label: Int8[np.ndarray, " clip"]  # NORMAL, ANOMALOUS or UNKNOWN
    name: Shaped[np.ndarray, " clip"]  # such as "normal_id_00_00000000.wav"
    machine_type: str  # of all clips, such as "slider", or `ALL_TYPES`
    sample_rate: int  # in Hz
    # "source" or "target" in the later challenges; "" for all clips unless given
    domain: Shaped[np.ndarray, " clip"] = field(default_factory=lambda: np.array(()))

    def __post_init__(self) -> None:
        if not self.domain.size:
            object.__setattr__(self, "domain", np.full(len(self.audio), ""))

    def __len__(self) -> int:
        return len(self.audio)

    def __getitem__(self, index: np.ndarray | slice) -> Self:
        """Select clips by mask, indices or slice; a slice keeps audio as a view."""
        rows = {column: getattr(self, column)[index] for column in ("audio", *COLUMNS)}
        return replace(self, **rows)

    @property
    def train(self) -> Self:
        """The training clips."""
        return self._of_split("train")

    @property
    def test(self) -> Self:
        """The test clips."""
        return self._of_split("test")

    def _of_split(self, split: str) -> Self:
        """Select adjacent clips by a slice: a gigabyte of audio is not copied."""
        rows = np.flatnonzero(self.split == split)
        if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
            return self[rows[0] : rows[-1] + 1]
        return self[rows]

    @property
    def ids(self) -> list[str]:
        """The machine IDs that occur, sorted."""
        return sorted(set(self.machine_id.tolist()))

    def count(self, split: str, machine_id: str, label: int) -> int:
        """Number of clips of this split, machine ID and label."""
        of = (self.split == split) & (self.machine_id == machine_id)
        return int(np.sum(of & (self.label == label)))


def join_types(parts: Sequence[Clips]) -> Clips:
    """Clips of several machine types as those of one, with IDs such as "fan/00"."""
    kinds = {(one.audio.shape[1], one.sample_rate) for one in parts}
    if len(kinds) > 1:
        lengths = ", ".join(f"{o.machine_type} {o.audio.shape[1]}" for o in parts)
        raise DataError(
            f"data.machine_types: clips differ in length (samples: {lengths}); set "
            "data.seconds"
        )
    columns = {c: np.concatenate([getattr(o, c) for o in parts]) for c in COLUMNS}
    for column in ("machine_id", "name"):
        columns[column] = np.concatenate(
            [np.char.add(f"{o.machine_type}/", getattr(o, column)) for o in parts]
        )
    audio = concatenate([one.audio for one in parts])
    return Clips(audio, **columns, machine_type=ALL_TYPES, sample_rate=kinds.pop()[1])


def split_types(
    machine_type: str, *columns: Shaped[np.ndarray, " clip"]
) -> tuple[Shaped[np.ndarray, " clip"], ...]:
    """Machine type of each clip, and the columns without what `join_types` added."""
    if machine_type != ALL_TYPES:
        return np.full(len(columns[0]), machine_type), *columns
    parts = [[str(x).partition("/") for x in column] for column in columns]
    own = np.array([first for first, *_ in parts[0]], str)
    return own, *(np.array([rest for *_, rest in part], str) for part in parts)


def shuffled(names: Iterable[str]) -> list[str]:
    """Shuffle names by a hash, alike on every machine and with every NumPy."""
    return sorted(names, key=lambda name: sha256(f"0/{name}".encode()).digest())


def hold_out(
    machine_id: Shaped[np.ndarray, " clip"], fraction: float
) -> Bool[np.ndarray, " clip"]:
    """Choose a fraction in [0, 1) of each ID's clips, always the same, never all."""
    held_out = np.zeros(len(machine_id), bool)
    for value in np.unique(machine_id):
        rows = np.flatnonzero(machine_id == value)
        n = min(round(fraction * len(rows)), len(rows) - 1)
        held_out[np.random.default_rng(0).permutation(rows)[:n]] = True
    return held_out
