"""Simulated slide rails, normal and faulty, with the official numbers of clips.

python -m mimii_jax.slide_rail.simulate --out DIR --scale 0.1

The sound is simulated: `slide_rail_physics` says how, and
`experiments/calibrate_slide_rail.md` how it compares with real recordings.
"""

import argparse
import csv
import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import chain
from pathlib import Path
from typing import cast

import numpy as np
from joblib import Parallel, cpu_count, delayed
from rich.progress import track

from mimii_jax.data.clips import ANOMALOUS, NORMAL, Clips
from mimii_jax.errors import DataError
from mimii_jax.slide_rail.acoustics import SAMPLE_RATE, SAMPLES
from mimii_jax.slide_rail.faults import Fault
from mimii_jax.slide_rail.machines import FAULT_KINDS, MECHANICS
from mimii_jax.slide_rail.sound import render

# Official numbers of clips: training normal; test anomalous, test normal.
COUNTS = {
    machine_id: {
        "train": ((NORMAL, train),),
        "test": ((ANOMALOUS, anomalous), (NORMAL, 100)),
    }
    for machine_id, train, anomalous in (
        ("00", 968, 356),
        ("01", 968, 178),
        ("02", 968, 267),
        ("03", 968, 178),
        ("04", 434, 178),
        ("05", 434, 178),
        ("06", 434, 89),
    )
}
_SERIAL_BELOW = 60  # clips; fewer are done sooner than worker processes start
_BATCH = 8  # clips per task: 2.6 MB back from a worker at a time


@dataclass(frozen=True)
class FaultLabel:
    """One stretch of one clip in which its fault sounds.

    Attributes
    ----------
    name : file name of the clip
    kind : one of `FAULT_KINDS`
    severity : in (0, 1]
    start_s, end_s : in seconds from the beginning of the clip
    """

    name: str
    kind: str
    severity: float
    start_s: float
    end_s: float


@dataclass(frozen=True, eq=False)
class Simulation:
    """Simulated clips, and when the faults of the anomalous ones sound."""

    clips: Clips
    faults: list[FaultLabel]


@dataclass(frozen=True)
class _Plan:
    """Which clip this is: all that its sound depends on, beside the seed."""

    machine_id: str
    split: str
    label: int
    index: int

    @property
    def name(self) -> str:
        kind = "anomaly" if self.label == ANOMALOUS else "normal"
        return f"{kind}_id_{self.machine_id}_{self.index:08d}.wav"


def simulate(
    ids: Sequence[str] = ("00", "02", "04"),
    *,
    scale: float = 1.0,
    seed: int = 0,
    workers: int = 0,
    progress: bool = True,
) -> Simulation:
    """Simulate the slide rails `ids`, training clips first.

    A clip depends on the seed and on its own ID, split, label and number only: not on
    the other IDs, the scale or the number of workers.

    Parameters
    ----------
    ids : machine IDs, of `COUNTS`
    scale : > 0, times the official numbers of clips; at least one of each remains
    seed : >= 0
    workers : processes; 0 for one per core
    progress : show a progress bar

    Raises
    ------
    DataError : unknown ID, or a scale, seed or number of workers out of range
    """
    _check(ids, scale, seed, workers)
    plans = _plans(ids, scale)
    audio = np.empty((len(plans), SAMPLES), np.int16)
    faults = []
    results = _results(plans, seed, workers)
    if progress:
        results = track(results, "simulating", total=len(plans))
    for row, (plan, (sound, labels)) in enumerate(zip(plans, results, strict=True)):
        audio[row] = sound
        faults += [FaultLabel(plan.name, *label) for label in labels]
    clips = Clips(
        audio=audio,
        machine_id=np.array([plan.machine_id for plan in plans]),
        split=np.array([plan.split for plan in plans]),
        label=np.array([plan.label for plan in plans], np.int8),
        name=np.array([plan.name for plan in plans]),
        machine_type="slider",
        sample_rate=SAMPLE_RATE,
    )
    return Simulation(clips, faults)


