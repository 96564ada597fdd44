"""Gaussian likelihood of errors, with unit or learned variances."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from mimii_jax.errors import require

LIKELIHOODS = SQUARED, GAUSSIAN = ("squared", "gaussian")
BOUND = 6.0  # of the log variances, so that none vanishes or explodes


def n_heads(likelihood: str) -> int:
    """Outputs of a network per number: mean, and the variance if it is learned."""
    return 2 if likelihood == GAUSSIAN else 1


def log_variance(output: Float[Array, "..."]) -> Float[Array, "..."]:
    """Log variance from a network's output, within +-`BOUND`."""
    return BOUND * jnp.tanh(output / BOUND)


def surprise(
    residual: Float[Array, "..."], output: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Negative log-likelihood in nats, without its constant log(2 pi) / 2."""
    log = log_variance(output)
    return 0.5 * (log + residual**2 * jnp.exp(-log))


def require_likelihood(likelihood: str) -> None:
    """Refuse an unknown likelihood."""
    require(
        likelihood in LIKELIHOODS,
        f"detector.likelihood='{likelihood}': must be one of {', '.join(LIKELIHOODS)}",
    )


def require_gaussian(likelihood: str) -> None:
    """Refuse to score by variances that aren't learned."""
    require(
        likelihood == GAUSSIAN,
        "scoring.representation='nll': needs detector.likelihood='gaussian'",
    )
