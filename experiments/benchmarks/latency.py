"""Latency of a decision on one clip, by the API that a user has.

python -m experiments.benchmarks.latency

One wave of 10 s, int16, goes in; score and decision come out of a detector that
`mimii_jax.load` returned: `decision_function` and a comparison with `threshold_`. Every
detector has its config's sizes and one seed, and is fitted for one epoch to noise: how
well it is trained costs no time. Compiling isn't timed; medians over `--calls`. Other
programs lengthen a call; the time of the cores, all threads together, less so.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import mimii_jax
from experiments.benchmarks.machine import machine
from mimii_jax.named import load_config

GOALS_MS = {"functionals": 10, "mlp_vae": 20, "conv_vae": 40, "transformer": 60}
WARM_UP = 5  # calls


def decide(detector: Any, wave: np.ndarray) -> tuple[float, bool]:
    """Score and decision."""
    (score,) = detector.decision_function([wave])
    return score, score > detector.threshold_


def fit(name: str, waves: np.ndarray, folder: Path) -> Any:
    """A detector that was saved and loaded."""
    trained = "train" in load_config(name)
    fields: dict[str, Any] = {"train__epochs": 1, "seeds": (0,)} if trained else {}
    mimii_jax.Detector(name, **fields).fit(waves).save(folder / name)
    return mimii_jax.load(folder / name)


def measure(detector: Any, wave: np.ndarray, calls: int) -> np.ndarray:
    """Milliseconds of each call, by the clock and of the cores."""
    found = []
    for _ in range(WARM_UP + calls):
        start, worked = time.perf_counter(), time.process_time()
        decide(detector, wave)
        found.append((time.perf_counter() - start, time.process_time() - worked))
    return 1e3 * np.array(found[WARM_UP:]).T


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("names", nargs="*", default=list(GOALS_MS), help="configs (default: all four)")
    add("--calls", type=int, default=100, help="that are timed (default 100)")
    add("--clips", type=int, default=40, help="normal clips to fit to (default 40)")
    add("--seconds", type=float, default=10.0, help="length of a clip (default 10)")
    args = parser.parse_args(arguments)
    noise, n = np.random.default_rng(0), round(16000 * args.seconds)
    waves = noise.normal(0, 1000, (args.clips + 1, n)).astype(np.int16)
    table = Table(title=f"One clip of {args.seconds:g} s: score and decision, ms")
    for column in ("", "median", "5 to 95 %", "goal", "of cores"):
        table.add_column(column, justify="right", no_wrap=True)
    with tempfile.TemporaryDirectory() as folder:
        for name in args.names:
            detector = fit(name, waves[:-1], Path(folder))
            ms, of_cores = measure(detector, waves[-1], args.calls)
            low, high = np.quantile(ms, [0.05, 0.95])
            goal = str(GOALS_MS.get(name, ""))
            extent = f"{low:.1f} to {high:.1f}"
            work = f"{np.median(of_cores):.1f}"
            table.add_row(name, f"{np.median(ms):.1f}", extent, goal, work)
    console = Console(width=110, highlight=False)
    console.print(table)
    console.print(f"medians of {args.calls} calls; {machine()}")


if __name__ == "__main__":
    main()
