"""Audio files of any kind -> int16 at one sampling rate, by soundfile and soxr.

libsndfile reads a truncated file as a short one, and cuts 24 bit off where it should
round; so headers are compared with the file's size here, and wide samples rounded.
"""

import errno
import hashlib
import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple

import numpy as np
import soundfile
import soxr
from jaxtyping import Int16

from mimii_jax import log
from mimii_jax.errors import DataError
from mimii_jax.files import replace_file

MEAN = "mean"  # of the channels
Channel = int | str  # a number from 0, or MEAN
# Type to read samples as, and factor to 16 bit: of up to 16 bit, and of wide encodings.
NARROW: tuple[Literal["int16"], float] = ("int16", 1.0)
WIDE: dict[str, tuple[Literal["int32", "float64"], float]] = {
    "PCM_24": ("int32", 2.0**-16),
    "PCM_32": ("int32", 2.0**-16),
    **dict.fromkeys(("FLOAT", "DOUBLE", "VORBIS", "OPUS"), ("float64", 2.0**15)),
}
FORMATS = ("WAV", "WAVEX", "RF64", "AIFF", "FLAC", "OGG")  # a truncated one is noticed
_BYTE_ORDER = {b"RIFF": "<", b"RF64": "<", b"RIFX": ">", b"FORM": ">"}
# A program that writes into a pipe can't know the size: ffmpeg says 0xFFFFFFFF, arecord
# 0x80000000, sox a little less than 0x7FFFF000.
_UNKNOWN_SIZE = 0x7FFF0000
_OGG_PAGE = 27 + 255 + 255 * 255  # bytes, the longest


class Header(NamedTuple):
    """Sampling rate in Hz, channels, samples per channel."""

    rate: int
    channels: int
    frames: int

    def length(self, rate: int) -> int:
        """Samples at another rate."""
        return round(self.frames * rate / self.rate)


class Content(NamedTuple):
    """Possible faults of the samples of a file."""

    clipped: float  # share of samples at or over full scale
    constant: bool
    silent: bool

    @property
    def fault(self) -> str:
        """What is wrong, in words; "" if nothing is."""
        if self.constant:
            return "digital silence" if self.silent else "one constant value"
        share = f"{100 * self.clipped:.2g} %"
        return f"{share} of samples at or over full scale" if self.clipped else ""


class _Unusable(Exception):
    """The reason why a file can't be used, without its name."""


def read_wave(
    path: Path | str, sample_rate: int, channel: Channel = 0
) -> Int16[np.ndarray, " time"]:
    """Read a whole recording, at `sample_rate` Hz; `DataError` if it can't be used."""
    try:
        with _opened(str(path)) as file:
            return _decode(file, sample_rate, channel)[0]
    except _Unusable as error:
        raise DataError(f"{path}: {error}") from None


def read_checked(
    path: str, sample_rate: int, channel: Channel
) -> tuple[Int16[np.ndarray, " time"], Content] | str:
    """Samples of a recording and their faults, or why it can't be used."""
    try:
        with _opened(path) as file:
            samples, data = _decode(file, sample_rate, channel)
            return samples, _content(file.subtype, data)
    except _Unusable as error:
        return str(error)


def read_header(path: str) -> Header | str:
    """The header of a complete file, or why it can't be used."""
    try:
        with _opened(path) as file:
            return Header(file.samplerate, file.channels, file.frames)
    except _Unusable as error:
        return str(error)


def unusable(header: Header | str, rate: int, channel: Channel) -> str:
    """Why a file can't be used; "" if it can."""
    if isinstance(header, str):
        return header
    if header.length(rate) == 0:
        return "zero samples"
    return _missing_channel(header.channels, channel)


def of_length(
    wave: Int16[np.ndarray, " time"], length: int
) -> Int16[np.ndarray, " length"]:
    """Cut a wave, or pad it by its mirror image: silence would be an anomaly."""
    missing = max(length - len(wave), 0)
    return np.pad(wave[:length], (0, missing), mode="symmetric")


def _missing_channel(channels: int, channel: Channel) -> str:
    if channel == MEAN or int(channel) < channels:
        return ""
    return f"no channel {channel} (data.channel): it has {channels}, counted from 0"


