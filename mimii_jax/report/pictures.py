"""Pictures of clips: their spectrograms, and what a model makes of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

COLOUR_MAP = "viridis"
ERROR_MAP = "magma"
KINDS = ("normal", "anomalous")
Pictures = dict[tuple[str, str], Float[np.ndarray, "frame bin"]]


class Examples(NamedTuple):
    """The file examples.npz: pictures by ID and kind, of every machine type."""

    seconds_per_frame: float
    frequency: Float[np.ndarray, " bin"] | None
    pictures: dict[str, Pictures]

    @classmethod
    def read(cls, path: Path) -> "Examples":
        """All that the file holds."""
        with np.load(path) as file:
            arrays = dict(file)
        seconds = float(arrays.pop("seconds_per_frame"))
        return cls(seconds, arrays.pop("frequency", None), by_type(arrays))


def by_type(arrays: dict[str, Any]) -> dict[str, Pictures]:
    """Arrays whose names are machine type, ID and kind."""
    found: dict[str, Pictures] = {}
    for name in sorted(arrays):
        machine_type, machine_id, kind = name.split("/")
        found.setdefault(machine_type, {})[machine_id, kind] = arrays[name]
    return found


def spectrogram_figures(path: Path) -> Iterator[tuple[str, Figure]]:
    """Pictures of a normal and an anomalous clip per ID, on one colour scale."""
    examples = Examples.read(path)
    for machine_type, pictures in examples.pictures.items():
        figure = _spectrograms(pictures, examples.seconds_per_frame, examples.frequency)
        figure.suptitle(f"{machine_type}: features of a normal and an anomalous clip")
        yield f"spectrograms_{machine_type}", figure


def prediction_figures(path: Path) -> Iterator[tuple[str, Figure]]:
    """For the clips of the spectrograms beside this file, the model's and the error."""
    examples = Examples.read(path.with_name("examples.npz"))
    with np.load(path) as file:
        arrays = dict(file)
    scales = {k: arrays.pop(k) for k in list(arrays) if k.endswith("/scale")}
    for machine_type, predicted in by_type(arrays).items():
        figure = _predictions(
            examples.pictures[machine_type],
            predicted,
            scales[f"{machine_type}/scale"],
            examples.seconds_per_frame,
            "amplitude" if examples.frequency is None else "dB",
        )
        figure.suptitle(f"{machine_type}: clips, what the model expects, its error")
        yield f"predictions_{machine_type}", figure


def _predictions(
    pictures: Pictures,
    predicted: Pictures,
    scale: Float[np.ndarray, " bin"],
    seconds_per_frame: float,
    unit: str,
) -> Figure:
    """A row per clip: original, prediction, squared error in units of `scale`."""
    clips = sorted(predicted, key=lambda clip: (clip[0], KINDS.index(clip[1])))
    errors = {clip: ((pictures[clip] - predicted[clip]) / scale) ** 2 for clip in clips}
    shown = np.concatenate([pictures[clip].ravel() for clip in clips])
    level = Normalize(*np.percentile(shown, [0.5, 99.9]))
    every = np.concatenate([error.ravel() for error in errors.values()])
    away = Normalize(0, max(np.nanpercentile(every, 99.5), 1e-9))
    size = (11.5, 1.9 * len(clips) + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(clips), 3, sharex=True, sharey=True, squeeze=False)
    for row, clip in zip(grid, clips, strict=True):
        machine_id, kind = clip
        mean = np.nanmean(errors[clip])
        titles = (f"id {machine_id}, {kind}", "model", f"error, mean {mean:.3g}")
        images = (pictures[clip], predicted[clip], errors[clip])
        norms = ((level, COLOUR_MAP), (level, COLOUR_MAP), (away, ERROR_MAP))
        for axes, title, image, look in zip(row, titles, images, norms, strict=True):
            axes.set_title(title, fontsize=10)
            _picture(axes, image, seconds_per_frame, *look)
        row[0].set_ylabel("bin")
    for axes in grid[-1]:
        axes.set_xlabel("time (s)")
    bars = {"aspect": 12 * len(clips), "pad": 0.02, "location": "right"}
    levels, squares = ScalarMappable(level, COLOUR_MAP), ScalarMappable(away, ERROR_MAP)
    figure.colorbar(levels, ax=grid[:, :2], label=unit, **bars)
    figure.colorbar(squares, ax=grid[:, 2:], label="squared error", **bars)
    return figure


def _spectrograms(
    pictures: Pictures,
    seconds_per_frame: float,
    frequency: Float[np.ndarray, " bin"] | None,
) -> Figure:
    """A row of pictures per ID; `frequency`, in Hz, gives the axis on the right.

    Without it the bins are samples of the wave.
    """
    ids = sorted({machine_id for machine_id, _ in pictures})
    kinds = [k for k in KINDS if any((i, k) in pictures for i in ids)]
    values = np.concatenate([picture.ravel() for picture in pictures.values()])
    scale = Normalize(*np.percentile(values, [0.5, 99.9]))
    size = (4.6 * len(kinds) + 1, 2.3 * len(ids) + 0.9)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(
        len(ids), len(kinds), sharex=True, sharey=True, squeeze=False
    )
    for row, machine_id in zip(grid, ids, strict=True):
        for axes, kind in zip(row, kinds, strict=True):
            axes.set_title(f"id {machine_id}, {kind}", fontsize=10)
            if (machine_id, kind) in pictures:
                _picture(axes, pictures[machine_id, kind], seconds_per_frame, scale)
        row[0].set_ylabel("bin" if frequency is None else "frequency bin")
        if frequency is not None:
            _kilohertz(row[-1], frequency)
    for axes in grid[-1]:
        axes.set_xlabel("time (s)")
    colours = ScalarMappable(scale, COLOUR_MAP)
    unit = "amplitude" if frequency is None else "dB"
    figure.colorbar(colours, ax=grid, label=unit, aspect=14 * len(ids), pad=0.02)
    return figure


def _picture(
    axes: Axes,
    picture: Float[np.ndarray, "frame bin"],
    seconds_per_frame: float,
    scale: Normalize,
    colours: str = COLOUR_MAP,
) -> None:
    """Time to the right, frequency upwards."""
    frames, bins = picture.shape
    axes.imshow(
        picture.T,
        origin="lower",
        aspect="auto",
        extent=(0, frames * seconds_per_frame, 0, bins),
        norm=scale,
        cmap=colours,
        interpolation="nearest",
    )


def _kilohertz(axes: Axes, frequency: Float[np.ndarray, " bin"]) -> None:
    """An axis on the right that says which frequency a bin is at."""
    bins = len(frequency)
    ticks: dict[float, str] = {}
    for hertz in (8000, 4000, 2000, 1000, 500):
        # Bin b is drawn from b to b + 1.
        place = float(np.interp(hertz, frequency, np.arange(bins) + 0.5))
        far = all(abs(place - other) > bins / 12 for other in ticks)
        if frequency[0] <= hertz <= frequency[-1] and far:
            ticks[place] = f"{hertz / 1000:g}"
    right = axes.secondary_yaxis("right")
    right.set_yticks(list(ticks), list(ticks.values()))
    right.set_ylabel("kHz")
