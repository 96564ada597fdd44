"""The transformer: what it may see, its caches, its patches and its sizes."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.stats import norm
from slowly import slow
from training import leaves, train_on

from configs import transformer as config
from mimii_jax.config import build
from mimii_jax.errors import ConfigError
from mimii_jax.models.attention import KVCache, in_blocks
from mimii_jax.models.transformer import Transformer, sinusoidal_positions

FRAMES, BINS = 11, 3  # five patches of two frames, and one frame more
FIELDS = {
    "patch": 2,
    "stride": 2,
    "width": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "heads": 2,
    "feed_forward": 16,
    "attention": "causal",
}
DEEP = {"encoder_layers": 2, "decoder_layers": 2}
OVERLAP = {"patch": 3, "stride": 1}
KEY = jax.random.key(0)


@cache
def transformer(shape=(FRAMES, BINS), **changes):
    return Transformer(shape, **FIELDS | changes, rngs=nnx.Rngs(1))


def clips(n=2):
    return jax.random.normal(jax.random.key(7), (n, FRAMES, BINS))


@partial(jax.jit, static_argnums=0)
def decoded(model, x):
    """Predictions of all patches but the first."""
    return model.decode(model.patches(x))


@partial(jax.jit, static_argnums=0)
def errors(model, x):
    return model.error(x)


def influence(model, x):
    """Largest derivative of each predicted patch by each frame, [segment, frame]."""
    jacobian = jax.jit(jax.jacrev(lambda x: decoded(model, x[None])[0]))(x[0])
    return np.abs(np.asarray(jacobian)).max(axis=(1, 3))


def last_frame_seen(model):
    """Frames of the patch before each predicted one end here, [segment]."""
    segment = np.arange(1, model.n_patches)
    return (segment - 1) * model.stride + model.patch


@pytest.mark.parametrize(
    ("horizon", "patches"),
    [(1, OVERLAP), (None, DEEP), slow(1, DEEP), slow(None, OVERLAP)],
)
def test_no_prediction_sees_its_target_or_what_comes_after(horizon, patches):
    model = transformer(horizon=horizon, **patches)
    found = influence(model, clips())
    for row, end in zip(found, last_frame_seen(model), strict=True):
        assert np.all(row[end:] == 0)
        assert np.all(row[end - model.stride : end] > 0)  # the patch before it
        assert np.all(row[:end] > 0)


def test_no_term_of_the_loss_sees_more_than_its_target():
    """The gradient of one patch's error by the frames after it is exactly zero."""
    model, x = transformer(), clips(1)
    error = jax.jit(jax.jacrev(lambda x: jnp.mean(model.error(x)[0], axis=1)))(x)
    for step, row in enumerate(np.abs(np.asarray(error))[:, 0].max(axis=2)):
        end = (step + 2) * model.patch
        assert np.all(row[end:] == 0)
        assert np.all(row[:end] > 0)
    loss = jax.jit(model.loss)(x, KEY)
    np.testing.assert_allclose(loss, np.mean(errors(model, x), axis=(1, 2)), rtol=1e-5)


@pytest.mark.parametrize("horizon", [2, slow(3)])
def test_generation_sees_its_true_prefix_alone(horizon):
    model = transformer(horizon=horizon)
    found = influence(model, clips())
    assert found.shape == (model.n_patches - 1, FRAMES)
    for segment, row in enumerate(found):
        prefix = (1 + segment - segment % horizon) * model.patch
        assert np.all(row[prefix:] == 0)
        assert np.all(row[:prefix] > 0)


@pytest.mark.parametrize("horizon", [1, slow(None)])
def test_the_leaky_wiring_sees_the_future(horizon):
    model = transformer(attention="leaky", horizon=horizon)
    found = influence(model, clips())
    inputs = (model.n_patches - 1) * model.patch
    assert np.all(found[:, :inputs] > 0)
    assert np.all(found[:, inputs:] == 0)  # the last target goes in nowhere


def test_the_loss_of_the_leaky_wiring_sees_the_future_too():
    x = clips(1)
    later = x.at[:, 6:8].add(1.0)  # the last patch but one is an input
    for attention, same in (("causal", True), ("leaky", False)):
        model = transformer(attention=attention)
        first = decoded(model, x)[:, 0] == decoded(model, later)[:, 0]
        assert bool(jnp.all(first)) == same


def on_growing_prefix(network, vectors, horizon, to_encoder):
    """Predictions one by one, without a cache: everything again for each position.

    The decoder gets true vectors, of which fewer than `horizon` are replaced by its
    last predictions; the encoder the same, or the true vectors, or all of them.
    """
    predicted = []
    for n in range(1, vectors.shape[1] + 1):
        n_true = 1 + (n - 1) - (n - 1) % horizon
        own = (
            jnp.stack(predicted[n_true - 1 :], axis=1) if n > n_true else vectors[:, :0]
        )
        own = jnp.concatenate([vectors[:, :n_true], own], axis=1)
        seen = {"own": own, "true": vectors[:, :n], "all": vectors}[to_encoder]
        memory = network.encode(network.embed_positions(seen))
        found = network.decode(network.embed_positions(own), memory)
        predicted.append(found[:, -1])
    return jnp.stack(predicted, axis=1)


