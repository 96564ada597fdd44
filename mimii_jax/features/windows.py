"""Standardised bins and windows of frames: from features to examples of a model."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Float32, Int, Shaped

from mimii_jax.errors import require, require_positive

Moment = Float[np.ndarray, "clip bin"]


class Standardiser(NamedTuple):
    """Shift and scale per bin; a pytree, saved with the model.

    With groups of clips, such as machine IDs, row 0 is of all clips, then each group's.
    """

    mean: Float32[Array, "*row bin"]
    scale: Float32[Array, "*row bin"]

    @classmethod
    def identity(cls, n_bins: int, n_groups: int = 0) -> "Standardiser":
        """Standardiser that changes no bit."""
        shape = (1 + n_groups, n_bins) if n_groups else (n_bins,)
        return cls(jnp.zeros(shape), jnp.ones(shape))

    @classmethod
    def of_moments(cls, mean: Moment, variance: Moment) -> "Standardiser":
        """Mean and standard deviation per bin; a bin that never changes gets scale 1.

        In float64 on the host: a float32 sum over all frames would lose digits.
        """
        total = np.mean(variance + (mean - mean.mean(0)) ** 2, axis=0)
        scale = np.where(total > 0, np.sqrt(total), 1.0)
        return cls(jnp.float32(mean.mean(0)), jnp.float32(scale))

    @classmethod
    def of_groups(
        cls,
        mean: Moment,
        variance: Moment,
        row: Int[np.ndarray, " clip"],
        n_groups: int,
    ) -> "Standardiser":
        """`of_moments` of all clips and of each group's; all for one without clips."""
        if not n_groups:
            return cls.of_moments(mean, variance)
        every = [np.ones(len(row), bool), *(row == 1 + i for i in range(n_groups))]
        chosen = [one if one.any() else every[0] for one in every]
        found = [cls.of_moments(mean[one], variance[one]) for one in chosen]
        return cls(*map(jnp.stack, zip(*found, strict=True)))

    def of(self, row: Int[ArrayLike, "*clip"]) -> "Standardiser":
        """Rows of the groups of clips; itself without groups."""
        if self.mean.ndim == 1:
            return self
        return Standardiser(self.mean[row], self.scale[row])

    def fitting(self, other: "Standardiser") -> "Standardiser":
        """Match the rows of another: by its own, or by the row of all clips."""
        if self.mean.shape == other.mean.shape:
            return self
        of_all = self.of(0)
        shape = other.mean.shape
        return Standardiser(*(jnp.broadcast_to(leaf, shape) for leaf in of_all))

    def apply(
        self, features: Float32[Array, "*clip frame bin"]
    ) -> Float32[Array, "*clip frame bin"]:
        """Standardise frames; each clip's by its row, if there are any."""
        mean, scale = self._for(features)
        return (features - mean) / scale

    def undo(
        self, standard: Float32[Array, "*clip frame bin"]
    ) -> Float32[Array, "*clip frame bin"]:
        """Inverse of `apply`."""
        mean, scale = self._for(standard)
        return standard * scale + mean

    def _for(self, features: Array) -> tuple[Any, Any]:
        """Mean and scale, with the axes of features."""
        *rows, n_bins = self.mean.shape
        shape = (*rows, *(1,) * (features.ndim - self.mean.ndim), n_bins)
        return self.mean.reshape(shape), self.scale.reshape(shape)


def group_rows(
    ids: Sequence[str], machine_id: Shaped[np.ndarray, " clip"]
) -> Int[np.ndarray, " clip"]:
    """Row of each clip in a `Standardiser` with these groups; 0 for any other ID."""
    row = {one: 1 + i for i, one in enumerate(ids)}
    return np.array([row.get(one, 0) for one in machine_id.tolist()], np.int32)


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
        require_positive("windows", width=self.width, hop=self.hop)

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
