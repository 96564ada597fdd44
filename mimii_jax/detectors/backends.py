"""From the errors along a clip to one score per clip."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Shaped
from sklearn.covariance import ledoit_wolf

ArrayLike = Array | np.ndarray

POOLINGS = ("mean", "max", "top_k", "gwrp")
MSE, MAHALANOBIS = KINDS = ("mse", "mahalanobis")
ALL_IDS = ""  # the group of clips of whatever machine ID


@dataclass(frozen=True)
class Pooling:
    """How the errors of a clip's windows become its score.

    Attributes
    ----------
    name : "mean"; "max"; "top_k", the mean of the `top_k` largest errors; or "gwrp",
        generalised weighted rank pooling: the errors sorted from the largest, weighted
        by 1, r, r^2, ... (Kolesnikov and Lampert 2016)
    top_k : int > 0; more than there are windows means all
    gwrp_r : float in [0, 1]; 0 is the maximum, 1 the mean
    """

    name: str
    top_k: int
    gwrp_r: float

    def __post_init__(self) -> None:
        if self.name not in POOLINGS:
            raise ValueError(
                f"scoring.pooling='{self.name}': must be one of {', '.join(POOLINGS)}"
            )
        if self.top_k < 1:
            raise ValueError(f"scoring.top_k={self.top_k}: must be at least 1")
        if not 0 <= self.gwrp_r <= 1:
            raise ValueError(f"scoring.gwrp_r={self.gwrp_r}: must be from 0 to 1")

    def __call__(self, errors: Float[ArrayLike, "... window"]) -> Float[Array, "..."]:
        """Pool over the last axis."""
        if self.name == "mean":
            return jnp.mean(errors, axis=-1)
        if self.name == "max":
            return jnp.max(errors, axis=-1)
        n_windows = errors.shape[-1]
        if self.name == "top_k":
            largest, _ = lax.top_k(errors, min(self.top_k, n_windows))
            return jnp.mean(largest, axis=-1)
        weights = self.gwrp_r ** np.arange(n_windows)
        weights = (weights / weights.sum()).astype(np.float32)
        return jnp.sort(errors, axis=-1, descending=True) @ weights


@dataclass(frozen=True)
class Scoring:
    """How the errors of a clip, per step and bin, become its score.

    Attributes
    ----------
    kind : "mse", the pooled mean squared error of the steps; or "mahalanobis", the
        distance of the vector of pooled squared errors per bin from those of the
        normal training clips
    per_id : whether a clip is compared with the training clips of its own machine ID
        (with all of them, if that has none); for "mahalanobis"
    batch_size : int >= 0, clips that are scored at once on a device; 0: sensible
    pooling : over the steps
    """

    kind: str
    per_id: bool
    batch_size: int
    pooling: Pooling

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(
                f"scoring.kind='{self.kind}': must be one of {', '.join(KINDS)}"
            )
        if self.batch_size < 0:
            raise ValueError(f"scoring.batch_size={self.batch_size}: must be 0 or more")

    def summary(self, error: Float[Array, "step bin"]) -> Float[Array, " column"]:
        """What is kept of a clip: its score, or its pooled error per bin."""
        if self.kind == MSE:
            return self.pooling(jnp.mean(error, axis=-1))[None]
        return self.pooling(error.T)


@dataclass(frozen=True, eq=False)
class Normals:
    """Mean and inverse covariance of the summaries of normal clips, per group.

    The covariance is shrunk towards a multiple of the identity by the amount of Ledoit
    and Wolf (2004), so that it can be inverted whatever the number of clips.

    Attributes
    ----------
    groups : `ALL_IDS`, and after it the machine IDs that have statistics of their own
    mean : f64 [shape=(group, column)]
    precision : f64 [shape=(group, column, column)]
    """

    groups: Sequence[str]
    mean: Float[np.ndarray, "group column"]
    precision: Float[np.ndarray, "group column column"]

    @classmethod
    def fit(
        cls,
        summaries: Float[np.ndarray, "clip column"],
        machine_id: Shaped[np.ndarray, " clip"],
        per_id: bool,
    ) -> "Normals":
        """Statistics of these clips, and of those of each machine ID if asked for."""
        summaries = summaries.astype(np.float64)
        # In units of their own spread: shrinking treats all columns alike.
        groups = [ALL_IDS, *(np.unique(machine_id).tolist() if per_id else ())]
        mean, precision = [], []
        for group in groups:
            rows = summaries[(machine_id == group) | (group == ALL_IDS)]
            spread = np.maximum(rows.std(axis=0), np.finfo(np.float32).tiny)
            covariance, _ = ledoit_wolf(rows / spread)
            mean.append(rows.mean(axis=0))
            precision.append(np.linalg.pinv(covariance) / np.outer(spread, spread))
        return cls(groups, np.stack(mean), np.stack(precision))

    def distance(
        self,
        summaries: Float[np.ndarray, "clip column"],
        machine_id: Shaped[np.ndarray, " clip"],
    ) -> Float[np.ndarray, " clip"]:
        """Mahalanobis distance of each clip from the normal ones of its group."""
        known = {group: row for row, group in enumerate(self.groups)}
        rows = np.array([known.get(name, 0) for name in machine_id.tolist()], int)
        away = summaries - self.mean[rows]
        squared = np.einsum("ci,cij,cj->c", away, self.precision[rows], away)
        return np.sqrt(np.maximum(squared, 0))


def save_normals(normals: Sequence[Normals], path: Path) -> None:
    """Keep the statistics of every run, whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    arrays: dict[str, Any] = {
        f"{run}/{field}": np.asarray(value)
        for run, one in enumerate(normals)
        for field, value in vars(one).items()
    }
    with temporary.open("wb") as file:
        np.savez(file, **arrays)
    temporary.replace(path)


def load_normals(path: Path, n_runs: int) -> list[Normals]:
    """What `save_normals` has kept."""
    with np.load(path) as arrays:
        return [
            Normals(
                arrays[f"{run}/groups"].tolist(),
                arrays[f"{run}/mean"],
                arrays[f"{run}/precision"],
            )
            for run in range(n_runs)
        ]
