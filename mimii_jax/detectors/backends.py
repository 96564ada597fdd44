"""Back-ends: how far the vectors of a clip are from those of normal clips.

A back-end is a frozen dataclass of arrays with `fit(vectors)` and `score(vectors)`; it
knows nothing of clips, IDs or files. To add one: a class, and an entry of `BACKENDS`.
`Banks` keeps one per machine ID.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Shaped
from sklearn.covariance import ledoit_wolf

from mimii_jax.errors import ConfigError, DataError
from mimii_jax.files import file_errors, replace_file

ArrayLike = Array | np.ndarray
POOLINGS = ("mean", "max", "top_k", "gwrp")
ALL_IDS = ""  # the bank of all clips, for machine IDs without a bank


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


@runtime_checkable
class Backend(Protocol):
    """A frozen dataclass of arrays."""

    @classmethod
    def fit(cls, vectors: Float[np.ndarray, "clip column"]) -> "Backend":
        """Fit to the vectors of normal clips."""
        ...

    def score(
        self, vectors: Float[np.ndarray, "clip column"]
    ) -> Float[np.ndarray, " clip"]:
        """Distance of each clip from the normal ones."""
        ...


@dataclass(frozen=True)
class Mean:
    """The mean of the vector: errors are scores already."""

    @classmethod
    def fit(cls, vectors: Float[np.ndarray, "clip column"]) -> "Mean":
        """Fit nothing."""
        return cls()

    def score(
        self, vectors: Float[np.ndarray, "clip column"]
    ) -> Float[np.ndarray, " clip"]:
        """Mean over the columns."""
        return np.mean(vectors, axis=-1)


@dataclass(frozen=True, eq=False)
class Mahalanobis:
    """Mahalanobis distance, with the covariance shrunk as by Ledoit and Wolf (2004)."""

    mean: Float[np.ndarray, " column"]
    precision: Float[np.ndarray, "column column"]  # inverse covariance

    @classmethod
    def fit(cls, vectors: Float[np.ndarray, "clip column"]) -> "Mahalanobis":
        """Fit mean and covariance."""
        vectors = vectors.astype(np.float64)
        # In units of their spread: shrinking treats all columns alike.
        spread = np.maximum(vectors.std(axis=0), np.finfo(np.float32).tiny)
        covariance, _ = ledoit_wolf(vectors / spread)
        precision = np.linalg.pinv(covariance) / np.outer(spread, spread)
        return cls(vectors.mean(axis=0), precision)

    def score(
        self, vectors: Float[np.ndarray, "clip column"]
    ) -> Float[np.ndarray, " clip"]:
        """Distance of each clip from the mean."""
        away = vectors - self.mean
        squared = np.einsum("ci,ij,cj->c", away, self.precision, away)
        return np.sqrt(np.maximum(squared, 0))


BACKENDS: dict[str, Any] = {"mean": Mean, "mahalanobis": Mahalanobis}


@dataclass(frozen=True, eq=False)
class Banks:
    """A fitted back-end for all clips, and one per machine ID if wanted."""

    backends: Mapping[str, Backend]

    @classmethod
    def fit(
        cls,
        name: str,
        vectors: Float[np.ndarray, "clip column"],
        machine_id: Shaped[np.ndarray, " clip"],
        per_id: bool,
    ) -> "Banks":
        """Fit the back-end `name` to normal clips."""
        backend = BACKENDS[name]
        found = {ALL_IDS: backend.fit(vectors)}
        for one in np.unique(machine_id).tolist() if per_id else ():
            found[one] = backend.fit(vectors[machine_id == one])
        return cls(found)

    def score(
        self,
        vectors: Float[np.ndarray, "clip column"],
        machine_id: Shaped[np.ndarray, " clip"],
    ) -> Float[np.ndarray, " clip"]:
        """Score each clip against its ID's bank, or that of all if it has none."""
        scores = np.empty(len(vectors))
        bank = np.where(np.isin(machine_id, list(self.backends)), machine_id, ALL_IDS)
        for one in np.unique(bank).tolist():
            scores[bank == one] = self.backends[one].score(vectors[bank == one])
        return scores


@dataclass(frozen=True)
class Scoring:
    """From the errors of a clip's segments and bins to its score."""

    # "mean", the pooled error; or "mahalanobis", the distance of the pooled errors
    # per bin from those of normal training clips
    backend: str = "mean"
    # whether a clip is compared with the training clips of its machine ID alone
    per_id: bool = False
    pooling: Pooling = Pooling()

    def __post_init__(self) -> None:
        if self.backend not in BACKENDS:
            raise ConfigError(
                f"scoring.backend='{self.backend}': must be one of "
                f"{', '.join(BACKENDS)}"
            )

    @property
    def needs_fit(self) -> bool:
        """Whether the back-end has statistics of normal clips."""
        return bool(fields(BACKENDS[self.backend]))

    def summary(self, error: Float[Array, "segment bin"]) -> Float[Array, " column"]:
        """Vector of a clip for the back-end: its pooled error, or that of each bin."""
        if self.backend == "mean":
            return self.pooling(jnp.mean(error, axis=-1))[None]
        return self.pooling(error.T)


def save_banks(banks: list[Banks], path: Path) -> None:
    """Save the back-ends of every run."""
    arrays: dict[str, Any] = {
        f"{run}/{one}/{field.name}": getattr(backend, field.name)
        for run, bank in enumerate(banks)
        for one, backend in bank.backends.items()
        for field in fields(backend)  # pyright: ignore[reportArgumentType]
    }
    file = BytesIO()
    np.savez(file, **arrays)
    replace_file(path, file.getvalue())


def load_banks(name: str, path: Path, n_runs: int) -> list[Banks]:
    """Load what `save_banks` saved."""
    found: list[dict[str, dict[str, np.ndarray]]] = [{} for _ in range(n_runs)]
    try:
        with file_errors(path), path.open("rb") as file, np.load(file) as arrays:
            for key in arrays:
                run, one, field = key.split("/")
                found[int(run)].setdefault(one, {})[field] = arrays[key]
    except (ValueError, LookupError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: damaged ({error}); train again") from error
    return [
        Banks({one: BACKENDS[name](**values) for one, values in of_run.items()})
        for of_run in found
    ]
