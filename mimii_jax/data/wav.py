"""One wav file: what its header says, whether that is true, and its first channel.

Only the header is read by `inspect`, so a folder is checked before a gigabyte is
loaded; `decode` then fills a row of an array in place. libsndfile is not used here: it
shortens truncated files silently, and has no exact scaling to 16 bit.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Int16, Shaped

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE

# (format tag, bits per sample) -> bytes on disk and the value of full scale
ENCODINGS = {
    (PCM, 8): ("u1", 2.0**7),  # unsigned, silence is 128
    (PCM, 16): ("<i2", 2.0**15),
    (PCM, 24): ("V3", 2.0**23),  # NumPy has no 24-bit integer
    (PCM, 32): ("<i4", 2.0**31),
    (FLOAT, 32): ("<f4", 1.0),
    (FLOAT, 64): ("<f8", 1.0),
}


class WavError(Exception):
    """A file that cannot be used; the message is the reason, without the file's name."""


@dataclass(frozen=True)
class Wav:
    """Header of a wav file whose audio is really there.

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


def inspect(path: Path | str) -> Wav:
    """Read the header of a wav file and check it against the size of the file.

    Raises
    ------
    WavError : empty, not a wav, truncated, without samples, unreadable, or an encoding
        other than PCM of 8, 16, 24, 32 bit and float of 32, 64 bit

    """
    try:
        with open(path, "rb") as file:
            return _inspect(file, os.fstat(file.fileno()).st_size)
    except OSError as error:
        raise WavError(f"unreadable: {error.strerror}") from error


def _inspect(file: BinaryIO, size: int) -> Wav:
    """Walk the chunks of a RIFF file of `size` bytes up to its audio."""
    if size == 0:
        raise WavError("empty (0 bytes)")
    riff = file.read(12)
    if riff[:4] != b"RIFF"[:size] or riff[8:12] != b"WAVE"[: max(size - 8, 0)]:
        raise WavError("not a wav (no RIFF/WAVE header)")
    fmt = None
    while len(head := file.read(8)) == 8:
        name, length = struct.unpack("<4sI", head)
        if name == b"data":
            if fmt is None:
                raise WavError("not a wav (no format before the audio)")
            return _audio(fmt, file.tell(), length, size)
        start = file.tell()
        if name == b"fmt ":
            fmt = file.read(min(length, 40))
        file.seek(start + length + length % 2)  # chunks are padded to even lengths
    raise WavError(f"truncated: its {size} bytes end before the audio")


def _audio(fmt: bytes, offset: int, length: int, size: int) -> Wav:
    """Header of a file of `size` bytes from its format and the place of its audio."""
    if len(fmt) < 16:
        raise WavError("not a wav (format chunk too short)")
    tag, channels, rate, _, block, bits = struct.unpack("<HHIIHH", fmt[:16])
    if tag == EXTENSIBLE and len(fmt) >= 26:
        (tag,) = struct.unpack("<H", fmt[24:26])  # first field of the sub-format's GUID
    if (tag, bits) not in ENCODINGS:
        raise WavError(
            f"encoding {bits} bit, format {tag} is not supported; "
            "use PCM of 8, 16, 24 or 32 bit, or float"
        )
    if channels == 0 or block != channels * bits // 8:
        raise WavError(f"not a wav ({channels} channels in frames of {block} bytes)")
    if length == 0:
        raise WavError("zero samples")
    if offset + length > size:
        raise WavError(
            f"truncated: the header promises {length} bytes of audio, "
            f"the file holds {size - offset}"
        )
    if length < block:
        raise WavError("zero samples")
    return Wav(rate, channels, (tag, bits), length // block, offset)


def decode(path: Path | str, wav: Wav, out: Int16[np.ndarray, " time"]) -> None:
    """Fill `out` with the first channel of a file, scaled to 16 bit.

    Full scale of the file (1.0 for float) becomes 32768. Values between two integers
    are rounded to the nearest, ties to the even one; values outside [-32768, 32767]
    are clipped, so that float 1.0 becomes 32767. 16-bit audio is unchanged.

    Parameters
    ----------
    path : the file
    wav : its header, from `inspect`
    out : i16 [shape=(wav.frames,)], contiguous; it is overwritten

    Raises
    ------
    WavError : unreadable, shortened since `inspect`, or samples that are not finite

    """
    dtype, full_scale = ENCODINGS[wav.encoding]
    in_place = wav.encoding == (PCM, 16) and wav.channels == 1
    data = out if in_place else np.empty((wav.frames, wav.channels), dtype)
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(wav.offset)
            got = file.readinto(data.view(np.uint8).data)
    except OSError as error:
        raise WavError(f"unreadable: {error.strerror}") from error
    if got != data.nbytes:
        raise WavError(
            f"truncated: {got} of {data.nbytes} bytes of audio could be read"
        )
    if not in_place:
        out[:] = _to_int16(_numbers(data[:, 0]), full_scale)


def _numbers(samples: Shaped[np.ndarray, " time"]) -> np.ndarray:
    """Samples as they are on disk -> signed numbers around 0."""
    if samples.dtype == np.dtype("V3"):
        bytes_ = np.ascontiguousarray(samples).view(np.uint8).reshape(-1, 3)
        wide = np.zeros((len(bytes_), 4), np.uint8)
        wide[:, 1:] = bytes_  # the top three bytes, so that the sign is right
        return wide.view("<i4")[:, 0] >> 8
    if samples.dtype == np.uint8:
        return samples.astype(np.int16) - 128
    return samples


def _to_int16(
    samples: Shaped[np.ndarray, " time"], full_scale: float
) -> Int16[np.ndarray, " time"]:
    """Scale so that `full_scale` becomes 32768; round half to even; clip."""
    if not np.all(np.isfinite(samples)):
        raise WavError("samples that are not finite")
    scaled = np.rint(samples.astype(np.float64) * (32768 / full_scale))
    return np.clip(scaled, -32768, 32767).astype(np.int16)
