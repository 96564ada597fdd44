"""Likelihoods and other representations of the models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.stats import norm
from slowly import slow

from mimii_jax.errors import ConfigError
from mimii_jax.models.conv_vae import ConvVAE
from mimii_jax.models.likelihood import surprise
from mimii_jax.models.mlp import MLPAE, MLPVAE

SHAPE = (6, 5)
CONV = {"channels": (3,), "strides": ((2, 2),), "kernel_blocks": 2, "segment": 2}
MODELS = {
    "mlp_vae": (MLPVAE, {"hidden": (8,), "kl_weight": 0.5}),
    "mlp_ae": (MLPAE, {"hidden": (8,), "offset": 1.0, "scale": 2.0}),
    "conv_vae": (ConvVAE, {**CONV, "kl_weight": 0.5}),
}
X = jax.random.normal(jax.random.key(0), (4, *SHAPE))


def build(name, likelihood):
    kind, fields = MODELS[name]
    rngs = nnx.Rngs(0)
    return kind(SHAPE, **fields, latent=2, likelihood=likelihood, rngs=rngs)


def test_surprise_is_that_of_a_gaussian_of_bounded_variance():
    residual, output = np.float32([0, 1, -2, 3]), np.float32([0, 1, -2, 50])
    log_variance = 6 * np.tanh(output / 6)
    expected = -norm.logpdf(residual, scale=np.exp(log_variance / 2))
    found = surprise(jnp.asarray(residual), jnp.asarray(output))
    np.testing.assert_allclose(found, expected - np.log(2 * np.pi) / 2, rtol=1e-5)


@pytest.mark.parametrize("name", ["mlp_ae", slow("mlp_vae"), slow("conv_vae")])
def test_learned_variances_have_a_head_of_their_own(name):
    model = build(name, "gaussian")
    mean, output = np.moveaxis(np.asarray(jax.jit(model.heads)(X)), 1, 0)
    np.testing.assert_array_equal(jax.jit(model.predict)(X), mean)
    by_hand = surprise((X - mean) / model.unit, jnp.asarray(output))
    found = jax.jit(model.nll)(X)
    assert found.shape == jax.jit(model.error)(X).shape
    np.testing.assert_allclose(found, model.by_segment(by_hand), rtol=1e-4, atol=1e-5)
    loss, gradient = jax.jit(
        jax.value_and_grad(lambda x: jnp.sum(model.loss(x, jax.random.key(1))))
    )(X)
    assert np.isfinite(loss)
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("name", MODELS)
def test_without_learned_variances_there_is_no_likelihood(name):
    with pytest.raises(ConfigError, match=r"detector\.likelihood='gaussian'"):
        build(name, "squared").nll(X)
    with pytest.raises(ConfigError, match=r"detector\.likelihood='poisson'"):
        build(name, "poisson")


@pytest.mark.parametrize("name", ["mlp_vae", "conv_vae"])
@pytest.mark.parametrize("likelihood", ["squared", "gaussian"])
def test_the_evidence_bound_is_that_of_the_posterior_mean(name, likelihood):
    model = build(name, likelihood)
    mean, log_variance = jax.jit(model.encode)(X)
    terms = model.surprise(X, jax.jit(model.decode)(mean)).sum(axis=(1, 2))
    variance = np.exp(np.asarray(log_variance))
    divergence = (np.asarray(mean) ** 2 + variance - np.log(variance) - 1) / 2
    expected = (terms + 0.5 * divergence.sum(axis=1)) / 30
    np.testing.assert_allclose(jax.jit(model.elbo)(X)[:, 0, 0], expected, rtol=1e-5)
    np.testing.assert_array_equal(jax.jit(model.latent)(X)[:, 0], mean)
