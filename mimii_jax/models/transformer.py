"""Encoder and decoder that predict each patch of a clip from the patches before it."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, DTypeLike, Float

from mimii_jax.models.attention import (
    DecoderLayer,
    EncoderLayer,
    Seen,
    rematerialised,
    sinusoids,
)

ATTENTIONS = CAUSAL, LEAKY = ("causal", "leaky")
DECODINGS = TEACHER_FORCED, AUTOREGRESSIVE, FORECAST = (
    "teacher_forced",
    "autoregressive",
    "forecast",
)
Patches = Float[Array, "batch patch feature"]


class Transformer(nnx.Module):
    """Predicts patch t + 1 from the patches up to t, of P frames × all bins.

    Patches v1 ... v(n-1) go through one projection, with sinusoidal positions, into
    the encoder and the decoder; the decoder's outputs are v2 ... vn. Every attention is
    causal, so that the prediction of v(t+1) sees v1 ... vt and nothing else.

    What the errors that count are predicted from, `decoding`:

    - "teacher_forced": encoder and decoder get the true patches, as in training
    - "autoregressive": the encoder gets the true patches; the decoder gets v1, then
      its own predictions
    - "forecast": both get the first `given` patches, then the predictions; only the
      patches after those count

    Parameters
    ----------
    shape : of one example, (frames, bins)
    patch, stride : frames of a patch, and from one patch to the next; frames at the end
        that fill no patch are left out
    width : of the layers' sequences
    encoder_layers, decoder_layers, heads : how many
    feed_forward : width of the hidden layer of the feed-forward networks
    attention : "causal"; or "leaky", the wiring of the first report, in which encoder
        and cross-attention see the whole sequence, every target but the last included
    remat : whether the insides of layers are computed again for the gradient, which
        takes less memory and more time
    decoding, given : see above
    dtype : of the layers' arithmetic; parameters, softmax, predictions and losses are
        float32
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        patch: int,
        stride: int,
        width: int,
        encoder_layers: int,
        decoder_layers: int,
        heads: int,
        feed_forward: int,
        attention: str,
        remat: bool,
        decoding: str,
        given: int,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        n_frames, n_bins = shape
        _require_choice("detector.attention", attention, ATTENTIONS)
        _require_choice("scoring.decoding", decoding, DECODINGS)
        _require_sizes(width, heads, encoder_layers, decoder_layers, feed_forward)
        n_patches = _count_patches(n_frames, patch, stride)
        if decoding == FORECAST and attention == LEAKY:
            raise ValueError(
                "scoring.decoding='forecast': needs detector.attention='causal', since "
                "a leaky encoder sees patches that are not generated yet"
            )
        if decoding == FORECAST and not 0 < given < n_patches:
            raise ValueError(
                f"scoring.given={given}: must be from 1 to {n_patches - 1}, since "
                f"there are {n_patches} patches and one at least is predicted"
            )
        layer: Any = {"hidden": feed_forward, "dtype": dtype, "rngs": rngs}
        self.embed = nnx.Linear(patch * n_bins, width, dtype=dtype, rngs=rngs)
        self.encoder = nnx.List(
            EncoderLayer(width, heads, **layer) for _ in range(encoder_layers)
        )
        self.encoder_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.decoder = nnx.List(
            DecoderLayer(width, heads, **layer) for _ in range(decoder_layers)
        )
        self.decoder_norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.output = nnx.Linear(width, patch * n_bins, dtype=dtype, rngs=rngs)
        self.width, self.heads, self.dtype = width, heads, dtype
        self.patch, self.stride, self.n_patches = patch, stride, n_patches
        self.causal, self.remat = attention == CAUSAL, remat
        self.decoding, self.given = decoding, given

    def patches(self, x: Float[Array, "batch frame bin"]) -> Patches:
        """Frames next to each other in a vector, for each patch."""
        if self.stride == self.patch:
            x = x[:, : self.n_patches * self.patch]
            return x.reshape(len(x), self.n_patches, -1)
        size = (len(x), self.patch, x.shape[2])
        starts = self.stride * np.arange(self.n_patches)
        cut = jax.vmap(lambda i: lax.dynamic_slice(x, (0, i, 0), size), out_axes=1)
        return cut(starts).reshape(len(x), self.n_patches, -1)

    def loss(
        self, x: Float[Array, "batch frame bin"], key: Array
    ) -> Float[Array, " batch"]:
        """Mean squared error of the predictions from true patches; no key is used."""
        del key
        patches = self.patches(x)
        predicted = self._predict_in_parallel(patches)
        return jnp.mean((predicted - patches[:, 1:]) ** 2, axis=(1, 2))

    def error(
        self, x: Float[Array, "batch frame bin"]
    ) -> Float[Array, "batch step bin"]:
        """Squared error of each patch that counts, mean over its frames."""
        patches = self.patches(x)
        predicted = self.decode(patches)
        n_steps = predicted.shape[1]
        squares = (predicted - patches[:, -n_steps:]) ** 2
        return jnp.mean(
            squares.reshape(len(x), n_steps, self.patch, x.shape[2]), axis=2
        )

    def predict(
        self, x: Float[Array, "batch frame bin"]
    ) -> Float[Array, "batch frame bin"]:
        """Predicted frames: of each patch that counts those that it adds, else NaN."""
        predicted = self.decode(self.patches(x))
        n_steps = predicted.shape[1]
        added = predicted.reshape(len(x), n_steps, self.patch, x.shape[2])
        added = added[:, :, self.patch - self.stride :].reshape(len(x), -1, x.shape[2])
        end = self.patch + (self.n_patches - 1) * self.stride
        around = ((0, 0), (end - added.shape[1], x.shape[1] - end), (0, 0))
        return jnp.pad(added, around, constant_values=np.nan)

    def step_centres(self) -> Float[np.ndarray, " step"]:
        """The middle of each patch that counts, in frames from the example's begin."""
        first = self.given if self.decoding == FORECAST else 1
        return self.stride * np.arange(first, self.n_patches) + self.patch / 2

    def decode(self, patches: Patches) -> Float[Array, "batch step feature"]:
        """Predictions of the patches that count, which are the last ones."""
        if self.decoding == TEACHER_FORCED:
            return self._predict_in_parallel(patches)
        if self.decoding == AUTOREGRESSIVE:
            return self._autoregress(patches)
        return self._forecast(patches)

    def _predict_in_parallel(self, patches: Patches) -> Patches:
        """Predictions of v2 ... vn from true patches."""
        x = self._embed(patches[:, :-1])
        memory = self._encode(x)
        for layer in self.decoder:
            x = self._call(self._decoder_layer, layer, x, memory)
        return self._to_patches(x)

    def _embed(self, patches: Patches) -> Array:
        x = self.embed(patches)
        return x + self._positions(x.shape[1])[None].astype(x.dtype)

    def _positions(self, n: int) -> Array:
        return jnp.asarray(sinusoids(n, self.width))

    def _encode(self, x: Array) -> Array:
        for layer in self.encoder:
            x = self._call(self._encoder_layer, layer, x)
        return self.encoder_norm(x)

    def _to_patches(self, x: Array) -> Array:
        return self.output(self.decoder_norm(x)).astype(jnp.float32)

    def _encoder_layer(self, layer: EncoderLayer, x: Array) -> Array:
        return layer.feed(layer.attend(x, self.causal))

    def _decoder_layer(self, layer: DecoderLayer, x: Array, memory: Array) -> Array:
        # The decoder's own attention is causal in both wirings.
        x = layer.cross(layer.attend(x, True), memory, self.causal)
        return layer.feed(x)

    def _call(self, call: Any, layer: Any, *sequences: Array) -> Array:
        return (
            rematerialised(call, layer, *sequences)
            if self.remat
            else call(layer, *sequences)
        )

    def _autoregress(self, patches: Patches) -> Patches:
        """Predictions of v2 ... vn: the encoder gets true patches, the decoder v1."""
        memory = self._encode(self._embed(patches[:, :-1]))
        memories = [layer.cross_attention.see(memory) for layer in self.decoder]

        def step(carry: Any, at: tuple[Array, Array]) -> tuple[Any, Array]:
            pasts, patch = carry
            patch, pasts = self._decode_at(
                self._embed_at(patch, at), pasts, memories, at[0]
            )
            return (pasts, patch), patch

        n = memory.shape[1]
        start = self._nothing_seen(len(self.decoder), patches), patches[:, 0]
        _, predicted = lax.scan(step, start, (jnp.arange(n), self._positions(n)))
        return jnp.moveaxis(predicted, 0, 1)

    def _forecast(self, patches: Patches) -> Patches:
        """Predictions of v(k+1) ... vn from v1 ... vk and themselves."""

        def step(carry: Any, inputs: tuple[Array, ...]) -> tuple[Any, Array]:
            (encoder, memories, decoder), patch = carry
            *at, true = inputs
            patch = jnp.where(at[0] < self.given, true, patch)
            x = self._embed_at(patch, at)
            memory, encoder = self._encode_at(x, encoder, at[0])
            memories = [
                seen.put(layer.cross_attention.see(memory), at[0])
                for layer, seen in zip(self.decoder, memories, strict=True)
            ]
            patch, decoder = self._decode_at(x, decoder, memories, at[0])
            return ((encoder, memories, decoder), patch), patch

        n = self.n_patches - 1
        depths = len(self.encoder), len(self.decoder), len(self.decoder)
        seen = tuple(self._nothing_seen(depth, patches) for depth in depths)
        inputs = jnp.arange(n), self._positions(n), jnp.moveaxis(patches[:, :-1], 1, 0)
        _, predicted = lax.scan(step, (seen, patches[:, 0]), inputs)
        return jnp.moveaxis(predicted[self.given - 1 :], 0, 1)

    def _embed_at(self, patch: Array, at: Sequence[Array]) -> Array:
        """One patch as a sequence of its own, [batch, 1, width]."""
        x = self.embed(patch[:, None])
        return x + at[1][None, None].astype(x.dtype)

    def _encode_at(
        self, x: Array, pasts: list[Seen], at: Array
    ) -> tuple[Array, list[Seen]]:
        seen = []
        for layer, past in zip(self.encoder, pasts, strict=True):
            x, past = layer.attend_at(x, past, at)
            x = layer.feed(x)
            seen.append(past)
        return self.encoder_norm(x), seen

    def _decode_at(
        self, x: Array, pasts: list[Seen], memories: list[Seen], at: Array
    ) -> tuple[Array, list[Seen]]:
        """The prediction from position `at`, and the past with that position."""
        seen = []
        for layer, past, memory in zip(self.decoder, pasts, memories, strict=True):
            x, past = layer.attend_at(x, past, at)
            x = layer.feed(layer.cross_at(x, memory, at if self.causal else None))
            seen.append(past)
        return self._to_patches(x)[:, 0], seen

    def _nothing_seen(self, depth: int, patches: Array) -> list[Seen]:
        """Empty caches of so many layers."""
        shape = len(patches), self.n_patches - 1, self.heads, self.width // self.heads
        # Of the patches' kind: under shard_map zeros alone would differ in it.
        zeros = jnp.zeros_like(patches, self.dtype, shape=shape)
        return [Seen(zeros, zeros)] * depth


def _count_patches(n_frames: int, patch: int, stride: int) -> int:
    if not 0 < stride <= patch:
        raise ValueError(
            f"detector.patch={patch}, detector.stride={stride}: must be positive, and "
            "the stride no more than the patch"
        )
    n_patches = 1 + (n_frames - patch) // stride
    if n_patches < 2:
        raise ValueError(
            f"detector.patch={patch}, detector.stride={stride}: two patches are needed, "
            f"and {n_frames} frames are too few; use a smaller patch or features.hop"
        )
    return n_patches


def _require_sizes(width: int, heads: int, *others: int) -> None:
    sizes = (width, heads, *others)
    if not all(isinstance(n, int) and n > 0 for n in sizes) or width % heads:
        raise ValueError(
            f"detector.width={width}, heads={heads}, encoder_layers, decoder_layers, "
            f"feed_forward={others}: must be positive integers, and the width a "
            "multiple of the heads"
        )


def _require_choice(field: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{field}='{value}': must be one of {', '.join(known)}")