def say_resampled(rate: int, to: int) -> None:
    """Say once per rate, for all threads, that recordings are resampled."""
    with _saying:
        _say_resampled(rate, to)


_saying = Lock()


@cache
def _say_resampled(rate: int, to: int) -> None:
    if rate != to:
        text = f"recordings of {rate} Hz are resampled to {to} Hz"
        empty = f"; they hold nothing above {rate / 2:g} Hz" if rate < to else ""
        log.info(text + empty)


@contextmanager
def _opened(path: str) -> Iterator[soundfile.SoundFile]:
    """Open an audio file whose audio is complete; errors of it are `_Unusable`."""
    try:
        with open(path, "rb", buffering=0) as file:
            source = file.fileno()
            if patched := _require_complete(source):
                source = io.BytesIO(patched)
            with soundfile.SoundFile(source, closefd=False) as sound:
                if sound.format not in FORMATS:
                    raise _Unusable(
                        f"format {sound.format} isn't supported, unlike wav or flac"
                    )
                if sound.frames == 0:
                    raise _Unusable("zero samples")
                yield sound
    except soundfile.LibsndfileError as error:
        raise _Unusable(f"no audio: {error.error_string}") from error
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # the process's limit, not the file's fault
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
    if kind == b"OggS":
        _require_last_page(os.pread(file, _OGG_PAGE, max(size - _OGG_PAGE, 0)))
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


def _require_last_page(end: bytes) -> None:
    """Require that the end of an ogg file is a whole page, marked as the last one."""
    start = end.rfind(b"OggS")
    page = end[max(start, 0) :]
    head = 27 + (page[26] if len(page) > 26 else 0)
    if start < 0 or len(page) != head + sum(page[27:head]) or not page[5] & 4:
        raise _Unusable("truncated: it ends before the last page")


def _decode(
    file: soundfile.SoundFile, rate: int, channel: Channel
) -> tuple[Int16[np.ndarray, " time"], np.ndarray]:
    """Read one channel at `rate`, rounded to 16 bit; also the samples as they are."""
    dtype, factor = WIDE.get(file.subtype, NARROW)
    if missing := _missing_channel(file.channels, channel):
        raise _Unusable(missing)
    say_resampled(file.samplerate, rate)
    try:
        data = np.empty((file.frames, file.channels), dtype)
    except (MemoryError, ValueError):
        raise _Unusable(f"too long for the memory: {file.frames} samples") from None
    if (got := file.buffer_read_into(data, dtype)) != file.frames:
        raise _Unusable(f"truncated: {got} of {file.frames} samples could be read")
    if channel != MEAN:
        data = data[:, int(channel), None]
    if dtype == "float64" and not np.all(np.isfinite(data)):
        raise _Unusable("samples that are not finite")
    wave = data[:, 0] if channel != MEAN else np.mean(data, axis=1)
    if file.samplerate != rate:
        wave = soxr.resample(wave.astype(np.float32), file.samplerate, rate)
    if wave.dtype != np.int16:
        wave = np.clip(np.rint(wave * factor), -32768, 32767).astype(np.int16)
    return np.ascontiguousarray(wave), data


def digest(wave: Int16[np.ndarray, " time"]) -> bytes:
    """16 bytes that are equal for equal samples."""
    return hashlib.blake2b(wave.data, digest_size=16).digest()


def _content(subtype: str, data: np.ndarray) -> Content:
    """Find possible faults of samples, as the file has them."""
    _, factor = WIDE.get(subtype, NARROW)
    low, high = factor * data.min(), factor * data.max()
    full = 32512 if subtype in ("PCM_U8", "PCM_S8") else 32767
    clipped = 0.0
    if low <= -32768 or high >= full:
        clipped = float(np.mean((factor * data <= -32768) | (factor * data >= full)))
    constant = bool(low == high)
    return Content(clipped, constant, bool(constant and low == 0))


def write(path: Path, samples: Int16[np.ndarray, " time"], rate: int) -> None:
    """Write a mono 16-bit wav file, whole or not at all."""
    content = io.BytesIO()
    soundfile.write(content, samples, rate, subtype="PCM_16", format="WAV")
    replace_file(path, content.getvalue())
