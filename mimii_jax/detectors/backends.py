"""Back-ends: how far the vectors of a clip are from those of normal clips.

A back-end knows nothing of clips, IDs or files. To add one: a function of the vectors
that returns a `Backend`, and an entry of `BACKENDS`. `Banks` keeps one per machine ID.
scikit-learn is imported by the back-ends that need it.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Shaped

from mimii_jax.detectors import distances
from mimii_jax.detectors.distances import Bank, Columns, Mixture, in_chunks
from mimii_jax.errors import ConfigError, require
from mimii_jax.results.metrics import z_scores

ArrayLike = Array | np.ndarray
POOLINGS = ("mean", "max", "top_k", "gwrp")
FOLDS = 10  # of a bank, for leave-one-out scores by refits


@dataclass(frozen=True)
class Pooling:
    """Pooling of the errors of a clip's segments."""

    # "mean"; "max"; "top_k", the mean of the `top_k` largest errors; or "gwrp",
    # generalised weighted rank pooling: the errors sorted from the largest, weighted
    # by 1, r, r^2, ... (Kolesnikov and Lampert 2016)
    name: str = "mean"
    top_k: int = 10  # at most all segments count
    gwrp_r: float = 0.99  # 0 is the maximum, 1 the mean

    def __post_init__(self) -> None:
        if self.name not in POOLINGS:
            raise ConfigError(
                f"scoring.pooling='{self.name}': must be one of {', '.join(POOLINGS)}"
            )
        if self.top_k < 1:
            raise ConfigError(f"scoring.top_k={self.top_k}: must be at least 1")
        if not 0 <= self.gwrp_r <= 1:
            raise ConfigError(f"scoring.gwrp_r={self.gwrp_r}: must be from 0 to 1")

    def __call__(self, errors: Float[ArrayLike, "... segment"]) -> Float[Array, "..."]:
        """Pool over the last axis."""
        if self.name == "mean":
            return jnp.mean(errors, axis=-1)
        if self.name == "max":
            return jnp.max(errors, axis=-1)
        n_segments = errors.shape[-1]
        if self.name == "top_k":
            largest, _ = lax.top_k(errors, min(self.top_k, n_segments))
            return jnp.mean(largest, axis=-1)
        weights = self.gwrp_r ** np.arange(n_segments)
        weights = (weights / weights.sum()).astype(np.float32)
        return jnp.sort(errors, axis=-1, descending=True) @ weights


@dataclass(frozen=True)
class Scoring:
    """Settings of a clip's score, from errors per segment and bin or other vectors."""

    # "mean", the pooled error; or the distance of the pooled errors per bin from those
    # of normal clips: another of `BACKENDS`, or several, "a+b": mean of their z-scores
    backend: str = "mean"
    representation: str = "error"  # method of a model: vectors of a clip's segments
    # whether a clip is compared with the normal clips of its machine ID alone
    per_id: bool = True
    pooling: Pooling = Pooling()
    neighbours: int = 1  # knn, ldn
    density_neighbours: int = 8  # ldn, lof: of the density around a clip
    # whether each column is in units of its bank's SD, and within 8 of them
    standardise: bool = True
    # of a PCA where columns exceed clips; to whiten, at most half as many as clips
    max_columns: int | None = 100
    coreset: int | None = None  # clips that cover the bank, at most; None: all
    components: int = 1  # gmm

    def __post_init__(self) -> None:
        for name in self.names:
            known = ", ".join(BACKENDS)
            require(
                name in BACKENDS,
                f"scoring.backend='{self.backend}': must be one of {known}, or several "
                "joined by +",
            )
        for field in ("neighbours", "density_neighbours", "components"):
            value = getattr(self, field)
            require(value >= 1, f"scoring.{field}={value}: must be at least 1")
        for field in ("max_columns", "coreset"):
            value = getattr(self, field)
            message = f"scoring.{field}={value}: must be at least 1, or None"
            require(value is None or value >= 1, message)

    @property
    def names(self) -> list[str]:
        """Back-ends whose scores are fused."""
        return self.backend.split("+")

    @property
    def needs_fit(self) -> bool:
        """Whether the back-end compares with normal clips."""
        return self.backend != "mean"

    def summary(self, error: Float[Array, "segment bin"]) -> Float[Array, " column"]:
        """Pool over segments: first the mean over bins, then each bin."""
        mean = self.pooling(jnp.mean(error, axis=-1))[None]
        return jnp.concatenate([mean, self.pooling(error.T)])


Vectors = Float[np.ndarray, "clip column"]
ClipScores = Float[np.ndarray, " clip"]


