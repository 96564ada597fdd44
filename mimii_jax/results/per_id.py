"""AUC and pAUC per machine ID, from a score table; no JAX."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from mimii_jax.errors import DataError, require_memory
from mimii_jax.results.metrics import MAX_FPR, Estimate, average, measure, resample
from mimii_jax.results.table import Scores

MEAN, POOLED = "mean", "pooled"


@dataclass(frozen=True, eq=False)
class Row:
    """Result of a detector on one machine ID, on the mean of the IDs, or pooled."""

    detector: str
    machine_type: str
    machine_id: str  # or MEAN, over the IDs with both classes, or POOLED, of all clips
    auc: Estimate | None  # None without clips of both classes
    pauc: Estimate | None
    n_normal: int
    n_anomalous: int
    seeds: tuple[int, ...]
    note: str  # why there is no AUC, or which clips are left out


def evaluate(
    scores: Scores, *, bootstrap: int = 1000, max_fpr: float = MAX_FPR
) -> list[Row]:
    """AUC and pAUC per machine type, detector and ID, their mean, and pooled.

    A bootstrap replicate draws clips with replacement, per ID and label; all seeds and
    all detectors with the same clips share it, so that differences are paired.
    """
    rows = []
    for machine_type in scores.machine_types:
        of_type = scores[scores.machine_type == machine_type]
        for detector in of_type.detectors:
            one = of_type[of_type.detector == detector]
            rows += _evaluate_one(one, bootstrap, max_fpr)
    return rows


def _evaluate_one(one: Scores, bootstrap: int, max_fpr: float) -> list[Row]:
    """Rows of one detector on one machine type."""
    clips, score = _by_seed(one)
    stratum = np.char.add(clips.machine_id, np.char.mod("/%d", clips.label))
    require_memory(16.0 * bootstrap * len(stratum), f"bootstrap={bootstrap}")
    weight = resample(stratum, bootstrap)

    def row(machine_id: str, where: np.ndarray) -> Row:
        label, auc, pauc = clips.label[where], None, None
        if {0, 1} <= set(label.tolist()):
            own = label, score[:, where], weight[:, where]
            auc, pauc = measure(*own), measure(*own, max_fpr)
        return Row(
            detector=one.detectors[0],
            machine_type=one.machine_types[0],
            machine_id=machine_id,
            auc=auc,
            pauc=pauc,
            n_normal=int(np.sum(label == 0)),
            n_anomalous=int(np.sum(label == 1)),
            seeds=tuple(one.seeds),
            note=_note(label),
        )

    by_id = [row(name, clips.machine_id == name) for name in clips.ids]
    pooled = row(POOLED, np.ones(len(clips), bool))
    return [*by_id, _mean(by_id, pooled), pooled]


def _mean(by_id: list[Row], pooled: Row) -> Row:
    """Unweighted mean of the IDs that have an AUC."""
    known = [row for row in by_id if row.auc]
    note = f"of IDs {', '.join(row.machine_id for row in known)}"
    return replace(
        pooled,
        machine_id=MEAN,
        auc=average([row.auc for row in known if row.auc]) if known else None,
        pauc=average([row.pauc for row in known if row.pauc]) if known else None,
        n_normal=sum(row.n_normal for row in known),
        n_anomalous=sum(row.n_anomalous for row in known),
        note="" if len(known) == len(by_id) else note if known else "no ID has an AUC",
    )


def _by_seed(one: Scores) -> tuple[Scores, Float[np.ndarray, "seed clip"]]:
    """Clips of one detector and machine type, sorted, and their scores per seed."""
    runs = [one[one.seed == seed] for seed in one.seeds]
    first, *rest = runs = [run[np.lexsort((run.name, run.machine_id))] for run in runs]
    for run in rest:
        for column in ("machine_id", "name", "label"):
            if not np.array_equal(getattr(run, column), getattr(first, column)):
                raise DataError(
                    f"{one.machine_types[0]}, {one.detectors[0]}: seed {run.seed[0]} "
                    f"has other clips or labels than seed {first.seed[0]}; score "
                    "them on the same clips"
                )
    return first, np.stack([run.score for run in runs])


def _note(label: Int[np.ndarray, " clip"]) -> str:
    """Note on missing labels; empty if both classes are there and all are known."""
    normal, anomalous, unlabelled = (int(np.sum(label == v)) for v in (0, 1, -1))
    if normal and anomalous:
        return f"{unlabelled} unlabelled clips left out" if unlabelled else ""
    counts = {"normal": normal, "anomalous": anomalous, "unlabelled": unlabelled}
    kinds = " and ".join(kind for kind, count in counts.items() if count)
    return f"only {kinds} clips: no AUC"
