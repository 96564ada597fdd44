"""List what recordings are taken for, and which are passed over and why.

python -m mimii_jax.data.list PATH
"""

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from mimii_jax import log
from mimii_jax.command import one_line_errors, path_of
from mimii_jax.data import audio, dcase, own, reading
from mimii_jax.data.clips import ANOMALOUS, NORMAL, UNKNOWN
from mimii_jax.data.labels import LABEL_LIST, find_labels
from mimii_jax.data.layouts import (
    AUDIO,
    File,
    machine_folder,
    machine_types,
)
from mimii_jax.files import printable

_TITLES = {NORMAL: "normal", ANOMALOUS: "anomalous", UNKNOWN: "unknown"}
_MOST_FILES = 20  # lines, unless all are wanted


def list_recordings(root: Path, files: bool = False) -> None:
    """Print what the files of each machine are taken for, and all that aren't used."""
    machines = own.machines(root) or machine_types(root)
    if not machines:
        machine_folder(root, "slider")  # raises an error that explains why
    labels = find_labels(root, "")
    seen: set[str] = set()
    for machine in machines:
        folder, found = dcase.find(root, machine, (), ("train", "test"), labels)
        paths = [file.path for file in found.files]
        split_of = {file.path: file.split for file in found.files}
        _, headers, unusable = reading.load(paths, dcase.SAMPLE_RATE, splits=split_of)
        bad = found.bad | unusable
        log.console.print(_table(f"{machine}, {found.layout}", found.files, headers))
        good = [file for file in found.files if file.path not in bad]
        shown = good if files else good[:_MOST_FILES]
        for file in shown:
            place = printable(os.path.relpath(file.path, folder))
            log.info(f"  {place}: id {file.machine_id}, {_split(file)}, {_label(file)}")
        if len(shown) < len(good):
            log.info(f"  and {len(good) - len(shown):,} more: --files lists them all")
        count = len(paths) + len(found.bad)
        state = f"{len(bad)} of them bad" if bad else "all usable"
        log.info(f"{count} files, {state if count else 'no recordings'}")
        log.info("".join(f"  {line}\n" for line in dcase.bad_lines(bad, folder, 10**9)))
        seen.update(paths, found.bad)
    _list_others(root if root.is_dir() else root.parent, seen)


def _list_others(root: Path, seen: set[str]) -> None:
    """Print which files are passed over, a line per reason."""
    others: dict[str, list[str]] = {}
    known = {os.path.realpath(path) for path in seen}
    for folder, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.realpath(path) in known:
                continue
            place = os.path.relpath(path, root)
            if name.startswith("."):
                reason = "hidden"
            elif re.search(AUDIO + r"\Z", name):
                reason = "recordings, but neither listed nor in a folder of the layout"
            elif name in (own.MANIFEST, LABEL_LIST):
                continue
            else:
                reason = "no .wav, .flac, .aiff or .ogg"
            others.setdefault(reason, []).append(printable(place))
    for reason, places in others.items():
        more = ", …" if len(places) > 3 else ""
        log.info(
            f"passed over, {reason}: {len(places)} ({', '.join(places[:3])}{more})"
        )


def _split(file: File) -> str:
    return f"{file.split or 'to be drawn'} {file.domain}".strip()


def _label(file: File) -> str:
    return _TITLES[file.label]


def _table(
    title: str, files: Sequence[File], headers: Sequence[audio.Header | None]
) -> Table:
    """A row per ID, split, domain and label, with the ranges of the headers."""
    table = Table(title=title, title_justify="left", box=None)
    for name in ("id", "split", "label"):
        table.add_column(name)
    for name in ("clips", "seconds", "Hz", "channels"):
        table.add_column(name, justify="right")
    groups: dict[tuple[str, str, str], list[audio.Header | None]] = {}
    for file, header in zip(files, headers, strict=True):
        key = (file.machine_id, _split(file), _label(file))
        groups.setdefault(key, []).append(header)
    for key in sorted(groups, key=lambda k: (k[0], not k[1].startswith("train"), k)):
        known = [(h.frames / h.rate, h.rate, h.channels) for h in groups[key] if h]
        ranges = [
            f"{min(values):g} to {max(values):g}"
            if len(set(values)) > 1
            else f"{values[0]:g}"
            for values in zip(*known, strict=True)
        ]
        table.add_row(*key, str(len(groups[key])), *ranges)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m mimii_jax.data.list", description=list_recordings.__doc__
    )
    where = "folder of a folder per machine type, plain folder, or manifest"
    parser.add_argument("root", type=path_of, help=where)
    parser.add_argument("--files", action="store_true", help="a line for every file")
    given = parser.parse_args(arguments)
    with one_line_errors():
        list_recordings(given.root, files=given.files)


if __name__ == "__main__":
    main()