@dataclass(frozen=True, eq=False)
class Backend:
    """A distance, fitted to the vectors of normal clips."""

    columns: Columns | None  # None: as they are
    # of mapped vectors; of neighbours, also of the row of the bank to leave out
    distance: Callable[..., Any]
    bank: Bank | None = None  # of neighbours
    exact: bool = False  # whether leaving a clip out changes only its neighbours

    def score(self, vectors: Vectors) -> ClipScores:
        """Distance of each clip from the normal ones."""
        x = np.asarray(vectors, np.float32)
        if self.columns:
            x = in_chunks(partial(distances.project, self.columns), x)[0]
        if not self.bank:
            return in_chunks(self.distance, x)[0]
        nobody = np.full(len(x), distances.NOBODY, np.int32)
        return in_chunks(self.distance, x, nobody)[0]

    def leave_one_out(self) -> ClipScores | None:
        """Score each clip of the bank without itself; None: it must be refitted."""
        if not self.bank or not self.exact:
            return None
        own = np.arange(int(self.bank.n), dtype=np.int32)
        return in_chunks(self.distance, np.asarray(self.bank.vectors)[own], own)[0]


def _columns(
    vectors: Vectors, scoring: Scoring, whiten: bool = False
) -> tuple[Columns, np.ndarray]:
    limit = scoring.max_columns
    columns = distances.fit_columns(vectors, scoring.standardise, limit, whiten)
    x = vectors.astype(np.float32)
    return columns, in_chunks(partial(distances.project, columns), x)[0]


def mean(vectors: Vectors, scoring: Scoring) -> Backend:
    """The mean of the vector: errors are scores already."""
    del vectors, scoring
    return Backend(None, partial(np.mean, axis=-1))


def own_class(vectors: Vectors, scoring: Scoring) -> Backend:
    """The column that is least for normal clips: of -log p per class, their own."""
    del scoring
    column = int(np.argmin(np.mean(vectors, axis=0, dtype=np.float64)))
    return Backend(None, lambda x: x[:, column])


def gaussian_fixed(vectors: Vectors, scoring: Scoring) -> Backend:
    """Negative log-likelihood of squared errors, in nats without its constant.

    Each bin has one variance: the mean error of the normal clips.
    """
    del scoring
    variance = np.maximum(np.mean(vectors, axis=0, dtype=np.float64), VARIANCE_FLOOR)
    return Backend(None, partial(distances.gaussian, jnp.asarray(variance, np.float32)))


def mahalanobis(vectors: Vectors, scoring: Scoring) -> Backend:
    """Distance from the mean in the whitened space."""
    return Backend(_columns(vectors, scoring, whiten=True)[0], distances.norm)


def neighbours(
    vectors: Vectors,
    scoring: Scoring,
    rule: Callable[..., Array],
    whiten: bool = False,
) -> Backend:
    """Distance from the nearest clips, as it is or relative to the density there."""
    columns, x = _columns(vectors, scoring, whiten)
    exact = not whiten and x.shape == vectors.shape
    if scoring.coreset and scoring.coreset < len(x):
        x, exact = x[distances.k_centre(x, scoring.coreset)], False
    k = min(scoring.neighbours, len(x))
    density_k = max(1, min(scoring.density_neighbours, len(x) - 1))
    bank = distances.make_bank(x, density_k)
    distance = partial(rule, bank, k=k, density_k=density_k)
    return Backend(columns, distance, bank, exact)


