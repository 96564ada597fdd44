"""What a run leaves in its workdir beside scores: its clips, and examples to draw."""

import csv
import shlex
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mimii_jax.data.clips import ANOMALOUS, COLUMNS, NORMAL, Clips
from mimii_jax.features import FrontEnd


def command_line() -> str:
    """The command of this process, as it was typed, with a short name of Python."""
    return shlex.join(["python", *sys.orig_argv[1:]])


def pictured(clips: Clips) -> list[int]:
    """The first normal and the first anomalous test clip of each ID."""
    rows = []
    for machine_id in clips.ids:
        for label in (NORMAL, ANOMALOUS):
            of = (clips.machine_id == machine_id) & (clips.label == label)
            rows += np.flatnonzero(of & (clips.split == "test"))[:1].tolist()
    return rows


def append_clips(clips: Clips, path: Path) -> None:
    """Add a row per clip to clips.csv."""
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        write = csv.writer(file, lineterminator="\n").writerow
        if fresh:
            write(("machine_type", *COLUMNS))
        rows = (getattr(clips, column).tolist() for column in COLUMNS)
        for row in zip(*rows, strict=True):
            write((clips.machine_type, *row))


def add_examples(front_end: FrontEnd, clips: Clips, path: Path) -> None:
    """Add the features of each ID's first normal and anomalous clip, for pictures."""
    examples: dict[str, Any] = dict(np.load(path)) if path.exists() else {}
    if front_end.frequencies is not None:
        examples["frequency"] = front_end.frequencies
    examples["seconds_per_frame"] = front_end.hop / clips.sample_rate
    features = jax.jit(lambda clip: front_end(clip.astype(np.float32) / 32768))
    for row in pictured(clips):
        kind = "anomalous" if clips.label[row] == ANOMALOUS else "normal"
        key = f"{clips.machine_type}/{clips.machine_id[row]}/{kind}"
        examples[key] = np.asarray(features(clips.audio[row]))
    np.savez_compressed(path, **examples)
