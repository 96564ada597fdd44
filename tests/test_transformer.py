"""The transformer: what it may see, its caches, its patches and its sizes."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from training import leaves, train_on

from configs import transformer as config
from mimii_jax.config import build
from mimii_jax.errors import ConfigError
from mimii_jax.models.attention import KVCache, in_blocks
from mimii_jax.models.transformer import (
    DECODINGS,
    Transformer,
    sinusoidal_positions,
)

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
    "decoding": "teacher_forced",
    "context": 3,
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
    """Predictions of the scored patches."""
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


@pytest.mark.parametrize("patches", [DEEP, OVERLAP], ids=["apart", "overlapping"])
@pytest.mark.parametrize("decoding", ["teacher_forced", "autoregressive"])
def test_no_prediction_sees_its_target_or_what_comes_after(decoding, patches):
    model = transformer(decoding=decoding, **patches)
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


@pytest.mark.parametrize("context", [1, 3])
def test_a_forecast_sees_its_context_alone(context):
    model = transformer(decoding="forecast", context=context)
    found = influence(model, clips())
    assert found.shape == (model.n_patches - context, FRAMES)
    assert np.all(found[:, context * model.patch :] == 0)
    assert np.all(found[:, : context * model.patch] > 0)


@pytest.mark.parametrize("decoding", ["teacher_forced", "autoregressive"])
def test_the_leaky_wiring_sees_the_future(decoding):
    model = transformer(attention="leaky", decoding=decoding)
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


def on_growing_prefix(network, vectors, to_encoder, context):
    """Predictions one by one, without a cache: everything again for each position.

    The decoder gets the first `context` vectors, then predictions; the encoder gets
    the "true" vectors up to the position, "all" of them, or the decoder's "own".
    """
    own = vectors[:, :1]
    for n in range(1, vectors.shape[1] + 1):
        own = jnp.concatenate([vectors[:, :context], own[:, context:]], axis=1)[:, :n]
        seen = {"true": vectors[:, :n], "all": vectors, "own": own}[to_encoder]
        memory = network.encode(network.embed_positions(seen))
        predicted = network.decode(network.embed_positions(own), memory)
        own = jnp.concatenate([own, predicted[:, -1:]], axis=1)
    return own[:, context:]


@pytest.mark.parametrize(
    ("changes", "to_encoder", "context"),
    [
        ({"decoding": "autoregressive"}, "true", 1),
        ({"decoding": "autoregressive", "attention": "leaky"}, "all", 1),
        ({"decoding": "forecast", "context": 3}, "own", 3),
        ({"decoding": "forecast", "context": 1}, "own", 1),
    ],
    ids=["autoregressive", "leaky", "forecast", "forecast from one"],
)
def test_the_cache_changes_nothing(changes, to_encoder, context):
    model = transformer(**DEEP, **changes)
    patches = model.patches(clips())
    slowly = jax.jit(lambda v: on_growing_prefix(model.network, v, to_encoder, context))
    expected, cached = slowly(patches[:, :-1]), decoded(model, clips())
    np.testing.assert_allclose(cached, expected, rtol=1e-5, atol=5e-6)


def test_the_ways_to_decode_agree_where_they_know_the_same():
    x = clips()
    teacher, auto = (
        decoded(transformer(decoding=decoding), x)
        for decoding in ("teacher_forced", "autoregressive")
    )
    for context in (1, 3, 4):
        found = decoded(transformer(decoding="forecast", context=context), x)
        first = np.asarray(found[:, 0])
        np.testing.assert_allclose(first, teacher[:, context - 1], rtol=1e-5, atol=1e-6)
        if context == 1:
            np.testing.assert_allclose(first, auto[:, 0], rtol=1e-5, atol=1e-6)
    assert not np.any(np.isclose(auto[:, 1:], teacher[:, 1:], rtol=1e-3).all(axis=2))


@pytest.mark.parametrize("decoding", DECODINGS)
def test_a_clip_does_not_depend_on_the_others_nor_on_how_many(decoding):
    model, x = transformer(decoding=decoding), clips(3)
    one = [errors(model, clip[None])[0] for clip in x]
    np.testing.assert_allclose(errors(model, x), one, rtol=1e-4)
    lifted = jax.jit(jax.vmap(lambda clip: model.error(clip[None])[0]))(x)
    np.testing.assert_allclose(lifted, one, rtol=1e-4)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("positions", [1, 64, 65, 283])
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
    ("decoding", "patch", "stride"),
    [("teacher_forced", 3, 1), ("autoregressive", 2, 2), ("forecast", 3, 2)],
)
def test_errors_and_predicted_frames_belong_together(decoding, patch, stride):
    model = transformer(patch=patch, stride=stride, decoding=decoding, context=2)
    x = np.asarray(clips())
    error = np.asarray(errors(model, x))
    first = 2 if decoding == "forecast" else 1
    assert error.shape == (2, model.n_patches - first, BINS)
    with jax.debug_nans(False):  # which mark the frames that are not predicted
        frames = np.asarray(jax.jit(model.predict)(x))
    begin = first * stride + patch - stride
    end = (model.n_patches - 1) * stride + patch
    known = np.isfinite(frames).all(axis=(0, 2))
    assert np.flatnonzero(known).tolist() == list(range(begin, end))
    if stride == patch:
        squares = (frames - x)[:, begin:end] ** 2
        by_patch = squares.reshape(2, -1, patch, BINS).mean(2)
        np.testing.assert_allclose(error, by_patch, rtol=1e-4)
    centres = model.segment_centres()
    assert len(centres) == error.shape[1]
    assert (centres[0], centres[-1]) == (first * stride + patch / 2, end - patch / 2)


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
    assert count(as_configured("default")) == 1_056_384


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
    x, wide = clips(), transformer(decoding="autoregressive")
    model = transformer(decoding="autoregressive", dtype=jnp.bfloat16)
    assert errors(model, x).dtype == jnp.float32
    assert jax.eval_shape(model.loss, x, KEY).dtype == jnp.float32
    np.testing.assert_allclose(decoded(model, x), decoded(wide, x), atol=0.1)
    assert np.any(decoded(model, x) != decoded(wide, x))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoding": "nope"}, "scoring.decoding='nope': .* autoregressive"),
        ({"attention": "nope"}, "detector.attention='nope': .* causal"),
        ({"decoding": "forecast", "attention": "leaky"}, "detector.attention='causal'"),
        ({"decoding": "forecast", "context": 5}, "scoring.context=5: .* 1 to 4"),
        ({"decoding": "forecast", "context": 0}, "scoring.context=0: .* 1 to 4"),
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


def test_a_seed_trains_among_others_as_if_alone_on_a_mesh():
    _, together = train_on(build_small, (0, 7), mesh=(2, 2))
    _, alone = train_on(build_small, (7,))
    for a, b in zip(leaves(together), leaves(alone), strict=True):
        np.testing.assert_allclose(a[1], b[0], rtol=1e-3, atol=1e-5)
