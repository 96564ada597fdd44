"""Audio files of one length and sampling rate -> one int16 array, by soundfile.

libsndfile reads a truncated file as a short one, and cuts 24 bit off where it should
round; so headers are compared with the file's size here, and wide samples rounded.
"""

import io
import os
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import soundfile
from jaxtyping import Int16

from mimii_jax import log
from mimii_jax.errors import DataError
from mimii_jax.files import replace_file

# Encoding -> type to read it as, factor to 16 bit; all others have 16 bit or less.
WIDE: dict[str, tuple[Literal["int32", "float64"], float]] = {
    "PCM_24": ("int32", 2.0**-16),
    "PCM_32": ("int32", 2.0**-16),
    "FLOAT": ("float64", 2.0**15),
    "DOUBLE": ("float64", 2.0**15),
}
FORMATS = ("WAV", "WAVEX", "RF64", "AIFF", "FLAC")  # a truncated one is noticed
_BYTE_ORDER = {b"RIFF": "<", b"RF64": "<", b"RIFX": ">", b"FORM": ">"}
# A program that writes into a pipe can't know the size: ffmpeg says 0xFFFFFFFF, arecord
# 0x80000000, sox a little less than 0x7FFFF000.
_UNKNOWN_SIZE = 0x7FFF0000


class Header(NamedTuple):
    """Sampling rate in Hz, channels, samples per channel."""

    rate: int
    channels: int
    frames: int


class _Unusable(Exception):
    """The reason why a file can't be used, without its name."""


def load(
    paths: Sequence[str], rate: int, *, decode: bool = True
) -> tuple[Int16[np.ndarray, "clip time"], list[Header | None], dict[str, str]]:
    """Read the first channel of the files that have the most frequent length.

    Full scale (1.0 for float) becomes 32768. Values between two integers are rounded to
    the nearest, ties to the even one; values outside [-32768, 32767] are clipped.

    Returns
    -------
    audio : i16 [shape=(clip, time)], the usable files in the order of `paths`; without
        `decode` only the headers are read, and clips have no samples
    headers : of each path; None if it has none
    bad : path -> reason, the other files
    """
    found = log.in_threads("checking", _header, paths, "files")
    headers = [header if isinstance(header, Header) else None for header in found]
    counts = Counter(
        header.frames for header in headers if header and header.rate == rate
    )
    usual = counts.most_common(1)[0][0] if counts else 0
    reasons = [_reason(header, rate, usual) for header in found]
    bad = {path: reason for path, reason in zip(paths, reasons, strict=True) if reason}
    chosen = [path for path in paths if path not in bad]
    if not decode:
        return np.empty((len(chosen), 0), np.int16), headers, bad
    try:
        audio = np.empty((len(chosen), usual), np.int16)
    except MemoryError:
        raise DataError(
            f"{os.path.dirname(paths[0])}: {len(chosen)} clips of {usual / rate:g} s "
            f"need {2e-9 * len(chosen) * usual:.1f} GB of memory; choose fewer by "
            "data.ids"
        ) from None

    def read(row: int) -> float | str:
        try:
            with _opened(chosen[row]) as file:
                return _decode(file, audio[row])
        except _Unusable as error:
            return str(error)

    clipped = []
    for row, result in enumerate(
        log.in_threads("reading", read, range(len(chosen)), "files")
    ):
        if isinstance(result, str):
            bad[chosen[row]] = result
            continue
        if len(clipped) != row:  # in place: memory may not hold a second copy
            audio[len(clipped)] = audio[row]
        clipped.append((result, chosen[row]))
    _warn_of_clipping(clipped)
    return audio[: len(clipped)], headers, bad


def _header(path: str) -> Header | str:
    """The header of a complete file, or why it can't be used."""
    try:
        with _opened(path) as file:
            return Header(file.samplerate, file.channels, file.frames)
    except _Unusable as error:
        return str(error)


def _reason(header: Header | str, rate: int, usual: int) -> str:
    """Why a file can't be used; "" if it can."""
    if isinstance(header, str):
        return header
    if header.rate != rate:
        return f"sampling rate {header.rate} Hz, expected {rate} Hz"
    if header.frames != usual:
        return (
            f"wrong length: {header.frames} samples ({header.frames / rate:g} s), most "
            f"files have {usual} ({usual / rate:g} s)"
        )
    return ""


