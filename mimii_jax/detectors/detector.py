"""Detectors: fit on normal clips, score any clip; one interface for all of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, Self

import numpy as np
from jaxtyping import Float

from mimii_jax.data.clips import Clips
from mimii_jax.train.runs import Run
from mimii_jax.watch import Watch


class Detector(Protocol):
    """What the harness needs of a detector.

    One detector holds a model per run, so that those which can train them together
    do. Everything that `fit` learns is in its folder.
    """

    def fit(
        self, train: Clips, runs: Sequence[Run], folder: Path | None, watch: Watch
    ) -> Self:
        """Learn one model per run from normal clips; keep them in a folder, if given.

        With a folder that an interrupted `fit` has left, it goes on from there.
        """
        ...

    def score(self, clips: Clips, watch: Watch) -> Float[np.ndarray, "run clip"]:
        """Anomaly score of every clip under every run's model; higher is worse.

        NaN for a run whose training diverged.
        """
        ...

    def load(
        self, folder: Path, runs: Sequence[Run], n_samples: int, watch: Watch
    ) -> Self:
        """Read what `fit` has written, for the same runs and length of clips."""
        ...
