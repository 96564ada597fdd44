"""Recordings in no known layout: a plain folder of one machine, or a csv manifest.

<folder>/*.wav, <folder>/<machine id>/**/*.wav       all normal, to train on
manifest.csv with columns file,machine,id,split,label; only `file` is needed
"""

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path

from mimii_jax import log
from mimii_jax.data.clips import ANOMALOUS, NORMAL, UNKNOWN
from mimii_jax.data.layouts import (
    AUDIO,
    NAMED,
    File,
    Found,
    machine_types,
    parse_name,
    recording_folders,
    subfolders,
)
from mimii_jax.errors import DataError
from mimii_jax.files import file_errors, printable

MANIFEST = "manifest.csv"
COLUMNS = ("file", "machine", "id", "split", "label")
ONLY_ID = "00"
_LABELS = {
    **dict.fromkeys(("normal", "0"), NORMAL),
    **dict.fromkeys(("anomalous", "anomaly", "abnormal", "1"), ANOMALOUS),
    **dict.fromkeys(("unknown", "-1"), UNKNOWN),
}
_NO_IDS = {"abnormal", "anomaly", "anomalies", "anomalous", "fault", "faults", "faulty"}


def machines(root: Path) -> list[str] | None:
    """Machines of a manifest or a plain folder; None for a folder of other kinds."""
    if path := find_manifest(root):
        return sorted({machine for machine, _ in _rows(path)})
    return [_name(root)] if is_plain(root) else None


def find(root: Path, machine: str) -> Found | None:
    """Recordings of a machine by a manifest or in a plain folder; None if neither."""
    if path := find_manifest(root):
        return _find_listed(path, machine)
    return _find_plain(root) if is_plain(root) else None


def find_manifest(root: Path) -> Path | None:
    """The manifest at or in `root`, if there is one."""
    if root.suffix.lower() == ".csv" and not root.is_dir():
        return root
    path = root / MANIFEST
    return path if path.is_file() else None


def is_plain(root: Path) -> bool:
    """Whether a folder has recordings, but no folders of a known layout."""
    if not root.is_dir() or machine_types(root) or any(recording_folders(root)):
        return False
    for name in subfolders(root):
        if machine_types(root / name):
            raise DataError(f"{root}: the data lie in {name}; use {root / name}")
    return any(re.search(AUDIO + r"\Z", name) for name in _names(root))


def _find_plain(root: Path) -> Found:
    files, bad, ignored = [], {}, []
    for name in _names(root):
        path, (first, *below) = str(root / name), name.split("/")
        if not re.search(AUDIO + r"\Z", name):
            ignored.append(name)
            continue
        if below and first.lower() in _NO_IDS:
            bad[path] = (
                f"all recordings of a plain folder are normal, but this lies in {first}"
                f"; list files and labels in {MANIFEST}"
            )
        elif _is_anomaly(path):
            bad[path] = "an anomalous clip in the training set"
        else:
            machine_id = printable(first) if below else ONLY_ID
            files.append(File(path, printable(name), "train", NORMAL, machine_id, ""))
    files.sort(key=lambda file: file.order)
    return Found("plain folder, all normal", files, bad, ignored)


def _names(root: Path) -> Iterator[str]:
    """Visible files in a folder and its subfolders, relative to it."""
    with file_errors(root):
        names = sorted(name for name in os.listdir(root) if name[0] != ".")
    for name in names:
        if not (root / name).is_dir():
            yield name
            continue
        for folder, folders, files in os.walk(root / name):
            folders[:] = sorted(inner for inner in folders if inner[0] != ".")
            for file in sorted(file for file in files if file[0] != "."):
                yield (Path(folder) / file).relative_to(root).as_posix()


def _is_anomaly(path: str) -> bool:
    """Whether a name of a known layout says that the clip is anomalous."""
    try:
        return parse_name(Path(path).name, NAMED)[0] == ANOMALOUS
    except ValueError:
        return False


def _find_listed(path: Path, machine: str) -> Found:
    rows = list(_rows(path, warn=True))
    present = sorted({one for one, _ in rows})
    if machine not in present:
        raise DataError(
            f"{path}: no machine type {machine}; present: {', '.join(present)}"
        )
    files: dict[str, File] = {}
    bad = {}
    for one, file in rows:
        if one != machine:
            continue
        if file.split == "train" and file.label == ANOMALOUS:
            bad[file.path] = "an anomalous clip in the training set"
        elif file.path in files:
            bad[f"{file.path} (again)"] = f"listed twice in {path.name}"
        else:
            files[file.path] = file
    ordered = sorted(files.values(), key=lambda file: file.order)
    return Found(f"manifest {path.name}", ordered, bad, [])


def _rows(path: Path, warn: bool = False) -> Iterator[tuple[str, File]]:
    """Machine and recording of every line; a `DataError` names the one that's wrong."""
    try:
        with file_errors(path), path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, skipinitialspace=True)
            head = [name.strip().lower() for name in next(reader, [])]
            if "file" not in head:
                raise DataError(
                    f"{path}:1: no column `file`; expected {','.join(COLUMNS)}"
                )
            others = [name for name in head if name not in COLUMNS]
            if others and warn:
                log.warning(f"{path}: columns that are ignored: {', '.join(others)}")
            count = 0
            for cells in filter(None, reader):
                where = f"{path}:{reader.line_num}"
                if len(cells) > len(head):
                    raise DataError(
                        f"{where}: {len(cells)} fields in {len(head)} columns"
                    )
                values = (cell.strip() for cell in cells)
                yield _row(path, where, dict(zip(head, values, strict=False)))
                count += 1
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a csv file: {error}") from None
    if not count:
        raise DataError(f"{path}: lists no recordings")


def _row(path: Path, where: str, row: dict[str, str]) -> tuple[str, File]:
    """Machine and recording of a line."""

    def cell(column: str, default: str, known: object = None) -> str:
        value = row.get(column) or default
        if isinstance(known, dict) and value.lower() not in known:
            raise DataError(
                f"{where}: {column} {value!r}: must be one of {', '.join(known)}"
            )
        if not value.isprintable():
            raise DataError(f"{where}: {column} {value!r} can't be printed")
        return value

    name = cell("file", "")
    if not name:
        raise DataError(f"{where}: no file")
    machine = cell("machine", _name(path.parent))
    if re.search(r"[/\\]|^\.", machine):
        raise DataError(f"{where}: machine {machine!r}: choose a name without / and .")
    split = cell("split", "train", dict.fromkeys(("train", "test"))).lower()
    label = _LABELS[cell("label", "normal", _LABELS).lower()]
    place = os.path.normpath(path.parent / Path(name).expanduser())
    return machine, File(place, name, split, label, cell("id", ONLY_ID), "")


def _name(folder: Path) -> str:
    """Name of a folder, for its machine."""
    name = folder.resolve().name
    return name if name.isprintable() and name else "machine"
