"""Tables of results for the terminal, Markdown and the page; no JAX."""

from collections.abc import Iterable, Sequence
from shutil import get_terminal_size
from textwrap import wrap

from mimii_jax.results.metrics import Estimate
from mimii_jax.results.per_id import MEAN, POOLED, Row
from mimii_jax.results.table import CONTROLS, SPLITS

WIDTH = 100  # columns of the terminal's table
MOST_IDS = 6  # with more, the terminal shows the worst only
LEGEND = "mean: over IDs, ± SD over seeds"
SPAN, SPAN_LEGEND = "95 %", "; 95 %: bootstrap interval over clips"

Lines = tuple[list[str], list[list[str]]]
"""Headings, and rows of text."""


def results_report(rows: Sequence[Row], source: str = "", split: str = "all") -> str:
    """A title and a compact table for each machine type, for the terminal."""
    width = min(WIDTH, get_terminal_size((WIDTH, 24)).columns)
    texts = []
    for machine_type, of_type in by_type(rows).items():
        pooled = next(row for row in of_type if row.machine_id == POOLED)
        count = pooled.n_normal + pooled.n_anomalous
        clips = f"{count:,} {'labelled ' if pooled.note else ''}test clips"
        title = ", ".join(filter(None, [machine_type, source, clips]))
        title += "" if split == "all" else f" ({SPLITS[split]})"
        texts.append(f"\n{title}\n{results_text(of_type, width)}\n")
    return "".join(texts)


def results_text(rows: Sequence[Row], width: int = WIDTH) -> str:
    """A line per detector of one machine type: AUC per ID, mean, pAUC, pooled AUC.

    Long names are wrapped to keep within `width`; four IDs fit into 100 columns.
    """
    head, lines = _compact(rows)
    columns = [c for c in zip(head, *lines, strict=True) if any(c[1:])]  # no interval
    names, *numbers = (list(column) for column in columns)
    cells = [[cell.rjust(max(map(len, c))) for cell in c] for c in numbers]
    tails = ["  ".join(["", *row]) for row in zip(*cells, strict=True)]
    room = max(width - len(tails[0]), 12)
    wrapped = [wrap(name, room) or [""] for name in names]
    room = max(len(part) for parts in wrapped for part in parts)
    text = []
    for (first, *rest), tail in zip(wrapped, tails, strict=True):
        text += [first.ljust(room) + tail, *rest]
    legend = LEGEND + (SPAN_LEGEND if SPAN in [c[0] for c in columns] else "")
    return "\n".join([*text, legend, *notes(rows)])


def _compact(rows: Sequence[Row]) -> Lines:
    """The terminal's table: no interval but that of the mean AUC."""
    ids = _ids(rows)
    several = len(ids) > MOST_IDS
    shown = ["worst ID"] if several else ids
    head = ["", *shown, "mean ±SD", SPAN, "pAUC", "pooled"]
    head[1] = f"AUC {head[1]}"
    lines = []
    for name, own in _by_detector(rows).items():
        means = {i: own[i].auc for i in ids if i in own}
        cells = [_plain(means.get(i)) for i in ids]
        if several:
            known = {i: auc.mean for i, auc in means.items() if auc}
            worst = min(known, key=known.__getitem__, default=None)
            cells = [f"{digits(known[worst])} ({worst})" if worst else "-"]
        mean, pooled = own[MEAN], own[POOLED]
        cells += [mean_sd(mean.auc), interval(mean.auc)]
        lines.append([name, *cells, _plain(mean.pauc), _plain(pooled.auc)])
    return head, lines


def results_lines(rows: Sequence[Row]) -> Lines:
    """The page's table: a line per detector of one machine type, SDs and intervals."""
    ids = _ids(rows)
    head = ["detector", *(f"AUC {i}" for i in ids)]
    head += ["AUC mean (95 %)", "pAUC mean (95 %)", "AUC pooled"]
    lines = []
    for name, own in _by_detector(rows).items():
        cells = [mean_sd(own[i].auc) if i in own else "" for i in ids]
        cells += [mean_interval(own[MEAN].auc), mean_interval(own[MEAN].pauc)]
        lines.append([name, *cells, mean_sd(own[POOLED].auc)])
    return head, lines


def id_lines(rows: Iterable[Row]) -> Lines:
    """A line per ID of one detector, with intervals and numbers of clips."""
    head = ["", "AUC", "95 %", "pAUC", "95 %", "clips: normal + anomalous"]
    return head, [
        [
            row.machine_id,
            mean_sd(row.auc),
            interval(row.auc),
            mean_sd(row.pauc),
            interval(row.pauc),
            f"{row.n_normal}+{row.n_anomalous}",
        ]
        for row in rows
    ]


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] + ["---:"] * (len(head) - 1), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def notes(rows: Iterable[Row]) -> list[str]:
    """Notes of rows, each with the IDs that it applies to."""
    found: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.note:
            found.setdefault(row.note, {})[row.machine_id] = None
    return [f"{', '.join(_short(list(ids)))}: {note}" for note, ids in found.items()]


def by_type(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows of each machine type, in order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.machine_type, []).append(row)
    return found


def _by_detector(rows: Iterable[Row]) -> dict[str, dict[str, Row]]:
    """Rows by displayed name and ID; controls come last and are marked."""
    found: dict[str, dict[str, Row]] = {}
    for row in sorted(rows, key=lambda row: row.detector in CONTROLS):
        mark = " (control)" if row.detector in CONTROLS else ""
        found.setdefault(row.detector + mark, {})[row.machine_id] = row
    return found


def _ids(rows: Iterable[Row]) -> list[str]:
    return sorted({row.machine_id for row in rows} - {MEAN, POOLED})


def _short(names: list[str]) -> list[str]:
    return names if len(names) <= MOST_IDS else [*names[:MOST_IDS], "…"]


def mean_sd(metric: Estimate | None) -> str:
    """Mean and SD over seeds, as in .954 ±.003; "-" without clips of both classes."""
    sd = "" if metric is None or metric.sd is None else f" ±{digits(metric.sd)}"
    return _plain(metric) + sd


def _plain(metric: Estimate | None) -> str:
    return digits(metric.mean) if metric else "-"


def interval(metric: Estimate | None) -> str:
    """Bootstrap interval, as in .910-.981; empty without one."""
    if metric is None or metric.interval is None:
        return ""
    return "-".join(map(digits, metric.interval))


def mean_interval(metric: Estimate | None) -> str:
    """As in .954 ±.003 (.910-.981)."""
    span = interval(metric)
    return mean_sd(metric) + (f" ({span})" if span else "")


def digits(value: float) -> str:
    """Three decimals without a leading zero: .954, 1.000."""
    return f"{value:.3f}".removeprefix("0")
