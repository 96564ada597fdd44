"""Results compared with one row of them: the cross-ID matrix, the cells of a study.

A row is a detector of a score table. Rows of a matrix are named "model: training set".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mimii_jax.results.metrics import Estimate, average
from mimii_jax.results.per_id import MEAN, POOLED, Row, evaluate
from mimii_jax.results.table import Scores

METRICS = {"auc": "AUC", "pauc": "pAUC"}
BASE = "all"
SEPARATOR = ": "
TUNED = "all, then id "


@dataclass(frozen=True, eq=False)
class Matrix:
    """Results by row and column, and the row that the others are compared with."""

    name: str  # such as "mlp_vae, slider"
    base: str  # row to compare with; "" for none
    results: Mapping[str, Mapping[str, Row]]  # row -> machine ID, MEAN or POOLED ->

    @property
    def rows(self) -> list[str]:
        """Names of the rows, in order."""
        return list(self.results)

    @property
    def ids(self) -> list[str]:
        """Machine IDs tested on, sorted."""
        found = {column for row in self.results.values() for column in row}
        return sorted(found - {MEAN, POOLED})

    @property
    def columns(self) -> list[str]:
        """IDs, then mean and pooled."""
        return [*self.ids, MEAN, POOLED]

    @property
    def seeds(self) -> dict[str, int]:
        """Number of seeds of each row."""
        return {name: len(row[MEAN].seeds) for name, row in self.results.items()}

    def estimate(self, row: str, column: str, metric: str = "auc") -> Estimate | None:
        """One number; None without clips of both classes."""
        found = self.results.get(row, {}).get(column)
        return getattr(found, metric) if found else None

    def change(self, row: str, column: str, metric: str = "auc") -> Estimate | None:
        """Paired change from the base row; None for itself, or without one."""
        own = self.estimate(row, column, metric)
        base = self.estimate(self.base, column, metric)
        return own.minus(base) if own and base and row != self.base else None

    def forgetting(self, row: str) -> tuple[Estimate, Estimate] | None:
        """Change of AUC by fine-tuning: of the row's ID, and of the others' mean."""
        if not row.startswith(TUNED):
            return None
        changes = {i: self.change(row, i) for i in self.ids}
        own = changes.pop(row.removeprefix(TUNED), None)
        others = [change for change in changes.values() if change]
        return (own, average(others)) if own and others else None


def compare(scores: Scores, name: str, base: str, **how: Any) -> Matrix:
    """All detectors of one machine type against one of them; `how` as in `evaluate`."""
    results: dict[str, dict[str, Row]] = {}
    for row in evaluate(scores, **how):
        results.setdefault(row.detector, {})[row.machine_id] = row
    return Matrix(name, base, results)


def matrices(scores: Scores, **how: Any) -> list[Matrix]:
    """A matrix for each machine type, model and scoring with training sets as rows."""
    found = []
    for machine_type in scores.machine_types:
        of_type = scores[scores.machine_type == machine_type]
        for model in models(of_type.detectors):
            own = of_type[np.array([_model(d) == model for d in of_type.detector])]
            short = own.renamed(lambda name: name.split(SEPARATOR)[1])
            name = SEPARATOR.join(filter(None, model))
            found.append(compare(short, f"{name}, {machine_type}", BASE, **how))
    return found


def models(detectors: Sequence[str]) -> list[tuple[str, str]]:
    """Models and scorings with rows of a matrix: a training set called "all"."""
    return [_model(name) for name in detectors if name.split(SEPARATOR)[1:2] == [BASE]]


def outside_matrices(scores: Scores) -> Scores:
    """Rows of a score table that are in no matrix."""
    inside = set(models(scores.detectors))
    return scores[np.array([_model(name) not in inside for name in scores.detector])]


def _model(detector: str) -> tuple[str, str]:
    """Names of model and scoring in "model: training set: scoring"."""
    model, _, rest = str(detector).partition(SEPARATOR)
    return model, rest.partition(SEPARATOR)[2]
