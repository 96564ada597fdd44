"""Pooling of a clip's errors, and distances from normal clips."""

from dataclasses import replace

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm
from sklearn.covariance import ledoit_wolf
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors
from slowly import slow

from experiments.backends import read, results
from mimii_jax.detectors import distances
from mimii_jax.detectors.backends import (
    BACKENDS,
    POOLINGS,
    Banks,
    Fused,
    Pooling,
    Scoring,
)
from mimii_jax.errors import ConfigError
from mimii_jax.results.metrics import z_scores

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


ERROR = ERRORS[0, :, :5]  # [segment, bin]


def test_the_summary_of_a_clip_is_its_mean_error_and_that_of_each_bin():
    for pooling in (Pooling(), Pooling("max")):
        mean, *per_bin = Scoring(pooling=pooling).summary(jnp.asarray(ERROR))
        np.testing.assert_allclose(mean, pooling(ERROR.mean(1)[None])[0], rtol=1e-6)
        np.testing.assert_allclose(per_bin, pooling(ERROR.T), rtol=1e-6)


PLAIN = Scoring(standardise=False, max_columns=None)
FITTED = [name for name in BACKENDS if name != "mean"]
NEIGHBOURS = ("knn", "ldn", "lof")


def normal_clips(clips=300, columns=7, seed=1):
    """Vectors of two clouds of different density."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(clips, columns)) @ rng.normal(size=(columns, columns))
    vectors[::3] = 5 + vectors[::3] / 4
    return vectors.astype(np.float32)


def ids(vectors):
    return np.where(np.arange(len(vectors)) % 2, "02", "00")


BANK, QUERY = normal_clips(), normal_clips(150, seed=1)[::-1] * 1.2


def scores(name, scoring=PLAIN, bank=BANK, query=QUERY):
    return Fused.fit(replace(scoring, backend=name), bank).score(query)


@pytest.mark.parametrize("k", [1, 4])
def test_neighbours_are_those_of_scikit_learn(k):
    expected, _ = NearestNeighbors(n_neighbors=k).fit(BANK).kneighbors(QUERY)
    found = scores("knn", replace(PLAIN, neighbours=k))
    np.testing.assert_allclose(found, expected.mean(1), rtol=1e-4)


@pytest.mark.parametrize("k", [1, 8, 20])
def test_outlier_factors_are_those_of_scikit_learn(k):
    expected = LocalOutlierFactor(n_neighbors=k, novelty=True).fit(BANK)
    found = scores("lof", replace(PLAIN, density_neighbours=k))
    np.testing.assert_allclose(found, -expected.score_samples(QUERY), rtol=1e-3)


def test_likelihoods_are_those_of_scikit_learn():
    expected = GaussianMixture(2, reg_covar=1e-3, random_state=0).fit(BANK)
    found = scores("gmm", replace(PLAIN, components=2))
    np.testing.assert_allclose(found, -expected.score_samples(QUERY), rtol=1e-3)


def test_one_variance_per_bin_is_the_mean_error_of_normal_clips():
    variance = (BANK**2).mean(0)
    expected = -norm.logpdf(QUERY, scale=np.sqrt(variance)).mean(1)
    found = scores("gaussian_fixed", PLAIN, BANK**2, QUERY**2)
    np.testing.assert_allclose(found + np.log(2 * np.pi) / 2, expected, rtol=1e-5)


def test_the_own_class_is_the_column_that_is_least_for_normal_clips():
    bank = BANK.copy()
    bank[:, 3] -= 20
    np.testing.assert_array_equal(scores("own_class", bank=bank), QUERY[:, 3])


@pytest.mark.parametrize("shape", [(20, 5), (10, 40), (60, 60), (5, 1), (2, 3)])
def test_the_covariance_is_shrunk_as_by_scikit_learn(shape):
    draw = np.random.default_rng(0).normal
    x = draw(size=shape) @ draw(size=(shape[1], shape[1])) + 3
    expected, _ = ledoit_wolf(x)
    found = distances.ledoit_wolf(x)
    np.testing.assert_allclose(found, expected, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize("x", [np.ones((4, 3)), np.eye(3)], ids=["equal", "round"])
def test_a_covariance_with_nothing_to_shrink_is_as_scikit_learns(x):
    expected, _ = ledoit_wolf(x)
    np.testing.assert_allclose(distances.ledoit_wolf(x), expected, atol=1e-15)


def test_the_mahalanobis_distance_is_that_of_ledoit_and_wolf():
    """In units of each column's spread, however different they are."""
    units = 10.0 ** np.arange(-3, 4)
    bank, query = BANK * units, QUERY * units
    spread = bank.std(0)
    precision = np.linalg.pinv(ledoit_wolf(bank / spread)[0])
    away = (query - bank.mean(0)) / spread
    expected = np.sqrt(np.einsum("ci,ij,cj->c", away, precision, away))
    found = scores("mahalanobis", PLAIN, bank, query)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def pairs(a, b):
    return np.linalg.norm(a[:, None].astype(float) - b[None], axis=-1)


