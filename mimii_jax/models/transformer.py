"""Transformer that predicts each patch of a clip from the patches before it."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Int

from mimii_jax.errors import require
from mimii_jax.models.attention import DecoderLayer, EncoderLayer, KVCache
from mimii_jax.models.model import Examples, Segments

ATTENTIONS = CAUSAL, LEAKY = ("causal", "leaky")
TEACHER_FORCED, AUTOREGRESSIVE, FORECAST = DECODINGS = (
    "teacher_forced",
    "autoregressive",
    "forecast",
)
Patches = Float[Array, "batch patch feature"]
Predicted = Float[Array, "batch scored feature"]
Vectors = Float[Array, "batch position feature"]
Embedded = Float[Array, "batch position width"]
Index = Int[Array, ""]
Caches = list[KVCache]  # one per layer


class Transformer(nnx.Module):
    """Encoder and decoder over patches of P frames times all bins.

    Patches v1 ... v(n-1) go into the encoder and into the decoder, whose outputs are
    v2 ... vn. Every attention is causal: the prediction of v(t+1) depends on v1 ... vt
    and nothing else. `decoding` says what the scored patches are predicted from:

    - "teacher_forced": encoder and decoder get the true patches, as in training
    - "autoregressive": the encoder gets the true patches; the decoder gets v1, then
      its own predictions
    - "forecast": both get the first `context` patches, then the predictions; only the
      patches after the context are scored

    "leaky" attention is the wiring of the first report, in which encoder and
    cross-attention see the whole input, including every target but the last. `dtype` is
    that of the layers; parameters, softmax, predictions and losses are float32.
    """

    def __init__(
        self,
        shape: Sequence[int],  # frames, bins
        *,
        patch: int,  # frames; those at the end that fill no patch are left out
        stride: int,  # frames from one patch to the next
        width: int,  # of the layers' sequences
        encoder_layers: int,
        decoder_layers: int,
        heads: int,
        feed_forward: int,  # width of the hidden layer of the feed-forward networks
        attention: str,
        decoding: str,
        context: int,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        n_frames, n_bins = shape
        require(
            attention in ATTENTIONS,
            f"detector.attention='{attention}': must be one of {', '.join(ATTENTIONS)}",
        )
        n_patches = _count_patches(n_frames, patch, stride)
        _check_decoding(decoding, context, attention, n_patches)
        sizes = {"width": width, "heads": heads, "feed_forward": feed_forward}
        depths = {"encoder_layers": encoder_layers, "decoder_layers": decoder_layers}
        for field, n in (sizes | depths).items():
            require(n > 0, f"detector.{field}={n}: must be positive")
        require(
            width % heads == 0,
            f"detector.width={width}: must be a multiple of detector.heads={heads}",
        )
        self.network = EncoderDecoder(
            patch * n_bins,
            n_patches - 1,
            attention == CAUSAL,
            **(sizes | depths),
            dtype=dtype,
            rngs=rngs,
        )
        self.patch, self.stride, self.n_patches = patch, stride, n_patches
        self.decoding, self.context = decoding, context

    def patches(self, x: Examples) -> Patches:
        """Frames of each patch in one vector."""
        size = (len(x), self.patch, x.shape[2])
        starts = self.stride * np.arange(self.n_patches)
        cut = jax.vmap(lambda i: lax.dynamic_slice(x, (0, i, 0), size), out_axes=1)
        return cut(starts).reshape(len(x), self.n_patches, -1)

    def loss(self, x: Examples, key: Array) -> Float[Array, " batch"]:
        """Mean squared error of predictions from true patches; the key isn't used."""
        del key
        patches = self.patches(x)
        predicted = self.network.teacher_forced(patches[:, :-1])
        return jnp.mean((predicted - patches[:, 1:]) ** 2, axis=(1, 2))

    def decode(self, patches: Patches) -> Predicted:
        """Predictions of the scored patches, which are the last ones."""
        if self.decoding == TEACHER_FORCED:
            return self.network.teacher_forced(patches[:, :-1])
        if self.decoding == AUTOREGRESSIVE:
            return self.network.autoregress(patches[:, :-1])
        return self.network.forecast(patches[:, :-1], self.context)

    def error(self, x: Examples) -> Segments:
        """Squared error of each scored patch, mean over its frames."""
        patches = self.patches(x)
        predicted = self.decode(patches)
        squares = (predicted - patches[:, -predicted.shape[1] :]) ** 2
        return jnp.mean(self._by_frame(squares), axis=2)

    def predict(self, x: Examples) -> Examples:
        """Predicted frames; NaN where nothing is predicted.

        Overlapping patches contribute their new frames only.
        """
        predicted = self._by_frame(self.decode(self.patches(x)))
        new = predicted[:, :, self.patch - self.stride :]
        new = new.reshape(len(x), -1, x.shape[2])
        end = self.patch + (self.n_patches - 1) * self.stride
        around = ((0, 0), (end - new.shape[1], x.shape[1] - end), (0, 0))
        return jnp.pad(new, around, constant_values=np.nan)

    def segment_centres(self) -> Float[np.ndarray, " segment"]:
        """Middle of each scored patch, in frames from the example's start."""
        first = self.context if self.decoding == FORECAST else 1
        return self.stride * np.arange(first, self.n_patches) + self.patch / 2

    def _by_frame(self, patches: Predicted) -> Array:
        return patches.reshape(*patches.shape[:2], self.patch, -1)


