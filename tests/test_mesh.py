"""Meshes: the same training on any devices."""

import json

import jax
import numpy as np
import pytest
from training import DIFFERENT, SETTINGS, build_vae, leaves, train_on

from mimii_jax.errors import ConfigError
from mimii_jax.features.windows import Standardiser
from mimii_jax.train.mesh import DATA, RUN, make_mesh
from mimii_jax.train.state import init_runs, make_plan, spread


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
    with pytest.raises(ConfigError, match="JAX has 8 devices"):
        make_mesh(4, run, data)


@pytest.mark.parametrize("mesh", [(1, 1), (2, 1), (4, 2), (8, 1)])
@pytest.mark.parametrize("group", [1, 2])
def test_what_is_spread_is_padded_with_runs_of_no_steps(mesh, group):
    plan = make_plan(SETTINGS, DIFFERENT, 9)
    _, start = init_runs(build_vae, SETTINGS, DIFFERENT, [Standardiser.identity(2)] * 3)
    rows, _ = mesh
    state, plans = spread(make_mesh(3, *mesh), group, start, plan)
    n_runs = len(plans.total)
    assert n_runs % (rows * group) == 0
    assert n_runs < 3 + rows * group
    assert np.all(np.asarray(plans.total)[3:] == 0)
    for a, b in zip(leaves((state, plans)), leaves((start, plan)), strict=True):
        np.testing.assert_array_equal(a[:3], b)
    for leaf in jax.tree.leaves((state, plans)):
        assert leaf.sharding.shard_shape(leaf.shape)[0] == n_runs // rows


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


@pytest.mark.parametrize("group", [1, 2])
def test_runs_in_groups_change_no_more_than_the_last_digits(group, tmp_path):
    """Of three runs; the last group of two is padded. Sums are in another order."""
    _, together = train_on(metrics=tmp_path / "together", runs=DIFFERENT, group=3)
    _, apart = train_on(metrics=tmp_path / "apart", runs=DIFFERENT, group=group)
    for a, b in zip(leaves(apart), leaves(together), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    losses = [
        json.loads((tmp_path / name).read_text().splitlines()[-1])["val_loss"]
        for name in ("together", "apart")
    ]
    np.testing.assert_allclose(*(np.array(loss, float) for loss in losses), rtol=1e-4)
