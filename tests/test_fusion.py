"""Fusion of detectors by the mean of z-scores."""

import numpy as np
import pytest
from example_scores import some_scores

from mimii_jax.errors import DataError
from mimii_jax.results.fusion import fuse
from mimii_jax.results.metrics import z_scores
from mimii_jax.results.table import NO_SEED, Scores

IDS = {"00": (20, 20), "02": (10, 30)}


def tables(*rows):
    """Test and normal scores of detectors (name, seed)."""
    found = []
    for ids, salt in ((IDS, 0), ({"00": (40, 0), "02": (40, 0)}, 100)):
        found.append(
            Scores.concatenate(
                some_scores(ids, detector=name, seed=seed, rng=salt + i)
                for i, (name, seed) in enumerate(rows)
            )
        )
    return found


def test_a_z_score_counts_robust_deviations_from_the_median():
    normal = np.random.default_rng(0).normal(5, 2, 100_000)
    np.testing.assert_allclose(
        z_scores(np.array([5.0, 7, 1]), normal), [0, 1, -2], atol=0.03
    )


@pytest.mark.parametrize("normal", [[3.0], [3.0, 3.0, 3.0]])
def test_normal_clips_without_spread_give_finite_scores(normal):
    np.testing.assert_array_equal(
        z_scores(np.array([3.0, 4.0]), np.array(normal)), [0, 1]
    )


def test_the_fusion_is_the_mean_of_the_z_scores_of_each_id():
    scores, normals = tables(("a", 0), ("b", 0))
    fused = fuse(scores, normals, ("a", "b"), "a & b")
    for row in range(len(fused)):
        same_clip = scores.name == fused.name[row]
        expected = []
        for part in ("a", "b"):
            of = (normals.detector == part) & (
                normals.machine_id == fused.machine_id[row]
            )
            score = scores.score[same_clip & (scores.detector == part)]
            expected.append(z_scores(score, normals.score[of])[0])
        assert fused.score[row] == pytest.approx(np.mean(expected))
    assert fused.detectors == ["a & b"]
    assert len(fused) == len(scores) / 2


def test_any_rise_and_scale_of_a_part_changes_nothing():
    scores, normals = tables(("a", 0), ("b", 0))
    before = fuse(scores, normals, ("a", "b"), "fused").score
    for table in (scores, normals):
        table.score[table.detector == "a"] *= 1e3
        table.score[table.detector == "a"] -= 7
    np.testing.assert_allclose(
        fuse(scores, normals, ("a", "b"), "fused").score, before, rtol=1e-9
    )


def test_a_detector_without_randomness_joins_every_seed():
    scores, normals = tables(("a", 0), ("a", 1), ("b", NO_SEED))
    fused = fuse(scores, normals, ("a", "b"), "fused")
    assert fused.seeds == [0, 1]
    assert not np.array_equal(
        fused[fused.seed == 0].score, fused[fused.seed == 1].score
    )


def test_an_id_without_normal_clips_has_the_scale_of_all():
    scores, normals = tables(("a", 0), ("b", 0))
    only = normals[normals.machine_id == "00"]
    fused = fuse(scores, only, ("a", "b"), "fused")
    assert np.isfinite(fused.score).all()


def test_parts_without_a_common_seed_are_refused():
    scores, normals = tables(("a", 0), ("b", 1))
    with pytest.raises(DataError, match="no seed"):
        fuse(scores, normals, ("a", "b"), "fused")
