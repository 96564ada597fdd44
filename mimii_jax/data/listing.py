"""What is in a folder of recordings: clips per type, ID, split and label; bad files."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mimii_jax.data import wav
from mimii_jax.data.clips import ANOMALOUS, NORMAL, UNKNOWN
from mimii_jax.data.files import File, bad_lines, find
from mimii_jax.data.labels import FILE, Labels, labels_of
from mimii_jax.data.layouts import machine_folder, machine_types
from mimii_jax.data.threads import in_parallel

WORDS = {NORMAL: "normal", ANOMALOUS: "anomalous", UNKNOWN: "unknown"}


def print_listing(root: Path, rate: int) -> None:
    """Print what is in each machine's folder of `root`.

    A file is bad that could not be used at the sampling rate `rate`, in Hz.

    Raises
    ------
    DataError : a folder cannot be read, or no layout fits
    """
    console = Console(highlight=False)
    types = machine_types(root)
    if not types:
        machine_folder(root, "slider")  # which says what is wrong
    labels = labels_of(root, "")
    for machine_type in types:
        folder = root / machine_type
        layout, files, bad = find(folder, (), ("train", "test"))
        paths = [file.path for file in files]
        headers = in_parallel(_header, paths, 0, f"{machine_type}: looking", True)
        _, unusable = wav.load(paths, rate, 0, False, np.zeros(len(paths), bool))
        known = [_labelled(file, labels, machine_type) for file in files]
        title = f"{machine_type}, layout of {layout.title}"
        listed = sum(a is not b for a, b in zip(files, known, strict=True))
        if listed:
            title += f", labels of {listed} clips from {FILE}"
        console.print(_table(title, known, headers))
        count = len(files) + len(bad)
        bad |= unusable
        found = f"{len(bad)} of them bad" if bad else "all in order"
        lines = [f"{count} files, {found}", *bad_lines(bad, folder)]
        console.print("\n  ".join(lines), markup=False, soft_wrap=True, end="\n\n")


def _header(path: str) -> wav.Header | None:
    """What the header of a file says, if it has one."""
    try:
        with open(path, "rb") as file:
            return wav.inspect(file)
    except (OSError, wav.WavError):
        return None


def _labelled(file: File, labels: Labels, machine_type: str) -> File:
    """The file with the label that a list has for it, if its name has none."""
    label = labels.get((machine_type, file.name))
    if file.label != UNKNOWN or label is None:
        return file
    return replace(file, label=label)


def _table(
    title: str, files: Sequence[File], headers: Sequence[wav.Header | None]
) -> Table:
    """A row per ID, split, domain and label, with what the headers say."""
    table = Table(title=title, title_justify="left", box=None)
    for name in ("id", "split", "label"):
        table.add_column(name)
    for name in ("clips", "seconds", "Hz", "channels"):
        table.add_column(name, justify="right")
    groups: dict[tuple, list[wav.Header]] = {}
    counts: dict[tuple, int] = {}
    for file, header in zip(files, headers, strict=True):
        split = file.split or "to be drawn"
        key = (file.machine_id, f"{split} {file.domain}".strip(), WORDS[file.label])
        counts[key] = counts.get(key, 0) + 1
        if header:
            groups.setdefault(key, []).append(header)
    for key in sorted(counts, key=lambda k: (k[0], not k[1].startswith("train"), k)):
        of = groups.get(key, [])
        table.add_row(
            *key,
            str(counts[key]),
            _range([header.frames / header.rate for header in of]),
            _range([header.rate for header in of]),
            _range([header.channels for header in of]),
        )
    return table


def _range(values: Sequence[float]) -> str:
    """The value that all have, or the least and the largest."""
    if not values:
        return "-"
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
