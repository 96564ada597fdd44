"""Variational autoencoder of strided convolutions over the log-mel image."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int

from mimii_jax.models.convolution import Convolution
from mimii_jax.models.vae import VAE, require_widths


class ConvVAE(VAE):
    """Convolutions down to a latent Gaussian, mirrored up; ReLU after each.

    A strided convolution is one of stride 1 over blocks of pixels, whose pixels are
    channels; the decoder's convolutions give blocks that are laid out again. With
    `reach` 2 and stride 2 this is the convolution of kernel 4 and its transpose, and
    XLA's CPU backend, slow where a gradient needs a dilated input, is not asked for
    one. An image that is no multiple of the strides is filled with zeros, level by
    level, and what the decoder gives is cut to each level's size: any size will do.

    Parameters
    ----------
    shape : of one example, (frames, bins)
    channels : of each level, from the image to the latent space
    strides : of each level, along frames and bins
    reach : blocks that a filter sees along each axis; 1: blocks do not overlap
    step : frames whose mean error is one step of the error; 0: all of an example
    latent, kl_weight, dtype : as for `VAE`
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        channels: Sequence[int],
        strides: Sequence[tuple[int, int]],
        reach: int,
        step: int,
        latent: int,
        kl_weight: float,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        require_widths("channels", channels, latent)
        require_strides(strides, len(channels), reach)
        if step < 0:
            raise ValueError(f"detector.step={step}: must be 0 or more")
        self.step = step or shape[0]
        self.strides = tuple(map(tuple, strides))
        self.sizes = level_sizes((shape[0], shape[1]), self.strides)
        widths = list(zip(pairwise((1, *channels)), map(prod, strides), strict=True))
        before, after = (reach - 1) // 2, reach // 2
        self.encoder = nnx.List(
            Convolution(fine * n, coarse, reach, before, dtype, rngs)
            for (fine, coarse), n in widths
        )
        self.top = (*self.sizes[-1], channels[-1])
        super().__init__(prod(self.top), latent, kl_weight, dtype, rngs)
        self.from_latent = nnx.Linear(latent, prod(self.top), dtype=dtype, rngs=rngs)
        self.decoder = nnx.List(
            Convolution(coarse, fine * n, reach, after, dtype, rngs)
            for (fine, coarse), n in reversed(widths)
        )

    def encode(
        self, x: Float[Array, "batch frame bin"]
    ) -> tuple[Float[Array, "batch latent"], Float[Array, "batch latent"]]:
        """Mean and log variance of the posterior."""
        y = x[..., None]
        for layer, stride in zip(self.encoder, self.strides, strict=True):
            y = nnx.relu(layer(to_blocks(y, stride)))
        return self.posterior(y.reshape(len(y), -1))

    def decode(
        self, z: Float[Array, "batch latent"]
    ) -> Float[Array, "batch frame bin"]:
        """Mean of the decoder's Gaussian."""
        y = self.from_latent(z).reshape(len(z), *self.top)
        levels = zip(self.decoder, self.strides[::-1], self.sizes[-2::-1], strict=True)
        for layer, stride, size in levels:
            y = from_blocks(layer(nnx.relu(y)), stride, size)
        return y[..., 0].astype(jnp.float32)

    def error(
        self, x: Float[Array, "batch frame bin"]
    ) -> Float[Array, "batch step bin"]:
        """Squared error of the reconstruction, mean over the frames of each step."""
        starts = self._starts()
        squares = (x - self.predict(x)) ** 2
        parts = jnp.split(squares, starts[1:], axis=1)
        return jnp.stack([jnp.mean(part, axis=1) for part in parts], axis=1)

    def segment_centres(self) -> Float[np.ndarray, " step"]:
        """Middle of each step, in frames from the begin of an example."""
        ends = np.minimum(self._starts() + self.step, self.sizes[0][0])
        return (self._starts() + ends) / 2

    def _starts(self) -> Int[np.ndarray, " step"]:
        return np.arange(0, self.sizes[0][0], self.step)


def level_sizes(
    size: tuple[int, int], strides: Sequence[Sequence[int]]
) -> tuple[tuple[int, int], ...]:
    """Size of the image at each level, from the input to the top."""
    sizes = [size]
    for frames, bins in strides:
        size = (-(-size[0] // frames), -(-size[1] // bins))
        sizes.append(size)
    return tuple(sizes)


def to_blocks(
    image: Float[Array, "batch frame bin channel"], stride: Sequence[int]
) -> Float[Array, "batch row column channel2"]:
    """Blocks of pixels side by side, each a vector; zeros fill the last ones."""
    batch, frames, bins, channels = image.shape
    f, b = stride
    image = jnp.pad(image, ((0, 0), (0, -frames % f), (0, -bins % b), (0, 0)))
    rows, columns = image.shape[1] // f, image.shape[2] // b
    blocks = image.reshape(batch, rows, f, columns, b, channels)
    return blocks.swapaxes(2, 3).reshape(batch, rows, columns, f * b * channels)


def from_blocks(
    blocks: Float[Array, "batch row column channel2"],
    stride: Sequence[int],
    size: Sequence[int],
) -> Float[Array, "batch frame bin channel"]:
    """The image whose blocks these are, cut to its size."""
    batch, rows, columns, _ = blocks.shape
    f, b = stride
    image = blocks.reshape(batch, rows, columns, f, b, -1).swapaxes(2, 3)
    image = image.reshape(batch, rows * f, columns * b, -1)
    return image[:, : size[0], : size[1]]


def require_strides(
    strides: Sequence[Sequence[int]], n_levels: int, reach: int
) -> None:
    """Refuse strides that are no pairs of a level each."""
    pairs = all(len(pair) == 2 and min(pair) > 0 for pair in strides)
    if not pairs or len(strides) != n_levels or reach < 1:
        raise ValueError(
            f"detector.strides={tuple(strides)}, detector.reach={reach}: must be two "
            f"positive integers for each of the {n_levels} channels, and one positive"
        )
