"""The picture that explains a clip's score; no JAX, no display."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.ndimage import uniform_filter1d

from mimii_jax.report.figures import BINS, BLUE, STYLE, VERMILION, Scale, write_figure

REGION_S, REGION_BINS = 0.5, 1 / 8  # size of the framed region, in s and of all bins


def strongest_region(
    error: Float[np.ndarray, "frame bin"], seconds_per_frame: float
) -> tuple[int, int, int, int]:
    """First frame, first bin, frames and bins of the region with the largest error."""
    size = (
        min(max(1, round(REGION_S / seconds_per_frame)), error.shape[0]),
        min(max(1, round(REGION_BINS * error.shape[1])), error.shape[1]),
    )
    smooth = np.nan_to_num(error).astype(np.float64)
    for axis, n in enumerate(size):
        smooth = uniform_filter1d(smooth, n, axis, mode="constant")
    # Corners of the regions that lie within the map, which the filter centres.
    corners = [
        slice(n // 2, n // 2 + m - n + 1)
        for n, m in zip(size, error.shape, strict=True)
    ]
    inside = smooth[*corners]
    frame, bin_ = np.unravel_index(np.argmax(inside), inside.shape)
    return int(frame), int(bin_), *size


def write_picture(
    path: Path,
    title: str,
    arrays: Mapping[str, np.ndarray],
    groups: Mapping[str, float],
    scale: Scale,
    place: tuple[Float[np.ndarray, " clip"], float, float] | None,
) -> None:
    """Write a PNG: features, expected ones, error, track; bins, groups; place, pieces.

    Parameters
    ----------
    arrays : `features` [frame bin], of an explanation also `expected`, `error`
        [frame bin], `seconds`, `track` [segment], of functionals `bins` [bin]; of a
        long file `pieces` [2, piece]: start in s, score
    groups : z-score of each group of functionals; may be empty
    place : scores of normal clips, the clip's score, the threshold; None: unknown
    """
    images = [name for name in ("features", "expected", "error") if name in arrays]
    panels = [*images, *(name for name in ("track", "bins") if name in arrays)]
    panels += ["groups"] * bool(groups)
    panels += ["place"] * bool(place)
    panels += ["pieces"] * ("pieces" in arrays)
    with rc_context(STYLE):
        figure = Figure(figsize=(9.6, 1.9 * len(panels) + 0.6))
        axes = dict(
            zip(
                panels,
                figure.subplots(len(panels), 1, squeeze=False)[:, 0],
                strict=True,
            )
        )
        figure.suptitle(title)
        for name in images:
            _draw_image(axes[name], name, arrays, scale)
        if "track" in arrays:
            _draw_track(axes["track"], arrays)
            axes["track"].set_xlim(axes["features"].get_xlim())
        if "bins" in arrays:
            _draw_bins(axes["bins"], arrays["bins"], scale)
        if groups:
            bars = axes["groups"].barh(list(groups), list(groups.values()), color=BLUE)
            axes["groups"].bar_label(bars, fmt="%.1f", padding=2)
            axes["groups"].set(
                title="z-score of each group", xlabel="spreads of normal clips"
            )
        if place:
            _draw_place(axes["place"], *place)
        if "pieces" in arrays:
            axes["pieces"].plot(*arrays["pieces"], "o-", color=BLUE, lw=1)
            title = "score of each piece, the highest counts"
            axes["pieces"].set(title=title, xlabel="start of the piece (s)")
            if place:
                axes["pieces"].axhline(place[2], color="black", ls="--", lw=1)
        write_figure(figure, path)


def _draw_image(
    axes: Axes, name: str, arrays: Mapping[str, np.ndarray], scale: Scale
) -> None:
    x, error = arrays[name], name == "error"
    levels = arrays["features"]
    low, high = (
        (0, np.nanpercentile(x, 99.5)) if error else np.percentile(levels, (1, 99.5))
    )
    step = scale.seconds_per_frame
    image = axes.imshow(
        x.T,
        origin="lower",
        aspect="auto",
        extent=(0, len(x) * step, 0, x.shape[1]),
        cmap="magma" if error else None,
        vmin=low,
        vmax=max(high, low + 1e-9),
    )
    by_bins = "bins" in arrays  # of functionals
    titles = {
        "error": "distance from the expected level and SD, bins weighted by difference"
        if by_bins
        else "squared error",
        "expected": "expected: mean level of the nearest normal clips"
        if by_bins
        else "expected",
    }
    title = titles.get(name, name) + (", strongest region framed" if error else "")
    axes.set(title=title, ylabel="bin")
    axes.figure.colorbar(image, ax=axes, label="" if error else scale.unit, pad=0.01)
    if scale.frequency is not None:
        axes.set_yticks(*_khz(scale.frequency))
        axes.set_ylabel("kHz")
    if error:
        frame, bin_, n_frames, n_bins = strongest_region(x, step)
        corner = (frame * step, bin_)
        axes.add_patch(
            Rectangle(corner, n_frames * step, n_bins, fill=False, ec="white", lw=1.5)
        )


def _draw_track(axes: Axes, arrays: Mapping[str, np.ndarray]) -> None:
    seconds, track = arrays["seconds"], arrays["track"]
    axes.plot(seconds, track, color=BLUE, lw=1)
    axes.axvline(seconds[np.argmax(track)], color=VERMILION, lw=1)
    axes.set(title="mean error over time, its largest marked", xlabel="time (s)")


def _draw_bins(axes: Axes, bins: Float[np.ndarray, " bin"], scale: Scale) -> None:
    axes.fill_between(np.arange(len(bins)) + 0.5, bins, color=BLUE, alpha=0.6, lw=0)
    axes.set(
        title="difference of level and SD over time from the nearest normal clips",
        xlabel="bin",
        ylabel="SD of normal clips",
        xlim=(0, len(bins)),
    )
    if scale.frequency is not None:
        axes.set_xticks(*_khz(scale.frequency))
        axes.set_xlabel("kHz")


def _khz(frequency: Float[np.ndarray, " bin"]) -> tuple[np.ndarray, list[str]]:
    """Places and labels of frequencies on an axis of bins."""
    known = (0.5, 1, 2, 4, 8)
    khz = [k for k in known if frequency[0] <= 1000 * k <= frequency[-1]]
    bins = np.arange(len(frequency)) + 0.5
    return np.interp(1000 * np.array(khz), frequency, bins), [f"{k:g}" for k in khz]


def _draw_place(
    axes: Axes, normal: Float[np.ndarray, " clip"], score: float, limit: float
) -> None:
    axes.hist(normal, BINS, color=BLUE, alpha=0.4, label="normal clips")
    axes.axvline(limit, color="black", ls="--", lw=1, label="threshold")
    right = max(float(normal.max()), limit)
    edge = right + (right - float(normal.min()))  # beyond, normal clips would be a line
    where = f"this clip: {score:.4g}" + (", beyond this axis" if score > edge else "")
    axes.axvline(min(score, edge), color=VERMILION, lw=2, label=where)
    axes.set(title="place among normal clips", xlabel="score", ylabel="clips")
    axes.legend()
