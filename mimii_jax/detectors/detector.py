"""Detectors: fit on normal clips, score any clip; one interface for all of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Float

from mimii_jax.data.clips import Clips
from mimii_jax.train.runs import Run


class Explanation(NamedTuple):
    """Why clips have their scores.

    Attributes
    ----------
    features : f32 [shape=(clip, frame, bin)]
    expected : f32 [shape=(clip, frame, bin)], NaN where nothing is predicted
    error : f32 [shape=(clip, frame, bin)], squared, in the units that the model sees
    seconds : f64 [shape=(segment,)], centre of each segment from the start of the clip
    track : f32 [shape=(clip, segment)], mean error of each segment
    """

    features: Float[np.ndarray, "clip frame bin"]
    expected: Float[np.ndarray, "clip frame bin"]
    error: Float[np.ndarray, "clip frame bin"]
    seconds: Float[np.ndarray, " segment"]
    track: Float[np.ndarray, "clip segment"]


class Detector(Protocol):
    """A frozen dataclass of settings; compared with `==`."""

    def fit(
        self, train: Clips, held_out: Clips, runs: Sequence[Run], folder: Path | None
    ) -> "Fitted":
        """Fit all runs; save to the folder and resume from it, if given."""
        ...

    def load(self, folder: Path, runs: Sequence[Run]) -> "Fitted":
        """Read what `fit` saved for the same runs."""
        ...


class Fitted(Protocol):
    """A fitted detector, with a model per run."""

    def represent(self, clips: Clips) -> Float[np.ndarray, "run clip segment column"]:
        """Vectors that the back-end scores."""
        ...

    def score(self, clips: Clips) -> Float[np.ndarray, "run clip"]:
        """Anomaly scores; higher is more anomalous, NaN for a run that diverged."""
        ...

    def explain(self, clips: Clips) -> Explanation | None:
        """Where and when errors are, under the first run; None: no explanation."""
        ...
