"""The networks: sizes, losses and errors."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import mlp_ae, mlp_vae
from mimii_jax.models.mlp_ae import MLPAE
from mimii_jax.models.mlp_vae import MLPVAE
from mimii_jax.run import build_detector

SHAPE = (3, 4)


def vae(kl_weight=1.0):
    return MLPVAE(
        (3, 4), hidden=(16, 8), latent=3, kl_weight=kl_weight, rngs=nnx.Rngs(0)
    )


def batch(rows=4):
    return jax.random.normal(jax.random.key(5), (rows, 12)).reshape(rows, *SHAPE)


def flat(x):
    return x.reshape(len(x), -1)


def mse(model, x):
    return np.mean(model.error(x), axis=(1, 2))


def parameters(model):
    return [x.shape for x in jax.tree.leaves(nnx.state(model, nnx.Param))]


def as_configured(config):
    """The network that a run builds, for windows of its config's front end."""
    shape = config.windows.width, config.features.n_mels
    build = build_detector(config).build
    return nnx.eval_shape(lambda: build(shape, rngs=nnx.Rngs(0)))


def test_the_reference_vae_has_the_reported_number_of_parameters():
    model = as_configured(mlp_vae.get_config("reference"))
    assert sum(map(np.prod, parameters(model))) == 858_280
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
    model, x, key = vae(), batch(), jax.random.key(1)
    mean, log_variance = model.encode(flat(x))
    sd = jnp.exp(log_variance / 2)
    z = mean + sd * jax.random.normal(key, mean.shape)
    squares = jnp.sum((flat(x) - model.decode(z)) ** 2, axis=1) / 2
    divergence = jnp.sum(-jnp.log(sd) + (sd**2 + mean**2) / 2 - 0.5, axis=1)
    np.testing.assert_allclose(model.loss(x, key), squares + divergence, rtol=1e-5)


def test_the_divergence_equals_its_monte_carlo_estimate():
    x, key = batch(), jax.random.key(1)
    divergence = vae(1.0).loss(x, key) - vae(0.0).loss(x, key)
    mean, log_variance = vae().encode(flat(x))
    mean, sd = (np.asarray(v, np.float64) for v in (mean, jnp.exp(log_variance / 2)))
    noise = np.random.default_rng(0).normal(size=(100_000, *mean.shape))
    z = mean + sd * noise
    samples = np.sum((z**2 - noise**2) / 2 - np.log(sd), axis=-1)  # log q - log p
    spread = samples.std(0) / np.sqrt(len(samples))
    assert np.all(np.abs(samples.mean(0) - divergence) < 5 * spread)
    assert np.all(divergence > 20 * spread)  # so that the comparison says something


def test_the_kl_weight_is_a_factor():
    x, key = batch(), jax.random.key(1)
    loss = [np.asarray(vae(weight).loss(x, key)) for weight in (0.0, 0.1, 1.0)]
    np.testing.assert_allclose(loss[1] - loss[0], 0.1 * (loss[2] - loss[0]), rtol=1e-4)


def test_without_posterior_variance_loss_and_error_are_one_reconstruction():
    model = vae(kl_weight=0.0)
    model.log_variance.kernel[...] = jnp.zeros_like(model.log_variance.kernel[...])
    model.log_variance.bias[...] = jnp.full(3, -200.0)
    x = batch()
    loss = model.loss(x, jax.random.key(1))
    np.testing.assert_allclose(loss, 12 / 2 * mse(model, x), rtol=1e-6)
    np.testing.assert_array_equal(loss, model.loss(x, jax.random.key(2)))


def test_the_loss_of_the_vae_depends_on_its_key_and_the_error_has_none():
    model, x = vae(), batch()
    keys = jax.random.split(jax.random.key(0))
    assert not np.any(model.loss(x, keys[0]) == model.loss(x, keys[1]))
    np.testing.assert_array_equal(model.error(x), model.error(x))


def test_the_autoencoder_by_hand():
    fields = {"hidden": (6, 5), "latent": 2, "offset": -3.0, "scale": 2.0}
    model = MLPAE(SHAPE, **fields, rngs=nnx.Rngs(0))
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
    loss = model.loss(batch(), jax.random.key(0))
    np.testing.assert_allclose(loss, error / 4, rtol=1e-4)


@pytest.mark.parametrize("kind", [MLPVAE, MLPAE])
def test_an_example_does_not_depend_on_the_others(kind):
    fields = {"kl_weight": 1.0} if kind is MLPVAE else {"offset": 0.0, "scale": 1.0}
    model = kind(SHAPE, hidden=(16, 8), latent=3, **fields, rngs=nnx.Rngs(0))
    one = [model.error(batch()[i : i + 1])[0] for i in range(4)]
    np.testing.assert_allclose(model.error(batch()), one, rtol=1e-6)
    assert len(set(np.asarray(mse(model, batch())).tolist())) == 4


@pytest.mark.parametrize("config", [mlp_vae.get_config(), mlp_ae.get_config()])
def test_bfloat16_is_for_the_arithmetic_of_an_accelerator(config, monkeypatch):
    """Parameters, losses and errors stay float32; a CPU stays with it altogether."""
    config.train.precision = "bfloat16"
    x = jax.random.normal(jax.random.key(0), (4, 5, 128))

    def products(model):
        loss = partial(model.loss, key=jax.random.key(0))
        text = str(jax.make_jaxpr(loss)(x))
        return {
            line.split(":")[1].split("[")[0]
            for line in text.splitlines()
            if "dot_general" in line
        }

    def built():
        return build_detector(config).build((5, 128), rngs=nnx.Rngs(0))

    on_cpu = built()
    assert products(on_cpu) == {"f32"}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    mixed = built()
    assert products(mixed) == {"bf16"}
    assert {p.dtype for p in jax.tree.leaves(nnx.state(mixed, nnx.Param))} == {
        jnp.dtype("float32")
    }
    for a, b in (
        (mse(mixed, x), mse(on_cpu, x)),
        (mixed.loss(x, jax.random.key(0)), on_cpu.loss(x, jax.random.key(0))),
    ):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, rtol=0.02)
        assert np.any(a != b)