def reference_ldn(bank, query, k, density_k):
    among = pairs(bank, bank)
    np.fill_diagonal(among, np.inf)
    density_k = min(density_k, len(bank) - 1)
    r = np.sort(among, axis=1)[:, :density_k].mean(1)
    return np.sort(pairs(query, bank) / r, axis=1)[:, :k].mean(1)


@pytest.mark.parametrize(("k", "density_k"), [(1, 8), (3, 2), (2, 1000)])
def test_local_density_normalisation_is_its_formula(k, density_k):
    scoring = replace(PLAIN, neighbours=k, density_neighbours=density_k)
    expected = reference_ldn(BANK, QUERY, k, density_k)
    np.testing.assert_allclose(scores("ldn", scoring), expected, rtol=1e-3)


@pytest.mark.parametrize("name", NEIGHBOURS)
@pytest.mark.parametrize("clips", [300, 6, 3])
def test_leaving_a_clip_out_is_fitting_without_it(name, clips):
    """Also where a bank has fewer clips than neighbours are wanted."""
    bank = BANK[:clips]
    scoring = replace(PLAIN, backend=name, neighbours=2, density_neighbours=5)
    expected = [
        Fused.fit(scoring, np.delete(bank, i, axis=0)).score(bank[i : i + 1])[0]
        for i in range(0, clips, 7 if clips > 10 else 1)
    ]
    found = Fused.fit(scoring, bank).normal_scores()
    found = found[:: 7 if clips > 10 else 1]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_other_backends_are_refitted_to_nine_tenths():
    scoring = replace(PLAIN, backend="mahalanobis")
    found = Fused.fit(scoring, BANK).normal_scores()
    others = np.arange(300) % 10 != 3
    expected = Fused.fit(scoring, BANK[others]).score(BANK[~others])
    np.testing.assert_array_equal(found[~others], expected)


@pytest.mark.parametrize("name", [*BACKENDS, "ldn+whitened_ldn"])
def test_scores_do_not_depend_on_the_other_clips(name):
    """Neither on the clips beside it: z-scores are those of the bank."""
    fitted = Fused.fit(Scoring(name), BANK)
    together = fitted.score(QUERY)
    for part in (QUERY[:1], QUERY[40:]):
        start = len(QUERY) - len(part) if len(part) > 1 else 0
        found = fitted.score(part)
        np.testing.assert_allclose(found, together[start:][: len(part)], rtol=1e-5)


def with_edge_cases():
    rng = np.random.default_rng(0)
    yield "fewer clips than columns", rng.gamma(2.0, size=(6, 140))
    yield "two clips", rng.gamma(2.0, size=(2, 3))
    yield "duplicates", np.repeat(rng.normal(size=(3, 4)), 12, axis=0)
    yield "all alike", np.ones((20, 4))
    yield "a constant column", np.hstack([BANK, np.full((300, 1), 0.3)])


@pytest.mark.parametrize("standardise", [True, slow(False)])
@pytest.mark.parametrize("name", [*FITTED, "ldn+whitened_ldn"])
def test_scores_are_finite_whatever_the_bank(name, standardise):
    scoring = Scoring(name, standardise=standardise)
    for case, bank in with_edge_cases():
        bank = bank.astype(np.float32)
        fitted = Fused.fit(scoring, bank)
        assert np.all(np.isfinite(fitted.score(bank[:5] * 2 + 1))), case
        if name != "isolation_forest" or len(bank) < 10:  # slow to refit
            assert np.all(np.isfinite(fitted.normal_scores())), case


