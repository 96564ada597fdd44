"""Wav files: is the header true, the first channel as 16 bit, many into one array.

libsndfile is not used: it reads a truncated file as a short one, cuts off where 24 bit
become 16, copies what can go straight to its place, and hides why a disk refuses.
"""

import io
import mmap
import os
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int16, Shaped

from mimii_jax.data.threads import in_parallel

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE

# (format tag, bits per sample) -> type on disk, value of full scale
ENCODINGS = {
    (PCM, 8): ("u1", 2.0**7),  # unsigned, silence is 128
    (PCM, 16): ("<i2", 2.0**15),
    (PCM, 24): ("V3", 2.0**23),  # NumPy has no 24-bit integer
    (PCM, 32): ("<i4", 2.0**31),
    (FLOAT, 32): ("<f4", 1.0),
    (FLOAT, 64): ("<f8", 1.0),
}


class WavError(Exception):
    """A file that cannot be used; the message is the reason, without the name."""


@dataclass(frozen=True)
class Header:
    """Header of a wav file whose audio is all there.

    Attributes
    ----------
    rate : int, in Hz
    channels : int > 0
    encoding : a key of `ENCODINGS`
    frames : int > 0, samples per channel
    offset : int, position of the first sample in the file, in bytes
    """

    rate: int
    channels: int
    encoding: tuple[int, int]
    frames: int
    offset: int


