"""Files that are written whole or not at all, and the system's errors about them."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mimii_jax.errors import DataError


def in_file_name(text: str) -> str:
    """Replace the slashes of a text, such as a machine ID, for a file's name."""
    return text.replace("/", "\N{DIVISION SLASH}")


def printable(text: str) -> str:
    """Show characters that a terminal obeys, or that aren't UTF-8, as their codes."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@contextmanager
def file_errors(path: Path | str) -> Iterator[None]:
    """Turn the system's errors about a file into `DataError`, with its name."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"{path}: the disk is full; free some space and run again"
        else:
            text = f"{path}: {error.strerror or error}"
        raise DataError(text) from error


def replace_file(path: Path, content: bytes) -> None:
    """Write a file whole or not at all; raise `DataError`, as on a full disk."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    with file_errors(path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:  # of which the user doesn't know the temporary name
            raise OSError(error.errno, error.strerror) from error
        finally:
            temporary.unlink(missing_ok=True)
