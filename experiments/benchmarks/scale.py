"""Cost of training against the amount of data and the number of runs.

python -m experiments.benchmarks.scale

Each row is a process of its own: epochs of a small MLP VAE on noise, as one program.
Seconds are of the process's clock on all cores and of the wall, per epoch, the median
after one that compiles; memory is the most that the process ever held.
"""

import argparse
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from experiments.benchmarks.machine import machine
from experiments.benchmarks.memory import peak_resident
from experiments.benchmarks.train import Task, ours
from mimii_jax.named import load_config, set_fields

SMALL = {"detector.hidden": (64,), "detector.latent": 8, "features.n_mels": 32}


def measure(clips: int, runs: int, epochs: int) -> tuple[float, float, float]:
    """Seconds of the cores and of the wall per epoch; GB at most."""
    config = load_config("mlp_vae")
    set_fields(config, SMALL)
    task = Task(config, clips, 1)
    task.steps = -(-clips * task.per_clip // task.batch)
    turn, seconds = ours(task, runs), []
    for _ in range(1 + epochs):
        cores, wall = time.process_time(), time.perf_counter()
        turn()
        seconds.append((time.process_time() - cores, time.perf_counter() - wall))
    cores, wall = np.median(seconds[1:], axis=0).tolist()
    return cores, wall, peak_resident(os.getpid()) / 1e9


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--clips", type=int, default=100, help="of 10 s, times 1 (default 100)")
    add("--times", type=int, nargs="+", default=[1, 2, 4, 8], help="of the data")
    add("--runs", type=int, nargs="+", default=[1, 5, 25], help="as one program")
    add("--epochs", type=int, default=3, help="that are timed (default 3)")
    args = parser.parse_args(arguments)
    print("| runs | data | s of the cores | per run and data | s | GB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    new = get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=new, max_tasks_per_child=1) as pool:
        for runs in args.runs:
            for times in args.times:
                job = pool.submit(measure, times * args.clips, runs, args.epochs)
                cores, wall, peak = job.result()
                row = f"{cores:.2f} | {cores / (runs * times):.3f} | {wall:.2f}"
                print(f"| {runs} | {times} x | {row} | {peak:.2f} |", flush=True)
    print(machine())


if __name__ == "__main__":
    main()
