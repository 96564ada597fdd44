"""Decoded clips on disk, memory-mapped, so that a second start opens no recording.

A file of the cache holds the int16 rows of one set of recordings, then a table with
their names, sizes, times and check sums, then the table's own length and check sum. It
serves that set, and if all of its recordings are usable, any part of it.
"""

import json
import os
import struct
import sys
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int16

from mimii_jax.data import wav
from mimii_jax.data.threads import in_parallel

State = tuple[int, int, int]  # size in bytes, times of content and of file, in ns

_END = struct.Struct("<QI12s")  # length and check sum of the table, format
_FORMAT = b"mimii_jax 01"
_FORGOTTEN = 3600.0  # seconds after which a half-written file is nobody's


@dataclass(frozen=True)
class Stored:
    """Clips that the cache has.

    Attributes
    ----------
    audio : i16 [shape=(row, time)], memory-mapped, read-only
    rows : of each usable recording that was asked for, in order
    crc : check sum of each row
    bad : path -> reason, the unusable ones
    path : the file of the cache
    """

    audio: Int16[np.ndarray, "row time"]
    rows: list[int]
    crc: list[int]
    bad: dict[str, str]
    path: Path

    @property
    def blank(self) -> Int16[np.ndarray, "clip time"]:
        """Audio of the right shape that takes no memory."""
        shape = (len(self.rows), self.audio.shape[1])
        return np.broadcast_to(np.zeros(1, np.int16), shape)

    def take(
        self, wanted: Bool[np.ndarray, " clip"], workers: int, progress: bool
    ) -> Int16[np.ndarray, "clip time"] | None:
        """The audio; None if a wanted clip is not as it was written.

        Clips that lie in a row are a view of the cache; others are copied, if wanted.
        """
        first, count = self.rows[0], len(self.rows)
        if self.rows == list(range(first, first + count)):
            audio = self.audio[first : first + count]
        else:
            audio = wav.new_audio(count, self.audio.shape[1])

        def check(clip: int) -> bool:
            row = self.rows[clip]
            if audio.flags.writeable:
                audio[clip] = self.audio[row]
            return zlib.crc32(audio[clip].data) == self.crc[row]

        clips = np.flatnonzero(wanted).tolist()
        right = in_parallel(check, clips, workers, "reading the cache", progress)
        return audio if all(right) else None


