"""Training sets: the rows of the cross-ID matrix."""

import numpy as np

from mimii_jax.train.runs import ALL, EXTRA, MATRIX, TYPE, training_sets

TRAIN = np.repeat(["00", "02", "04"], [10, 10, 4])
HELD_OUT = np.repeat(["00", "02", "04"], [2, 2, 1])


def test_rows_of_the_matrix():
    rows = {row.name: row for row in training_sets(TRAIN, HELD_OUT, MATRIX)}
    assert list(rows) == [
        "all",
        "id 00",
        "id 02",
        "id 04",
        "downsampled",
        "without 00",
        "without 02",
        "without 04",
        "all, then id 00",
        "all, then id 02",
        "all, then id 04",
    ]
    ids = {name: TRAIN[row.clips].tolist() for name, row in rows.items()}
    assert len(ids["all"]) == 24
    assert ids["id 04"] == ids["all, then id 04"] == ["04"] * 4
    assert ids["without 04"] == ["00"] * 10 + ["02"] * 10
    assert ids["downsampled"] == ["00"] * 4 + ["02"] * 4 + ["04"] * 4
    assert [name for name, row in rows.items() if row.tuned] == list(rows)[-3:]
    for row in rows.values():
        assert len(set(row.clips.tolist())) == len(row.clips)
        # Held-out clips of the same IDs, and all of those.
        known = np.isin(HELD_OUT, TRAIN[row.clips])
        np.testing.assert_array_equal(row.validation, np.flatnonzero(known))


def test_types_are_rows_where_one_model_hears_several():
    ids = np.repeat(["fan/00", "fan/02", "slider/00"], [3, 2, 4])
    rows = training_sets(ids, ids[:0], (ALL, TYPE))
    assert [(row.name, len(row.clips)) for row in rows] == [
        ("all", 9),
        ("type fan", 5),
        ("type slider", 4),
    ]
    assert [row.name for row in training_sets(TRAIN, HELD_OUT, (TYPE,))] == []


def test_one_machine_has_one_row():
    rows = training_sets(TRAIN[:10], HELD_OUT[:2], MATRIX)
    assert [row.name for row in rows] == ["all"]


def test_simulated_clips_are_in_their_own_row_only():
    rows = training_sets(TRAIN, HELD_OUT, (*MATRIX, EXTRA), n_own=20)
    assert {row.name: max(row.clips.tolist()) for row in rows} == {
        "all": 19,
        "id 00": 9,
        "id 02": 19,
        "downsampled": 19,
        "without 00": 19,
        "without 02": 9,
        "all, then id 00": 9,
        "all, then id 02": 19,
        "all + simulated": 23,
    }