def _warn_of_clipping(clipped: Sequence[tuple[float, str]]) -> None:
    """Warn of files by their shares of samples beyond full scale."""
    share, path = max(clipped, default=(0.0, ""))
    if share:
        log.warning(
            f"{sum(share > 0 for share, _ in clipped)} files have samples beyond full "
            f"scale (1.0), which are clipped; {path}: {share:.1%} of them. Divide all "
            "files by the same number"
        )


@contextmanager
def _opened(path: str) -> Iterator[soundfile.SoundFile]:
    """Open an audio file whose audio is complete; every error is `_Unusable`."""
    try:
        with open(path, "rb", buffering=0) as file:
            source = file.fileno()
            if patched := _require_complete(source):
                source = io.BytesIO(patched)
            with soundfile.SoundFile(source, closefd=False) as sound:
                if sound.format not in FORMATS:
                    raise _Unusable(
                        f"format {sound.format} isn't supported; use wav, flac or aiff"
                    )
                if sound.frames == 0:
                    raise _Unusable("zero samples")
                yield sound
    except soundfile.LibsndfileError as error:
        raise _Unusable(f"no audio: {error.error_string}") from error
    except OSError as error:
        raise _Unusable(f"unreadable: {error.strerror}") from error


def _require_complete(file: int) -> bytes | None:
    """Compare the sizes in a wav's or aiff's header with that of the file.

    Headers that were never completed are legal: their audio ends with the file. For one
    that says 0 bytes, returns the whole file with a size that libsndfile understands.
    """
    size = os.fstat(file).st_size
    if size < 12:
        raise _Unusable(f"truncated: it has {size} bytes" if size else "empty: 0 bytes")
    kind, form = struct.unpack("4s4x4s", os.pread(file, 12, 0))
    order = _BYTE_ORDER.get(kind)
    if order is None or form not in (b"WAVE", b"AIFF", b"AIFC"):
        return None  # libsndfile refuses it, or notices that it is truncated
    total, start, length = _sizes(file, order, kind)
    for promised in (start + length if length < _UNKNOWN_SIZE else 0, total):
        if size < promised < _UNKNOWN_SIZE:
            raise _Unusable(
                f"truncated: {size} of the {promised} bytes that the header promises"
            )
    if length == 0 and not start < total < _UNKNOWN_SIZE:
        whole = os.pread(file, size, 0)
        return whole[: start - 4] + b"\xff" * 4 + whole[start:]
    return None


def _sizes(file: int, order: str, kind: bytes) -> tuple[int, int, int]:
    """Size of the file and place and size of its audio, as the header has them."""
    (total,) = struct.unpack(order + "I", os.pread(file, 4, 4))
    long = b""
    at = 12
    while len(head := os.pread(file, 8, at)) == 8:
        name, length = struct.unpack(order + "4sI", head)
        start = at + 8
        if name == b"ds64":  # the sizes of an RF64 file
            long = os.pread(file, 16, start)
        if name in (b"data", b"SSND"):
            if kind == b"RF64" and len(long) == 16:
                total, length = struct.unpack("<QQ", long)
            return total + 8, start, length
        at = start + length + length % 2  # chunks are padded to even lengths
    raise _Unusable("truncated: it ends before the audio")


def _decode(file: soundfile.SoundFile, out: Int16[np.ndarray, " time"]) -> float:
    """Fill `out` with the first channel; the share of float samples beyond 1.0."""
    dtype, factor = WIDE.get(file.subtype, ("int16", 1.0))
    direct = dtype == "int16" and file.channels == 1
    data = out if direct else np.empty((file.frames, file.channels), dtype)
    if (got := file.buffer_read_into(data, dtype)) != file.frames:
        raise _Unusable(f"truncated: {got} of {file.frames} samples could be read")
    if direct:
        return 0.0
    first = data[:, 0]
    if dtype == "float64" and not np.all(np.isfinite(first)):
        raise _Unusable("samples that are not finite")
    out[:] = np.clip(np.rint(first * factor), -32768, 32767)
    return float(np.mean(np.abs(first) > 1)) if dtype == "float64" else 0.0


def write(path: Path, samples: Int16[np.ndarray, " time"], rate: int) -> None:
    """Write a mono 16-bit wav file, whole or not at all."""
    content = io.BytesIO()
    soundfile.write(content, samples, rate, subtype="PCM_16", format="WAV")
    replace_file(path, content.getvalue())
