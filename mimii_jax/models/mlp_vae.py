"""Variational autoencoder of dense layers over flattened windows of frames."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from mimii_jax.models import Knob


class MLPVAE(nnx.Module):
    """Gaussian encoder and decoder with ReLU layers; the decoder mirrors the encoder.

    With `hidden=(400, 400)`, `latent=20` over 5 frames of 128: 858,280 parameters.

    Parameters
    ----------
    shape : of one example; it is flattened
    hidden : widths of the encoder's layers, from the input to the latent space
    latent : dimensions of the latent space
    kl_weight : weight of the KL divergence to the standard normal prior, against the
        reconstruction term; 1 is the evidence lower bound of a unit-variance decoder
    dtype : of the layers' arithmetic; parameters, latent noise and losses are float32
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
        require_widths(hidden, latent)
        self.encoder = dense_stack((prod(shape), *hidden), dtype, rngs)
        self.mean = nnx.Linear(hidden[-1], latent, dtype=dtype, rngs=rngs)
        self.log_variance = nnx.Linear(hidden[-1], latent, dtype=dtype, rngs=rngs)
        self.decoder = dense_stack((latent, *reversed(hidden)), dtype, rngs)
        self.output = nnx.Linear(hidden[0], prod(shape), dtype=dtype, rngs=rngs)
        self.kl_weight = Knob(jnp.float32(kl_weight))

    def encode(
        self, x: Float[Array, "batch feature"]
    ) -> tuple[Float[Array, "batch latent"], Float[Array, "batch latent"]]:
        """Mean and log variance of the posterior."""
        for layer in self.encoder:
            x = nnx.relu(layer(x))
        mean, log_variance = self.mean(x), self.log_variance(x)
        return mean.astype(jnp.float32), log_variance.astype(jnp.float32)

    def decode(self, z: Float[Array, "batch latent"]) -> Float[Array, "batch feature"]:
        """Mean of the decoder's Gaussian."""
        for layer in self.decoder:
            z = nnx.relu(layer(z))
        return self.output(z).astype(jnp.float32)

    def loss(
        self, x: Float[Array, "batch frame bin"], key: Array
    ) -> Float[Array, " batch"]:
        """Negative evidence lower bound per example, in nats, less its constant."""
        x = x.reshape(len(x), -1)
        mean, log_variance = self.encode(x)
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        z = mean + jnp.exp(0.5 * log_variance) * noise
        reconstruction = 0.5 * jnp.sum((x - self.decode(z)) ** 2, axis=-1)
        divergence = 0.5 * jnp.sum(
            mean**2 + jnp.exp(log_variance) - log_variance - 1, axis=-1
        )
        return reconstruction + self.kl_weight[...] * divergence

    def predict(
        self, x: Float[Array, "batch frame bin"]
    ) -> Float[Array, "batch frame bin"]:
        """Reconstruction from the posterior mean."""
        mean, _ = self.encode(x.reshape(len(x), -1))
        return self.decode(mean).reshape(x.shape)

    def error(self, x: Float[Array, "batch frame bin"]) -> Float[Array, "batch 1 bin"]:
        """Squared error of the reconstruction, mean over the frames."""
        return jnp.mean((x - self.predict(x)) ** 2, axis=1, keepdims=True)


def require_widths(hidden: Sequence[int], latent: int) -> None:
    """Refuse what is no width, and an encoder without a layer."""
    widths = (*hidden, latent)
    if not hidden or not all(isinstance(width, int) and width > 0 for width in widths):
        raise ValueError(
            f"detector.hidden={tuple(hidden)}, detector.latent={latent}: must be "
            "positive integers, at least one of them hidden"
        )


def dense_stack(widths: Sequence[int], dtype: DTypeLike, rngs: nnx.Rngs) -> nnx.List:
    """Dense layers from each width to the next."""
    return nnx.List(
        nnx.Linear(n_in, n_out, dtype=dtype, rngs=rngs)
        for n_in, n_out in pairwise(widths)
    )
