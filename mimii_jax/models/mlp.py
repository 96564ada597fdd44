"""Dense autoencoders over flattened windows of frames, and the base of all VAEs."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from mimii_jax.errors import require, require_positive
from mimii_jax.models.likelihood import (
    SQUARED,
    n_heads,
    require_gaussian,
    require_likelihood,
    surprise,
)
from mimii_jax.models.model import Examples, RunVariable, Segments

Heads = Float[Array, "batch head frame bin"]
Latent = Float[Array, "batch latent"]


class Autoencoder(nnx.Module):
    """An example is judged as one segment, by its reconstruction.

    With the likelihood "gaussian" the decoder has a second head, the log variances.
    """

    n_frames: int
    likelihood: str
    unit = 1.0  # of the variances, in units of x

    def heads(self, x: Examples) -> Heads:
        """Reconstruction in units of x, and before `log_variance` that of its error."""
        raise NotImplementedError

    def latent(self, x: Examples) -> Float[Array, "batch 1 latent"]:
        """Bottleneck, as one segment."""
        raise NotImplementedError

    def predict(self, x: Examples) -> Examples:
        """Reconstruction, in units of x."""
        return self.heads(x)[:, 0]

    def error(self, x: Examples) -> Segments:
        """Squared error of the reconstruction, mean over the frames."""
        return self.by_segment((x - self.predict(x)) ** 2)

    def nll(self, x: Examples) -> Segments:
        """Negative log-likelihood in nats (`surprise`), mean over the frames."""
        require_gaussian(self.likelihood)
        return self.by_segment(self.surprise(x, self.heads(x)))

    def surprise(self, x: Examples, heads: Heads) -> Examples:
        """Negative log-likelihood; with unit variance unless that is learned."""
        residual = (x - heads[:, 0]) / self.unit
        if self.likelihood == SQUARED:
            return 0.5 * residual**2
        return surprise(residual, heads[:, 1])

    def by_segment(self, x: Examples) -> Segments:
        """Mean over the frames of each segment."""
        return jnp.mean(x, axis=1, keepdims=True)

    def segment_centres(self) -> Float[np.ndarray, " segment"]:
        """Middle of the example, in frames from its start."""
        return np.array([self.n_frames / 2])


class VAE(Autoencoder):
    """Gaussian posterior, standard normal prior, Gaussian decoder.

    A subclass builds its encoder, calls this initialiser, builds its decoder, and
    defines `encode` and `decode`.

    `dtype` is that of the layers' arithmetic; parameters, noise and losses are float32.
    """

    def __init__(
        self,
        n_frames: int,
        width: int,  # of the encoder's last layer
        latent: int,
        kl_weight: float,  # of the divergence to the prior; 1: evidence lower bound
        likelihood: str,
        **layer: Any,
    ) -> None:
        require_likelihood(likelihood)
        self.n_frames, self.likelihood = n_frames, likelihood
        self.mean = nnx.Linear(width, latent, **layer)
        self.log_variance = nnx.Linear(width, latent, **layer)
        self.kl_weight = RunVariable(jnp.float32(kl_weight))

    def encode(self, x: Float[Array, "batch ..."]) -> tuple[Latent, Latent]:
        """Mean and log variance of the posterior."""
        raise NotImplementedError

    def decode(self, z: Latent) -> Heads:
        """Mean of the decoder's Gaussian, and its log variance if that is learned."""
        raise NotImplementedError

    def posterior(self, y: Float[Array, "batch width"]) -> tuple[Latent, Latent]:
        """Mean and log variance, from the encoder's last layer."""
        mean, log_variance = self.mean(y), self.log_variance(y)
        return mean.astype(jnp.float32), log_variance.astype(jnp.float32)

    def loss(self, x: Examples, key: Array) -> Float[Array, " batch"]:
        """Negative evidence lower bound per example, in nats, without its constant."""
        mean, log_variance = self.encode(x)
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        z = mean + jnp.exp(0.5 * log_variance) * noise
        return self._bound(x, self.decode(z), mean, log_variance)

    def heads(self, x: Examples) -> Heads:
        """Reconstruction from the posterior mean."""
        return self.decode(self.encode(x)[0])

    def latent(self, x: Examples) -> Float[Array, "batch 1 latent"]:
        """Posterior mean."""
        return self.encode(x)[0][:, None]

    def elbo(self, x: Examples) -> Float[Array, "batch 1 1"]:
        """Negative evidence lower bound in nats per number, at the posterior mean."""
        mean, log_variance = self.encode(x)
        bound = self._bound(x, self.decode(mean), mean, log_variance)
        return bound[:, None, None] / prod(x.shape[1:])

    def _bound(
        self, x: Examples, heads: Heads, mean: Latent, log_variance: Latent
    ) -> Float[Array, " batch"]:
        divergence = 0.5 * jnp.sum(
            mean**2 + jnp.exp(log_variance) - log_variance - 1, axis=-1
        )
        reconstruction = jnp.sum(self.surprise(x, heads), axis=(1, 2))
        return reconstruction + self.kl_weight[...] * divergence


