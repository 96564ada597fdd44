"""Tables for the terminal and Markdown."""

import numpy as np
import pytest

from mimii_jax.report.tables import markdown, results_lines, results_text
from mimii_jax.results.metrics import Estimate
from mimii_jax.results.per_id import MEAN, POOLED, Row


def row(machine_id, mean=0.95375, sd=0.0123, detector="mlp_vae", note=""):
    half = (sd or 0) / np.sqrt(2)
    by_seed = np.array([mean]) if sd is None else np.array([mean - half, mean + half])
    drawn = np.repeat([mean - 0.02, mean + 0.03], 100)
    estimate = None if note else Estimate(by_seed, drawn)
    return Row(
        detector, "slider", machine_id, estimate, estimate, 100, 356, (0, 1), note
    )


def rows_of(detector, *ids, **how):
    return [row(name, detector=detector, **how) for name in (*ids, MEAN, POOLED)]


def printed(rows):
    return [" ".join(line.split()) for line in results_text(rows).splitlines()]


def test_terminal_table_has_a_line_per_detector_and_controls_come_last():
    rows = [
        *rows_of("rms_dbfs", "00", "06", sd=None),
        row("00"),
        row("06", note="only anomalous clips: no AUC"),
        row(MEAN, 1.0, 0.0),
        row(POOLED, 0.9),
        *rows_of("[bold]other", "00", "06", sd=None),
    ]
    head, *lines = printed(rows)
    assert head == "AUC 00 06 mean ±SD 95 % pAUC pooled"
    assert lines[:3] == [
        "mlp_vae .954 - 1.000 ±.000 .980-1.030 1.000 .900",
        "[bold]other .954 .954 .954 .934-.984 .954 .954",
        "rms_dbfs (control) .954 .954 .954 .934-.984 .954 .954",
    ]
    assert lines[-1] == "06: only anomalous clips: no AUC"


@pytest.mark.parametrize(("width", "auc"), [(80, 0.9), (100, 1.0)])
def test_terminal_table_with_four_ids_keeps_its_width(width, auc):
    long = "transformer: all, then id 00: mahalanobis per id"
    names = ("zero_crossings", long)
    rows = [
        line
        for name in names
        for line in rows_of(name, "00", "02", "04", "06", mean=auc)
    ]
    lines = results_text(rows, width).splitlines()
    assert max(map(len, lines)) <= width
    assert sum("0 ±.012" in line for line in lines) == 2
    control = next(i for i, x in enumerate(lines) if x.startswith("zero_crossings"))
    assert " ".join(line.split("  ")[0] for line in lines[1:control]) == long


def test_of_many_ids_the_terminal_shows_the_worst():
    ids = [f"{i:02d}" for i in range(80)]
    rows = [row(name, 0.7 if name == "41" else 0.9) for name in (*ids, MEAN, POOLED)]
    head, line, *_ = printed(rows)
    assert head == "AUC worst ID mean ±SD 95 % pAUC pooled"
    assert line.startswith("mlp_vae .700 (41) .900 ±.012")


def test_markdown_table_has_a_line_per_detector():
    rows = [row("00"), row("02", note="only normal clips: no AUC"), row(MEAN, 0.7)]
    rows += [row(POOLED, 0.66)]
    controls = [row(name, 0.5, None, "rms_dbfs") for name in ("00", MEAN, POOLED)]
    assert markdown(*results_lines(rows + controls)) == (
        "| detector | AUC 00 | AUC 02 | AUC mean (95 %) | pAUC mean (95 %) "
        "| AUC pooled |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| mlp_vae | .954 ±.012 | - | .700 ±.012 (.680-.730) "
        "| .700 ±.012 (.680-.730) | .660 ±.012 |\n"
        "| rms_dbfs (control) | .500 |  | .500 (.480-.530) "
        "| .500 (.480-.530) | .500 |\n"
    )