def _check(ids: Sequence[str], scale: float, seed: int, workers: int) -> None:
    unknown = sorted(set(ids) - set(MECHANICS))
    if unknown or not ids:
        what = f"no slide rail {', '.join(unknown)}" if unknown else "no machine ID"
        raise DataError(f"{what}; choose from {', '.join(sorted(MECHANICS))}")
    if not 0 < scale < float("inf"):
        raise DataError(f"scale must be greater than 0, not {scale:g}")
    if seed < 0 or workers < 0:
        field, value = ("seed", seed) if seed < 0 else ("workers", workers)
        raise DataError(f"{field} must not be negative, not {value}")


def _plans(ids: Sequence[str], scale: float) -> list[_Plan]:
    """The clips in the order in which they are read: by split, ID, name."""
    return [
        _Plan(machine_id, split, label, index)
        for split in ("train", "test")
        for machine_id in sorted(set(ids))
        for label, count in COUNTS[machine_id][split]
        for index in range(max(1, round(count * scale)))
    ]


def _results(plans: list[_Plan], seed: int, workers: int) -> Iterator[tuple]:
    """The sound and fault labels of every clip, in order."""
    workers = min(workers or cpu_count(), len(plans))
    if workers == 1 or len(plans) < _SERIAL_BELOW:
        for plan in plans:
            yield _clip(plan, seed)
        return
    batches = [plans[i : i + _BATCH] for i in range(0, len(plans), _BATCH)]
    # Processes that are started afresh, not forked: safe beside JAX's threads.
    pool = Parallel(workers, backend="loky", return_as="generator")
    done = cast(Iterator, pool(delayed(_clips)(batch, seed) for batch in batches))
    yield from chain.from_iterable(done)


def _clips(plans: list[_Plan], seed: int) -> list[tuple]:
    return [_clip(plan, seed) for plan in plans]


def _clip(plan: _Plan, seed: int) -> tuple[np.ndarray, list[tuple]]:
    """Audio of one clip, and (kind, severity, start, end) of each sounding stretch."""
    identity = (int(plan.machine_id), int(plan.split == "test"), plan.label, plan.index)
    rng = np.random.default_rng(np.random.SeedSequence((seed, *identity)))
    fault = None
    if plan.label == ANOMALOUS:
        fault = Fault(str(rng.choice(FAULT_KINDS)), 1 - rng.random())
    audio, intervals = render(MECHANICS[plan.machine_id], fault, rng)
    if fault is None:
        return audio, []
    return audio, [(fault.kind, fault.severity, *interval) for interval in intervals]


def write_faults(faults: Sequence[FaultLabel], path: Path) -> None:
    """Write fault labels as a csv file with a header."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([field.name for field in fields(FaultLabel)])
        for fault in faults:
            name, kind, *numbers = astuple(fault)
            table.writerow([name, kind, *(f"{number:.4f}" for number in numbers)])


def main(arguments: Sequence[str] | None = None) -> None:
    """Write simulated clips as wav files, and faults.csv beside them."""
    from mimii_jax.data import dcase

    parser = argparse.ArgumentParser(
        prog="python -m mimii_jax.slide_rail.simulate", description=main.__doc__
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="root of the data set to write")
    add("--scale", type=float, default=1.0, help="times the official numbers of clips")
    add("--seed", type=int, default=0)
    add("--ids", nargs="+", default=["00", "02", "04"], metavar="ID")
    add("--workers", type=int, default=0, help="processes; 0 for one per core")
    given = parser.parse_args(arguments)
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        simulation = simulate(
            given.ids, scale=given.scale, seed=given.seed, workers=given.workers
        )
        dcase.write(simulation.clips, given.out)
        write_faults(simulation.faults, given.out / "slider" / "faults.csv")
    except DataError as error:
        sys.exit(f"slide_rail: {error}")
    except OSError as error:
        sys.exit(f"slide_rail: --out {given.out}: cannot be written: {error.strerror}")
    print(f"wrote {len(simulation.clips)} simulated clips to {given.out / 'slider'}")


if __name__ == "__main__":
    main()
