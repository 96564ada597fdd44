"""From a score table to AUC and pAUC per machine ID; needs no JAX and no checkpoint.

python -m mimii_jax.evaluate PATH
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from rich.console import Console

from mimii_jax.metrics import Estimate, Measured, measure, resample
from mimii_jax.official import (
    MAX_FPR,
    RESULT,
    compare_result,
    read_official,
    result_text,
    score_files,
)
from mimii_jax.scores import PARTS, ScoreError, Scores, read_scores, split_part

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


def _evaluate_one(one: Scores, bootstrap: int, max_fpr: float, seed: int) -> list[Row]:
    """The rows of one detector on one machine type."""
    clips, score = _by_seed(one)
    stratum = np.char.add(clips.machine_id, np.char.mod("/%d", clips.label))
    weight = resample(stratum, bootstrap, seed)
    rows, measured = [], {}
    for machine_id in clips.ids:
        where = clips.machine_id == machine_id
        of_id = clips[where]
        if _both(of_id):
            measured[machine_id] = measure(
                of_id.label, score[:, where], weight[:, where], max_fpr
            )
        result = measured.get(machine_id)
        rows.append(_row(one, of_id, machine_id, result, _note(of_id)))

    averaged = clips[np.isin(clips.machine_id, list(measured))]
    mean = Measured.average(list(measured.values())) if measured else None
    note = "" if len(measured) == len(clips.ids) else f"over ids {', '.join(measured)}"
    note = note if measured else "no id with an AUC"
    rows.append(_row(one, averaged, AVERAGE, mean, note))

    pooled = measure(clips.label, score, weight, max_fpr) if _both(clips) else None
    rows.append(_row(one, clips, POOLED, pooled, _note(clips)))
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


def load(path: Path) -> Scores:
    """Read a workdir, a scores.csv, or official score files (one, or a folder)."""
    if (path / "scores.csv").is_file():
        path = path / "scores.csv"
    if path.is_file() and path.name == "scores.csv":
        return read_scores(path)
    return read_official(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table of the scores that the command line names."""
    from mimii_jax.report.tables import part_title, results_table

    parser = _parser()
    args = parser.parse_args(argv)
    console = Console(highlight=False)
    try:
        scores = split_part(load(args.path), args.split, args.seed)
        if args.detector:
            scores = _only(scores, args.detector)
        text = _result_to_write(scores, args.max_fpr) if args.out else ""
        with console.status("Resampling the clips for the intervals"):
            rows = evaluate(
                scores, bootstrap=args.bootstrap, max_fpr=args.max_fpr, seed=args.seed
            )
        for machine_type in scores.machine_types:
            of_type = [row for row in rows if row.machine_type == machine_type]
            title = f"{machine_type}: {part_title(args.split)}"
            console.print(results_table(of_type, title))
        for line in _compare(args.path):
            console.print(line, markup=False, soft_wrap=True)
        if args.out:
            args.out.write_text(text, encoding="utf-8", newline="\n")
            console.print(f"wrote {args.out}", markup=False, soft_wrap=True)
    except (ScoreError, OSError) as error:
        parser.exit(1, f"error: {error}\n")


def _only(scores: Scores, detector: str) -> Scores:
    """The rows of one detector."""
    if detector not in scores.detectors:
        raise ScoreError(
            f"--detector={detector}: the scores are of {', '.join(scores.detectors)}"
        )
    return scores[scores.detector == detector]


def _result_to_write(scores: Scores, max_fpr: float) -> str:
    """The result.csv of the one detector that there is."""
    if len(scores.detectors) > 1:
        raise ScoreError(
            "--out: a result.csv is of one detector; choose one with --detector: "
            + ", ".join(scores.detectors)
        )
    return result_text(scores, max_fpr)


def _compare(path: Path) -> list[str]:
    """Lines about each result.csv that lies beside official score files in a folder."""
    if not path.is_dir() or (path / "scores.csv").is_file():
        return []
    lines = []
    for folder in sorted({file.parent for file in score_files(path)}):
        if (folder / RESULT).is_file():
            differences = compare_result(folder)
            found = (
                f"{len(differences)} differences from"
                if differences
                else "identical to"
            )
            inside = folder.relative_to(path).as_posix()
            where = "" if inside == "." else f"{inside}: "
            lines += [f"{where}{found} {RESULT} beside the scores", *differences]
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mimii_jax.evaluate",
        description="AUC and pAUC per machine ID, with bootstrap 95 %% intervals, from "
        "anomaly scores. Trains nothing and needs no GPU.",
    )
    parser.add_argument(
        "path",
        type=Path,
        help="a workdir or its scores.csv; or a folder of official score files "
        "anomaly_score_<type>_id_<NN>.csv (lines: name,score; no header), in it or in "
        "folders <detector>/seed_<S>; or one such file",
    )
    parser.add_argument(
        "--split",
        choices=PARTS,
        default="all",
        help="part of the test clips: 40 %% validation, 60 %% test, or all (default)",
    )
    parser.add_argument("--detector", help="this one only (default: all)")
    parser.add_argument(
        "--bootstrap",
        type=_replicates,
        default=1000,
        metavar="N",
        help="replicates for the intervals, 0 for none (default 1000)",
    )
    parser.add_argument(
        "--max_fpr",
        type=_rate,
        default=MAX_FPR,
        metavar="RATE",
        help=f"false positive rate at which pAUC ends (default {MAX_FPR})",
    )
    parser.add_argument(
        "--seed",
        type=_replicates,
        default=0,
        metavar="N",
        help="seed of the split and of the bootstrap (default 0)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="also write a result.csv in the official format (one detector)",
    )
    return parser


def _replicates(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate above 0, up to 1")
    return rate


if __name__ == "__main__":
    main()
