"""scikit-learn detectors on the project's front end."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import joblib
import numpy as np
from jaxtyping import Array, Float
from sklearn.ensemble import IsolationForest
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import SGDOneClassSVM
from sklearn.pipeline import make_pipeline
from sklearn.svm import OneClassSVM

from mimii_jax import log
from mimii_jax.data.clips import Clips
from mimii_jax.detectors.backends import Pooling
from mimii_jax.detectors.detector import NormalScores
from mimii_jax.detectors.vectors import write_clip_length
from mimii_jax.errors import DataError, require
from mimii_jax.features.front_ends import CLIPS_PER_TRANSFER, FrontEnd, extract
from mimii_jax.features.windows import Standardiser, Windows, clip_moments
from mimii_jax.files import file_errors
from mimii_jax.train.runs import Run

MODEL = "models.joblib"
MAX_EXAMPLES = 100_000  # more are subsampled, with the run's seed


class Estimator(Protocol):
    """Settings of a scikit-learn model: a frozen dataclass."""

    def build(self, seed: int) -> Any:
        """Create an unfitted model."""
        ...


@dataclass(frozen=True)
class Forest:
    """Isolation Forest; `max_samples` per tree, None: 256, or all if fewer."""

    n_estimators: int = 100
    max_samples: int | None = None

    def __post_init__(self) -> None:
        _require_positive("n_estimators", self.n_estimators)
        _require_positive("max_samples", self.max_samples)

    def build(self, seed: int) -> IsolationForest:
        """Create an unfitted forest."""
        # Any: scikit-learn documents numbers here, but its types are those of "auto".
        samples: Any = "auto" if self.max_samples is None else self.max_samples
        return IsolationForest(
            n_estimators=self.n_estimators,
            max_samples=samples,
            random_state=seed,
            n_jobs=-1,
        )


@dataclass(frozen=True)
class SVM:
    """One-class SVM by stochastic gradient descent."""

    nu: float = 0.5  # bound on the share of training examples left outside, in (0, 1]
    kernel: str = "rbf"  # "linear", or "rbf" through a Nystroem map
    gamma: float | None = None  # of exp(-gamma |x - y|^2); None: 1 / number of features
    n_components: int = 200  # landmarks of the map, at most one per example

    def __post_init__(self) -> None:
        _require_share(self.nu)
        _require_positive("gamma", self.gamma)
        _require_positive("n_components", self.n_components)
        message = f"detector.kernel='{self.kernel}': must be 'linear' or 'rbf'"
        require(self.kernel in ("linear", "rbf"), message)

    def build(self, seed: int) -> Any:
        """Create an unfitted SVM."""
        svm = SGDOneClassSVM(nu=self.nu, random_state=seed)
        if self.kernel == "linear":
            return svm
        rbf = Nystroem(
            gamma=self.gamma, n_components=self.n_components, random_state=seed
        )
        return make_pipeline(rbf, svm)


@dataclass(frozen=True)
class ExactSVM:
    """One-class SVM with the exact RBF kernel, by libsvm; the same for every seed."""

    nu: float = 0.5
    gamma: float | None = None

    def __post_init__(self) -> None:
        _require_share(self.nu)
        _require_positive("gamma", self.gamma)

    def build(self, seed: int) -> OneClassSVM:
        """Create an unfitted SVM."""
        del seed
        width: Any = "auto" if self.gamma is None else self.gamma
        return OneClassSVM(nu=self.nu, gamma=width, cache_size=1000)


@dataclass(frozen=True)
class ClassicalDetector:
    """Flattened windows of frames, scored by a scikit-learn model."""

    estimator: Estimator
    front_end: FrontEnd
    windows: Windows
    standardise: bool  # bins, by the statistics of a run's clips
    pooling: Pooling  # from the scores of a clip's windows to its score

    one_process = True

    def training(self) -> object:
        """Everything but the pooling."""
        return (self.estimator, self.front_end, self.windows, self.standardise)

    def check(self, n_samples: int) -> None:
        """Raise `ConfigError` unless a window fits into clips of this length."""
        wave = jax.ShapeDtypeStruct((n_samples,), np.float32)
        self.windows.per_clip(jax.eval_shape(self.front_end, wave).shape[0])

    def fit(
        self, train: Clips, held_out: Clips, runs: Sequence[Run], folder: Path | None
    ) -> "FittedClassical":
        """Fit one model per run; held-out clips aren't needed."""
        del held_out
        if folder:
            write_clip_length(folder, train.audio.shape[1])
        if folder and (folder / MODEL).exists():
            return self.load(folder, runs)
        with log.bar("features", len(train)) as advance:
            rows = np.arange(len(train))
            features = extract(self.front_end, train.audio, rows, advance)
        moments = clip_moments(features) if self.standardise else None
        fitted = FittedClassical(self, [], [])
        with log.bar("fitting", len(runs), "models") as advance:
            for run in runs:
                standardiser = Standardiser.identity(features.shape[2])
                if moments:
                    own = (of_clip[run.clips] for of_clip in moments)
                    standardiser = Standardiser.of_moments(*own)
                examples = self._examples(features, run, standardiser)
                with warnings.catch_warnings():
                    # Nystroem takes every example where there are fewer: as intended.
                    warnings.filterwarnings("ignore", "n_components > n_samples")
                    fitted.models.append(self.estimator.build(run.seed).fit(examples))
                fitted.standardisers.append(standardiser)
                advance(1)
        if folder:
            fitted.save(folder)
        return fitted

    def load(self, folder: Path, runs: Sequence[Run]) -> "FittedClassical":
        """Load the models; the file is a pickle, so trust its origin."""
        path = folder / MODEL
        try:
            models, standardisers = joblib.load(path)
        except Exception as error:  # a pickle breaks in many ways
            raise DataError(
                f"{path}: unreadable ({type(error).__name__}); remove it to fit again"
            ) from error
        if len(models) != len(runs):
            raise DataError(f"{path}: {len(models)} models for {len(runs)} runs")
        standard = [Standardiser(*map(jnp.asarray, s)) for s in standardisers]
        return FittedClassical(self, models, standard)

    def _examples(
        self, features: Array, run: Run, standardiser: Standardiser
    ) -> np.ndarray:
        per_clip = self.windows.per_clip(features.shape[1])
        index = (run.clips[:, None] * per_clip + np.arange(per_clip)).ravel()
        if len(index) > MAX_EXAMPLES:
            log.info(
                f"seed {run.seed}: fitted to {MAX_EXAMPLES:,} of {len(index):,} "
                "windows, drawn at random"
            )
            rng = np.random.default_rng(run.seed)
            index = np.sort(rng.choice(index, MAX_EXAMPLES, replace=False))
        x = self.windows.gather(features, jnp.asarray(index))
        return _flat(standardiser.apply(x))


