"""Pre-norm transformer layers, for whole sequences and position by position.

There is no dropout: training repeats bit by bit, and a loss needs no key.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Int

Sequence = Float[Array, "batch position width"]
Memory = Float[Array, "batch key width"]
Position = Float[Array, "batch 1 width"]
Heads = Float[Array, "batch head position channel"]


class KVCache(NamedTuple):
    """Keys and values of the positions that can be attended to, of constant size."""

    key: Float[Array, "batch head key channel"]
    value: Float[Array, "batch head key channel"]

    def update(self, new: "KVCache", at: Int[Array, ""]) -> "KVCache":
        """Cache with the positions of `new` in place of those from `at` on."""
        start = (0, 0, at, 0)
        return KVCache(
            lax.dynamic_update_slice(self.key, new.key, start),
            lax.dynamic_update_slice(self.value, new.value, start),
        )


class Attention(nnx.Module):
    """Multi-head attention from one sequence to another or to itself.

    The softmax is in float32 whatever the dtype. On a GPU whole sequences in bfloat16
    go through cuDNN's fused kernel (not tried yet); everything else is `in_blocks`.
    """

    def __init__(self, width: int, heads: int, dtype: DTypeLike, **rngs: Any) -> None:
        layer = {"dtype": dtype, **rngs}
        self.query = nnx.Linear(width, width, **layer)
        # No bias: softmax ignores that of the keys, so that Adam would walk it on
        # rounding errors, and the output's bias covers that of the values.
        self.key_value = nnx.Linear(width, 2 * width, use_bias=False, **layer)
        self.output = nnx.Linear(width, width, **layer)
        self.heads = heads
        self.fused = jax.default_backend() == "gpu" and dtype == jnp.bfloat16

    def project_kv(self, x: Memory) -> KVCache:
        """Keys and values of a sequence."""
        key, value = jnp.split(self.key_value(x), 2, axis=-1)
        # Heads before positions: a product per head reads a cache contiguously.
        return KVCache(_swapped(self._by_head(key)), _swapped(self._by_head(value)))

    def __call__(self, x: Sequence, cache: KVCache, causal: bool) -> Sequence:
        """Attend from every position; if causal, to no position after its own."""
        query = self._by_head(self.query(x))
        if self.fused:
            found = jax.nn.dot_product_attention(
                query, *map(_swapped, cache), is_causal=causal, implementation="cudnn"
            )
        else:
            found = _swapped(in_blocks(_swapped(query), cache, causal))
        return self.output(found.reshape(x.shape))

    def at(self, x: Position, cache: KVCache, last: Int[Array, ""] | None) -> Position:
        """Attend from a single position to keys 0 ... `last`; None: to all."""
        mask = None
        if last is not None:
            mask = (jnp.arange(cache.key.shape[2]) <= last)[None, None, None]
        query = self._by_head(self.query(x))
        found = jax.nn.dot_product_attention(
            query, *map(_swapped, cache), mask=mask, implementation="xla"
        )
        return self.output(found.reshape(x.shape))

    def _by_head(self, x: Array) -> Array:
        return x.reshape(*x.shape[:-1], self.heads, -1)


def _swapped(x: Array) -> Array:
    return jnp.swapaxes(x, 1, 2)


def in_blocks(query: Heads, cache: KVCache, causal: bool) -> Heads:
    """`jax.nn.dot_product_attention` that skips most of what causality masks.

    Each of at most four blocks of positions attends to the keys up to its own end. On a
    CPU that and the order of the axes halve the time of a training step's attention.
    """
    n_positions = query.shape[2]
    size = max(-(-n_positions // 4), 64) if causal else n_positions
    query = query * query.shape[-1] ** -0.5
    found = []
    for start in range(0, n_positions, size):
        end = min(start + size, n_positions)
        last = end if causal else cache.key.shape[2]
        key, value = cache.key[:, :, :last], cache.value[:, :, :last]
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

    def __init__(self, width: int, hidden: int, **layer: Any) -> None:
        self.hidden = nnx.Linear(width, hidden, **layer)
        self.output = nnx.Linear(hidden, width, **layer)

    def __call__(self, x: Sequence) -> Sequence:
        """Transform each position."""
        return self.output(nnx.relu(self.hidden(x)))


class EncoderLayer(nnx.Module):
    """Self-attention, then a feed-forward network, each with a residual connection."""

    def __init__(self, width: int, heads: int, hidden: int, **layer: Any) -> None:
        self.self_norm = nnx.LayerNorm(width, **layer)
        self.self_attention = Attention(width, heads, **layer)
        self.feed_norm = nnx.LayerNorm(width, **layer)
        self.feed_forward = FeedForward(width, hidden, **layer)

    def attend(self, x: Sequence, causal: bool) -> Sequence:
        """Add self-attention."""
        y = self.self_norm(x)
        return x + self.self_attention(y, self.self_attention.project_kv(y), causal)

    def attend_at(
        self, x: Position, cache: KVCache, at: Int[Array, ""]
    ) -> tuple[Position, KVCache]:
        """`attend` for position `at` alone; also the cache with that position."""
        y = self.self_norm(x)
        cache = cache.update(self.self_attention.project_kv(y), at)
        return x + self.self_attention.at(y, cache, at), cache

    def feed(self, x: Sequence) -> Sequence:
        """Add the feed-forward network."""
        return x + self.feed_forward(self.feed_norm(x))


class DecoderLayer(EncoderLayer):
    """An encoder layer with attention to the encoder's output between the two."""

    def __init__(self, width: int, heads: int, hidden: int, **layer: Any) -> None:
        super().__init__(width, heads, hidden, **layer)
        self.cross_norm = nnx.LayerNorm(width, **layer)
        self.cross_attention = Attention(width, heads, **layer)

    def cross(self, x: Sequence, memory: Memory, causal: bool) -> Sequence:
        """Add attention to the encoder's output."""
        cache = self.cross_attention.project_kv(memory)
        return x + self.cross_attention(self.cross_norm(x), cache, causal)

    def cross_at(
        self, x: Position, cache: KVCache, last: Int[Array, ""] | None
    ) -> Position:
        """`cross` for one position, to keys 0 ... `last`; None: to all."""
        return x + self.cross_attention.at(self.cross_norm(x), cache, last)
