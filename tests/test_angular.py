"""Angular losses: by NumPy, their gradients, classes and rows that don't count."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimii_jax.errors import ConfigError
from mimii_jax.models.angular import LOSSES, Angular, adapted_scale, unit

CLASSES, CENTRES, SIZE, BATCH = 4, 3, 8, 5
ALL = jnp.ones(CLASSES)


def embeddings(n=BATCH, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, SIZE))
    return jnp.float32(x / np.linalg.norm(x, axis=1, keepdims=True))


def centres(seed=1):
    draw = np.random.default_rng(seed).normal(size=(CLASSES, CENTRES, SIZE))
    return jnp.float32(draw)


def soft(n=BATCH, seed=2):
    y = np.random.default_rng(seed).uniform(size=(n, CLASSES)) ** 4
    return jnp.float32(y / y.sum(1, keepdims=True))


@partial(jax.jit, static_argnums=0)
def loss_of(angular, x, w, present, target, n=BATCH):
    return angular.loss(x, w, present, target, n)


def by_numpy(x, w, target, scale):
    """Softmax over all centres, summed over those of a class; cross-entropy."""
    w = w / np.linalg.norm(w, axis=2, keepdims=True)
    exps = np.exp(scale * np.einsum("bd,ckd->bck", x, w))
    p = exps.sum(2) / exps.sum((1, 2))[:, None]
    return -np.sum(target * np.log(p), axis=1)


def test_the_loss_is_that_of_numpy_at_the_fixed_scale():
    x, w, target = (np.float64(a) for a in (embeddings(), centres(), soft()))
    found = loss_of(Angular("sub_adacos"), embeddings(), centres(), ALL, soft())
    scale = np.sqrt(2) * np.log(CENTRES * CLASSES - 1)
    np.testing.assert_allclose(found, by_numpy(x, w, target, scale), rtol=1e-5)
    found = loss_of(Angular("sub_adacos", 3.0), embeddings(), centres(), ALL, soft())
    np.testing.assert_allclose(found, by_numpy(x, w, target, 3.0), rtol=1e-5)


def test_a_margin_is_added_to_the_angle_of_the_own_class():
    label, w = np.array([0, 1, 2, 3, 0]), unit(centres()[:, :1])
    target = jax.nn.one_hot(label, CLASSES)
    found = loss_of(Angular("arcface", 8.0, 0.3), embeddings(), w, ALL, target)
    angle = np.arccos(np.float64(embeddings() @ w[:, 0].T))
    assert angle.max() < np.pi - 0.3
    logits = 8 * np.cos(angle + 0.3 * np.float64(target))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(found, -np.log(p[np.arange(5), label]), rtol=1e-4)


def test_a_subspace_is_as_near_as_the_projection_on_it():
    log_p = Angular("adaproj", 2.0).log_p(embeddings(), centres(), ALL)
    x = np.float64(embeddings())
    cosines = []
    for basis in np.float64(centres()):
        projected = x @ basis.T @ np.linalg.inv(basis @ basis.T) @ basis
        cosines.append(np.linalg.norm(projected, axis=1))
    exps = np.exp(2 * np.array(cosines).T)
    expected = np.log(exps / exps.sum(1, keepdims=True))
    np.testing.assert_allclose(log_p, expected, rtol=1e-4, atol=1e-5)


def test_the_adapted_scale_is_that_of_the_paper():
    label, w = np.array([0, 1, 2, 3, 0]), unit(centres()[:, :1])
    cosines, target = embeddings() @ w[:, 0].T, jax.nn.one_hot(label, CLASSES)
    exps = np.exp(4 * np.float64(cosines)) * (1 - np.float64(target))
    median = np.median(np.arccos(np.float64(cosines)[np.arange(5), label]))
    expected = np.log(exps.sum(1).mean()) / np.cos(min(np.pi / 4, median))
    found = adapted_scale(4.0, cosines[:, :, None], ALL, target, 5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_rows_of_padding_and_absent_classes_change_nothing(name):
    loss, present = Angular(name), ALL.at[2].set(0)
    keep = np.array([0, 1, 3])
    target = jax.nn.one_hot(jnp.array([0, 1, 3, 0, 1]), CLASSES)
    alone = loss_of(loss, embeddings(), centres()[keep], ALL[:3], target[:, keep])
    more = jnp.concatenate([embeddings(), embeddings(4, seed=9)])
    labels = jnp.concatenate([target, target[:4]])
    padded = loss_of(loss, more, centres(), present, labels)
    np.testing.assert_allclose(padded[:BATCH], alone, rtol=1e-4)
    log_p = jax.jit(loss.log_p)(embeddings(), centres(), present)
    assert np.all(log_p[:, 2] < -1000)
    np.testing.assert_allclose(np.exp(log_p)[:, keep].sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_reach_every_centre_and_embedding(name):
    @jax.jit
    @partial(jax.grad, argnums=(0, 1))
    def gradients(x, w, present):
        target = jax.nn.one_hot(jnp.arange(BATCH) % 2, CLASSES)
        return jnp.sum(Angular(name).loss(x, w, present, target, BATCH))

    of_x, of_w = gradients(embeddings(), centres(), ALL)
    assert np.all(np.linalg.norm(of_w, axis=2) > 1e-6)
    assert np.all(np.linalg.norm(of_x, axis=1) > 1e-6)
    _, of_w = gradients(embeddings(), centres(), ALL.at[3].set(0))
    assert np.all(of_w[3] == 0)
    assert np.all(np.linalg.norm(of_w[:3], axis=2) > 1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_constant_embedding_loses_at_least_the_logarithm_of_the_classes(name):
    """Wherever it and the centres are: p is the same for all clips."""
    target = jnp.eye(CLASSES)
    for seed in range(5):
        x = np.tile(embeddings(1, seed), (CLASSES, 1))
        w = np.array(centres(seed))
        w[0, 0] = x[0]  # one class has it as its centre
        loss = loss_of(Angular(name), x, w, ALL, target, CLASSES)
        assert np.mean(loss) > np.log(CLASSES) - 1e-5
    apart = np.eye(CLASSES, SIZE, dtype=np.float32)
    w = np.tile(apart[:, None], (1, CENTRES, 1))
    found = loss_of(Angular(name), apart, w, ALL, target, CLASSES)
    assert np.mean(found) < np.log(CLASSES) - 0.2  # as another one has not


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("softmax",), "detector.loss='softmax'"),
        (("arcface", 0.0), "detector.scale=0"),
        (("arcface", 30.0, 2.0), "detector.margin=2"),
    ],
)
def test_bad_settings_are_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        Angular(*fields)
