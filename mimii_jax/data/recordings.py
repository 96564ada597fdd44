"""Recordings in many files, as clips of one length; a large set is read when needed."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int16, Shaped

from mimii_jax import log
from mimii_jax.data.audio import (
    Channel,
    Content,
    Header,
    of_length,
    read_checked,
    read_header,
    read_wave,
    say_resampled,
    unusable,
)
from mimii_jax.errors import require_memory
from mimii_jax.files import printable

HELD = 2**28  # bytes of audio that are kept in memory; more is read again each time
AT_ONCE = 64  # clips of a chunk
Samples = Int16[np.ndarray, "clip time"]


@dataclass(frozen=True, eq=False)
class Recordings:
    """Files as an array [clip, time] of int16.

    Slices, masks and arrays of rows select files; `np.asarray`, an index or a loop read
    them.
    """

    path: Shaped[np.ndarray, " clip"]
    digest: Shaped[np.ndarray, " clip"]  # equal for files of equal samples
    length: int  # in samples, to which files are cut or padded
    sample_rate: int  # in Hz
    channel: Channel

    def __len__(self) -> int:
        return len(self.path)

    @property
    def _how(self) -> tuple[int, int, Channel]:
        return self.length, self.sample_rate, self.channel

    @property
    def shape(self) -> tuple[int, int]:
        """Clips, samples."""
        return len(self), self.length

    def __getitem__(self, index: Any) -> Any:
        """Select rows, as an array of NumPy; a single one is read."""
        if isinstance(index, int | np.integer):
            wave = read_wave(self.path[index], self.sample_rate, self.channel)
            return of_length(wave, self.length)
        return replace(self, path=self.path[index], digest=self.digest[index])

    def __iter__(self) -> Iterator[Int16[np.ndarray, " time"]]:
        return map(self.__getitem__, range(len(self)))

    def alike(self, other: Any) -> bool:
        """Whether files of the other are read in the same way."""
        return isinstance(other, Recordings) and self._how == other._how

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read all rows."""
        with ThreadPoolExecutor() as pool:
            rows = list(pool.map(self.__getitem__, range(len(self))))
        audio = np.stack(rows) if rows else np.empty(self.shape, np.int16)
        return audio.astype(dtype or np.int16, copy=False)


Audio = Samples | Recordings


def concatenate(parts: Sequence[Audio]) -> Audio:
    """Rows of several; if all are files of one kind, none is read."""
    first = parts[0]
    if isinstance(first, np.ndarray) or not all(map(first.alike, parts)):
        return np.concatenate([np.asarray(one) for one in parts])
    columns = {
        name: np.concatenate([getattr(one, name) for one in parts])
        for name in ("path", "digest")
    }
    return replace(first, **columns)


def load(
    paths: Sequence[str],
    rate: int,
    *,
    channel: Channel = 0,
    seconds: float | None = None,
    splits: Mapping[str, str] | None = None,
    decode: bool = True,
) -> tuple[Audio, list[Header | None], dict[str, str]]:
    """Read one channel of the files, resampled, cut or padded to one length.

    Full scale (1.0 for float) becomes 32768. Values between two integers are rounded to
    the nearest, ties to the even one; values outside [-32768, 32767] are clipped. A
    short file is padded by its mirror image: silence would be an anomaly.

    Parameters
    ----------
    paths : files
    rate : sampling rate in Hz
    channel : number from 0, or "mean"
    seconds : length of the clips; None: the most frequent one
    splits : split of each path, to name the same audio in two splits
    decode : False reads headers alone; clips have no samples

    Returns
    -------
    audio : i16 [shape=(clip, time)], the usable files in the order of `paths`; if they
        need more than `HELD` bytes, as `Recordings`
    headers : of each path; None if it has none
    bad : path -> reason, the other files
    """
    found = log.in_threads("checking", read_header, paths, "files")
    headers = [header if isinstance(header, Header) else None for header in found]
    reasons = [unusable(header, rate, channel) for header in found]
    bad = {path: reason for path, reason in zip(paths, reasons, strict=True) if reason}
    chosen = [path for path in paths if path not in bad]
    good = [h for h, reason in zip(headers, reasons, strict=True) if h and not reason]
    lengths = [header.length(rate) for header in good]
    usual = Counter(lengths).most_common(1)[0][0] if lengths else 0
    length = usual if seconds is None else round(seconds * rate)
    if not decode:
        return np.empty((len(chosen), 0), np.int16), headers, bad
    for other in sorted({header.rate for header in good}):
        say_resampled(other, rate)
    _say_fitted(lengths, length, rate)
    at_once = 2 * length * min(len(chosen), AT_ONCE)
    require_memory(at_once, f"data.seconds: clips of {length / rate:g} s")
    held = 2 * length * len(chosen) <= HELD
    audio = np.empty((len(chosen) if held else 0, length), np.int16)

    def read(row: int) -> Content | str:
        found = read_checked(chosen[row], rate, channel)
        if isinstance(found, str):
            return found
        samples, content = found
        if held:
            audio[row] = of_length(samples, length)
        return content

    contents: dict[str, Content] = {}
    for row, result in enumerate(
        log.in_threads("reading", read, range(len(chosen)), "files")
    ):
        if isinstance(result, str):
            bad[chosen[row]] = result
            continue
        contents[chosen[row]] = result
    warn_of_content(contents, splits or {})
    if held:
        return audio[[path in contents for path in chosen]], headers, bad
    digests = np.array([content.digest for content in contents.values()])
    found = Recordings(np.array([*contents]), digests, length, rate, channel)
    return found, headers, bad


def _say_fitted(lengths: Sequence[int], length: int, rate: int) -> None:
    """Say how many files are cut or padded."""
    cut = sum(n > length for n in lengths)
    padded = sum(n < length for n in lengths)
    if cut or padded:
        log.info(
            f"of {len(lengths)} files {cut} are cut and {padded} padded (mirrored) to "
            f"{length / rate:g} s; they have {min(lengths) / rate:g} to "
            f"{max(lengths) / rate:g} s; data.seconds sets the length"
        )


def warn_of_content(
    contents: Mapping[str, Content], splits: Mapping[str, str] | None = None
) -> None:
    """Warn of clipped, silent, constant and equal files, a line per kind."""
    clipped = sorted(
        ((c.clipped, path) for path, c in contents.items() if c.clipped), reverse=True
    )
    first: dict[bytes, str] = {}
    same, leaks = [], []
    for path, content in contents.items():
        other = first.setdefault(content.digest, path)
        if other != path and not content.constant:
            same.append(f"{path} and {other}")
            if splits and splits.get(path) != splits.get(other):
                leaks.append(same[-1])
    leaked = f" ({len(leaks)} of them in training and test)" if leaks else ""
    for what, files in (
        (
            "have samples at or over full scale; record at a lower level, or divide "
            "float files by a number",
            [f"{path} ({share:.1%})" for share, path in clipped],
        ),
        ("are digital silence", [p for p, c in contents.items() if c.silent]),
        (
            "hold one constant value",
            [p for p, c in contents.items() if c.constant and not c.silent],
        ),
    ):
        if files:
            log.warning(f"{len(files)} files {what}, such as {printable(files[0])}")
    if same:
        pair = printable((leaks or same)[0])
        log.warning(f"{len(same)} files repeat the audio of another{leaked}: {pair}")