class MLPVAE(VAE):
    """Gaussian encoder and decoder of ReLU layers; the decoder mirrors the encoder.

    With `hidden=(400, 400)`, `latent=20` over 5 frames of 128: 858,280 parameters.
    """

    def __init__(
        self,
        shape: Sequence[int],  # frames, bins
        *,
        hidden: Sequence[int],  # widths from the input to the latent space
        latent: int,
        kl_weight: float,
        likelihood: str = SQUARED,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        require_widths("hidden", hidden, latent)
        layer: Any = {"dtype": dtype, "rngs": rngs}
        self.encoder = nnx.List(_dense((prod(shape), *hidden), layer))
        super().__init__(shape[0], hidden[-1], latent, kl_weight, likelihood, **layer)
        self.decoder = nnx.List(_dense((latent, *reversed(hidden)), layer))
        self.shape = (n_heads(likelihood), *shape)
        self.output = nnx.Linear(hidden[0], prod(self.shape), **layer)

    def encode(self, x: Float[Array, "batch ..."]) -> tuple[Latent, Latent]:
        """Mean and log variance of the posterior."""
        x = x.reshape(len(x), -1)
        for layer in self.encoder:
            x = nnx.relu(layer(x))
        return self.posterior(x)

    def decode(self, z: Latent) -> Heads:
        """Mean of the decoder's Gaussian, and its log variance if that is learned."""
        for layer in self.decoder:
            z = nnx.relu(layer(z))
        return self.output(z).astype(jnp.float32).reshape(len(z), *self.shape)


class MLPAE(Autoencoder):
    """Autoencoder with layer normalisation and ReLU, as wide as the DCASE baseline.

    The baseline (Koizumi et al. 2020) has batch normalisation, which needs running
    statistics beside the parameters. The fixed `offset` and `scale` do what it does for
    decibels, which are far from zero: without them training hardly moves. The
    bottleneck is linear, since most of a few ReLUs could be dead.
    """

    def __init__(
        self,
        shape: Sequence[int],  # frames, bins
        *,
        hidden: Sequence[int],  # widths of the encoder; the decoder mirrors them
        latent: int,  # width of the bottleneck
        offset: float,
        scale: float,  # the layers see (x - offset) / scale
        likelihood: str = SQUARED,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        require_widths("hidden", hidden, latent)
        require_positive("detector", scale=scale)
        require_likelihood(likelihood)
        layer: Any = {"dtype": dtype, "rngs": rngs}
        mirrored = tuple(reversed(hidden))
        self.encoder = nnx.List(_dense((prod(shape), *hidden), layer))
        self.encoder_norms = nnx.List(nnx.LayerNorm(n, **layer) for n in hidden)
        self.bottleneck = nnx.Linear(hidden[-1], latent, **layer)
        self.decoder = nnx.List(_dense((latent, *mirrored), layer))
        self.decoder_norms = nnx.List(nnx.LayerNorm(n, **layer) for n in mirrored)
        self.shape = (n_heads(likelihood), *shape)
        self.output = nnx.Linear(hidden[0], prod(self.shape), **layer)
        self.n_frames, self.likelihood = shape[0], likelihood
        self.offset, self.unit = offset, scale

    def loss(self, x: Examples, key: Array) -> Float[Array, " batch"]:
        """Squared error in units of `scale`, or likelihood; the key isn't used."""
        del key
        factor = 2 if self.likelihood == SQUARED else 1
        return factor * jnp.mean(self.surprise(x, self.heads(x)), axis=(1, 2))

    def heads(self, x: Examples) -> Heads:
        """Reconstruction from the bottleneck."""
        y = self.latent(x)[:, 0]
        for layer, norm in zip(self.decoder, self.decoder_norms, strict=True):
            y = nnx.relu(norm(layer(y)))
        y = self.output(y).astype(jnp.float32).reshape(len(x), *self.shape)
        return y.at[:, 0].set(self.unit * y[:, 0] + self.offset)

    def latent(self, x: Examples) -> Float[Array, "batch 1 latent"]:
        """Bottleneck, before the decoder."""
        y = (x.reshape(len(x), -1) - self.offset) / self.unit
        for layer, norm in zip(self.encoder, self.encoder_norms, strict=True):
            y = nnx.relu(norm(layer(y)))
        return self.bottleneck(y).astype(jnp.float32)[:, None]


def require_widths(field: str, widths: Sequence[int], latent: int) -> None:
    """Raise ConfigError unless there are layers, all of positive width."""
    positive = all(isinstance(n, int) and n > 0 for n in (*widths, latent))
    require(
        bool(widths) and positive,
        f"detector.{field}={tuple(widths)}, detector.latent={latent}: must be positive "
        f"integers, with at least one layer",
    )


def _dense(widths: Sequence[int], layer: dict[str, Any]) -> list[nnx.Linear]:
    """Dense layers from each width to the next."""
    return [nnx.Linear(*sizes, **layer) for sizes in pairwise(widths)]
