"""scikit-learn detectors on the project's front end."""

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import jax.numpy as jnp
import joblib
import numpy as np
from jaxtyping import Array, Float
from sklearn.ensemble import IsolationForest
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import SGDOneClassSVM
from sklearn.pipeline import make_pipeline
from sklearn.svm import OneClassSVM

from mimii_jax.data.clips import Clips
from mimii_jax.detectors.backends import Pooling
from mimii_jax.errors import DataError
from mimii_jax.features.front_ends import CLIPS_PER_TRANSFER, FrontEnd, extract
from mimii_jax.features.windows import Standardiser, Windows, clip_moments
from mimii_jax.train.runs import Run
from mimii_jax.watch import Watch

MODEL = "models.joblib"


def isolation_forest(
    seed: int,
    *,
    n_estimators: int,
    max_samples: int,
    max_features: float,
    contamination: float,
    bootstrap: bool,
) -> IsolationForest:
    """Isolation Forest.

    Parameters
    ----------
    seed : of the trees
    n_estimators : number of trees
    max_samples : examples per tree; 0 means 256, or all if there are fewer
    max_features : share of the features that a tree sees, in (0, 1]
    contamination : expected share of anomalies in the training set, 0 for unknown; it
        moves scikit-learn's threshold and no score
    bootstrap : whether a tree's examples are drawn with replacement
    """
    _require(n_estimators >= 1, "n_estimators", n_estimators, "at least 1")
    _require(max_samples >= 0, "max_samples", max_samples, "0 or more")
    _require(0 < max_features <= 1, "max_features", max_features, "above 0, up to 1")
    _require(0 <= contamination <= 0.5, "contamination", contamination, "0 to 0.5")
    # Any: scikit-learn documents numbers here, but its types are those of "auto".
    samples: Any = max_samples or "auto"
    share: Any = contamination or "auto"
    return IsolationForest(
        n_estimators=n_estimators,
        max_samples=samples,
        max_features=max_features,
        contamination=share,
        bootstrap=bootstrap,
        random_state=seed,
        n_jobs=-1,
    )


def sgd_one_class_svm(
    seed: int, *, nu: float, kernel: str, gamma: float, n_components: int
) -> Any:
    """One-class SVM by stochastic gradient descent.

    Parameters
    ----------
    seed : of the order of the examples and the landmarks of the map
    nu : bound on the share of training examples left outside, in (0, 1]
    kernel : "linear", or "rbf" through a Nystroem map
    gamma : of exp(-gamma * |x - y|^2); 0 means 1 / number of features
    n_components : landmarks of the map; as many as there are examples at most
    """
    _require_svm(nu, gamma)
    _require(n_components >= 1, "n_components", n_components, "at least 1")
    svm = SGDOneClassSVM(nu=nu, random_state=seed)
    if kernel == "linear":
        return svm
    if kernel != "rbf":
        raise ValueError(f"detector.kernel='{kernel}': must be 'linear' or 'rbf'")
    rbf = Nystroem(gamma=gamma or None, n_components=n_components, random_state=seed)
    return make_pipeline(rbf, svm)


def exact_one_class_svm(seed: int, *, nu: float, gamma: float) -> OneClassSVM:
    """One-class SVM with the exact RBF kernel; the same whatever the seed.

    Parameters
    ----------
    seed : not used, the solution is unique
    nu : bound on the share of training examples left outside, in (0, 1]
    gamma : of exp(-gamma * |x - y|^2); 0 means 1 / number of features
    """
    del seed
    _require_svm(nu, gamma)
    width: Any = gamma or "auto"
    return OneClassSVM(nu=nu, gamma=width, cache_size=1000)


