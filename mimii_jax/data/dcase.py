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
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

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
    if on_bad_file not in ("error", "skip"):
        raise ValueError(f"on_bad_file is {on_bad_file!r}; use 'error' or 'skip'")
    folder = _machine_folder(Path(root), machine_type)
    bad: dict[str, str] = {}
    splits = [split for split in ("train", "test") if split in splits]
    files = [file for split in splits for file in _find(folder, split, bad)]
    if not bad:
        _require(files, ids, splits, folder)
    files = [file for file in files if not ids or file.machine_id in ids]
    found = len(files) + len(bad)
    files, headers = _check(files, bad, workers, progress)
    audio = np.empty((len(files), headers[0].frames if headers else 0), np.int16)
    kept = _fill(audio, files, headers, bad, workers, progress)
    _judge(bad, found, folder, on_bad_file)
    files = [files[row] for row in kept]
    _require(files, ids, splits, folder)
    return Clips(
        audio=audio[: len(files)],
        machine_id=np.array([file.machine_id for file in files]),
        split=np.array([file.split for file in files]),
        label=np.array([file.label for file in files], np.int8),
        name=np.array([file.name for file in files]),
        machine_type=machine_type,
        sample_rate=SAMPLE_RATE,
    )


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
    present = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    raise DataError(
        f"{root}: no machine type {machine_type}; present: {', '.join(present) or 'none'}"
    )


def _find(folder: Path, split: str, bad: dict[str, str]) -> list[_File]:
    """Files of a split with names in order, sorted by ID and name; the rest into `bad`."""
    files, seen = [], {}
    try:
        with os.scandir(folder / split) as entries:
            found = sorted(
                (entry.name, entry.path, entry.is_file())
                for entry in entries
                if entry.name.lower().endswith(".wav") and entry.name[0] != "."
            )
    except OSError as error:
        raise DataError(f"{folder / split}: {error.strerror}") from error
    if not found:
        raise DataError(f"{folder / split}: no wav files")
    for name, path, is_file in found:
        try:
            label, machine_id, number = key = parse_name(name)
        except ValueError as error:
            bad[path] = str(error)
            continue
        if not is_file:
            bad[path] = "unreadable: a folder, a dangling link or not a plain file"
        elif split == "train" and label == ANOMALOUS:
            bad[path] = "an anomalous clip in the training set"
        elif key in seen:
            bad[path] = f"same id and number as {seen[key]}"
        else:
            seen[key] = name
            files.append(_File(path, name, split, label, machine_id))
    return sorted(files, key=lambda file: (file.machine_id, file.name))


def _require(
    files: list[_File], ids: Sequence[str], splits: Sequence[str], folder: Path
) -> None:
    """Raise `DataError` when a split has no files or an ID that is asked for none."""
    require_ids(sorted({file.machine_id for file in files}), ids, str(folder))
    for split in splits:
        chosen = (
            f for f in files if f.split == split and (not ids or f.machine_id in ids)
        )
        if next(chosen, None) is None:
            of = f" of id {', '.join(ids)}" if ids else ""
            raise DataError(f"{folder / split}: the {split} set has no clips{of}")


def _check(
    files: list[_File], bad: dict[str, str], workers: int, progress: bool
) -> tuple[list[_File], list[wav.Wav]]:
    """Files with headers in order and of the length that most have; the rest into `bad`."""
    good = []
    headers = in_parallel(_header, files, workers, "checking", progress)
    for file, header in zip(files, headers, strict=True):
        if isinstance(header, str):
            bad[file.path] = header
        elif header.rate != SAMPLE_RATE:
            bad[file.path] = f"sampling rate {header.rate} Hz, expected {SAMPLE_RATE}"
        else:
            good.append((file, header))
    if not good:
        return [], []
    [(usual, count)] = Counter(header.frames for _, header in good).most_common(1)
    for file, header in good:
        if header.frames != usual:
            bad[file.path] = (
                f"wrong length: {header.frames} samples ({header.frames / SAMPLE_RATE:g} s)"
                f", {count} files have {usual} ({usual / SAMPLE_RATE:g} s)"
            )
    good = [(file, header) for file, header in good if header.frames == usual]
    return [file for file, _ in good], [header for _, header in good]


def _header(file: _File) -> wav.Wav | str:
    """Header of a file, or the reason why it cannot be used."""
    try:
        return wav.inspect(file.path)
    except wav.WavError as error:
        return str(error)


def _fill(
    audio: np.ndarray,
    files: list[_File],
    headers: list[wav.Wav],
    bad: dict[str, str],
    workers: int,
    progress: bool,
) -> list[int]:
    """Read files into the rows of `audio`; indices of those that could be read.

    Their rows are moved to the front, in place: a second copy may not fit the memory.
    """

    def load(row: int) -> str | None:
        try:
            wav.decode(files[row].path, headers[row], audio[row])
        except wav.WavError as error:
            return str(error)

    reasons = in_parallel(load, range(len(files)), workers, "reading", progress)
    bad |= {files[row].path: why for row, why in enumerate(reasons) if why}
    kept = [row for row, why in enumerate(reasons) if not why]
    for to, row in enumerate(kept):
        if to != row:
            audio[to] = audio[row]
    return kept


def _judge(bad: dict[str, str], found: int, folder: Path, on_bad_file: str) -> None:
    """Raise `DataError` with the unusable files, or warn when they are to be skipped."""
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

    Existing files are replaced. A file appears under its name only when it is complete.
    """
    folder = Path(root) / clips.machine_type
    for split in set(clips.split.tolist()):
        (folder / split).mkdir(parents=True, exist_ok=True)

    def store(row: int) -> None:
        path = folder / str(clips.split[row]) / str(clips.name[row])
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            soundfile.write(
                part, clips.audio[row], clips.sample_rate, "PCM_16", format="WAV"
            )
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)

    in_parallel(store, range(len(clips)), 0, "writing", True)
