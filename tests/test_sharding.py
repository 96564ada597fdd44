"""Meshes and layouts: the same training wherever the runs stand."""

import json

import jax
import numpy as np
import pytest
from training import DIFFERENT, leaves, train_on

from mimii_jax.train.mesh import DATA, EMPTY, RUN, Layout, agree, make_mesh
from mimii_jax.train.runs import runs_on_all


def shape(*arguments):
    mesh = make_mesh(*arguments)
    return mesh.shape[RUN], mesh.shape[DATA]


def test_the_virtual_devices_of_a_cpu_are_used_only_when_asked_for():
    assert len(jax.devices()) == 8
    assert shape(5) == (1, 1)
    assert shape(5, 4) == (4, 2)
    assert shape(5, 4, 1) == (4, 1)
    assert shape(5, 0, 2) == (4, 2)
    assert shape(1, 0, 8) == (1, 8)
    assert shape(3, 3, 2) == (3, 2)


@pytest.mark.parametrize(("run", "data"), [(9, 0), (3, 3), (0, 16), (-1, 1)])
def test_more_devices_than_there_are_is_an_error(run, data):
    with pytest.raises(ValueError, match="there are 8 devices"):
        make_mesh(4, run, data)


def test_runs_stand_in_blocks_the_longest_first():
    layout = Layout.of(make_mesh(5, 2, 1), [3, 9, 4, 1, 5])
    np.testing.assert_array_equal(layout.slots, [[1, 2, 0], [4, 3, EMPTY]])


@pytest.mark.parametrize("mesh", [(1, 1), (2, 1), (4, 2), (8, 1)])
def test_what_is_spread_is_collected_again(mesh):
    layout = Layout.of(make_mesh(5, *mesh), [3, 9, 4, 1, 5])
    values = {"a": np.arange(5), "b": np.arange(30.0).reshape(5, 3, 2)}
    spread = layout.spread(values)
    assert spread["a"].shape == layout.slots.shape
    assert spread["b"].sharding.spec[0] == RUN
    collected = layout.collect(spread)
    for name, value in values.items():
        np.testing.assert_array_equal(collected[name], value)
    empty = np.asarray(layout.spread(values["a"], empty=-7))
    assert np.all(empty[layout.slots == EMPTY] == -7)


@pytest.mark.parametrize("mesh", [(8, 1), (2, 3)])
def test_a_mesh_changes_no_more_than_the_last_digits(mesh, tmp_path):
    """Three runs on eight or two shards, batches of 16 on three devices: padded.

    Not bit for bit, since sums over a batch are taken in another order.
    """
    _, alone = train_on(runs=DIFFERENT)
    _, spread = train_on(runs=DIFFERENT, mesh=mesh)
    for a, b in zip(leaves(spread), leaves(alone), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_one_run_spreads_its_batch_with_the_same_losses(tmp_path):
    _, alone = train_on(held_out=1)
    _, spread = train_on(held_out=1, mesh=(1, 8))
    np.testing.assert_allclose(spread.epoch_loss, alone.epoch_loss, rtol=1e-5)
    assert len(spread.epoch_loss.sharding.device_set) == 8


def test_several_processes_agree_on_the_greatest():
    assert agree(3, True, False) == (3, True, False)


def test_every_run_has_all_clips_and_its_seed():
    runs = runs_on_all(4, (3, 1))
    assert [run.seed for run in runs] == [3, 1]
    for run in runs:
        np.testing.assert_array_equal(run.clips, np.arange(4))


@pytest.mark.parametrize("group", [1, 2])
def test_runs_in_groups_change_no_more_than_the_last_digits(group, tmp_path):
    """Of three runs; the last group of two is of one. Sums are in another order."""
    held_out = {"held_out": 1, "runs": DIFFERENT}
    _, together = train_on(metrics=tmp_path / "together", **held_out)
    _, apart = train_on(metrics=tmp_path / "apart", group=group, **held_out)
    for a, b in zip(leaves(apart), leaves(together), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    losses = [
        json.loads((tmp_path / name).read_text().splitlines()[-1])["validation_loss"]
        for name in ("together", "apart")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)
