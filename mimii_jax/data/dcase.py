"""Find, read, write and list the recordings of machines, in any known layout.

python -m mimii_jax.data.dcase ROOT                       lists the recordings in ROOT

    <root>/<machine_type>/train/normal_id_NN_NNNNNNNN.wav
    <root>/<machine_type>/test/{normal,anomaly}_id_NN_NNNNNNNN.wav
    <root>/<machine_type>/test/id_NN_NNNNNNNN.wav             evaluation, no label

is the layout of DCASE 2020 Task 2, in which `write` writes.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table

from mimii_jax import log
from mimii_jax.data import audio
from mimii_jax.data.clips import ANOMALOUS, NORMAL, UNKNOWN, Clips, require_ids
from mimii_jax.data.layouts import (
    AUDIO,
    DCASE_2020,
    LABEL_LIST,
    LABELS,
    MIMII,
    Labels,
    Layout,
    find_labels,
    machine_folder,
    machine_types,
    parse_name,
    recognise,
    recording_folders,
)
from mimii_jax.errors import DataError
from mimii_jax.files import file_errors

SAMPLE_RATE = 16000
_TITLES = {NORMAL: "normal", ANOMALOUS: "anomalous", UNKNOWN: "unknown"}


@dataclass(frozen=True)
class File:
    """A well-named recording; its content hasn't been looked at.

    `split` is "" in a layout without one; `name` is that of the clip and ends in .wav.
    """

    path: str
    name: str
    split: str
    label: int
    machine_id: str
    domain: str


class Found(NamedTuple):
    """Recordings of a machine: usable so far, and path -> reason of the others.

    `ignored` are the visible files that don't end like audio.
    """

    layout: Layout
    files: list[File]
    bad: dict[str, str]
    ignored: list[str]


def read(
    root: Path,
    machine_type: str,
    ids: Sequence[str] = (),
    *,
    splits: Sequence[str] = ("train", "test"),
    on_bad_file: str = "error",
    labels: Labels | None = None,
    test_normals: int | None = 100,
) -> Clips:
    """Read the recordings of one machine type.

    Parameters
    ----------
    root : folder that holds a folder per machine type
    machine_type : name of that folder, such as "slider"
    ids : machine IDs to read, such as ("00", "02"); all of them when empty
    splits : "train", "test" or both
    on_bad_file : "error", or "skip" to leave out unusable files with a warning
    labels : (machine type, name) -> label of clips whose name has none
    test_normals : normal test clips per ID in the MIMII layout, which has no split;
        None: as many as anomalous ones

    Returns
    -------
    clips : one row per file, train before test, each sorted by machine ID and name;
        files of other encodings than mono 16 bit are converted (see `audio.load`)

    Raises
    ------
    DataError : a folder or ID is missing, a split is empty, no layout fits, or files
        are unusable: empty, truncated, no audio, misnamed, duplicate, unreadable,
        anomalous in train, not at 16 kHz, not as long as most. The message names each
        file (up to 20).
    """
    if not splits or set(splits) - {"train", "test"}:
        raise ValueError(f"splits={splits!r}: must be 'train', 'test' or both")
    if on_bad_file not in ("error", "skip"):
        raise ValueError(f"on_bad_file={on_bad_file!r}: must be 'error' or 'skip'")
    folder = machine_folder(Path(root), machine_type)
    found = find(folder, ids, splits)
    files, bad = found.files, found.bad
    if found.layout is MIMII:
        files = _draw_split(files, ids, test_normals)
        files = [file for file in files if file.split in splits]
    if not bad:
        _require_clips(folder, found, files, ids, splits)
    files = [file for file in files if not ids or file.machine_id in ids]
    count = len(files) + len(bad)
    samples, _, unusable = audio.load([file.path for file in files], SAMPLE_RATE)
    _report_bad(folder, bad | unusable, count, on_bad_file)
    files = [file for file in files if file.path not in unusable]
    _require_clips(folder, found, files, ids, splits)
    files = [_labelled(file, labels or {}, machine_type) for file in files]
    return Clips(
        audio=samples,
        machine_id=np.array([file.machine_id for file in files]),
        split=np.array([file.split for file in files]),
        label=np.array([file.label for file in files], np.int8),
        name=np.array([file.name for file in files]),
        machine_type=machine_type,
        sample_rate=SAMPLE_RATE,
        domain=np.array([file.domain for file in files]),
    )


def find(folder: Path, ids: Sequence[str], splits: Sequence[str]) -> Found:
    """Find the recordings of a machine by their names alone.

    The files are of all IDs, sorted; of the unusable ones, those of `ids` (all when
    empty) and those whose ID isn't known. Hidden files are passed over.
    """
    entries, ignored = [], []
    for place in recording_folders(folder):
        with file_errors(folder / place):
            names = [n for n in os.listdir(folder / place) if not n.startswith(".")]
        for name in sorted(names, key=str.swapcase):  # x.wav before x.WAV
            if re.search(AUDIO + r"\Z", name):
                entries.append((place, name))
            else:
                ignored.append(f"{place}/{name}")
    layout = recognise(folder, entries)
    files, bad, seen = [], {}, {}
    for place, name in entries:
        split = "train" if place == "train" else "test"
        if layout is not MIMII and split not in splits:
            continue
        path = str(folder / place / name)
        fields = layout.match(place, name)
        if fields is None:
            bad[path] = f"wrong name, expected {layout.form}"
            continue
        file = _file(layout, path, split, fields)
        key = (file.split, file.label, file.machine_id, file.domain, fields["number"])
        reason = _misplaced(file, fields, place)
        if key in seen:
            reason = reason or f"same id and number as {seen[key]}"
        if not reason:
            seen[key] = name
            files.append(file)
        elif not ids or file.machine_id in ids:
            bad[path] = reason
    return Found(layout, _in_order(files), bad, ignored)


def _file(
    layout: Layout, path: str, split: str, fields: Mapping[str, str | None]
) -> File:
    """The recording of a well-named file."""
    label, machine_id = LABELS[fields["label"]], fields["id"] or ""
    name = f"{Path(path).stem}.wav"
    if layout is MIMII:  # whose names are the same in every folder
        word = "normal" if label == NORMAL else "anomaly"
        name, split = f"{word}_id_{machine_id}_{name}", ""
    return File(path, name, split, label, machine_id, fields.get("domain") or "")


def _misplaced(file: File, fields: Mapping[str, str | None], place: str) -> str:
    """Why a well-named file can't be a clip; "" if it can."""
    if not os.path.isfile(file.path):
        return "unreadable: a folder, a dangling link or not a plain file"
    if file.split == "train" and file.label == ANOMALOUS:
        return "an anomalous clip in the training set"
    if (fields.get("named_split") or file.split) != file.split:
        return f"a clip of the {fields['named_split']} set in the folder {place}"
    return ""


