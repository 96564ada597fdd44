"""One file by HTTP: gone on with where it broke off, and held against its MD5 sum.

pooch fetches; what it lacks is here in its downloader: a file is gone on with, a busy
server is asked again, a wrong file is kept aside.
"""

import errno
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, TypeVar

import pooch
import requests

T = TypeVar("T")
Say = Callable[[str], None]

TRIES = 5  # in a row that brought less than ENOUGH
ENOUGH = 2**20  # bytes
LONGEST_WAIT = 300.0  # seconds that a server may ask for
TIMEOUT = 30.0  # seconds without a byte
BUSY = (429, 500, 502, 503, 504)
CHUNK = 2**16  # bytes; when a connection breaks, what came of one is lost


class DownloadError(Exception):
    """What cannot be fetched or unpacked; the message is one line with the remedy."""


class _Again(Exception):
    """Worth another try: why, after how many seconds (0: not said), bytes gained."""

    def __init__(self, reason: str, wait: float = 0.0, gained: int = 0):
        super().__init__(reason)
        self.wait, self.gained = wait, gained


def read(url: str, say: Say) -> bytes:
    """The bytes of something small."""

    def attempt() -> bytes:
        try:
            with requests.get(url, timeout=TIMEOUT) as response:
                _require_ok(response)
                return response.content
        except requests.RequestException as error:
            raise _Again(_said(error, url)) from error

    return _persist(attempt, say)


def fetch(
    url: str, path: Path, size: int, md5: str, advance: Callable[[int], None], say: Say
) -> None:
    """Fetch a file, which has its name only when it is whole and right.

    Parameters
    ----------
    url : where it is
    path : what it will be called; until then its bytes are in `<path>.part`
    size, md5 : what it has to be, in bytes and as a hexadecimal number
    advance : is told of bytes that came, or with a negative number, that were lost
    say : is told of what is tried again

    Raises
    ------
    DownloadError : it is not there, the server is busy for too long, the connection
        fails again and again, the disk is full, or the file is not the right one, which
        is then kept as `<path>.bad`
    """
    part = path.with_name(f"{path.name}.part")
    best = _size(part)
    advance(best)

    def attempt() -> None:
        nonlocal best
        try:
            _append(url, part, size, advance)
        except requests.RequestException as error:
            raise _Again(_said(error, url), gained=_size(part) - best) from error
        finally:
            best = max(best, _size(part))
        if _size(part) < size:
            raise _Again(f"{url}: ended after {_size(part)} of {size} bytes")

    def download(url: str, output_file: Any, pooch: Any) -> None:
        if _size(part) != size:
            _persist(attempt, say)
        require_md5(part, path, md5)  # pooch, too, looks, but drops what is wrong
        os.replace(part, output_file)

    pooch.get_logger().setLevel("WARNING")
    resuming: Any = download  # pooch's type of it names the arguments otherwise
    try:
        pooch.retrieve(url, f"md5:{md5}", path.name, path.parent, downloader=resuming)
    except OSError as error:
        raise unwritable(part, error) from error


def require_md5(part: Path, path: Path, md5: str) -> None:
    """Raise `DownloadError` unless a file is the right one; set it aside if it is not.

    `path` is what it would have been called.
    """
    found = pooch.file_hash(str(part), alg="md5")
    if found != md5:
        bad = path.with_name(f"{path.name}.bad")
        os.replace(part, bad)
        raise DownloadError(
            f"{path.name}: wrong checksum: MD5 is {found}, the record says {md5}; kept "
            f"as {bad}, not used; start the same command again"
        )


def unwritable(path: Path, error: OSError) -> DownloadError:
    """What to say when a file cannot be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DownloadError(
            f"{path}: no space left on the disk; make room and start the same command "
            "again, which goes on from here"
        )
    return DownloadError(
        f"{path}: cannot be written: {error.strerror}; choose another --out"
    )


def _append(url: str, part: Path, size: int, advance: Callable[[int], None]) -> None:
    """Fetch what is missing of a file; all of it if the server knows no ranges."""
    have = _size(part)
    if have > size:
        advance(-have)
        part.unlink()
        have = 0
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        goes_on = response.status_code == 206
        place = response.headers.get("Content-Range", "")
        misfit = goes_on and not place.startswith(f"bytes {have}-")
        if (
            response.status_code == 416 or misfit
        ):  # not the file that there is a part of
            advance(-have)
            part.unlink(missing_ok=True)
            raise _Again(f"{url}: cannot be gone on with after {have} bytes")
        _require_ok(response)
        if not goes_on:
            advance(-have)
            have = 0
        with part.open("ab" if goes_on else "wb") as file:
            for chunk in response.iter_content(CHUNK):
                chunk = chunk[: size - have]  # a wrong file may have no end
                file.write(chunk)
                advance(len(chunk))
                have += len(chunk)
                if have == size:
                    return


def _persist(attempt: Callable[[], T], say: Say) -> T:
    """The result of an attempt, which is repeated while it says that this may help."""
    failures = 0
    while True:
        try:
            return attempt()
        except _Again as again:
            failures = 1 if again.gained >= ENOUGH else failures + 1
            if failures >= TRIES:
                raise DownloadError(
                    f"{again}; tried {TRIES} times. Look at the network (or --base-url)"
                    " and start the same command again: what has come is kept"
                ) from again
            wait = again.wait or 2.0 ** (failures - 1)
            say(f"{again}; again in {wait:.0f} s")
            time.sleep(wait)


def _require_ok(response: requests.Response) -> None:
    """Raise `_Again` if the server is busy, `DownloadError` if it refuses."""
    status, url = response.status_code, response.url
    if status in BUSY:
        wait = _retry_after(response.headers.get("Retry-After", ""))
        if wait > LONGEST_WAIT:
            raise DownloadError(
                f"{url}: the server is busy ({status}) and asks to come back in "
                f"{wait:.0f} s; start the same command again then"
            )
        raise _Again(f"{url}: the server is busy ({status})", wait)
    if status in (404, 410):
        raise DownloadError(
            f"{url}: not there ({status}); look at --base-url and at the record"
        )
    if status not in (200, 206):
        raise DownloadError(f"{url}: the server answers {status} {response.reason}")


def _retry_after(text: str) -> float:
    """Seconds that the header asks to wait, given as such or as a date; 0: none."""
    if text.strip().isdecimal():
        return float(text)
    try:
        seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError):
        return 0.0
    return max(0.0, seconds)


def _said(error: requests.RequestException, url: str) -> str:
    """A short reason for what requests raises."""
    if isinstance(error, requests.Timeout):
        return f"{url}: no answer within {TIMEOUT:.0f} s"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return f"{url}: the connection broke off"
    if isinstance(error, requests.ConnectionError) and not isinstance(
        error, requests.exceptions.SSLError
    ):
        return f"{url}: no connection"
    raise DownloadError(f"{url}: {error}") from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
