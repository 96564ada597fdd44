"""Which clips an experiment trains and tests on."""

from dataclasses import replace

import numpy as np
import pytest
from small_clips import small_clips

from configs import controls
from mimii_jax import dataset
from mimii_jax.config import build
from mimii_jax.dataset import SIMULATED, Dataset
from mimii_jax.errors import DataError
from mimii_jax.simulated import simulate as simulator

DATA = build(controls.get_config()).data


def test_shares_are_of_each_id_and_label(more_recordings):
    data = replace(DATA, root=str(more_recordings), train_share=0.25, test_share=0.67)
    found = data.load("slider")
    assert found.train.machine_id.tolist() == ["00"] * 5 + ["02"] * 5
    counts = [found.count("test", i, k) for i in ("00", "02") for k in (0, 1)]
    assert counts == [2] * 4
    whole = replace(DATA, root=str(more_recordings)).load("slider")
    assert (len(whole.train), len(whole.test)) == (40, 12)
    # A larger share holds clips from everywhere in the list, not the first ones.
    assert "normal_id_00_00000016.wav" in found.train.name


def test_a_simulation_makes_no_more_clips_than_are_used(monkeypatch):
    asked = []

    def simulate(ids, **settings):
        asked.append(settings)
        return simulator.Simulation(small_clips(ids), [])

    monkeypatch.setattr(simulator, "simulate", simulate)
    shares = {"scale": 0.5, "train_share": 0.1, "test_share": 0.2}
    replace(DATA, **shares, ids=("00",)).load("slider")
    of_slider = {"machine_type": "slider", "seed": DATA.simulation_seed}
    assert asked == [shares | of_slider]


def test_simulated_clips_make_the_smallest_id_as_large(monkeypatch):
    def simulate(ids, *, scale, seed):
        assert ids == ("02",)
        return simulator.Simulation(small_clips(ids, train=4, test=1, seed=seed), [])

    clips = small_clips(train=6)
    fewer = clips[np.array([*range(9), *range(12, len(clips))])]  # 02 has 3 of 6
    monkeypatch.setattr(simulator, "simulate", simulate)
    monkeypatch.setattr(Dataset, "_read", lambda *_: fewer)
    found = replace(DATA, root="somewhere").load("slider", extra=True)
    assert found.train.machine_id.tolist() == ["00"] * 6 + ["02"] * 3
    extra = found[found.split == "extra"]
    assert extra.machine_id.tolist() == ["02"] * 3
    assert np.array_equal(found.test.name, fewer.test.name)


def test_evaluation_clips_are_further_ids(monkeypatch):
    of_folder = {"/main": ("00", "02"), "/more": ("00", "01", "02"), "/same": ("00",)}

    def read(self, root, machine_type, ids, splits, seconds=None):
        clips = small_clips(of_folder[str(root)])
        return clips if "train" in splits else clips.test

    def simulate(ids, **settings):
        return simulator.Simulation(small_clips(ids), [])

    monkeypatch.setattr(Dataset, "_read", read)
    monkeypatch.setattr(simulator, "simulate", simulate)
    data = replace(DATA, root="/main", evaluation=SIMULATED)
    found = data.load("slider")
    assert found.test.ids == ["00", "01", "02", "03", "05"]
    assert found.train.ids == ["00", "02"]
    found = replace(data, evaluation="/more").load("slider")
    assert found.test.ids == ["00", "01", "02"]
    assert len(set(found.test.name.tolist())) == len(found.test)
    with pytest.raises(DataError, match=r"data\.evaluation=/same: .* 00, 02"):
        replace(data, evaluation="/same").load("slider")


def test_what_is_simulated_is_said(monkeypatch, capsys):
    monkeypatch.setattr(
        simulator, "simulate", lambda *a, **k: simulator.Simulation(small_clips(), [])
    )
    monkeypatch.setattr(dataset.log, "console", dataset.log.Console(width=200))
    replace(DATA, scale=0.02).load("slider")
    assert "SIMULATED sound, not recordings" in capsys.readouterr().out
    assert DATA.source == "simulated"
    assert replace(DATA, root="x").source == "recordings"
