"""What a user sees while a run works, and what `metrics.jsonl` keeps of it."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


class Interrupted(BaseException):
    """Stopped on request, no error; whatever was saved can be gone on from."""


class Watch:
    """Progress bars on a terminal, plain lines elsewhere; and the wish to stop.

    Parameters
    ----------
    metrics : file that `record` appends to, one JSON object per line; None for none
    console : where to print; the terminal unless given
    leader : whether this process is the one of several that prints and writes
    """

    def __init__(
        self,
        metrics: Path | None = None,
        console: Console | None = None,
        leader: bool = True,
    ):
        self.metrics = metrics
        self.console = console or Console(quiet=not leader)
        self.leader = leader
        # What a caller adds to each record, such as the machine type.
        self.context: dict[str, object] = {}
        self.stopped = False  # whether a stop is asked for
        self._patient = False
        self.profile: Path | None = None  # folder for a JAX profile of some steps
        self._events: Any = None

    def begin(self, workdir: Path, machine_type: str) -> None:
        """Keep what comes in the metrics of a workdir, as that of a machine type."""
        if self.leader:
            self.metrics = workdir / "metrics.jsonl"
        self.context = {"machine_type": machine_type}

    def open_tensorboard(self, folder: Path) -> None:
        """Write TensorBoard event files of what is recorded, too.

        Raises
        ------
        ImportError : tensorboardX, which writes them, is not installed
        """
        if not self.leader:
            return
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "tensorboard=True needs tensorboardX: "
                "pip install 'mimii_jax[tensorboard]'"
            ) from error
        self._events = SummaryWriter(str(folder))

    def stop(self, *_: object) -> None:
        """Ask to stop: at the next dispatch of a training, elsewhere at once.

        Made to be a signal handler. Asked twice, it does not wait for a training.
        """
        if self.stopped or not self._patient:
            raise Interrupted
        self.stopped = True
        self.say("stopping: saves first (once more to stop at once)")

    @contextmanager
    def patience(self) -> Iterator[None]:
        """Within, `stop` waits for the training to look at `stopped`."""
        self._patient = True
        try:
            yield
        finally:
            self._patient = False

    def say(self, text: str) -> None:
        """Print one plain line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def record(self, **row: object) -> None:
        """Append a row, with the context before it, to the metrics file."""
        if self.metrics:
            with self.metrics.open("a") as file:
                file.write(json.dumps(self.context | row) + "\n")
        if self._events:
            for name, value in row.items():
                values = value if isinstance(value, list) else [value]
                for i, number in enumerate(values):
                    if isinstance(number, int | float) and name != "seeds":
                        tag = f"{name}/{i}" if len(values) > 1 else name
                        self._events.add_scalar(tag, number, row.get("step"))
            self._events.flush()

    def rewind(self, step: int) -> None:
        """Forget the rows of this context that lie after a step."""
        if self.metrics and self.metrics.exists():
            lines = self.metrics.read_text().splitlines(keepends=True)
            rows = [(line, json.loads(line)) for line in lines if line.endswith("\n")]
            kept = [
                line
                for line, row in rows
                if row.get("step", 0) <= step
                or any(row.get(key) != value for key, value in self.context.items())
            ]
            replacement = self.metrics.with_name(f".{self.metrics.name}")
            replacement.write_text("".join(kept))
            replacement.replace(self.metrics)

    @contextmanager
    def bar(
        self, task: str, total: int, unit: str = "clips"
    ) -> Iterator[Callable[..., None]]:
        """Show a bar; yields `advance(n, text="")`.

        A bar stays on the terminal with its rate when done. Without a terminal one
        line tells that it is done, if it took longer than two seconds.
        """
        start = time.perf_counter()
        done = 0
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        )
        live = Progress(
            *columns, console=self.console, disable=not self.console.is_terminal
        )
        with live:
            row = live.add_task(task, total=total, text="")
            last = ""

            def advance(n: int, text: str = "") -> None:
                nonlocal done, last
                done += n
                rate = done / max(time.perf_counter() - start, 1e-9)
                last = f"{text}{rate:,.0f} {unit}/s"
                live.update(row, advance=n, text=last)

            yield advance
        seconds = time.perf_counter() - start
        if not self.console.is_terminal and seconds > 2:
            self.say(f"{task}: {done} {unit}, {last}, {seconds:.0f} s")
