"""How the error goes along a normal and an anomalous clip per ID; no JAX."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from mimii_jax.report.score_figures import BLUE, VERMILION


def track_figures(path: Path) -> Iterator[tuple[str, Figure]]:
    """A figure per machine type from the file of `detectors.pictures`."""
    with np.load(path) as file:
        tracks = dict(file)
    for machine_type in sorted({key.split("/")[0] for key in tracks}):
        of_type = {
            tuple(key.split("/")[1:]): track
            for key, track in tracks.items()
            if key.split("/")[0] == machine_type
        }
        figure = _panels(of_type)
        figure.suptitle(f"{machine_type}: squared error along two clips per ID")
        yield f"tracks_{machine_type}", figure


def _panels(tracks: dict[tuple[str, ...], np.ndarray]) -> Figure:
    """A panel per ID: time to the right, error upwards on one logarithmic scale."""
    ids = sorted({machine_id for machine_id, _ in tracks})
    figure = Figure(figsize=(9.6, 1.7 * len(ids) + 1.1), layout="constrained")
    panels = figure.subplots(len(ids), 1, sharex=True, sharey=True, squeeze=False)
    lines = {}
    for axes, machine_id in zip(panels[:, 0], ids, strict=True):
        for kind, colour in (("normal", BLUE), ("anomalous", VERMILION)):
            if (machine_id, kind) in tracks:
                seconds, error = tracks[machine_id, kind]
                (lines[kind],) = axes.semilogy(seconds, error, color=colour, lw=1)
        axes.set_ylabel(f"id {machine_id}")
        axes.spines[["top", "right"]].set_visible(False)
    panels[-1, 0].set_xlabel("time (s)")
    scale = panels[0, 0].yaxis  # shared
    scale.set_major_locator(LogLocator(subs=(1, 2, 5)))
    scale.set_major_formatter(lambda value, _: f"{value:g}")
    scale.set_minor_locator(NullLocator())
    legend = {"loc": "outside lower center", "ncols": 2, "frameon": False}
    figure.legend(list(lines.values()), list(lines), **legend)
    return figure
