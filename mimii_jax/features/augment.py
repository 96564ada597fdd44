"""Augmentation of training examples, drawn anew in every step of the training.

Augmentations act on what the model sees: `gain.strength` and `noise.strength` are in
standard deviations of a bin where features are standardised, else in dB. Widths are in
frames and bins. A probability or a strength of 0 changes no bit. Floats may differ
between runs without another compilation; counts and `fill` are compiled in.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Bool, Float, Int

from mimii_jax.errors import require

Number = Float[Array, ""] | float | int
Count = Int[Array, ""] | int
Image = Float[Array, "frame bin"]
Batch = Float[Array, "batch frame bin"]
MEAN, ZERO = FILLS = ("mean", "zero")
LARGEST = 1e6  # so that nothing overflows


@dataclass(frozen=True)
class Augmentation:
    """An augmentation of one example; a config overrides the fields' defaults."""

    def __call__(self, key: Array, x: Image) -> Image:
        """Augment one example."""
        raise NotImplementedError

    def batch(self, key: Array, x: Batch, n: Count) -> Batch:
        """Augment a batch; rows from n on are padding."""
        del n  # each example has its own draw
        return jax.vmap(self)(jax.random.split(key, len(x)), x)

    def numbers(self) -> list[str]:
        """Fields in which runs may differ."""
        return [f.name for f in fields(self) if isinstance(f.default, float)]

    def __post_init__(self) -> None:
        names = {kind: name for name, kind in AUGMENTATIONS.items()}
        section = names[type(self)]
        for field, value in vars(self).items():
            if isinstance(value, str):
                valid, limit = value in FILLS, f"one of {', '.join(FILLS)}"
            elif isinstance(value, Array):  # traced, and checked before
                continue
            elif field.endswith("probability") or section == "mixup":
                valid, limit = 0 <= value <= 1, "from 0 to 1"
            else:
                valid, limit = 0 <= value <= LARGEST, f"from 0 to {LARGEST:g}"
            require(valid, f"augment.{section}.{field}={value}: must be {limit}")


@dataclass(frozen=True)
class SpecAugment(Augmentation):
    """Blank bands of frames and of bins (Park et al. 2019)."""

    probability: Number = 1.0  # of an example
    time_width: Number = 8.0  # largest width; each mask has any width up to it
    frequency_width: Number = 16.0
    time_masks: int = 2
    frequency_masks: int = 2
    fill: str = MEAN  # of the example; or "zero"

    def __call__(self, key: Array, x: Image) -> Image:
        """Augment one example."""
        use, time_key, frequency_key = jax.random.split(key, 3)
        frames = bands(time_key, x.shape[0], self.time_width, self.time_masks)
        width, n = self.frequency_width, self.frequency_masks
        bins = bands(frequency_key, x.shape[1], width, n)
        used = jax.random.bernoulli(use, self.probability)
        masked = (frames[:, None] | bins[None]) & used
        fill = jnp.mean(x) if self.fill == MEAN else jnp.zeros((), x.dtype)
        return jnp.where(masked, fill, x)


@dataclass(frozen=True)
class Cutout(Augmentation):
    """Cut rectangles out and fill them from the pixels around them, one by one."""

    probability: Number = 1.0  # of an example
    time_width: Number = 8.0  # largest size
    frequency_width: Number = 16.0
    holes: int = 4

    def __call__(self, key: Array, x: Image) -> Image:
        """Augment one example."""
        use, time_key, frequency_key = jax.random.split(key, 3)
        n_frames, n_bins = x.shape
        # A hole as large as the image would have nothing around it.
        width = jnp.minimum(self.time_width, n_frames - 1)
        height = jnp.minimum(self.frequency_width, n_bins - 1)
        frames = jnp.stack(extents(time_key, n_frames, width, self.holes), axis=1)
        bins = jnp.stack(extents(frequency_key, n_bins, height, self.holes), axis=1)
        filled = x
        for hole in range(self.holes):
            filled = fill_hole(filled, *frames[hole], *bins[hole])
        return jnp.where(jax.random.bernoulli(use, self.probability), filled, x)


