"""From a score table to AUC and pAUC per machine ID; no JAX."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mimii_jax.results.metrics import Estimate, Measured, measure, resample
from mimii_jax.results.official import MAX_FPR
from mimii_jax.results.table import ScoreError, Scores

AVERAGE, POOLED = "average", "pooled"


@dataclass(frozen=True)
class Row:
    """The result of a detector on one machine ID, on their average or on all clips.

    Attributes
    ----------
    machine_id : two digits, or `AVERAGE` (unweighted, of the IDs with both classes), or
        `POOLED` (all clips of the machine type together)
    auc, pauc : None where there are not clips of both classes
    n_normal, n_anomalous : clips, the same for every seed
    seeds : the seeds that the means are over
    note : what a reader has to know, such as why there is no AUC; mostly empty
    """

    detector: str
    machine_type: str
    machine_id: str
    auc: Estimate | None
    pauc: Estimate | None
    n_normal: int
    n_anomalous: int
    seeds: tuple[int, ...]
    note: str


def evaluate(
    scores: Scores, *, bootstrap: int = 1000, max_fpr: float = MAX_FPR, seed: int = 0
) -> list[Row]:
    """AUC and pAUC per machine type, detector and ID, their average and pooled.

    Parameters
    ----------
    scores : every detector has the same clips for all of its seeds
    bootstrap : replicates of the intervals, 0 for none. A replicate draws clips with
        replacement, per ID and label; it is the same for all seeds, and for all
        detectors with the same clips
    max_fpr : float in (0, 1], where pAUC ends
    seed : of the bootstrap

    Raises
    ------
    ScoreError
        When the seeds of a detector have scores for different clips.
    """
    rows = []
    for machine_type in scores.machine_types:
        of_type = scores[scores.machine_type == machine_type]
        for detector in of_type.detectors:
            one = of_type[of_type.detector == detector]
            rows += _evaluate_one(one, bootstrap, max_fpr, seed)
    return rows


def measure_all(
    one: Scores, *, bootstrap: int, max_fpr: float = MAX_FPR, seed: int = 0
) -> dict[str, Measured]:
    """Per ID, their average and pooled, what one detector on one machine type does.

    What has no AUC is not among them. The replicates are the same for every detector
    with the same clips, so that their differences are paired.
    """
    clips, score = _by_seed(one)
    stratum = np.char.add(clips.machine_id, np.char.mod("/%d", clips.label))
    weight = resample(stratum, bootstrap, seed)
    measured = {}
    for machine_id in clips.ids:
        where = clips.machine_id == machine_id
        if _both(clips[where]):
            measured[machine_id] = measure(
                clips.label[where], score[:, where], weight[:, where], max_fpr
            )
    if measured:
        measured[AVERAGE] = Measured.average(list(measured.values()))
    if _both(clips):
        measured[POOLED] = measure(clips.label, score, weight, max_fpr)
    return measured


def _evaluate_one(one: Scores, bootstrap: int, max_fpr: float, seed: int) -> list[Row]:
    """The rows of one detector on one machine type."""
    measured = measure_all(one, bootstrap=bootstrap, max_fpr=max_fpr, seed=seed)
    clips = one[one.seed == one.seeds[0]]
    rows = []
    for machine_id in clips.ids:
        of_id = clips[clips.machine_id == machine_id]
        result = measured.get(machine_id)
        rows.append(_row(one, of_id, machine_id, result, _note(of_id)))

    known = [machine_id for machine_id in clips.ids if machine_id in measured]
    averaged = clips[np.isin(clips.machine_id, known)]
    note = "" if len(known) == len(clips.ids) else f"over ids {', '.join(known)}"
    note = note if known else "no id with an AUC"
    rows.append(_row(one, averaged, AVERAGE, measured.get(AVERAGE), note))
    rows.append(_row(one, clips, POOLED, measured.get(POOLED), _note(clips)))
    return rows


def _by_seed(one: Scores) -> tuple[Scores, Float[np.ndarray, "seed clip"]]:
    """The clips of one detector and machine type, sorted, and their scores per seed."""
    runs = [one[one.seed == seed] for seed in one.seeds]
    runs = [run[np.lexsort((run.name, run.machine_id))] for run in runs]
    for run in runs:
        for column in ("machine_id", "name", "label"):
            if not np.array_equal(getattr(run, column), getattr(runs[0], column)):
                raise ScoreError(
                    f"{one.machine_types[0]}: {one.detectors[0]} has other clips or "
                    f"labels for seed {run.seed[0]} than for seed {runs[0].seed[0]}"
                )
    return runs[0], np.stack([run.score for run in runs])


def _row(
    one: Scores, clips: Scores, name: str, measured: Measured | None, note: str
) -> Row:
    """The row called `name`, of these clips."""
    return Row(
        detector=one.detectors[0],
        machine_type=one.machine_types[0],
        machine_id=name,
        auc=measured and measured.estimate(0),
        pauc=measured and measured.estimate(1),
        n_normal=int(np.sum(clips.label == 0)),
        n_anomalous=int(np.sum(clips.label == 1)),
        seeds=tuple(one.seeds),
        note=note,
    )


def _both(clips: Scores) -> bool:
    """Whether there are normal and anomalous clips, so that there is an AUC."""
    return bool(np.any(clips.label == 0) and np.any(clips.label == 1))


def _note(clips: Scores) -> str:
    """What to say about the labels of these clips; empty if all is well."""
    counts = {
        kind: int(np.sum(clips.label == label))
        for kind, label in (("normal", 0), ("anomalous", 1), ("unlabelled", -1))
    }
    if not _both(clips):
        kinds = " and ".join(kind for kind, count in counts.items() if count)
        return f"{kinds} clips only: no AUC"
    unlabelled = counts["unlabelled"]
    return f"{unlabelled} unlabelled clips left out" if unlabelled else ""
