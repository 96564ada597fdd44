"""AUC and pAUC per machine ID from scores on disk: no JAX, no GPU, no checkpoint.

python -m mimii_jax.evaluate PATH
python -m mimii_jax.evaluate PATH --labels eval_data_list.csv
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mimii_jax import log
from mimii_jax.data.clips import UNKNOWN
from mimii_jax.data.layouts import Labels, read_labels
from mimii_jax.errors import DataError
from mimii_jax.files import replace_file
from mimii_jax.report.inputs import read_json, source
from mimii_jax.report.tables import results_report
from mimii_jax.results.metrics import MAX_FPR
from mimii_jax.results.official import (
    RESULT,
    compare_result,
    read_official,
    result_text,
    score_files,
)
from mimii_jax.results.per_id import evaluate
from mimii_jax.results.table import SPLITS, Scores, read_scores, select_split


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table of the scores at a path; print user errors as one line."""
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        _evaluate(args)
    except DataError as error:
        parser.exit(1, f"error: {error}\n")


def _evaluate(args: argparse.Namespace) -> None:
    labels = read_labels(args.labels) if args.labels else {}
    scores, known_source = load(args.path)
    scores = select_split(_labelled(scores, labels, args.labels), args.split)
    if args.detector:
        scores = _only(scores, args.detector)
    if not len(scores):
        raise DataError(f"{args.path}: no clips in the {SPLITS[args.split]}")
    if args.out and len(scores.detectors) > 1:
        raise DataError(
            f"--out={args.out}: {RESULT} is of one detector; choose one with "
            f"--detector: {', '.join(scores.detectors)}"
        )
    rows = evaluate(scores, bootstrap=args.bootstrap, max_fpr=args.max_fpr)
    log.info(results_report(rows, known_source, args.split))
    for line in _compare(args.path, labels):
        log.info(line)
    if args.out:
        replace_file(args.out, result_text(scores, args.max_fpr).encode())
        log.info(f"wrote {args.out}")


def load(path: Path) -> tuple[Scores, str]:
    """Read a workdir, a scores.csv, or DCASE csv files (one, or a folder of them).

    Returns the scores, and their source where a workdir says it.
    """
    file = path / "scores.csv" if path.is_dir() else path
    if file.is_file() and file.name == "scores.csv":
        return read_scores(file), source(read_json(file.with_name("config.json")))
    return read_official(path), ""


def _labelled(scores: Scores, labels: Labels, path: Path) -> Scores:
    """Label the clips whose names have no label."""
    labelled = scores.labelled(labels)
    unknown = scores[scores.label == UNKNOWN]
    if labels and len(unknown) and np.array_equal(scores.label, labelled.label):
        first = f"{unknown.machine_type[0]}/{unknown.name[0]}"
        raise DataError(
            f"--labels={path}: lists none of the unlabelled clips, such as {first}"
        )
    return labelled


def _only(scores: Scores, detector: str) -> Scores:
    """Select one detector."""
    if detector not in scores.detectors:
        raise DataError(
            f"--detector={detector}: no such detector; choose one of "
            f"{', '.join(scores.detectors)}"
        )
    return scores[scores.detector == detector]


def _compare(path: Path, labels: Labels) -> list[str]:
    """Compare each result.csv with the DCASE csv files beside it; lines to print."""
    if not path.is_dir() or (path / "scores.csv").is_file():
        return []
    lines = []
    for folder in sorted({file.parent for file in score_files(path)}):
        if (folder / RESULT).is_file():
            differences = compare_result(folder, labels)
            count = len(differences)
            plural = "" if count == 1 else "s"
            found = f"{count} difference{plural} from" if count else "identical to"
            inside = folder.relative_to(path).as_posix()
            where = "" if inside == "." else f"{inside}: "
            lines += [f"{where}{found} {RESULT} beside the scores", *differences]
    return lines


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mimii_jax.evaluate",
        description="AUC and pAUC per machine ID, with bootstrap 95 % intervals, from "
        "anomaly scores. Trains nothing and needs no GPU.",
    )
    add = parser.add_argument
    add(
        "path",
        type=Path,
        help="a workdir or its scores.csv; or a folder of DCASE csv files "
        "anomaly_score_<type>_id_<NN>.csv (lines: name,score; no header), in it or in "
        "folders <detector>/seed_<S>; or one such file",
    )
    add(
        "--split",
        choices=SPLITS,
        default="all",
        help="of the test clips: validation (40 %%), test (60 %%), or all (default)",
    )
    add(
        "--labels",
        type=Path,
        metavar="FILE",
        help="eval_data_list.csv, the organisers' labels of the evaluation clips",
    )
    add("--detector", help="this one only (default: all)")
    add(
        "--bootstrap",
        type=_replicates,
        default=1000,
        metavar="N",
        help="replicates for the intervals, 0 for none (default 1000)",
    )
    add(
        "--max_fpr",
        type=_rate,
        default=MAX_FPR,
        metavar="RATE",
        help=f"false positive rate where pAUC ends (default {MAX_FPR})",
    )
    add(
        "--out",
        type=Path,
        metavar="FILE",
        help="also write the result.csv of one detector, as the challenge's evaluator",
    )
    return parser


def _replicates(text: str) -> int:
    if not text.isdecimal() or int(text) > 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not in 0 to 100000")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a rate in (0, 1]")
    return rate


if __name__ == "__main__":
    main()