@dataclass(frozen=True)
class Warp(Augmentation):
    """Move, scale and rotate the image about its middle, in one linear interpolation.

    The image continues beyond its border with the border's values.
    """

    move_probability: Number = 0.5
    move_time: Number = 8.0  # largest, in frames
    move_frequency: Number = 2.0  # largest, in bins
    scale_probability: Number = 0.5
    scale: Number = 0.05  # up to a factor of 1 + scale, larger or smaller
    rotate_probability: Number = 0.5
    rotate: Number = 2.0  # largest, in degrees, if a bin is as long as a frame

    def __call__(self, key: Array, x: Image) -> Image:
        """Augment one example."""
        move_key, scale_key, rotate_key, use = jax.random.split(key, 4)
        probability = jnp.stack(
            [self.move_probability, self.scale_probability, self.rotate_probability]
        )
        used = jax.random.uniform(use, (3,)) < probability
        moved, scaled, rotated = used.astype(x.dtype)
        most = jnp.stack([self.move_time, self.move_frequency])
        move = moved * most * _symmetric(move_key, 2)
        factor = jnp.exp(scaled * jnp.log1p(self.scale) * _symmetric(scale_key, 1)[0])
        angle = jnp.deg2rad(rotated * self.rotate * _symmetric(rotate_key, 1)[0])
        cosine, sine = jnp.cos(angle) / factor, jnp.sin(angle) / factor
        middle = (jnp.array(x.shape) - 1) / 2
        frame = jnp.arange(x.shape[0])[:, None] - middle[0] - move[0]
        bin = jnp.arange(x.shape[1])[None] - middle[1] - move[1]
        from_frame = middle[0] + cosine * frame - sine * bin
        from_bin = middle[1] + sine * frame + cosine * bin
        warped = map_coordinates(x, [from_frame, from_bin], order=1, mode="nearest")
        return jnp.where(jnp.any(used), warped, x)


@dataclass(frozen=True)
class Gain(Augmentation):
    """Shift a whole example up or down, by up to `strength`."""

    probability: Number = 1.0
    strength: Number = 0.5

    def __call__(self, key: Array, x: Image) -> Image:
        """Augment one example."""
        use, draw = jax.random.split(key)
        louder = x + self.strength * _symmetric(draw, 1)[0]
        return jnp.where(jax.random.bernoulli(use, self.probability), louder, x)


@dataclass(frozen=True)
class Noise(Augmentation):
    """Add Gaussian noise of standard deviation `strength` to every pixel."""

    probability: Number = 1.0
    strength: Number = 0.1

    def __call__(self, key: Array, x: Image) -> Image:
        """Augment one example."""
        use, draw = jax.random.split(key)
        noisy = x + self.strength * jax.random.normal(draw, x.shape, x.dtype)
        return jnp.where(jax.random.bernoulli(use, self.probability), noisy, x)


@dataclass(frozen=True)
class Mixup(Augmentation):
    """Mix every example with another one, at one share for the whole batch."""

    probability: Number = 1.0  # of a batch
    strength: Number = 0.5  # largest share of the other example, up to 1

    def batch(self, key: Array, x: Batch, n: Count) -> Batch:
        """Augment a batch; the mean of its first n rows stays."""
        use, share_key, shift_key = jax.random.split(key, 3)
        used = jax.random.bernoulli(use, self.probability)
        share = jnp.where(used, self.strength * jax.random.uniform(share_key), 0)
        shift = jax.random.randint(shift_key, (), 1, jnp.maximum(n, 2))
        other = (jnp.arange(len(x)) + shift) % jnp.maximum(n, 1)
        return x + share * (x[other] - x)


AUGMENTATIONS: dict[str, type[Augmentation]] = {
    "spec_augment": SpecAugment,
    "cutout": Cutout,
    "warp": Warp,
    "gain": Gain,
    "noise": Noise,
    "mixup": Mixup,
}


