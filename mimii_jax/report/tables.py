"""Tables of results, for the terminal and for Markdown; no JAX."""

from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.table import Table
from rich.text import Text

from mimii_jax.results.metrics import Estimate
from mimii_jax.results.per_id import AVERAGE, POOLED, Row
from mimii_jax.results.table import NO_SEED


def results_table(rows: Sequence[Row], title: str) -> Table:
    """A table of at most 80 columns, a block per machine type and detector.

    Means over several seeds are shown with their SD; notes stand below the table.
    """
    table = Table(
        title=Text(title),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading in ("", "AUC", "95 %", "pAUC", "95 %", "clips"):
        table.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    several = len({row.machine_type for row in rows}) > 1
    for (machine_type, detector), block in groupby(rows, _block):
        lines = list(block)
        name = f"{machine_type} {detector}" if several else detector
        table.add_row(Text(name, "bold"), _seeds(lines[0]))
        for line in lines:
            table.add_row(Text(f"  {line.machine_id}"), *result_cells(line))
        table.add_section()
    notes = {_note(row, several): None for row in rows if row.note}
    if notes:
        table.caption = Text("\n".join(notes))
        table.caption_justify = "left"
    return table


def markdown_table(rows: Sequence[Row]) -> str:
    """A Markdown table, one line per machine type and detector; see `results_grid`."""
    head, lines = results_grid(rows)
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def results_grid(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and lines of text: AUC per ID, averages, pooled, for each detector.

    The averages have their 95 % interval; several seeds are shown as mean ± SD.
    """
    ids = sorted({row.machine_id for row in rows} - {AVERAGE, POOLED})
    head = ["detector", *(f"AUC {i}" for i in ids)]
    head += ["AUC average (95 %)", "pAUC average (95 %)", "AUC pooled"]
    lines = []
    several = len({row.machine_type for row in rows}) > 1
    for (machine_type, detector), block in groupby(rows, _block):
        by_id = {row.machine_id: row for row in block}
        name = f"{machine_type} {detector}" if several else detector
        cells = [mean(by_id[i].auc) if i in by_id else "" for i in ids]
        average = by_id[AVERAGE]
        for estimate in (average.auc, average.pauc):
            span = interval(estimate)
            cells.append(mean(estimate) + (f" ({span})" if span else ""))
        lines.append([name, *cells, mean(by_id[POOLED].auc)])
    return head, lines


def _block(row: Row) -> tuple[str, str]:
    return row.machine_type, row.detector


def _note(row: Row, several: bool) -> str:
    return f"{f'{row.machine_type} ' if several else ''}{row.machine_id}: {row.note}"


def _seeds(row: Row) -> str:
    """How many seeds; nothing for a detector that has none."""
    if row.seeds == (NO_SEED,):
        return ""
    return f"{len(row.seeds)} seed{'s' if len(row.seeds) > 1 else ''}"


def result_cells(row: Row) -> list[str]:
    """AUC, its interval, pAUC, its interval, and the normal + anomalous clips."""
    return [
        mean(row.auc),
        interval(row.auc),
        mean(row.pauc),
        interval(row.pauc),
        f"{row.n_normal}+{row.n_anomalous}",
    ]


def mean(estimate: Estimate | None) -> str:
    """Mean and SD over seeds, as in .954 ±.003; "-" where there is none."""
    if estimate is None:
        return "-"
    sd = "" if estimate.sd is None else f" ±{digits(estimate.sd)}"
    return digits(estimate.mean) + sd


def interval(estimate: Estimate | None) -> str:
    """The bootstrap interval, as in .910-.981; nothing without one."""
    if estimate is None or estimate.low is None or estimate.high is None:
        return ""
    return f"{digits(estimate.low)}-{digits(estimate.high)}"


def digits(value: float) -> str:
    """Three decimals without a leading zero: .954, 1.000."""
    return f"{value:.3f}".removeprefix("0")
