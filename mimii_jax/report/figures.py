"""Figures of a workdir, from its files only; no JAX, no display."""

from pathlib import Path


def write_figures(workdir: Path) -> list[Path]:
    """Write the figures of a workdir into its folder figures; returns their paths."""
    return []
