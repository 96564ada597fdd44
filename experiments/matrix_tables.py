"""A matrix of results as tables for terminal, Markdown, csv and page; a heat map."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise, product

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.table import Table as TerminalTable
from rich.text import Text

from experiments.matrix import METRICS, Matrix
from mimii_jax.report.page import Table
from mimii_jax.report.tables import Lines, digits, markdown, mean_sd
from mimii_jax.results.metrics import Estimate
from mimii_jax.results.per_id import MEAN

BETTER, WORSE = "▲", "▼"


def legend(matrix: Matrix) -> list[str]:
    """Meaning of the marks; empty without a row to compare with."""
    if matrix.base not in matrix.rows:
        return []
    text = (
        f"{BETTER} {WORSE}: more or less than the row “{matrix.base}” beyond noise: "
        "the paired bootstrap 95 % interval over clips excludes zero, and the sign is "
        "the same under every seed"
    )
    if max(matrix.seeds.values()) == 1:
        text += "; one seed doesn't show the noise of training"
    return [f"{text}."]


def mark(change: Estimate | None) -> str:
    """A sign for a change beyond noise; empty for others."""
    if change is None or not change.beyond_noise:
        return ""
    return f" {BETTER if change.mean > 0 else WORSE}"


def signed(change: Estimate) -> str:
    """Change and interval, as in -.043 (-.061 to -.020)."""
    span = change.interval
    text = f" ({_signed(span[0])} to {_signed(span[1])})" if span else ""
    return _signed(change.mean) + text


def _signed(value: float) -> str:
    text = digits(abs(value))
    return text if text == ".000" else ("-" if value < 0 else "+") + text


def matrix_lines(
    matrix: Matrix, metric: str, reported: Mapping[str, str] | None = None
) -> Lines:
    """Headings and rows: mean, SD and mark; a last column for reported AUC, if any."""
    head = ["", *(f"{METRICS[metric]} {column}" for column in matrix.columns)]
    known = (metric == "auc" and reported) or {}
    shown = not known.keys().isdisjoint(matrix.rows)
    head += ["reported AUC: 00 / 02 / 04, mean"] * shown
    lines = []
    for row in matrix.rows:
        at = [(row, column, metric) for column in matrix.columns]
        cells = [mean_sd(matrix.estimate(*a)) + mark(matrix.change(*a)) for a in at]
        lines.append([row, *cells, *[known.get(row, "")] * shown])
    return head, lines


def forgetting_lines(matrix: Matrix) -> Lines:
    """Change of AUC by fine-tuning on one ID, there and on the other IDs."""
    head = ["fine-tuned on", "AUC of that id (95 %)", "AUC of the others (95 %)"]
    lines = []
    for row in matrix.rows:
        if changes := matrix.forgetting(row):
            lines.append([row.split()[-1], *(signed(c) + mark(c) for c in changes)])
    return head, lines


def scoring_lines(found: Sequence[Matrix], metric: str) -> Lines:
    """By each scoring minus by the next, mean over IDs: a row per training set."""
    pairs = list(pairwise(found))
    models = [matrix.name.rpartition(", ")[0] for matrix in found]
    head = [METRICS[metric], *(f"{a} minus {b}" for a, b in pairwise(models))]
    lines = []
    for row in found[0].rows:
        own = [[one.estimate(row, MEAN, metric) for one in pair] for pair in pairs]
        changes = [a.minus(b) if a and b else None for a, b in own]
        lines.append([row, *(signed(c) + mark(c) if c else "" for c in changes)])
    return head, lines


def terminal_table(
    matrix: Matrix, metric: str, reported: Mapping[str, str]
) -> TerminalTable:
    """A table of rich; reported numbers are below it, to keep it narrow."""
    known = [row for row in matrix.rows if row in reported and metric == "auc"]
    notes = legend(matrix)
    notes += [f"reported (00 / 02 / 04, mean): {r} {reported[r]}" for r in known]
    table = TerminalTable(
        title=Text(f"{matrix.name}: {METRICS[metric]}"),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        caption=Text("\n".join(notes)),
        caption_justify="left",
    )
    head, lines = matrix_lines(matrix, metric)
    if len(head) > 6:  # no room for the SD, which the files have
        lines = [[re.sub(r" ±\S+", "", text) for text in cells] for cells in lines]
    table.add_column("", no_wrap=True)
    for heading in head[1:]:
        short = heading.removeprefix(f"{METRICS[metric]} ")
        table.add_column(short, justify="right", no_wrap=True)
    for cells in lines:
        table.add_row(*map(Text, cells))
    return table


def _tables(matrix: Matrix, reported: Mapping[str, str]) -> Iterator[tuple[str, Lines]]:
    """Titles and lines of AUC, pAUC and, after fine-tuning, forgetting."""
    for metric, name in METRICS.items():
        title = f"{matrix.name}: {name} by training set and test ID"
        yield title, matrix_lines(matrix, metric, reported)
    head, lines = forgetting_lines(matrix)
    if lines:
        yield f"{matrix.name}: change of AUC by fine-tuning on one ID", (head, lines)


def matrix_markdown(matrix: Matrix, reported: Mapping[str, str]) -> str:
    """Tables with their titles, in Markdown."""
    parts = [f"## {matrix.name}"]
    for title, lines in _tables(matrix, reported):
        parts += [f"{title}:", markdown(*lines).strip()]
    return "\n\n".join([*parts, *legend(matrix)]) + "\n"


def matrix_blocks(matrix: Matrix, reported: Mapping[str, str]) -> list[Table]:
    """Tables for a page; the first has the legend."""
    found = enumerate(_tables(matrix, reported))
    return [Table(t, *lines, legend(matrix) * (i == 0)) for i, (t, lines) in found]


COLUMNS = (
    *("row", "column", "metric", "mean", "sd", "low", "high", "seeds"),
    *("change", "change_low", "change_high", "beyond_noise"),
)


def csv_text(matrix: Matrix) -> str:
    """A line per row, column and metric; empty fields where there is no number."""
    file = io.StringIO()
    write = csv.writer(file, lineterminator="\n").writerow
    write(COLUMNS)
    for row, column, metric in product(matrix.rows, matrix.columns, METRICS):
        if e := matrix.estimate(row, column, metric):
            sd = "" if e.sd is None else f"{e.sd:.5f}"
            cells = [f"{e.mean:.5f}", sd, *_interval(e), matrix.seeds[row]]
            changes = [""] * 4
            if change := matrix.change(row, column, metric):
                noise = int(change.beyond_noise)
                changes = [f"{change.mean:.5f}", *_interval(change), noise]
            write((row, column, METRICS[metric], *cells, *changes))
    return file.getvalue()


def _interval(estimate: Estimate) -> list[str]:
    return [f"{end:.5f}" for end in estimate.interval or ()] or ["", ""]


def heat_map(matrix: Matrix, metric: str = "auc") -> Figure:
    """The means on a colour scale from chance to perfect, with their marks."""
    rows, columns = matrix.rows, matrix.columns
    found = [matrix.estimate(*at, metric) for at in product(rows, columns)]
    values = np.reshape([e.mean if e else np.nan for e in found], (len(rows), -1))
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
