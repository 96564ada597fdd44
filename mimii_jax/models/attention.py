"""Layers of a transformer, for whole sequences and position by position.

Normalisation stands before each part (pre-norm), and nothing is dropped at random: a
training repeats bit by bit, and a loss needs no key.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Int

Sequence = Float[Array, "batch position width"]


class Seen(NamedTuple):
    """Keys and values of the positions that can be attended to; a KV cache is one.

    A value like any other: it is passed in and returned, and its size never changes.
    """

    key: Float[Array, "batch head position channel"]
    value: Float[Array, "batch head position channel"]

    def put(self, new: Self, at: Int[Array, ""]) -> "Seen":
        """With the positions of `new` in the place of those from `at` on."""
        start = (0, 0, at, 0)
        return Seen(
            lax.dynamic_update_slice(self.key, new.key, start),
            lax.dynamic_update_slice(self.value, new.value, start),
        )


class Attention(nnx.Module):
    """Attention of several heads, of a sequence to another or itself.

    The softmax is in float32 whatever the dtype. A GPU computes whole sequences in
    bfloat16 with cuDNN's fused kernel (not tried yet); all else is `in_blocks`.

    Parameters
    ----------
    width : of the sequences; the heads divide it
    heads : int > 0
    dtype : of the arithmetic
    """

    def __init__(
        self, width: int, heads: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        self.query = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        # No bias: that of the keys moves no softmax, so that Adam would walk it on
        # rounding errors, and that of the values is one of the output.
        self.key_value = nnx.Linear(
            width, 2 * width, use_bias=False, dtype=dtype, rngs=rngs
        )
        self.output = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.heads = heads
        self.fused = jax.default_backend() == "gpu" and dtype == jnp.bfloat16

    def _by_head(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.heads, -1)

    def see(self, x: Sequence) -> Seen:
        """Keys and values of a sequence."""
        key, value = jnp.split(self.key_value(x), 2, axis=-1)
        # Heads before positions: a product per head reads a cache as it lies.
        return Seen(_swapped(self._by_head(key)), _swapped(self._by_head(value)))

    def __call__(self, x: Sequence, seen: Seen, causal: bool) -> Sequence:
        """What each position of x finds: up to its own position if causal."""
        query = self._by_head(self.query(x))
        if self.fused:
            found = jax.nn.dot_product_attention(
                query, *map(_swapped, seen), is_causal=causal, implementation="cudnn"
            )
        else:
            found = _swapped(in_blocks(_swapped(query), seen, causal))
        return self.output(found.reshape(x.shape))

    def at(self, x: Sequence, seen: Seen, last: Int[Array, ""] | None) -> Sequence:
        """What the only position of x finds up to position `last`; None: in all."""
        mask = None
        if last is not None:
            mask = (jnp.arange(seen.key.shape[2]) <= last)[None, None, None]
        found = jax.nn.dot_product_attention(
            self._by_head(self.query(x)),
            *map(_swapped, seen),
            mask=mask,
            implementation="xla",
        )
        return self.output(found.reshape(x.shape))


def _swapped(x: Array) -> Array:
    return jnp.swapaxes(x, 1, 2)


def in_blocks(
    query: Float[Array, "batch head position channel"], seen: Seen, causal: bool
) -> Float[Array, "batch head position channel"]:
    """`jax.nn.dot_product_attention`, without most of what is masked if causal.

    Each of at most four blocks of positions attends to the keys up to its own end. On a
    CPU that and the order of the axes halve the time of a training step's attention.
    """
    n_positions = query.shape[2]
    size = max(-(-n_positions // 4), 64) if causal else n_positions
    query = query * query.shape[-1] ** -0.5
    found = []
    for start in range(0, n_positions, size):
        end = min(start + size, n_positions)
        last = end if causal else seen.key.shape[2]
        key, value = seen.key[:, :, :last], seen.value[:, :, :last]
        logits = jnp.einsum("bhqc,bhkc->bhqk", query[:, :, start:end], key)
        logits = logits.astype(jnp.float32)
        if causal:
            is_past = np.tri(end - start, last, start, dtype=bool)[None, None]
            logits = jnp.where(is_past, logits, -jnp.inf)
        weights = jax.nn.softmax(logits).astype(value.dtype)
        found.append(jnp.einsum("bhqk,bhkc->bhqc", weights, value))
    return jnp.concatenate(found, axis=2)


class FeedForward(nnx.Module):
    """Two dense layers with ReLU between them, at each position."""

    def __init__(
        self, width: int, hidden: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ) -> None:
        self.hidden = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.output = nnx.Linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Sequence) -> Sequence:
        """A sequence of the same shape."""
        return self.output(nnx.relu(self.hidden(x)))


class EncoderLayer(nnx.Module):
    """Self-attention, then a feed-forward network, each added to the sequence."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        of: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.self_norm = nnx.LayerNorm(width, **of)
        self.self_attention = Attention(width, heads, **of)
        self.feed_norm = nnx.LayerNorm(width, **of)
        self.feed_forward = FeedForward(width, hidden, **of)

    def attend(self, x: Sequence, causal: bool) -> Sequence:
        """Add what each position finds in its own sequence."""
        y = self.self_norm(x)
        return x + self.self_attention(y, self.self_attention.see(y), causal)

    def attend_at(
        self, x: Sequence, past: Seen, at: Int[Array, ""]
    ) -> tuple[Sequence, Seen]:
        """As `attend`, for the position `at` alone; also the past with it."""
        y = self.self_norm(x)
        past = past.put(self.self_attention.see(y), at)
        return x + self.self_attention.at(y, past, at), past

    def feed(self, x: Sequence) -> Sequence:
        """Add what the feed-forward network makes of each position."""
        return x + self.feed_forward(self.feed_norm(x))


class DecoderLayer(EncoderLayer):
    """As an encoder layer, with attention to the encoder's sequence between the two."""

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(width, heads, hidden, dtype=dtype, rngs=rngs)
        self.cross_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.cross_attention = Attention(width, heads, dtype=dtype, rngs=rngs)

    def cross(self, x: Sequence, memory: Sequence, causal: bool) -> Sequence:
        """Add what each position finds in the encoder's sequence."""
        seen = self.cross_attention.see(memory)
        return x + self.cross_attention(self.cross_norm(x), seen, causal)

    def cross_at(
        self, x: Sequence, memory: Seen, last: Int[Array, ""] | None
    ) -> Sequence:
        """As `cross`, for one position, of keys and values up to `last`."""
        return x + self.cross_attention.at(self.cross_norm(x), memory, last)


def rematerialised(call: Callable[..., Array]) -> Callable[..., Array]:
    """`call(layer, causal, *sequences)`, which the gradient does again."""

    def remembers_inputs(layer: nnx.Module, causal: bool, *sequences: Array) -> Array:
        graph, state = nnx.split(layer)
        again = jax.checkpoint(
            lambda state, *x: call(nnx.merge(graph, state), causal, *x)
        )
        return again(state, *sequences)

    return remembers_inputs