def test_a_constant_column_changes_nothing():
    with_constant = [np.hstack([v, np.full_like(v[:, :1], 0.3)]) for v in (BANK, QUERY)]
    for name in ("knn", "ldn"):
        found = scores(name, Scoring(), *with_constant)
        np.testing.assert_allclose(found, scores(name, Scoring()), rtol=1e-4)


def test_a_duplicate_of_a_bank_clip_has_no_distance():
    for name in ("knn", "ldn", "whitened_ldn"):
        far = BANK + 1000  # where products of vectors would lose the difference
        assert np.all(scores(name, Scoring(), far, far[5:9]) == 0)


def test_standardised_columns_make_units_irrelevant_and_are_clipped():
    units = 10.0 ** np.arange(-3, 4, dtype=np.float32)
    found = scores("ldn", Scoring(), BANK * units, QUERY * units)
    np.testing.assert_allclose(found, scores("ldn", Scoring()), rtol=1e-3)
    wild = QUERY.copy()
    wild[:, 0] = 1e6
    assert scores("knn", Scoring(), query=wild).max() < 30


def test_many_columns_are_reduced_where_clips_are_few():
    bank, query = normal_clips(40, 120), normal_clips(9, 120, seed=2)
    columns = distances.fit_columns(bank, True, 10, whiten=False)
    assert columns.matrix.shape == (120, 10)
    assert distances.fit_columns(bank, True, None, False).matrix is None
    assert distances.fit_columns(bank, True, 100, True).matrix.shape == (120, 20)
    assert np.ptp(scores("whitened_ldn", Scoring(), bank, query)) > 0


def test_a_coreset_covers_the_bank():
    rows = distances.k_centre(BANK, 60)
    assert len(set(rows.tolist())) == 60
    chosen = pairs(BANK, BANK[rows]).min(1).max()
    drawn = np.random.default_rng(0).permutation(300)[:60]
    assert chosen < pairs(BANK, BANK[drawn]).min(1).max()
    fitted = Fused.fit(Scoring("ldn", coreset=60), BANK)
    assert int(fitted.backends[0].bank.n) == 60
    assert np.all(fitted.normal_scores()[rows] > 0)  # not in the bank of their fold


def test_a_large_bank_makes_no_matrix_of_all_pairs():
    """33,000 clips would need 4.4 GB; a chunk of queries needs 17 MB per matrix."""
    shape = jax.ShapeDtypeStruct
    rows, f32, i32 = 33_024, jnp.float32, jnp.int32
    bank = distances.Bank(
        shape((rows, 640), f32),
        shape((), i32),
        shape((rows, 9), f32),
        shape((rows, 9), i32),
        shape((), f32),
    )
    x, own = shape((distances.CHUNK, 640), f32), shape((distances.CHUNK,), i32)
    for rule in (distances.knn, distances.ldn, distances.lof):
        compiled = rule.lower(bank, x, own, k=1, density_k=8).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 2e8
    sizes = []
    distances.in_chunks(lambda x: sizes.append(len(x)) or x, BANK)
    assert set(sizes) == {distances.CHUNK}


@pytest.mark.parametrize("name", [*BACKENDS])
def test_a_clip_is_scored_alike_whatever_stands_beside_it(name):
    fitted = Fused.fit(Scoring(name), BANK**2)
    queries = np.concatenate([QUERY, QUERY[::-1] + 0.1]) ** 2
    of_all = fitted.score(queries)
    for n in (1, 9, 17):
        np.testing.assert_array_equal(fitted.score(queries[-n:]), of_all[-n:])


def test_banks_of_similar_size_share_one_program():
    scores("ldn", Scoring())
    before = distances.ldn._cache_size()
    for clips in (250, 200, 100):
        scores("ldn", Scoring(), BANK[:clips] if clips < 256 else BANK)
    assert distances.ldn._cache_size() <= before + 1


