"""Contestants take turns in one process, when the machine has nothing else to do.

Threads that wait for each other, as PyTorch's and XLA's do, lose far more than the
share of the cores that other programs take, and not all alike. So a turn waits for an
idle machine, and the rounds that count are those in which it stayed most idle: they
are chosen by what other programs did, never by who won.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

# Cores that others may use while a turn waits to begin, and how long it looks.
IDLE = 0.15
LOOK = 0.3  # s


class Turn(NamedTuple):
    """One contestant's turn: seconds, and cores that other programs used meanwhile."""

    seconds: float
    others: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of every benchmark that has rounds."""
    add = parser.add_argument
    add("--rounds", type=int, default=9, help="rounds that count (default 9)")
    add("--spare", type=int, default=9, help="rounds more, of which the least idle go")
    add("--patience", type=float, default=5.0, help="seconds to wait for idle cores")


def take_turns(
    contestants: Mapping[str, Callable[[], object]], args: argparse.Namespace
) -> list[dict[str, Turn]]:
    """Time each contestant once per round, in rotating order, after a first round.

    Parameters
    ----------
    contestants : what each does in its turn; it must wait for its own results
    args : with the values of `add_options`

    Returns
    -------
    rounds : the turns of each round that counts, least disturbed first
    """
    names = list(contestants)
    played = []
    for number in track(range(1 + args.rounds + args.spare), "rounds", transient=True):
        first = number % len(names)
        played.append(
            {
                name: _time(contestants[name], args.patience)
                for name in names[first:] + names[:first]
            }
        )
    return sorted(played[1:], key=disturbance)[: args.rounds]


def disturbance(turns: dict[str, Turn]) -> float:
    """Cores that other programs used during the round's most disturbed turn."""
    return max(turn.others for turn in turns.values())


def report(
    title: str,
    unit: str,
    amounts: dict[str, float],
    rounds: Sequence[dict[str, Turn]],
    ours: Sequence[str],
) -> None:
    """Print medians over rounds, ratios of our speed to the others, and the machine.

    Parameters
    ----------
    title : of the table
    unit : what a contestant works through, such as "clips"
    amounts : how many of them in a turn of each contestant
    rounds : from `take_turns`
    ours : contestants whose ratio to every other one is wanted
    """
    table = Table(title=title)
    table.add_column("")
    for column in (f"{unit}/s", "min to max", *(f"{name}: ratio" for name in ours)):
        table.add_column(column, justify="right", no_wrap=True)
    rates = {
        name: amount / np.array([turns[name].seconds for turns in rounds])
        for name, amount in amounts.items()
    }
    for name, rate in rates.items():
        ratios = ("" if name in ours else _ratio(rates[our] / rate) for our in ours)
        extent = f"{rate.min():,.0f} to {rate.max():,.0f}"
        table.add_row(name, f"{np.median(rate):,.0f}", extent, *ratios)
    console = Console(width=110)
    console.print(table)
    others = [disturbance(turns) for turns in rounds]
    console.print(
        f"{len(rounds)} rounds, medians (min to max); other programs used "
        f"{np.median(others):.2f} cores in these rounds, {max(others):.2f} at most",
        highlight=False,
    )
    console.print(machine(), highlight=False)


def machine() -> str:
    """Processor, cores and versions, in one line."""
    packages = [f"Python {platform.python_version()}"]
    for name in ("jax", "torch", "librosa"):
        try:
            packages.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            packages.append(f"no {name}")
    return f"{_processor()}, {cores()} cores; {', '.join(packages)}"


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _ratio(values: np.ndarray) -> str:
    return f"{np.median(values):.2f} ({values.min():.2f} to {values.max():.2f})"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = (line.partition(":") for line in lines)
    field = {name.strip(): value.strip() for name, _, value in pairs}
    name = field.get("model name", platform.machine())
    return f"{name} (family {field.get('cpu family')}, model {field.get('model')})"


def _time(work: Callable[[], object], patience: float) -> Turn:
    """Wait for an idle machine, then time one call."""
    end = time.perf_counter() + patience
    while time.perf_counter() < end:
        if _watched(lambda: time.sleep(LOOK)).others < IDLE:
            break
    return _watched(work)


def _watched(work: Callable[[], object]) -> Turn:
    busy, own, start = _busy(), time.process_time(), time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    used = (_busy() - busy) - (time.process_time() - own)
    return Turn(seconds, max(used, 0.0) / seconds)


def _busy() -> float:
    """Seconds that all cores have worked; this process's alone where not known."""
    try:
        first = Path("/proc/stat").read_text().split("\n", 1)[0]
    except OSError:
        return time.process_time()
    user, nice, system, _, _, irq, softirq, steal = map(int, first.split()[1:9])
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")
