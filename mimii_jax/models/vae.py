"""What all variational autoencoders share: latent noise, divergence, loss in nats."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from mimii_jax.models import Knob


class VAE(nnx.Module):
    """Gaussian posterior, standard normal prior, Gaussian decoder of unit variance.

    A subclass builds its encoder, calls this initialiser, builds its decoder, and
    defines `encode` and `decode`.

    Parameters
    ----------
    width : of what the encoder's last layer gives
    latent : dimensions of the latent space
    kl_weight : weight of the KL divergence to the prior, against the reconstruction
        term; 1 is the evidence lower bound
    dtype : of the layers' arithmetic; parameters, latent noise and losses are float32
    """

    def __init__(
        self,
        width: int,
        latent: int,
        kl_weight: float,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ) -> None:
        self.mean = nnx.Linear(width, latent, dtype=dtype, rngs=rngs)
        self.log_variance = nnx.Linear(width, latent, dtype=dtype, rngs=rngs)
        self.kl_weight = Knob(jnp.float32(kl_weight))

    def encode(
        self, x: Float[Array, "batch ..."]
    ) -> tuple[Float[Array, "batch latent"], Float[Array, "batch latent"]]:
        """Mean and log variance of the posterior."""
        raise NotImplementedError

    def decode(self, z: Float[Array, "batch latent"]) -> Float[Array, "batch ..."]:
        """Mean of the decoder's Gaussian, of any shape that holds an example."""
        raise NotImplementedError

    def posterior(
        self, y: Float[Array, "batch width"]
    ) -> tuple[Float[Array, "batch latent"], Float[Array, "batch latent"]]:
        """Mean and log variance, of the encoder's last layer."""
        mean, log_variance = self.mean(y), self.log_variance(y)
        return mean.astype(jnp.float32), log_variance.astype(jnp.float32)

    def loss(
        self, x: Float[Array, "batch frame bin"], key: Array
    ) -> Float[Array, " batch"]:
        """Negative evidence lower bound per example, in nats, less its constant."""
        mean, log_variance = self.encode(x)
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        z = mean + jnp.exp(0.5 * log_variance) * noise
        away = x - self.decode(z).reshape(x.shape)
        reconstruction = 0.5 * jnp.sum(away**2, axis=(1, 2))
        divergence = 0.5 * jnp.sum(
            mean**2 + jnp.exp(log_variance) - log_variance - 1, axis=-1
        )
        return reconstruction + self.kl_weight[...] * divergence

    def predict(
        self, x: Float[Array, "batch frame bin"]
    ) -> Float[Array, "batch frame bin"]:
        """Reconstruction from the posterior mean."""
        mean, _ = self.encode(x)
        return self.decode(mean).reshape(x.shape)


def require_widths(name: str, widths: Sequence[int], latent: int) -> None:
    """Refuse what is no width, and an encoder without a layer."""
    every = (*widths, latent)
    if not widths or not all(isinstance(width, int) and width > 0 for width in every):
        raise ValueError(
            f"detector.{name}={tuple(widths)}, detector.latent={latent}: must be "
            f"positive integers, at least one of them {name}"
        )
