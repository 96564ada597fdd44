"""A study: cells, the question that they answer, and what their numbers say."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experiments.cell import Cell
from mimii_jax.report.page import Block
from mimii_jax.results.matrix import SEPARATOR, Matrix, compare, matrices, models
from mimii_jax.results.splits import split_part
from mimii_jax.results.table import Scores, read_scores

TUNE, REPORT = "validation", "test"
"""Parts of the test clips: a study that tunes picks on one, reports on the other."""


@dataclass(frozen=True)
class Study:
    """What a file in experiments/studies has.

    Attributes
    ----------
    title : a few words
    source : which table or figure of which report it is about
    cells : what to run
    base : the row with which the others are compared; "" for none
    tunes : whether it picks the best row, on the validation part
    reported : by row, what the report says
    extra : more to show, from the matrix of its rows and the folder for figures
    """

    title: str
    source: str
    cells: Sequence[Cell]
    base: str = ""
    tunes: bool = False
    reported: Mapping[str, str] = field(default_factory=dict)
    extra: Callable[[Matrix, Path], Sequence[Block]] | None = None


@dataclass(frozen=True, eq=False)
class Findings:
    """The numbers of a study.

    Attributes
    ----------
    scores : all rows
    matrices : of the training sets of a model
    rows : all other rows, on all test clips or on the part to report; None without
    tuned : those rows on the part to pick on; None if nothing is picked
    """

    scores: Scores
    matrices: Sequence[Matrix]
    rows: Matrix | None
    tuned: Matrix | None


def find(
    study: Study, folders: Sequence[Path], *, bootstrap: int, max_fpr: float
) -> list[Findings]:
    """What the cells in these folders found, for each machine type."""
    how = {"bootstrap": bootstrap, "max_fpr": max_fpr}
    tables = [read_scores(folder / "scores.csv") for folder in folders]
    scores = Scores.concatenate(tables)
    return [
        _of_type(study, scores[scores.machine_type == machine_type], how)
        for machine_type in scores.machine_types
    ]


def _of_type(study: Study, scores: Scores, how: dict[str, Any]) -> Findings:
    of_matrix = tuple(model + SEPARATOR for model in models(scores.detectors))
    names = scores.detector.tolist()
    others = scores[np.array([not name.startswith(of_matrix) for name in names])]
    name = scores.machine_types[0]
    rows = tuned = None
    if len(others):
        parts = (REPORT, TUNE) if study.tunes else ("all",)
        found = [
            compare(split_part(others, part, 0), name, study.base, **how)
            for part in parts
        ]
        rows, tuned = found[0], found[1] if study.tunes else None
    return Findings(scores, matrices(scores, **how), rows, tuned)
