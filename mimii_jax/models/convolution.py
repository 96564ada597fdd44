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
    """As `convolve`, by one matrix product.

    XLA's CPU backend does not find its quick convolution for gradients inside a loop,
    and the steps of a training are one: measured 30 times slower than this.
    """
    reach, _, n_in, n_out = kernel.shape
    if n_out < n_in:
        return _sum_of_shifted(x, kernel, before)
    # Every pixel with those around it, as far as a filter sees.
    size, around = x.shape[1:3], (before, reach - 1 - before)
    x = jnp.pad(x, ((0, 0), around, around, (0, 0)))
    seen = [
        x[:, i : i + size[0], j : j + size[1]] for i, j in _pixels_of_a_filter(reach)
    ]
    return _product(jnp.concatenate(seen, axis=-1), kernel.reshape(-1, n_out))


def _sum_of_shifted(x: Array, kernel: Array, before: int) -> Array:
    """What every pixel gives to those around it, summed there.

    It moves less memory than gathering them where there are fewer channels out than in.
    """
    reach, _, n_in, n_out = kernel.shape
    given = _product(x, jnp.moveaxis(kernel, 2, 0).reshape(n_in, -1))
    total = jnp.zeros((*x.shape[:3], n_out), x.dtype)
    after, (_, frames, bins, _) = reach - 1 - before, x.shape
    around = ((0, 0), (before, after), (before, after), (0, 0))
    parts = jnp.split(jnp.pad(given, around), reach**2, axis=-1)
    for part, (i, j) in zip(parts, _pixels_of_a_filter(reach), strict=True):
        total += part[:, i : i + frames, j : j + bins]
    return total


def _pixels_of_a_filter(reach: int) -> list[tuple[int, int]]:
    return list(product(range(reach), range(reach)))


def _product(x: Array, matrix: Array) -> Array:
    """Over the last axis. Of matrices: with more axes the same product is slow."""
    return jnp.dot(x.reshape(-1, x.shape[-1]), matrix).reshape(*x.shape[:-1], -1)
