"""Run cells, each in a process: those without scores, several at once, or on Dask.

A cell's folder is an ordinary workdir, which every command of the package reads; its
log.txt holds what the process printed. A cell with scores is done; cells with the same
config share a workdir.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor, as_completed
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from experiments.cell import Cell, Config, Options, require_known
from mimii_jax import log
from mimii_jax.command import FAILED, INTERRUPTED, path_of
from mimii_jax.errors import ConfigError, DataError
from mimii_jax.files import make_folder
from mimii_jax.results.table import read_scores
from mimii_jax.workdir import Workdir

COMMAND = (sys.executable, "-m", "experiments.cell_process")
DIVERGED = 3  # exit code of mimii_jax.main


@dataclass(frozen=True)
class Outcome:
    """How a cell ended."""

    key: str
    workdir: Path  # its own, or that of a cell with the same config
    error: str = ""  # one line; "" if it has scores
    failed: bool = False  # False for a training that diverged: that's a finding
    seconds: float | None = None  # None: it didn't run now


def run_cells(
    cells: Mapping[str, Cell], options: Options, args: argparse.Namespace
) -> dict[str, Outcome]:
    """Run cells that aren't done, each in the folder of its key below `args.out`."""
    if args.jobs < 1:
        raise ConfigError(f"--jobs={args.jobs}: must be at least 1")
    require_known(options)
    make_folder(args.out)
    outcomes: dict[str, Outcome] = {}
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with (
            log.bar("cells", len(cells), "cells") as advance,
            closing(_outcomes(cells, options, args)) as found,
        ):
            for outcome in found:
                outcomes[outcome.key] = outcome
                advance(1)
                seconds = outcome.seconds
                done = "done before" if seconds is None else f"{seconds:.0f} s"
                text = outcome.error or done
                log.info(f"{len(outcomes)}/{len(cells)} {outcome.key}: {text}")
    except KeyboardInterrupt:
        log.info("Interrupted. Run the same command again to resume.")
        sys.exit(INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, before)
    return {key: outcomes[key] for key in cells}


def _outcomes(
    cells: Mapping[str, Cell], options: Options, args: argparse.Namespace
) -> Generator[Outcome]:
    """Yield the outcomes of all cells: known ones first, then as processes end."""
    known = _workdirs(args.out)
    todo: dict[Path, tuple[Config, list[str]]] = {}
    for key, cell in cells.items():
        try:
            config = cell.build(options)
            workdir = _workdir_of(config, args.out / key, known)
            if done := Workdir(workdir).finished:
                read_scores(Workdir(workdir).scores)
        except (ConfigError, DataError) as error:
            yield Outcome(key, args.out / key, f"failed: {error}", failed=True)
            continue
        if done:
            yield Outcome(key, workdir)
        else:
            todo.setdefault(workdir, (config, []))[1].append(key)
    with _pool(args) as (pool, stdin):
        futures = {}
        for path, (config, keys) in todo.items():
            command = [*COMMAND, str(path), str(args.out / "cache")]
            futures[pool.submit(_attempt, command, path, config, stdin)] = path, keys
        for future in as_completed(futures):
            path, keys = futures[future]
            error, failed, seconds = future.result()
            for key in keys:
                yield Outcome(key, path, error, failed, seconds)


def _workdirs(out: Path) -> dict[str, Path]:
    """Find the workdirs below a folder by their configs, finished ones first."""
    files = [*out.glob("*/config.json"), *out.glob("*/*/config.json")]
    found = [
        Workdir(file.parent)
        for file in files
        if not (file.parents[1] / "config.json").exists()  # scored again
    ]
    found.sort(key=lambda workdir: (not workdir.finished, workdir.path))
    known: dict[str, Path] = {}
    for workdir in found:
        with suppress(ConfigError):  # a damaged one fails its cell, not the others
            known.setdefault(_text(workdir.read_config()), workdir.path)
    return known