class ClassicalDetector:
    """Flattened windows of a front end's frames, scored by a scikit-learn model.

    Parameters
    ----------
    build : makes an unfitted model from a seed and what else a run changes
    front_end : features of one clip
    standardise : whether each bin is shifted and scaled by its training statistics
    windows : what is one example
    max_examples : more examples than this are subsampled, with the run's seed
    pooling : from the scores of a clip's windows to its score
    """

    def __init__(
        self,
        build: Callable[..., Any],
        front_end: FrontEnd,
        *,
        standardise: bool,
        windows: Windows,
        max_examples: int,
        pooling: Pooling,
    ) -> None:
        if max_examples < 1:
            raise ValueError(f"windows.max_examples={max_examples}: must be at least 1")
        self.build = build
        self.front_end = front_end
        self.standardise = standardise
        self.windows = windows
        self.max_examples = max_examples
        self.pooling = pooling
        self.models: list[Any]
        self.standardisers: list[Standardiser]

    def fit(
        self, train: Clips, runs: Sequence[Run], folder: Path | None, watch: Watch
    ) -> Self:
        """Fit one model per run."""
        if folder and (folder / MODEL).exists():
            return self.load(folder, runs, train.audio.shape[1], watch)
        with watch.bar("features", len(train)) as advance:
            features = extract(
                self.front_end, train.audio, np.arange(len(train)), advance
            )
        moments = clip_moments(features) if self.standardise else None
        self.models = []
        self.standardisers = []
        with watch.bar("fitting", len(runs), "models") as advance:
            for run in runs:
                standardiser = Standardiser.identity(features.shape[2])
                if moments:
                    standardiser = Standardiser.of_moments(
                        *(of_clip[run.clips] for of_clip in moments)
                    )
                examples = self._training_examples(features, run, standardiser, watch)
                with warnings.catch_warnings():
                    # Nystroem takes every example where there are fewer: as intended.
                    warnings.filterwarnings("ignore", "n_components > n_samples")
                    model = self.build(run.seed, **run.changes)
                    self.models.append(model.fit(examples))
                self.standardisers.append(standardiser)
                advance(1)
        if folder:
            self._save(folder)
        return self

    def score(self, clips: Clips, watch: Watch) -> Float[np.ndarray, "run clip"]:
        """Pooled outlyingness of every clip under every run's model."""
        scores = []
        with watch.bar("scoring", len(clips)) as advance:
            for start in range(0, len(clips), CLIPS_PER_TRANSFER):
                rows = np.arange(start, min(start + CLIPS_PER_TRANSFER, len(clips)))
                features = extract(self.front_end, clips.audio, rows, lambda n: None)
                n_windows = self.windows.per_clip(features.shape[1])
                index = jnp.arange(len(rows) * n_windows)
                x = self.windows.gather(features, index)
                errors = np.stack(
                    [
                        _outlyingness(model, _flat(standardiser.apply(x)))
                        for model, standardiser in zip(
                            self.models, self.standardisers, strict=True
                        )
                    ]
                )
                scores.append(self.pooling(errors.reshape(len(errors), len(rows), -1)))
                advance(len(rows))
        return np.concatenate(scores, axis=1)

    def load(
        self, folder: Path, runs: Sequence[Run], n_samples: int, watch: Watch
    ) -> Self:
        """Read what `fit` has written; the file is a pickle, so trust its origin."""
        del n_samples, watch
        try:
            self.models, standardisers = joblib.load(folder / MODEL)
        except Exception as error:  # a pickle breaks in many ways
            raise DataError(
                f"{folder / MODEL}: cannot be read ({type(error).__name__}); remove it "
                "to fit again"
            ) from error
        assert len(self.models) == len(runs)
        self.standardisers = [Standardiser(*map(jnp.asarray, s)) for s in standardisers]
        return self

    def _save(self, folder: Path) -> None:
        """Write models and standardisation, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        standardisers = [tuple(map(np.asarray, s)) for s in self.standardisers]
        joblib.dump((self.models, standardisers), folder / f".{MODEL}")
        (folder / f".{MODEL}").replace(folder / MODEL)

    def _training_examples(
        self, features: Array, run: Run, standardiser: Standardiser, watch: Watch
    ) -> np.ndarray:
        per_clip = self.windows.per_clip(features.shape[1])
        index = (run.clips[:, None] * per_clip + np.arange(per_clip)).ravel()
        if len(index) > self.max_examples:
            rng = np.random.default_rng(run.seed)
            n_examples = len(index)
            index = np.sort(rng.choice(index, self.max_examples, replace=False))
            watch.say(
                f"seed {run.seed}: fitted to {self.max_examples:,} of {n_examples:,} "
                "windows, drawn at random (windows.max_examples)"
            )
        x = self.windows.gather(features, jnp.asarray(index))
        return _flat(standardiser.apply(x))


def _require_svm(nu: float, gamma: float) -> None:
    _require(0 < nu <= 1, "nu", nu, "above 0, up to 1")
    _require(gamma >= 0, "gamma", gamma, "0 or more")


def _require(holds: bool, field: str, value: float, what: str) -> None:
    """Refuse a setting; scikit-learn itself would do so in the middle of a run."""
    if not holds:
        raise ValueError(f"detector.{field}={value}: must be {what}")


def _flat(x: Array) -> np.ndarray:
    """Examples on the host, one per row."""
    return np.asarray(x).reshape(len(x), -1)


def _outlyingness(model: Any, x: np.ndarray) -> np.ndarray:
    """Minus scikit-learn's score, which is higher for what is more normal."""
    return -np.ravel(model.score_samples(x))
