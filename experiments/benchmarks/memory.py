"""Peak memory of the main program at full slider scale.

python -m experiments.benchmarks.memory                  3,471 wav files of noise
python -m experiments.benchmarks.memory --simulated      the simulated rail, scale 1
python -m experiments.benchmarks.memory --root DIR       recordings in DIR
python -m experiments.benchmarks.memory --types fan pump slider valve toy_car toy_belt \
    --scale 1.585 --seconds 1                            32,994 files, one model

Runs `python -m mimii_jax.main` for one epoch. Two numbers: the peak resident memory of
the process, which Linux keeps (VmHWM; that of getrusage would include this process,
from which it was forked), and the peak of the sum over it and all processes that it
started, sampled five times a second (an upper bound: shared pages count repeatedly).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

from experiments.benchmarks.machine import machine
from mimii_jax.command import path_of

PAGE = os.sysconf("SC_PAGE_SIZE")
EVERY = 0.2  # s
RATE = 16_000
IDS = {"00": (968, 356), "02": (968, 267), "04": (434, 178)}  # train, anomalous test


def write_noise(
    folder: Path, scale: float, seconds: float, rng: np.random.Generator
) -> None:
    """Write noise with the slider's numbers of clips, times `scale`."""
    for machine_id, (train, anomalous) in IDS.items():
        counts = {"train/normal": train, "test/normal": 100, "test/anomaly": anomalous}
        for start, count in counts.items():
            (folder / start).parent.mkdir(parents=True, exist_ok=True)
            for number in range(max(1, round(scale * count))):
                path = folder / f"{start}_id_{machine_id}_{number:08d}.wav"
                noise = rng.integers(-(2**15), 2**15, int(seconds * RATE), np.int16)
                soundfile.write(path, noise, RATE)


def measure(command: list[str]) -> tuple[float, float, float]:
    """Run a command; GB at most of its process and of all descendants, and seconds."""
    start = time.perf_counter()
    process = tree = 0
    with subprocess.Popen(command) as job:
        while job.poll() is None:
            process = max(process, peak_resident(job.pid))
            tree = max(tree, _tree_resident(job.pid))
            time.sleep(EVERY)
    if job.returncode:
        raise RuntimeError(f"exit status {job.returncode}: {' '.join(command)}")
    return process / 1e9, tree / 1e9, time.perf_counter() - start


def peak_resident(process: int) -> int:
    """Peak resident bytes so far; 0 once the process is gone."""
    status = Path(f"/proc/{process}/status").read_text()
    lines = (line.split() for line in status.splitlines())
    return next((1024 * int(line[1]) for line in lines if line[0] == "VmHWM:"), 0)


def _tree_resident(root: int) -> int:
    """Resident bytes of a process and its descendants; 0 once it's gone."""
    parents, pages = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        parents[int(folder.name)] = int(fields[1])
        pages[int(folder.name)] = int(fields[21])
    family, young = set(), {root} & set(parents)
    while young:
        family |= young
        young = {child for child, parent in parents.items() if parent in young}
    return PAGE * sum(pages[process] for process in family)


def run(args: argparse.Namespace, flags: list[str], folder: Path) -> None:
    """Measure the main program in a scratch folder and print a line."""
    if args.simulated:
        what, source = f"simulated, scale {args.scale:g}", f"data.scale={args.scale}"
    elif args.root:
        what, source = f"recordings in {args.root}", f"data.root={args.root}"
    else:
        what, source = "noise, as wav files", f"data.root={folder / 'noise'}"
        rng = np.random.default_rng(0)
        for name in args.types:
            write_noise(folder / "noise" / name, args.scale, args.seconds, rng)
        if len(args.types) > 1:
            flags = ["--config.data.machine_types=all", *flags]
    command = [sys.executable, "-m", "mimii_jax.main", "--config", args.config]
    command += ["--config.train.epochs=1", f"--workdir={folder / 'workdir'}"]
    process, tree, seconds = measure([*command, f"--config.{source}", *flags])
    clips = len((folder / "workdir" / "clips.csv").read_text().splitlines()) - 1
    print(f"{what}: {clips:,} clips, {seconds:.0f} s")
    print(f"peak memory: {process:.2f} GB, with its workers {tree:.2f} GB")
    print(machine())


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.memory",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Further flags are those of the main program.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--root", type=path_of, help="folder with slider/{train,test}")
    source.add_argument("--simulated", action="store_true", help="no files")
    add("--scale", type=float, default=1.0, help="part of the 3,471 clips (default 1)")
    add("--seconds", type=float, default=10.0, help="of a file of noise (default 10)")
    add("--types", nargs="+", default=["slider"], help="of noise, as one model")
    add("--config", default="configs/mlp_vae.py")
    args, flags = parser.parse_known_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        run(args, flags, Path(folder))


if __name__ == "__main__":
    main()
