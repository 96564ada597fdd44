"""Standardised bins and windows against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mimii_jax.errors import ConfigError
from mimii_jax.features.windows import Standardiser, Windows, clip_moments, group_rows


def standardiser_of(features):
    return Standardiser.of_moments(*clip_moments(features))


def test_the_standardiser_has_the_statistics_of_numpy():
    rng = np.random.default_rng(0)
    offset = np.array([-1e4, -40, 0, 5], np.float32)
    spread = np.array([0.5, 10, 1e-3, 0], np.float32)
    features = (offset + spread * rng.normal(size=(7, 31, 4))).astype(np.float32)
    fitted = standardiser_of(jnp.asarray(features))
    wide = features.astype(np.float64)
    np.testing.assert_allclose(fitted.mean, wide.mean((0, 1)), rtol=1e-6, atol=1e-8)
    sd = wide.std((0, 1))
    np.testing.assert_allclose(fitted.scale[:3], sd[:3], rtol=1e-3)
    np.testing.assert_allclose(fitted.scale[1:3], sd[1:3], rtol=1e-5)
    assert fitted.scale[3] == 1  # a bin that never changes


def test_standardised_features_have_mean_zero_and_variance_one():
    features = 3 * jax.random.normal(jax.random.key(0), (5, 20, 6)) - 60
    fitted = standardiser_of(features)
    standard = np.asarray(fitted.apply(features), np.float64)
    np.testing.assert_allclose(standard.mean((0, 1)), 0, atol=1e-5)
    np.testing.assert_allclose(standard.std((0, 1)), 1, rtol=1e-5)
    np.testing.assert_allclose(fitted.undo(fitted.apply(features)), features, rtol=1e-5)


def test_clips_of_different_level_count_into_the_scale():
    """Variance between clips as well as within them."""
    features = jnp.asarray([[[0.0], [0.0]], [[2.0], [2.0]]])
    fitted = standardiser_of(features)
    assert (fitted.mean.item(), fitted.scale.item()) == (1, 1)


def test_each_group_has_the_statistics_of_its_clips():
    features = jax.random.normal(jax.random.key(0), (6, 20, 3))
    features = features * jnp.arange(1.0, 7)[:, None, None] - 60
    rows = group_rows(["a", "b", "c"], np.array(list("babbxa")))
    assert rows.tolist() == [2, 1, 2, 2, 0, 1]
    made = Standardiser.of_groups(*clip_moments(features), rows, 3)
    standard = np.asarray(made.of(rows).apply(features))
    for row, clips in {1: [1, 5], 2: [0, 2, 3], 0: range(6)}.items():
        alone = standardiser_of(features[np.array(clips)])
        for clip in np.flatnonzero(rows == row):
            np.testing.assert_array_equal(standard[clip], alone.apply(features[clip]))
            again = made.of(row).undo(jnp.asarray(standard[clip]))
            np.testing.assert_allclose(again, features[clip], rtol=1e-5)
    np.testing.assert_array_equal(made.mean[3], made.mean[0])  # "c" has no clip
    bins = Standardiser.identity(3)
    np.testing.assert_array_equal(made.fitting(bins).mean, made.mean[0])
    assert bins.fitting(made).mean.shape == (4, 3)
    assert made.fitting(made) is made


def test_the_identity_leaves_every_bit():
    features = jax.random.normal(jax.random.key(0), (2, 5, 3))
    same = Standardiser.identity(3)
    np.testing.assert_array_equal(same.apply(features), features)
    np.testing.assert_array_equal(same.apply(features[0]), features[0])


@pytest.mark.parametrize(("width", "hop"), [(1, 1), (5, 1), (5, 3), (4, 7), (13, 1)])
def test_windows_are_those_of_numpy(width, hop):
    features = np.random.default_rng(0).normal(size=(3, 13, 2)).astype(np.float32)
    view = np.lib.stride_tricks.sliding_window_view(features, width, axis=1)
    expected = view[:, ::hop].transpose(0, 1, 3, 2)  # [clip, window, frame, bin]
    windows = Windows(width, hop)
    assert windows.per_clip(13) == expected.shape[1]
    expected = expected.reshape(-1, width, 2)
    order = np.random.default_rng(1).permutation(len(expected))  # the last one too
    found = windows.gather(jnp.asarray(features), jnp.asarray(order))
    np.testing.assert_array_equal(found, expected[order])


def test_the_official_clip_has_309_windows_of_5_by_128():
    assert Windows(5).per_clip(313) == 309
    shape = jax.eval_shape(
        Windows(5).gather, jnp.zeros((1, 313, 128)), jnp.arange(309)
    ).shape
    assert shape == (309, 5, 128)


def test_a_window_that_does_not_fit_is_an_error():
    assert Windows(5).per_clip(5) == 1
    with pytest.raises(ConfigError, match=r"windows.width=5: clips have 4 frames"):
        Windows(5).per_clip(4)
    with pytest.raises(ConfigError, match=r"windows.width=0: must be positive"):
        Windows(0)
    with pytest.raises(ConfigError, match=r"windows.hop=0: must be positive"):
        Windows(5, 0)


def test_a_window_without_a_width_is_the_whole_clip():
    features = jax.random.normal(jax.random.key(0), (3, 7, 2))
    windows = Windows(None)
    assert windows.per_clip(7) == 1
    found = windows.gather(features, jnp.array([2, 0]))
    np.testing.assert_array_equal(found, features[jnp.array([2, 0])])
