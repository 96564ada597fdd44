"""Speed of `dcase.read` against bare soundfile loops on the same files.

python -m experiments.benchmarks.read_speed                  1.1 GB of int16 noise
python -m experiments.benchmarks.read_speed --root DIR       slider recordings in DIR

The readers take turns in one process, with the same number of threads, on files in the
page cache (`--cold` drops them before each turn). The loops check nothing:

- float64: soundfile.read(path) as it is, dropped at once
- int16: the same in int16
- array: int16 into the rows of one new array, which is what `dcase.read` returns
"""

import argparse
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import soundfile

from mimii_jax.data import dcase
from mimii_jax.data.clips import ANOMALOUS, NORMAL, Clips

THREADS = min(8, 2 * (os.cpu_count() or 1))  # as `log.in_threads`
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
            names = [f"{word}_id_{machine_id}_{n:08d}.wav" for n in range(count)]
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


def each(read: Callable, *items: Sequence) -> None:
    """`read` the items by threads and drop what it returns."""
    with ThreadPoolExecutor(THREADS) as pool:
        deque(pool.map(read, *items), maxlen=0)


def into_array(paths: list[Path]) -> np.ndarray:
    """Read every file with soundfile.read into its row of an array."""
    audio = np.empty((len(paths), soundfile.info(paths[0]).frames), np.int16)
    each(lambda path, row: soundfile.read(path, out=row), paths, list(audio))
    return audio


def forget(paths: list[Path]) -> None:
    """Drop files from the page cache."""
    for path in paths:
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def compare(root: Path, rounds: int, cold: bool) -> None:
    """Let the readers take turns and print the medians."""
    paths = sorted((root / MACHINE).glob("t*/*.wav"))
    readers: dict[str, Callable[[], object]] = {
        "float64": lambda: each(soundfile.read, paths),
        "int16": lambda: each(partial(soundfile.read, dtype="int16"), paths),
        "array": lambda: into_array(paths),
        "dcase.read": lambda: dcase.read(root, MACHINE),
    }
    names = list(readers)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(1 + rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            if cold:
                forget(paths)
            start = time.perf_counter()
            readers[name]()
            if turn:  # the first turn warms up
                times[name].append(time.perf_counter() - start)
    medians = {name: float(np.median(took)) for name, took in times.items()}
    for name, took in times.items():
        print(
            f"{THREADS} threads  {name:10} {len(paths) / medians[name]:6.0f} files/s  "
            f"{medians[name]:5.2f} s, {min(took):.2f} to {max(took):.2f}  "
            f"dcase.read has {medians[name] / medians['dcase.read']:.2f} x its speed"
        )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Speed of reading recordings")
    parser.add_argument("--root", type=Path, help="folder with slider/{train,test}")
    parser.add_argument("--scale", type=float, default=1.0, help="share of 3,471 files")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--cold", action="store_true", help="empty the page cache")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        root = args.root or Path(made)
        if args.root is None:
            write_noise(root, args.scale)
        compare(root, args.rounds, args.cold)


if __name__ == "__main__":
    main()
