"""Figures of a workdir, drawn from its files only; no JAX, no display."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator
from sklearn.metrics import roc_curve

from mimii_jax import log
from mimii_jax.errors import DataError
from mimii_jax.files import make_folder, read_arrays, whole_file
from mimii_jax.report.inputs import Fields, read_metrics
from mimii_jax.results.metrics import MAX_FPR, auc
from mimii_jax.results.table import (
    CONTROLS,
    NO_SEED,
    SPLITS,
    Scores,
    csv_lines,
    read_scores,
    select_split,
)

# Okabe and Ito's colours, which the colour-blind can tell apart.
BLUE, VERMILION, GREEN, YELLOW = "#0072B2", "#D55E00", "#009E73", "#F0E442"
GREY = "#888888"
COLOURS = {
    "train": GREY,
    "test": GREEN,
    "normal": BLUE,
    "anomalous": VERMILION,
    "unlabelled": GREY,
}
KINDS = ("normal", "anomalous")
LOOKS: dict[str, dict[str, Any]] = {
    "train_loss": {"color": BLUE, "marker": ".", "markersize": 3},
    "val_loss": {"color": VERMILION, "marker": ".", "markersize": 3, "ls": "--"},
}
DOTS_PER_INCH = 120
MOST_IDS = 12  # per figure; titles say if there are more
BINS = 30
STYLE: dict[Any, Any] = {  # of matplotlib
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "figure.titlesize": 12,
    "image.interpolation": "nearest",
    "legend.frameon": False,
    "text.parse_math": False,  # a $ in a name is a $
}

Figures = Iterator[tuple[str, Figure]]  # each with the stem of its file's name


def write_figures(workdir: Path, split: str = "all") -> list[Path]:
    """Write figures/*.png, one per kind and machine type, of the sources that exist."""
    folder = workdir / "figures"
    make_folder(folder)
    sources = (
        ("clips.csv", clip_figures),
        ("examples.npz", example_figures),
        ("scores.csv", lambda path: score_figures(read_scores(path), split)),
        ("metrics.jsonl", training_figures),
    )
    written = []
    with rc_context(STYLE), log.bar("drawing", len(sources), "files") as advance:
        for source, draw in sources:
            advance(1)
            if (workdir / source).is_file():
                for name, figure in draw(workdir / source):
                    path = folder / f"{name}.png"
                    write_figure(figure, path)
                    written.append(path)
    return written


def write_figure(figure: Figure, path: Path, dpi: float = DOTS_PER_INCH) -> None:
    """Write a figure as PNG."""
    with whole_file(path) as file:
        figure.savefig(file, format="png", dpi=dpi)


def _shown(ids: Sequence[str]) -> tuple[list[str], str]:
    """The IDs to draw, and a remark for the title if they aren't all."""
    remark = f", first {MOST_IDS} of {len(ids)} IDs" if len(ids) > MOST_IDS else ""
    return list(ids[:MOST_IDS]), remark


def _legend(figure: Figure, axes: Axes, columns: int) -> None:
    """Draw a legend below all panels, with the labels of one."""
    handles = axes.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=columns)


# Clips


def clip_figures(path: Path) -> Figures:
    """Clips per ID and split; normal and anomalous test clips per ID."""
    (_, head), *lines = csv_lines(path)
    every = [dict(zip(head, line, strict=True)) for _, line in lines]
    splits = {"train": "train", "test": "test"}
    labels = {"normal": "0", "anomalous": "1", "unlabelled": "-1"}
    for machine_type in sorted({clip["machine_type"] for clip in every}):
        own = [clip for clip in every if clip["machine_type"] == machine_type]
        test = [clip for clip in own if clip["split"] == "test"]
        ids, remark = _shown(sorted({clip["machine_id"] for clip in own}))
        for name, title, clips, column, kinds in (
            ("clips", "clips", own, "split", splits),
            ("labels", "test clips", test, "label", labels),
        ):
            if not clips:
                continue
            count = Counter((clip[column], clip["machine_id"]) for clip in clips)
            bars = {kind: [count[x, i] for i in ids] for kind, x in kinds.items()}
            if not any(bars.get("unlabelled", (1,))):
                del bars["unlabelled"]
            title = f"{machine_type}: {title} per machine ID{remark}"
            yield f"{name}_{machine_type}", _bars(title, ids, bars)


def _bars(title: str, ids: list[str], series: dict[str, list[int]]) -> Figure:
    """Bars of counts side by side, each with its number."""
    figure = Figure(figsize=(max(5.0, 1.4 * len(ids) + 1), 3.6))
    axes = figure.subplots()
    width = 0.8 / len(series)
    for number, (name, counts) in enumerate(series.items()):
        places = np.arange(len(ids)) + width * (number - (len(series) - 1) / 2)
        bars = axes.bar(places, counts, 0.92 * width, label=name, color=COLOURS[name])
        axes.bar_label(bars, padding=1, fontsize=9)
    axes.set_xticks(np.arange(len(ids)), ids)
    axes.set(title=title, xlabel="machine ID", ylabel="clips")
    axes.margins(y=0.12)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    _legend(figure, axes, len(series))
    return figure


# A normal and an anomalous clip of each ID

EXAMPLE = re.compile(r"(.+)/(.+)/(normal|anomalous)/(.+)")  # type, ID, kind, array
Examples = dict[tuple[str, str], dict[str, np.ndarray]]  # by ID and kind


class Scale(NamedTuple):
    """Axes of features."""

    seconds_per_frame: float
    frequency: Float[np.ndarray, " bin"] | None  # in Hz; None for samples of the wave

    @property
    def unit(self) -> str:
        """Unit of a feature."""
        return "amplitude" if self.frequency is None else "dB"


def example_figures(path: Path) -> Figures:
    """Features of the example clips; expected features and errors, if explained."""
    arrays = read_arrays(path)
    try:
        seconds = float(arrays.pop("seconds_per_frame"))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a file of examples: {error}") from None
    scale = Scale(seconds, arrays.pop("frequency", None))
    types: dict[str, Examples] = {}
    names = [found for name in arrays if (found := EXAMPLE.fullmatch(name))]
    for name in sorted(names, key=lambda m: (m[1], m[2], KINDS.index(m[3]))):
        clip = types.setdefault(name[1], {}).setdefault((name[2], name[3]), {})
        clip[name[4]] = arrays[name[0]]
    for machine_type, every in types.items():
        ids, remark = _shown(sorted({machine_id for machine_id, _ in every}))
        clips = {clip: x for clip, x in every.items() if clip[0] in ids}
        explained = {clip: x for clip, x in clips.items() if "expected" in x}
        for name, draw, drawn, title in (
            ("spectrograms", _spectrograms, clips, "features of example clips"),
            ("predictions", _predictions, explained, "expected features and errors"),
            ("tracks", _tracks, explained, "squared error along the example clips"),
        ):
            if drawn:
                figure = draw(drawn, scale)
                figure.suptitle(f"{machine_type}: {title}{remark}")
                yield f"{name}_{machine_type}", figure


def _spectrograms(clips: Examples, scale: Scale) -> Figure:
    """A row of features per ID on one colour scale, kHz on the right."""
    ids = sorted({machine_id for machine_id, _ in clips})
    kinds = [k for k in KINDS if any((i, k) in clips for i in ids)]
    levels = _levels(clips)
    shown = {clip: x["features"] for clip, x in clips.items()}
    rows = [[(f"id {i}, {k}", shown.get((i, k)), levels) for k in kinds] for i in ids]
    figure, grid = _images(rows, scale, 4.6 * len(kinds) + 1, 2.3)
    if scale.frequency is not None:
        hertz, bins = scale.frequency, np.arange(len(scale.frequency))
        ticks = [khz for khz in (1, 2, 4, 8) if hertz[0] <= 1000 * khz <= hertz[-1]]
        # Bin b is drawn from b to b + 1.
        places = np.interp([1000 * khz for khz in ticks], hertz, bins + 0.5)
        for row in grid:
            right = row[-1].secondary_yaxis("right")
            right.set_yticks(places, list(map(str, ticks)))
            right.set_ylabel("kHz")
    figure.colorbar(levels, ax=grid, label=scale.unit, aspect=14 * len(ids), pad=0.02)
    return figure


def _predictions(clips: Examples, scale: Scale) -> Figure:
    """A row per clip: features, expected features, squared error."""
    levels = _levels(clips)
    every = np.concatenate([clip["error"].ravel() for clip in clips.values()])
    most = max(np.nanpercentile(every, 99.5), 1e-9)
    squares = ScalarMappable(Normalize(0, most), "magma")
    rows = [
        [
            (f"id {machine_id}, {kind}", clip["features"], levels),
            ("expected", clip["expected"], levels),
            (f"error, mean {np.nanmean(clip['error']):.3g}", clip["error"], squares),
        ]
        for (machine_id, kind), clip in clips.items()
    ]
    figure, grid = _images(rows, scale, 11.5, 1.9)
    bars = {"aspect": 12 * len(clips), "pad": 0.02, "location": "right"}
    figure.colorbar(levels, ax=grid[:, :2], label=scale.unit, **bars)
    figure.colorbar(squares, ax=grid[:, 2:], label="squared error", **bars)
    return figure


def _images(
    rows: Sequence[Sequence[tuple[str, np.ndarray | None, ScalarMappable]]],
    scale: Scale,
    width: float,
    height: float,
) -> tuple[Figure, np.ndarray]:
    """Titled images [frame, bin]: time to the right, frequency upwards."""
    figure = Figure(figsize=(width, height * len(rows) + 0.9))
    shape = len(rows), len(rows[0])
    grid = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False)
    for row, panels in zip(grid, rows, strict=True):
        for axes, (title, x, colours) in zip(row, panels, strict=True):
            axes.set_title(title)
            if x is not None:
                look = {"norm": colours.norm, "cmap": colours.cmap}
                extent = (0, len(x) * scale.seconds_per_frame, 0, x.shape[1])
                axes.imshow(x.T, origin="lower", aspect="auto", extent=extent, **look)
        row[0].set_ylabel("sample" if scale.frequency is None else "bin")
    for axes in grid[-1]:
        axes.set_xlabel("time (s)")
    return figure, grid


def _tracks(clips: Examples, _: Scale) -> Figure:
    """A panel per ID: mean squared error of each segment, on one logarithmic scale."""
    ids = sorted({machine_id for machine_id, _ in clips})
    figure = Figure(figsize=(9.6, 1.7 * len(ids) + 1.1))
    panels = figure.subplots(len(ids), 1, sharex=True, sharey=True, squeeze=False)
    for axes, machine_id in zip(panels[:, 0], ids, strict=True):
        for kind in KINDS:
            clip = clips.get((machine_id, kind), {"seconds": [], "track": []})
            line = clip["seconds"], clip["track"]
            axes.semilogy(*line, color=COLOURS[kind], lw=1, label=kind)
        axes.set_ylabel(f"id {machine_id}")
    panels[-1, 0].set_xlabel("time (s)")
    shared = panels[0, 0].yaxis
    shared.set_major_locator(LogLocator(subs=(1, 2, 5)))
    shared.set_major_formatter(lambda value, _: f"{value:g}")
    shared.set_minor_locator(NullLocator())
    _legend(figure, panels[0, 0], 2)
    return figure


def _levels(clips: Examples) -> ScalarMappable:
    """One colour scale for the features of all clips."""
    values = np.concatenate([clip["features"].ravel() for clip in clips.values()])
    return ScalarMappable(Normalize(*np.percentile(values, [0.5, 99.9])), "viridis")


# Scores


def score_figures(scores: Scores, split: str = "all") -> Figures:
    """ROC curves and histograms of the IDs that have clips of both classes."""
    selected = select_split(scores, split)
    for machine_type in selected.machine_types:
        known = (selected.machine_type == machine_type) & (selected.label >= 0)
        of_type = selected[known]
        per_id = {i: of_type[of_type.machine_id == i] for i in of_type.ids}
        ids, remark = _shown([i for i, own in per_id.items() if len({*own.label}) == 2])
        if not ids:
            continue
        main = _main_detector(of_type)
        seed = min(of_type.seed[of_type.detector == main])
        first = main if seed == NO_SEED else f"{main}, seed {seed}"
        for name, draw, title in (("roc", _roc, main), ("scores", _histogram, first)):
            figure = _panels([per_id[i] for i in ids], draw)
            figure.suptitle(f"{machine_type}: {title}, {SPLITS[split]}{remark}")
            yield f"{name}_{machine_type}", figure


def _main_detector(scores: Scores) -> str:
    """The first detector that isn't a control, or else the first control."""
    return min(scores.detectors, key=lambda name: name in CONTROLS)


def _panels(per_id: list[Scores], draw: Callable[[Axes, Scores], None]) -> Figure:
    """A panel per ID, with one legend below."""
    columns = 2 if len(per_id) == 4 else min(3, len(per_id))
    rows = -(-len(per_id) // columns)
    size = (max(5.6, 3.5 * columns), 3.6 * rows + 0.9)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.1))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, of_id in zip(panels, per_id, strict=False):
        draw(axes, of_id)
    for axes in panels[len(per_id) :]:
        axes.set_axis_off()
    _legend(figure, panels[0], 2 if columns == 1 else 3)
    return figure


def _runs(
    of_id: Scores, detector: str
) -> list[tuple[Int[np.ndarray, " clip"], Float[np.ndarray, " clip"]]]:
    """Labels and scores of a detector under each seed."""
    of = of_id[of_id.detector == detector]
    return [(of.label[of.seed == seed], of.score[of.seed == seed]) for seed in of.seeds]


def _roc(axes: Axes, of_id: Scores) -> None:
    """ROC of the main detector, its mean and each seed, over those of the controls."""
    main = _main_detector(of_id)
    axes.axvspan(0, MAX_FPR, color=YELLOW, alpha=0.35, lw=0, label="region of pAUC")
    axes.plot([0, 1], [0, 1], color=GREY, lw=0.6)
    others = [name for name in CONTROLS if name in of_id.detectors and name != main]
    for detector, style in zip(others, ("-", "--", "-.", ":"), strict=False):
        fpr, tpr, _ = roc_curve(*_runs(of_id, detector)[0])
        axes.plot(fpr, tpr, style, color=GREY, lw=1, label=detector)

    runs = _runs(of_id, main)
    grid = np.linspace(0, 1, 1001)
    curves = []
    for run in runs:
        fpr, tpr, _ = roc_curve(*run)
        curves.append(np.interp(grid, fpr, tpr))
        if len(runs) > 1:
            (line,) = axes.plot(fpr, tpr, color=BLUE, lw=0.8, alpha=0.45)
            line.set_label("each seed" if len(curves) == 1 else "")
    name = f"{main}, mean" if len(runs) > 1 else main
    # From the corner: the interpolation starts at the top of a first vertical step.
    mean = np.r_[0, np.mean(curves, axis=0)]
    axes.plot(np.r_[0, grid], mean, color=BLUE, lw=2, label=name)
    whole, partial = (
        np.mean([auc(*run, limit) for run in runs]) for limit in (1.0, MAX_FPR)
    )
    axes.set_title(f"id {of_id.ids[0]}: AUC {whole:.3f}, pAUC {partial:.3f}")
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal")


def _histogram(axes: Axes, of_id: Scores) -> None:
    """Scores of normal and of anomalous clips, of the main detector's first seed."""
    label, score = _runs(of_id, _main_detector(of_id))[0]
    # A few wild clips would otherwise squeeze all others into one bar.
    lower, upper = np.percentile(score, [25, 75])
    low = max(score.min(), lower - 3 * (upper - lower))
    high = min(score.max(), upper + 3 * (upper - lower))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    for value, name in enumerate(KINDS):
        counts, _ = np.histogram(np.clip(score[label == value], low, high), edges)
        share = 100 * counts / counts.sum()
        axes.stairs(share, edges, fill=True, color=COLOURS[name], alpha=0.3)
        axes.stairs(share, edges, color=COLOURS[name], lw=1.4, label=name)
    axes.set_title(f"id {of_id.ids[0]}")
    axes.set_xlabel("anomaly score (end bars: and beyond)", fontsize=9)
    axes.set_ylabel("% of the clips of each kind", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(5))


# Training


def training_figures(path: Path) -> Figures:
    """Loss of each seed over the epochs."""
    for stage, rows in sorted(read_metrics(path).items()):
        # Epochs that a resumed training repeats count once.
        figure = _training_curve({row["epoch"]: row for row in rows})
        figure.suptitle(f"{stage.replace('_', ' ')}: training")
        yield f"training_{stage}", figure


def _training_curve(epochs: dict[int, Fields]) -> Figure:
    """All epochs, and the later half alone, which looks flat beside the first ones."""
    figure = Figure(figsize=(9.6, 4.0))
    half = sorted(epochs)[len(epochs) // 2]
    panels = figure.subplots(1, 2)
    for axes, first in zip(panels, (0, half), strict=True):
        for field, look in LOOKS.items():
            known = {e: row[field] for e, row in epochs.items() if row.get(field)}
            shown = [epoch for epoch in known if epoch >= first]
            if shown:
                loss = np.array([known[epoch] for epoch in shown], float)
                lines = axes.plot(shown, loss, **look)  # [epoch, seed]
                lines[0].set_label(f"{field.removesuffix('_loss')}, a line per seed")
        title = f"from epoch {half}" if first else "all epochs"
        axes.set(title=title, xlabel="epoch", ylabel="loss")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _legend(figure, panels[0], 2)
    return figure
