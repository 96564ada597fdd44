"""The interface of detectors: fit on normal clips, score any clip."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from mimii_jax.data.clips import Clips
from mimii_jax.train.runs import Run


class NormalScores(NamedTuple):
    """Scores of a run's normal clips, each as if the model had not seen it."""

    name: Shaped[np.ndarray, " clip"]
    machine_id: Shaped[np.ndarray, " clip"]
    score: Float[np.ndarray, " clip"]


class Explanation(NamedTuple):
    """Why a model scores clips as it does; for figures."""

    features: Float[np.ndarray, "clip frame bin"]  # in the front end's unit
    expected: Float[np.ndarray, "clip frame bin"]  # NaN where it predicts nothing
    error: Float[np.ndarray, "clip frame bin"]  # squared, standardised
    seconds: Float[np.ndarray, " segment"]  # middle of each segment
    track: Float[np.ndarray, "clip segment"]  # mean error of each segment
    # of functionals: difference of each bin from normal clips, in their SD
    bins: Float[np.ndarray, "clip bin"] | None = None

    def of(self, row: int) -> dict[str, Any]:
        """Arrays of one clip, by name."""
        names = ("features", "expected", "error", "track", "bins")
        arrays = {name: getattr(self, name) for name in names}
        of_clip = {k: x[row] for k, x in arrays.items() if x is not None}
        return of_clip | {"seconds": self.seconds}


class Fitted(Protocol):
    """A model per run, with its back-end. Frozen."""

    @property
    def alive(self) -> Sequence[bool] | Bool[np.ndarray, " run"]:
        """Whether each run has a model: False for one that diverged."""
        ...

    def represent(self, clips: Clips) -> Float[np.ndarray, "run clip segment column"]:
        """Vectors that the back-end compares with those of normal clips."""
        ...

    def score(self, clips: Clips) -> Float[np.ndarray, "run clip"]:
        """Anomaly scores; higher is more anomalous. NaN for a run that diverged."""
        ...

    def explain(self, clips: Clips) -> Explanation | None:
        """Expectation and error of the first run; None for detectors without."""
        ...

    def group_scores(self, clips: Clips) -> dict[str, Float[np.ndarray, "run clip"]]:
        """z-scores of the groups whose mean is the score; empty: it has no groups."""
        ...

    def normal_scores(self) -> Sequence[NormalScores]:
        """Scores of each run's normal clips, as if not fitted to; empty: unknown."""
        ...

    def without_folder(self) -> Self:
        """Itself, without the folder where it looks for vectors of known clips."""
        ...

    def of_wave(self, run: int, ids: Sequence[str]) -> Callable[[Array], Array]:
        """A pure function of a wave, as f32 in [-1, 1]: scores if it were of each ID.

        Raises `ConfigError` if a run's model is no array code.
        """
        ...

    def pretrained(self) -> Sequence[Any]:
        """Parameters of each run to fine-tune; empty for detectors without."""
        ...


class Detector(Protocol):
    """Settings of a detector: a frozen dataclass, compared with `==`."""

    @property
    def one_process(self) -> bool:
        """Whether several processes can't fit it together."""
        ...

    def training(self) -> object:
        """Everything that a fitted model depends on: the settings less the scoring."""
        ...

    def check(self, n_samples: int) -> None:
        """Raise `ConfigError` unless the model fits clips of this length."""
        ...

    def fit(
        self, train: Clips, held_out: Clips, runs: Sequence[Run], folder: Path | None
    ) -> Fitted:
        """Fit one model per run; what `folder` holds of an earlier fit is reused."""
        ...

    def load(self, folder: Path, runs: Sequence[Run]) -> Fitted:
        """Load what `fit` saved for the same runs."""
        ...
