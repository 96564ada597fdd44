"""Speed of `dcase.read` against a bare soundfile.read loop on the same files.

python -m experiments.benchmarks.read_speed                  1.1 GB of int16 noise
python -m experiments.benchmarks.read_speed --root DIR       slider recordings in DIR

The readers take turns in one process, with the same number of threads, on files that
the operating system has in its cache (`--cold` drops them from it before each turn).
The loops check nothing. What they do with the audio matters, since new memory can cost
more than reading does:

- default: soundfile.read(path) as it is, float64, dropped at once
- dropped: the same in int16; needs no memory, so it is no way to get the data
- array: int16 into the rows of one new array, which is what `dcase.read` gives
- kept: int16 in a list of arrays, whose memory Python reuses from the turn before

"cached" is `dcase.read` with `data.cache`, which opens no recording and checks the sums
of what it has; it is filled in the first turn, which does not count.
"""

import argparse
import itertools
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile

from mimii_jax.data import dcase
from mimii_jax.data.clips import ANOMALOUS, NORMAL, Clips

MACHINE = "slider"
IDS = {"00": (968, 356), "02": (968, 267), "04": (434, 178)}  # train, anomalous test
SECONDS = 10


def write_noise(root: Path, scale: float) -> None:
    """Write noise with the number of clips that the slider has, times `scale`."""
    rng = np.random.default_rng(0)
    for machine_id, (train, anomalous) in IDS.items():
        parts = [("train", NORMAL, train), ("test", NORMAL, 100)]
        for split, label, count in [*parts, ("test", ANOMALOUS, anomalous)]:
            count = max(1, round(scale * count))
            shape = (count, SECONDS * dcase.SAMPLE_RATE)
            word = "normal" if label == NORMAL else "anomaly"
            stem = f"{word}_id_{machine_id}"
            names = [f"{stem}_{number:08d}.wav" for number in range(count)]
            noise = Clips(
                audio=rng.integers(-(2**15), 2**15, shape, np.int16),
                machine_id=np.full(count, machine_id),
                split=np.full(count, split),
                label=np.full(count, label, np.int8),
                name=np.array(names),
                machine_type=MACHINE,
                sample_rate=dcase.SAMPLE_RATE,
            )
            dcase.write(noise, root)


def in_threads(read: Callable, paths: list[Path], workers: int) -> Iterator[np.ndarray]:
    """`read` of each file; by threads when there are several."""
    if workers == 1:
        yield from map(read, paths)
    else:
        with ThreadPoolExecutor(workers) as pool:
            yield from pool.map(read, paths)


def bare_loop(
    paths: list[Path], workers: int, dtype: Literal["int16", "float64"]
) -> Iterator[np.ndarray]:
    """Read every file with soundfile.read."""
    read = partial(soundfile.read, dtype=dtype)
    return (audio for audio, _ in in_threads(read, paths, workers))


def array_loop(paths: list[Path], workers: int) -> np.ndarray:
    """Read every file with soundfile.read into its row of an array."""
    audio = np.empty((len(paths), soundfile.info(paths[0]).frames), np.int16)
    rows = dict(zip(paths, audio, strict=True))
    for _ in in_threads(
        lambda path: soundfile.read(path, out=rows[path]), paths, workers
    ):
        pass
    return audio


def forget(paths: list[Path]) -> None:
    """Drop files from the operating system's cache."""
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def seconds(read: Callable[[], object]) -> float:
    """Time of one call."""
    started = time.perf_counter()
    read()
    return time.perf_counter() - started


def compare(root: Path, cache: Path, workers: int, rounds: int, cold: bool) -> None:
    """Let the readers take turns and print the medians."""
    paths = sorted((root / MACHINE).glob("t*/*.wav"))
    drop = partial(deque, maxlen=0)
    readers = {
        "loop, default": lambda: drop(bare_loop(paths, workers, "float64")),
        "loop, dropped": lambda: drop(bare_loop(paths, workers, "int16")),
        "loop, array": lambda: array_loop(paths, workers),
        "loop, kept": lambda: list(bare_loop(paths, workers, "int16")),
        "dcase.read": lambda: dcase.read(
            root, MACHINE, workers=workers, progress=False
        ),
        "cached": lambda: dcase.read(
            root, MACHINE, workers=workers, progress=False, cache=cache
        ),
    }
    names = list(readers)
    turns = [names[first:] + names[:first] for first in range(len(names))]
    orders = itertools.cycle(turns)
    times: dict[str, list[float]] = {name: [] for name in readers}
    for turn, order in zip(range(1 + rounds), orders, strict=False):
        for name in order:
            if cold:
                forget([*paths, *cache.rglob("*.clips")])
            took = seconds(readers[name])
            if turn:  # the first turn warms up
                times[name].append(took)
    medians = {name: float(np.median(took)) for name, took in times.items()}
    for name, took in times.items():
        print(
            f"{workers} threads  {name:14} {len(paths) / medians[name]:6.0f} files/s  "
            f"{medians[name]:5.2f} s, {min(took):.2f} to {max(took):.2f}  "
            f"dcase.read has {medians[name] / medians['dcase.read']:.2f} x its speed"
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Speed of reading recordings")
    parser.add_argument("--root", type=Path, help="folder with slider/{train,test}")
    parser.add_argument("--scale", type=float, default=1.0, help="part of 3,471 files")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--cold", action="store_true", help="empty the file cache")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        root = args.root or Path(made)
        if args.root is None:
            write_noise(root, args.scale)
        for workers in args.workers:
            compare(root, Path(made) / "cache", workers, args.rounds, args.cold)


if __name__ == "__main__":
    main()
