"""Speed of judging files by functionals, reading included.

python -m experiments.benchmarks.files

What `python -m mimii_jax.score` does with wav files of 10 s at 16 kHz, once it has
started: read, score, decide, explain. The detector is fitted to noise; the first files
compile and aren't timed. Seconds by the clock, and of the cores, all threads together,
which other programs lengthen less.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from experiments.benchmarks.latency import fit
from experiments.benchmarks.machine import machine
from mimii_jax.judge import AT_ONCE, Judge

RATE = 16000


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.files",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--files", type=int, default=1000, help="that are timed (default 1000)")
    add("--clips", type=int, default=40, help="normal clips to fit to (default 40)")
    add("--seconds", type=float, default=10.0, help="length of a file (default 10)")
    args = parser.parse_args(arguments)
    noise, shape = np.random.default_rng(0), (args.clips, round(RATE * args.seconds))
    waves = noise.normal(0, 1000, shape).astype(np.int16)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fit("functionals", waves, folder)
        judge = Judge.load(folder / "functionals", false_alarms=0.05, method="gamma")
        files = [folder / f"{number:05}.wav" for number in range(args.files)]
        for path in files:
            wave = noise.normal(0, 1000, shape[1]).astype(np.int16)
            soundfile.write(path, wave, RATE)
        last = len(files) % AT_ONCE or AT_ONCE  # a part of its own shape
        for some in (files[:AT_ONCE], files[-last:]):
            list(judge(some))
        start, worked = time.perf_counter(), time.process_time()
        count = sum(1 for _ in judge(files))
        seconds, work = time.perf_counter() - start, time.process_time() - worked
    print(
        f"{count} files of {args.seconds:g} s: {count / seconds:.0f} files/s; "
        f"{1e3 * work / count:.2f} ms of the cores per file"
    )
    print(machine())


if __name__ == "__main__":
    main()