def _workdir_of(config: Config, own: Path, known: dict[str, Path]) -> Path:
    """Choose a workdir: one with this config, or the cell's own."""
    text = _text(config)
    if text not in known and (own / "config.json").exists():
        Workdir(own).read_config()  # raises if it is damaged
        raise ConfigError(f"{own}: holds another config; choose another --out")
    return known.setdefault(text, own)


def _text(config: Config) -> str:
    return json.dumps(config.to_dict(), sort_keys=True)


@contextmanager
def _pool(args: argparse.Namespace) -> Iterator[tuple[Executor, int]]:
    """Open a pool for processes, and their standard input, whose end stops them."""
    if args.backend == "dask":
        try:
            from distributed import Client

            client = Client(args.scheduler or None)
            client.wait_for_workers(1, timeout=60)
        except (ImportError, OSError) as error:
            raise ConfigError(
                f"--backend=dask: {error}; needs pip install '.[cluster]', and "
                "--scheduler=tcp://HOST:PORT of a running cluster"
            ) from error
        with client:
            yield client.get_executor(), subprocess.PIPE
        return
    read, write = os.pipe()
    pool = ThreadPoolExecutor(args.jobs)
    try:
        yield pool, read
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # before a cell's end frees one
        os.close(write)
        pool.shutdown()
        os.close(read)


def _attempt(
    command: Sequence[str], workdir: Path, config: Config, stdin: int
) -> tuple[str, bool, float]:
    """Run the process of a cell; return its error, whether it failed, and seconds."""
    start, saved = time.perf_counter(), workdir / "config.json"
    new = not saved.exists()
    try:
        if new:
            Workdir(workdir).start(config)
    except DataError as error:
        return f"failed: {error}", True, 0.0
    environment = {
        "COLUMNS": "100",  # of log.txt
        "PYTHONUNBUFFERED": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # several cells share a GPU
        **os.environ,
    }
    with (workdir / "log.txt").open("a+b") as file:
        before = file.tell()
        process = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches the parent alone
        )
        with process:
            code = process.wait()
        file.seek(before)
        text = file.read().decode(errors="replace")
    if code == FAILED and new and not (workdir / "clips.csv").exists():
        saved.unlink(missing_ok=True)  # refused: other settings may take the folder
    return *_ending(code, text, workdir / "log.txt"), time.perf_counter() - start


def _ending(code: int, text: str, path: Path) -> tuple[str, bool]:
    """Reason from exit code and log, and whether that is a failure."""
    lines = [line for line in text.splitlines() if line.strip()] or [""]
    errors = [line for line in lines if line.startswith("error: ")]
    error = errors[-1].removeprefix("error: ") if errors else ""
    if code == 0:
        return "", False
    if code == DIVERGED:
        return f"diverged: {error}", False
    if code in (INTERRUPTED, -signal.SIGTERM):
        return "interrupted", True
    if code < 0:
        return f"failed: killed by signal {-code}; is there enough memory?", True
    return f"failed: {error or f'{lines[-1]} (traceback in {path})'}", True


def command_parser(name: str, about: str | None, out: str) -> argparse.ArgumentParser:
    """Create the parser of `python -m experiments.NAME`, with the shared flags."""
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Any field of the configs can be set: --config.section.field=value",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--out", type=path_of, default=Path(out), help=f"folder (default {out})")
    add("--jobs", type=int, default=1, metavar="N", help="cells at once (1)")
    add("--backend", choices=("local", "dask"), default="local")
    add("--scheduler", default="", metavar="ADDRESS", help="of Dask: tcp://HOST:8786")
    return parser


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, tuple[tuple[str, str], ...]]:
    """Parse the flags, and each --config.field=text as (field, text)."""
    given = sys.argv[1:] if argv is None else argv
    fields = [re.fullmatch(r"--config\.([\w.]+)=(.*)", text) for text in given]
    rest = [text for text, match in zip(given, fields, strict=True) if not match]
    return parser.parse_args(rest), tuple((m[1], m[2]) for m in fields if m)
