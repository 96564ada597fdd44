"""Augmentations of a training example, one function each.

Most take one example and give one, `(key, x [frame, bin], ...) -> x`; mixup takes a
batch. They see what the model sees: strengths of `gain` and `noise` are in standard
deviations of a bin where features are standardised, else in the features' unit (dB).
Widths are in frames and bins. Whatever the strengths are, the shape stays and what was
finite is so afterwards; with a probability or a strength of 0 nothing changes.
"""

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Bool, Float, Float32, Int

Number = Float32[Array, ""] | float
MEAN, ZERO = FILLS = ("mean", "zero")


def spec_augment(
    key: Array,
    x: Float[Array, "frame bin"],
    *,
    probability: Number,
    time_width: Number,
    frequency_width: Number,
    time_masks: int,
    frequency_masks: int,
    fill: str,
) -> Float[Array, "frame bin"]:
    """Bands of frames and of bins are blanked (Park et al. 2019).

    Parameters
    ----------
    probability : that an example is masked at all
    time_width, frequency_width : of a mask at most, in frames and bins; each mask has
        any width from 0 to it, anywhere
    time_masks, frequency_masks : how many
    fill : "mean" of the example, or "zero"
    """
    use, along_time, along_frequency = jax.random.split(key, 3)
    frames = bands(along_time, x.shape[0], time_width, time_masks)
    bins = bands(along_frequency, x.shape[1], frequency_width, frequency_masks)
    masked = frames[:, None] | bins[None, :]
    filling = jnp.mean(x) if fill == MEAN else jnp.zeros((), x.dtype)
    return jnp.where(masked & jax.random.bernoulli(use, probability), filling, x)


def bands(key: Array, size: int, width: Number, n: int) -> Bool[Array, " size"]:
    """Which of `size` places lie in any of n bands."""
    start, end = extents(key, size, width, n)
    place = jnp.arange(size)[:, None]
    return jnp.any((place >= start[None]) & (place < end[None]), axis=1)


def extents(
    key: Array, size: int, width: Number, n: int
) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
    """Start and end of n bands within `size` places, from 0 to `width` of them wide."""
    of_width, of_start = jax.random.uniform(key, (2, n))
    most = jnp.clip(jnp.floor(jnp.asarray(width)), 0, size)
    # A float32 product of a number below 1 may be rounded up to the bound.
    wide = jnp.minimum(jnp.floor(of_width * (most + 1)), most)
    start = jnp.minimum(jnp.floor(of_start * (size - wide + 1)), size - wide)
    return start.astype(int), (start + wide).astype(int)


def cutout(
    key: Array,
    x: Float[Array, "frame bin"],
    *,
    probability: Number,
    time_width: Number,
    frequency_width: Number,
    holes: int,
) -> Float[Array, "frame bin"]:
    """Rectangles are cut out, and filled from the pixels around.

    A pixel becomes the mean of the four at the hole's edge in its row and column,
    weighted by how near they are. Holes are filled one after the other.

    Parameters
    ----------
    probability : that an example has holes
    time_width, frequency_width : of a hole at most, in frames and bins
    holes : how many
    """
    use, along_time, along_frequency = jax.random.split(key, 3)
    n_frames, n_bins = x.shape
    # A hole as large as the image would have nothing around it.
    width = jnp.minimum(time_width, n_frames - 1)
    height = jnp.minimum(frequency_width, n_bins - 1)
    frames = jnp.stack(extents(along_time, n_frames, width, holes), axis=1)
    bins = jnp.stack(extents(along_frequency, n_bins, height, holes), axis=1)
    filled = x
    for hole in range(holes):
        filled = _fill(filled, *frames[hole], *bins[hole])
    return jnp.where(jax.random.bernoulli(use, probability), filled, x)


