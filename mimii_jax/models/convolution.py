"""Convolution of stride 1 whose gradients are quick on a CPU, too."""

from functools import partial
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


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve_on_cpu(x: Array, kernel: Array, before: int) -> Array:
    """As `convolve`, whose gradients are convolutions in the layout of `convolve`.

    In another layout, as JAX would have them, XLA's CPU backend does not find its
    quick convolution inside a loop, and the steps of a training are one: measured 30
    times slower.
    """
    return convolve(x, kernel, before)


def _forward(x: Array, kernel: Array, before: int) -> tuple[Array, tuple[Array, Array]]:
    return convolve(x, kernel, before), (x, kernel)


def _backward(
    before: int, saved: tuple[Array, Array], away: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    after = len(kernel) - 1 - before
    turned = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    to_x = convolve(away, turned, after)
    # The batch in the place of the channels, and the image in that of the filter.
    to_kernel = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        away.transpose(1, 2, 0, 3),
        (1, 1),
        ((before, after), (before, after)),
        dimension_numbers=LAYOUT,
    )
    return to_x, to_kernel.transpose(1, 2, 0, 3)


convolve_on_cpu.defvjp(_forward, _backward)
