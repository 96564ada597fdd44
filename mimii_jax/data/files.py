"""The recordings in a machine's folder, found by their names alone.

Hidden files (`.DS_Store`, `._*.wav`) and files without the ending `.wav`, in whatever
case, are no recordings and are passed over; everything else has to be in order. A
layout is recognised by the names: that which fits most of them is taken.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mimii_jax.data.clips import ANOMALOUS, NORMAL
from mimii_jax.data.layouts import LABELS, MIMII, Layout, places, recognise
from mimii_jax.errors import DataError


@dataclass(frozen=True)
class File:
    """A recording whose name is in order; nothing is known of its content.

    `split` is "" where the layout has none; `name` is that of the clip, in the form of
    DCASE 2020 where the layout's own would not tell clips apart.
    """

    path: str
    name: str
    split: str
    label: int
    machine_id: str
    domain: str


@dataclass(frozen=True)
class _Entry:
    folder: str
    name: str
    path: str
    is_file: bool


def find(
    folder: Path, ids: Sequence[str], splits: Sequence[str]
) -> tuple[Layout, list[File], dict[str, str]]:
    """The recordings in a machine's folder.

    Parameters
    ----------
    folder : of the machine
    ids : machine IDs of which unusable files matter; all when empty
    splits : which of "train" and "test" matter

    Returns
    -------
    layout : the layout that was recognised
    files : sorted by split, ID and name; those of all IDs
    bad : path -> reason, of misnamed files, and of those of a wanted ID that cannot be
        clips

    Raises
    ------
    DataError : no layout fits, or a folder cannot be read
    """
    entries = [entry for place in places(folder) for entry in _entries(folder, place)]
    layout = recognise(folder, [(entry.folder, entry.name) for entry in entries])
    if layout is not MIMII:
        entries = [entry for entry in entries if _split_of(entry.folder) in splits]
    files, bad, seen = [], {}, {}
    for entry in entries:
        said = layout.match(entry.folder, entry.name)
        if said is None:
            bad[entry.path] = f"wrong name, expected {layout.form}"
            continue
        file = _file(layout, entry, said)
        key = (file.split, file.label, file.machine_id, file.domain, said["number"])
        reason = _reason(entry, file, said, seen.get(key))
        if not reason:
            seen[key] = entry.name
            files.append(file)
        elif not ids or file.machine_id in ids:
            bad[entry.path] = reason
    return layout, _in_order(files), bad


def draw_split(
    files: Sequence[File], ids: Sequence[str], test_normals: int, seed: int
) -> list[File]:
    """Anomalous clips, and some normal ones of each ID, become the test set.

    `test_normals` is the number of normal test clips per ID, 0 for as many as there are
    anomalous ones. The choice depends on the seed and the names alone.

    Raises
    ------
    DataError : an ID has too few normal clips to leave any to train on; one of `ids`,
        if there are any
    """
    chosen = set()
    for machine_id in sorted({file.machine_id for file in files}):
        of_id = [file for file in files if file.machine_id == machine_id]
        names = [file.name for file in of_id if file.label == NORMAL]
        wanted = test_normals or len(of_id) - len(names)
        if wanted >= len(names) and (not ids or machine_id in ids):
            raise DataError(
                f"data.test_normals={test_normals}: id {machine_id} has {len(names)} "
                f"normal clips, so that {wanted} to test on leave none to train on"
            )
        # A hash shuffles alike on every machine and with every version of NumPy.
        names.sort(key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
        chosen |= set(names[:wanted])
    return _in_order(
        replace(
            file,
            split="test" if file.label != NORMAL or file.name in chosen else "train",
        )
        for file in files
    )


def bad_lines(bad: Mapping[str, str], folder: Path, at_most: int = 20) -> list[str]:
    """A line for each unusable file of a folder, with the reason; not for too many."""
    lines = [
        f"{os.path.relpath(path, folder)}: {why}" for path, why in sorted(bad.items())
    ]
    if len(lines) > at_most:
        lines[at_most:] = [f"and {len(lines) - at_most} more"]
    return lines


def _in_order(files: Iterable[File]) -> list[File]:
    """Train before test, each by ID and name."""
    return sorted(files, key=lambda f: (f.split == "test", f.machine_id, f.name))


def _entries(folder: Path, place: str) -> list[_Entry]:
    """What looks like wav in one of a machine's folders."""
    try:
        with os.scandir(folder / place) as entries:
            found = [
                _Entry(place, entry.name, entry.path, entry.is_file())
                for entry in entries
                if entry.name.lower().endswith(".wav") and entry.name[0] != "."
            ]
    except OSError as error:
        raise DataError(f"{folder / place}: {error.strerror}") from error
    return sorted(found, key=lambda entry: entry.name.swapcase())  # x.wav before x.WAV


def _split_of(place: str) -> str:
    return "train" if place == "train" else "test"


def _file(layout: Layout, entry: _Entry, said: dict[str, str | None]) -> File:
    """The recording of an entry whose name fits."""
    label, machine_id = LABELS[said["label"]], said["id"] or ""
    name, split = entry.name, _split_of(entry.folder)
    if layout is MIMII:
        word = "normal" if label == NORMAL else "anomaly"
        name, split = f"{word}_id_{machine_id}_{said['number']}.wav", ""
    domain = said.get("domain") or ""
    return File(entry.path, name, split, label, machine_id, domain)


def _reason(
    entry: _Entry, file: File, said: dict[str, str | None], twin: str | None
) -> str:
    """Why a well-named file cannot be a clip; "" if it can."""
    if not entry.is_file:
        return "unreadable: a folder, a dangling link or not a plain file"
    if file.split == "train" and file.label == ANOMALOUS:
        return "an anomalous clip in the training set"
    if (said.get("named_split") or file.split) != file.split:
        return f"a clip of the {said['named_split']} set in the folder {entry.folder}"
    return f"same id and number as {twin}" if twin else ""
