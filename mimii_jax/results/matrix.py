"""Rows of results against one of them: the cross-ID matrix, a study's cells; no JAX.

A row is a detector of a score table. Rows of a matrix are named "model: training set".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mimii_jax.results.metrics import Change, Measured
from mimii_jax.results.official import MAX_FPR
from mimii_jax.results.per_id import AVERAGE, POOLED, measure_all
from mimii_jax.results.table import CONTROLS, Scores

AUC, PAUC = 0, 1
BASE = "all"
SEPARATOR = ": "
TUNED = "all, then id "


@dataclass(frozen=True, eq=False)
class Matrix:
    """Rows by columns, each measured; one row is what the others are compared with.

    Attributes
    ----------
    name : such as "mlp_vae, slider"
    base : name of the row to compare with; "" for none
    measured : by row and column; a column is a machine ID, `AVERAGE` or `POOLED`
    seeds : number of seeds of each row
    """

    name: str
    base: str
    measured: Mapping[str, Mapping[str, Measured]]
    seeds: Mapping[str, int]

    @property
    def rows(self) -> list[str]:
        """Names of the rows, in their order."""
        return list(self.measured)

    @property
    def columns(self) -> list[str]:
        """IDs, then average and pooled."""
        found = {column for row in self.measured.values() for column in row}
        ids = sorted(found - {AVERAGE, POOLED})
        return [*ids, *(name for name in (AVERAGE, POOLED) if name in found)]

    def change(self, row: str, column: str, metric: int = AUC) -> Change | None:
        """The paired change from the base row; None for itself, or without one."""
        base = self.measured.get(self.base, {}).get(column)
        own = self.measured[row].get(column)
        if row == self.base or base is None or own is None:
            return None
        return own.change_from(base, metric)

    def forgetting(self, row: str, metric: int = AUC) -> tuple[Change, Change] | None:
        """What fine-tuning changed on its own ID, and on the average of the others.

        None for rows that are not fine-tuned, or whose ID has no AUC.
        """
        own_id = row.removeprefix(TUNED)
        if own_id == row or self.base not in self.measured:
            return None
        tuned, base = self.measured[row], self.measured[self.base]
        others = [c for c in self.columns if c not in (own_id, AVERAGE, POOLED)]
        if own_id not in tuned or not others:
            return None
        elsewhere = [Measured.average([m[c] for c in others]) for m in (tuned, base)]
        return (
            tuned[own_id].change_from(base[own_id], metric),
            elsewhere[0].change_from(elsewhere[1], metric),
        )


def compare(
    scores: Scores,
    name: str,
    base: str,
    *,
    bootstrap: int = 1000,
    max_fpr: float = MAX_FPR,
) -> Matrix:
    """All detectors of one machine type against one of them."""
    measured, seeds = {}, {}
    for row in scores.detectors:
        one = scores[scores.detector == row]
        measured[row] = measure_all(one, bootstrap=bootstrap, max_fpr=max_fpr)
        seeds[row] = len(one.seeds)
    return Matrix(name, base, measured, seeds)


def matrices(
    scores: Scores, *, bootstrap: int = 1000, max_fpr: float = MAX_FPR
) -> list[Matrix]:
    """A matrix for each machine type and model whose rows are training sets."""
    found = []
    for machine_type in scores.machine_types:
        of_type = scores[scores.machine_type == machine_type]
        for model in models(of_type.detectors):
            start = model + SEPARATOR
            own = of_type[np.char.startswith(of_type.detector, start)]
            short = own.renamed(lambda name: name.split(SEPARATOR)[-1])
            title = f"{model}, {machine_type}"
            found.append(
                compare(short, title, BASE, bootstrap=bootstrap, max_fpr=max_fpr)
            )
    return found


def models(detectors: Sequence[str]) -> list[str]:
    """The models of which there are rows of a matrix: those with one called "all"."""
    ending = SEPARATOR + BASE
    return [
        name.removesuffix(ending)
        for name in detectors
        if name.endswith(ending) and name not in CONTROLS
    ]
