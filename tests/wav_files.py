"""Wav files for the tests, written by libsndfile, an encoder that is not ours."""

from pathlib import Path

import numpy as np
import soundfile

from mimii_jax.data import dcase
from mimii_jax.data.clips import Clips

RATE = 16000
LENGTH = 800


def noise(seed: int, length: int = LENGTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(-(2**15), 2**15, length, np.int16)


def put(folder: Path, name: str, data: np.ndarray | None = None, **options) -> Path:
    """Write one file by libsndfile, an encoder that is not ours."""
    folder.mkdir(parents=True, exist_ok=True)
    options = {"samplerate": RATE, "subtype": "PCM_16", "format": "WAV"} | options
    soundfile.write(folder / name, noise(0) if data is None else data, **options)
    return folder / name


def put_slider(root: Path) -> Path:
    """Folder of a slider with two IDs: 2 + 1 training clips and 3 test clips."""
    for name in (
        "normal_id_00_00000000",
        "normal_id_00_00000001",
        "normal_id_02_00000000",
    ):
        put(root / "slider" / "train", f"{name}.wav")
    for name in (
        "normal_id_00_00000000",
        "anomaly_id_00_00000000",
        "normal_id_02_00000007",
    ):
        put(root / "slider" / "test", f"{name}.wav")
    return root / "slider"


def read(slider: Path, *args, **options) -> Clips:
    return dcase.read(slider.parent, "slider", *args, **options)
