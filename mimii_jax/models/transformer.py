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

from mimii_jax.errors import require, require_positive
from mimii_jax.models.attention import DecoderLayer, EncoderLayer, KVCache
from mimii_jax.models.likelihood import (
    GAUSSIAN,
    SQUARED,
    log_variance,
    n_heads,
    require_gaussian,
    require_likelihood,
    surprise,
)
from mimii_jax.models.model import Examples, Segments

ATTENTIONS = CAUSAL, LEAKY = ("causal", "leaky")
Patches = Float[Array, "batch patch feature"]
Predicted = Float[Array, "batch scored output"]
Vectors = Float[Array, "batch position feature"]
Outputs = Float[Array, "batch position output"]  # features; also their variances
Embedded = Float[Array, "batch position width"]
Index = Int[Array, ""]
Caches = list[KVCache]  # one per layer


class Transformer(nnx.Module):
    """Encoder and decoder over patches of P frames times all bins.

    Patches v1 ... v(n-1) go into the encoder and into the decoder, whose outputs are
    v2 ... vn. Every attention is causal: the prediction of v(t+1) depends on v1 ... vt
    and nothing else. `horizon` says from what a patch is predicted when it is scored:

    - 1: from all true patches before it, as in training
    - h: up to h patches are generated one by one after a true prefix, v1 ... vt; then
      the prefix grows by these h true patches
    - None: the whole clip is generated, as in the first report: the encoder gets the
      true patches, the decoder v1 and then its own predictions

    With `likelihood="gaussian"` the network predicts a variance of each number, too.

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
        likelihood: str = SQUARED,
        horizon: int | None = 1,  # patches
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        n_frames, n_bins = shape
        require(
            attention in ATTENTIONS,
            f"detector.attention='{attention}': must be one of {', '.join(ATTENTIONS)}",
        )
        n_patches = _count_patches(n_frames, patch, stride)
        require_likelihood(likelihood)
        require(
            horizon is None or horizon == 1 or (horizon > 1 and attention == CAUSAL),
            f"scoring.horizon={horizon}: must be positive, or None; above 1 only with "
            "detector.attention='causal', since a leaky encoder sees later patches",
        )
        sizes = {"width": width, "heads": heads, "feed_forward": feed_forward}
        depths = {"encoder_layers": encoder_layers, "decoder_layers": decoder_layers}
        require_positive("detector", **sizes, **depths)
        require(
            width % heads == 0,
            f"detector.width={width}: must be a multiple of detector.heads={heads}",
        )
        self.network = EncoderDecoder(
            patch * n_bins,
            n_patches - 1,
            attention == CAUSAL,
            n_heads=n_heads(likelihood),
            **(sizes | depths),
            dtype=dtype,
            rngs=rngs,
        )
        self.patch, self.stride, self.n_patches = patch, stride, n_patches
        self.likelihood, self.horizon = likelihood, horizon

    def patches(self, x: Examples) -> Patches:
        """Frames of each patch in one vector."""
        size = (len(x), self.patch, x.shape[2])
        starts = self.stride * np.arange(self.n_patches)
        cut = jax.vmap(lambda i: lax.dynamic_slice(x, (0, i, 0), size), out_axes=1)
        return cut(starts).reshape(len(x), self.n_patches, -1)

    def loss(self, x: Examples, key: Array) -> Float[Array, " batch"]:
        """Loss of predictions from true patches; the key isn't used.

        The mean squared error; or the negative log-likelihood, each number weighted by
        its standard deviation, without which the large variances are hardly learned
        (beta-NLL with beta .5, Seitzer et al. 2022).
        """
        del key
        patches = self.patches(x)
        predicted = self.network.teacher_forced(patches[:, :-1])
        terms = self._squares(predicted, patches)
        if self.likelihood == GAUSSIAN:
            deviation = jnp.exp(0.5 * log_variance(predicted[..., patches.shape[2] :]))
            terms = self._surprise(predicted, patches) * lax.stop_gradient(deviation)
        return jnp.mean(terms, axis=(1, 2))

    def decode(self, patches: Patches) -> Predicted:
        """Predictions of all patches but the first; also their log variances."""
        if self.horizon == 1:
            return self.network.teacher_forced(patches[:, :-1])
        if self.horizon is None:
            return self.network.autoregress(patches[:, :-1])
        return self.network.generate(patches[:, :-1], self.horizon)

    def error(self, x: Examples) -> Segments:
        """Squared error of each scored patch, mean over its frames."""
        patches = self.patches(x)
        squares = self._squares(self.decode(patches), patches)
        return jnp.mean(self._by_frame(squares), axis=2)

    def nll(self, x: Examples) -> Segments:
        """Negative log-likelihood of each scored patch in nats, mean over its frames.

        Without its constant, log(2 pi) / 2.
        """
        require_gaussian(self.likelihood)
        patches = self.patches(x)
        surprise = self._surprise(self.decode(patches), patches)
        return jnp.mean(self._by_frame(surprise), axis=2)

    def latent(self, x: Examples) -> Float[Array, "batch segment width"]:
        """Output of the decoder's last layer at each true patch but the last."""
        vectors = self.network.embed_positions(self.patches(x)[:, :-1])
        hidden = self.network.hidden(vectors, self.network.encode(vectors))
        return hidden.astype(jnp.float32)

    def predict(self, x: Examples) -> Examples:
        """Predicted frames; NaN where nothing is predicted.

        Overlapping patches contribute their new frames only.
        """
        patches = self.patches(x)
        predicted = self.decode(patches)[..., : patches.shape[2]]
        predicted = self._by_frame(predicted)
        new = predicted[:, :, self.patch - self.stride :]
        new = new.reshape(len(x), -1, x.shape[2])
        end = self.patch + (self.n_patches - 1) * self.stride
        around = ((0, 0), (end - new.shape[1], x.shape[1] - end), (0, 0))
        return jnp.pad(new, around, constant_values=np.nan)

    def segment_centres(self) -> Float[np.ndarray, " segment"]:
        """Middle of each scored patch, in frames from the example's start."""
        return self.stride * np.arange(1, self.n_patches) + self.patch / 2

    def _squares(self, predicted: Predicted, patches: Patches) -> Array:
        return (predicted[..., : patches.shape[2]] - patches[:, 1:]) ** 2

    def _surprise(self, predicted: Predicted, patches: Patches) -> Array:
        n_features = patches.shape[2]
        residual = patches[:, 1:] - predicted[..., :n_features]
        return surprise(residual, predicted[..., n_features:])

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
        n_heads: int = 1,  # outputs per number
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
        self.output = nnx.Linear(width, n_heads * n_features, **layer)
        self.n_features = n_features
        self.n_positions, self.width, self.heads = n_positions, width, heads
        self.causal, self.dtype = causal, layer["dtype"]

    def teacher_forced(self, vectors: Vectors) -> Outputs:
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

    def decode(self, x: Embedded, memory: Float[Array, "batch key width"]) -> Outputs:
        """Predictions of the vectors after those of x."""
        return self._predict(self.hidden(x, memory))

    def hidden(self, x: Embedded, memory: Float[Array, "batch key width"]) -> Embedded:
        """Output of the decoder's last layer."""
        for layer in self.decoder:
            x = layer.cross(layer.attend(x, True), memory, self.causal)
            x = layer.feed(x)
        return x

    def autoregress(self, vectors: Vectors) -> Outputs:
        """Predictions from the encoder's true vectors and the decoder's predictions."""
        memory = self.encode(self.embed_positions(vectors))
        memories = [layer.cross_attention.project_kv(memory) for layer in self.decoder]

        def step(carry: Any, at: Array) -> tuple[Any, Array]:
            caches, vector = carry
            x = self.embed_positions(vector[:, None], at)
            found, caches = self._decode_at(x, caches, memories, at)
            return (caches, found[:, : self.n_features]), found

        start = self._empty_caches(len(self.decoder), vectors), vectors[:, 0]
        _, predicted = lax.scan(step, start, jnp.arange(self.n_positions))
        return jnp.moveaxis(predicted, 0, 1)

    def generate(self, vectors: Vectors, horizon: int) -> Outputs:
        """Predictions from true vectors and the last predictions, fewer than `horizon`.

        Encoder and decoder get the same.
        """
        true = self._prefill(vectors)

        def step(carry: Any, inputs: tuple[Array, Array]) -> tuple[Any, Array]:
            caches, vector = carry
            at, now = inputs
            # Every `horizon` positions all that is known becomes true again.
            again = at % horizon == 0
            vector = jnp.where(again, now, vector)
            encoder, memories, decoder = jax.tree.map(
                lambda known, own: jnp.where(again, known, own), true, caches
            )
            x = self.embed_positions(vector[:, None], at)
            memory, encoder = self._encode_at(x, encoder, at)
            memories = [
                cache.update(layer.cross_attention.project_kv(memory), at)
                for layer, cache in zip(self.decoder, memories, strict=True)
            ]
            found, decoder = self._decode_at(x, decoder, memories, at)
            return ((encoder, memories, decoder), found[:, : self.n_features]), found

        inputs = jnp.arange(self.n_positions), jnp.moveaxis(vectors, 1, 0)
        _, predicted = lax.scan(step, (true, vectors[:, 0]), inputs)
        return jnp.moveaxis(predicted, 0, 1)

    def _prefill(self, vectors: Vectors) -> tuple[Caches, Caches, Caches]:
        """KV caches of the true vectors: encoder, cross-attention, decoder."""
        x = start = self.embed_positions(vectors)
        encoder, memories, decoder = [], [], []
        for layer in self.encoder:
            encoder.append(layer.self_attention.project_kv(layer.self_norm(x)))
            x = layer.feed(layer.attend(x, self.causal))
        memory, x = self.encoder_norm(x), start
        for layer in self.decoder:
            memories.append(layer.cross_attention.project_kv(memory))
            decoder.append(layer.self_attention.project_kv(layer.self_norm(x)))
            x = layer.feed(layer.cross(layer.attend(x, True), memory, self.causal))
        return encoder, memories, decoder

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
