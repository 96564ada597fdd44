"""Recordings in files, as an array whose rows are read when they are needed."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int16, Shaped

Samples = Int16[np.ndarray, "clip time"]


@dataclass(frozen=True, eq=False)
class Recordings:
    """Files as an array [clip, time] of int16.

    Slices, masks and arrays of rows select files; `np.asarray`, an index or a loop read
    them.
    """

    path: Shaped[np.ndarray, " clip"]
    digest: Shaped[np.ndarray, " clip"]  # equal for files of equal samples
    length: int  # in samples, to which files are cut or padded
    sample_rate: int  # in Hz
    channel: int | str  # a number from 0, or "mean"

    def __len__(self) -> int:
        return len(self.path)

    @property
    def _how(self) -> tuple[int, int, int | str]:
        return self.length, self.sample_rate, self.channel

    @property
    def shape(self) -> tuple[int, int]:
        """Clips, samples."""
        return len(self), self.length

    def __getitem__(self, index: Any) -> Any:
        """Select rows, as an array of NumPy; a single one is read."""
        if isinstance(index, int | np.integer):
            from mimii_jax.data.audio import of_length, read_wave  # soundfile

            wave = read_wave(self.path[index], self.sample_rate, self.channel)
            return of_length(wave, self.length)
        return replace(self, path=self.path[index], digest=self.digest[index])

    def __iter__(self) -> Iterator[Int16[np.ndarray, " time"]]:
        return map(self.__getitem__, range(len(self)))

    def alike(self, other: Any) -> bool:
        """Whether files of the other are read in the same way."""
        return isinstance(other, Recordings) and self._how == other._how

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read all rows."""
        with ThreadPoolExecutor() as pool:
            rows = list(pool.map(self.__getitem__, range(len(self))))
        audio = np.stack(rows) if rows else np.empty(self.shape, np.int16)
        return audio.astype(dtype or np.int16, copy=False)


Audio = Samples | Recordings


def concatenate(parts: Sequence[Audio]) -> Audio:
    """Rows of several; if all are files of one kind, none is read."""
    first = parts[0]
    if isinstance(first, np.ndarray) or not all(map(first.alike, parts)):
        return np.concatenate([np.asarray(one) for one in parts])
    columns = {
        name: np.concatenate([getattr(one, name) for one in parts])
        for name in ("path", "digest")
    }
    return replace(first, **columns)
