"""Dense autoencoders: sizes, losses and errors."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from slowly import slow

from configs import mlp_ae, mlp_vae
from mimii_jax.config import build
from mimii_jax.errors import ConfigError
from mimii_jax.models.mlp import MLPAE, MLPVAE

SHAPE = (3, 4)
AE = {"hidden": (6, 5), "latent": 2, "offset": -3.0, "scale": 2.0}


@cache
def vae(kl_weight=1.0):
    return MLPVAE(
        SHAPE, hidden=(16, 8), latent=3, kl_weight=kl_weight, rngs=nnx.Rngs(0)
    )


def batch(rows=4):
    return jax.random.normal(jax.random.key(5), (rows, 12)).reshape(rows, *SHAPE)


def flat(x):
    return x.reshape(len(x), -1)


@partial(jax.jit, static_argnums=0)
def errors(model, x):
    return model.error(x)


def mse(model, x):
    return np.mean(errors(model, x), axis=(1, 2))


@partial(jax.jit, static_argnums=0)
def losses(model, x, key):
    return model.loss(x, key)


def as_configured(config):
    """The network that a run builds, for windows of its config's front end."""
    shape = config.windows.width, config.features.n_mels
    spec = build(config).detector.model
    return nnx.eval_shape(lambda: spec(shape, rngs=nnx.Rngs(0)))


def test_the_reference_vae_has_the_reported_number_of_parameters():
    model = as_configured(mlp_vae.get_config("reference"))
    parameters = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(leaf.size for leaf in parameters) == 858_280
    assert model.output.kernel.shape == (400, 640)


def test_the_autoencoder_has_the_official_widths():
    model = as_configured(mlp_ae.get_config())
    layers = [*model.encoder, model.bottleneck, *model.decoder, model.output]
    assert [layer.kernel.shape for layer in layers] == [
        (640, 128),
        (128, 128),
        (128, 128),
        (128, 128),
        (128, 8),
        (8, 128),
        (128, 128),
        (128, 128),
        (128, 128),
        (128, 640),
    ]
    norms = [*model.encoder_norms, *model.decoder_norms]
    assert [norm.scale.shape[0] for norm in norms] == [128] * 8


def test_the_loss_of_the_vae_is_the_negative_evidence_lower_bound():
    """By hand: unit-variance Gaussian decoder, one draw, closed-form divergence."""
    model, x, key = vae(0.3), batch(), jax.random.key(1)
    mean, log_variance = jax.jit(model.encode)(flat(x))
    sd = jnp.exp(log_variance / 2)
    z = mean + sd * jax.random.normal(key, mean.shape)
    squares = jnp.sum((flat(x) - flat(jax.jit(model.decode)(z))) ** 2, axis=1) / 2
    divergence = jnp.sum(-jnp.log(sd) + (sd**2 + mean**2) / 2 - 0.5, axis=1)
    expected = squares + 0.3 * divergence
    np.testing.assert_allclose(losses(model, x, key), expected, rtol=1e-5)
    assert not np.any(losses(model, x, jax.random.key(2)) == losses(model, x, key))


def test_the_divergence_equals_its_monte_carlo_estimate():
    x, key = batch(), jax.random.key(1)
    divergence = losses(vae(1.0), x, key) - losses(vae(0.0), x, key)
    mean, log_variance = jax.jit(vae().encode)(flat(x))
    mean, sd = (np.asarray(v, np.float64) for v in (mean, jnp.exp(log_variance / 2)))
    noise = np.random.default_rng(0).normal(size=(100_000, *mean.shape))
    z = mean + sd * noise
    samples = np.sum((z**2 - noise**2) / 2 - np.log(sd), axis=-1)  # log q - log p
    spread = samples.std(0) / np.sqrt(len(samples))
    assert np.all(np.abs(samples.mean(0) - divergence) < 5 * spread)
    assert np.all(divergence > 20 * spread)  # so that the comparison says something


def test_the_autoencoder_by_hand():
    model = MLPAE(SHAPE, **AE, rngs=nnx.Rngs(0))
    x = np.asarray(flat(batch()), np.float64)

    def dense(y, layer):
        return y @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...])

    def hidden(y, layers):
        for layer in layers:
            y = dense(y, layer)
            y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-6)
            y = np.maximum(y, 0)
        return y

    y = dense(hidden((x + 3) / 2, model.encoder), model.bottleneck)
    y = dense(hidden(y, model.decoder), model.output)
    error = np.mean((x - (2 * y - 3)) ** 2, axis=1)
    np.testing.assert_allclose(mse(model, batch()), error, rtol=1e-4)
    loss = losses(model, batch(), jax.random.key(0))
    np.testing.assert_allclose(loss, error / 4, rtol=1e-4)


@pytest.mark.parametrize("kind", [MLPVAE, MLPAE])
def test_an_example_does_not_depend_on_the_others(kind):
    model = vae() if kind is MLPVAE else MLPAE(SHAPE, **AE, rngs=nnx.Rngs(0))
    one = [errors(model, batch()[i : i + 1])[0] for i in range(4)]
    np.testing.assert_allclose(errors(model, batch()), one, rtol=1e-6)
    assert len(set(mse(model, batch()).tolist())) == 4


@pytest.mark.parametrize(
    "fields", [{"hidden": ()}, {"hidden": (3, 0)}, {"latent": 0}, {"scale": 0.0}]
)
def test_bad_sizes_are_refused(fields):
    name = next(iter(fields))
    with pytest.raises(ConfigError, match=f"detector.{name}=.*positive"):
        MLPAE(SHAPE, **AE | fields, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("config", [slow(mlp_vae.get_config()), mlp_ae.get_config()])
def test_precision_is_the_dtype_of_products_alone(config):
    """Parameters, losses and errors stay float32."""
    x, key = jax.random.normal(jax.random.key(0), (4, 5, 128)), jax.random.key(0)
    spec = build(config).detector.model
    wide, mixed = (
        replace(spec, dtype=dtype)((5, 128), rngs=nnx.Rngs(0))
        for dtype in (jnp.float32, jnp.bfloat16)
    )

    def products(model):
        text = str(jax.make_jaxpr(partial(model.loss, key=key))(x))
        return {
            line.split(":")[1].split("[")[0]
            for line in text.splitlines()
            if "dot_general" in line
        }

    assert (products(wide), products(mixed)) == ({"f32"}, {"bf16"})
    parameters = jax.tree.leaves(nnx.state(mixed, nnx.Param))
    assert {leaf.dtype for leaf in parameters} == {jnp.dtype("float32")}
    for a, b in (
        (mse(mixed, x), mse(wide, x)),
        (losses(mixed, x, key), losses(wide, x, key)),
    ):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=0.02)
        assert np.any(a != b)


def test_bfloat16_is_for_accelerators(monkeypatch):
    config = mlp_vae.get_config()
    config.train.precision = "bfloat16"
    assert build(config).detector.model.dtype == jnp.float32
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert build(config).detector.model.dtype == jnp.bfloat16
