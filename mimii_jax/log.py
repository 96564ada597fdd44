"""Lines, the one progress bar, metrics.jsonl, and the request to stop."""

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from mimii_jax.errors import ConfigError, DataError
from mimii_jax.files import file_errors, printable, replace_file

T = TypeVar("T")
R = TypeVar("R")

# Names are text, never rich's markup, not in tables either.
console = Console(highlight=False, markup=False)
_errors = Console(stderr=True, highlight=False, markup=False)
_silent = ContextVar("silent", default=False)
_one_bar = Lock()  # of all threads, one shows its bar


def info(text: str) -> None:
    """Print one plain line."""
    if not _silent.get():
        console.print(_plain(text), soft_wrap=True)


def warning(text: str) -> None:
    """Print one plain line on the standard error stream."""
    _errors.print(f"warning: {_plain(text)}", soft_wrap=True)


def _plain(text: str) -> str:
    """Escape what a terminal obeys; lines stay."""
    return "\n".join(map(printable, text.split("\n")))


def quiet() -> None:
    """Print and record nothing: of several processes, one speaks."""
    console.quiet = _errors.quiet = True


@contextmanager
def silent() -> Iterator[None]:
    """Show neither lines nor bars of this thread in a block; warnings are shown."""
    token = _silent.set(True)
    try:
        yield
    finally:
        _silent.reset(token)


@contextmanager
def bar(task: str, total: int, unit: str = "clips") -> Iterator[Callable[..., None]]:
    """Show a progress bar; yields `advance(n, text="")`.

    On a terminal the bar stays with its rate when done; elsewhere one line says so if
    the task took longer than two seconds. Within another bar nothing is shown.
    """
    if _silent.get() or not _one_bar.acquire(blocking=False):
        yield lambda n, text="": None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
    )
    start, done, last = time.perf_counter(), 0, ""
    try:
        with Progress(
            *columns, console=console, disable=not console.is_terminal
        ) as live:
            row = live.add_task(task, total=total, text="")

            def advance(n: int, text: str = "") -> None:
                nonlocal done, last
                done += n
                rate = done / max(time.perf_counter() - start, 1e-9)
                speed = (
                    f"{rate:,.0f} {unit}/s"
                    if rate > 1
                    else f"{60 * rate:.2g} {unit}/min"
                )
                last = f"{text}{speed}"
                live.update(row, advance=n, text=last)

            yield advance
    finally:
        _one_bar.release()
    seconds = time.perf_counter() - start
    if not console.is_terminal and seconds > 2:
        things = unit if done != 1 else unit.removesuffix("s")
        info(f"{task}: {done:,} {things}, {last}, {seconds:.0f} s")


def in_threads(
    task: str, work: Callable[[T], R], items: Sequence[T], unit: str = "clips"
) -> list[R]:
    """Results of `work` on each item, in order, by threads, under a bar."""
    results = []
    with _threads() as pool, bar(task, len(items), unit) as advance:
        for result in pool.map(work, items):
            results.append(result)
            advance(1)
    return results


def ahead(work: Callable[[T], R], parts: Sequence[Sequence[T]]) -> Iterator[list[R]]:
    """Yield the results of each part, while threads work on the next one."""
    waiting = deque()
    with _threads() as pool:
        for part in parts:
            waiting.append([pool.submit(work, item) for item in part])
            if len(waiting) > 1:
                yield [one.result() for one in waiting.popleft()]
        for part in waiting:
            yield [one.result() for one in part]


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    count = min(8, 2 * (os.cpu_count() or 1))
    pool = ThreadPoolExecutor(count, initializer=_silent.set, initargs=(_silent.get(),))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)  # Ctrl-C doesn't wait for the rest


@dataclass
class _Metrics:
    """Where `record` writes: a file, and TensorBoard if that is wanted."""

    path: Path | None = None
    context: dict[str, Any] = field(default_factory=dict)
    events: Any = None


_metrics = _Metrics()


def open_metrics(
    path: Path, context: dict[str, Any], tensorboard: Path | None = None
) -> None:
    """Let `record` append to a file; `context` becomes part of every row."""
    events = None
    if tensorboard and not console.quiet:
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                "tensorboard=True needs tensorboardX: pip install '.[tensorboard]'"
            ) from error
        events = SummaryWriter(str(tensorboard))
    _metrics.path = None if console.quiet else path
    _metrics.context, _metrics.events = context, events


def close_metrics() -> None:
    """Let `record` do nothing."""
    if _metrics.events:
        _metrics.events.close()
    _metrics.path, _metrics.context, _metrics.events = None, {}, None


def record(**row: object) -> None:
    """Append a row to the metrics file, one JSON object per line."""
    if _metrics.path:
        with file_errors(_metrics.path), _metrics.path.open("a") as file:
            file.write(json.dumps(_metrics.context | row) + "\n")
    if _metrics.events:
        for name, value in row.items():
            values = value if isinstance(value, list) else [value]
            for i, number in enumerate(values):
                if isinstance(number, int | float) and name != "seeds":
                    tag = f"{name}/{i}" if len(values) > 1 else name
                    _metrics.events.add_scalar(tag, number, row.get("step"))
        _metrics.events.flush()


def rewind(step: int) -> None:
    """Drop this context's rows of later steps, which a resumed training repeats."""
    path = _metrics.path
    if not path or not path.exists():
        return
    with file_errors(path):
        lines = path.read_bytes().decode(errors="replace").splitlines(keepends=True)
    kept = []
    for number, line in enumerate(lines, start=1):
        if not line.endswith("\n"):  # cut off by a kill
            continue
        try:
            row = json.loads(line)
            stage = {key: row.get(key) for key in _metrics.context}
            if row.get("step", 0) <= step or stage != _metrics.context:
                kept.append(line)
        except (ValueError, AttributeError, TypeError):
            where = f"{path}:{number}"
            raise DataError(f"{where}: damaged; remove the line and rerun") from None
    replace_file(path, "".join(kept).encode())


class Interrupted(BaseException):
    """Raised on SIGINT or SIGTERM. Training resumes from the last checkpoint."""


class _Stop:
    requested = False
    deferred = False


def stop_requested() -> bool:
    """Whether a training should save and stop."""
    return _Stop.requested


def request_stop(*_: object) -> None:
    """Stop: a training after its current dispatch, everything else at once.

    A signal handler. The second signal stops a training at once, too.
    """
    if _Stop.requested or not _Stop.deferred:
        raise Interrupted
    _Stop.requested = True
    info("stopping after a checkpoint (once more: stop at once)")


@contextmanager
def deferred_stop() -> Iterator[None]:
    """Let `request_stop` wait in a block, for the caller to look at `stop_requested`.

    A request that the caller hasn't seen is kept for the next such block.
    """
    _Stop.deferred = True
    try:
        yield
    except BaseException:
        _Stop.requested = False
        raise
    finally:
        _Stop.deferred = False