def inspect(file: io.BufferedReader) -> Header:
    """Read the header of an open wav file and hold it against the file's size.

    Raises
    ------
    WavError : empty, not a wav, truncated, no samples, or an encoding other than PCM
        of 8, 16, 24, 32 bit and float of 32, 64 bit
    """
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise WavError("empty: 0 bytes")
    riff = file.read(12)
    # a file cut off within its first 12 bytes is truncated rather than something else
    if not (b"RIFF".startswith(riff[:4]) and b"WAVE".startswith(riff[8:])):
        raise WavError("not a wav: no RIFF/WAVE header")
    form = b""
    while len(head := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", head)
        start = file.tell()
        if name == b"data":
            return _header(form, start, length, size)
        if name == b"fmt ":
            form = file.read(min(length, 40))
        file.seek(start + length + length % 2)  # chunks are padded to even lengths
    raise WavError(f"truncated: its {size} bytes end before the audio")


def _header(form: bytes, offset: int, length: int, size: int) -> Header:
    """Header from the format chunk, the audio's place and length, the file's size."""
    if len(form) < 16:
        raise WavError("not a wav: no format before the audio")
    tag, channels, rate, _, block, bits = struct.unpack("<HHIIHH", form[:16])
    if tag == EXTENSIBLE and len(form) >= 26:
        (tag,) = struct.unpack("<H", form[24:26])  # first field of the sub-format
    if (tag, bits) not in ENCODINGS:
        raise WavError(
            f"encoding not supported: format {tag} of {bits} bit; "
            "use PCM of 8, 16, 24 or 32 bit, or float"
        )
    if channels == 0 or block != channels * bits // 8:
        raise WavError(f"not a wav: {channels} channels in frames of {block} bytes")
    if offset + length > size:
        raise WavError(
            f"truncated: the header promises {length} bytes of audio, "
            f"the file holds {size - offset}"
        )
    if length < block:
        raise WavError("zero samples")
    return Header(rate, channels, (tag, bits), length // block, offset)


def decode(
    file: io.BufferedReader, header: Header, out: Int16[np.ndarray, " time"]
) -> None:
    """Fill `out` with the first channel of an open file, scaled to 16 bit.

    Full scale of the file (1.0 for float) becomes 32768. Values between two integers
    are rounded to the nearest, ties to the even one; values outside [-32768, 32767]
    are clipped, so that float 1.0 becomes 32767. 16-bit audio is unchanged.

    Parameters
    ----------
    file : the file
    header : what `inspect` said of it
    out : i16 [shape=(header.frames,)], contiguous; it is overwritten

    Raises
    ------
    WavError : shortened since `inspect`, or samples that are not finite
    """
    dtype, full_scale = ENCODINGS[header.encoding]
    in_place = header.encoding == (PCM, 16) and header.channels == 1
    data = out if in_place else np.empty((header.frames, header.channels), dtype)
    file.seek(header.offset)
    got = file.readinto(data.view(np.uint8).data)
    if got != data.nbytes:
        raise WavError(f"truncated: only {got} of {data.nbytes} bytes could be read")
    if not in_place:
        out[:] = _to_int16(_numbers(data[:, 0]), full_scale)


def _numbers(samples: Shaped[np.ndarray, " time"]) -> np.ndarray:
    """Samples as they lie on disk -> numbers around 0."""
    if samples.dtype == np.dtype("V3"):
        wide = np.zeros((len(samples), 4), np.uint8)
        wide[:, 1:] = np.ascontiguousarray(samples).view(np.uint8).reshape(-1, 3)
        return wide.view("<i4")[:, 0] >> 8  # by way of the top bytes, for the sign
    if samples.dtype == np.uint8:
        return samples.astype(np.int16) - 128
    return samples


def _to_int16(
    samples: Shaped[np.ndarray, " time"], full_scale: float
) -> Int16[np.ndarray, " time"]:
    """Scale so that `full_scale` becomes 32768, round, clip."""
    if not np.all(np.isfinite(samples)):
        raise WavError("samples that are not finite")
    scaled = np.rint(samples.astype(np.float64) * (32768 / full_scale))
    return np.clip(scaled, -32768, 32767).astype(np.int16)


def load(
    paths: Sequence[str],
    rate: int,
    workers: int,
    progress: bool,
    wanted: Bool[np.ndarray, " clip"] | None = None,
) -> tuple[Int16[np.ndarray, "clip time"], dict[str, str]]:
    """Read the files of one length, that which most have, into one array.

    Every file is opened once: its audio goes to its row when its header shows the
    length that a look at a few files lets expect.

    Parameters
    ----------
    paths : files, each named once
    rate : sampling rate that they should have, in Hz
    workers : number of threads, 0 for a sensible one
    progress : whether to show a bar
    wanted : files whose audio is read; of the others only the header is, and their
        rows take no memory; None: all

    Returns
    -------
    audio : i16 [shape=(clip, time)], the usable files in the order of `paths`
    bad : path -> reason, the other files
    """
    few = paths[:: len(paths) // 8 + 1]
    frames = _usual([_load(path, rate, np.empty(0, np.int16))[0] for path in few])
    if wanted is None:
        wanted = np.ones(len(paths), bool)
    audio, loaded = _load_all(paths, rate, frames, workers, progress, wanted)
    usual = _usual([length for length, _ in loaded])
    if usual != frames:  # the few were not like most
        audio, loaded = _load_all(paths, rate, usual, workers, progress, wanted)
    count = sum(length == usual for length, _ in loaded)
    bad = {}
    for path, (length, reason) in zip(paths, loaded, strict=True):
        if reason:
            bad[path] = reason
        elif length != usual:
            bad[path] = (
                f"wrong length: {length} samples ({length / rate:g} s), "
                f"but {count} files have {usual} ({usual / rate:g} s)"
            )
    good = [row for row, path in enumerate(paths) if path not in bad]
    for to, row in enumerate(good):
        if to != row:
            audio[to] = audio[row]  # in place: the memory may not hold a second copy
    return audio[: len(good)], bad


def _usual(lengths: Sequence[int]) -> int:
    """The most frequent length, 0 for none; at a tie the one that comes first."""
    counts = Counter(length for length in lengths if length).most_common(1)
    return counts[0][0] if counts else 0


def _load_all(
    paths: Sequence[str],
    rate: int,
    frames: int,
    workers: int,
    progress: bool,
    wanted: np.ndarray,
) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """An array with the files of length `frames` in their rows; `_load` of each."""
    audio = new_audio(len(paths), frames)

    def load_row(row: int) -> tuple[int, str]:
        return _load(paths[row], rate, audio[row] if wanted[row] else audio[row, :0])

    return audio, in_parallel(load_row, range(len(paths)), workers, "reading", progress)


def new_audio(clips: int, frames: int) -> Int16[np.ndarray, "clip time"]:
    """An array in memory of ordinary pages.

    For `np.empty` NumPy asks for huge ones. In a virtual machine that hands unused
    memory back to its host these were seen to cost several times what reading costs.
    """
    if clips * frames == 0:
        return np.empty((clips, frames), np.int16)
    memory = mmap.mmap(-1, 2 * clips * frames, access=mmap.ACCESS_COPY)
    return np.frombuffer(memory, np.int16).reshape(clips, frames)


def _load(path: str, rate: int, out: np.ndarray) -> tuple[int, str]:
    """Fill `out` if the file has its length; the file's length, why it is unusable."""
    length = 0
    try:
        with open(path, "rb") as file:
            header = inspect(file)
            if header.rate != rate:
                return 0, f"sampling rate {header.rate} Hz, expected {rate} Hz"
            length = header.frames
            if length == len(out):
                decode(file, header, out)
    except WavError as error:
        return length, str(error)
    except OSError as error:
        return length, f"unreadable: {error.strerror}"
    return length, ""


def write(path: Path, samples: Int16[np.ndarray, " time"], rate: int) -> None:
    """Write a mono 16-bit wav file, which has its name only once it is complete.

    Parameters
    ----------
    path : the file; one that exists is replaced
    samples : i16 [shape=(time,)], full scale is 32768
    rate : sampling rate, in Hz
    """
    data = np.ascontiguousarray(samples, "<i2")
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, PCM, 1, rate, 2 * rate, 2, 16)
    riff = struct.pack("<4sI4s", b"RIFF", 36 + data.nbytes, b"WAVE")
    part = path.with_name(f".{path.name}.part{os.getpid()}")
    try:
        with open(part, "wb") as file:
            file.write(riff + form + struct.pack("<4sI", b"data", data.nbytes))
            file.write(data.data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
