"""Checkpoints: whole or not at all, the latest that can be read, any mesh."""

import contextlib
import resource
import shutil
import subprocess

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp
from slowly import slow
from training import DIFFERENT, epochs, leaves, together, train_on

from mimii_jax import log
from mimii_jax.errors import ConfigError, DataError
from mimii_jax.train.checkpoints import Checkpoints
from mimii_jax.train.runs import CheckpointPolicy


def checkpoints(folder, **policy):
    return Checkpoints(folder / "checkpoints", CheckpointPolicy(**policy))


def steps(folder):
    names = [path.name for path in (folder / "checkpoints").iterdir()]
    return sorted(int(name) for name in names if name.isdigit())


def train_in(folder, stop_at=None, mesh=(1, 1), metrics=None, **changes):
    """Train with checkpoints, and stop once a step is reached."""
    saved = checkpoints(folder, **changes)
    if stop_at is not None:
        due = saved.due

        def stop_when_there(step):
            if step >= stop_at:
                log.request_stop()
            return due(step)

        saved.due = stop_when_there
    try:
        _, state = train_on(
            runs=DIFFERENT, mesh=mesh, checkpoints=saved, metrics=metrics
        )
        return state
    finally:
        saved.close()


@pytest.mark.parametrize("stop_at", [slow(1), 3])
def test_a_training_that_was_stopped_ends_with_the_same_bits(stop_at, tmp_path, capsys):
    """All runs of it, of which some are done when others are not."""
    metrics = tmp_path / "metrics.jsonl"
    with pytest.raises(log.Interrupted):
        train_in(tmp_path, stop_at=stop_at, metrics=metrics)
    assert max(steps(tmp_path)) >= stop_at
    resumed = train_in(tmp_path, metrics=metrics)
    for a, b in zip(leaves(resumed), leaves(together()), strict=True):
        np.testing.assert_array_equal(a, b)
    assert f"Resuming from {tmp_path / 'checkpoints'}" in capsys.readouterr().out
    assert [row["epoch"] for row in epochs(metrics)] == [1, 2]


