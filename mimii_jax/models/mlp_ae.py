"""Dense autoencoder, as wide as that of the DCASE 2020 Task 2 baseline."""

from collections.abc import Sequence
from math import prod

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from mimii_jax.models.mlp_vae import dense_stack


class MLPAE(nnx.Module):
    """Autoencoder of dense layers with layer normalisation and ReLU.

    The baseline (Koizumi et al. 2020) has batch normalisation in its place, which
    needs running statistics beside the parameters. What batch normalisation does for
    decibels, far from zero, a fixed `offset` and `scale` do here; without them the
    layers see little but the offset and the training stands still. The bottleneck is
    linear: of so few ReLUs too many would be dead.

    Parameters
    ----------
    shape : of one example; it is flattened
    hidden : widths of the encoder's layers; the decoder mirrors them
    latent : width of the bottleneck
    offset, scale : the layers see (x - offset) / scale, in units of x; scale > 0
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        hidden: Sequence[int],
        latent: int,
        offset: float,
        scale: float,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.encoder = dense_stack((prod(shape), *hidden), dtype, rngs)
        self.encoder_norms = layer_norms(hidden, dtype, rngs)
        self.bottleneck = nnx.Linear(hidden[-1], latent, dtype=dtype, rngs=rngs)
        mirrored = tuple(reversed(hidden))
        self.decoder = dense_stack((latent, *mirrored), dtype, rngs)
        self.decoder_norms = layer_norms(mirrored, dtype, rngs)
        self.output = nnx.Linear(hidden[0], prod(shape), dtype=dtype, rngs=rngs)
        self.n_frames = shape[0]
        self.offset = offset
        self.scale = scale

    def loss(
        self, x: Float[Array, "batch frame bin"], key: Array
    ) -> Float[Array, " batch"]:
        """Squared error in units of `scale`; the key is not used."""
        del key
        return jnp.mean(self.error(x), axis=(1, 2)) / self.scale**2

    def predict(
        self, x: Float[Array, "batch frame bin"]
    ) -> Float[Array, "batch frame bin"]:
        """Reconstruction, in units of x."""
        y = (x.reshape(len(x), -1) - self.offset) / self.scale
        for layer, norm in zip(self.encoder, self.encoder_norms, strict=True):
            y = nnx.relu(norm(layer(y)))
        y = self.bottleneck(y)
        for layer, norm in zip(self.decoder, self.decoder_norms, strict=True):
            y = nnx.relu(norm(layer(y)))
        y = self.output(y).astype(jnp.float32)
        return self.scale * y.reshape(x.shape) + self.offset

    def error(self, x: Float[Array, "batch frame bin"]) -> Float[Array, "batch 1 bin"]:
        """Squared error of the reconstruction, mean over the frames."""
        return jnp.mean((x - self.predict(x)) ** 2, axis=1, keepdims=True)

    def segment_centres(self) -> Float[np.ndarray, " 1"]:
        """Centre of the window, in frames from its start."""
        return np.array([self.n_frames / 2])


def layer_norms(widths: Sequence[int], dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.List:
    """A layer normalisation for each width."""
    return nnx.List(nnx.LayerNorm(width, dtype=dtype, rngs=rngs) for width in widths)
