"""Order of the examples of an epoch: a shuffle that nobody has to store.

A Feistel network over a grid that is barely larger than the number of examples maps
every position of an epoch to a different example; positions that land outside are
mapped again. Any batch can so be worked out by itself, inside the compiled step, for
any number of examples that a run has.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, UInt32

ROUNDS = 6  # each moves rows by columns, or columns by rows


def permute(
    key: UInt32[Array | np.ndarray, "2"],
    epoch: Array,
    n_examples: Array,
    position: Int[Array, " batch"],
) -> Int[Array, " batch"]:
    """The examples at these positions of an epoch; a bijection of range(n_examples).

    Every epoch has another order; `n_examples` is less than 2^31.
    """
    rounds = ROUNDS * epoch.astype(np.uint32) + jnp.arange(ROUNDS, dtype=np.uint32)
    keys = _mix(key[0] ^ _mix(key[1] ^ _mix(rounds)))
    n = n_examples.astype(np.uint32)
    rows = jnp.sqrt(n.astype(np.float32)).astype(np.uint32) + 1
    columns = (n + rows - 1) // rows

    def two_rounds(i: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        row, column = at
        row = (row + _mix(column ^ keys[2 * i]) % rows) % rows
        column = (column + _mix(row ^ keys[2 * i + 1]) % columns) % columns
        return row, column

    def shuffle(at: tuple[Array, Array]) -> tuple[Array, Array]:
        place, outside = at
        grid = place // columns, place % columns
        row, column = lax.fori_loop(0, ROUNDS // 2, two_rounds, grid)
        place = jnp.where(outside, row * columns + column, place)
        return place, place >= n

    # Loops, though short: they compile in half the time.
    begin = position.astype(np.uint32)
    place, _ = lax.while_loop(
        lambda at: jnp.any(at[1]), shuffle, (begin, begin == begin)
    )
    return place.astype(np.int32)


def _mix(x: Array) -> Array:
    """Spread every bit over all 32: the finaliser of MurmurHash3 (A. Appleby)."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