@pytest.mark.parametrize("name", ["mahalanobis", "ldn+whitened_ldn"])
def test_each_id_has_its_bank_and_an_unknown_one_that_of_all(name):
    own, of_all = (
        Banks.fit(Scoring(name, per_id=p), BANK, ids(BANK)) for p in (True, False)
    )
    machine_id = np.where(np.arange(len(QUERY)) % 3, "00", "04")
    known = machine_id == "00"
    np.testing.assert_array_equal(own.unknown(machine_id), ~known)
    assert not of_all.unknown(machine_id).any()
    found = own.score(QUERY, machine_id)
    alone = Fused.fit(Scoring(name), BANK[::2]).score(QUERY)
    np.testing.assert_allclose(found[known], alone[known], rtol=1e-5)
    pooled = of_all.score(QUERY, machine_id)
    np.testing.assert_allclose(found[~known], pooled[~known], rtol=1e-5)
    normal = own.normal_scores()
    alone = Fused.fit(Scoring(name), BANK[::2]).normal_scores()
    np.testing.assert_allclose(normal[::2], alone, rtol=1e-5)


def test_an_id_with_one_clip_has_no_bank_and_one_clip_is_too_few():
    machine_id = np.array(["04", *ids(BANK)[1:]])
    banks = Banks.fit(Scoring("ldn"), BANK, machine_id)
    assert banks.unknown(machine_id).sum() == 1
    assert np.all(np.isfinite(banks.normal_scores()))
    with pytest.raises(ConfigError, match=r"backend='ldn': 1 normal clips; .* least 2"):
        Banks.fit(Scoring("ldn"), BANK[:1], machine_id[:1])


def test_a_vector_that_is_not_finite_has_no_score():
    query = QUERY.copy()
    query[3, 0] = np.nan
    banks = Banks.fit(Scoring("ldn"), BANK, ids(BANK))
    found = banks.score(query, ids(query))
    assert np.flatnonzero(np.isnan(found)).tolist() == [3]
    assert banks.score(query[:0], ids(query[:0])).shape == (0,)


def test_several_back_ends_give_the_mean_of_their_z_scores():
    parts = [Fused.fit(Scoring(name), BANK) for name in ("knn", "lof")]
    expected = [z_scores(p.score(QUERY), p.normal_scores()) for p in parts]
    found = scores("knn+lof", Scoring())
    np.testing.assert_allclose(found, np.mean(expected, 0), rtol=1e-5)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backend": "mse"}, r"scoring\.backend='mse': must be one of mean, "),
        ({"backend": "ldn+mse"}, r"scoring\.backend='ldn\+mse'"),
        ({"neighbours": 0}, r"scoring\.neighbours=0: must be at least 1"),
        ({"coreset": 0}, r"scoring\.coreset=0: must be at least 1, or None"),
    ],
)
def test_a_bad_field_of_a_scoring_is_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        Scoring(**fields)


@pytest.mark.slow
def test_density_finds_the_faults_of_real_machines(real_functionals):
    """Split by seed 0; 100 normal test clips of each of 12 IDs."""
    splits = [read(path, 0, 100) for path in sorted(real_functionals.glob("*.npz"))]

    def mean_auc(name):
        return np.mean([r.auc for s in splits for r in results(s, Scoring(name))])

    assert mean_auc("ldn+whitened_ldn") >= 0.93
    assert abs(mean_auc("knn") - 0.853) < 0.015


def test_held_out_scores_are_those_of_new_clips():
    away = {"held out": [], "left out": []}
    for seed in range(6):
        vectors = np.random.default_rng(seed).normal(size=(260, 300))
        fitted = Fused.fit(Scoring("ldn", max_columns=None), vectors[:60])
        new = fitted.score(vectors[60:])
        for name, scores in (
            ("held out", fitted.held_out),
            ("left out", fitted.normal_scores()),
        ):
            away[name].append((np.mean(scores) - np.mean(new)) / np.std(new))
    assert abs(np.mean(away["held out"])) < 0.2
    assert np.mean(away["left out"]) < -0.2  # the clip is in the scale of the columns