def _draw_split(
    files: Sequence[File], ids: Sequence[str], test_normals: int | None
) -> list[File]:
    """Anomalous clips, and some normal ones of each ID, become the test set.

    The choice depends on the names alone.
    """
    drawn = set()
    for machine_id in sorted({file.machine_id for file in files}):
        of_id = [file for file in files if file.machine_id == machine_id]
        names = [file.name for file in of_id if file.label == NORMAL]
        count = len(of_id) - len(names) if test_normals is None else test_normals
        if count >= len(names) and (not ids or machine_id in ids):
            raise DataError(
                f"id {machine_id} has only {len(names)} normal clips, too few to hold "
                f"out {count} for testing; lower data.test_normals={test_normals}"
            )
        # A hash shuffles alike on every machine and with every version of NumPy.
        names.sort(key=lambda name: sha256(f"0/{name}".encode()).digest())
        drawn |= set(names[:count])
    return _in_order(
        replace(
            file,
            split="test" if file.label != NORMAL or file.name in drawn else "train",
        )
        for file in files
    )


def _in_order(files: Iterable[File]) -> list[File]:
    """Train before test, each by ID and name."""
    return sorted(files, key=lambda f: (f.split == "test", f.machine_id, f.name))


def _require_clips(
    folder: Path,
    found: Found,
    files: Sequence[File],
    ids: Sequence[str],
    splits: Sequence[str],
) -> None:
    """Raise `DataError` if a split, or one of `ids`, has no files."""
    require_ids(sorted({file.machine_id for file in files}), ids, str(folder))
    present = {f.split for f in files if not ids or f.machine_id in ids}
    for split in sorted(set(splits) - present, reverse=True):  # train first
        if found.layout is DCASE_2020 and not (folder / split).is_dir():
            raise DataError(f"{folder / split}: no such folder")
        of = f" of id {', '.join(ids)}" if ids else ""
        raise DataError(
            f"{folder}: the {split} set has no clips{of}{_ignored(found.ignored)}"
        )


def _ignored(names: Sequence[str]) -> str:
    """Which files aren't taken for recordings."""
    if not names:
        return ""
    return f"; {len(names)} other files, such as {names[0]}, don't end in .wav or .flac"


