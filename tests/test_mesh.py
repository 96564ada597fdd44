"""Meshes: the same training on any devices."""

import jax
import numpy as np
import pytest
from slowly import slow
from training import DIFFERENT, SETTINGS, alone, build_vae, epochs, leaves, train_on

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
    assert shape(5, None, 2) == (4, 2)
    assert shape(1, None, 8) == (1, 8)
    assert shape(3, 3, 2) == (3, 2)


@pytest.mark.parametrize(("run", "data"), [(9, None), (3, 3), (None, 16), (0, 1)])
def test_a_mesh_that_the_devices_do_not_fill_is_refused(run, data):
    with pytest.raises(ConfigError, match=r"mesh\.run=.*(8 devices|positive)"):
        make_mesh(4, run, data)


@pytest.mark.parametrize(("mesh", "group"), [((1, 1), 2), ((2, 1), 1), ((4, 2), 2)])
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


@pytest.mark.parametrize(
    ("mesh", "group"),
    [slow((1, 1), 1), ((1, 1), 2), slow((1, 1), 3), slow((2, 3), None)],
)
def test_a_run_among_several_equals_the_run_alone(mesh, group, tmp_path):
    """In all fields of its state, though the others have other clips and epochs.

    To the last digits, on any mesh and in groups of any size, of which the last is
    padded: order and noise are the same bits, but sums over a batch and matrix products
    of several runs at once are taken in another order, and Adam carries that on.
    """
    path = tmp_path / "metrics.jsonl"
    _, many = train_on(runs=DIFFERENT, mesh=mesh, group=group, metrics=path)
    for i, n_steps in enumerate((2 * 3, 3 * 2, 2 * 2)):  # own clips, own epochs
        one, val_loss = alone(i)
        assert one.step[0] == n_steps
        for a, b in zip(leaves(many), leaves(one), strict=True):
            np.testing.assert_allclose(a[i : i + 1], b, rtol=1e-4, atol=1e-6)
        losses = np.array([epochs(path)[-1]["val_loss"][i], val_loss], float)
        np.testing.assert_allclose(*losses, rtol=1e-4)  # None: without validation


def test_a_run_among_several_starts_from_the_same_bits_as_alone():
    same = [Standardiser.identity(2)] * 3
    _, many = init_runs(build_vae, SETTINGS, DIFFERENT, same)
    for i, run in enumerate(DIFFERENT):
        _, one = init_runs(build_vae, SETTINGS, [run], same[:1])
        for a, b in zip(leaves(many), leaves(one), strict=True):
            np.testing.assert_array_equal(a[i : i + 1], b)
        after = leaves(alone(i)[0].params)
        moved = [
            np.abs(a - b).max() for a, b in zip(leaves(one.params), after, strict=True)
        ]
        assert max(moved) > 1e-2  # the training does something


@pytest.mark.slow
def test_one_run_spreads_its_batch_with_the_same_losses():
    _, one = train_on(held_out=1)
    _, spread = train_on(held_out=1, mesh=(1, 4))
    np.testing.assert_allclose(spread.epoch_loss, one.epoch_loss, rtol=1e-5)
    assert len(spread.epoch_loss.sharding.device_set) == 4