@pytest.mark.parametrize(
    ("changes", "horizon", "to_encoder"),
    [
        ({"horizon": None}, 99, "true"),
        slow({"horizon": None, "attention": "leaky"}, 99, "all"),
        slow({"horizon": 1}, 1, "own"),
        ({"horizon": 2}, 2, "own"),
        slow({"horizon": 3}, 3, "own"),
        slow({"horizon": 99}, 99, "own"),
    ],
)
def test_the_cache_changes_nothing(changes, horizon, to_encoder):
    model = transformer(**DEEP, **changes)
    vectors = model.patches(clips())[:, :-1]
    slowly = jax.jit(lambda v: on_growing_prefix(model.network, v, horizon, to_encoder))
    np.testing.assert_allclose(
        decoded(model, clips()), slowly(vectors), rtol=1e-5, atol=5e-6
    )


def test_horizons_differ_where_they_know_less():
    x = clips()
    one, two, whole = (decoded(transformer(horizon=h), x) for h in (1, 2, None))
    np.testing.assert_allclose(two[:, ::2], one[:, ::2], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole[:, 0], one[:, 0], rtol=1e-5, atol=1e-6)
    for other in (two[:, 1::2], whole[:, 1::2]):
        assert not np.any(np.isclose(other, one[:, 1::2], rtol=1e-3).all(axis=2))


def test_the_likelihood_is_that_of_scipy_and_its_variance_is_bounded():
    model, x = transformer(likelihood="gaussian"), 30 * clips()
    outputs = np.asarray(decoded(model, x), np.float64)
    mean, raw = np.split(outputs, 2, axis=2)
    patches = np.asarray(model.patches(x))[:, 1:]
    log_variance = 6 * np.tanh(raw / 6)
    expected = -norm.logpdf(patches, mean, np.exp(log_variance / 2))
    expected -= np.log(2 * np.pi) / 2
    found = jax.jit(model.nll)(x)
    by_frame = expected.reshape(2, model.n_patches - 1, model.patch, BINS)
    np.testing.assert_allclose(found, by_frame.mean(axis=2), rtol=1e-4)
    squares = (patches - mean) ** 2
    by_frame = squares.reshape(2, model.n_patches - 1, model.patch, BINS)
    np.testing.assert_allclose(errors(model, x), by_frame.mean(axis=2), rtol=1e-4)


def test_latents_are_as_many_as_predictions():
    assert jax.jit(transformer().latent)(clips()).shape == (2, 4, FIELDS["width"])


@pytest.mark.parametrize("horizon", [slow(1), 2, slow(3), slow(None)])
def test_a_clip_does_not_depend_on_the_others_nor_on_how_many(horizon):
    model, x = transformer(horizon=horizon), clips(3)
    one = [errors(model, clip[None])[0] for clip in x]
    np.testing.assert_allclose(errors(model, x), one, rtol=1e-4)
    lifted = jax.jit(jax.vmap(lambda clip: model.error(clip[None])[0]))(x)
    np.testing.assert_allclose(lifted, one, rtol=1e-4)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("positions", [slow(1), slow(64), 65, slow(283)])
def test_attention_in_blocks_is_that_of_jax(positions, causal):
    keys = jax.random.split(jax.random.key(0), 4)
    query, key, value, weight = (
        jax.random.normal(key, (2, 3, positions, 8)) for key in keys
    )

    def ours(query, key, value):
        return in_blocks(query, KVCache(key, value), causal)

    def jaxs(*by_head):
        q, k, v = (x.swapaxes(1, 2) for x in by_head)
        return jax.nn.dot_product_attention(q, k, v, is_causal=causal).swapaxes(1, 2)

    def with_gradients(attend):
        def total(*x):
            return jnp.sum(attend(*x) * weight)

        gradients = jax.grad(total, (0, 1, 2))
        return jax.jit(lambda *x: (attend(*x), gradients(*x)))(query, key, value)

    expected = jax.tree.leaves(with_gradients(jaxs))
    for got, want in zip(jax.tree.leaves(with_gradients(ours)), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("patch", "stride"), [(2, 2), (3, 1), (4, 3)])
def test_patches_are_those_of_numpy(patch, stride):
    x = np.asarray(clips())
    model = transformer(patch=patch, stride=stride)
    view = np.lib.stride_tricks.sliding_window_view(x, patch, axis=1)[:, ::stride]
    expected = view.transpose(0, 1, 3, 2).reshape(2, view.shape[1], -1)
    np.testing.assert_array_equal(jax.jit(model.patches)(x), expected)


