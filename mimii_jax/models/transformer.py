"""Transformer that predicts each patch of a clip from the patches before it."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, DTypeLike, Float

from mimii_jax.models.encoder_decoder import EncoderDecoder

ATTENTIONS = CAUSAL, LEAKY = ("causal", "leaky")
DECODINGS = TEACHER_FORCED, AUTOREGRESSIVE, FORECAST = (
    "teacher_forced",
    "autoregressive",
    "forecast",
)
Patches = Float[Array, "batch patch feature"]


class Transformer(nnx.Module):
    """Encoder and decoder over patches of P frames times all bins.

    Patches v1 ... v(n-1) go into the encoder and into the decoder, whose outputs are
    v2 ... vn. Every attention is causal: the prediction of v(t+1) sees v1 ... vt and
    nothing else. What the errors that count are predicted from is the `decoding`:

    - "teacher_forced": encoder and decoder get the true patches, as in training
    - "autoregressive": the encoder gets the true patches; the decoder gets v1, then
      its own predictions
    - "forecast": both get the first `given` patches, then the predictions; only the
      patches after those given count

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
        sizes = {"width": width, "heads": heads, "feed_forward": feed_forward}
        layers = {"encoder_layers": encoder_layers, "decoder_layers": decoder_layers}
        _require_sizes(sizes | layers)
        n_patches = _count_patches(n_frames, patch, stride)
        if decoding == FORECAST:
            _require_forecast(attention, given, n_patches)
        self.network = EncoderDecoder(
            patch * n_bins,
            n_patches - 1,
            width=width,
            heads=heads,
            hidden=feed_forward,
            **layers,
            causal=attention == CAUSAL,
            remat=remat,
            dtype=dtype,
            rngs=rngs,
        )
        self.patch, self.stride, self.n_patches = patch, stride, n_patches
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
        predicted = self.network.in_parallel(patches[:, :-1])
        return jnp.mean((predicted - patches[:, 1:]) ** 2, axis=(1, 2))

    def decode(self, patches: Patches) -> Float[Array, "batch step feature"]:
        """Predictions of the patches that count, which are the last ones."""
        if self.decoding == TEACHER_FORCED:
            return self.network.in_parallel(patches[:, :-1])
        if self.decoding == AUTOREGRESSIVE:
            return self.network.autoregress(patches[:, :-1])
        return self.network.forecast(patches[:, :-1], self.given)

    def error(
        self, x: Float[Array, "batch frame bin"]
    ) -> Float[Array, "batch step bin"]:
        """Squared error of each patch that counts, mean over its frames."""
        patches = self.patches(x)
        predicted = self.decode(patches)
        n_steps = predicted.shape[1]
        squares = (predicted - patches[:, -n_steps:]) ** 2
        by_frame = squares.reshape(len(x), n_steps, self.patch, x.shape[2])
        return jnp.mean(by_frame, axis=2)

    def predict(
        self, x: Float[Array, "batch frame bin"]
    ) -> Float[Array, "batch frame bin"]:
        """Predicted frames: of each patch that counts those that it adds, else NaN."""
        predicted = self.decode(self.patches(x))
        n_steps = predicted.shape[1]
        by_frame = predicted.reshape(len(x), n_steps, self.patch, x.shape[2])
        added = by_frame[:, :, self.patch - self.stride :]
        added = added.reshape(len(x), n_steps * self.stride, x.shape[2])
        end = self.patch + (self.n_patches - 1) * self.stride
        around = ((0, 0), (end - added.shape[1], x.shape[1] - end), (0, 0))
        return jnp.pad(added, around, constant_values=np.nan)

    def segment_centres(self) -> Float[np.ndarray, " step"]:
        """The middle of each patch that counts, in frames from the example's begin."""
        first = self.given if self.decoding == FORECAST else 1
        return self.stride * np.arange(first, self.n_patches) + self.patch / 2


def _count_patches(n_frames: int, patch: int, stride: int) -> int:
    fields = f"detector.patch={patch}, detector.stride={stride}"
    if not 0 < stride <= patch:
        raise ValueError(
            f"{fields}: must be positive, and the stride no more than the patch"
        )
    n_patches = 1 + (n_frames - patch) // stride
    if n_patches < 2:
        raise ValueError(
            f"{fields}: {n_frames} frames are too few for two patches; use a smaller "
            "patch or features.hop"
        )
    return n_patches


def _require_sizes(sizes: dict[str, int]) -> None:
    for field, value in sizes.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"detector.{field}={value}: must be a positive integer")
    width, heads = sizes["width"], sizes["heads"]
    if width % heads:
        raise ValueError(
            f"detector.width={width}: must be a multiple of detector.heads={heads}"
        )


def _require_forecast(attention: str, given: int, n_patches: int) -> None:
    if attention == LEAKY:
        raise ValueError(
            "scoring.decoding='forecast': needs detector.attention='causal', since a "
            "leaky encoder sees patches that are not there yet"
        )
    if not 0 < given < n_patches:
        raise ValueError(
            f"scoring.given={given}: must be from 1 to {n_patches - 1}, since a clip "
            f"has {n_patches} patches and one at least is to be predicted"
        )


def _require_choice(field: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"{field}='{value}': must be one of {', '.join(known)}")
