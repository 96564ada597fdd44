"""Pooling of a clip's errors, and distances from normal clips."""

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from mimii_jax.detectors.backends import (
    BACKENDS,
    POOLINGS,
    Banks,
    Mahalanobis,
    Pooling,
    Scoring,
    load_banks,
    save_banks,
)
from mimii_jax.errors import ConfigError, DataError

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
        (("median", 5, 0.9), "scoring.pooling='median': must be one of mean, max"),
        (("", 5, 0.9), "scoring.pooling=''"),
        (("top_k", 0, 0.9), "scoring.top_k=0: must be at least 1"),
        (("gwrp", 5, 1.1), "scoring.gwrp_r=1.1: must be from 0 to 1"),
        (("gwrp", 5, -0.1), "scoring.gwrp_r=-0.1"),
        (("gwrp", 5, float("nan")), "scoring.gwrp_r=nan"),
    ],
)
def test_a_bad_field_is_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        Pooling(*fields)


MEAN = Pooling("mean", 1, 1.0)
ERROR = ERRORS[0, :, :5]  # [segment, bin]


def test_the_summary_of_a_clip_is_its_score_or_its_error_per_bin():
    for pooling in (MEAN, Pooling("max", 1, 1.0)):
        mean = Scoring("mean", False, pooling).summary(jnp.asarray(ERROR))
        np.testing.assert_allclose(mean, pooling(ERROR.mean(1)[None]), rtol=1e-6)
        per_bin = Scoring("mahalanobis", False, pooling).summary(jnp.asarray(ERROR))
        np.testing.assert_allclose(per_bin, pooling(ERROR.T), rtol=1e-6)


def normal_summaries(clips=4000):
    """Two machine IDs; columns of very different units, two of them correlated."""
    rng = np.random.default_rng(1)
    mix = np.array([[1.0, 0.8, 0.0], [0.0, 0.6, 0.0], [0.0, 0.0, 1.0]])
    units = np.array([1.0, 1e3, 1e-3])
    machine_id = np.repeat(["00", "02"], clips // 2)
    middle = np.where(machine_id == "00", 0.0, 50.0)[:, None]
    return (rng.normal(size=(clips, 3)) @ mix + middle) * units, machine_id


@pytest.mark.parametrize("per_id", [False, True])
def test_the_distance_is_that_of_mahalanobis(per_id):
    """Of many clips, so that almost nothing is shrunk."""
    summaries, machine_id = normal_summaries()
    banks = Banks.fit("mahalanobis", summaries, machine_id, per_id)
    found = banks.score(summaries, machine_id)
    groups = ("00", "02") if per_id else (None,)
    for group in groups:
        rows = np.ones(len(summaries), bool) if group is None else machine_id == group
        away = summaries[rows] - summaries[rows].mean(0)
        precision = np.linalg.inv(np.cov(summaries[rows].T))
        expected = np.sqrt(np.einsum("ci,ij,cj->c", away, precision, away))
        np.testing.assert_allclose(found[rows], expected, rtol=0.05, atol=0.02)
    by_id = [found[machine_id == name].mean() for name in ("00", "02")]
    np.testing.assert_allclose(*by_id, rtol=0.1)


def test_fewer_clips_than_bins_give_finite_distances():
    rng = np.random.default_rng(0)
    few = rng.gamma(2.0, size=(6, 40))
    few[:, 3] = 1.0  # a bin that never changes
    distance = Mahalanobis.fit(few).score(few)
    assert np.all(np.isfinite(distance))
    assert np.ptp(distance) > 0


def test_an_id_without_normal_clips_is_compared_with_all():
    summaries, machine_id = normal_summaries(40)
    per_id, of_all = (
        Banks.fit("mahalanobis", summaries, machine_id, per_id)
        for per_id in (True, False)
    )
    unknown = np.full(40, "04")
    np.testing.assert_array_equal(
        per_id.score(summaries, unknown), of_all.score(summaries, machine_id)
    )


@pytest.mark.parametrize("name", BACKENDS)
def test_scores_do_not_depend_on_the_other_clips(name):
    summaries, _ = normal_summaries(40)
    fitted = BACKENDS[name].fit(summaries)
    alone = [fitted.score(one[None])[0] for one in summaries]
    np.testing.assert_allclose(fitted.score(summaries), alone, rtol=1e-9)


def test_saved_banks_are_the_same(tmp_path):
    summaries, machine_id = normal_summaries(40)
    path = tmp_path / "banks.npz"
    banks = [
        Banks.fit("mahalanobis", summaries, machine_id, per_id)
        for per_id in (False, True)
    ]
    save_banks(banks, path)
    for a, b in zip(banks, load_banks("mahalanobis", path, 2), strict=True):
        assert a.backends.keys() == b.backends.keys()
        np.testing.assert_array_equal(
            a.score(summaries, machine_id), b.score(summaries, machine_id)
        )
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"banks\.npz: damaged .* train again"):
        load_banks("mahalanobis", path, 2)


def test_an_unknown_backend_is_named():
    with pytest.raises(ConfigError, match=r"scoring\.backend='mse': must be one of"):
        Scoring("mse")
