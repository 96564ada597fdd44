"""scikit-learn detectors on the project's front end."""

import warnings
from collections.abc import Callable
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
from mimii_jax.examples import Standardiser, Windows, standardise_in_place
from mimii_jax.features import CLIPS_PER_TRANSFER, FrontEnd, extract
from mimii_jax.scoring import Pooling
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
    build : makes an unfitted model from a seed
    front_end : features of one clip
    standardise : whether each bin is shifted and scaled by its training statistics
    windows : what is one example; None for the whole clip
    max_examples : more examples than this are subsampled, with the run's seed
    pooling : from the scores of a clip's windows to its score
    """

    def __init__(
        self,
        build: Callable[[int], Any],
        front_end: FrontEnd,
        *,
        standardise: bool,
        windows: Windows | None,
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
        self.standardiser: Standardiser

    def fit(self, train: Clips, seeds: tuple[int, ...], watch: Watch) -> Self:
        """Fit one model per seed on the same clips."""
        with watch.bar("features", len(train)) as advance:
            features = extract(
                self.front_end, train.audio, np.arange(len(train)), advance
            )
        self.standardiser = Standardiser.identity(features.shape[2])
        if self.standardise:
            self.standardiser = Standardiser.fit(features)
            features = standardise_in_place(self.standardiser, features)
        self.models = []
        with watch.bar("fitting", len(seeds), "models") as advance:
            for seed in seeds:
                examples = self._training_examples(features, seed, watch)
                with warnings.catch_warnings():
                    # Nystroem takes every example where there are fewer: as intended.
                    warnings.filterwarnings("ignore", "n_components > n_samples")
                    self.models.append(self.build(seed).fit(examples))
                advance(1)
        return self

    def score(self, clips: Clips, watch: Watch) -> Float[np.ndarray, "seed clip"]:
        """Pooled outlyingness of every clip under every seed's model."""
        scores = []
        with watch.bar("scoring", len(clips)) as advance:
            for start in range(0, len(clips), CLIPS_PER_TRANSFER):
                rows = np.arange(start, min(start + CLIPS_PER_TRANSFER, len(clips)))
                features = extract(self.front_end, clips.audio, rows, lambda n: None)
                features = standardise_in_place(self.standardiser, features)
                windows = self._windows(features)
                n_windows = len(rows) * windows.per_clip(features.shape[1])
                x = np.asarray(windows.gather(features, jnp.arange(n_windows)))
                errors = np.stack([_outlyingness(model, x) for model in self.models])
                errors = errors.reshape(len(self.models), len(rows), -1)
                scores.append(self.pooling(errors))
                advance(len(rows))
        return np.concatenate(scores, axis=1)

    def save(self, folder: Path) -> None:
        """Write the fitted models and the standardisation."""
        folder.mkdir(parents=True)
        standardiser = [np.asarray(leaf) for leaf in self.standardiser]
        joblib.dump((self.models, standardiser), folder / MODEL)

    def load(self, folder: Path, seeds: tuple[int, ...]) -> Self:
        """Read what `save` has written; the file is a pickle, so trust its origin."""
        self.models, standardiser = joblib.load(folder / MODEL)
        assert len(self.models) == len(seeds)
        self.standardiser = Standardiser(*map(jnp.asarray, standardiser))
        return self

    def _windows(self, features: Array) -> Windows:
        return self.windows or Windows(width=features.shape[1])

    def _training_examples(
        self, features: Array, seed: int, watch: Watch
    ) -> np.ndarray:
        windows = self._windows(features)
        n_examples = len(features) * windows.per_clip(features.shape[1])
        index = np.arange(n_examples)
        if n_examples > self.max_examples:
            rng = np.random.default_rng(seed)
            index = np.sort(rng.choice(n_examples, self.max_examples, replace=False))
            watch.say(
                f"seed {seed}: fitted to {self.max_examples:,} of {n_examples:,} "
                "windows, drawn at random (windows.max_examples)"
            )
        return np.asarray(windows.gather(features, jnp.asarray(index)))


def _require_svm(nu: float, gamma: float) -> None:
    _require(0 < nu <= 1, "nu", nu, "above 0, up to 1")
    _require(gamma >= 0, "gamma", gamma, "0 or more")


def _require(holds: bool, field: str, value: float, what: str) -> None:
    """Refuse a setting; scikit-learn itself would do so in the middle of a run."""
    if not holds:
        raise ValueError(f"detector.{field}={value}: must be {what}")


def _outlyingness(model: Any, x: np.ndarray) -> np.ndarray:
    """Minus scikit-learn's score, which is higher for what is more normal."""
    return -np.ravel(model.score_samples(x))
