"""Variational autoencoder of dense layers over flattened windows of frames."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from mimii_jax.models.vae import VAE, require_widths


class MLPVAE(VAE):
    """Gaussian encoder and decoder with ReLU layers; the decoder mirrors the encoder.

    With `hidden=(400, 400)`, `latent=20` over 5 frames of 128: 858,280 parameters.

    Parameters
    ----------
    shape : of one example; it is flattened
    hidden : widths of the encoder's layers, from the input to the latent space
    latent, kl_weight, dtype : as for `VAE`
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        hidden: Sequence[int],
        latent: int,
        kl_weight: float,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        require_widths("hidden", hidden, latent)
        self.encoder = dense_stack((prod(shape), *hidden), dtype, rngs)
        super().__init__(hidden[-1], latent, kl_weight, dtype, rngs)
        self.decoder = dense_stack((latent, *reversed(hidden)), dtype, rngs)
        self.output = nnx.Linear(hidden[0], prod(shape), dtype=dtype, rngs=rngs)
        self.n_frames = shape[0]

    def encode(
        self, x: Float[Array, "batch ..."]
    ) -> tuple[Float[Array, "batch latent"], Float[Array, "batch latent"]]:
        """Mean and log variance of the posterior."""
        x = x.reshape(len(x), -1)
        for layer in self.encoder:
            x = nnx.relu(layer(x))
        return self.posterior(x)

    def decode(self, z: Float[Array, "batch latent"]) -> Float[Array, "batch feature"]:
        """Mean of the decoder's Gaussian."""
        for layer in self.decoder:
            z = nnx.relu(layer(z))
        return self.output(z).astype(jnp.float32)

    def error(self, x: Float[Array, "batch frame bin"]) -> Float[Array, "batch 1 bin"]:
        """Squared error of the reconstruction, mean over the frames."""
        return jnp.mean((x - self.predict(x)) ** 2, axis=1, keepdims=True)

    def segment_centres(self) -> Float[np.ndarray, " 1"]:
        """Centre of the window, in frames from its start."""
        return np.array([self.n_frames / 2])


def dense_stack(widths: Sequence[int], dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.List:
    """Dense layers from each width to the next."""
    return nnx.List(
        nnx.Linear(n_in, n_out, dtype=dtype, rngs=rngs)
        for n_in, n_out in pairwise(widths)
    )
