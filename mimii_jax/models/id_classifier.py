"""Classifier of machine IDs, whose embedding tells how far a clip is from normal ones.

Two branches, a residual network on the log-mel spectrogram and 1-D convolutions over
the spectrum of the whole clip, give one unit embedding (Wilkinghoff 2023). Nothing
before it has a bias or a trainable shift and scale: with them the network could give
all clips the same embedding.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int

from mimii_jax.errors import require, require_positive
from mimii_jax.models.angular import Angular, unit
from mimii_jax.models.model import Examples, RunVariable
from mimii_jax.models.residual import GROUP, Spectrogram, Spectrum, drawn

FEW = 6  # classes; with fewer, transforms are further ones
TRANSFORMS = ("none", "reversed", "low", "high", "higher", "lower")
BAND_LIMIT = 3.0  # SD of a bin, at the band's end
Count = Int[Array, ""] | int
Labels = Int[Array, " batch"]


class IDClassifier(nnx.Module):
    """Unit embedding of a clip, trained to tell machine IDs apart.

    With fewer than six IDs, transforms of the log-mel spectrogram make further classes:
    each ID reversed in time, with its upper or lower half fading out, and moved up or
    down in frequency. Half of the examples stay as they are. The clip's spectrum isn't
    transformed: it is the same for the reversed clip. A run knows the classes of its
    own clips; the others are left out of its softmax and its scale.
    """

    def __init__(
        self,
        shape: Sequence[int],  # frames, bins
        *,
        channels: Sequence[int],  # of each stage of the residual network
        blocks: int,  # residual blocks in a stage
        spectrum_bins: int,  # bins of a frame that hold the clip's spectrum; 0: none
        spectrum_channels: int,
        embedding: int,  # size of each branch's part
        loss: str,
        centres: int,  # of a class; of adaproj, the dimension of its subspace
        scale: float | None,
        margin: float,
        mixup: float,  # probability that an example is mixed with another
        transforms: bool | None,  # whether they are classes; None: if IDs are few
        n_classes: int = 1,  # machine IDs
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        require(
            len(channels) > 0 and all(n > 0 and n % GROUP == 0 for n in channels),
            f"detector.channels={tuple(channels)}: must be multiples of {GROUP}",
        )
        require_positive(
            "detector", blocks=blocks, embedding=embedding, centres=centres
        )
        require(0 <= mixup <= 1, f"detector.mixup={mixup}: must be from 0 to 1")
        frames, bins = shape
        self.mels, self.mixup = bins - spectrum_bins, mixup
        require(
            self.mels > 0,
            f"detector.spectrum_bins={spectrum_bins}: a frame has {bins} bins in all",
        )
        layer = {"dtype": dtype, "rngs": rngs}
        size = (frames, self.mels)
        branches: list[Any] = [Spectrogram(size, channels, blocks, embedding, **layer)]
        if spectrum_bins:
            n = frames * spectrum_bins
            branches.append(Spectrum(n, spectrum_channels, embedding, **layer))
        self.branches = nnx.List(branches)
        few = n_classes < FEW if transforms is None else transforms
        self.n_classes, self.n_transforms = n_classes, len(TRANSFORMS) if few else 1
        self.angular = Angular(loss, scale, margin)
        n = (n_classes * self.n_transforms, centres, len(branches) * embedding)
        self.centres = nnx.Param(jnp.zeros(n))
        # 1 for an ID that the run's clips have, else 0
        self.present = RunVariable(jnp.ones(n_classes))
        nnx.update(self, drawn(rngs.params(), nnx.state(self, nnx.Param)))

    def loss(
        self, x: Examples, key: Array, label: Labels, n: Count
    ) -> Float[Array, " batch"]:
        """Training loss of each example; rows from n on are padding."""
        transform_key, mix_key = jax.random.split(key)
        n_classes = self.n_classes * self.n_transforms
        if self.n_transforms > 1:
            kind = draw_transforms(transform_key, len(x))
            x = jnp.concatenate(
                [transform(x[..., : self.mels], kind), x[..., self.mels :]], axis=-1
            )
            label = label * self.n_transforms + kind
        target = jax.nn.one_hot(label, n_classes)
        x, target = mix(mix_key, self.mixup, x, target, n)
        embedding = self.embed(x)
        centres, present = self.centres[...], self._present()
        return self.angular.loss(embedding, centres, present, target, n)

    def embed(self, x: Examples) -> Float[Array, "batch dimension"]:
        """Unit embedding, in which the branches have equal weight."""
        parts = [self.branches[0](x[..., : self.mels])]
        if len(self.branches) > 1:
            spectrum = x[..., self.mels :].reshape(len(x), -1)
            parts.append(self.branches[1](spectrum))
        parts = [unit(part.astype(jnp.float32)) for part in parts]
        return jnp.concatenate(parts, axis=1) / len(parts) ** 0.5

    def embedding(self, x: Examples) -> Float[Array, "batch 1 dimension"]:
        """Unit embedding of each example, as of one segment."""
        return self.embed(x)[:, None]

    def nll(self, x: Examples) -> Float[Array, "batch 1 class"]:
        """Negative log probability of each ID, as it is; large for an unknown one."""
        centres, present = self.centres[...], self._present()
        log_p = self.angular.log_p(self.embed(x), centres, present)
        return -log_p[:, None, :: self.n_transforms]

    def segment_centres(self) -> Float[np.ndarray, " segment"]:
        """Middle of the example, in frames."""
        return np.array([self.branches[0].frames / 2])

    def _present(self) -> Float[Array, " class"]:
        return jnp.repeat(self.present[...], self.n_transforms)


def draw_transforms(key: Array, n: int) -> Int[Array, " batch"]:
    """Number of a transform for each example; none for half of them."""
    use, draw = jax.random.split(key)
    kind = jax.random.randint(draw, (n,), 1, len(TRANSFORMS))
    return jnp.where(jax.random.bernoulli(use, 0.5, (n,)), kind, 0)


def transform(x: Examples, kind: Int[Array, " batch"]) -> Examples:
    """Apply a transform of `TRANSFORMS` to each example."""
    n_frames, n_bins = x.shape[1:]
    frame, bin = np.arange(n_frames), np.arange(n_bins)
    step = max(n_bins // 32, 1)
    moved = {"higher": bin - step, "lower": bin + step}
    frames = [frame[::-1] if name == "reversed" else frame for name in TRANSFORMS]
    bins = [np.clip(moved.get(name, bin), 0, n_bins - 1) for name in TRANSFORMS]
    ramp = BAND_LIMIT * np.clip(2 * (bin + 1) / n_bins - 1, 0, 1)
    limits = {"low": ramp, "high": ramp[::-1]}
    faded = [limits.get(name, 0 * ramp) for name in TRANSFORMS]
    x = jnp.take_along_axis(x, jnp.array(frames)[kind][:, :, None], axis=1)
    x = jnp.take_along_axis(x, jnp.array(bins)[kind][:, None], axis=2)
    return x - jnp.array(faded, x.dtype)[kind][:, None]


def mix(
    key: Array,
    probability: float,
    x: Examples,
    target: Float[Array, "batch class"],
    n: Count,
) -> tuple[Examples, Float[Array, "batch class"]]:
    """Mix examples and their labels with those of others (mixup, Zhang et al. 2018).

    Each example is mixed with this probability, at a uniform share. Rows from n on are
    padding, and no partners.
    """
    use_key, share_key, shift_key = jax.random.split(key, 3)
    used = jax.random.bernoulli(use_key, probability, (len(x),))
    share = jnp.where(used, jax.random.uniform(share_key, (len(x),)), 0)
    shift = jax.random.randint(shift_key, (), 1, jnp.maximum(n, 2))
    other = (jnp.arange(len(x)) + shift) % jnp.maximum(n, 1)
    x = x + share[:, None, None] * (x[other] - x)
    return x, target + share[:, None] * (target[other] - target)
