"""Recordings in the folder layout of DCASE 2020 Task 2, from and to disk.

    <root>/<machine_type>/train/normal_id_NN_NNNNNNNN.wav
    <root>/<machine_type>/test/{normal,anomaly}_id_NN_NNNNNNNN.wav
    <root>/<machine_type>/test/id_NN_NNNNNNNN.wav             evaluation, no label

Hidden files (`.DS_Store`, `._*.wav`) and files without the ending `.wav`, in whatever
case, are no recordings and are passed over; everything else has to be in order.
"""

import os
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mimii_jax.data import wav
from mimii_jax.data.clips import (
    ANOMALOUS,
    NORMAL,
    UNKNOWN,
    Clips,
    DataError,
    require_ids,
)
from mimii_jax.data.threads import in_parallel

MACHINE_TYPES = ("ToyCar", "ToyConveyor", "fan", "pump", "slider", "valve")
SAMPLE_RATE = 16000
LABELS = {"normal_": NORMAL, "anomaly_": ANOMALOUS, None: UNKNOWN}

_NAME = re.compile(r"(normal_|anomaly_)?id_([0-9]{2})_([0-9]{8})\.(?i:wav)")
_NAMED_AT_MOST = 20  # bad files that a message lists


@dataclass(frozen=True)
class _File:
    """A recording whose name is in order; nothing is known of its content."""

    path: str
    name: str
    split: str
    label: int
    machine_id: str


