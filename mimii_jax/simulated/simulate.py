"""Simulated machines, normal and faulty, with the official numbers of clips.

python -m mimii_jax.simulated.simulate --out DIR --scale 0.1 [--machine fan]

`slide_rail`, `fan` and `valve` describe the physics. Slide rails are compared with real
recordings in `experiments/calibrate_slide_rail.md`; fans and valves with none.
"""

import argparse
import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from joblib import Parallel, cpu_count, delayed

from mimii_jax import log
from mimii_jax.command import one_line_errors, path_of
from mimii_jax.data import dcase
from mimii_jax.data.clips import ANOMALOUS, NORMAL, Clips
from mimii_jax.errors import DataError, require_memory
from mimii_jax.files import make_folder, replace_file
from mimii_jax.simulated import fan, rails, slide_rail, valve
from mimii_jax.simulated.acoustics import SAMPLE_RATE, SAMPLES, Fault


class Machines(NamedTuple):
    """The simulated machines of a type."""

    render: Callable[..., tuple[Any, Any]]  # (machine, fault, rng): audio, intervals
    by_id: Mapping[str, Any]
    fault_kinds: Sequence[str]
    counts: Mapping[str, tuple[int, int]]  # official: training normal, test anomalous


MACHINES = {
    "slider": Machines(
        slide_rail.render,
        rails.MECHANICS,
        rails.FAULT_KINDS,
        {
            **{"00": (968, 356), "01": (968, 178), "02": (968, 267), "03": (968, 178)},
            **{"04": (434, 178), "05": (434, 178), "06": (434, 89)},
        },
    ),
    "fan": Machines(
        fan.render,
        fan.FANS,
        fan.FAULT_KINDS,
        {"00": (911, 407), "02": (916, 359), "04": (933, 348), "06": (915, 361)},
    ),
    "valve": Machines(
        valve.render,
        valve.VALVES,
        valve.FAULT_KINDS,
        {"00": (891, 119), "02": (608, 120), "04": (900, 120), "06": (892, 120)},
    ),
}
TEST_NORMALS = 100  # of every ID
_SERIAL_BELOW = 60  # clips; fewer are done sooner than worker processes start


@dataclass(frozen=True)
class FaultLabel:
    """Interval of a clip in which its fault sounds, in seconds from the start."""

    name: str  # file name of the clip
    kind: str  # such as "rail_damage"
    severity: float  # in (0, 1]
    start_s: float
    end_s: float


@dataclass(frozen=True, eq=False)
class Simulation:
    """Simulated clips, and the intervals in which the faults sound."""

    clips: Clips
    faults: list[FaultLabel]


@dataclass(frozen=True)
class _Identity:
    """Everything that a clip's sound depends on, besides the seed."""

    machine_type: str
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
    machine_type: str = "slider",
    scale: float = 1.0,
    train_share: float = 1.0,
    test_share: float = 1.0,
    seed: int = 0,
) -> Simulation:
    """Simulate the machines `ids` of a type, training clips first.

    A clip depends on the seed and on its own ID, split, label and index only: not on
    the other IDs, the scale or the number of CPUs.

    Parameters
    ----------
    ids : machine IDs
    machine_type : of `MACHINES`
    scale : > 0, factor on the official numbers of clips; at least one of each remains
    train_share, test_share : of the training and the test clips at this scale
    seed : >= 0
    """
    counts = official_counts(machine_type)
    if not ids or set(ids) - set(counts):
        known = ", ".join(counts)
        raise DataError(f"ids={', '.join(ids)}: choose a {machine_type} from {known}")
    if not 0 < scale < float("inf"):
        raise DataError(f"scale={scale:g}: must be greater than 0; try 0.1")
    if seed < 0:
        raise DataError(f"seed={seed}: must be 0 or greater")
    shares = {"train": train_share, "test": test_share}
    rows = [
        (split, machine_id, label, count)
        for split in ("train", "test")
        for machine_id in sorted(set(ids))
        for label, count in counts[machine_id][split]
    ]
    most = scale * max(shares.values()) * sum(count for *_, count in rows)
    require_memory(2 * SAMPLES * most, f"data.scale={scale:g}")
    identities = [
        _Identity(machine_type, machine_id, split, label, index)
        for split, machine_id, label, count in rows
        for index in range(max(1, round(count * scale * shares[split])))
    ]
    audio = np.empty((len(identities), SAMPLES), np.int16)
    faults = []
    # loky starts its processes afresh instead of forking: safe beside JAX's threads.
    workers = cpu_count() if len(identities) >= _SERIAL_BELOW else 1
    pool = Parallel(workers, "loky", return_as="generator")
    results = pool(delayed(_render)(clip, seed) for clip in identities)
    with log.bar("simulating", len(identities)) as advance:
        for row, (sound, labels) in enumerate(cast(Iterator, results)):
            audio[row] = sound
            faults += labels
            advance(1)
    clips = Clips(
        audio=audio,
        machine_id=np.array([clip.machine_id for clip in identities]),
        split=np.array([clip.split for clip in identities]),
        label=np.array([clip.label for clip in identities], np.int8),
        name=np.array([clip.name for clip in identities]),
        machine_type=machine_type,
        sample_rate=SAMPLE_RATE,
    )
    return Simulation(clips, faults)


