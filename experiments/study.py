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


@dataclass(frozen=True)
class Study:
    """A question, in a file of experiments/studies."""

    title: str
    source: str  # table or figure of a report
    cells: Sequence[Cell]
    base: str = ""  # row to compare the others with
    tunes: bool = False  # whether it picks the best row, on the validation split
    reported: Mapping[str, str] = field(default_factory=dict)  # numbers by row
    extra: Callable[[Matrix, Workdirs, Path], Sequence[Block]] | None = None
    """Further blocks, from the matrix of its rows, workdirs, a folder for figures."""


@dataclass(frozen=True, eq=False)
class Findings:
    """The numbers of a study on one machine type."""

    matrices: Sequence[Matrix]  # of the training sets of a model
    rows: Matrix | None  # all other rows; of a study that tunes, on the test split
    tuned: Matrix | None  # those rows on the validation split, if it tunes


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

    def rows(split: str) -> Matrix:
        selected = select_split(others, split)
        return compare(selected, scores.machine_types[0], study.base, **how)

    shown = rows("test" if study.tunes else "all") if len(others) else None
    tuned = rows("validation") if len(others) and study.tunes else None
    return Findings(matrices(scores, **how), shown, tuned)
