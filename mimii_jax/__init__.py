"""Anomalous machine-sound detection in JAX."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    """Import what needs JAX when it is used: reading score files needs none."""
    if name in ("Detector", "load"):
        return getattr(import_module("mimii_jax.estimator"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