class Store:
    """The place of a machine's recordings in a cache.

    Parameters
    ----------
    cache : folder of the cache
    folder : of the machine; its true path is part of the key
    paths : recordings in it; their states are noted now, so before they are read
    """

    def __init__(self, cache: Path, folder: Path, paths: Sequence[str]):
        self.folder = os.path.realpath(folder)
        self.paths = list(paths)
        self.root = folder
        self.names = [os.path.relpath(path, folder) for path in paths]
        self.states = [_state(path) for path in paths]
        self.place = cache / sha256(self.folder.encode()).hexdigest()[:16]
        key = "\n".join(self.names)
        self.file = self.place / f"{sha256(key.encode()).hexdigest()[:16]}.clips"

    def find(self) -> Stored | None:
        """The clips, if a file of the cache has them as they are now."""
        others = sorted(self.place.glob("*.clips"))
        for path in [self.file, *(other for other in others if other != self.file)]:
            table = self._table(path)
            stored = self._stored(path, table) if table else None
            if stored:
                return stored
        return None

    def _stored(self, path: Path, table: dict[str, Any]) -> Stored | None:
        """What of a file serves these recordings; None if they are not all in it."""
        known = {name: (tuple(state), row) for name, state, row in table["files"]}
        now = list(zip(self.names, self.states, strict=True))
        if any(known.get(name, (None,))[0] != state for name, state in now):
            return None
        if table["bad"] and list(known) != self.names:
            return None  # what is usable depends on what there is beside it
        shape = (len(table["crc"]), table["frames"])
        audio = np.asarray(np.memmap(path, "<i2", "r", shape=shape))
        rows = [known[name][1] for name in self.names if name not in table["bad"]]
        bad = {os.path.join(self.root, name): why for name, why in table["bad"].items()}
        return Stored(audio, rows, table["crc"], bad, path)

    def _table(self, path: Path) -> dict[str, Any] | None:
        """The table of a file, which is removed if it is broken."""
        try:
            size = path.stat().st_size
            with path.open("rb") as file:
                file.seek(max(0, size - _END.size))
                length, crc, form = _END.unpack(file.read())
                file.seek(size - _END.size - length)
                text = file.read(length)
            if form == _FORMAT and zlib.crc32(text) == crc:
                table = json.loads(text)
                audio = 2 * table["frames"] * len(table["crc"])
                if audio == size - _END.size - length:
                    return table
        except FileNotFoundError:
            return None
        except (OSError, ValueError, struct.error):
            pass
        self.remove(path)
        return None

    def remove(self, path: Path) -> None:
        """Say that a file of the cache is broken, and remove it."""
        print(
            f"warning: {path}: the cache is broken; reading the recordings again",
            file=sys.stderr,
        )
        _unlink(path)

    def write(self, audio: np.ndarray, bad: dict[str, str], progress: bool) -> None:
        """Keep the clips that were read, whole or not at all.

        What cannot be kept is said, and no error. Files that the new one makes useless,
        or that tell of recordings as they were before, are removed.
        """
        unreadable = any(why.startswith("unreadable") for why in bad.values())
        if not audio.size or unreadable or None in self.states:
            return
        part = self.place / f".{self.file.name}.part{os.getpid()}"
        try:
            self.place.mkdir(parents=True, exist_ok=True)
            self._tidy()
            with part.open("wb") as file:

                def append(row: int) -> int:
                    data = np.ascontiguousarray(audio[row], "<i2").data
                    file.write(data)
                    return zlib.crc32(data)

                rows = range(len(audio))
                crc = in_parallel(append, rows, 1, "caching", progress)
                text = json.dumps(self._described(audio, crc, bad)).encode()
                file.write(text)
                file.write(_END.pack(len(text), zlib.crc32(text), _FORMAT))
            os.replace(part, self.file)
        except OSError as error:
            print(
                f"warning: {self.place}: the clips cannot be cached: {error.strerror}; "
                "data.cache names another folder",
                file=sys.stderr,
            )
        finally:
            _unlink(part)

    def _described(
        self, audio: np.ndarray, crc: list[int], bad: dict[str, str]
    ) -> dict[str, Any]:
        """The table of a file."""
        usable = iter(range(len(audio)))
        columns = zip(self.paths, self.names, self.states, strict=True)
        return {
            "folder": self.folder,  # for people who look what this is
            "frames": audio.shape[1],
            "crc": crc,
            "files": [
                [name, state, None if path in bad else next(usable)]
                for path, name, state in columns
            ],
            "bad": {os.path.relpath(p, self.root): why for p, why in bad.items()},
        }

    def _tidy(self) -> None:
        """Remove files that are stale, part of the new one, or left half-written."""
        for path in self.place.glob(".*.part*"):
            if time.time() - path.stat().st_mtime > _FORGOTTEN:
                _unlink(path)
        for path in self.place.glob("*.clips"):
            table = self._table(path) or {"files": []}
            mine = dict(zip(self.names, self.states, strict=True))
            within = all(name in mine for name, _, _ in table["files"])
            stale = any(
                _state(os.path.join(self.folder, name)) != tuple(state)
                for name, state, _ in table["files"]
            )
            if within or stale:
                _unlink(path)


def _state(path: str) -> State | None:
    """What changes when a file does; None if it cannot be looked at.

    The time of the file itself changes when another one takes its name with its size
    and time of content, as unpacked recordings of one length may have.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _unlink(path: Path) -> None:
    """Remove a file if that is possible; a system may refuse while it is mapped."""
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return
