"""Processor, cores and versions of packages, for the measured numbers."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def machine() -> str:
    """Processor, cores and versions, in one line."""
    packages = versions(("jax", "torch", "librosa"))
    texts = [f"{name} {v}" if v else f"no {name}" for name, v in packages.items()]
    return f"{processor()}, {cores()} cores; {', '.join(texts)}"


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Version of Python and of each package; "": it isn't installed."""
    found = {"Python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """Name of the processor, its family and model."""
    path = Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    pairs = (line.partition(":") for line in text.splitlines())
    field = {name.strip(): value.strip() for name, _, value in pairs}
    name = field.get("model name", platform.processor() or platform.machine())
    return f"{name} (family {field.get('cpu family')}, model {field.get('model')})"