@dataclass(frozen=True, eq=False)
class FittedClassical:
    """A scikit-learn model per run."""

    detector: ClassicalDetector
    models: list[Any]
    standardisers: list[Standardiser]

    def represent(self, clips: Clips) -> Float[np.ndarray, "run clip segment column"]:
        """Outlyingness of every window under every run's model."""
        windows, front_end = self.detector.windows, self.detector.front_end

        def of_chunk(rows: np.ndarray) -> np.ndarray:
            features = extract(front_end, clips.audio, rows, advance)
            index = jnp.arange(len(rows) * windows.per_clip(features.shape[1]))
            x = windows.gather(features, index)
            pairs = zip(self.models, self.standardisers, strict=True)
            # scikit-learn's score is higher for what is more normal.
            scores = [
                -np.ravel(model.score_samples(_flat(standardiser.apply(x))))
                for model, standardiser in pairs
            ]
            return np.reshape(scores, (len(scores), len(rows), -1, 1))

        starts = range(CLIPS_PER_TRANSFER, len(clips), CLIPS_PER_TRANSFER)
        with log.bar("scoring", len(clips)) as advance:
            chunks = np.split(np.arange(len(clips)), starts)
            return np.concatenate([of_chunk(rows) for rows in chunks], axis=1)

    def score(self, clips: Clips) -> Float[np.ndarray, "run clip"]:
        """Pooled outlyingness of every clip under every run's model."""
        return np.asarray(self.detector.pooling(self.represent(clips)[..., 0]))

    def explain(self, clips: Clips) -> None:
        """Explain nothing."""

    def normal_scores(self) -> Sequence[NormalScores]:
        """Return nothing: every normal clip was fitted to."""
        return ()

    def pretrained(self) -> Sequence[Any]:
        """Return nothing: these models can't be fine-tuned."""
        return ()

    def save(self, folder: Path) -> None:
        """Save models and standardisers, whole or not at all."""
        standardisers = [tuple(map(np.asarray, s)) for s in self.standardisers]
        with file_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            joblib.dump((self.models, standardisers), folder / f".{MODEL}")
            (folder / f".{MODEL}").replace(folder / MODEL)


ESTIMATORS: dict[str, Any] = {
    "isolation_forest": Forest,
    "sgd_one_class_svm": SVM,
    "exact_one_class_svm": ExactSVM,
}


def _require_share(nu: float) -> None:
    require(0 < nu <= 1, f"detector.nu={nu}: must be above 0, up to 1")


def _require_positive(field: str, value: float | None) -> None:
    positive = value is None or value > 0
    require(positive, f"detector.{field}={value}: must be positive")


def _flat(x: Array) -> np.ndarray:
    """Examples on the host, one per row."""
    return np.asarray(x).reshape(len(x), -1)
