"""AUC, pAUC and bootstrap on arrays, against scikit-learn and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from mimii_jax.results.metrics import (
    Estimate,
    auc,
    average,
    measure,
    resample,
    weighted_auc,
)

LIMITS = (1.0, 0.5, 0.1, 0.01)


def clips(seed, normal=23, anomalous=31, values=None, shift=0.7):
    """Labels and scores; `values` distinct scores give heavy ties."""
    rng = np.random.default_rng(seed)
    label = rng.permutation(np.repeat([0, 1], [normal, anomalous]))
    score = rng.normal(size=len(label)) + shift * label
    if values is not None:
        score = np.round(score * values / 4)
    return label, score


@pytest.mark.parametrize("values", [None, 1, 4, 20])
@pytest.mark.parametrize("max_fpr", LIMITS)
@pytest.mark.parametrize(("normal", "anomalous"), [(23, 31), (100, 9), (1, 5), (4, 1)])
def test_unit_weights_give_scikit_learns_auc(values, max_fpr, normal, anomalous):
    for seed in range(10):
        label, score = clips(seed, normal, anomalous, values)
        expected = roc_auc_score(label, score, max_fpr=max_fpr)
        (got,) = weighted_auc(label, score, np.ones((1, len(label))), max_fpr)
        assert got == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("values", [None, 3])
@pytest.mark.parametrize("max_fpr", LIMITS)
def test_each_replicate_is_scikit_learns_auc_of_the_drawn_clips(values, max_fpr):
    label, score = clips(7, values=values)
    count = resample(label, 30, seed=3)
    got = weighted_auc(label, score, count, max_fpr)
    for row, value in zip(count.astype(int), got, strict=True):
        drawn = np.repeat(np.arange(len(label)), row)
        expected = roc_auc_score(label[drawn], score[drawn], max_fpr=max_fpr)
        assert value == pytest.approx(expected, abs=1e-12)


def test_clips_of_unknown_label_do_not_count():
    label, score = clips(0)
    more = np.r_[label, [-1, -1]], np.r_[score, [9.0, -9.0]]
    alone = weighted_auc(label, score, np.ones((1, len(label))), 0.1)
    np.testing.assert_array_equal(weighted_auc(*more, np.ones((1, 56)), 0.1), alone)


@pytest.mark.parametrize(
    ("normal", "anomalous", "max_fpr", "expected"),
    [
        ([1, 2, 3, 4], [5, 6], 1.0, 1.0),
        ([5, 6], [1, 2, 3, 4], 1.0, 0.0),
        ([0, 2], [1, 3], 1.0, 0.75),
        ([1, 1], [1, 1], 1.0, 0.5),
        ([1, 2, 3, 4], [5, 6], 0.1, 1.0),
        ([1, 1], [1, 1], 0.1, 0.5),
        # Up to fpr 0.5 the curve is at 0.5: area .25 of at least .125 and at most .5.
        ([0, 2], [1, 3], 0.5, 0.5 * (1 + (0.25 - 0.125) / 0.375)),
        # Nothing is found before fpr 0.5: area 0, below that of a useless score.
        ([0, 2], [1], 0.5, 0.5 * (1 - 0.125 / 0.375)),
        # One tie of all clips but one: the curve climbs from (0, .5) to (1, 1).
        ([1, 1], [1, 2], 0.1, 0.5 * (1 + (0.0525 - 0.005) / 0.095)),
    ],
)
def test_values_worked_out_by_hand(normal, anomalous, max_fpr, expected):
    label = np.repeat([0, 1], [len(normal), len(anomalous)])
    score = np.array([*normal, *anomalous], float)
    assert auc(label, score, max_fpr) == pytest.approx(expected)
    (fast,) = weighted_auc(label, score, np.ones((1, len(label))), max_fpr)
    assert fast == pytest.approx(expected)


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 10_000),
    monotone=st.sampled_from([np.exp, np.arctan, lambda x: x**3 - 7, lambda x: 5 * x]),
)
def test_auc_is_the_same_under_a_monotone_map(seed, monotone):
    label, score = clips(seed, values=20)
    count = resample(label, 5, seed)
    for limit in (1.0, 0.1):
        assert auc(label, monotone(score), limit) == auc(label, score, limit)
        np.testing.assert_array_equal(
            weighted_auc(label, monotone(score), count, limit),
            weighted_auc(label, score, count, limit),
        )


def test_resampling_keeps_the_size_of_each_stratum_and_its_mean():
    stratum = np.array(["a", "b", "a", "b", "b", "c"])
    count = resample(stratum, 4000, seed=0)
    for value, size in (("a", 2), ("b", 3), ("c", 1)):
        assert np.all(count[:, stratum == value].sum(axis=1) == size)
    # A count has a variance below 1, so the mean of 4000 is within 5 / sqrt(4000).
    np.testing.assert_allclose(count.mean(axis=0), 1, atol=0.08)
    np.testing.assert_array_equal(count, resample(stratum, 4000, seed=0))
    assert np.any(count != resample(stratum, 4000, seed=1))


def test_no_replicates_give_no_interval_and_one_seed_no_sd():
    label, score = clips(0)
    estimate = measure(label, score[None], np.empty((0, len(label))))
    assert (estimate.sd, estimate.interval) == (None, None)
    assert estimate.mean == roc_auc_score(label, score)


def test_mean_and_sd_are_over_seeds():
    estimate = Estimate(np.array([0.5, 0.7, 0.9]), np.zeros(1000))
    assert estimate.mean == pytest.approx(0.7)
    assert estimate.sd == pytest.approx(0.2)
    equal = Estimate(np.full(3, 0.6), np.zeros(1000))
    assert equal.sd == pytest.approx(0.0)
    assert average([estimate, equal]).mean == pytest.approx(0.65)
    assert average([estimate, equal]).sd == pytest.approx(0.1)


def test_a_difference_is_paired_by_seed_and_replicate():
    drawn = np.linspace(-0.2, 0.2, 1000)
    base = Estimate(np.array([0.5, 0.9]), 0.7 + drawn)
    better = Estimate(np.array([0.6, 1.0]), 0.8 + drawn)
    change = better.minus(base)
    assert change.mean == pytest.approx(0.1)
    assert change.sd == pytest.approx(0.0)
    assert change.interval == pytest.approx((0.1, 0.1))
    assert change.beyond_noise
    mixed = Estimate(np.array([0.4, 1.2]), 0.8 + drawn).minus(base)
    assert mixed.mean == pytest.approx(0.1)
    assert not mixed.beyond_noise  # of two signs
    unpaired = Estimate(np.array([0.6, 0.9, 0.9]), 0.8 + drawn).minus(base)
    assert unpaired.mean == pytest.approx(0.1)
    assert unpaired.sd is None


def test_interval_covers_the_true_auc_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1], [60, 80])
    trials, covered = 300, 0
    truth = 0.7602  # P(anomalous > normal) for a shift of 1: Phi(1 / sqrt(2))
    for trial in range(trials):
        score = rng.normal(size=140) + label
        weight = resample(label, 200, seed=trial)
        interval = measure(label, score[None], weight).interval
        assert interval
        covered += interval[0] <= truth <= interval[1]
    # .95 and three standard errors; percentile intervals are a bit narrow, so .93.
    assert 0.93 - 0.044 < covered / trials < 0.95 + 0.038