def parse_name(name: str) -> tuple[int, str, str]:
    """Label, machine ID and number of a recording from its file name.

    "normal_id_00_00000007.wav" is (NORMAL, "00", "00000007"); without "normal_" or
    "anomaly_" the label is UNKNOWN. Only the ending may be in upper case.

    Raises
    ------
    ValueError : the name has another form; the message is the reason
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            "wrong name, expected [normal_|anomaly_]id_NN_NNNNNNNN.wav, N a digit"
        )
    label, machine_id, number = match.groups()
    return LABELS[label], machine_id, number


def machine_types(root: Path) -> list[str]:
    """Which of the six machine types of the challenge have a folder in `root`."""
    return [name for name in MACHINE_TYPES if (Path(root) / name).is_dir()]


def read(
    root: Path,
    machine_type: str,
    ids: Sequence[str] = (),
    *,
    splits: Sequence[str] = ("train", "test"),
    on_bad_file: str = "error",
    workers: int = 0,
    progress: bool = True,
    needed: Callable[[Clips], np.ndarray] | None = None,
) -> Clips:
    """Read the recordings of one machine type.

    Parameters
    ----------
    root : folder that holds a folder per machine type
    machine_type : name of that folder, such as "slider"
    ids : machine IDs to read, such as ("00", "02"); all that there are when empty
    splits : "train", "test" or both
    on_bad_file : "error", or "skip" to go on without unusable files after a warning
    workers : number of threads; 0 for a sensible number
    progress : whether to show a bar on the standard error stream
    needed : chooses the clips whose audio is read, from clips without audio; of the
        others the header is still looked at; None: all

    Returns
    -------
    clips : one row per file, train before test, each sorted by machine ID and name;
        files of other encodings than mono 16 bit are converted (see `wav.decode`)

    Raises
    ------
    DataError : a folder or ID is missing, a split is empty, or files are unusable:
        empty, truncated, no wav, misnamed, duplicate, unreadable, anomalous in train,
        not at 16 kHz, not as long as most. The message names each file (up to 20).
    """
    if not splits or set(splits) - {"train", "test"}:
        raise ValueError(f"splits are {splits!r}; use 'train', 'test' or both")
    if on_bad_file not in ("error", "skip"):
        raise ValueError(f"on_bad_file is {on_bad_file!r}; use 'error' or 'skip'")
    folder = _machine_folder(Path(root), machine_type)
    bad: dict[str, str] = {}
    splits = [split for split in ("train", "test") if split in splits]
    files = [file for split in splits for file in _find(folder, split, ids, bad)]
    if not bad:
        _require(files, ids, splits, folder)
    files = [file for file in files if not ids or file.machine_id in ids]
    none = None if needed is None else np.zeros(len(files), bool)
    paths = [file.path for file in files]
    audio, unusable = wav.load(paths, SAMPLE_RATE, workers, progress, none)
    _judge(bad | unusable, len(files) + len(bad), folder, on_bad_file)
    files = [file for file in files if file.path not in unusable]
    _require(files, ids, splits, folder)
    clips = Clips(
        audio=audio,
        machine_id=np.array([file.machine_id for file in files]),
        split=np.array([file.split for file in files]),
        label=np.array([file.label for file in files], np.int8),
        name=np.array([file.name for file in files]),
        machine_type=machine_type,
        sample_rate=SAMPLE_RATE,
    )
    if needed is not None:
        paths = [file.path for file in files]
        audio, _ = wav.load(paths, SAMPLE_RATE, workers, progress, needed(clips))
        clips = replace(clips, audio=audio)
    return clips


def _machine_folder(root: Path, machine_type: str) -> Path:
    """Folder of a machine type; `DataError` when it is not there."""
    folder = root / machine_type
    if folder.is_dir():
        return folder
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; it should hold {machine_type}/train")
    if (root / "train").is_dir() or (root / "test").is_dir():
        raise DataError(
            f"{root}: no folder {machine_type}; this is a machine's own folder, "
            "the data root is the folder above it"
        )
    present = ", ".join(
        sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    )
    raise DataError(
        f"{root}: no machine type {machine_type}; present: {present or 'none'}"
    )


def _find(
    folder: Path, split: str, ids: Sequence[str], bad: dict[str, str]
) -> list[_File]:
    """Well-named files of a split, sorted by ID and name.

    Misnamed ones, and those of a wanted ID that cannot be clips, go into `bad`.
    """
    files, seen = [], {}
    for name, path, is_file in _wav_entries(folder / split):
        reason = ""
        try:
            label, machine_id, _ = key = parse_name(name)
        except ValueError as error:
            bad[path] = str(error)
            continue
        if not is_file:
            reason = "unreadable: a folder, a dangling link or not a plain file"
        elif split == "train" and label == ANOMALOUS:
            reason = "an anomalous clip in the training set"
        elif key in seen:
            reason = f"same id and number as {seen[key]}"
        if not reason:
            seen[key] = name
            files.append(_File(path, name, split, label, machine_id))
        elif not ids or machine_id in ids:
            bad[path] = reason
    return sorted(files, key=lambda file: (file.machine_id, file.name))


def _wav_entries(folder: Path) -> list[tuple[str, str, bool]]:
    """Name, path and whether it is a file, of what looks like wav in a folder."""
    try:
        with os.scandir(folder) as entries:
            found = [
                (entry.name, entry.path, entry.is_file())
                for entry in entries
                if entry.name.lower().endswith(".wav") and entry.name[0] != "."
            ]
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from error
    if not found:
        raise DataError(f"{folder}: no wav files, so the {folder.name} set is empty")
    return sorted(found, key=lambda entry: entry[0].swapcase())  # x.wav before x.WAV


def _require(
    files: list[_File], ids: Sequence[str], splits: Sequence[str], folder: Path
) -> None:
    """Raise `DataError` when a split, or an ID that is asked for, has no files."""
    require_ids(sorted({file.machine_id for file in files}), ids, str(folder))
    for split in splits:
        chosen = (
            f for f in files if f.split == split and (not ids or f.machine_id in ids)
        )
        if next(chosen, None) is None:
            of = f" of id {', '.join(ids)}" if ids else ""
            raise DataError(f"{folder / split}: the {split} set has no clips{of}")


def _judge(bad: dict[str, str], found: int, folder: Path, on_bad_file: str) -> None:
    """Raise `DataError` that names unusable files, or warn when they are skipped."""
    if not bad:
        return
    lines = [
        f"{os.path.relpath(path, folder)}: {why}" for path, why in sorted(bad.items())
    ]
    count = f"{len(bad)} of {found} files"
    if on_bad_file == "skip":
        more = ", ..." if len(lines) > 3 else ""
        print(
            f"warning: {folder}: going on without {count} that cannot be used "
            f"({'; '.join(lines[:3])}{more})",
            file=sys.stderr,
        )
        return
    if len(lines) > _NAMED_AT_MOST:
        lines[_NAMED_AT_MOST:] = [f"and {len(lines) - _NAMED_AT_MOST} more"]
    raise DataError(
        f"{folder}: {count} cannot be used; mend or remove them, or set "
        f"data.on_bad_file='skip' to go on without them:\n  " + "\n  ".join(lines)
    )


def write(clips: Clips, root: Path) -> None:
    """Write clips as 16-bit wav files <root>/<machine_type>/<split>/<name>.

    Files that exist are replaced; each has its name only once it is complete.

    Raises
    ------
    ValueError : a name contradicts the clip's label or ID, or occurs twice in a split
    """
    folder = Path(root) / clips.machine_type
    paths = [
        folder / split / name
        for split, name in zip(clips.split.tolist(), clips.name.tolist(), strict=True)
    ]
    if len(set(paths)) < len(paths):
        raise ValueError("two clips of a split have the same name")
    for path, label, machine_id in zip(
        paths, clips.label.tolist(), clips.machine_id.tolist(), strict=True
    ):
        if parse_name(path.name)[:2] != (label, machine_id):
            raise ValueError(
                f"{path.name} is no name for label {label}, ID {machine_id}"
            )
    for parent in {path.parent for path in paths}:
        parent.mkdir(parents=True, exist_ok=True)

    def write_row(row: int) -> None:
        wav.write(paths[row], clips.audio[row], clips.sample_rate)

    in_parallel(write_row, range(len(paths)), 0, "writing", True)