def _fill(x: Array, first: Array, end: Array, low: Array, high: Array) -> Array:
    """The hole of frames first to end and bins low to high, filled."""
    n_frames, n_bins = x.shape
    frame, bin = jnp.arange(n_frames), jnp.arange(n_bins)

    def weight(distance: Array, there: Array) -> Array:
        return there / jnp.maximum(distance, 1).astype(x.dtype)

    frame_before = weight(frame - first + 1, first > 0)[:, None]
    frame_after = weight(end - frame, end < n_frames)[:, None]
    bin_below = weight(bin - low + 1, low > 0)[None]
    bin_above = weight(high - bin, high < n_bins)[None]
    total = frame_before + frame_after + bin_below + bin_above
    mean = (
        frame_before * x[jnp.maximum(first - 1, 0)][None]
        + frame_after * x[jnp.minimum(end, n_frames - 1)][None]
        + bin_below * x[:, jnp.maximum(low - 1, 0)][:, None]
        + bin_above * x[:, jnp.minimum(high, n_bins - 1)][:, None]
    ) / jnp.where(total > 0, total, 1)
    rows, columns = (frame >= first) & (frame < end), (bin >= low) & (bin < high)
    return jnp.where(rows[:, None] & columns[None], mean, x)


def warp(
    key: Array,
    x: Float[Array, "frame bin"],
    *,
    move_probability: Number,
    move_time: Number,
    move_frequency: Number,
    scale_probability: Number,
    scale: Number,
    turn_probability: Number,
    turn: Number,
) -> Float[Array, "frame bin"]:
    """The image is moved, scaled and turned about its middle, in one resampling.

    Linear interpolation; beyond the border the image goes on as it is there.

    Parameters
    ----------
    move_probability, move_time, move_frequency : up to so many frames and bins
    scale_probability, scale : larger or smaller, up to 1 + scale times
    turn_probability, turn : up to so many degrees, a bin being as long as a frame
    """
    move_key, scale_key, turn_key, use = jax.random.split(key, 4)
    probability = jnp.stack([move_probability, scale_probability, turn_probability])
    used = jax.random.uniform(use, (3,)) < probability
    moved, scaled, turned = used.astype(x.dtype)
    most = jnp.stack([jnp.asarray(move_time), jnp.asarray(move_frequency)])
    move = moved * most * _symmetric(move_key, 2)
    factor = jnp.exp(scaled * jnp.log1p(scale) * _symmetric(scale_key, 1)[0])
    angle = jnp.deg2rad(turned * turn * _symmetric(turn_key, 1)[0])
    cosine, sine = jnp.cos(angle) / factor, jnp.sin(angle) / factor
    middle = (jnp.array(x.shape) - 1) / 2
    frame = jnp.arange(x.shape[0])[:, None] - middle[0] - move[0]
    bin = jnp.arange(x.shape[1])[None] - middle[1] - move[1]
    from_frame = middle[0] + cosine * frame - sine * bin
    from_bin = middle[1] + sine * frame + cosine * bin
    warped = map_coordinates(x, [from_frame, from_bin], order=1, mode="nearest")
    return jnp.where(jnp.any(used), warped, x)


def gain(
    key: Array, x: Float[Array, "frame bin"], *, probability: Number, strength: Number
) -> Float[Array, "frame bin"]:
    """All of an example up or down by the same, up to `strength`."""
    use, draw = jax.random.split(key)
    louder = x + strength * _symmetric(draw, 1)[0]
    return jnp.where(jax.random.bernoulli(use, probability), louder, x)


def noise(
    key: Array, x: Float[Array, "frame bin"], *, probability: Number, strength: Number
) -> Float[Array, "frame bin"]:
    """Gaussian noise of standard deviation `strength` on every pixel."""
    use, draw = jax.random.split(key)
    noisy = x + strength * jax.random.normal(draw, x.shape, x.dtype)
    return jnp.where(jax.random.bernoulli(use, probability), noisy, x)


def mixup(
    key: Array,
    x: Float[Array, "batch frame bin"],
    n: Int[Array, ""],
    *,
    probability: Number,
    strength: Number,
) -> Float[Array, "batch frame bin"]:
    """Every example gets a share of another one, the same share in all of a batch.

    Parameters
    ----------
    n : examples of the batch that count, the first ones; their mean stays
    probability : that a batch is mixed
    strength : largest share of the other example, in [0, 1]
    """
    use, share_key, shift_key = jax.random.split(key, 3)
    used = jax.random.bernoulli(use, probability)
    share = jnp.where(used, strength * jax.random.uniform(share_key), 0)
    shift = jax.random.randint(shift_key, (), 1, jnp.maximum(n, 2))
    other = (jnp.arange(len(x)) + shift) % jnp.maximum(n, 1)
    return x + share * (x[other] - x)


def _symmetric(key: Array, n: int) -> Array:
    """Uniform numbers between -1 and 1."""
    return jax.random.uniform(key, (n,), minval=-1, maxval=1)
