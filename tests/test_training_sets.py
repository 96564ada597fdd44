"""The rows of the cross-ID matrix, and the clips that cells are made of."""

import numpy as np
import pytest
from small_clips import quiet_watch, small_clips

from experiments.cell import SIMULATED, Cell, Options
from experiments.material import load
from experiments.training_sets import EXTRA, MATRIX, training_sets
from mimii_jax.errors import DataError
from mimii_jax.slide_rail import simulate as slide_rail


@pytest.fixture(scope="module")
def train():
    """Ten clips of 00, ten of 02 and four of 04."""
    clips = small_clips(ids=("00", "02", "04"), train=10, test=1, length=64).train
    return clips[np.array([*range(20), 20, 22, 23, 29])]


def test_rows_of_the_matrix(train):
    rows = {row.name: row for row in training_sets(train, MATRIX)}
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
    ids = {name: train.machine_id[row.clips].tolist() for name, row in rows.items()}
    assert len(ids["all"]) == 24
    assert ids["id 04"] == ids["all, then id 04"] == ["04"] * 4
    assert ids["without 04"] == ["00"] * 10 + ["02"] * 10
    assert ids["downsampled"] == ["00"] * 4 + ["02"] * 4 + ["04"] * 4
    assert [name for name, row in rows.items() if row.tuned] == list(rows)[-3:]
    for row in rows.values():
        assert len(set(row.clips.tolist())) == len(row.clips)


def test_one_machine_has_one_row(train):
    rows = training_sets(train[slice(0, 10)], MATRIX)
    assert [row.name for row in rows] == ["all"]


def test_additions_are_in_their_own_row_only(train):
    rows = training_sets(train, (*MATRIX, EXTRA), n_own=20)
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


def material(recordings, extra=False, **options):
    options = Options(overrides=(("data.root", str(recordings)),), **options)
    config = Cell("a", "controls").build(options)
    return load(config, "slider", options, extra, quiet_watch())


def test_shares_are_of_each_id_and_label(more_recordings):
    found = material(more_recordings, train_share=0.25, test_share=0.67)
    assert found.train.machine_id.tolist() == ["00"] * 5 + ["02"] * 5
    assert found.n_own == 10
    counts = [found.test.count("test", i, k) for i in ("00", "02") for k in (0, 1)]
    assert counts == [2] * 4
    whole = material(more_recordings, train_share=1.0, test_share=1.0)
    assert (len(whole.train), len(whole.test)) == (40, 12)
    # A larger share holds clips from everywhere in the list, not the first ones.
    assert "normal_id_00_00000016.wav" in found.train.name


def test_simulated_clips_make_the_smallest_id_as_large(recordings, monkeypatch):
    def simulate(ids, *, scale, seed):
        assert ids == ("02",)
        return slide_rail.Simulation(small_clips(ids, train=4, test=1, seed=seed), [])

    monkeypatch.setattr(slide_rail, "simulate", simulate)
    clips = small_clips(train=6)
    fewer = clips[np.array([*range(9), *range(12, len(clips))])]  # 02 has 3 of 6
    monkeypatch.setattr("experiments.material._load", lambda *_: fewer)
    found = material(recordings, extra=True)
    assert found.n_own == 9
    assert found.train.machine_id.tolist() == ["00"] * 6 + ["02"] * 6
    assert set(found.train.split.tolist()) == {"train"}


def test_evaluation_clips_are_further_columns(recordings, monkeypatch):
    asked = []

    def clips_of(config, machine_type, watch, splits=("train", "test")):
        asked.append((config.data.root, tuple(config.data.ids), splits))
        of_folder = {"/more": ("00", "01", "02"), "/same": ("00",)}
        found = of_folder.get(config.data.root, ("00", "02"))
        clips = small_clips(tuple(config.data.ids) or found)
        return clips if "train" in splits else clips.test

    monkeypatch.setattr("experiments.material.load_clips", clips_of)
    monkeypatch.setattr("experiments.material._last", {})
    found = material(recordings, evaluation=SIMULATED)
    assert found.test.ids == ["00", "01", "02", "03", "05"]
    assert found.train.ids == ["00", "02"]
    assert asked[1] == ("", ("01", "03", "05"), ("test",))
    found = material(recordings, evaluation="/more")  # has those of the matrix, too
    assert asked[-1] == ("/more", (), ("test",))
    assert found.test.ids == ["00", "01", "02"]
    assert len(set(found.test.name.tolist())) == len(found.test)
    with pytest.raises(DataError, match="/same: no ids but 00, 02"):
        material(recordings, evaluation="/same")
