"""AUC and pAUC per machine ID from scores on disk: no JAX, no GPU, no checkpoint.

python -m mimii_jax.evaluate PATH
python -m mimii_jax.evaluate PATH --labels eval_data_list.csv

Of the challenges since 2021 also the metrics of sections and domains, and of decisions.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mimii_jax import log
from mimii_jax.command import one_line_errors, path_of
from mimii_jax.data.clips import UNKNOWN
from mimii_jax.data.labels import Labels, read_labels
from mimii_jax.errors import DataError
from mimii_jax.files import replace_file
from mimii_jax.report.inputs import read_json, source
from mimii_jax.report.tables import results_report, sections_text
from mimii_jax.results import official
from mimii_jax.results.metrics import MAX_FPR
from mimii_jax.results.per_id import evaluate
from mimii_jax.results.sections import Decisions, has_sections
from mimii_jax.results.table import SPLITS, Scores, read_scores, select_split
from mimii_jax.results.threshold import decide


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table of the scores at a path; print user errors as one line."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.bootstrap < 0:
        parser.error(f"--bootstrap={args.bootstrap}: must be 0 or more")
    if not 0 < args.max_fpr <= 1:
        parser.error(f"--max_fpr={args.max_fpr}: must be above 0, up to 1")
    with one_line_errors():
        _evaluate(args)


def _evaluate(args: argparse.Namespace) -> None:
    labels = read_labels(args.labels) if args.labels else {}
    path, known_source = args.path, ""
    file = path / "scores.csv" if path.is_dir() else path
    if own := file.is_file() and file.name == "scores.csv":
        scores = read_scores(file)
        known_source = source(read_json(file.with_name("config.json")))
    else:
        scores = official.read_official(path)
    if not len(scores):
        raise DataError(f"{file}: no scores: the run had no test clips")
    scores = _select(scores, args, labels)
    rows = evaluate(scores, bootstrap=args.bootstrap, max_fpr=args.max_fpr)
    log.info(results_report(rows, known_source, args.split))
    decisions = _decisions(path, file if own else None, scores)
    if has_sections(scores):
        log.info(sections_text(scores, decisions, args.max_fpr))
    if path.is_dir() and not own:
        _compare(path, labels)
    if args.out:
        result = official.result_text(scores, decisions, args.max_fpr)
        replace_file(args.out, result.encode())
        log.info(f"wrote {args.out}")


def _select(scores: Scores, args: argparse.Namespace, labels: Labels) -> Scores:
    """Label the clips, then select those of the split and detector."""
    labelled = scores.labelled(labels)
    unknown = np.any(scores.label == UNKNOWN)
    if labels and unknown and np.array_equal(scores.label, labelled.label):
        raise DataError(f"--labels={args.labels}: lists none of the unlabelled clips")
    names = scores.detectors
    several = args.out and not args.detector and len(names) > 1
    if several or args.detector not in (None, *names):
        raise DataError(f"--detector: choose one of {', '.join(names)}")
    if args.detector:
        labelled = labelled[labelled.detector == args.detector]
    selected = select_split(labelled, args.split)
    if not len(selected):
        raise DataError(f"{args.path}: no clips in the {SPLITS[args.split]}")
    return selected


def _decisions(path: Path, table: Path | None, scores: Scores) -> Decisions:
    """Decisions by a workdir's normal clips, or those beside official scores."""
    if not table:
        return official.read_decisions(path, scores)
    normals = table.with_name("normals.csv")
    return decide(scores, read_scores(normals) if normals.is_file() else scores[:0])


def _compare(path: Path, labels: Labels) -> None:
    """Compare each result.csv with the DCASE csv files beside it."""
    for folder in sorted({file.parent for file in official.score_files(path)}):
        if (folder / official.RESULT).is_file():
            differences = official.compare_result(folder, labels)
            found = "differs from" if differences else "identical to"
            log.info(f"{folder}: {found} {official.RESULT} beside the scores")
            for line in differences:
                log.info(line)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mimii_jax.evaluate",
        description="AUC and pAUC per machine ID, with bootstrap 95 % intervals, from "
        "anomaly scores. Trains nothing and needs no GPU.",
        epilog=f"Defaults: --split all --bootstrap 1000 --max_fpr {MAX_FPR}.",
    )
    add = parser.add_argument
    where = (
        "a workdir or its scores.csv; or a folder of DCASE csv files "
        "anomaly_score_<type>_id_<NN>.csv or "
        "anomaly_score_<type>_section_<NN>[_<domain>]_test.csv (lines: name,score; no "
        "header), decision_result_* beside them, in it or in folders "
        "<detector>/seed_<S>; or one such file"
    )
    split = "of the test clips: validation (40 %%), test (60 %%), or all"
    labels = (
        "eval_data_list.csv, the organisers' labels of the evaluation clips, or the "
        "folder with their evaluator's ground_truth_data and ground_truth_domain"
    )
    limit = "false positive rate where pAUC ends"
    out = "also write the result.csv of one detector, as the challenge's evaluator"
    add("path", type=path_of, help=where)
    add("--split", choices=SPLITS, default="all", help=split)
    add("--labels", type=path_of, metavar="PATH", help=labels)
    add("--detector", help="this one only")
    add("--bootstrap", type=int, default=1000, metavar="N", help="replicates, 0: none")
    add("--max_fpr", type=float, default=MAX_FPR, metavar="RATE", help=limit)
    add("--out", type=path_of, metavar="FILE", help=out)
    return parser


if __name__ == "__main__":
    main()