@dataclass(frozen=True)
class Augment:
    """Named augmentations, applied in their order."""

    parts: tuple[tuple[str, Augmentation], ...]

    @property
    def values(self) -> dict[str, Any]:
        """Numbers in which runs may differ, such as "spec_augment.time_width"."""
        return {
            f"{name}.{field}": getattr(part, field)
            for name, part in self.parts
            for field in part.numbers()
        }

    def changed(self, changes: Mapping[str, Any]) -> "Augment":
        """Copy with those of the changes that are in `values`."""
        parts = []
        for name, part in self.parts:
            full = {field: f"{name}.{field}" for field in part.numbers()}
            own = {k: changes[v] for k, v in full.items() if v in changes}
            parts.append((name, replace(part, **own)))
        return Augment(tuple(parts))

    def __call__(
        self, values: Mapping[str, Number], key: Array, x: Batch, n: Count
    ) -> Batch:
        """Augment a batch with these numbers; rows from n on are padding."""
        for i, (_, part) in enumerate(self.changed(values).parts):
            x = part.batch(jax.random.fold_in(key, i), x, n)
        return x


def build_augment(section: Mapping[str, Any]) -> Augment | None:
    """Build what a config's `augment` section names; None if it names nothing."""
    for name in (*section["names"], *(set(section) - {"names"})):
        require(
            name in AUGMENTATIONS,
            f"augment.{name}: unknown; choose from {', '.join(AUGMENTATIONS)}",
        )
    parts = [(name, _build(name, section.get(name, {}))) for name in section["names"]]
    return Augment(tuple(parts)) if parts else None


def _build(name: str, values: Mapping[str, Any]) -> Augmentation:
    defaults = {f.name: f.default for f in fields(AUGMENTATIONS[name])}
    own: dict[str, Any] = {}
    for field, value in values.items():
        full, expected = f"augment.{name}.{field}", ", ".join(defaults)
        require(field in defaults, f"{full}: unknown; expected {expected}")
        kind = type(defaults[field])
        valid = isinstance(value, (int, kind))
        require(valid, f"{full}={value!r}: must be of type {kind.__name__}")
        own[field] = kind(value)
    return AUGMENTATIONS[name](**own)


def bands(key: Array, size: int, width: Number, n: int) -> Bool[Array, " size"]:
    """Whether each of `size` places lies in any of n bands."""
    start, end = extents(key, size, width, n)
    place = jnp.arange(size)[:, None]
    return jnp.any((place >= start[None]) & (place < end[None]), axis=1)


def extents(
    key: Array, size: int, width: Number, n: int
) -> tuple[Int[Array, " n"], Int[Array, " n"]]:
    """Start and end of n bands within `size` places, each from 0 to `width` wide."""
    of_width, of_start = jax.random.uniform(key, (2, n))
    most = jnp.clip(jnp.floor(jnp.asarray(width)), 0, size)
    # A float32 product of a number below 1 may be rounded up to the bound.
    wide = jnp.minimum(jnp.floor(of_width * (most + 1)), most)
    start = jnp.minimum(jnp.floor(of_start * (size - wide + 1)), size - wide)
    return start.astype(int), (start + wide).astype(int)


def fill_hole(x: Image, first: Count, end: Count, low: Count, high: Count) -> Image:
    """Fill frames first to end and bins low to high from the pixels around them.

    A pixel becomes the mean of the four at the hole's edge in its row and column,
    weighted by inverse distance.
    """
    n_frames, n_bins = x.shape
    frame, bin = jnp.arange(n_frames), jnp.arange(n_bins)

    def weight(distance: Array, exists: Any) -> Array:
        return exists / jnp.maximum(distance, 1).astype(x.dtype)

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


def _symmetric(key: Array, n: int) -> Array:
    """Uniform numbers between -1 and 1."""
    return jax.random.uniform(key, (n,), minval=-1, maxval=1)