def _report_bad(
    folder: Path, bad: Mapping[str, str], count: int, on_bad_file: str
) -> None:
    """Raise `DataError` that names the unusable files, or warn of them."""
    if not bad:
        return
    which = f"{len(bad)} of {count} files are unusable"
    if on_bad_file == "error":
        raise DataError(
            f"{folder}: {which}; repair or remove them, or skip them by "
            "data.on_bad_file='skip':\n  " + "\n  ".join(_bad_lines(bad, folder))
        )
    lines = _bad_lines(bad, folder, at_most=3)
    log.warning(f"{folder}: {which} and skipped ({'; '.join(lines)})")


def _bad_lines(bad: Mapping[str, str], folder: Path, at_most: int = 20) -> list[str]:
    """A line per unusable file, with the reason."""
    lines = [
        f"{os.path.relpath(path, folder)}: {why}" for path, why in sorted(bad.items())
    ]
    if len(lines) > at_most:
        lines[at_most:] = [f"and {len(lines) - at_most} more"]
    return lines


def _labelled(file: File, labels: Labels, machine_type: str) -> File:
    """The file with its label of a list, if its name has none."""
    if file.label != UNKNOWN:
        return file
    return replace(file, label=labels.get((machine_type, file.name), UNKNOWN))


def write(clips: Clips, root: Path) -> None:
    """Write clips as 16-bit wav files <root>/<machine_type>/<split>/<name>.

    Files that exist are replaced; each is written whole or not at all.

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
            raise ValueError(f"{path.name}: doesn't fit label {label}, ID {machine_id}")
    for parent in {path.parent for path in paths}:
        with file_errors(parent):
            parent.mkdir(parents=True, exist_ok=True)

    def write_row(row: int) -> None:
        audio.write(paths[row], clips.audio[row], clips.sample_rate)

    log.in_threads("writing", write_row, range(len(paths)))


def list_recordings(root: Path) -> None:
    """Print clips per ID, split and label of each machine type, and all bad files."""
    types = machine_types(root)
    if not types:
        machine_folder(root, "slider")  # raises an error that explains why
    labels = find_labels(root, "")
    for machine_type in types:
        folder = root / machine_type
        found = find(folder, (), ("train", "test"))
        paths = [file.path for file in found.files]
        _, headers, unusable = audio.load(paths, SAMPLE_RATE)
        files = [_labelled(file, labels, machine_type) for file in found.files]
        listed = sum(a != b for a, b in zip(files, found.files, strict=True))
        source = f", labels of {listed} clips from {LABEL_LIST}" if listed else ""
        title = f"{machine_type}, layout of {found.layout.title}{source}"
        log.console.print(_table(title, files, headers))
        bad = found.bad | unusable
        count = len(files) + len(found.bad)
        state = f"{len(bad)} of them bad" if bad else "all usable"
        log.info(
            f"{count} files, {state if count else 'no recordings'}"
            f"{_ignored(found.ignored)}"
        )
        log.info("".join(f"  {line}\n" for line in _bad_lines(bad, folder)))


def _table(
    title: str, files: Sequence[File], headers: Sequence[audio.Header | None]
) -> Table:
    """A row per ID, split, domain and label, with the ranges of the headers."""
    table = Table(title=title, title_justify="left", box=None)
    for name in ("id", "split", "label", "clips", "seconds", "Hz", "channels"):
        right = name in ("clips", "seconds", "Hz", "channels")
        table.add_column(name, justify="right" if right else "left")
    groups: dict[tuple[str, str, str], list[audio.Header | None]] = {}
    for file, header in zip(files, headers, strict=True):
        split = f"{file.split or 'to be drawn'} {file.domain}".strip()
        key = (file.machine_id, split, _TITLES[file.label])
        groups.setdefault(key, []).append(header)
    for key in sorted(groups, key=lambda k: (k[0], not k[1].startswith("train"), k)):
        known = [header for header in groups[key] if header]
        table.add_row(
            *key,
            str(len(groups[key])),
            _range([header.frames / header.rate for header in known]),
            _range([header.rate for header in known]),
            _range([header.channels for header in known]),
        )
    return table


def _range(values: Sequence[float]) -> str:
    """The common value, or the smallest and the largest."""
    if not values:
        return "-"
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mimii_jax.data.dcase", description=list_recordings.__doc__
    )
    parser.add_argument("root", type=Path, help="folder of a folder per machine type")
    try:
        list_recordings(parser.parse_args(arguments).root)
    except DataError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
