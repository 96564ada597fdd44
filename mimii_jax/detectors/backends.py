"""Back-ends: how far the vectors of a clip are from those of normal clips.

A back-end is a frozen dataclass of arrays with `fit(vectors, scoring)` and
`score(vectors)`; it knows nothing of clips, IDs or files. To add one: a class, and an
entry of `BACKENDS`. `Banks` keeps one per machine ID, and fuses several.
"""

import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Shaped
from sklearn.ensemble import IsolationForest
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from sklearn.svm import OneClassSVM

from mimii_jax.detectors import distances
from mimii_jax.detectors.distances import Bank, Columns, Mixture, in_chunks
from mimii_jax.errors import ConfigError, DataError, require
from mimii_jax.files import file_errors, replace_file

ArrayLike = Array | np.ndarray
POOLINGS = ("mean", "max", "top_k", "gwrp")
FOLDS = 10  # of what is refitted for its leave-one-out scores


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
    """From the errors of a clip's segments and bins, or other vectors, to its score."""

    # "mean", the pooled error; or the distance of the pooled errors per bin from those
    # of normal clips: another of `BACKENDS`, or several, "a+b": mean of their z-scores
    backend: str = "mean"
    # whether a clip is compared with the normal clips of its machine ID alone
    per_id: bool = True
    pooling: Pooling = Pooling()
    neighbours: int = 1  # knn, ldn
    density_neighbours: int = 8  # ldn, lof: they tell the density around a clip
    # whether each column is in units of its bank's SD, and within 8 of them
    standardise: bool = True
    max_columns: int | None = 100  # PCA to so many where columns exceed clips
    coreset: int | None = None  # at most so many clips, which cover the bank
    components: int = 2  # gmm

    def __post_init__(self) -> None:
        for name in self.names:
            known = ", ".join(BACKENDS)
            require(
                name in BACKENDS,
                f"scoring.backend='{self.backend}': must be one of {known}, or several "
                "joined by +",
            )
        positive = ("neighbours", "density_neighbours", "components")
        optional = ("max_columns", "coreset")
        for field in (*positive, *optional):
            value = getattr(self, field)
            limit = "at least 1" + (", or None" if field in optional else "")
            valid = value >= 1 if value is not None else field in optional
            require(valid, f"scoring.{field}={value}: must be {limit}")

    @property
    def names(self) -> list[str]:
        """Back-ends whose scores are fused."""
        return self.backend.split("+")

    @property
    def needs_fit(self) -> bool:
        """Whether the back-end compares with normal clips."""
        return self.backend != "mean"

    def summary(self, error: Float[Array, "segment bin"]) -> Float[Array, " column"]:
        """Vector of a clip for the back-end: its pooled error, or that of each bin."""
        if self.backend == "mean":
            return self.pooling(jnp.mean(error, axis=-1))[None]
        return self.pooling(error.T)


Vectors = Float[np.ndarray, "clip column"]
ClipScores = Float[np.ndarray, " clip"]


@runtime_checkable
class Backend(Protocol):
    """A frozen dataclass of arrays, fitted to the vectors of normal clips."""

    def score(self, vectors: Vectors) -> ClipScores:
        """Distance of each clip from the normal ones."""
        ...

    def leave_one_out(self) -> ClipScores | None:
        """Score each clip of the bank as if it weren't in it; None: refit for that."""
        ...


class _Refitted:
    def leave_one_out(self) -> None:
        return None


@dataclass(frozen=True)
class Mean(_Refitted):
    """The mean of the vector: errors are scores already."""

    @classmethod
    def fit(cls, vectors: Vectors, scoring: Scoring) -> "Mean":
        """Fit nothing."""
        del vectors, scoring
        return cls()

    def score(self, vectors: Vectors) -> ClipScores:
        """Mean over the columns."""
        return np.mean(vectors, axis=-1)


