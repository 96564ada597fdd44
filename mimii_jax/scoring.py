"""From the errors of a clip's windows to one score per clip."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

ArrayLike = Array | np.ndarray

POOLINGS = ("mean", "max", "top_k", "gwrp")


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
                f"scoring.name='{self.name}': must be one of {', '.join(POOLINGS)}"
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
