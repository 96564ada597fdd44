"""STgram-MFN: machine IDs told apart by the log-mel spectrogram and a learned one.

After Liu et al., *Anomalous sound detection using spectral-temporal information
fusion*, 2022: convolutions over the waveform (Tgram) are a second channel of the image
that a MobileFaceNet embeds; its loss is ArcFace. Layers and parameters are published
ones, but for batch norm: here each example is normalised over its own pixels and
channels, with the same trained scale and shift per channel. Statistics of a batch would
mix runs, padding, and clips that are scored together.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float, Int

from mimii_jax.errors import require, require_positive
from mimii_jax.models.angular import ARCFACE, Angular, unit
from mimii_jax.models.conv_vae import level_sizes, matmul
from mimii_jax.models.model import Examples, RunVariable
from mimii_jax.models.residual import drawn

Image = Float[Array, "batch frame mel channel"]
Smaller = Float[Array, "batch row column filter"]
Wave = Float[Array, "batch frame sample"]
Gram = Float[Array, "batch frame mel"]
EPSILON = 1e-5  # of a variance


class STgramMFN(nnx.Module):
    """Unit embedding of a clip, trained to tell machine IDs apart.

    A run knows the classes of its own clips; the others are left out of its softmax.
    """

    n_transforms = 1  # classes of an ID

    def __init__(
        self,
        shape: Sequence[int],  # frames, bins
        *,
        channels: int,  # of the first two layers
        # expansion, channels, blocks, stride of the first block: of each stage
        bottlenecks: Sequence[Sequence[int]],
        top: int,  # channels that are weighted over the whole image
        embedding: int,
        wave_samples: int,  # bins of a frame that hold the waveform; 0: no Tgram
        scale: float,
        margin: float,
        n_classes: int = 1,  # machine IDs
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        require(
            all(len(row) == 4 and min(row) > 0 for row in bottlenecks),
            f"detector.bottlenecks={tuple(bottlenecks)}: must be four positive "
            "integers each: expansion, channels, blocks, stride",
        )
        require_positive("detector", channels=channels, top=top, embedding=embedding)
        self.frames, self.mels = shape[0], shape[1] - wave_samples
        require(
            self.mels > 0,
            f"detector.wave_samples={wave_samples}: a frame has {shape[1]} bins in all",
        )
        size = (self.frames, self.mels)
        self.tgram = Tgram(size, wave_samples, dtype) if wave_samples else None
        n_images = 2 if self.tgram else 1
        layers: list[Any] = [
            Convolution((3, 3, n_images, channels), stride=2, dtype=dtype),
            Depthwise((3, 3, channels), dtype=dtype),
        ]
        before, strides = channels, [(2, 2)]
        for expansion, n, blocks, stride in bottlenecks:
            for i in range(blocks):
                s = 1 if i else stride
                layers.append(Bottleneck(before, n, s, expansion, dtype))
                before = n
                strides.append((s, s))
        layers += [
            Pointwise((before, top), dtype=dtype),
            Whole((*level_sizes(size, strides)[-1], top), linear=True, dtype=dtype),
            Pointwise((top, embedding), linear=True, dtype=dtype),
        ]
        self.layers, self.n_classes = nnx.List(layers), n_classes
        self.angular = Angular(ARCFACE, scale, margin)
        kernels = nnx.state(self, nnx.PathContains("kernel"))
        nnx.update(self, drawn(rngs.params(), kernels))
        draw = nnx.initializers.glorot_uniform()
        self.centres = nnx.Param(draw(rngs.params(), (n_classes, embedding)))
        # 1 for an ID that the run's clips have, else 0
        self.present = RunVariable(jnp.ones(n_classes))

    def loss(
        self, x: Examples, key: Array, label: Int[Array, " batch"], n: Array | int
    ) -> Float[Array, " batch"]:
        """ArcFace loss of each example; rows from n on are padding."""
        del key
        return self._loss(self.embed(x), jax.nn.one_hot(label, self.n_classes), n)

    def embed(self, x: Examples) -> Float[Array, "batch dimension"]:
        """Unit embedding."""
        images = [x[..., : self.mels]]
        if self.tgram:
            images.append(self.tgram(x[..., self.mels :]).astype(x.dtype))
        y = jnp.stack(images, axis=-1)
        for layer in self.layers:
            y = layer(y)
        return unit(y.astype(jnp.float32))

    def embedding(self, x: Examples) -> Float[Array, "batch 1 dimension"]:
        """Unit embedding of each example, as of one segment."""
        return self.embed(x)[:, None]

    def nll(self, x: Examples) -> Float[Array, "batch 1 class"]:
        """Negative log probability of each ID, without the margin."""
        centres = self.centres[...][:, None]
        return -self.angular.log_p(self.embed(x), centres, self.present[...])[:, None]

    def margin_nll(self, x: Examples) -> Float[Array, "batch 1 class"]:
        """Negative log probability of each ID, with the margin as if it were the own.

        The published score is that of the ID that the clip is said to have.
        """
        embedding = self.embed(x)

        def of_class(own: Float[Array, " class"]) -> Float[Array, " batch"]:
            return self._loss(embedding, jnp.tile(own, (len(x), 1)), len(x))

        return jax.vmap(of_class, out_axes=1)(jnp.eye(self.n_classes))[:, None]

    def segment_centres(self) -> Float[np.ndarray, " segment"]:
        """Middle of the example, in frames."""
        return np.array([self.frames / 2])

    def _loss(
        self,
        embedding: Float[Array, "batch dimension"],
        target: Float[Array, "batch class"],
        n: Array | int,
    ) -> Float[Array, " batch"]:
        centres = self.centres[...][:, None]
        return self.angular.loss(embedding, centres, self.present[...], target, n)


class Tgram(nnx.Module):
    """Filters of two hops along the waveform, then three convolutions over frames."""

    def __init__(self, size: tuple[int, int], samples: int, dtype: DTypeLike) -> None:
        frames, mels = size
        self.filters = Kernel((2 * samples, mels), dtype)
        self.layers = nnx.List(Kernel((3 * mels, mels), dtype) for _ in range(3))
        self.scales = nnx.List(nnx.Param(jnp.ones(frames)) for _ in range(3))
        self.shifts = nnx.List(nnx.Param(jnp.zeros(frames)) for _ in range(3))

    def __call__(self, wave: Wave) -> Gram:
        """A gram of as many filters as mels; frame t is centred on its first sample."""
        y = self.filters(_with_shifted(wave, (1, 0)))
        for layer, scale, shift in zip(
            self.layers, self.scales, self.shifts, strict=True
        ):
            y = _normal(y, (1,)) * scale[...][None, :, None]
            y = nnx.leaky_relu(y + shift[...][None, :, None], 0.2)
            y = layer(_with_shifted(y, (1, 0, -1)))
        return y


class Kernel(nnx.Module):
    """A matrix product over the last axis, without bias."""

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        self.kernel = nnx.Param(jnp.zeros(shape))
        self.dtype = dtype

    def __call__(self, x: Array) -> Array:
        """Apply it."""
        return matmul(x.astype(self.dtype), self.kernel[...].astype(self.dtype))


class Layer(nnx.Module):
    """Filters, then the norm with a scale and shift per channel, and PReLU."""

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        dtype: DTypeLike,
        stride: int = 1,
        linear: bool = False,  # without PReLU
    ) -> None:
        n = shape[-1]
        self.kernel = nnx.Param(jnp.zeros(shape))
        self.scale, self.shift = nnx.Param(jnp.ones(n)), nnx.Param(jnp.zeros(n))
        self.slope = None if linear else nnx.Param(jnp.full(n, 0.25))
        self.stride, self.dtype = stride, dtype

    def __call__(self, x: Array) -> Array:
        """Apply the layer."""
        y = self.filter(x.astype(self.dtype), self.kernel[...].astype(self.dtype))
        shape = (1,) * (y.ndim - 1) + (-1,)
        scale, shift = self.scale[...].reshape(shape), self.shift[...].reshape(shape)
        y = _normal(y, tuple(range(1, y.ndim))) * scale + shift
        if self.slope is not None:
            y = jnp.where(y > 0, y, y * self.slope[...].reshape(shape))
        return y.astype(self.dtype)

    def filter(self, x: Array, kernel: Array) -> Array:
        """The linear part."""
        raise NotImplementedError


class Pointwise(Layer):
    """Filters of single pixels."""

    def filter(self, x: Array, kernel: Array) -> Array:
        """Matrix product over channels."""
        return matmul(x, kernel)


class Convolution(Layer):
    """Filters of three by three pixels of all channels."""

    def filter(self, x: Array, kernel: Array) -> Array:
        """Matrix product over the channels of nine pixels."""
        pixels = jnp.concatenate(_neighbours(x, self.stride), axis=-1)
        return matmul(pixels, kernel.reshape(-1, kernel.shape[-1]))


class Depthwise(Layer):
    """A filter of three by three pixels for each channel."""

    def filter(self, x: Array, kernel: Array) -> Array:
        """Sum of nine weighted images.

        XLA's grouped convolutions are slow on a CPU, and their gradients more so.
        """
        weights = kernel.reshape(9, 1, 1, 1, -1)
        pairs = zip(_neighbours(x, self.stride), weights, strict=True)
        return sum(pixel * weight for pixel, weight in pairs)  # pyright: ignore


class Whole(Layer):
    """A filter of the whole image for each channel."""

    def filter(self, x: Array, kernel: Array) -> Array:
        """Weighted sum over the image."""
        return jnp.sum(x * kernel[None], axis=(1, 2))


class Bottleneck(nnx.Module):
    """Expand the channels, filter each, and project them; added to its input."""

    def __init__(
        self, n_in: int, n_out: int, stride: int, expansion: int, dtype: DTypeLike
    ) -> None:
        n = n_in * expansion
        self.expand = Pointwise((n_in, n), dtype=dtype)
        self.depthwise = Depthwise((3, 3, n), stride=stride, dtype=dtype)
        self.project = Pointwise((n, n_out), linear=True, dtype=dtype)
        self.residual = stride == 1 and n_in == n_out

    def __call__(self, x: Image) -> Smaller:
        """Apply the block."""
        y = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


def _neighbours(x: Image, stride: int) -> list[Smaller]:
    """The nine pixels around every `stride`-th one; zeros beyond the border."""
    frames, mels = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [
        x[:, i : i + frames : stride, j : j + mels : stride]
        for i, j in product(range(3), repeat=2)
    ]


def _with_shifted(x: Gram, shifts: Sequence[int]) -> Float[Array, "batch frame bins"]:
    """Frames as many earlier as each shift, side by side; zeros outside."""
    frames = x.shape[1]
    x = jnp.pad(x, ((0, 0), (1, 1), (0, 0)))
    return jnp.concatenate([x[:, 1 - n : 1 - n + frames] for n in shifts], axis=-1)


def _normal(y: Array, axes: tuple[int, ...]) -> Array:
    """Zero mean and unit variance over these axes."""
    away = y.astype(jnp.float32)
    away = away - jnp.mean(away, axis=axes, keepdims=True)
    variance = jnp.mean(away**2, axis=axes, keepdims=True)
    return away * jax.lax.rsqrt(variance + EPSILON)