def gmm(vectors: Vectors, scoring: Scoring) -> Backend:
    """Negative log-likelihood under a mixture; no more components than clips."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    columns, x = _columns(vectors, scoring)
    n = min(scoring.components, len(x))
    model = GaussianMixture(n, reg_covar=GMM_FLOOR, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(np.resize(x, (max(len(x), 2), x.shape[1])).astype(np.float64))
    arrays = (
        np.log(np.asarray(model.weights_)),
        model.means_,
        model.precisions_cholesky_,
    )
    mixture = Mixture(*(jnp.asarray(array, np.float32) for array in arrays))
    return Backend(columns, partial(distances.surprise, mixture))


def isolation_forest(vectors: Vectors, scoring: Scoring) -> Backend:
    """Isolation Forest of scikit-learn."""
    from sklearn.ensemble import IsolationForest

    return _estimator(vectors, scoring, IsolationForest(random_state=0))


def one_class_svm(vectors: Vectors, scoring: Scoring) -> Backend:
    """One-class SVM of scikit-learn."""
    from sklearn.svm import OneClassSVM

    return _estimator(vectors, scoring, OneClassSVM(nu=0.1))


def _estimator(vectors: Vectors, scoring: Scoring, model: Any) -> Backend:
    """A model of scikit-learn, whose scores are higher for more normal clips."""
    columns, x = _columns(vectors, scoring)
    model.fit(x)
    return Backend(columns, lambda x: -np.ravel(model.score_samples(x)))


GMM_FLOOR = 1e-3  # of the variances
VARIANCE_FLOOR = 1e-6  # of standardised bins
BACKENDS: dict[str, Callable[[Vectors, Scoring], Backend]] = {
    "mean": mean,
    "own_class": own_class,
    "gaussian_fixed": gaussian_fixed,
    "mahalanobis": mahalanobis,
    "knn": partial(neighbours, rule=distances.knn),
    "ldn": partial(neighbours, rule=distances.ldn),
    "whitened_ldn": partial(neighbours, rule=distances.ldn, whiten=True),
    "lof": partial(neighbours, rule=distances.lof),
    "gmm": gmm,
    "isolation_forest": isolation_forest,
    "one_class_svm": one_class_svm,
}


@dataclass(frozen=True, eq=False)
class Fused:
    """The back-ends of one bank."""

    scoring: Scoring
    vectors: Vectors
    backends: tuple[Backend, ...]

    @classmethod
    def fit(cls, scoring: Scoring, vectors: Vectors) -> "Fused":
        """Fit each."""
        backends = tuple(BACKENDS[name](vectors, scoring) for name in scoring.names)
        return cls(scoring, vectors, backends)

    def score(self, vectors: Vectors) -> ClipScores:
        """Score of the back-end, or mean of the z-scores of several."""
        return self._fuse([backend.score(vectors) for backend in self.backends])

    @cached_property
    def normal(self) -> list[ClipScores]:
        """Leave-one-out scores of each back-end; by refits where it has none."""
        exact = [backend.leave_one_out() for backend in self.backends]
        return [self._refits[i] if one is None else one for i, one in enumerate(exact)]

    def normal_scores(self) -> ClipScores:
        """Leave-one-out scores, fused."""
        return self._fuse(self.normal)

    @cached_property
    def held_out(self) -> ClipScores:
        """Scores by back-ends refitted without a tenth of the clips, fused.

        Unbiased, unlike leave-one-out scores: a clip that scales the columns is nearer
        to the others in that scale, by a third of an SD among 60 clips.
        """
        return self._fuse(self._refits)

    @cached_property
    def _refits(self) -> list[ClipScores]:
        return [self._refitted(name) for name in self.scoring.names]

    def _fuse(self, scores: list[ClipScores]) -> ClipScores:
        if len(scores) == 1:
            return scores[0]
        pairs = zip(scores, self.normal, strict=True)
        return np.mean([z_scores(*pair) for pair in pairs], axis=0)

    def _refitted(self, name: str) -> ClipScores:
        """Score each tenth of the clips by a back-end fitted to the others."""
        fold = np.arange(len(self.vectors)) % FOLDS
        scores = np.empty(len(fold))
        for one in np.unique(fold):
            fitted = BACKENDS[name](self.vectors[fold != one], self.scoring)
            scores[fold == one] = fitted.score(self.vectors[fold == one])
        return scores


@dataclass(frozen=True, eq=False)
class Banks:
    """Fitted back-ends: one bank per machine ID if wanted, and one of all clips."""

    scoring: Scoring
    vectors: Vectors
    machine_id: Shaped[np.ndarray, " clip"]
    by_id: Mapping[str, Fused]

    @classmethod
    def fit(
        cls,
        scoring: Scoring,
        vectors: Vectors,
        machine_id: Shaped[np.ndarray, " clip"],
    ) -> "Banks":
        """Fit to normal clips; an ID with a single one has no bank."""
        if len(vectors) < 2:
            raise ConfigError(
                f"scoring.backend='{scoring.backend}': {len(vectors)} normal clips; "
                "must be at least 2"
            )
        ids, counts = np.unique(machine_id, return_counts=True)
        own = ids[counts > 1].tolist() if scoring.per_id else []
        fits = {one: Fused.fit(scoring, vectors[machine_id == one]) for one in own}
        return cls(scoring, vectors, machine_id, fits)

    @cached_property
    def of_all(self) -> Fused:
        """The bank of all clips, fitted when an ID needs it."""
        return Fused.fit(self.scoring, self.vectors)

    def of(self, machine_id: str) -> Fused:
        """The bank of an ID, or that of all clips where it has none."""
        return self.by_id.get(machine_id) or self.of_all

    def unknown(
        self, machine_id: Shaped[np.ndarray, " clip"]
    ) -> Bool[np.ndarray, " clip"]:
        """Whether each clip is compared with all IDs, since its own has no bank."""
        return ~np.isin(machine_id, list(self.by_id)) & self.scoring.per_id

    def score(
        self, vectors: Vectors, machine_id: Shaped[np.ndarray, " clip"]
    ) -> ClipScores:
        """Score each clip against its bank; NaN if its vector isn't finite."""
        scores = np.full(len(vectors), np.nan)
        finite = np.isfinite(vectors).all(1)
        for one, rows in self._groups(machine_id):
            rows = rows & finite
            if rows.any():
                scores[rows] = (one or self.of_all).score(vectors[rows])
        return scores

    def normal_scores(self) -> ClipScores:
        """Score each normal clip as if it weren't in its bank."""
        return self._of_normal(Fused.normal_scores)

    def held_out_scores(self) -> ClipScores:
        """Score each normal clip by a bank refitted without it."""
        return self._of_normal(lambda bank: bank.held_out)

    def _of_normal(self, score: Callable[[Fused], ClipScores]) -> ClipScores:
        scores = np.empty(len(self.vectors))
        for one, rows in self._groups(self.machine_id):
            if one:
                scores[rows] = score(one)
            elif rows.any():
                scores[rows] = score(self.of_all)[rows]
        return scores

    def _groups(
        self, machine_id: Shaped[np.ndarray, " clip"]
    ) -> list[tuple[Fused | None, Bool[np.ndarray, " clip"]]]:
        groups = [(bank, machine_id == one) for one, bank in self.by_id.items()]
        return [*groups, (None, ~np.isin(machine_id, list(self.by_id)))]