class EncoderDecoder(nnx.Module):
    """Predicts v2 ... vn from v1 ... v(n-1), in one pass or one by one with KV caches.

    Encoder and decoder share one projection of the vectors and their positions.
    """

    def __init__(
        self,
        n_features: int,
        n_positions: int,
        causal: bool,
        *,
        width: int,
        heads: int,
        feed_forward: int,
        encoder_layers: int,
        decoder_layers: int,
        **layer: Any,
    ) -> None:
        sizes = width, heads, feed_forward
        self.embed = nnx.Linear(n_features, width, **layer)
        self.encoder = nnx.List(
            EncoderLayer(*sizes, **layer) for _ in range(encoder_layers)
        )
        self.encoder_norm = nnx.LayerNorm(width, **layer)
        self.decoder = nnx.List(
            DecoderLayer(*sizes, **layer) for _ in range(decoder_layers)
        )
        self.decoder_norm = nnx.LayerNorm(width, **layer)
        self.output = nnx.Linear(width, n_features, **layer)
        self.n_positions, self.width, self.heads = n_positions, width, heads
        self.causal, self.dtype = causal, layer["dtype"]

    def teacher_forced(self, vectors: Vectors) -> Vectors:
        """Predictions from true vectors, at most `n_positions`, in one pass."""
        x = self.embed_positions(vectors)
        return self.decode(x, self.encode(x))

    def embed_positions(self, vectors: Vectors, first: Array | int = 0) -> Embedded:
        """Project vectors to the model's width; add their positions from `first` on."""
        x = self.embed(vectors)
        positions = jnp.asarray(sinusoidal_positions(self.n_positions, self.width))
        own = lax.dynamic_slice_in_dim(positions, first, x.shape[1])
        return x + own[None].astype(x.dtype)

    def encode(self, x: Embedded) -> Embedded:
        """Output of the encoder, which the decoder attends to."""
        for layer in self.encoder:
            x = layer.feed(layer.attend(x, self.causal))
        return self.encoder_norm(x)

    def decode(self, x: Embedded, memory: Float[Array, "batch key width"]) -> Vectors:
        """Predictions of the vectors after those of x."""
        for layer in self.decoder:
            x = layer.cross(layer.attend(x, True), memory, self.causal)
            x = layer.feed(x)
        return self._predict(x)

    def autoregress(self, vectors: Vectors) -> Vectors:
        """Predictions from the encoder's true vectors and the decoder's predictions."""
        memory = self.encode(self.embed_positions(vectors))
        memories = [layer.cross_attention.project_kv(memory) for layer in self.decoder]

        def step(carry: Any, at: Array) -> tuple[Any, Array]:
            caches, vector = carry
            x = self.embed_positions(vector[:, None], at)
            vector, caches = self._decode_at(x, caches, memories, at)
            return (caches, vector), vector

        start = self._empty_caches(len(self.decoder), vectors), vectors[:, 0]
        _, predicted = lax.scan(step, start, jnp.arange(self.n_positions))
        return jnp.moveaxis(predicted, 0, 1)

    def forecast(self, vectors: Vectors, context: int) -> Predicted:
        """Predictions after the first `context` vectors, from these alone."""

        def step(carry: Any, inputs: tuple[Array, Array]) -> tuple[Any, Array]:
            (encoder, memories, decoder), vector = carry
            at, true = inputs
            vector = jnp.where(at < context, true, vector)
            x = self.embed_positions(vector[:, None], at)
            memory, encoder = self._encode_at(x, encoder, at)
            memories = [
                cache.update(layer.cross_attention.project_kv(memory), at)
                for layer, cache in zip(self.decoder, memories, strict=True)
            ]
            vector, decoder = self._decode_at(x, decoder, memories, at)
            return ((encoder, memories, decoder), vector), vector

        depths = len(self.encoder), len(self.decoder), len(self.decoder)
        caches = tuple(self._empty_caches(depth, vectors) for depth in depths)
        inputs = jnp.arange(self.n_positions), jnp.moveaxis(vectors, 1, 0)
        _, predicted = lax.scan(step, (caches, vectors[:, 0]), inputs)
        return jnp.moveaxis(predicted[context - 1 :], 0, 1)

    def _encode_at(self, x: Array, caches: Caches, at: Index) -> tuple[Array, Caches]:
        """Output of the encoder at one position, and the caches with it."""
        updated = []
        for layer, cache in zip(self.encoder, caches, strict=True):
            x, cache = layer.attend_at(x, cache, at)
            x = layer.feed(x)
            updated.append(cache)
        return self.encoder_norm(x), updated

    def _decode_at(
        self, x: Array, caches: Caches, memories: Caches, at: Index
    ) -> tuple[Array, Caches]:
        """Prediction from one position, and the caches with it."""
        updated = []
        last = at if self.causal else None
        for layer, cache, memory in zip(self.decoder, caches, memories, strict=True):
            x, cache = layer.attend_at(x, cache, at)
            x = layer.feed(layer.cross_at(x, memory, last))
            updated.append(cache)
        return self._predict(x)[:, 0], updated

    def _predict(self, x: Array) -> Array:
        return self.output(self.decoder_norm(x)).astype(jnp.float32)

    def _empty_caches(self, depth: int, vectors: Array) -> Caches:
        shape = len(vectors), self.heads, self.n_positions, self.width // self.heads
        # From `vectors`: under shard_map plain zeros would vary over other axes.
        zeros = jnp.zeros_like(vectors, self.dtype, shape=shape)
        return [KVCache(zeros, zeros)] * depth


