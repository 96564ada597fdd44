"""Standardised bins and windows of frames: from features to examples of a model."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int

from mimii_jax.errors import require

Moment = Float[np.ndarray, "clip bin"]


class Standardiser(NamedTuple):
    """Shift and scale per bin; a pytree, saved with the model."""

    mean: Float32[Array, " bin"]
    scale: Float32[Array, " bin"]

    @classmethod
    def identity(cls, n_bins: int) -> "Standardiser":
        """Standardiser that changes no bit."""
        return cls(jnp.zeros(n_bins), jnp.ones(n_bins))

    @classmethod
    def of_moments(cls, mean: Moment, variance: Moment) -> "Standardiser":
        """Mean and standard deviation per bin; a bin that never changes gets scale 1.

        In float64 on the host: a float32 sum over all frames would lose digits.
        """
        total = np.mean(variance + (mean - mean.mean(0)) ** 2, axis=0)
        scale = np.where(total > 0, np.sqrt(total), 1.0)
        return cls(jnp.float32(mean.mean(0)), jnp.float32(scale))

    def apply(self, features: Float32[Array, "... bin"]) -> Float32[Array, "... bin"]:
        """Standardise features of any leading shape."""
        shape = (1,) * (features.ndim - 1) + self.mean.shape
        return (features - self.mean.reshape(shape)) / self.scale.reshape(shape)

    def undo(self, standard: Float32[Array, "... bin"]) -> Float32[Array, "... bin"]:
        """Inverse of `apply`."""
        shape = (1,) * (standard.ndim - 1) + self.mean.shape
        return standard * self.scale.reshape(shape) + self.mean.reshape(shape)


def clip_moments(features: Float[Array, "clip frame bin"]) -> tuple[Moment, Moment]:
    """Mean and variance over the frames of each clip, for `of_moments`; float64."""
    mean, variance = _clip_moments(features)
    return np.asarray(mean, np.float64), np.asarray(variance, np.float64)


@jax.jit
def _clip_moments(features: Array) -> tuple[Array, Array]:
    x = features.astype(jnp.float32)
    return jnp.mean(x, axis=1), jnp.var(x, axis=1)


@dataclass(frozen=True)
class Windows:
    """Windows of consecutive frames, gathered where they are used and never stored."""

    width: int | None  # frames per window; None: the whole clip
    hop: int = 1  # frames from one window to the next

    def __post_init__(self) -> None:
        for field, n in (("width", self.width), ("hop", self.hop)):
            require(n is None or n > 0, f"windows.{field}={n}: must be positive")

    def width_in(self, n_frames: int) -> int:
        """Frames of a window in clips of `n_frames`; ConfigError if none fits."""
        width = n_frames if self.width is None else self.width
        require(
            width <= n_frames,
            f"windows.width={width}: clips have {n_frames} frames; use a smaller width "
            "or a smaller features.hop",
        )
        return width

    def per_clip(self, n_frames: int) -> int:
        """Number of windows in a clip of `n_frames`."""
        return 1 + (n_frames - self.width_in(n_frames)) // self.hop

    def tiles(self, n_frames: int) -> Int[np.ndarray, "window width"]:
        """Frames of non-overlapping windows; the last is aligned to the clip's end."""
        width = self.width_in(n_frames)
        starts = np.append(np.arange(0, n_frames - width, width), n_frames - width)
        return starts[:, None] + np.arange(width)

    def gather(
        self,
        features: Float[Array, "clip frame bin"],
        index: Int[Array, " window"],
    ) -> Float32[Array, "window width bin"]:
        """Windows by index: clip * per_clip + window within the clip."""
        _, n_frames, n_bins = features.shape
        clip, window = jnp.divmod(index, self.per_clip(n_frames))
        starts = jnp.stack([clip, window * self.hop, jnp.zeros_like(clip)], axis=1)
        size = (1, self.width_in(n_frames), n_bins)
        found = jax.vmap(lambda start: lax.dynamic_slice(features, start, size))(starts)
        return found[:, 0].astype(jnp.float32)
