"""Convolution of stride 1 that is quick inside the loop of a training, on a CPU too."""

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, DTypeLike, Float

LAYOUT = ("NHWC", "HWIO", "NHWC")


class Convolution(nnx.Module):
    """Convolution that keeps the size of the image; zeros are around it.

    Parameters
    ----------
    n_in, n_out : channels
    reach : int > 0, pixels that a filter sees along each axis
    before : of them, how many lie before the pixel that it gives
    dtype : of the arithmetic
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        reach: int,
        before: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        shape = (reach, reach, n_in, n_out)
        self.kernel = nnx.Param(nnx.initializers.lecun_normal()(rngs.params(), shape))
        self.bias = nnx.Param(jnp.zeros(n_out))
        self.before = before
        self.dtype = dtype

    def __call__(
        self, x: Float[Array, "batch frame bin channel"]
    ) -> Float[Array, "batch frame bin channel2"]:
        """Of every pixel and those around it."""
        x, kernel, bias = (
            jnp.asarray(a, self.dtype) for a in (x, self.kernel[...], self.bias[...])
        )
        on_cpu = jax.default_backend() == "cpu"
        run: Any = convolve_on_cpu if on_cpu else convolve
        return run(x, kernel, self.before) + bias.reshape(1, 1, 1, -1)


def convolve(
    x: Float[Array, "batch frame bin channel"],
    kernel: Float[Array, "reach reach channel channel2"],
    before: int,
) -> Float[Array, "batch frame bin channel2"]:
    """Convolution of the same size, with `before` rows and columns of zeros first."""
    padding = (before, len(kernel) - 1 - before)
    return lax.conv_general_dilated(
        x, kernel, (1, 1), (padding, padding), dimension_numbers=LAYOUT
    )


def convolve_on_cpu(
    x: Float[Array, "batch frame bin channel"],
    kernel: Float[Array, "reach reach channel channel2"],
    before: int,
) -> Float[Array, "batch frame bin channel2"]:
    """As `convolve`: a matrix product for each pixel of a filter, and their sum.

    XLA's CPU backend does not find its quick convolution for gradients inside a loop,
    and the steps of a training are one: measured 30 times slower than this.
    """
    reach, (batch, frames, bins, channels) = len(kernel), x.shape
    around = (before, reach - 1 - before)
    x = jnp.pad(x, ((0, 0), around, around, (0, 0)))
    total = jnp.zeros((batch * frames * bins, kernel.shape[3]), x.dtype)
    for i, j in product(range(reach), repeat=2):
        # Of matrices: with more axes the same product is slow again.
        pixels = x[:, i : i + frames, j : j + bins].reshape(-1, channels)
        total += jnp.dot(pixels, kernel[i, j])
    return total.reshape(batch, frames, bins, -1)
