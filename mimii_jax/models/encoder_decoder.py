"""Encoder and decoder over a sequence of vectors, each predicted from those before it.

Vectors v1 ... v(n-1) go in, predictions of v2 ... vn come out: all at once from true
vectors, or one by one from its own predictions through caches of keys and values.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Int

from mimii_jax.models.attention import (
    DecoderLayer,
    EncoderLayer,
    Seen,
    rematerialised,
)

Vectors = Float[Array, "batch position feature"]
Placed = Float[Array, "batch position width"]
Pasts = list[Seen]  # of each layer


class EncoderDecoder(nnx.Module):
    """Encoder and decoder share one projection of the vectors and their positions.

    Parameters
    ----------
    n_features : of a vector
    n_positions : vectors that go in
    width, heads, hidden : of the layers; `hidden` that of the feed-forward networks
    encoder_layers, decoder_layers : how many
    causal : whether encoder and cross-attention see no position after their own; the
        decoder's own attention never does
    remat : whether the insides of layers are computed again for the gradient
    dtype : of the arithmetic; predictions are float32
    """

    def __init__(
        self,
        n_features: int,
        n_positions: int,
        *,
        width: int,
        heads: int,
        hidden: int,
        encoder_layers: int,
        decoder_layers: int,
        causal: bool,
        remat: bool,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        of: dict[str, Any] = {"dtype": dtype, "rngs": rngs}
        self.embed = nnx.Linear(n_features, width, **of)
        self.encoder = nnx.List(
            EncoderLayer(width, heads, hidden, **of) for _ in range(encoder_layers)
        )
        self.encoder_norm = nnx.LayerNorm(width, **of)
        self.decoder = nnx.List(
            DecoderLayer(width, heads, hidden, **of) for _ in range(decoder_layers)
        )
        self.decoder_norm = nnx.LayerNorm(width, **of)
        self.output = nnx.Linear(width, n_features, **of)
        self.n_positions = n_positions
        self.per_head = heads, width // heads
        self.width, self.dtype = width, dtype
        self.causal, self.remat = causal, remat

    def in_parallel(self, vectors: Vectors) -> Vectors:
        """Predictions from true vectors (teacher forcing), in one pass.

        Of a sequence that is shorter than `n_positions` too.
        """
        x = self.place(vectors)
        return self.decode(x, self.encode(x))

    def place(self, vectors: Vectors) -> Placed:
        """Vectors at the model's width, with their positions."""
        x = self.embed(vectors)
        place = sinusoids(self.n_positions, self.width)[None, : x.shape[1]]
        return x + place.astype(x.dtype)

    def encode(self, x: Placed) -> Placed:
        """The encoder's sequence, which the decoder attends to."""
        for layer in self.encoder:
            x = self._call(_encoder_layer, layer, self.causal, x)
        return self.encoder_norm(x)

    def decode(self, x: Placed, memory: Placed) -> Vectors:
        """Predictions of the vectors that come after those of x."""
        for layer in self.decoder:
            x = self._call(_decoder_layer, layer, self.causal, x, memory)
        return self._predict(x)

    def autoregress(self, vectors: Vectors) -> Vectors:
        """Predictions whose encoder gets the true vectors, and whose decoder gets v1.

        After v1 the decoder gets what it has predicted.
        """
        memory = self.encode(self.place(vectors))
        memories = [layer.cross_attention.see(memory) for layer in self.decoder]

        def step(carry: Any, at: Array) -> tuple[Any, Array]:
            pasts, vector = carry
            x = self._place_at(vector, at)
            vector, pasts = self._decode_at(x, pasts, memories, at)
            return (pasts, vector), vector

        start = self._nothing_seen(len(self.decoder), vectors), vectors[:, 0]
        _, predicted = lax.scan(step, start, jnp.arange(self.n_positions))
        return jnp.moveaxis(predicted, 0, 1)

    def forecast(self, vectors: Vectors, given: int) -> Vectors:
        """Predictions of what comes after the first `given` vectors, from these alone.

        Encoder and decoder get the given vectors, and then what was predicted.
        """

        def step(carry: Any, inputs: tuple[Array, Array]) -> tuple[Any, Array]:
            (encoder, memories, decoder), vector = carry
            at, true = inputs
            vector = jnp.where(at < given, true, vector)
            x = self._place_at(vector, at)
            memory, encoder = self._encode_at(x, encoder, at)
            memories = [
                seen.put(layer.cross_attention.see(memory), at)
                for layer, seen in zip(self.decoder, memories, strict=True)
            ]
            vector, decoder = self._decode_at(x, decoder, memories, at)
            return ((encoder, memories, decoder), vector), vector

        depths = len(self.encoder), len(self.decoder), len(self.decoder)
        seen = tuple(self._nothing_seen(depth, vectors) for depth in depths)
        inputs = jnp.arange(self.n_positions), jnp.moveaxis(vectors, 1, 0)
        _, predicted = lax.scan(step, (seen, vectors[:, 0]), inputs)
        return jnp.moveaxis(predicted[given - 1 :], 0, 1)

    def _place_at(self, vector: Array, at: Int[Array, ""]) -> Array:
        """One vector as a sequence of its own, [batch 1 width]."""
        x = self.embed(vector[:, None])
        place = jnp.asarray(sinusoids(self.n_positions, self.width))[at]
        return x + place[None, None].astype(x.dtype)

    def _predict(self, x: Array) -> Vectors:
        return self.output(self.decoder_norm(x)).astype(jnp.float32)

    def _call(self, call: Callable[..., Array], layer: Any, *inputs: Any) -> Array:
        if self.remat:
            call = rematerialised(call)
        return call(layer, *inputs)

    def _encode_at(
        self, x: Array, pasts: Pasts, at: Int[Array, ""]
    ) -> tuple[Array, Pasts]:
        """What the encoder makes of position `at`, and the past with that position."""
        seen = []
        for layer, past in zip(self.encoder, pasts, strict=True):
            x, past = layer.attend_at(x, past, at)
            x = layer.feed(x)
            seen.append(past)
        return self.encoder_norm(x), seen

    def _decode_at(
        self, x: Array, pasts: Pasts, memories: Pasts, at: Int[Array, ""]
    ) -> tuple[Array, Pasts]:
        """The prediction from position `at`, and the past with that position."""
        seen = []
        for layer, past, memory in zip(self.decoder, pasts, memories, strict=True):
            x, past = layer.attend_at(x, past, at)
            x = layer.feed(layer.cross_at(x, memory, at if self.causal else None))
            seen.append(past)
        return self._predict(x)[:, 0], seen

    def _nothing_seen(self, depth: int, vectors: Vectors) -> Pasts:
        """Empty caches of so many layers."""
        shape = len(vectors), self.n_positions, *self.per_head
        # Of the vectors' kind: under shard_map zeros alone would differ in it.
        zeros = jnp.zeros_like(vectors, self.dtype, shape=shape)
        return [Seen(zeros, zeros)] * depth


def _encoder_layer(layer: EncoderLayer, causal: bool, x: Array) -> Array:
    return layer.feed(layer.attend(x, causal))


def _decoder_layer(layer: DecoderLayer, causal: bool, x: Array, memory: Array) -> Array:
    return layer.feed(layer.cross(layer.attend(x, True), memory, causal))


@cache
def sinusoids(n_positions: int, width: int) -> Float[np.ndarray, "position width"]:
    """Positions as sines and cosines of falling frequency (Vaswani et al. 2017).

    Parameters
    ----------
    n_positions : int > 0
    width : int > 0

    Returns
    -------
    table : f32 [shape=(n_positions, width)], the sines in its first half
    """
    half = -(-width // 2)
    rate = 1e4 ** (-np.arange(half) / half)
    phase = np.arange(n_positions)[:, None] * rate
    table = np.concatenate([np.sin(phase), np.cos(phase)], axis=1)
    return table[:, :width].astype(np.float32)
