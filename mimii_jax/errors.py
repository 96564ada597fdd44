"""The two errors that are the user's to fix; a command prints them as one line.

Every other exception is a bug and keeps its traceback.
"""

import os


class ConfigError(Exception):
    """A setting that can't work: the message names the field, the limit, a remedy."""

    exit_code = 1


class DataError(Exception):
    """A file or folder that can't be used: the message names it, why, and a remedy."""

    exit_code = 1


class InUse(DataError):
    """A folder or file that another process writes to."""

    exit_code = 4


def require(holds: bool, message: str) -> None:
    """Raise ConfigError unless a setting's limit holds."""
    if not holds:
        raise ConfigError(message)


def require_positive(section: str, **values: float | None) -> None:
    """Raise ConfigError unless each field of a section is positive, or None."""
    for field, value in values.items():
        positive = value is None or value > 0
        require(positive, f"{section}.{field}={value}: must be positive")


def require_memory(
    needed: float, what: str, remedy: str = "choose less", have: float = 0
) -> None:
    """Raise ConfigError before an allocation that memory can't hold."""
    have = have or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    require(
        needed <= have,
        f"{what}: needs {needed / 1e9:,.0f} GB of memory, this machine has "
        f"{have / 1e9:,.0f} GB; {remedy}",
    )