@pytest.mark.slow
def test_a_checkpoint_restores_on_another_mesh(tmp_path):
    with pytest.raises(log.Interrupted):
        train_in(tmp_path, stop_at=2, mesh=(2, 1))
    resumed = train_in(tmp_path, mesh=(1, 2))
    for a, b in zip(leaves(resumed), leaves(together()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def a_state(value):
    return {"x": np.full((2, 300), value, np.float32)}


def restored(folder, writes=True):
    saved = Checkpoints(folder / "checkpoints", CheckpointPolicy(), writes)
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    step, state = saved.restore(a_state(-1.0), device)
    saved.close()
    return step, float(np.asarray(state["x"])[0, 0])


def save_some(folder, losses, **changes):
    saved = checkpoints(folder, **changes)
    for step, loss in losses.items():
        saved.save(
            step, a_state(step), None if loss is None else np.array([loss, loss])
        )
    saved.close()


def test_the_latest_stay_and_the_best(tmp_path):
    losses = {10: 3.0, 20: 1.0, 30: None, 40: 2.0, 50: 4.0, 60: float("nan")}
    save_some(tmp_path, losses)
    assert steps(tmp_path) == [20, 50, 60]
    assert restored(tmp_path) == (60, 60.0)
    saved = checkpoints(tmp_path)
    saved.restore(a_state(0), jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    assert saved.best == 1.0
    assert not saved.better(np.array([1.0, 1.0]))
    assert saved.better(np.array([1.0, 0.9]))
    saved.close()


def damage(path, how):
    files = sorted(p for p in path.rglob("*") if p.is_file())
    largest = max(files, key=lambda file: file.stat().st_size)
    if how == "truncated":
        with largest.open("r+b") as file:
            file.truncate(largest.stat().st_size // 2)
    elif how == "emptied":
        for file in files:
            file.write_bytes(b"")
    elif how == "metrics":
        (path / "metrics" / "metrics").write_bytes(b"\x80")
    else:
        shutil.rmtree(path / "state")


@pytest.mark.parametrize("how", ["truncated", "emptied", "partial", "metrics"])
def test_a_damaged_checkpoint_is_skipped_with_a_warning(how, tmp_path, capsys):
    save_some(tmp_path, {10: None, 20: 1.0 if how == "metrics" else None})
    damage(tmp_path / "checkpoints" / "20", how)
    before = steps(tmp_path)
    with pytest.raises(DataError, match=r"20: damaged checkpoint .* training again"):
        restored(tmp_path, writes=False)
    assert steps(tmp_path) == before
    assert restored(tmp_path) == (10, 10.0)
    path = tmp_path / "checkpoints" / "20"
    assert f"warning: {path}: damaged checkpoint" in capsys.readouterr().err
    save_some(tmp_path, {20: None})  # its name is free again
    assert restored(tmp_path) == (20, 20.0)


def test_a_flipped_bit_is_never_restored(tmp_path):
    """Wherever it is: the array files have no check sums."""
    rng = np.random.default_rng(0)
    state = {
        "x": rng.normal(size=(2, 300)).astype(np.float32),
        "alive": np.ones(2, bool),
    }
    saved = checkpoints(tmp_path)
    saved.save(10, state, None)
    saved.close()
    files = (tmp_path / "checkpoints" / "10").rglob("*")
    largest = max(files, key=lambda file: file.stat().st_size * file.is_file())
    content, refused = largest.read_bytes(), 0
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    for place in rng.integers(len(content), size=20):
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.integers(8)
        largest.write_bytes(damaged)
        reads = Checkpoints(tmp_path / "checkpoints", CheckpointPolicy(), writes=False)
        try:
            found = reads.restore(state, device)[1]
            np.testing.assert_array_equal(found["x"], state["x"])
        except DataError:
            refused += 1
        reads.close()
    assert refused > 10


@pytest.mark.parametrize("name", ["RESOURCE_EXHAUSTED: x", "PERMISSION_DENIED: x"])
def test_what_cannot_be_read_for_the_moment_stays(name, tmp_path, monkeypatch):
    save_some(tmp_path, {10: None})

    def fail(*_):
        raise ValueError(name)

    monkeypatch.setattr(ocp.training.Checkpointer, "load", fail)
    with pytest.raises(DataError, match=r"checkpoints/10: can't be read now: [RP]"):
        restored(tmp_path)
    assert steps(tmp_path) == [10]


def test_too_few_descriptors_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (24, 24))
    with pytest.raises(ConfigError, match="ulimit -n 24: must be 64 or more"):
        checkpoints(tmp_path)


def test_without_a_good_checkpoint_it_begins_anew(tmp_path):
    save_some(tmp_path, {10: None})
    damage(tmp_path / "checkpoints" / "10", "truncated")
    assert restored(tmp_path) == (0, -1.0)


def test_it_is_time_to_save_after_steps_and_after_minutes(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    never = checkpoints(tmp_path / "a")
    by_steps = checkpoints(tmp_path / "b", every_steps=5)
    by_time = checkpoints(tmp_path / "c", every_minutes=2.0)
    now[0] = 119.0
    assert not by_time.due(1000)
    now[0] = 121.0
    assert by_time.due(1)
    assert not never.due(10**9)
    assert [by_steps.due(step) for step in (4, 5, 12)] == [False, True, True]
    by_steps.save(7, a_state(0), None)
    assert [by_steps.due(step) for step in (11, 12)] == [False, True]
    for one in (never, by_steps, by_time):
        one.close()


def test_what_cannot_be_written_leaves_the_last_one(tmp_path, monkeypatch):
    """A full disk, as the system reports it."""
    save_some(tmp_path, {10: None})
    saved = checkpoints(tmp_path)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saved._manager, "save_async", full)
    with pytest.raises(DataError, match="the disk is full; free some space") as caught:
        saved.save(20, a_state(20), None)
    assert "\n" not in str(caught.value)
    saved.close()
    assert restored(tmp_path) == (10, 10.0)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command).returncode:
        pytest.skip("no right to mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_is_full_keeps_the_checkpoint_before(small_disk):
    """A real one; with room again, the training resumes."""
    save_some(small_disk, {10: None})
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass
    with pytest.raises(DataError, match="the disk is full; free some space") as caught:
        save_some(small_disk, {20: None})
    assert "\n" not in str(caught.value)
    filler.unlink()
    assert restored(small_disk) == (10, 10.0)
    save_some(small_disk, {20: None})
    assert restored(small_disk) == (20, 20.0)
