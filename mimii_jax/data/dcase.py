"""Find, read and write the recordings of machines.

    <root>/<machine_type>/train/normal_id_NN_NNNNNNNN.wav
    <root>/<machine_type>/test/{normal,anomaly}_id_NN_NNNNNNNN.wav
    <root>/<machine_type>/test/id_NN_NNNNNNNN.wav             evaluation, no label

is the layout of DCASE 2020 Task 2, in which `write` writes.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mimii_jax import log
from mimii_jax.data import audio, own, reading
from mimii_jax.data.clips import ANOMALOUS, NORMAL, UNKNOWN, Clips, shuffled
from mimii_jax.data.labels import NOTHING, Labels
from mimii_jax.data.layouts import (
    AUDIO,
    LABELS,
    MIMII,
    File,
    Found,
    Layout,
    machine_folder,
    recognise,
    recording_folders,
)
from mimii_jax.errors import DataError
from mimii_jax.files import file_errors, printable

SAMPLE_RATE = 16000


def read(
    root: Path,
    machine_type: str,
    ids: Sequence[str] = (),
    *,
    splits: Sequence[str] = ("train", "test"),
    on_bad_file: str = "error",
    labels: Labels | None = None,
    test_normals: int | None = 100,
    sample_rate: int = SAMPLE_RATE,
    channel: audio.Channel = 0,
    seconds: float | None = None,
    decode: bool = True,
    sets: int = 1,
) -> Clips:
    """Read the recordings of one machine type.

    Parameters
    ----------
    root : folder of a folder per machine type, a plain folder or a manifest
    machine_type : name of that folder, or in that manifest, such as "slider"
    ids : machine IDs to read, such as ("00", "02"); all of them when empty
    splits : "train", "test" or both
    on_bad_file : "error", or "skip" to leave out unusable files with a warning
    labels : of clips whose name has none
    test_normals : normal test clips per ID in the MIMII layout, which has no split;
        None: as many as anomalous ones
    sample_rate, channel, seconds, sets : what they are resampled, cut or padded to, and
        how many machine types are joined; see `reading.load`
    decode : False checks the headers of the files alone; clips have no samples

    Returns
    -------
    clips : one row per file, train before test, each sorted by machine ID and name
    """
    folder, found = find(Path(root), machine_type, ids, splits, labels or {})
    files = found.files
    if found.layout == MIMII.title:
        files = _draw_split(files, ids, test_normals)
    files = [file for file in files if file.split in splits]
    chosen = [file for file in files if not ids or file.machine_id in ids]
    samples, _, unusable = reading.load(
        [file.path for file in chosen],
        sample_rate,
        channel=channel,
        seconds=seconds,
        splits={file.path: file.split for file in chosen},
        decode=decode,
        sets=sets,
    )
    bad = found.bad | unusable
    if bad:
        which = f"{len(bad)} of {len(chosen) + len(found.bad)} files are unusable"
        if on_bad_file == "error":
            raise DataError(
                f"{folder}: {which}; repair or remove them, or skip them by "
                "data.on_bad_file='skip':\n  " + "\n  ".join(bad_lines(bad, folder))
            )
        lines = "; ".join(bad_lines(bad, folder, at_most=3))
        log.warning(f"{folder}: {which} and skipped ({lines})")
    chosen = [file for file in chosen if file.path not in bad]
    present = {file.machine_id for file in files if file.path not in bad}
    if missing := sorted(set(ids) - present):
        raise DataError(
            f"{folder}: no clips of id {', '.join(missing)}; "
            f"present: {', '.join(sorted(present)) or 'none'}"
        )
    needed = "train" if "train" in splits else "test"
    if needed not in {file.split for file in chosen}:
        of = f" of id {', '.join(ids)}" if ids else ""
        others = ignored_text(found.ignored)
        raise DataError(f"{folder}: no {needed} clips{of}{others}")
    return Clips(
        audio=samples,
        machine_id=np.array([file.machine_id for file in chosen]),
        split=np.array([file.split for file in chosen]),
        label=np.array([file.label for file in chosen], np.int8),
        name=np.array([file.name for file in chosen]),
        machine_type=machine_type,
        sample_rate=sample_rate,
        domain=np.array([file.domain for file in chosen]),
    )


def find(
    root: Path,
    machine_type: str,
    ids: Sequence[str],
    splits: Sequence[str],
    labels: Labels,
) -> tuple[Path, Found]:
    """Find the recordings of a machine, and the folder that they lie in."""
    if found := own.find(root, machine_type):
        return (root if root.is_dir() else root.parent), found
    folder = machine_folder(root, machine_type)
    return folder, _find_by_name(folder, ids, splits, labels)


def _find_by_name(
    folder: Path, ids: Sequence[str], splits: Sequence[str], labels: Labels
) -> Found:
    """Find the files of all IDs, and the bad ones of `ids` or without an ID."""
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
            bad[path] = f"wrong name, expected one like {layout.example}"
            continue
        file = _file(layout, path, split, fields)
        key = (file.split, file.label, file.machine_id, file.domain, fields["number"])
        reason = ""
        if file.split == "train" and file.label == ANOMALOUS:
            reason = "an anomalous clip in the training set"
        elif (fields.get("named_split") or split) != split:
            reason = f"a clip of the {fields['named_split']} set in the folder {place}"
        elif key in seen:
            reason = f"same id and number as {seen[key]}"
        if not reason:
            seen[key] = name
            if file.label == UNKNOWN:
                label, domain = labels.get((folder.name, file.name), NOTHING)
                file = replace(file, label=label, domain=file.domain or domain)
            files.append(file)
        elif not ids or file.machine_id in ids:
            bad[path] = reason
    return Found(layout.title, sorted(files, key=lambda file: file.order), bad, ignored)


def _file(
    layout: Layout, path: str, split: str, fields: Mapping[str, str | None]
) -> File:
    """The recording of a well-named file."""
    label, machine_id = LABELS[fields["label"]], fields["id"] or ""
    name = printable(f"{Path(path).stem}.wav")
    if layout is MIMII:  # whose names are the same in every folder
        word = "normal" if label == NORMAL else "anomaly"
        name, split = f"{word}_id_{machine_id}_{name}", ""
    return File(path, name, split, label, machine_id, fields.get("domain") or "")


def _draw_split(
    files: Sequence[File], ids: Sequence[str], test_normals: int | None
) -> list[File]:
    """Test on anomalous clips and some normal ones of each ID, chosen by name alone."""
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
        drawn |= set(shuffled(names)[:count])
    tested = [file.label != NORMAL or file.name in drawn for file in files]
    split = [
        replace(file, split="test" if test else "train")
        for file, test in zip(files, tested, strict=True)
    ]
    return sorted(split, key=lambda file: file.order)


def ignored_text(names: Sequence[str]) -> str:
    """Text about files that aren't taken for recordings."""
    if not names:
        return ""
    first = printable(names[0])
    return f"; {len(names)} other files, such as {first}, aren't wav, flac, aiff or ogg"


def bad_lines(bad: Mapping[str, str], folder: Path, at_most: int = 20) -> list[str]:
    """A line per unusable file, with the reason."""
    places = ((printable(os.path.relpath(p, folder)), bad[p]) for p in sorted(bad))
    lines = [f"{place}: {reason}" for place, reason in places]
    if len(lines) > at_most:
        lines[at_most:] = [f"and {len(lines) - at_most} more"]
    return lines


def write(clips: Clips, root: Path) -> None:
    """Write clips as 16-bit wav files <root>/<machine_type>/<split>/<name>."""
    folder = Path(root) / clips.machine_type
    for split in set(clips.split.tolist()):
        with file_errors(folder / split):
            (folder / split).mkdir(parents=True, exist_ok=True)

    def write_row(row: int) -> None:
        path = folder / clips.split[row] / clips.name[row]
        audio.write(path, clips.audio[row], clips.sample_rate)

    log.in_threads("writing", write_row, range(len(clips)))
