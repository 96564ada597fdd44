"""Read many recordings as clips of one length, and warn of what may be wrong."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from mimii_jax import log
from mimii_jax.data.audio import (
    Channel,
    Content,
    Header,
    digest,
    of_length,
    read_checked,
    read_header,
    say_resampled,
    unusable,
)
from mimii_jax.data.recordings import Audio, Recordings
from mimii_jax.errors import require_memory
from mimii_jax.files import printable

HELD = 2**28  # bytes of audio that are kept in memory; more is read again each time
AT_ONCE = 64  # clips of a chunk


def load(
    paths: Sequence[str],
    rate: int,
    *,
    channel: Channel = 0,
    seconds: float | None = None,
    splits: Mapping[str, str] | None = None,
    decode: bool = True,
    sets: int = 1,
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
    sets : number of such sets that are to be joined, and share `HELD`

    Returns
    -------
    audio : i16 [shape=(clip, time)], the usable files in the order of `paths`; if they
        need more than `HELD / sets` bytes, as `Recordings`
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
    held = 2 * length * len(chosen) <= HELD / sets
    audio = np.empty((len(chosen) if held else 0, length), np.int16)

    def read(row: int) -> tuple[Content, bytes] | str:
        found = read_checked(chosen[row], rate, channel)
        if isinstance(found, str):
            return found
        samples, content = found
        if held:
            audio[row] = of_length(samples, length)
        return content, digest(samples)

    contents: dict[str, Content] = {}
    digests: dict[str, bytes] = {}
    for row, result in enumerate(
        log.in_threads("reading", read, range(len(chosen)), "files")
    ):
        if isinstance(result, str):
            bad[chosen[row]] = result
            continue
        contents[chosen[row]], digests[chosen[row]] = result
    warn_of_content(contents, digests, splits or {})
    if held:
        good_rows = [path in contents for path in chosen]
        return (audio if all(good_rows) else audio[good_rows]), headers, bad
    of_files = np.array([*digests]), np.array([*digests.values()])
    return Recordings(*of_files, length, rate, channel), headers, bad


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
    contents: Mapping[str, Content],
    digests: Mapping[str, bytes],
    splits: Mapping[str, str],
) -> None:
    """Warn of clipped, silent, constant and equal files, a line per kind."""
    clipped = sorted(
        ((c.clipped, path) for path, c in contents.items() if c.clipped), reverse=True
    )
    first: dict[bytes, str] = {}
    same, leaks = [], []
    for path, content in contents.items():
        other = first.setdefault(digests[path], path)
        if other != path and not content.constant:
            same.append(f"{path} and {other}")
            if splits.get(path) != splits.get(other):
                leaks.append(same[-1])
    repeated = "the audio of another file"
    if leaks:
        repeated += f" ({len(leaks)} across training and test)"
    for what, files, remedy in (
        (
            "samples at or over full scale",
            [f"{path} ({share:.1%})" for share, path in clipped],
            "; record at a lower level, or scale float files down",
        ),
        ("digital silence", [p for p, c in contents.items() if c.silent], ""),
        (
            "one constant value",
            [p for p, c in contents.items() if c.constant and not c.silent],
            "",
        ),
        (repeated, [*leaks, *same][: len(same)], ""),
    ):
        if files:
            count = f"{len(files)} of {len(contents)} files"
            example = printable(files[0])
            log.warning(f"{what} in {count}, such as {example}{remedy}")
