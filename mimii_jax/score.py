"""Judge recordings by the detector in a workdir: score, decision and reason.

python -m mimii_jax.score --workdir machine7 new.wav folder/
python -m mimii_jax.score --workdir machine7 folder/ --false-alarms 0.01 --explain why/
python -m mimii_jax.score --workdir machine7 --watch incoming/ --out scores.csv
"""

import argparse
import csv
import io
import json
import re
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mimii_jax import log
from mimii_jax.command import FAILED, INTERRUPTED, Parser, one_line_errors, path_of
from mimii_jax.data.layouts import AUDIO
from mimii_jax.errors import DataError, require
from mimii_jax.files import file_errors, make_folder, owned, printable, replace_file
from mimii_jax.judge import ANOMALY, UNREADABLE, Judge, Verdict
from mimii_jax.results.table import csv_lines
from mimii_jax.results.threshold import FALSE_ALARMS, METHODS
from mimii_jax.train.mesh import keep_compiled_programs

FOUND = 2  # exit code
WAIT_S = 1.0  # between two looks at a watched folder


def main(argv: Sequence[str] | None = None) -> None:
    """Judge files; print user errors as one line."""
    parser = _parser()
    args = parser.parse_args(argv)
    _check(parser, args)
    log.console.stderr = args.json  # the standard output is for data
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, log.request_stop)
    counts = {ANOMALY: 0, UNREADABLE: 0}
    try:
        with one_line_errors():
            for verdict in _verdicts(args):
                if verdict.decision in counts:
                    counts[verdict.decision] += 1
    except log.Interrupted:
        log.info("interrupted")
        sys.exit(INTERRUPTED)
    if counts[ANOMALY] and args.fail_on_anomaly:
        sys.exit(FOUND)
    sys.exit(FAILED if counts[UNREADABLE] else 0)


def _verdicts(args: argparse.Namespace) -> Iterator[Verdict]:
    """Judge what the command line names."""
    keep_compiled_programs()
    if args.explain:
        make_folder(args.explain)
    files = recordings(args.files)
    judge = load_judge(args, machine_id=args.id, pictures=args.explain)
    if args.watch:
        lock = args.out.with_name(f".{args.out.name}.lock")
        with owned(lock, args.out):
            yield from _judged(judge, files, args)
    else:
        yield from _judged(judge, files, args)


def load_judge(args: argparse.Namespace, **more: Any) -> Judge:
    """Load what the flags of `add_judge_flags` name."""
    return Judge.load(
        args.workdir,
        detector=args.detector,
        machine_type=args.machine,
        false_alarms=args.false_alarms,
        method=args.threshold,
        **more,
    )


def _judged(
    judge: Judge, files: Sequence[Path], args: argparse.Namespace
) -> Iterator[Verdict]:
    """Judge the files, then those of the watched folder; print and write verdicts."""
    if not args.watch:
        verdicts = []
        for some in _all(judge, files):
            verdicts += some
        if args.out:
            _write(verdicts, args.out)
        else:
            _print(verdicts, args.json)
        yield from verdicts
        return
    done = _begin(args.out)
    try:
        for some in watch(judge, files, args.watch, done):
            _append(some, args.out)
            _print(some, args.json)
            yield from some
    except (KeyboardInterrupt, log.Interrupted):
        log.info(f"Stopped. Rerun to continue {args.out}.")


def _all(judge: Judge, files: Sequence[Path]) -> Iterator[list[Verdict]]:
    with log.bar("judging", len(files), "files") as advance:
        for verdicts in judge.in_parts(files):
            yield verdicts
            advance(len(verdicts))


def recordings(paths: Iterable[Path]) -> list[Path]:
    """The files, and those in the folders that end like audio; each once."""
    found: dict[Path, Path] = {}
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        named = [p for p in inside if _is_recording(p)] if path.is_dir() else inside
        if not named:
            raise DataError(f"{path}: no recordings in it")
        for file in named:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _is_recording(path: Path) -> bool:
    ending = re.fullmatch(f".+{AUDIO}", path.name)
    return bool(ending) and not path.name.startswith(".") and path.is_file()


def watch(
    judge: Judge, files: Sequence[Path], folder: Path, done: set[str]
) -> Iterator[list[Verdict]]:
    """Judge `files`, then each new one in the folder, once its size doesn't change."""
    files = [file for file in files if _key(file) not in done]
    yield from _all(judge, files)
    done.update(map(_key, files))
    log.info(f"watching {folder}; Ctrl-C stops")
    before: dict[Path, int] = {}
    while True:
        with file_errors(folder):
            inside = [path for path in sorted(folder.rglob("*")) if _is_recording(path)]
        sizes = {p: _size(p) for p in inside if _key(p) not in done}
        ready = [path for path, size in sizes.items() if 0 < size == before.get(path)]
        before = sizes
        if ready:
            yield from _all(judge, ready)
            done.update(map(_key, ready))
        time.sleep(WAIT_S)  # two looks in a row would see no growth


