"""Recordings of machines from disk, in any of the layouts of `layouts`; and to disk.

python -m mimii_jax.data.dcase ROOT                        prints what is there

    <root>/<machine_type>/train/normal_id_NN_NNNNNNNN.wav
    <root>/<machine_type>/test/{normal,anomaly}_id_NN_NNNNNNNN.wav
    <root>/<machine_type>/test/id_NN_NNNNNNNN.wav             evaluation, no label

is that of DCASE 2020 Task 2, which is written too.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mimii_jax.data import wav
from mimii_jax.data.cache import Store
from mimii_jax.data.clips import UNKNOWN, Clips, require_ids
from mimii_jax.data.files import File, bad_lines, draw_split, find
from mimii_jax.data.labels import Labels
from mimii_jax.data.layouts import DCASE_2020, MIMII, Layout, machine_folder, parse_name
from mimii_jax.data.threads import in_parallel
from mimii_jax.errors import DataError

SAMPLE_RATE = 16000


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
    labels: Labels | None = None,
    test_normals: int = 100,
    split_seed: int = 0,
    cache: Path | None = None,
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
    labels : (machine type, name) -> label of clips whose name has none
    test_normals, split_seed : how the MIMII layout, which has no split, gets one; see
        `files.draw_split`
    cache : folder of decoded clips, from which they come if no recording has changed,
        and where they are kept if all are needed; None: none. Audio from there is
        read-only

    Returns
    -------
    clips : one row per file, train before test, each sorted by machine ID and name;
        files of other encodings than mono 16 bit are converted (see `wav.decode`)

    Raises
    ------
    DataError : a folder or ID is missing, a split is empty, no layout fits, or files
        are unusable: empty, truncated, no wav, misnamed, duplicate, unreadable,
        anomalous in train, not at 16 kHz, not as long as most. The message names each
        file (up to 20).
    """
    if not splits or set(splits) - {"train", "test"}:
        raise ValueError(f"splits are {splits!r}; use 'train', 'test' or both")
    if on_bad_file not in ("error", "skip"):
        raise ValueError(f"on_bad_file is {on_bad_file!r}; use 'error' or 'skip'")
    folder = machine_folder(Path(root), machine_type)
    splits = [split for split in ("train", "test") if split in splits]
    layout, files, bad = find(folder, ids, splits)
    if layout is MIMII:
        files = draw_split(files, ids, test_normals, split_seed)
        files = [file for file in files if file.split in splits]
    asked = _Asked(folder, layout, bad, ids, splits, on_bad_file)
    if not bad:
        asked.require(files)
    files = [file for file in files if not ids or file.machine_id in ids]
    store = Store(cache, folder, [file.path for file in files]) if cache else None

    def clips(audio: np.ndarray, unusable: Mapping[str, str]) -> Clips:
        usable = asked.usable(files, unusable)
        return _clips(usable, audio, machine_type, labels or {})

    return _with_audio(files, clips, store, needed, workers, progress)


def _with_audio(
    files: Sequence[File],
    clips: Callable[[np.ndarray, Mapping[str, str]], Clips],
    store: Store | None,
    needed: Callable[[Clips], np.ndarray] | None,
    workers: int,
    progress: bool,
) -> Clips:
    """The clips of these files, from the cache if they are there.

    `clips` makes them of audio and of unusable files, or raises `DataError`.
    """
    stored = store.find() if store else None
    if store and stored:
        found = clips(stored.blank, stored.bad)
        wanted = np.ones(len(found), bool) if needed is None else needed(found)
        audio = stored.take(wanted, workers, progress)
        if audio is not None:
            return replace(found, audio=audio)
        store.remove(stored.path)
    paths = [file.path for file in files]
    none = None if needed is None else np.zeros(len(paths), bool)
    audio, unusable = wav.load(paths, SAMPLE_RATE, workers, progress, none)
    found = clips(audio, unusable)
    if needed is not None:
        paths = [path for path in paths if path not in unusable]
        audio, _ = wav.load(paths, SAMPLE_RATE, workers, progress, needed(found))
        return replace(found, audio=audio)
    if store:
        store.write(audio, unusable, progress)
    return found


def _clips(
    files: Sequence[File],
    audio: np.ndarray,
    machine_type: str,
    labels: Labels,
) -> Clips:
    """Clips of these files; `labels` are for those whose name has none."""
    label = [
        labels.get((machine_type, file.name), UNKNOWN)
        if file.label == UNKNOWN
        else file.label
        for file in files
    ]
    return Clips(
        audio=audio,
        machine_id=np.array([file.machine_id for file in files]),
        split=np.array([file.split for file in files]),
        label=np.array(label, np.int8),
        name=np.array([file.name for file in files]),
        machine_type=machine_type,
        sample_rate=SAMPLE_RATE,
        domain=np.array([file.domain for file in files]),
    )


@dataclass(frozen=True)
class _Asked:
    """What is asked of a machine's folder, and which of its files are misnamed."""

    folder: Path
    layout: Layout
    misnamed: Mapping[str, str]
    ids: Sequence[str]
    splits: Sequence[str]
    on_bad_file: str

    def usable(self, files: Sequence[File], unusable: Mapping[str, str]) -> list[File]:
        """The files that can be used.

        Raises `DataError` that names the others, or warns when they are skipped.
        """
        bad = {**self.misnamed, **unusable}
        count = f"{len(bad)} of {len(files) + len(self.misnamed)} files"
        if bad and self.on_bad_file == "error":
            raise DataError(
                f"{self.folder}: {count} cannot be used; mend or remove them, or set "
                "data.on_bad_file='skip' to go on without them:\n  "
                + "\n  ".join(bad_lines(bad, self.folder))
            )
        if bad:
            lines = bad_lines(bad, self.folder, at_most=3)
            print(
                f"warning: {self.folder}: going on without {count} that cannot be used "
                f"({'; '.join(lines)})",
                file=sys.stderr,
            )
        usable = [file for file in files if file.path not in unusable]
        self.require(usable)
        return usable

    def require(self, files: Sequence[File]) -> None:
        """Raise `DataError` when a split, or an ID that is asked for, has no files."""
        ids, folder = self.ids, self.folder
        require_ids(sorted({file.machine_id for file in files}), ids, str(folder))
        for split in self.splits:
            if any(
                f.split == split and (not ids or f.machine_id in ids) for f in files
            ):
                continue
            if self.layout is DCASE_2020 and not (folder / split).is_dir():
                raise DataError(f"{folder / split}: no such folder")
            of = f" of id {', '.join(ids)}" if ids else ""
            raise DataError(f"{folder}: the {split} set has no clips{of}")


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what is in a folder of recordings: clips per type, ID, split, label."""
    # Imported here, since reading needs no tables.
    from mimii_jax.data.listing import print_listing

    parser = argparse.ArgumentParser(
        prog="python -m mimii_jax.data.dcase", description=main.__doc__
    )
    parser.add_argument("root", type=Path, help="folder of a folder per machine type")
    given = parser.parse_args(arguments)
    try:
        print_listing(given.root, SAMPLE_RATE)
    except DataError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
