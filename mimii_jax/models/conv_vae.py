"""Variational autoencoder of strided convolutions over the log-mel image."""

from collections.abc import Sequence
from itertools import pairwise, product
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, DTypeLike, Float

from mimii_jax.errors import require, require_positive
from mimii_jax.models.likelihood import SQUARED, n_heads
from mimii_jax.models.mlp import VAE, Heads, Latent, require_widths
from mimii_jax.models.model import Examples, Segments

Image = Float[Array, "batch frame bin channel"]
Filtered = Float[Array, "batch frame bin filter"]
Blocks = Float[Array, "batch row column pixels"]
Kernel = Float[Array, "size size channel filter"]


class ConvVAE(VAE):
    """Convolutions down to a latent Gaussian, mirrored up; ReLU after each.

    A strided convolution is one of stride 1 over blocks of pixels, whose pixels are
    channels; the decoder's convolutions give blocks that are laid out as pixels again.
    With `kernel_blocks` 2 and stride 2 this is the convolution of kernel 4 and its
    transpose, without the dilated input of its gradient, for which XLA's CPU backend is
    slow. An image of any size will do: it is padded with zeros to a multiple of the
    strides, level by level, and the decoder's output is cut to each level's size.
    """

    def __init__(
        self,
        shape: Sequence[int],  # frames, bins
        *,
        channels: Sequence[int],  # of each level, from the image to the latent space
        strides: Sequence[Sequence[int]],  # of each level, along frames and bins
        kernel_blocks: int,  # blocks that a filter covers along an axis; 1: no overlap
        segment: int | None,  # frames that are judged at once; None: the whole example
        latent: int,
        kl_weight: float,
        likelihood: str = SQUARED,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        require_widths("channels", channels, latent)
        pairs = all(len(pair) == 2 and min(pair) > 0 for pair in strides)
        require(
            pairs and len(strides) == len(channels),
            f"detector.strides={tuple(strides)}: must be two positive integers for "
            f"each of the {len(channels)} channels",
        )
        require_positive("detector", kernel_blocks=kernel_blocks, segment=segment)
        self.segment = shape[0] if segment is None else segment
        self.strides = tuple(map(tuple, strides))
        self.sizes = level_sizes((shape[0], shape[1]), self.strides)
        widths = list(zip(pairwise((1, *channels)), map(prod, strides), strict=True))
        before, after = (kernel_blocks - 1) // 2, kernel_blocks // 2
        layer: Any = {"dtype": dtype, "rngs": rngs}
        self.encoder = nnx.List(
            Convolution(fine * n, coarse, kernel_blocks, before, **layer)
            for (fine, coarse), n in widths
        )
        self.top = (*self.sizes[-1], channels[-1])
        super().__init__(
            shape[0], prod(self.top), latent, kl_weight, likelihood, **layer
        )
        self.from_latent = nnx.Linear(latent, prod(self.top), **layer)
        first = (n_heads(likelihood), channels[0]), prod(strides[0])
        self.decoder = nnx.List(
            Convolution(coarse, fine * n, kernel_blocks, after, **layer)
            for (fine, coarse), n in reversed([first, *widths[1:]])
        )

    def encode(self, x: Examples) -> tuple[Latent, Latent]:
        """Mean and log variance of the posterior."""
        y = x[..., None]
        for layer, stride in zip(self.encoder, self.strides, strict=True):
            y = nnx.relu(layer(to_blocks(y, stride)))
        return self.posterior(y.reshape(len(y), -1))

    def decode(self, z: Latent) -> Heads:
        """Mean of the decoder's Gaussian, and its log variance if that is learned."""
        y = self.from_latent(z).reshape(len(z), *self.top)
        levels = zip(self.decoder, self.strides[::-1], self.sizes[-2::-1], strict=True)
        for layer, stride, size in levels:
            y = from_blocks(layer(nnx.relu(y)), stride, size)
        return jnp.moveaxis(y, -1, 1).astype(jnp.float32)

    def by_segment(self, x: Examples) -> Segments:
        """Mean over the frames of each segment."""
        starts = range(self.segment, self.n_frames, self.segment)
        parts = jnp.split(x, np.array(starts, int), axis=1)
        return jnp.stack([jnp.mean(part, axis=1) for part in parts], axis=1)

    def segment_centres(self) -> Float[np.ndarray, " segment"]:
        """Middle of each segment, in frames from the example's start."""
        starts = np.arange(0, self.n_frames, self.segment)
        return (starts + np.minimum(starts + self.segment, self.n_frames)) / 2


class Convolution(nnx.Module):
    """Convolution of stride 1 that keeps the size of the image, padded with zeros.

    Of the `size` pixels that a filter covers along each axis, `before` come before the
    pixel that it gives.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        size: int,
        before: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        shape = (size, size, n_in, n_out)
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(n_out))
        self.before, self.dtype = before, dtype

    def __call__(self, x: Image) -> Filtered:
        """Apply the convolution."""
        run = convolve_on_cpu if jax.default_backend() == "cpu" else convolve
        kernel, bias = self.kernel[...], self.bias[...].reshape(1, 1, 1, -1)
        x, kernel, bias = (jnp.asarray(a, self.dtype) for a in (x, kernel, bias))
        return run(x, kernel, self.before) + bias


def convolve(x: Image, kernel: Kernel, before: int) -> Filtered:
    """Convolution of the same size, with `before` rows and columns of zeros first."""
    padding = [(before, len(kernel) - 1 - before)] * 2
    layout = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=layout
    )


def convolve_on_cpu(x: Image, kernel: Kernel, before: int) -> Filtered:
    """`convolve` as one matrix product.

    XLA's CPU backend doesn't find its fast convolution for gradients inside a loop,
    such as that of the training steps: measured 30 times slower than this.
    """
    size, _, n_in, n_out = kernel.shape
    if n_out < n_in:
        return _sum_of_shifted(x, kernel, before)
    frames, bins = x.shape[1:3]
    around = (before, size - 1 - before)
    x = jnp.pad(x, ((0, 0), around, around, (0, 0)))
    pixels = product(range(size), repeat=2)
    patches = [x[:, i : i + frames, j : j + bins] for i, j in pixels]
    return matmul(jnp.concatenate(patches, axis=-1), kernel.reshape(-1, n_out))


def _sum_of_shifted(x: Array, kernel: Array, before: int) -> Array:
    """Scatter in place of gather, which moves less memory where n_out < n_in.

    Without it a training step of the default and the reference takes 14 to 22 % longer.
    """
    size, _, n_in, n_out = kernel.shape
    y = matmul(x, jnp.moveaxis(kernel, 2, 0).reshape(n_in, -1))
    total = jnp.zeros((*x.shape[:3], n_out), x.dtype)
    after, (_, frames, bins, _) = size - 1 - before, x.shape
    around = ((0, 0), (before, after), (before, after), (0, 0))
    parts = jnp.split(jnp.pad(y, around), size**2, axis=-1)
    for part, (i, j) in zip(parts, product(range(size), repeat=2), strict=True):
        total += part[:, i : i + frames, j : j + bins]
    return total


def matmul(x: Array, matrix: Array) -> Array:
    """Product over the last axis, of flat matrices: with more axes it is slow."""
    return jnp.dot(x.reshape(-1, x.shape[-1]), matrix).reshape(*x.shape[:-1], -1)


def level_sizes(
    size: tuple[int, int], strides: Sequence[Sequence[int]]
) -> tuple[tuple[int, int], ...]:
    """Size of the image at each level, from the input to the top."""
    sizes = [size]
    for frames, bins in strides:
        sizes.append((-(-sizes[-1][0] // frames), -(-sizes[-1][1] // bins)))
    return tuple(sizes)


def to_blocks(image: Image, stride: Sequence[int]) -> Blocks:
    """Blocks of pixels side by side, each a vector; zeros fill the last ones."""
    batch, frames, bins, channels = image.shape
    f, b = stride
    image = jnp.pad(image, ((0, 0), (0, -frames % f), (0, -bins % b), (0, 0)))
    rows, columns = image.shape[1] // f, image.shape[2] // b
    blocks = image.reshape(batch, rows, f, columns, b, channels)
    return blocks.swapaxes(2, 3).reshape(batch, rows, columns, f * b * channels)


def from_blocks(blocks: Blocks, stride: Sequence[int], size: Sequence[int]) -> Image:
    """Image of these blocks, cut to its size."""
    batch, rows, columns, _ = blocks.shape
    f, b = stride
    image = blocks.reshape(batch, rows, columns, f, b, -1).swapaxes(2, 3)
    image = image.reshape(batch, rows * f, columns * b, -1)
    return image[:, : size[0], : size[1]]
