"""Errors of the user and the system as one line; the parser of the commands' flags."""

import argparse
import errno
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

from mimii_jax import log
from mimii_jax.errors import ConfigError, DataError
from mimii_jax.files import printable, reason

FAILED, INTERRUPTED = 1, 75  # exit codes; 75 is EX_TEMPFAIL: try again
_NO_DEVICE = (
    "JAX_PLATFORMS names a device that isn't here; unset it, or "
    "pip install '.[cuda12]' for a GPU"
)
_NO_MEMORY = "out of memory; use fewer seeds or clips, or smaller batches"
# Parts of JAX's messages, or the function that fails without one, and what to do.
_OF_JAX = {
    "RESOURCE_EXHAUSTED": _NO_MEMORY,
    "Out of memory": _NO_MEMORY,
    "Unable to initialize backend": _NO_DEVICE,
    "xla_bridge.backends": _NO_DEVICE,
    "DEADLINE_EXCEEDED": "the other processes of this job weren't found in time; look "
    "at --coordinator_address and start them all",
}


@contextmanager
def one_line_errors(debug: bool = False) -> Iterator[None]:
    """Print errors of user and system as one line, and exit; bugs keep a traceback."""
    if not debug:  # Orbax logs tracebacks of errors that reach us as well
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        logging.getLogger("jax").setLevel(logging.ERROR)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # an ASCII locale gets codes
            stream.reconfigure(errors="backslashreplace")
    try:
        yield
        sys.stdout.flush()
    except Exception as error:
        if stop := _interrupted(error):
            raise stop from None
        text = _text(error)
        if text is None:
            raise
        if debug:
            traceback.print_exc()
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        else:
            print(f"error: {text}", file=sys.stderr)
        sys.exit(getattr(error, "exit_code", FAILED))


def _interrupted(error: BaseException | None) -> log.Interrupted | None:
    """The request to stop that Python wrapped, as 3.11 does in a class body."""
    while error is not None and not isinstance(error, log.Interrupted):
        error = error.__cause__
    return error


def _text(error: Exception) -> str | None:
    """Message for the user; None for a bug."""
    if isinstance(error, ConfigError | DataError):
        return "\n".join(map(printable, str(error).splitlines()))
    if isinstance(error, MemoryError):
        detail = f" ({error})" if str(error) else ""
        return f"out of memory{detail}; use less data or smaller settings"
    if isinstance(error, OSError) and (error.filename or error.errno in _SYSTEM):
        return f"{printable(str(error.filename or 'output'))}: {reason(error)}"
    if isinstance(error, RuntimeError | AssertionError):
        lines = str(error).strip().splitlines()
        text = str(error) if lines else _place(error)
        found = next((t for part, t in _OF_JAX.items() if part in text), None)
        return f"{found} ({lines[0][:200]})" if found and lines else found
    return None


def _place(error: Exception) -> str:
    """Module and function that raised an error without a text."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).stem}.{frame.name}"


_SYSTEM = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EPIPE,
    errno.EROFS,
    errno.EIO,
)


def path_of(text: str) -> Path:
    """A path of the command line, `~` expanded."""
    return Path(text).expanduser()


class Parser(argparse.ArgumentParser):
    """Prints a mistake in the flags as one line, with exit code 1."""

    def error(self, message: str) -> NoReturn:
        """Print one line."""
        self.exit(FAILED, f"error: {printable(message)}\n")
