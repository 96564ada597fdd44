"""From features to what a model sees: standardised bins, windows of frames."""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int


class Standardiser(NamedTuple):
    """Shift and scale per bin; a pytree, so that it is kept with the model.

    Attributes
    ----------
    mean : f32 [shape=(bin,)], in dB
    scale : f32 [shape=(bin,)], positive, in dB
    """

    mean: Float32[Array, " bin"]
    scale: Float32[Array, " bin"]

    @classmethod
    def identity(cls, n_bins: int) -> "Standardiser":
        """Leaves features as they are."""
        return cls(jnp.zeros(n_bins), jnp.ones(n_bins))

    @classmethod
    def of_moments(
        cls,
        mean: Float[np.ndarray, "clip bin"],
        variance: Float[np.ndarray, "clip bin"],
    ) -> "Standardiser":
        """Mean and standard deviation per bin; a bin that never changes gets scale 1.

        The statistics of all clips are combined on the host in float64: a float32 sum
        over all frames would lose digits.
        """
        total = np.mean(variance + (mean - mean.mean(0)) ** 2, axis=0)
        scale = np.where(total > 0, np.sqrt(total), 1.0)
        return cls(jnp.float32(mean.mean(0)), jnp.float32(scale))

    def apply(self, features: Float32[Array, "... bin"]) -> Float32[Array, "... bin"]:
        """Standardise features of any leading shape."""
        shape = (1,) * (features.ndim - 1) + self.mean.shape
        return (features - self.mean.reshape(shape)) / self.scale.reshape(shape)

    def undo(self, standard: Float32[Array, "... bin"]) -> Float32[Array, "... bin"]:
        """Features that `apply` makes these of."""
        shape = (1,) * (standard.ndim - 1) + self.mean.shape
        return standard * self.scale.reshape(shape) + self.mean.reshape(shape)


def clip_moments(
    features: Float32[Array, "clip frame bin"],
) -> tuple[Float[np.ndarray, "clip bin"], Float[np.ndarray, "clip bin"]]:
    """Mean and variance over the frames of each clip, for `of_moments`; float64."""
    mean, variance = _clip_moments(features)
    return np.asarray(mean, np.float64), np.asarray(variance, np.float64)


@jax.jit
def _clip_moments(features: Array) -> tuple[Array, Array]:
    return jnp.mean(features, axis=1), jnp.var(features, axis=1)


@dataclass(frozen=True)
class Windows:
    """Windows of consecutive frames; they are gathered where used and never stored.

    Attributes
    ----------
    width : int >= 0, frames per window; 0: the whole clip
    hop : int > 0, frames from one window to the next
    """

    width: int
    hop: int = 1

    def __post_init__(self) -> None:
        if self.width < 0 or self.hop < 1:
            raise ValueError(
                f"windows.width={self.width}: must be at least 0, and the hop of "
                f"windows at least 1, not {self.hop}"
            )

    def width_in(self, n_frames: int) -> int:
        """Frames of a window in clips of `n_frames`; ValueError if none fits."""
        if n_frames < self.width:
            raise ValueError(
                f"a window of {self.width} frames does not fit into clips of "
                f"{n_frames}; use fewer frames per window or a smaller features.hop"
            )
        return self.width or n_frames

    def per_clip(self, n_frames: int) -> int:
        """Number of windows in a clip of `n_frames`."""
        return 1 + (n_frames - self.width_in(n_frames)) // self.hop

    def tiles(self, n_frames: int) -> Int[np.ndarray, "window width"]:
        """Frames of windows side by side, the last of which ends with the clip."""
        width = self.width_in(n_frames)
        starts = np.append(np.arange(0, n_frames - width, width), n_frames - width)
        return starts[:, None] + np.arange(width)

    def gather(
        self,
        features: Float32[Array, "clip frame bin"],
        index: Int[Array, " window"],
    ) -> Float32[Array, "window width bin"]:
        """Windows by index.

        Parameters
        ----------
        features : f32 [shape=(clip, frame, bin)]
        index : int [shape=(window,)], clip * per_clip + window within the clip

        Returns
        -------
        windows : f32 [shape=(window, width, bin)]
        """
        _, n_frames, n_bins = features.shape
        clip, window = jnp.divmod(index, self.per_clip(n_frames))
        starts = jnp.stack([clip, window * self.hop, jnp.zeros_like(clip)], axis=1)
        size = (1, self.width_in(n_frames), n_bins)
        found = jax.vmap(lambda start: lax.dynamic_slice(features, start, size))(starts)
        return found[:, 0]
