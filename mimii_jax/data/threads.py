"""The same work on many files, by threads, with a progress bar."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from rich import progress as bars
from rich.console import Console
from rich.text import Text

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(
    work: Callable[[T], R],
    items: Sequence[T],
    workers: int,
    title: str,
    progress: bool,
) -> list[R]:
    """Results of `work` on each item, in order, by threads, under a progress bar.

    `workers` is the number of threads, 0 for one that keeps the CPUs busy while some
    threads wait for the disk.
    Where there is no terminal, a plain line tells of what took over two seconds.
    """
    console = Console(stderr=True)
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        _Rate(),
        bars.TimeRemainingColumn(),
    )
    chunks = [items[start : start + 16] for start in range(0, len(items), 16)]
    results, started = [], time.monotonic()
    pool = ThreadPoolExecutor(workers or min(8, 2 * (os.cpu_count() or 1)))
    bar = bars.Progress(
        *columns,
        console=console,
        transient=True,
        disable=not (progress and console.is_terminal),
    )
    try:
        with bar:
            task = bar.add_task(title, total=len(items))
            for done in pool.map(lambda chunk: [work(item) for item in chunk], chunks):
                results += done
                bar.update(task, completed=len(results))
    finally:
        pool.shutdown(cancel_futures=True)  # so that Ctrl-C does not wait for the rest
    seconds = time.monotonic() - started
    if progress and seconds > 2 and not console.is_terminal:
        print(f"{title}: {len(items)} files in {seconds:.0f} s", file=sys.stderr)
    return results


class _Rate(bars.ProgressColumn):
    """Files per second."""

    def render(self, task: bars.Task) -> Text:
        return Text(f"{task.speed or 0:.0f} files/s")
