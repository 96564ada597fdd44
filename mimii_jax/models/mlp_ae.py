"""Dense autoencoder, as wide as that of the DCASE 2020 Task 2 baseline."""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from mimii_jax.models.mlp_vae import dense_stack, require_widths


class MLPAE(nnx.Module):
    """Autoencoder of dense layers, each followed by layer normalisation and ReLU.

    The baseline (Koizumi et al. 2020) has batch normalisation in its place, which
    needs running statistics beside the parameters.

    Parameters
    ----------
    n_features : size of one example
    hidden : widths of the encoder's layers; the decoder mirrors them
    latent : width of the bottleneck
    """

    def __init__(
        self, n_features: int, *, hidden: Sequence[int], latent: int, rngs: nnx.Rngs
    ) -> None:
        require_widths(hidden, latent)
        widths = (*hidden, latent, *reversed(hidden))
        self.layers = dense_stack((n_features, *widths), rngs)
        self.norms = nnx.List(nnx.LayerNorm(width, rngs=rngs) for width in widths)
        self.output = nnx.Linear(hidden[0], n_features, rngs=rngs)

    def loss(
        self, x: Float[Array, "batch feature"], key: Array
    ) -> Float[Array, " batch"]:
        """The error; the key is not used."""
        del key
        return self.error(x)

    def error(self, x: Float[Array, "batch feature"]) -> Float[Array, " batch"]:
        """Mean squared error of the reconstruction."""
        y = x
        for layer, norm in zip(self.layers, self.norms, strict=True):
            y = nnx.relu(norm(layer(y)))
        return jnp.mean((x - self.output(y)) ** 2, axis=-1)
