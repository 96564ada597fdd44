"""Layouts of recordings on disk: folders and file names."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mimii_jax.data.clips import ANOMALOUS, NORMAL, UNKNOWN
from mimii_jax.errors import DataError
from mimii_jax.files import file_errors, printable

LABELS = {None: UNKNOWN, "normal": NORMAL, "anomaly": ANOMALOUS, "abnormal": ANOMALOUS}

AUDIO = r"\.(?i:wav|flac|aiff?|ogg)"  # endings of recordings


@dataclass(frozen=True)
class Layout:
    """Folders and file names of a machine's recordings.

    The groups of the regular expressions are fields of a clip.
    """

    title: str
    folder: str  # regular expression of a folder below the machine's
    name: str  # that of a file name without its ending
    example: str

    def match(self, folder: str, name: str) -> dict[str, str | None] | None:
        """Fields of a clip from a file's folder and name; None if they don't fit."""
        in_folder = re.fullmatch(self.folder, folder)
        in_name = re.fullmatch(self.name + AUDIO, name)
        if in_folder and in_name:
            return in_folder.groupdict() | in_name.groupdict()
        return None


LAYOUTS = (
    Layout(
        "DCASE 2020",
        "(?P<split>train|test)",
        "(?:(?P<label>normal|anomaly)_)?id_(?P<id>[0-9]{2})_(?P<number>[0-9]{8})",
        "train/normal_id_00_00000000.wav",
    ),
    Layout(
        "DCASE 2021 to 2026",
        "(?P<split>train|test|source_test|target_test)",
        "section_(?P<id>[0-9]{2})(?:_(?P<domain>source|target))?"
        "(?:_(?P<named_split>train|test))?(?:_(?P<label>normal|anomaly))?"
        "_(?P<number>[0-9]{4,8})(?:_.*)?",
        "train/section_00_source_train_normal_0000_A.wav",
    ),
    Layout(
        "MIMII",
        "id_(?P<id>[0-9]{2})/(?P<label>normal|abnormal)",
        "(?P<number>[0-9]{8})",
        "id_00/abnormal/00000000.wav",
    ),
)
DCASE_2020, DCASE_LATER, MIMII = LAYOUTS
NAMED = (DCASE_2020, DCASE_LATER)  # those whose file names are the clips' names


@dataclass(frozen=True)
class File:
    """A well-named recording; its content hasn't been looked at."""

    path: str
    name: str  # of the clip
    split: str  # "" in a layout without splits
    label: int
    machine_id: str
    domain: str

    @property
    def order(self) -> tuple[bool, str, str]:
        """Sorts train before test, each by ID and name."""
        return self.split == "test", self.machine_id, self.name


class Found(NamedTuple):
    """Recordings of a machine, by their names alone."""

    layout: str
    files: list[File]  # sorted
    bad: dict[str, str]  # path -> reason
    ignored: list[str]  # visible files that don't end like audio


def parse_name(
    name: str, layouts: Sequence[Layout] = (DCASE_2020,)
) -> tuple[int, str, str]:
    """Label, machine ID and number of a recording, such as (NORMAL, "00", "00000007").

    Raises ValueError with the reason if the name has another form.
    """
    for layout in layouts:
        if found := re.fullmatch(layout.name + AUDIO, name):
            return LABELS[found["label"]], found["id"], found["number"]
    raise ValueError(f"wrong name, expected one like {layouts[0].example}")


def named_id(name: str) -> str:
    """Machine ID in the name of a recording; "" if there is none."""
    try:
        return parse_name(name, NAMED)[1]
    except ValueError:
        return ""


def named_domain(name: str) -> str:
    """Domain in the name of a recording since 2021; "" if there is none."""
    found = re.fullmatch(DCASE_LATER.name + AUDIO, name)
    return (found["domain"] or "") if found else ""


def machine_types(root: Path) -> list[str]:
    """The folders in `root` that have folders of recordings in them, sorted."""
    return [name for name in subfolders(root) if any(recording_folders(root / name))]


def machine_folder(root: Path, machine_type: str) -> Path:
    """Folder of a machine type; raises `DataError` if `root` has none."""
    if (root / machine_type).is_dir():
        return root / machine_type
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; it should hold {machine_type}/train")
    if any(recording_folders(root)):
        raise DataError(
            f"{root}: no folder {machine_type}; this is a machine's own folder, "
            "the data root is the folder above it"
        )
    present = ", ".join(subfolders(root)) or "none"
    raise DataError(
        f"{root}: no machine type {machine_type}; present: {present}; "
        "nor are there recordings (wav, flac, aiff, ogg)"
    )


def recording_folders(folder: Path) -> Iterator[str]:
    """The folders below a machine's that a layout knows, such as "id_00/normal"."""
    for name in subfolders(folder):
        for below in (name, f"{name}/normal", f"{name}/abnormal"):
            known = any(re.fullmatch(layout.folder, below) for layout in LAYOUTS)
            if known and (folder / below).is_dir():
                yield below


def recognise(folder: Path, files: Sequence[tuple[str, str]]) -> Layout:
    """The layout that fits most of the files, given as (folder, name)."""
    if not files and any((folder / split).is_dir() for split in ("train", "test")):
        return DCASE_2020
    counts = [sum(bool(layout.match(*file)) for file in files) for layout in LAYOUTS]
    if any(counts):
        return LAYOUTS[counts.index(max(counts))]
    expected = " or ".join(f"{layout.example} ({layout.title})" for layout in LAYOUTS)
    names = [f"{place}/{name}" for place, name in files[:3]]
    found = map(printable, names or sorted(os.listdir(folder))[:3])
    raise DataError(
        f"{folder}: fits no known layout; expected files such as {expected}; "
        "or a list of files, manifest.csv, in the data root; "
        f"found {', '.join(found) or 'nothing'}"
    )


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted."""
    with file_errors(folder), os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir())
