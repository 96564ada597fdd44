"""Waves in memory -> int16 at one sampling rate, as `audio` reads files."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import soxr
from jaxtyping import Int16
from sklearn.utils.validation import check_array

from mimii_jax import log
from mimii_jax.data.audio import of_length

Wave = Int16[np.ndarray, " time"]


def as_waves(x: Any, sample_rate: int, to: int, at_least: int = 1) -> list[Wave]:
    """Check waves and resample them; `ValueError` if they can't be used.

    Parameters
    ----------
    x : int16 or floats in [-1, 1], [shape=(clip, time)], or a list of [shape=(time,)]
    sample_rate : of x, in Hz
    to : of the result, in Hz
    at_least : number of waves
    """
    if isinstance(x, list | tuple) and x and all(np.ndim(wave) == 1 for wave in x):
        rows = [check_array([wave], dtype="numeric")[0] for wave in x]
    else:
        rows = list(check_array(x, dtype="numeric", ensure_min_samples=at_least))
    for dtype in {row.dtype for row in rows}:
        if dtype != np.int16 and dtype.kind != "f":
            raise ValueError(f"waves of {dtype}: give int16, or floats in [-1, 1]")
    floats = [row for row in rows if row.dtype.kind == "f"]
    over = sum(bool(np.abs(row).max() > 1) for row in floats)
    if over:
        log.warning(
            f"{over} of {len(rows)} waves have samples outside [-1, 1], which are cut; "
            "divide them by a number, or give int16"
        )
    return [_converted(row, sample_rate, to) for row in rows]


def _converted(wave: np.ndarray, rate: int, to: int) -> Wave:
    if rate == to and wave.dtype == np.int16:
        return wave
    if wave.dtype == np.int16:
        wave = wave / np.float32(32768)
    if rate != to:
        wave = soxr.resample(wave.astype(np.float32), rate, to)
    return np.clip(np.rint(wave * 32768.0), -32768, 32767).astype(np.int16)


def of_one_length(
    waves: Sequence[Wave], length: int | None
) -> Int16[np.ndarray, "clip time"]:
    """Cut waves or pad them by their mirror image; None: the most frequent length."""
    lengths = Counter(len(wave) for wave in waves)
    n = length or lengths.most_common(1)[0][0]
    if other := len(waves) - lengths[n]:
        log.info(f"of {len(waves)} waves {other} are cut or padded to {n} samples")
    return np.stack([of_length(wave, n) for wave in waves])
