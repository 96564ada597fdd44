"""STgram-MFN: its layers, parameters, margin score, and training."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from small_clips import RATE, small_clips
from training import leaves

from configs import stgram
from mimii_jax.config import build
from mimii_jax.errors import ConfigError
from mimii_jax.features.windows import Standardiser, Windows
from mimii_jax.models.stgram import Convolution, Depthwise, STgramMFN, Tgram
from mimii_jax.train.loop import Features, train_runs
from mimii_jax.train.mesh import make_mesh, replicate
from mimii_jax.train.runs import Labels, Run, Settings

FRAMES, MELS, SAMPLES, IDS = 9, 7, 4, 3
FIELDS = {
    "channels": 4,
    "bottlenecks": ((2, 6, 2, 2),),
    "top": 8,
    "embedding": 5,
    "wave_samples": SAMPLES,
    "scale": 30.0,
    "margin": 0.7,
    "n_classes": IDS,
}


def model(rngs=None, **changes):
    """Model with NumPy's random numbers: JAX's take a second per shape to compile."""
    fields = FIELDS | changes
    shape = (FRAMES, MELS + fields["wave_samples"])
    blank = nnx.eval_shape(lambda: STgramMFN(shape, **fields, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(blank)
    return nnx.merge(graph, filled(state))


def filled(state):
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        if "present" in path:
            return leaf.replace(jnp.ones(leaf.shape))
        x = rng.normal(size=leaf.shape) / np.prod(leaf.shape[:-1]) ** 0.5
        away = 0.1 * x + 1 if path[-1] in ("scale", "slope") else x
        return leaf.replace(jnp.asarray(away, jnp.float32))

    return nnx.map_state(draw, state)


def examples(n=5, bins=MELS + SAMPLES, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, FRAMES, bins))
    return jnp.asarray(x, jnp.float32)


def sizes(module, kind=...):
    return sum(x.size for x in jax.tree.leaves(nnx.state(module, kind)))


def test_the_reference_has_the_published_parameters():
    """1.13 million weights of filters; .85 without the Tgram."""
    c = stgram.get_config("reference")

    def of(c, bins):
        spec = build(c).detector.model
        return nnx.eval_shape(lambda: spec((313, bins), rngs=nnx.Rngs(0)))

    net = of(c, 128 + 512)
    tgram = 1024 * 128 + 3 * (3 * 128) * 128
    first = 9 * 2 * 64 + 9 * 64  # nine pixels of two images; depthwise
    stages = (
        (64 * 128 + 9 * 128 + 128 * 128)  # expand by 2, depthwise, project
        + (128 * 256 + 9 * 256 + 256 * 128)
        + 4 * (128 * 512 + 9 * 512 + 512 * 128)  # expand by 4
    )
    last = 128 * 512 + 160 * 512 + 512 * 128  # the image has 160 pixels
    kernels = nnx.PathContains("kernel")
    assert tgram + first + stages + last == 1_129_536
    assert sizes(net, kernels) == 1_129_536
    # scale and shift of a norm: 64, 64; expanded twice, and projected; 512, 512, 128
    normed = (
        64 + 64 + (3 * 128) + (2 * 256 + 128) + 4 * (2 * 512 + 128) + 512 + 512 + 128
    )
    sloped = 64 + 64 + 2 * 128 + 2 * 256 + 4 * 2 * 512 + 512  # PReLU
    centres = 128
    others = 2 * normed + sloped + 3 * 2 * 313  # and the layer norms of 313 frames
    assert sizes(net, nnx.Param) == 1_129_536 + others + centres == 1_150_742 + centres
    c.features.wave_samples = 0
    net = of(c, 128)
    assert sizes(net, kernels) == 1_129_536 - tgram - 9 * 64 == 850_432
    assert sizes(net, nnx.Param) == 850_432 + 2 * normed + sloped + centres


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", [Convolution, Depthwise])
def test_filters_are_those_of_a_padded_convolution(kind, stride):
    x = jnp.stack([examples(bins=MELS), examples(bins=MELS, seed=1)], axis=-1)
    shape = (3, 3, 2, 5) if kind is Convolution else (3, 3, 2)
    kernel = jnp.float32(np.random.default_rng(2).normal(size=shape))
    grouped = kernel if kind is Convolution else kernel[:, :, None]
    layer = nnx.eval_shape(lambda: kind(shape, stride=stride, dtype=jnp.float32))
    expected = lax.conv_general_dilated(
        x,
        grouped,
        (stride, stride),
        [(1, 1), (1, 1)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=1 if kind is Convolution else 2,
    )
    np.testing.assert_allclose(layer.filter(x, kernel), expected, rtol=1e-4, atol=1e-5)


def test_the_tgram_is_a_strided_convolution_of_the_wave():
    """Then layer norm over frames, leaky ReLU, and a convolution of three frames."""
    graph, state = nnx.split(
        nnx.eval_shape(lambda: Tgram((FRAMES, MELS), SAMPLES, jnp.float32))
    )
    tgram = nnx.merge(graph, filled(state))
    wave = examples(bins=SAMPLES)
    padded = np.pad(np.reshape(wave, (5, -1)), ((0, 0), (SAMPLES, 0)))
    y = np.stack(
        [
            padded[:, SAMPLES * t : SAMPLES * (t + 2)] @ tgram.filters.kernel[...]
            for t in range(FRAMES)
        ],
        axis=1,
    )
    for layer, scale, shift in zip(
        tgram.layers, tgram.scales, tgram.shifts, strict=True
    ):
        y = (y - y.mean(1, keepdims=True)) / np.sqrt(y.var(1, keepdims=True) + 1e-5)
        y = y * scale[...][None, :, None] + shift[...][None, :, None]
        y = np.pad(np.where(y > 0, y, 0.2 * y), ((0, 0), (1, 1), (0, 0)))
        kernel = layer.kernel[...].reshape(3, MELS, MELS)
        y = sum(y[:, i : i + FRAMES] @ kernel[i] for i in range(3))
    np.testing.assert_allclose(tgram(wave), y, rtol=1e-4, atol=1e-4)


def test_embeddings_have_unit_norm_and_depend_on_their_clip_alone():
    embedding, x = jax.jit(model().embedding), examples()
    found = np.asarray(embedding(x))
    assert found.shape == (5, 1, 5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=2), 1, rtol=1e-5)
    assert np.ptp(found[:, 0], axis=0).min() > 0.01
    for part in (np.s_[..., :MELS], np.s_[..., MELS:]):  # both channels are heard
        other = embedding(x.at[part].add(examples(seed=1)[part]))
        assert np.abs(other - found).max(axis=2).min() > 1e-3
    for i in range(3):
        alone = x.at[:].set(1e3).at[i].set(x[i])
        np.testing.assert_allclose(embedding(alone)[i], found[i], 1e-4, 1e-6)


def test_the_published_score_has_the_margin_at_the_own_id():
    net = model()

    @jax.jit
    def scores(x):
        return net.embed(x), net.margin_nll(x)[:, 0], net.nll(x)[:, 0]

    embedding, found, nll = map(np.asarray, scores(examples()))
    assert found.shape == (5, IDS)
    w = np.float64(net.centres[...])
    cosine = np.float64(embedding) @ (w / np.linalg.norm(w, axis=1)[:, None]).T
    for own in range(IDS):
        logits = cosine.copy()
        angle = np.arccos(cosine[:, own])
        logits[:, own] = np.where(
            angle < np.pi - 0.7,
            np.cos(angle + 0.7),
            cosine[:, own] - 0.7 * np.sin(0.7),  # not the easy margin
        )
        exps = np.exp(30 * logits)
        expected = -np.log(exps[:, own] / exps.sum(1))
        np.testing.assert_allclose(found[:, own], expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(np.exp(-nll).sum(1), 1, rtol=1e-5)


@pytest.mark.slow
def test_rows_of_padding_change_nothing_and_gradients_reach_everything():
    graph, params, rest = nnx.split(model(), nnx.Param, ...)

    @jax.jit
    def gradients(x, label, n):
        def mean_loss(params):
            loss = nnx.merge(graph, params, rest).loss(x, jax.random.key(0), label, n)
            return jnp.sum(jnp.where(jnp.arange(len(x)) < n, loss, 0)) / n

        return jax.grad(mean_loss)(params)

    label, x = np.array([0, 1, 2, 0, 1]), examples()
    found = leaves(gradients(x, label, 3))
    assert min(np.abs(leaf).max() for leaf in found) > 1e-6
    other = leaves(gradients(x.at[3:].set(9 * examples(2, seed=9)), 2 - label, 3))
    assert any(np.any(a != b) for a, b in zip(found, other, strict=True))
    label[3:] = 2 - label[3:]
    padded = leaves(gradients(x.at[3:].set(9 * examples(2, seed=9)), label, 3))
    for a, b in zip(found, padded, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("bottlenecks", ((2, 6),)),
        ("channels", 0),
        ("wave_samples", 99),
        ("scale", -1.0),
    ],
)
def test_bad_fields_are_named(field, value):
    fields = FIELDS | {field: value}
    with pytest.raises(ConfigError, match=f"detector.{field}="):
        STgramMFN((FRAMES, MELS + SAMPLES), **fields, rngs=nnx.Rngs(0))


def test_a_front_end_without_the_wave_is_refused():
    c = stgram.get_config("quick")
    c.features.name = "log_mel"
    with pytest.raises(ConfigError, match=r"detector.wave_samples=512: must be the"):
        build(c).detector.check(RATE)
    c.detector.wave_samples = 0
    build(c).detector.check(RATE)


def test_a_single_id_is_refused():
    clips = small_clips(ids=("00",)).train
    detector = build(stgram.get_config("quick")).detector
    with pytest.raises(ConfigError, match="single ID"):
        detector.fit(clips, clips[:0], [Run(0, np.arange(6))], None)


# training

CLASS = np.arange(9) % IDS
RUNS = [
    Run(0, np.arange(9), changes={"present": np.ones(3)}),
    Run(1, np.flatnonzero(CLASS != 1), changes={"present": np.array([1, 0, 1])}),
]


def train(runs=RUNS, epochs=20):
    """Train on nine clips of three IDs, each with a level at its own bins."""
    x = np.array(examples(9))
    for i, label in enumerate(CLASS):
        x[i, :, 2 * label : 2 * label + 3] += 3
    mesh = make_mesh(len(runs), 1, 1)
    array = replicate(x, mesh)
    features = Features(
        array,
        array[:2],
        [Standardiser.identity(MELS + SAMPLES)] * len(runs),
        Labels(CLASS, CLASS[:2]),
    )
    settings = Settings(epochs, 4, 1e-2, "constant", 0.0)
    return train_runs(model, Windows(None), features, settings, runs, mesh, None)


@cache
def together():
    return train()[1]


@pytest.mark.slow
def test_training_lowers_the_loss():
    def epoch_loss(state):
        return np.asarray(state.epoch_loss)

    assert np.all(epoch_loss(together()) < 0.8 * epoch_loss(train(epochs=1)[1]))


@pytest.mark.slow
def test_a_run_among_others_equals_the_run_alone():
    """Though its clips have two of the three IDs."""
    _, one = train(RUNS[1:])
    for a, b in zip(leaves(together()), leaves(one), strict=True):
        np.testing.assert_array_equal(a[1:], b)
