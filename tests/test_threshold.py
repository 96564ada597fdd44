"""Thresholds: the share of false alarms is the wanted one on every distribution."""

from dataclasses import replace

import numpy as np
import pytest
from example_scores import some_scores
from scipy import stats

from mimii_jax.results.table import NO_SEED, Scores
from mimii_jax.results.threshold import (
    METHODS,
    Normals,
    false_alarms,
    interval,
    quantile,
    thresholds,
)

SAMPLES = {
    "gamma": stats.gamma(2),
    "skewed": stats.gamma(0.5),
    "gaussian": stats.norm(-3, 2),
    "heavy": stats.t(3),
    "log-normal": stats.lognorm(1),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("share", [0.05, 0.1])
def test_the_share_of_false_alarms_is_within_the_interval_of_a_test(
    name, method, share
):
    distribution = SAMPLES[name]
    inside, rates = [], []
    for seed in range(100):
        # The interval knows the noise of the new clips, not that of the threshold.
        normal = distribution.rvs(1000, random_state=seed)
        limit = quantile(normal, share, method)
        new = distribution.rvs(100, random_state=1000 + seed)
        low, high = interval(np.sum(new > limit), len(new))
        inside.append(low <= share <= high)
        rates.append(distribution.sf(limit))
    assert np.mean(inside) >= 0.9
    assert 0.8 * share < np.mean(rates) < 1.1 * share


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", SAMPLES)
def test_fifty_clips_are_enough_for_five_percent(name, method):
    of = SAMPLES[name]
    samples = [of.rvs(50, random_state=seed) for seed in range(200)]
    rates = [of.sf(quantile(normal, 0.05, method)) for normal in samples]
    assert 0.035 < np.mean(rates) < 0.065


def test_a_gamma_goes_beyond_the_largest_score_and_a_percentile_does_not():
    normal = stats.gamma(2).rvs(60, random_state=0)
    assert quantile(normal, 0.0001) > normal.max()
    assert quantile(normal, 0.0001, "empirical") == normal.max()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("normal", [[1.0], [1.0, 2.0], [3.0] * 60, [0.0] * 59 + [1e9]])
def test_degenerate_scores_have_a_finite_threshold(normal, method):
    limit = quantile(np.array(normal), 0.05, method)
    assert min(normal) <= limit <= max(normal)


def test_thresholds_follow_the_scores_scale():
    normal = stats.gamma(2).rvs(80, random_state=1)
    for method in METHODS:
        expected = 5 + 1e-6 * quantile(normal, 0.05, method)
        found = quantile(5 + 1e-6 * normal, 0.05, method)
        assert found == pytest.approx(expected, abs=1e-12)


def of_ids(**counts):
    """Normal scores of IDs on different scales."""
    rng = np.random.default_rng(3)
    ids = np.repeat(list(counts), list(counts.values()))
    scale = {name: 10.0**k for k, name in enumerate(counts)}
    score = np.concatenate([scale[k] * rng.gamma(3, size=n) for k, n in counts.items()])
    return Normals(ids, score)


def test_an_id_with_enough_clips_has_its_own_threshold():
    normals = of_ids(a=60, b=300)
    own = normals.score[normals.machine_id == "a"]
    assert normals.threshold("a") == quantile(own, 0.05)


def test_an_id_with_few_clips_has_its_own_scale_and_the_shape_of_all():
    normals = of_ids(a=300, b=20)
    rates = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        new = replace(normals, score=normals.score.copy())
        new.score[300:] = 10 * rng.gamma(3, size=20)
        rates.append(stats.gamma(3, scale=10).sf(new.threshold("b")))
    assert 0.04 < np.mean(rates) < 0.09


def test_an_unknown_id_is_compared_with_all_clips():
    normals = of_ids(a=60, b=60)
    assert normals.threshold("c") == quantile(normals.score, 0.05)


def test_percentiles_rise_from_0_to_100_and_halve_ties():
    normals = Normals(np.full(60, "a"), np.arange(60.0))
    found = [normals.percentile("a", x) for x in (-1, 0, 29.5, 59, 60)]
    assert found == pytest.approx([0, 50 / 60, 50, 100 - 50 / 60, 100])


@pytest.mark.parametrize(("count", "n"), [(0, 20), (3, 60), (20, 20)])
def test_the_interval_is_that_of_a_binomial_test(count, n):
    expected = stats.binomtest(count, n).proportion_ci(0.95)
    assert interval(count, n) == pytest.approx((expected.low, expected.high))


def test_false_alarms_are_measured_per_detector_on_normal_test_clips():
    seeds = [some_scores({"00": (400, 30)}, seed=seed) for seed in (0, 1)]
    control = some_scores({"00": (400, 30)}, detector="rms_dbfs", seed=NO_SEED)
    normals = [some_scores({"00": (500,)}, seed=s, rng=1) for s in (0, 1)]
    scores, normals = Scores.concatenate([*seeds, control]), Scores.concatenate(normals)
    limits = thresholds(scores, normals)
    assert np.isnan(limits[scores.detector == "rms_dbfs"]).all()
    (row,) = false_alarms(scores, normals)
    own = scores.detector == "mlp_vae"
    alarm = (scores.score > limits)[own]
    assert row.rate == np.mean(alarm[scores.label[own] == 0])
    assert row.found == np.mean(alarm[scores.label[own] == 1])
    assert (row.n_normal, row.as_wanted) == (400, True)
    (wrong,) = false_alarms(replace(scores, score=scores.score + 1), normals)
    assert not wrong.as_wanted
