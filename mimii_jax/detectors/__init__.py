"""Detectors: fit on normal clips, score any clip; one interface for all of them."""

from pathlib import Path
from typing import Protocol, Self

import numpy as np
from jaxtyping import Float

from mimii_jax.data.clips import Clips
from mimii_jax.watch import Watch


class Detector(Protocol):
    """What the harness needs of a detector.

    One detector holds a model per seed, so that those which can train them together
    do. Everything that `fit` learns is in what `save` writes.
    """

    def fit(self, train: Clips, seeds: tuple[int, ...], watch: Watch) -> Self:
        """Learn one model per seed from normal clips."""
        ...

    def score(self, clips: Clips, watch: Watch) -> Float[np.ndarray, "seed clip"]:
        """Anomaly score of every clip under every seed's model; higher is worse."""
        ...

    def save(self, folder: Path) -> None:
        """Write the trained models into a folder that does not exist yet."""
        ...

    def load(self, folder: Path, seeds: tuple[int, ...]) -> Self:
        """Read what `save` has written, for the same seeds."""
        ...
