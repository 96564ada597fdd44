"""Figures of a workdir, drawn from its files only; no JAX, no display."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mimii_jax.report.pictures import prediction_figures, spectrogram_figures
from mimii_jax.report.score_figures import BLUE, GREEN, GREY, VERMILION, score_figures
from mimii_jax.report.track_figures import track_figures
from mimii_jax.results.splits import part_title, split_part
from mimii_jax.results.table import csv_lines, read_scores

DOTS_PER_INCH = 120
COLOURS = {
    "train": GREY,
    "test": GREEN,
    "normal": BLUE,
    "anomalous": VERMILION,
    "unlabelled": GREY,
}


def write_figures(workdir: Path, *, part: str = "all", seed: int = 0) -> list[Path]:
    """Write the figures of a workdir into its folder figures; returns their paths.

    One file per figure and machine type. A figure whose source is not there (such as
    the training curve of a detector that has none) is left out. `part` and `seed` say
    of which test clips the scores are shown, as for `split_part`.
    """
    folder = workdir / "figures"
    folder.mkdir(exist_ok=True)
    sources = (
        ("clips.csv", _clip_figures),
        ("examples.npz", spectrogram_figures),
        ("predictions.npz", prediction_figures),
        ("tracks.npz", track_figures),
        ("scores.csv", lambda path: _score_figures(path, part, seed)),
        ("metrics.jsonl", _training_figures),
    )
    written = []
    for source, draw in sources:
        if not (workdir / source).is_file():
            continue
        for name, figure in draw(workdir / source):
            path = folder / f"{name}.png"
            figure.savefig(path, dpi=DOTS_PER_INCH)
            written.append(path)
    return written


def _score_figures(path: Path, part: str, seed: int) -> Iterator[tuple[str, Figure]]:
    """ROC and histograms for this part of the test clips."""
    return score_figures(split_part(read_scores(path), part, seed), part_title(part))


def _clip_figures(path: Path) -> Iterator[tuple[str, Figure]]:
    """Clips per ID and split; normal against anomalous test clips per ID."""
    lines = [line for _, line in csv_lines(path)]
    clips = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    for machine_type in sorted({clip["machine_type"] for clip in clips}):
        of_type = [clip for clip in clips if clip["machine_type"] == machine_type]
        ids = sorted({clip["machine_id"] for clip in of_type})
        split = Counter((clip["split"], clip["machine_id"]) for clip in of_type)
        bars = {name: [split[name, i] for i in ids] for name in ("train", "test")}
        title = f"{machine_type}: clips per machine ID"
        yield f"clips_{machine_type}", _bars(title, ids, bars)

        test = [clip for clip in of_type if clip["split"] == "test"]
        label = Counter((clip["label"], clip["machine_id"]) for clip in test)
        kinds = (("normal", "0"), ("anomalous", "1"), ("unlabelled", "-1"))
        bars = {kind: [label[value, i] for i in ids] for kind, value in kinds}
        if not any(bars["unlabelled"]):
            del bars["unlabelled"]
        title = f"{machine_type}: test clips per machine ID"
        yield f"labels_{machine_type}", _bars(title, ids, bars)


def _bars(title: str, ids: list[str], series: dict[str, list[int]]) -> Figure:
    """Bars of counts side by side, each with its number."""
    figure = Figure(figsize=(max(5.0, 1.4 * len(ids) + 1), 3.6), layout="constrained")
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
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(series), frameon=False)
    return figure


def _training_figures(path: Path) -> Iterator[tuple[str, Figure]]:
    """Loss of each seed over the epochs."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    stages = [line.get("stage", line["machine_type"]) for line in lines]
    for stage in sorted(set(stages)):
        # After a resumed run the last line of an epoch holds.
        own = [x for x, of in zip(lines, stages, strict=True) if of == stage]
        figure = _training_curve({x["epoch"]: x for x in own})
        figure.suptitle(f"{stage.replace('_', ' ')}: training")
        yield f"training_{stage}", figure


def _training_curve(epochs: dict[int, dict]) -> Figure:
    """Training and validation loss, a line for each seed: all epochs, and the end.

    The first epochs often fall so far that nothing can be seen of the others.
    """
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    half = sorted(epochs)[len(epochs) // 2]
    late = {epoch: line for epoch, line in epochs.items() if epoch >= half}
    panels = {"all epochs": epochs}
    if len(late) > 1:
        panels[f"from epoch {half}"] = late
    whole, *_ = all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, shown) in zip(all_axes, panels.items(), strict=True):
        axes.set_title(title, fontsize=10)
        for field, name, *look in (
            ("train_loss", "train", BLUE, "-"),
            ("validation_loss", "validation", VERMILION, "--"),
        ):
            known = {e: line[field] for e, line in shown.items() if line.get(field)}
            if known:
                loss = np.array(list(known.values()), float)  # [epoch, seed]
                colour, style = look
                lines = axes.plot(list(known), loss, style, color=colour, lw=1.3)
                seeds = f", each of {len(lines)} seeds" if len(lines) > 1 else ""
                lines[0].set_label(name + seeds)
        axes.set(xlabel="epoch", ylabel="loss")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = whole.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure
