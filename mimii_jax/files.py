"""Files that are written whole or not at all, and the system's errors about them."""

import errno
import json
import os
import socket
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mimii_jax.errors import DataError, InUse


def in_file_name(text: str) -> str:
    """Replace the slashes of a text, such as a machine ID, for a file's name."""
    return text.replace("/", "\N{DIVISION SLASH}")


def printable(text: str) -> str:
    """Show characters that a terminal obeys, or that aren't UTF-8, as their codes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def reason(error: OSError) -> str:
    """Why the system refused, and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full; free some space and run again"
    text = error.strerror or str(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{text}; raise the limit (ulimit -n) and run again"
    return text


@contextmanager
def file_errors(path: Path | str) -> Iterator[None]:
    """Turn the system's errors about a file into `DataError`, with its name."""
    try:
        yield
    except BrokenPipeError:
        raise  # of the terminal
    except OSError as error:
        raise DataError(f"{path}: {reason(error)}") from error


@contextmanager
def owned(lock: Path, what: Path) -> Iterator[None]:
    """Own a folder or file by a lock; `InUse` names the process that has it.

    The system frees the lock of a process that ends, however it does.
    """
    from filelock import FileLock, Timeout

    held = FileLock(lock, timeout=0)
    with file_errors(lock):
        try:
            held.acquire()
        except Timeout:
            owner = lock.read_text(errors="replace").split("\n")[0]
            raise InUse(
                f"{what}: in use by {owner or 'another process'}; wait, or stop it"
            ) from None
    try:
        now = datetime.now().strftime("%Y-%m-%d %H:%M:%S")
        text = f"process {os.getpid()} on {socket.gethostname()} since {now}\n"
        with file_errors(lock):
            lock.write_text(text)
        yield
    finally:
        held.release()


def read_json(path: Path) -> Any:
    """Value in a JSON file; `DataError` names a file that is damaged."""
    try:
        with file_errors(path):
            return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: damaged: not JSON: {error}") from None


def read_arrays(path: Path) -> Any:
    """The array of an npy file, those of an npz file by name; pickles are refused."""
    try:
        with file_errors(path), path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            return found if isinstance(found, np.ndarray) else dict(found)
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        text = f"{path}: damaged ({error}); remove it and rerun"
        raise DataError(text) from None


def make_folder(path: Path) -> None:
    """Make a folder and those above it."""
    with file_errors(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file to write; it appears when the block ends, whole or not at all."""
    name = f".{path.name[:40]}.{os.getpid()}.{threading.get_ident()}"
    temporary = path.with_name(name)
    with file_errors(path):
        try:
            with temporary.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:  # of which the user doesn't know the temporary name
            raise OSError(error.errno, error.strerror) from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; raise `DataError`, as on a full disk."""
    with whole_file(path) as file:
        file.write(content)
