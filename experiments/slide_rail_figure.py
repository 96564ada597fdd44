"""Log-mel spectrograms of simulated slide rails, and of real ones beside them."""

from pathlib import Path

import librosa
import numpy as np
from jaxtyping import Int16
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mimii_jax.data import dcase
from mimii_jax.data.clips import ANOMALOUS, NORMAL, Clips
from mimii_jax.report.figures import write_figure

_COLUMNS = 4


def draw(test: Clips, real: Path | None, path: Path) -> None:
    """A row per machine ID: a normal clip, then anomalous ones; real id 00 on top."""
    rows = [("simulated", test, machine_id) for machine_id in test.ids]
    if real:
        clips = dcase.read(real, "slider", ("00",)).test
        rows.insert(0, ("REAL", clips, "00"))
    figure = Figure(figsize=(12, 2.1 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), _COLUMNS, sharex=True, sharey=True, squeeze=False)
    for axes, (source, clips, machine_id) in zip(grid, rows, strict=True):
        of = clips[clips.machine_id == machine_id]
        picks = [
            np.flatnonzero(of.label == NORMAL)[0],
            *np.flatnonzero(of.label == ANOMALOUS)[: _COLUMNS - 1],
        ]
        for axis, row in zip(axes, picks, strict=False):
            _spectrogram(axis, of.audio[row])
            kind = "anomalous" if of.label[row] == ANOMALOUS else "normal"
            axis.set_title(f"{source}, id {machine_id}, {kind}", fontsize=8)
        for axis in axes[len(picks) :]:
            axis.axis("off")
    for axis in grid[-1]:
        axis.set_xlabel("time, s")
    for axis in grid[:, 0]:
        axis.set_ylabel("mel band")
    write_figure(figure, path, dpi=55)


def _spectrogram(axis: Axes, audio: Int16[np.ndarray, " time"]) -> None:
    mel = librosa.feature.melspectrogram(
        y=audio.astype(np.float32) / 32768, sr=16_000, n_fft=1024, hop_length=512
    )
    # Pairs of mel bands and of frames averaged: half as fine, a small file.
    pairs = mel[:, : mel.shape[1] // 2 * 2].reshape(64, 2, -1, 2).mean((1, 3))
    axis.imshow(
        10 * np.log10(pairs + np.finfo(np.float64).eps),
        interpolation="nearest",
        cmap=colormaps["viridis"].resampled(10),  # few colours: a small file
        origin="lower",
        aspect="auto",
        extent=(0, len(audio) / 16_000, 0, 128),
        vmin=-65,
        vmax=0,
    )