def _columns(vectors: Vectors, scoring: Scoring, whiten: bool = False) -> Columns:
    limit = scoring.max_columns
    return distances.fit_columns(vectors, scoring.standardise, limit, whiten)


def _project(columns: Columns, vectors: Vectors) -> np.ndarray:
    vectors = vectors.astype(np.float32)
    return in_chunks(partial(distances.project, columns), vectors)[0]


@dataclass(frozen=True, eq=False)
class Mahalanobis(_Refitted):
    """Mahalanobis distance, with the covariance shrunk as by Ledoit and Wolf (2004)."""

    columns: Columns  # whiten

    @classmethod
    def fit(cls, vectors: Vectors, scoring: Scoring) -> "Mahalanobis":
        """Fit mean and covariance."""
        return cls(_columns(vectors, scoring, whiten=True))

    def score(self, vectors: Vectors) -> ClipScores:
        """Distance of each clip from the mean."""
        return in_chunks(distances.norm, _project(self.columns, vectors))[0]


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Distance from the nearest clips, as it is or relative to the density there."""

    rule: Callable[..., Array]  # distances.knn, ldn or lof
    columns: Columns
    bank: Bank
    k: int
    density_k: int
    exact: bool  # whether leaving one out changes nothing but its neighbours

    @classmethod
    def fit(
        cls,
        vectors: Vectors,
        scoring: Scoring,
        rule: Callable[..., Array],
        whiten: bool = False,
    ) -> "Neighbours":
        """Find the neighbours of each clip, then the coreset."""
        columns = _columns(vectors, scoring, whiten)
        projected = _project(columns, vectors)
        exact = not whiten and projected.shape == vectors.shape
        if scoring.coreset and scoring.coreset < len(vectors):
            exact = False
            projected = projected[distances.k_centre(projected, scoring.coreset)]
        n = len(projected)
        k = min(scoring.neighbours, n)
        density_k = max(1, min(scoring.density_neighbours, n - 1))
        bank = distances.make_bank(projected, density_k)
        return cls(rule, columns, bank, k, density_k, exact)

    def score(self, vectors: Vectors) -> ClipScores:
        """Distance of each clip."""
        nobody = np.full(len(vectors), distances.NOBODY, np.int32)
        return self._score(_project(self.columns, vectors), nobody)

    def leave_one_out(self) -> ClipScores | None:
        """Score each clip of the bank without itself, if only neighbours matter."""
        n = int(self.bank.n)
        own = np.arange(n, dtype=np.int32)
        return (
            self._score(np.asarray(self.bank.vectors)[:n], own) if self.exact else None
        )

    def _score(self, projected: np.ndarray, exclude: np.ndarray) -> ClipScores:
        rule = partial(self.rule, self.bank, k=self.k, density_k=self.density_k)
        return in_chunks(rule, projected, exclude)[0]


@dataclass(frozen=True, eq=False)
class GMM(_Refitted):
    """Negative log-likelihood under a mixture of Gaussians with full covariances."""

    columns: Columns
    mixture: Mixture

    @classmethod
    def fit(cls, vectors: Vectors, scoring: Scoring) -> "GMM":
        """Fit by expectation maximisation; no more components than clips."""
        columns = _columns(vectors, scoring)
        n = min(scoring.components, len(vectors))
        model = GaussianMixture(n, reg_covar=GMM_FLOOR, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(_project(columns, vectors).astype(np.float64))
        arrays = (np.log(model.weights_), model.means_, model.precisions_cholesky_)
        return cls(columns, Mixture(*(jnp.asarray(a, np.float32) for a in arrays)))

    def score(self, vectors: Vectors) -> ClipScores:
        """Negative log-likelihood of each clip."""
        surprise = partial(distances.surprise, self.mixture)
        return in_chunks(surprise, _project(self.columns, vectors))[0]


@dataclass(frozen=True, eq=False)
class Estimator(_Refitted):
    """A scikit-learn model."""

    columns: Columns
    model: Any

    @classmethod
    def fit(
        cls, vectors: Vectors, scoring: Scoring, build: Callable[[], Any]
    ) -> "Estimator":
        """Build and fit the model."""
        columns = _columns(vectors, scoring)
        return cls(columns, build().fit(_project(columns, vectors)))

    def score(self, vectors: Vectors) -> ClipScores:
        """Scikit-learn's is higher for what is more normal."""
        return -np.ravel(self.model.score_samples(_project(self.columns, vectors)))


