"""AUC per machine ID, mean and pooled."""

import numpy as np
import pytest
from example_scores import some_scores

from mimii_jax.errors import DataError
from mimii_jax.results.metrics import auc
from mimii_jax.results.per_id import MEAN, POOLED, evaluate
from mimii_jax.results.table import Scores


def rows_of(scores, **options):
    return {
        (row.detector, row.machine_id): row
        for row in evaluate(scores, **{"bootstrap": 50, **options})
    }


def numbers(row):
    """All that a row says, to compare."""
    metrics = [m and (m.mean, m.sd, m.interval) for m in (row.auc, row.pauc)]
    return [*metrics, row.n_normal, row.n_anomalous, row.seeds, row.note]


def test_average_is_unweighted_over_ids_and_pooled_is_over_clips():
    scores = some_scores({"00": (40, 10), "02": (10, 90)})
    shifted = np.where(scores.machine_id == "02", scores.score + 100, scores.score)
    scores = Scores(**{**vars(scores), "score": shifted})
    rows = rows_of(scores)
    per_id = [
        auc(scores.label[where], scores.score[where])
        for where in (scores.machine_id == "00", scores.machine_id == "02")
    ]
    assert [rows["mlp_vae", i].auc.mean for i in ("00", "02")] == per_id
    assert rows["mlp_vae", MEAN].auc.mean == pytest.approx(np.mean(per_id))
    assert rows["mlp_vae", POOLED].auc.mean == auc(scores.label, scores.score)
    assert rows["mlp_vae", POOLED].pauc.mean == auc(scores.label, scores.score, 0.1)
    assert rows["mlp_vae", POOLED].n_normal == 50
    assert rows["mlp_vae", MEAN].n_anomalous == 100


def test_mean_and_sd_over_seeds_whatever_the_order_of_the_rows():
    runs = [some_scores({"00": (20, 20), "02": (20, 20)}, seed=s) for s in (0, 1, 5)]
    scores = Scores.concatenate(runs)
    mixed = scores[np.random.default_rng(0).permutation(len(scores))]
    rows = rows_of(mixed)
    each = [
        [
            auc(r.label[own], r.score[own])
            for own in (r.machine_id == "00", r.machine_id == "02")
        ]
        for r in runs
    ]
    row = rows["mlp_vae", "02"]
    assert row.seeds == (0, 1, 5)
    assert row.auc.mean == pytest.approx(np.mean(each, axis=0)[1])
    assert row.auc.sd == pytest.approx(np.std(each, axis=0, ddof=1)[1])
    average = rows["mlp_vae", MEAN].auc
    assert average.sd == pytest.approx(np.std(np.mean(each, axis=1), ddof=1))
    ordered = rows_of(scores)
    assert ordered.keys() == rows.keys()
    assert all(numbers(ordered[key]) == numbers(rows[key]) for key in rows)


def test_interval_holds_the_mean_and_is_the_same_for_the_same_scores():
    scores = some_scores({"00": (50, 80), "02": (60, 40)})
    twin = Scores(**{**vars(scores), "detector": np.full(len(scores), "twin")})
    rows = rows_of(Scores.concatenate([scores, twin]), bootstrap=400)
    for name in ("00", "02", MEAN, POOLED):
        one, other = rows["mlp_vae", name], rows["twin", name]
        assert numbers(one) == numbers(other)
        low, high = one.auc.interval
        assert low < one.auc.mean < high
    widths = [np.ptp(rows["mlp_vae", name].auc.interval) for name in ("00", "02", MEAN)]
    assert widths[2] < min(widths[:2])


@pytest.mark.parametrize(
    ("counts", "note"),
    [
        ((0, 5), "only anomalous clips: no AUC"),
        ((2, 0, 5), "only normal and unlabelled clips: no AUC"),
    ],
)
def test_id_without_both_classes_has_a_note_and_the_rest_is_computed(counts, note):
    rows = rows_of(some_scores({"00": (9, 9), "06": counts}))
    row = rows["mlp_vae", "06"]
    assert (row.auc, row.pauc, row.note) == (None, None, note)
    assert numbers(rows["mlp_vae", MEAN])[:5] == numbers(rows["mlp_vae", "00"])[:5]
    assert rows["mlp_vae", MEAN].note == "of IDs 00"
    assert rows["mlp_vae", POOLED].auc is not None
    alone = rows_of(some_scores({"06": counts}))
    assert [row.auc for row in alone.values()] == [None] * 3


def test_unlabelled_clips_change_nothing_and_are_counted():
    with_them = rows_of(some_scores({"00": (9, 9, 4)}))["mlp_vae", "00"]
    assert with_them.note == "4 unlabelled clips left out"
    assert (with_them.n_normal, with_them.n_anomalous) == (9, 9)


def test_seeds_with_other_clips_are_refused():
    runs = [some_scores({"00": (5, 5)}), some_scores({"00": (5, 4)}, seed=1)]
    with pytest.raises(DataError, match=r"slider, mlp_vae: seed 1 .* than seed 0"):
        evaluate(Scores.concatenate(runs))