def official_counts(machine_type: str) -> dict[str, dict[str, Any]]:
    """Label and number of clips by ID and split, as in the official data."""
    if machine_type not in MACHINES:
        known = ", ".join(MACHINES)
        raise DataError(f"machine type {machine_type}: choose one of {known}")
    return {
        machine_id: {
            "train": ((NORMAL, train),),
            "test": ((ANOMALOUS, anomalous), (NORMAL, TEST_NORMALS)),
        }
        for machine_id, (train, anomalous) in MACHINES[machine_type].counts.items()
    }


def _render(clip: _Identity, seed: int) -> tuple[np.ndarray, list[FaultLabel]]:
    """Audio and fault labels of one clip."""
    key = (int(clip.machine_id), int(clip.split == "test"), clip.label, clip.index)
    number = list(MACHINES).index(clip.machine_type)
    of_type = (number,) if number else ()  # slide rails were first, and have none
    rng = np.random.default_rng((seed, *key, *of_type))
    machines = MACHINES[clip.machine_type]
    fault = None
    if clip.label == ANOMALOUS:
        fault = Fault(str(rng.choice(machines.fault_kinds)), 1 - rng.random())
    audio, intervals = machines.render(machines.by_id[clip.machine_id], fault, rng)
    labels = [
        FaultLabel(clip.name, fault.kind, fault.severity, *interval)
        for interval in intervals
        if fault
    ]
    return audio, labels


def write_faults(faults: Sequence[FaultLabel], path: Path) -> None:
    """Write fault labels as a csv file with a header."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow([field.name for field in fields(FaultLabel)])
    for fault in faults:
        name, kind, *numbers = astuple(fault)
        table.writerow([name, kind, *(f"{number:.4f}" for number in numbers)])
    replace_file(path, text.getvalue().encode())


def main(arguments: Sequence[str] | None = None) -> None:
    """Write simulated clips as wav files, and faults.csv beside them."""
    parser = argparse.ArgumentParser(
        prog="python -m mimii_jax.simulated.simulate", description=main.__doc__
    )
    add = parser.add_argument
    add("--out", type=path_of, required=True, help="root of the data set to write")
    add("--scale", type=float, default=1.0, help="times the official numbers of clips")
    add("--seed", type=int, default=0)
    add("--ids", nargs="+", default=["00", "02", "04"], metavar="ID")
    add("--machine", default="slider", choices=MACHINES, help="(default slider)")
    given = parser.parse_args(arguments)
    with one_line_errors():
        make_folder(given.out)
        how = {"machine_type": given.machine, "scale": given.scale, "seed": given.seed}
        simulation = simulate(given.ids, **how)
        dcase.write(simulation.clips, given.out)
        folder = given.out / given.machine
        write_faults(simulation.faults, folder / "faults.csv")
    log.info(f"wrote {len(simulation.clips)} simulated clips to {folder}")


if __name__ == "__main__":
    main()
