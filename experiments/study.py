"""A study: its cells and its findings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cell import Cell, read_cell
from experiments.matrix import Matrix, compare, matrices, outside_matrices
from mimii_jax.report.page import Block
from mimii_jax.results.table import CONTROLS, Scores, select_split

Workdirs = Mapping[str, Path]
TUNE, REPORT = "validation", "test"
"""Splits of the test clips: a study that tunes picks on one, reports on the other."""


@dataclass(frozen=True)
class Study:
    """A question, in a file of experiments/studies.

    Attributes
    ----------
    title : a few words
    source : table or figure of a report
    cells : experiments to run
    base : row to compare the others with; "" for none
    tunes : whether it picks the best row, on the validation split
    reported : numbers of the report, by row
    extra : further blocks, from the matrix of its rows, the workdirs of its cells by
        name, and a folder for figures
    """

    title: str
    source: str
    cells: Sequence[Cell]
    base: str = ""
    tunes: bool = False
    reported: Mapping[str, str] = field(default_factory=dict)
    extra: Callable[[Matrix, Workdirs, Path], Sequence[Block]] | None = None


@dataclass(frozen=True, eq=False)
class Findings:
    """The numbers of a study.

    Attributes
    ----------
    matrices : of the training sets of a model
    rows : all other rows, on all test clips or on the split to report; None without
    tuned : those rows on the split to pick on; None if nothing is picked
    """

    matrices: Sequence[Matrix]
    rows: Matrix | None
    tuned: Matrix | None


def find(
    study: Study, workdirs: Workdirs, *, bootstrap: int, max_fpr: float
) -> list[Findings]:
    """Evaluate cells, given by name and workdir, for each machine type."""
    how = {"bootstrap": bootstrap, "max_fpr": max_fpr}
    tables = []
    for name, workdir in workdirs.items():
        table = read_cell(name, workdir)
        learned = table[~np.isin(table.detector, CONTROLS)]
        tables.append(learned if len(learned) else table)
    scores = Scores.concatenate(tables)
    return [
        _of_type(study, scores[scores.machine_type == machine_type], how)
        for machine_type in scores.machine_types
    ]


def _of_type(study: Study, scores: Scores, how: dict[str, Any]) -> Findings:
    others = outside_matrices(scores)
    rows = tuned = None
    if len(others):
        rows, *rest = (
            compare(
                select_split(others, split), scores.machine_types[0], study.base, **how
            )
            for split in ((REPORT, TUNE) if study.tunes else ("all",))
        )
        tuned = rest[0] if rest else None
    return Findings(matrices(scores, **how), rows, tuned)
