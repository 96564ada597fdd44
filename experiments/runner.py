"""Run cells: those that are not done, several at once, here or on a Dask cluster."""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from absl import logging
from joblib import Parallel, delayed, parallel_config
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.cell import Cell, NotAvailable, Options, require_known
from experiments.fit import run_cell
from experiments.processes import Died, Workers, workers
from mimii_jax.main import ERRORS, STOPPED, keep_compiled
from mimii_jax.train.progress import NonFiniteLoss
from mimii_jax.watch import Interrupted

DIED = "its process died; is there enough memory?"


@dataclass(frozen=True)
class Outcome:
    """How a cell ended.

    Attributes
    ----------
    error : one line; "" if it is done
    failed : whether that is a failure; a config that is not there, and a training that
        diverges under every seed, are findings
    fresh : whether it was run now, not before
    seconds : that it took now
    """

    key: str
    error: str = ""
    failed: bool = False
    fresh: bool = True
    seconds: float = 0.0


def add_arguments(parser: argparse.ArgumentParser, out: str) -> None:
    """The flags that all commands that run cells share."""
    add = parser.add_argument
    add("--out", type=Path, default=Path(out), help=f"folder (default {out})")
    add("--jobs", type=_number, default=1, metavar="N", help="cells at once (1)")
    add("--backend", choices=("local", "dask"), default="local")
    add("--scheduler", default="", metavar="ADDRESS", help="of Dask: tcp://HOST:8786")


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> tuple[argparse.Namespace, list[str]]:
    """The flags, and what is not known to the parser, as --config.field=text.

    The latter are kept from argparse, which takes one with a space for a value.
    """
    given = sys.argv[1:] if argv is None else argv
    fields = [text for text in given if text.startswith("--config.")]
    args, others = parser.parse_known_args([t for t in given if t not in fields])
    return args, [*fields, *others]


def _number(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def share(text: str) -> float:
    """A share of something, from a command line."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0, up to 1")
    return value


def run_cells(
    cells: Mapping[str, Cell],
    options: Options,
    args: argparse.Namespace,
    console: Console,
) -> dict[str, Outcome]:
    """Run cells, each in the folder of its key below `args.out`; says what failed.

    A cell that fails, or whose process dies, is an outcome like others. The console
    needs a file of its own: what a cell prints goes to the log of the cell.

    Raises
    ------
    ConfigError : a field on the command line is in no config
    """
    require_known(options)
    args.out.mkdir(parents=True, exist_ok=True)
    outcomes: dict[str, Outcome] = {}
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TextColumn("cells, {task.fields[text]}"),
        TimeElapsedColumn(),
        TextColumn("left:"),
        TimeRemainingColumn(),
    )
    terminal = console.is_terminal
    with Progress(
        *columns,
        console=console,
        disable=not terminal,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as live:
        bar = live.add_task("cells", total=len(cells), text="")
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            for outcome in _attempts(cells, options, args):
                outcomes[outcome.key] = outcome
                live.update(bar, advance=1, text=outcome.key)
                _say(outcome, f"{len(outcomes)}/{len(cells)}", console)
        except (Interrupted, KeyboardInterrupt):
            console.print("stopped; the same command goes on")
            sys.exit(STOPPED)
        finally:
            signal.signal(signal.SIGTERM, before)
    return {key: outcomes[key] for key in cells}


def _attempts(
    cells: Mapping[str, Cell], options: Options, args: argparse.Namespace
) -> Iterator[Outcome]:
    """Outcomes as they come: from here, from processes, or from a cluster."""
    tasks = [(key, cell, args.out, options) for key, cell in cells.items()]
    if args.backend == "dask":
        with _cluster(args.scheduler):
            yield from _parallel(-1, attempt, tasks)  # as many as there are workers
    elif args.jobs == 1:
        yield from (attempt(*task) for task in tasks)
    else:
        with workers(args.jobs) as processes, parallel_config("threading"):
            elsewhere = partial(_attempt_elsewhere, processes)
            yield from _parallel(args.jobs, elsewhere, tasks)


def _parallel(
    jobs: int, function: Callable[..., Outcome], tasks: Sequence[tuple]
) -> Iterator[Outcome]:
    pool = Parallel(jobs, return_as="generator_unordered")
    yield from cast(Iterator, pool(delayed(function)(*task) for task in tasks))


def _attempt_elsewhere(processes: Workers, key: str, *rest: Any) -> Outcome:
    """`attempt` in a process; one that dies is the failure of its cell."""
    try:
        return processes.call(attempt, key, *rest)
    except Died:
        return Outcome(key, f"failed: {DIED}", failed=True)


@contextmanager
def _cluster(scheduler: str) -> Iterator[None]:
    """Within, joblib runs on the workers of a Dask cluster."""
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError(
            "--backend=dask needs dask: pip install 'mimii_jax[cluster]'"
        ) from error
    with (
        Client(scheduler) as client,
        parallel_config("dask", client=client, wait_for_workers_timeout=60),
    ):
        yield


def attempt(key: str, cell: Cell, out: Path, options: Options) -> Outcome:
    """Run one cell; what goes wrong is told, not raised."""
    workdir = out / key
    since = time.time()
    logging.set_verbosity(logging.WARNING)
    keep_compiled()
    try:
        fresh = run_cell(cell, workdir, options, out)
        return Outcome(key, fresh=fresh, seconds=time.time() - since)
    except NotAvailable as error:
        return Outcome(key, f"not available: {error}")
    except Interrupted:
        raise
    except NonFiniteLoss as error:
        return Outcome(key, f"diverged: {error}")
    except ERRORS as error:
        return Outcome(key, f"failed: {_one_line(error)}", failed=True)
    except Exception as error:  # a cell must not stop the others
        text = f"failed: {type(error).__name__}: {_one_line(error)}"
        return Outcome(key, text, failed=True)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def _say(outcome: Outcome, place: str, console: Console) -> None:
    """A line for a cell that ended; without a terminal it is all there is to see."""
    if outcome.error:
        text = outcome.error
    elif not outcome.fresh:
        text = "was done before"
    else:
        text = f"{outcome.seconds:.0f} s"
    line = f"{place} {outcome.key}: {text}"
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def failures(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Those that failed."""
    return [outcome for outcome in outcomes if outcome.failed]
