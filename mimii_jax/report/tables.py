"""Tables of results for the terminal, Markdown and the page; no JAX."""

from collections.abc import Iterable, Sequence
from math import isnan
from shutil import get_terminal_size
from textwrap import wrap

from mimii_jax.results import sections
from mimii_jax.results.metrics import MAX_FPR, Estimate
from mimii_jax.results.per_id import MEAN, POOLED, Row
from mimii_jax.results.table import CONTROLS, SPLITS, Scores
from mimii_jax.results.threshold import FalseAlarms

WIDTH = 100  # columns of the terminal's table
MOST_IDS = 6  # with more, the terminal shows the worst only
SPAN = "95 %"

Lines = tuple[list[str], list[list[str]]]  # headings, and rows of text


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
    names, *numbers = columns
    cells = [[cell.rjust(max(map(len, c))) for cell in c] for c in numbers]
    tails = ["  ".join(["", *row]) for row in zip(*cells, strict=True)]
    wrapped = [wrap(name, max(width - len(tails[0]), 12)) or [""] for name in names]
    room = max(len(part) for parts in wrapped for part in parts)
    text = []
    for (first, *rest), tail in zip(wrapped, tails, strict=True):
        text += [first.ljust(room) + tail, *rest]
    legend = "mean: over IDs, ± SD over seeds"
    if any(c[0] == SPAN for c in columns):
        legend += f"; {SPAN}: bootstrap interval over clips"
    return "\n".join([*text, legend, *notes(rows)])


def _compact(rows: Sequence[Row]) -> Lines:
    """The terminal's table: no interval but that of the mean AUC."""
    ids = _ids(rows)
    several = len(ids) > MOST_IDS
    head = ["", *(["worst ID"] if several else ids), "mean ±SD", SPAN, "pAUC", "pooled"]
    head[1] = f"AUC {head[1]}"
    lines = []
    for name, own in _by_detector(rows).items():
        metrics = {i: own[i].auc if i in own else None for i in ids}
        cells = list(map(_mean, metrics.values()))
        if several:
            known = {i: auc.mean for i, auc in metrics.items() if auc}
            worst = min(known, key=known.__getitem__, default=None)
            cells = [f"{digits(known[worst])} ({worst})" if worst else "-"]
        mean, pooled = own[MEAN], own[POOLED]
        cells += [mean_sd(mean.auc), interval(mean.auc)]
        lines.append([name, *cells, _mean(mean.pauc), _mean(pooled.auc)])
    return head, lines


def results_lines(rows: Sequence[Row]) -> Lines:
    """The page's table: a line per detector of one machine type, SDs and intervals."""
    ids = _ids(rows)
    head = ["detector", *(f"AUC {i}" for i in ids)]
    head += [f"AUC mean ({SPAN})", f"pAUC mean ({SPAN})", "AUC pooled"]
    lines = []
    for name, own in _by_detector(rows).items():
        cells = [mean_sd(own[i].auc) if i in own else "" for i in ids]
        cells += [mean_interval(own[MEAN].auc), mean_interval(own[MEAN].pauc)]
        lines.append([name, *cells, mean_sd(own[POOLED].auc)])
    return head, lines


def id_lines(rows: Iterable[Row]) -> Lines:
    """A line per ID of one detector, with intervals and numbers of clips."""
    head = ["", f"AUC ({SPAN})", f"pAUC ({SPAN})", "clips: normal + anomalous"]
    lines = []
    for row in rows:
        clips = f"{row.n_normal}+{row.n_anomalous}"
        cells = [mean_interval(row.auc), mean_interval(row.pauc), clips]
        lines.append([row.machine_id, *cells])
    return head, lines


def alarm_lines(rows: Sequence[FalseAlarms]) -> Lines:
    """A line per detector: false alarms on normal test clips, anomalies found.

    The wanted share is within the interval over clips, or it isn't.
    """
    head = [
        "",
        f"false alarms ({SPAN})",
        f"{rows[0].wanted:.1%} within",
        "anomalies found",
        "normal test clips",
    ]
    lines = []
    for row in rows:
        low, high = row.interval
        rate = f"{row.rate:.1%} ({low:.1%}-{high:.1%})"
        away = "more" if low > row.wanted else "fewer"
        within = "yes" if row.as_wanted else f"no, {away}"
        found = "-" if row.found is None else f"{row.found:.1%}"
        name = f"{row.machine_type}, {row.detector}"
        lines.append([name, rate, within, found, str(row.n_normal)])
    return head, lines


def alarms_text(rows: Sequence[FalseAlarms]) -> str:
    """`alarm_lines` for the terminal."""
    return _text("Decisions by normal clips alone", *alarm_lines(rows))


def section_lines(
    scores: Scores, decisions: sections.Decisions, max_fpr: float = MAX_FPR
) -> Lines:
    """A line per machine type and detector: the challenge's metrics since 2021."""
    head = ["", "AUC source", "AUC target", "pAUC", "official", *sections.METRICS[2:]]
    lines = []
    for detector in scores.detectors:
        of = scores.detector == detector
        table = sections.measure(scores[of], decisions[of], max_fpr)
        types = table.machine_types
        for one in [*types, *[""] * (len(types) > 1)]:
            domains = [table.rows(one, domain) for domain in sections.DOMAINS]
            aucs = [sections.harmonic(rows)[0] for rows in domains]
            _, pauc, *decided = sections.harmonic(table.rows(one))
            numbers = [*aucs, pauc, table.official(one), *decided]
            cells = ["-" if isnan(number) else digits(number) for number in numbers]
            lines.append([f"{one or 'all machine types'}, {detector}", *cells])
    return head, lines


def sections_text(
    scores: Scores, decisions: sections.Decisions, max_fpr: float = MAX_FPR
) -> str:
    """`section_lines` for the terminal."""
    title = "Sections and domains, as in the challenge: harmonic means"
    return _text(title, *section_lines(scores, decisions, max_fpr))


def _text(title: str, head: list[str], lines: list[list[str]]) -> str:
    table = [head, *lines]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    padded = [[c.ljust(w) for c, w in zip(x, widths, strict=True)] for x in table]
    return "\n".join([title, *map("  ".join, padded), ""])


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
    return [
        f"{', '.join([*ids][:MOST_IDS])}{', …' * (len(ids) > MOST_IDS)}: {note}"
        for note, ids in found.items()
    ]


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


def mean_sd(metric: Estimate | None) -> str:
    """Mean and SD over seeds, as in .954 ±.003; "-" without clips of both classes."""
    sd = metric.sd if metric else None
    return _mean(metric) + ("" if sd is None else f" ±{digits(sd)}")


def _mean(metric: Estimate | None) -> str:
    return digits(metric.mean) if metric else "-"


def interval(metric: Estimate | None) -> str:
    """Bootstrap interval, as in .910-.981; empty without one."""
    return "-".join(map(digits, (metric and metric.interval) or ()))


def mean_interval(metric: Estimate | None) -> str:
    """Mean, SD and interval, as in .954 ±.003 (.910-.981)."""
    span = interval(metric)
    return mean_sd(metric) + (f" ({span})" if span else "")


def digits(value: float) -> str:
    """Three decimals without a leading zero: .954, 1.000."""
    return f"{value:.3f}".removeprefix("0")