GMM_FLOOR = 1e-3  # of the variances
BACKENDS: dict[str, Callable[[Vectors, Scoring], Backend]] = {
    "mean": Mean.fit,
    "mahalanobis": Mahalanobis.fit,
    "knn": partial(Neighbours.fit, rule=distances.knn),
    "ldn": partial(Neighbours.fit, rule=distances.ldn),
    "whitened_ldn": partial(Neighbours.fit, rule=distances.ldn, whiten=True),
    "lof": partial(Neighbours.fit, rule=distances.lof),
    "gmm": GMM.fit,
    "isolation_forest": partial(
        Estimator.fit, build=partial(IsolationForest, random_state=0)
    ),
    "one_class_svm": partial(Estimator.fit, build=partial(OneClassSVM, nu=0.1)),
}


def z_scores(
    scores: ClipScores, normal: Float[np.ndarray, " normal"]
) -> ClipScores:
    """Scores in units of half the 16-84 % range of normal ones, from their median."""
    low, middle, high = np.percentile(normal, [16, 50, 84])
    return (scores - middle) / ((high - low) / 2 or 1.0)


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
        """Leave-one-out scores of each back-end."""
        pairs = zip(self.scoring.names, self.backends, strict=True)
        return [self._left_out(*pair) for pair in pairs]

    def normal_scores(self) -> ClipScores:
        """Leave-one-out scores, fused."""
        return self._fuse(self.normal)

    def _fuse(self, scores: list[ClipScores]) -> ClipScores:
        if len(scores) == 1:
            return scores[0]
        pairs = zip(scores, self.normal, strict=True)
        return np.mean([z_scores(*pair) for pair in pairs], axis=0)

    def _left_out(self, name: str, backend: Backend) -> ClipScores:
        """Exact where the back-end can; else by refitting to nine tenths."""
        exact = backend.leave_one_out()
        if exact is not None:
            return exact
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
        scores = np.empty(len(self.vectors))
        for one, rows in self._groups(self.machine_id):
            if one:
                scores[rows] = one.normal_scores()
            elif rows.any():
                scores[rows] = self.of_all.normal_scores()[rows]
        return scores

    def _groups(
        self, machine_id: Shaped[np.ndarray, " clip"]
    ) -> list[tuple[Fused | None, Bool[np.ndarray, " clip"]]]:
        groups = [(bank, machine_id == one) for one, bank in self.by_id.items()]
        return [*groups, (None, ~np.isin(machine_id, list(self.by_id)))]


def save_banks(banks: list[Banks], path: Path) -> None:
    """Save the vectors of every run's banks."""
    arrays: dict[str, Any] = {}
    for run, bank in enumerate(banks):
        arrays |= {f"{run}/vectors": bank.vectors, f"{run}/id": bank.machine_id}
    file = BytesIO()
    np.savez(file, **arrays)
    replace_file(path, file.getvalue())


def load_banks(scoring: Scoring, path: Path, n_runs: int) -> list[Banks]:
    """Fit again to what `save_banks` saved."""
    try:
        with file_errors(path), path.open("rb") as file, np.load(file) as arrays:
            saved = [(arrays[f"{i}/vectors"], arrays[f"{i}/id"]) for i in range(n_runs)]
    except (ValueError, LookupError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: damaged ({error}); train again") from error
    return [Banks.fit(scoring, *of_run) for of_run in saved]
