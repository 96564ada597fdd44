"""Simulated slide rails, normal and faulty, with the official numbers of clips.

python -m mimii_jax.simulated.simulate --out DIR --scale 0.1

`slide_rail` describes the physics, and `experiments/calibrate_slide_rail.md` compares
the clips with real recordings.
"""

import argparse
import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import cast

import numpy as np
from joblib import Parallel, cpu_count, delayed

from mimii_jax import log
from mimii_jax.command import one_line_errors, path_of
from mimii_jax.data import dcase
from mimii_jax.data.clips import ANOMALOUS, NORMAL, Clips
from mimii_jax.errors import DataError, require_memory
from mimii_jax.files import make_folder, replace_file
from mimii_jax.simulated.acoustics import SAMPLE_RATE, SAMPLES, Fault
from mimii_jax.simulated.rails import FAULT_KINDS, MECHANICS
from mimii_jax.simulated.slide_rail import render

_OFFICIAL = {  # ID -> clips: training normal, test anomalous
    **{"00": (968, 356), "01": (968, 178), "02": (968, 267), "03": (968, 178)},
    **{"04": (434, 178), "05": (434, 178), "06": (434, 89)},
}
COUNTS = {  # ID -> split -> (label, number of clips)
    machine_id: {
        "train": ((NORMAL, train),),
        "test": ((ANOMALOUS, anomalous), (NORMAL, 100)),
    }
    for machine_id, (train, anomalous) in _OFFICIAL.items()
}
_SERIAL_BELOW = 60  # clips; fewer are done sooner than worker processes start


@dataclass(frozen=True)
class FaultLabel:
    """Interval of a clip in which its fault sounds, in seconds from the start."""

    name: str  # file name of the clip
    kind: str  # one of `FAULT_KINDS`
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
    train_share: float = 1.0,
    test_share: float = 1.0,
    seed: int = 0,
) -> Simulation:
    """Simulate the slide rails `ids`, training clips first.

    A clip depends on the seed and on its own ID, split, label and index only: not on
    the other IDs, the scale or the number of CPUs.

    Parameters
    ----------
    ids : machine IDs, of `COUNTS`
    scale : > 0, factor on the official numbers of clips; at least one of each remains
    train_share, test_share : of the training and the test clips at this scale
    seed : >= 0
    """
    known = ", ".join(sorted(MECHANICS))
    if not ids or set(ids) - set(MECHANICS):
        raise DataError(f"ids={', '.join(ids)}: choose slide rails from {known}")
    if not 0 < scale < float("inf"):
        raise DataError(f"scale={scale:g}: must be greater than 0; try 0.1")
    if seed < 0:
        raise DataError(f"seed={seed}: must be 0 or greater")
    shares = {"train": train_share, "test": test_share}
    counts = [n for one in {*ids} for rows in COUNTS[one].values() for _, n in rows]
    most = scale * max(shares.values()) * sum(counts)
    require_memory(2 * SAMPLES * most, f"data.scale={scale:g}")
    identities = [
        _Identity(machine_id, split, label, index)
        for split in ("train", "test")
        for machine_id in sorted(set(ids))
        for label, count in COUNTS[machine_id][split]
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
        machine_type="slider",
        sample_rate=SAMPLE_RATE,
    )
    return Simulation(clips, faults)


def _render(clip: _Identity, seed: int) -> tuple[np.ndarray, list[FaultLabel]]:
    """Audio and fault labels of one clip."""
    key = (int(clip.machine_id), int(clip.split == "test"), clip.label, clip.index)
    rng = np.random.default_rng(np.random.SeedSequence((seed, *key)))
    fault = None
    if clip.label == ANOMALOUS:
        fault = Fault(str(rng.choice(FAULT_KINDS)), 1 - rng.random())
    audio, intervals = render(MECHANICS[clip.machine_id], fault, rng)
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
    given = parser.parse_args(arguments)
    with one_line_errors():
        make_folder(given.out)
        simulation = simulate(given.ids, scale=given.scale, seed=given.seed)
        dcase.write(simulation.clips, given.out)
        write_faults(simulation.faults, given.out / "slider" / "faults.csv")
    log.info(f"wrote {len(simulation.clips)} simulated clips to {given.out / 'slider'}")


if __name__ == "__main__":
    main()