@functools.cache
def sinusoidal_positions(
    n_positions: int, width: int
) -> Float[np.ndarray, "position width"]:
    """Sines and cosines of falling frequency (Vaswani et al. 2017), float32.

    The sines are in the first half of the width.
    """
    half = -(-width // 2)
    rate = 1e4 ** (-np.arange(half) / half)
    phase = np.arange(n_positions)[:, None] * rate
    table = np.concatenate([np.sin(phase), np.cos(phase)], axis=1)
    return table[:, :width].astype(np.float32)


def _count_patches(n_frames: int, patch: int, stride: int) -> int:
    fields = f"detector.patch={patch}, detector.stride={stride}"
    require(0 < stride <= patch, f"{fields}: stride must be from 1 to patch")
    n_patches = 1 + (n_frames - patch) // stride
    require(
        n_patches >= 2,
        f"{fields}: {n_frames} frames are too few for two patches; use a smaller patch "
        "or features.hop",
    )
    return n_patches


def _check_decoding(
    decoding: str, context: int, attention: str, n_patches: int
) -> None:
    require(
        decoding in DECODINGS,
        f"scoring.decoding='{decoding}': must be one of {', '.join(DECODINGS)}",
    )
    if decoding != FORECAST:
        return
    require(
        attention == CAUSAL,
        "scoring.decoding='forecast': needs detector.attention='causal', since a leaky "
        "encoder sees later patches",
    )
    require(
        0 < context < n_patches,
        f"scoring.context={context}: must be from 1 to {n_patches - 1}, since a clip "
        f"has {n_patches} patches",
    )
