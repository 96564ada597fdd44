"""Pooling of a clip's errors into its score."""

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from mimii_jax.scoring import POOLINGS, Pooling

ERRORS = np.random.default_rng(0).gamma(2.0, size=(3, 4, 23)).astype(np.float32)


def pool(name, errors, top_k=5, gwrp_r=0.9):
    return np.asarray(Pooling(name, top_k, gwrp_r)(jnp.asarray(errors)))


def test_mean_and_max_are_those_of_numpy():
    np.testing.assert_allclose(pool("mean", ERRORS), ERRORS.mean(-1), rtol=1e-6)
    np.testing.assert_array_equal(pool("max", ERRORS), ERRORS.max(-1))


def test_top_k_is_the_mean_of_the_largest():
    largest = np.sort(ERRORS)[..., -5:].mean(-1)
    np.testing.assert_allclose(pool("top_k", ERRORS), largest, rtol=1e-6)
    np.testing.assert_array_equal(pool("top_k", ERRORS, top_k=1), ERRORS.max(-1))


@pytest.mark.parametrize("top_k", [23, 24, 1000])
def test_a_top_k_of_all_windows_or_more_is_the_mean(top_k):
    np.testing.assert_allclose(
        pool("top_k", ERRORS, top_k=top_k), ERRORS.mean(-1), rtol=1e-6
    )


def test_rank_pooling_is_a_weighted_mean_of_sorted_errors():
    weights = 0.9 ** np.arange(23)
    expected = np.sort(ERRORS)[..., ::-1] @ weights / weights.sum()
    np.testing.assert_allclose(pool("gwrp", ERRORS), expected, rtol=1e-5)


def test_rank_pooling_ends_in_the_maximum_and_the_mean():
    np.testing.assert_array_equal(pool("gwrp", ERRORS, gwrp_r=0.0), ERRORS.max(-1))
    np.testing.assert_allclose(
        pool("gwrp", ERRORS, gwrp_r=1.0), ERRORS.mean(-1), rtol=1e-6
    )


@pytest.mark.parametrize("name", POOLINGS)
def test_the_order_of_the_windows_does_not_matter(name):
    shuffled = np.random.default_rng(1).permutation(ERRORS, axis=-1)
    np.testing.assert_allclose(pool(name, shuffled), pool(name, ERRORS), rtol=1e-6)


@pytest.mark.parametrize("name", POOLINGS)
def test_a_single_window_is_its_own_score(name):
    np.testing.assert_array_equal(pool(name, ERRORS[..., :1]), ERRORS[..., 0])


@hypothesis.settings(deadline=None, max_examples=25)
@hypothesis.given(st.integers(1, 30), st.floats(0, 1), st.integers(0, 99))
def test_poolings_are_ordered(top_k, gwrp_r, seed):
    """Nothing exceeds the maximum; what favours large errors is not below the mean."""
    errors = np.random.default_rng(seed).gamma(2.0, size=17).astype(np.float32)
    mean, largest = errors.mean(), errors.max()
    for name in ("top_k", "gwrp"):
        score = pool(name, errors, top_k, gwrp_r)
        assert mean * (1 - 1e-5) <= score <= largest * (1 + 1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (("median", 5, 0.9), "scoring.name='median': must be one of mean, max"),
        (("", 5, 0.9), "scoring.name=''"),
        (("top_k", 0, 0.9), "scoring.top_k=0: must be at least 1"),
        (("gwrp", 5, 1.1), "scoring.gwrp_r=1.1: must be from 0 to 1"),
        (("gwrp", 5, -0.1), "scoring.gwrp_r=-0.1"),
        (("gwrp", 5, float("nan")), "scoring.gwrp_r=nan"),
    ],
)
def test_a_bad_field_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        Pooling(*fields)