def _key(path: Path | str) -> str:
    """The whole path as a csv names it."""
    return printable(str(Path(path).resolve()))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _rows(verdicts: Iterable[Verdict]) -> str:
    text = io.StringIO()
    rows = ([printable(x) if isinstance(x, str) else x for x in v] for v in verdicts)
    csv.writer(text, lineterminator="\n").writerows(rows)  # floats by repr
    return text.getvalue()


HEAD = ",".join(Verdict._fields) + "\n"


def _write(verdicts: Sequence[Verdict], path: Path) -> None:
    replace_file(path, (HEAD + _rows(verdicts)).encode())
    count = sum(v.decision == ANOMALY for v in verdicts)
    log.info(f"{path}: {len(verdicts)} files, {count} anomalies")
    for verdict in verdicts:
        if verdict.decision == UNREADABLE:
            log.warning(f"{verdict.file}: {verdict.note}")


def _begin(path: Path) -> set[str]:
    """Files that a csv has already; a line that a kill cut off is dropped."""
    if not path.exists():
        replace_file(path, HEAD.encode())
        return set()
    with file_errors(path):
        content = path.read_bytes()
    if not content.endswith(b"\n"):
        replace_file(path, content[: content.rfind(b"\n") + 1] or HEAD.encode())
    (_, head), *lines = csv_lines(path)
    if head != list(Verdict._fields):
        raise DataError(
            f"{path}: expected columns {HEAD.strip()}; choose another --out"
        )
    return {_key(line[0]) for _, line in lines}


def _append(verdicts: Sequence[Verdict], path: Path) -> None:
    with file_errors(path), path.open("a", encoding="utf-8", newline="") as file:
        file.write(_rows(verdicts))


def _print(verdicts: Sequence[Verdict], as_json: bool) -> None:
    """Print a line per file."""
    for v in verdicts:
        if as_json:
            print(json.dumps(v._asdict()), flush=True)
        elif v.decision == UNREADABLE:
            log.warning(f"{v.file}: {v.note}")
        else:
            place = "" if v.percentile is None else f"{v.percentile:5.1f} %"
            at = "" if v.second is None else f", most at {v.second:.1f} s"
            at += "" if v.hertz is None else f", {v.hertz:,.0f} Hz"
            note = f" ({v.note})" if v.note else ""
            log.info(f"{v.decision:9} {v.score:10.4g} {place}  {v.file}{at}{note}")


def add_judge_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose a detector and its threshold."""
    add = parser.add_argument
    add("--workdir", type=path_of, required=True, help="of a finished training")
    add("--machine", default="", help="machine type, where there are several")
    add("--detector", default="", metavar="ROW", help="of scores.csv; default: first")
    share = f"wanted share of false alarms, default {FALSE_ALARMS}"
    add("--false-alarms", type=float, default=FALSE_ALARMS, metavar="P", help=share)
    add("--threshold", choices=METHODS, default=METHODS[0], help="default: gamma")


def require_share(args: argparse.Namespace) -> None:
    """Refuse a share of false alarms that no threshold has."""
    share = args.false_alarms
    require(0 < share < 1, f"--false-alarms={share}: must be between 0 and 1")


def _check(parser: Parser, args: argparse.Namespace) -> None:
    with one_line_errors():
        require_share(args)
    if not args.files and not args.watch:
        parser.error("name recordings or folders, or --watch a folder")
    if args.watch and not args.out:
        parser.error("--watch needs --out, the csv of files that are judged already")
    if args.watch and not args.watch.is_dir():
        parser.error(f"--watch={args.watch}: no such folder")


def _parser() -> Parser:
    parser = Parser(
        prog="python -m mimii_jax.score",
        description="Judge recordings by a trained detector. A long one is judged in "
        "pieces as long as the training clips, and the highest counts; a short one is "
        "padded by reflection.",
        epilog="Exit codes: 0; 1 an unreadable file or a mistake; 2 an anomaly, with "
        "--fail-on-anomaly; 75 interrupted.",
    )
    add = parser.add_argument
    add("files", nargs="*", type=path_of, metavar="FILE", help="recordings or folders")
    add_judge_flags(parser)
    add("--id", default="", help="machine ID; default: that of the name or folder")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--out", type=path_of, metavar="CSV", help="write a csv")
    output.add_argument("--json", action="store_true", help="print a line per file")
    add("--fail-on-anomaly", action="store_true", help="exit code 2 for an anomaly")
    add("--watch", type=path_of, metavar="FOLDER", help="judge what appears there")
    add("--explain", type=path_of, metavar="DIR", help="write a picture per file")
    return parser


if __name__ == "__main__":
    main()
