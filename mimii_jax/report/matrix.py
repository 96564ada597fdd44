"""A matrix of results as a table for the terminal, Markdown, csv and a heat map."""

import csv
import io
import re
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.table import Table
from rich.text import Text

from mimii_jax.report.tables import digits, interval, mean
from mimii_jax.results.matrix import AUC, PAUC, Matrix
from mimii_jax.results.metrics import Change

METRICS = {AUC: "AUC", PAUC: "pAUC"}
BETTER, WORSE = "▲", "▼"
LEGEND = (
    f"{BETTER} {WORSE}: more or less than the row “{{base}}” beyond noise: the paired "
    "bootstrap 95 % interval over clips excludes zero, and the sign is the same under "
    "every seed"
)


def legend(matrix: Matrix) -> str:
    """What the marks mean; nothing where there is no row to compare with."""
    if matrix.base not in matrix.rows:
        return ""
    text = LEGEND.format(base=matrix.base)
    if max(matrix.seeds.values()) == 1:
        text += "; with one seed nothing is known of the noise of training"
    return text


def mark(change: Change | None) -> str:
    """A sign for a change beyond noise; nothing for others."""
    if change is None or not change.beyond_noise:
        return ""
    return f" {BETTER if change.mean > 0 else WORSE}"


def signed(change: Change) -> str:
    """As in -.043 (-.061 to -.020)."""
    text = _signed(change.mean)
    if change.low is not None and change.high is not None:
        text += f" ({_signed(change.low)} to {_signed(change.high)})"
    return text


def _signed(value: float) -> str:
    text = digits(abs(value))
    return text if text == ".000" else ("-" if value < 0 else "+") + text


def cell(matrix: Matrix, row: str, column: str, metric: int) -> str:
    """Mean, SD and mark; "-" where there is no AUC."""
    measured = matrix.measured[row].get(column)
    if measured is None:
        return "-"
    estimate = measured.estimate(metric)
    return mean(estimate) + mark(matrix.change(row, column, metric))


def grid(
    matrix: Matrix, metric: int, reported: Mapping[str, str]
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of text; a last column for what was reported, if anything."""
    name = METRICS[metric]
    head = ["", *(f"{name} {column}" for column in matrix.columns)]
    rows = [
        [row, *(cell(matrix, row, column, metric) for column in matrix.columns)]
        for row in matrix.rows
    ]
    if metric == AUC and any(row in reported for row in matrix.rows):
        head.append("reported AUC: 00 / 02 / 04, average")
        rows = [[*cells, reported.get(cells[0], "")] for cells in rows]
    return head, rows


def forgetting_grid(matrix: Matrix) -> tuple[list[str], list[list[str]]]:
    """What fine-tuning on one ID changed there, and what it cost the others."""
    head = ["fine-tuned on", "AUC of that id (95 %)", "AUC of the others (95 %)"]
    rows = []
    for row in matrix.rows:
        if changes := matrix.forgetting(row):
            own, others = (signed(c) + mark(c) for c in changes)
            rows.append([row.split()[-1], own, others])
    return head, rows


def terminal_table(matrix: Matrix, metric: int, reported: Mapping[str, str]) -> Table:
    """A table of rich; what was reported stands below it, where 80 columns end."""
    lines = [legend(matrix)] if legend(matrix) else []
    if metric == AUC:
        lines += [
            f"reported (00 / 02 / 04, average): {row} {reported[row]}"
            for row in matrix.rows
            if row in reported
        ]
    table = Table(
        title=Text(f"{matrix.name}: {METRICS[metric]}"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption=Text("\n".join(lines)),
        caption_justify="left",
    )
    head, rows = grid(matrix, metric, {})
    if len(head) > 6:  # no room for the SD, which the files have
        rows = [[re.sub(r" ±\S+", "", text) for text in cells] for cells in rows]
    for heading in head:
        short = heading.removeprefix(f"{METRICS[metric]} ")
        table.add_column(short, justify="right" if heading else "left", no_wrap=True)
    for cells in rows:
        table.add_row(*map(Text, cells))
    return table


def markdown(matrix: Matrix, reported: Mapping[str, str]) -> str:
    """Tables of AUC, pAUC and forgetting."""
    parts = [f"## {matrix.name}"]
    for metric in METRICS:
        parts.append(_markdown_table(*grid(matrix, metric, reported)))
    head, rows = forgetting_grid(matrix)
    if rows:
        parts += ["Change of AUC by fine-tuning:", _markdown_table(head, rows)]
    if legend(matrix):
        parts.append(legend(matrix) + ".")
    return "\n\n".join(parts) + "\n"


def _markdown_table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


COLUMNS = (
    "row",
    "column",
    "metric",
    "mean",
    "sd",
    "low",
    "high",
    "seeds",
    "change",
    "change_low",
    "change_high",
    "beyond_noise",
)


def csv_text(matrix: Matrix) -> str:
    """A line per row, column and metric; empty where there is no number."""
    file = io.StringIO()
    write = csv.writer(file, lineterminator="\n").writerow
    write(COLUMNS)
    for row in matrix.rows:
        for column, measured in matrix.measured[row].items():
            for metric, name in METRICS.items():
                e, c = measured.estimate(metric), matrix.change(row, column, metric)
                numbers = [e.mean, e.sd, e.low, e.high, matrix.seeds[row]]
                if c:
                    numbers += [c.mean, c.low, c.high, int(c.beyond_noise)]
                cells = [*map(_short, numbers), "", "", "", ""][: len(COLUMNS) - 3]
                write((row, column, name, *cells))
    return file.getvalue()


def _short(value: object) -> object:
    return f"{value:.5f}" if isinstance(value, float) else value


def heat_map(matrix: Matrix, metric: int = AUC) -> Figure:
    """A picture of the means, on a scale from chance to perfect, with their marks."""
    rows, columns = matrix.rows, matrix.columns
    values = np.full((len(rows), len(columns)), np.nan)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            if measured := matrix.measured[row].get(column):
                values[i, j] = measured.estimate(metric).mean
    size = (2.4 + 0.95 * len(columns), 1.4 + 0.36 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(values, cmap="viridis", vmin=0.5, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        if np.isfinite(value):
            text = digits(value) + mark(matrix.change(rows[i], columns[j], metric))
            colour = "black" if value > 0.78 else "white"
            axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel="tested on", ylabel="trained on")
    axes.set_title(f"{matrix.name}: {METRICS[metric]}", fontsize=11)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    figure.colorbar(picture, label=METRICS[metric], extend="min")
    return figure


def interval_of(matrix: Matrix, row: str, column: str, metric: int = AUC) -> str:
    """The bootstrap 95 % interval of one cell; nothing without one."""
    measured = matrix.measured[row].get(column)
    return interval(measured.estimate(metric)) if measured else ""
