"""Layers without biases: a residual network on spectrograms, convolutions on spectra.

Activations are normalised over each example's own groups of channels, since statistics
of a batch would mix runs, padding and clips scored together.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from mimii_jax.models.conv_vae import convolve, convolve_on_cpu, level_sizes, to_blocks

GROUP = 8  # channels that are normalised together
SQUEEZE = 16  # channels per unit of the squeezed layer


class Spectrogram(nnx.Module):
    """Residual network with squeeze-and-excitation; maximum over time."""

    def __init__(
        self,
        size: tuple[int, int],
        channels: Sequence[int],
        blocks: int,
        embedding: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        layer = {"dtype": dtype, "rngs": rngs}
        self.frames = size[0]
        self.stem = Convolution(1, channels[0], 2, 4, **layer)
        layers, strides = [], [(4, 4)]
        for i, (before, n) in enumerate(pairwise((channels[0], *channels))):
            for j in range(blocks):
                stride = 2 if i and not j else 1
                layers.append(Residual(n if j else before, n, stride, **layer))
                strides.append((stride, stride))
        self.blocks = nnx.List(layers)
        bins = level_sizes(size, strides)[-1][1]
        self.output = _linear(bins * channels[-1], embedding, **layer)

    def __call__(
        self, x: Float[Array, "batch frame mel"]
    ) -> Float[Array, "batch column"]:
        """Embedding of the spectrogram."""
        y = self.stem(x[..., None])
        for block in self.blocks:
            y = block(y)
        y = jnp.max(nnx.relu(group_norm(y)), axis=1)
        return self.output(y.reshape(len(y), -1))


class Residual(nnx.Module):
    """Two convolutions whose channels are weighted, added to their input."""

    def __init__(
        self, n_in: int, n_out: int, stride: int, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        layer = {"dtype": dtype, "rngs": rngs}
        self.first = Convolution(n_in, n_out, 3 if stride == 1 else 2, stride, **layer)
        self.second = Convolution(n_out, n_out, 3, 1, **layer)
        self.excite = Excite(n_out, **layer)
        same = n_in == n_out and stride == 1
        self.skip = None if same else Convolution(n_in, n_out, 1, stride, **layer)

    def __call__(self, x: Array) -> Array:
        """Apply the block."""
        y = self.first(nnx.relu(group_norm(x)))
        y = self.excite(self.second(nnx.relu(group_norm(y))))
        return y + (x if self.skip is None else self.skip(x))


class Excite(nnx.Module):
    """Weights of channels from their means (squeeze-and-excitation, Hu et al. 2018)."""

    def __init__(self, n: int, dtype: DTypeLike, rngs: nnx.Rngs) -> None:
        squeezed = max(n // SQUEEZE, 2)
        self.squeeze = _linear(n, squeezed, dtype, rngs)
        self.excite = _linear(squeezed, n, dtype, rngs)

    def __call__(self, x: Array) -> Array:
        """Weight the channels."""
        mean = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)), keepdims=True)
        return x * nnx.sigmoid(self.excite(nnx.relu(self.squeeze(mean))))


class Spectrum(nnx.Module):
    """Three strided convolutions over the spectrum, then two layers."""

    def __init__(
        self, n: int, channels: int, embedding: int, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        self.strides = (8, 8, 4)
        layer = {"dtype": dtype, "rngs": rngs}
        self.layers, self.weights = nnx.List([]), nnx.List([])
        before = 1
        for stride in self.strides:
            self.layers.append(_linear(2 * stride * before, channels, **layer))
            self.weights.append(Excite(channels, **layer))
            before, n = channels, -(-n // stride)
        self.hidden = _linear(n * channels, embedding, **layer)
        self.output = _linear(embedding, embedding, **layer)

    def __call__(self, x: Float[Array, "batch bin"]) -> Float[Array, "batch column"]:
        """Embedding of the spectrum."""
        y = x[..., None]
        layers = zip(self.strides, self.layers, self.weights, strict=True)
        for stride, layer, weight in layers:
            y = weight(nnx.relu(group_norm(layer(overlapping(y, stride)))))
        y = self.hidden(y.reshape(len(y), -1))
        return self.output(nnx.relu(group_norm(y)))


class Convolution(nnx.Module):
    """Convolution over `size` blocks of `stride` pixels along each axis, without bias.

    3 blocks of stride 1 are a kernel of 3; 2 of stride 2 one of 4, at every second
    pixel.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        size: int,
        stride: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        shape = (size, size, n_in * stride**2, n_out)
        self.kernel = nnx.Param(jnp.zeros(shape))
        self.stride, self.dtype = stride, dtype

    def __call__(
        self, x: Float[Array, "batch frame bin channel"]
    ) -> Float[Array, "batch row column filter"]:
        """Apply the convolution."""
        run = convolve_on_cpu if jax.default_backend() == "cpu" else convolve
        kernel = jnp.asarray(self.kernel[...], self.dtype)
        if self.stride > 1:
            x = to_blocks(x, (self.stride, self.stride))
        return run(x.astype(self.dtype), kernel, (len(kernel) - 1) // 2)


def _linear(n_in: int, n_out: int, dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.Linear:
    """A matrix of zeros, to be drawn."""
    zeros = nnx.initializers.zeros
    return nnx.Linear(
        n_in, n_out, use_bias=False, kernel_init=zeros, dtype=dtype, rngs=rngs
    )


def drawn(key: Array, params: Any) -> Any:
    """Draw kernels by He's uniform rule, all at once.

    XLA would take half a second of a core to compile a draw for each of 33 shapes.
    """
    zeros, tree = jax.tree.flatten(params)
    ends = np.cumsum([leaf.size for leaf in zeros])
    draw = jax.random.uniform(key, (int(ends[-1]),), minval=-1, maxval=1)
    kernels = [
        part.reshape(leaf.shape) * (6 / math.prod(leaf.shape[:-1])) ** 0.5
        for part, leaf in zip(jnp.split(draw, ends[:-1]), zeros, strict=True)
    ]
    return jax.tree.unflatten(tree, kernels)


def group_norm(x: Float[Array, "batch ... channel"]) -> Array:
    """Zero mean and unit variance of each example's groups of channels."""
    n_groups = max(x.shape[-1] // GROUP, 1)
    groups = x.astype(jnp.float32).reshape(
        len(x), -1, n_groups, x.shape[-1] // n_groups
    )
    mean = jnp.mean(groups, axis=(1, 3), keepdims=True)
    away = groups - mean
    variance = jnp.mean(away**2, axis=(1, 3), keepdims=True)
    normal = away * jax.lax.rsqrt(variance + 1e-5)
    return normal.reshape(x.shape).astype(x.dtype)


def overlapping(
    x: Float[Array, "batch bin channel"], stride: int
) -> Float[Array, "batch block pixels"]:
    """Neighbouring pairs of blocks of `stride` bins: a filter of twice the stride."""
    batch, n, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, -n % stride + stride), (0, 0)))
    blocks = x.reshape(batch, -1, stride * channels)
    return jnp.concatenate([blocks[:, :-1], blocks[:, 1:]], axis=-1)
