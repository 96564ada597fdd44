"""AUC and pAUC per machine ID from scores on disk: no JAX, no GPU, no checkpoint.

python -m mimii_jax.evaluate PATH
python -m mimii_jax.evaluate PATH --labels eval_data_list.csv
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from mimii_jax.data.clips import UNKNOWN
from mimii_jax.data.layouts import Labels, read_labels
from mimii_jax.errors import DataError
from mimii_jax.report.tables import results_table
from mimii_jax.results.official import (
    MAX_FPR,
    RESULT,
    compare_result,
    read_official,
    result_text,
    score_files,
)
from mimii_jax.results.per_id import evaluate
from mimii_jax.results.splits import PARTS, part_title, split_part
from mimii_jax.results.table import ScoreError, Scores, read_scores


def load(path: Path) -> Scores:
    """Read a workdir, a scores.csv, or official score files (one, or a folder)."""
    if (path / "scores.csv").is_file():
        path = path / "scores.csv"
    if path.is_file() and path.name == "scores.csv":
        return read_scores(path)
    return read_official(path)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table of the scores that the command line names."""
    parser = _parser()
    args = parser.parse_args(argv)
    console = Console(highlight=False)
    try:
        labels = read_labels(args.labels) if args.labels else {}
        scores = load(args.path)
        if labels:
            scores = _labelled(scores, labels, args.labels)
        scores = split_part(scores, args.split, args.split_seed)
        if args.detector:
            scores = _only(scores, args.detector)
        if not len(scores):
            raise ScoreError(f"{args.path}: no clips in the {part_title(args.split)}")
        text = _result_to_write(scores, args.max_fpr) if args.out else ""
        with console.status("Resampling the clips for the intervals"):
            rows = evaluate(scores, bootstrap=args.bootstrap, max_fpr=args.max_fpr)
        for machine_type in scores.machine_types:
            of_type = [row for row in rows if row.machine_type == machine_type]
            title = f"{machine_type}: {part_title(args.split)}"
            console.print(results_table(of_type, title), end="\n\n")
        for line in _compare(args.path, labels):
            console.print(line, markup=False, soft_wrap=True)
        if args.out:
            _write(args.out, text)
            console.print(f"wrote {args.out}", markup=False, soft_wrap=True)
    except (DataError, ScoreError) as error:
        parser.exit(1, f"error: {error}\n")


def _labelled(scores: Scores, labels: Labels, path: Path) -> Scores:
    """The scores with the labels of a list."""
    labelled = scores.labelled(labels)
    if np.any(scores.label == UNKNOWN) and np.all(labelled.label == scores.label):
        first = scores[scores.label == UNKNOWN]
        raise ScoreError(
            f"--labels={path}: has none of the unlabelled clips, such as "
            f"{first.machine_type[0]}/{first.name[0]}"
        )
    return labelled


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


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise ScoreError(f"{path}: cannot be written: {error.strerror}") from None


def _compare(path: Path, labels: Labels) -> list[str]:
    """Lines about each result.csv that lies beside official score files in a folder."""
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
    parser.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="eval_data_list.csv, the organisers' labels of the evaluation clips, for "
        "scores of names without a label",
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
        "--split_seed",
        type=_replicates,
        default=0,
        metavar="N",
        help="seed of the split (default 0)",
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