@pytest.mark.parametrize(
    ("horizon", "patch", "stride"), [slow(1, 3, 1), slow(None, 2, 2), (2, 3, 2)]
)
def test_errors_and_predicted_frames_belong_together(horizon, patch, stride):
    model = transformer(patch=patch, stride=stride, horizon=horizon)
    x = np.asarray(clips())
    error = np.asarray(errors(model, x))
    assert error.shape == (2, model.n_patches - 1, BINS)
    with jax.debug_nans(False):  # which mark the frames that are not predicted
        frames = np.asarray(jax.jit(model.predict)(x))
    begin = patch
    end = (model.n_patches - 1) * stride + patch
    known = np.isfinite(frames).all(axis=(0, 2))
    assert np.flatnonzero(known).tolist() == list(range(begin, end))
    if stride == patch:
        squares = (frames - x)[:, begin:end] ** 2
        by_patch = squares.reshape(2, -1, patch, BINS).mean(2)
        np.testing.assert_allclose(error, by_patch, rtol=1e-4)
    centres = model.segment_centres()
    assert len(centres) == error.shape[1]
    assert (centres[0], centres[-1]) == (stride + patch / 2, end - patch / 2)


def test_positions_are_told_apart_and_do_not_depend_on_how_many_there_are():
    table = sinusoidal_positions(50, 8)
    np.testing.assert_array_equal(table[:20], sinusoidal_positions(20, 8))
    np.testing.assert_allclose(table[:, 0], np.sin(np.arange(50)), rtol=1e-5, atol=1e-6)
    distance = np.linalg.norm(table[:, None] - table[None], axis=2)
    assert distance[~np.eye(50, dtype=bool)].min() > 0.1
    assert sinusoidal_positions(5, 7).shape == (5, 7)


def as_configured(variant):
    c = config.get_config(variant)
    spec = build(c).detector.model
    frames = 1 + 160_000 // c.features.hop
    shape = frames, c.features.n_mels
    return nnx.eval_shape(lambda: spec(shape, rngs=nnx.Rngs(0)))


def count(model):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_the_reference_has_284_vectors_of_3840():
    model = as_configured("reference")
    x = jax.ShapeDtypeStruct((16, 313, 128), np.float32)
    assert jax.eval_shape(model.patches, x).shape == (16, 284, 3840)
    assert model.network.n_positions == 283
    assert len(model.network.encoder) == len(model.network.decoder) == 4
    assert model.network.embed.kernel.shape == (3840, 512)
    assert count(model) == 33_351_936
    assert count(as_configured("default")) == 1_122_432


def test_the_number_of_parameters_by_hand():
    width, hidden, features = 8, 16, 6
    dense = lambda n_in, n_out: (n_in + 1) * n_out  # noqa: E731
    attention = 4 * dense(width, width) - 2 * width  # no bias of keys and values
    feed = dense(width, hidden) + dense(hidden, width)
    encoder = attention + feed + 2 * 2 * width
    decoder = 2 * attention + feed + 3 * 2 * width
    ends = dense(features, width) + dense(width, features) + 2 * 2 * width
    assert count(transformer(**DEEP)) == 2 * encoder + 2 * decoder + ends


def test_bfloat16_keeps_predictions_and_losses_in_float32():
    x, wide = clips(), transformer(horizon=None)
    model = transformer(horizon=None, dtype=jnp.bfloat16)
    assert errors(model, x).dtype == jnp.float32
    assert jax.eval_shape(model.loss, x, KEY).dtype == jnp.float32
    np.testing.assert_allclose(decoded(model, x), decoded(wide, x), atol=0.1)
    assert np.any(decoded(model, x) != decoded(wide, x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"likelihood": "nope"}, "detector.likelihood='nope': .* gaussian"),
        ({"horizon": 0}, "scoring.horizon=0: .* positive"),
        ({"attention": "nope"}, "detector.attention='nope': .* causal"),
        ({"horizon": 2, "attention": "leaky"}, "detector.attention='causal'"),
        ({"patch": 8, "stride": 8}, "detector.patch=8.* 11 frames"),
        ({"stride": 3}, "detector.stride=3: .* from 1 to patch"),
        ({"stride": 0}, "detector.stride=0: .* from 1 to patch"),
        ({"width": 9}, "detector.width=9: .* detector.heads=2"),
        ({"heads": 0}, "detector.heads=0: .* positive"),
        ({"encoder_layers": 0}, "detector.encoder_layers=0: .* positive"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_named(changes, message):
    with pytest.raises(ConfigError, match=message):
        transformer(**changes)


def build_small(rngs):
    """For windows of three frames of two bins."""
    return Transformer((3, 2), **FIELDS | {"patch": 1, "stride": 1}, rngs=rngs)


@pytest.mark.slow
def test_a_seed_trains_among_others_as_if_alone_on_a_mesh():
    _, together = train_on(build_small, (0, 7), mesh=(2, 2))
    _, alone = train_on(build_small, (7,))
    for a, b in zip(leaves(together), leaves(alone), strict=True):
        np.testing.assert_allclose(a[1], b[0], rtol=1e-3, atol=1e-5)
