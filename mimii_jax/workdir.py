"""What a run leaves in its workdir beside scores: its clips, and examples to draw."""

import csv
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mimii_jax.data.clips import ANOMALOUS, COLUMNS, NORMAL, Clips
from mimii_jax.features.front_ends import FrontEnd

# Files about the clips of a run, each made anew by every start.
PICTURED = ("clips.csv", "examples.npz", "predictions.npz", "tracks.npz")
# From features [clip, frame, bin] to what a model expects, and the scale of each bin.
Predict = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


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


def add_examples(
    front_end: FrontEnd, clips: Clips, workdir: Path, predict: Predict | None
) -> None:
    """Add pictures of each ID's first normal and first anomalous test clip.

    Their features go to examples.npz; what the model of `predict` makes of them, if
    there is one, and the scale of its errors per bin go to predictions.npz.
    """
    features = jax.jit(lambda clip: front_end(clip.astype(np.float32) / 32768))
    rows = pictured(clips)
    pictures = [np.asarray(features(clips.audio[row])) for row in rows]
    names = [picture_name(clips, row) for row in rows]
    seconds = front_end.hop / clips.sample_rate
    about: dict[str, Any] = {"seconds_per_frame": seconds}
    if front_end.frequencies is not None:
        about["frequency"] = front_end.frequencies
    add_arrays(
        workdir / "examples.npz",
        about | {f"{n}/features": x for n, x in zip(names, pictures, strict=True)},
    )
    if predict and rows:
        predicted, scale = predict(np.stack(pictures))
        arrays = dict(zip(names, predicted, strict=True))
        arrays[f"{clips.machine_type}/scale"] = scale
        add_arrays(workdir / "predictions.npz", arrays)


def picture_name(clips: Clips, row: int) -> str:
    """Its name in files of pictures: "<machine type>/<ID>/<normal or anomalous>"."""
    kind = "anomalous" if clips.label[row] == ANOMALOUS else "normal"
    return f"{clips.machine_type}/{clips.machine_id[row]}/{kind}"


def add_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Add arrays to a file, which is replaced as a whole."""
    known: dict[str, Any] = dict(np.load(path)) if path.exists() else {}
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        np.savez_compressed(file, **known | arrays)
    temporary.replace(path)
