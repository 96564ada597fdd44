"""Contestants take turns in one process, while the machine is otherwise idle.

Threads that wait for each other, as PyTorch's and XLA's do, lose far more than the
share of the cores that other programs take, and not all alike. So a turn waits for an
idle machine, and the rounds that count are those with the least other load: they are
chosen by what other programs did, never by who won.
"""

import argparse
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from experiments.benchmarks.machine import machine
from mimii_jax import log

IDLE = 0.15  # cores that others may use when a turn starts
LOOK = 0.3  # s, of which this is measured
# An optional peer, of which a type checker knows nothing.
torch: Any = import_module("torch") if find_spec("torch") else None


class Turn(NamedTuple):
    """One contestant's turn: seconds, and cores that other programs used meanwhile."""

    seconds: float
    others: float


def benchmark_parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """Create the parser of a benchmark that has rounds."""
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.benchmarks.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--rounds", type=int, default=9, help="rounds that count (default 9)")
    add("--spare", type=int, default=9, help="further rounds; the least idle are left")
    add("--patience", type=float, default=5.0, help="seconds to wait for idle cores")
    return parser


def take_turns(
    contestants: Mapping[str, Callable[[], object]], args: argparse.Namespace
) -> list[dict[str, Turn]]:
    """Time each contestant once per round, in rotating order, after a warm-up round.

    The work of a turn waits for its own results. Returns the turns of each round that
    counts, least disturbed first.
    """
    names, n_rounds = list(contestants), 1 + args.rounds + args.spare
    played = []
    with log.bar("rounds", n_rounds, "rounds") as advance:
        for number in range(n_rounds):
            first = number % len(names)
            order = names[first:] + names[:first]
            played.append({n: _time(contestants[n], args.patience) for n in order})
            advance(1)
    return sorted(played[1:], key=_disturbance)[: args.rounds]


def _disturbance(turns: dict[str, Turn]) -> float:
    """Cores that other programs used during the round's most disturbed turn."""
    return max(turn.others for turn in turns.values())


def report(
    title: str,
    unit: str,
    amounts: dict[str, float],  # units in a turn of each contestant
    rounds: Sequence[dict[str, Turn]],
    ours: Sequence[str],  # contestants to compare with every other one
) -> None:
    """Print medians over rounds, ratios to our speed, and the machine."""
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
    console = Console(width=110, highlight=False)
    console.print(table)
    others = list(map(_disturbance, rounds))
    console.print(
        f"{len(rounds)} rounds, medians (min to max); other programs used "
        f"{np.median(others):.2f} cores in these rounds, {max(others):.2f} at most"
    )
    console.print(machine())


def _ratio(values: np.ndarray) -> str:
    return f"{np.median(values):.2f} ({values.min():.2f} to {values.max():.2f})"


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
    """Seconds that all cores have worked; elsewhere than on Linux, this process."""
    path = Path("/proc/stat")
    if not path.exists():
        return time.process_time()
    first = path.read_text().split("\n", 1)[0]
    user, nice, system, _, _, irq, softirq, steal = map(int, first.split()[1:9])
    ticks = user + nice + system + irq + softirq + steal
    return ticks / os.sysconf("SC_CLK_TCK")
