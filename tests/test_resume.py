"""A training as a separate process: stopped, killed, resumed."""

import hashlib
import os
import random
import signal
import subprocess
import time
import warnings

import jax
import numpy as np
import pytest
from job import finished, start
from orbax.checkpoint import v1 as ocp

from mimii_jax.main import INTERRUPTED

KILLS = int(os.environ.get("KILLS", "10"))
SAVES_ALWAYS = (
    "--config.train.epochs=20",
    "--config.checkpoint.every_steps=1",
    "--config.seeds=(0, 1)",
)


def begin(more_recordings, workdir):
    """A training that saves at every dispatch."""
    return start(more_recordings, workdir, *SAVES_ALWAYS)


def results(workdir):
    """Everything that must be the same: csv files, and the last state."""
    files = sorted(workdir.rglob("*.csv"))
    found = {str(f.relative_to(workdir)): f.read_bytes() for f in files}
    assert "scores.csv" in found
    return {name: hashlib.sha256(data).hexdigest() for name, data in found.items()}


def final_state(workdir):
    """Bytes of the arrays of the last checkpoint."""
    folder = workdir / "checkpoints" / "slider"
    step = max(int(path.name) for path in folder.iterdir() if path.name.isdigit())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is on the device that it was saved from
        state = ocp.load(str(folder / str(step)))
    return step, [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


@pytest.fixture(scope="module")
def uninterrupted(more_recordings, tmp_path_factory):
    """The results of a training that nobody stopped."""
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    finished(begin(more_recordings, workdir))
    return results(workdir), final_state(workdir)


def wait_for(workdir, checkpoint):
    """Until a checkpoint is there."""
    folder = workdir / "checkpoints" / "slider"
    limit = time.monotonic() + 60
    while time.monotonic() < limit:
        if folder.is_dir() and any(
            p.name.isdigit() and int(p.name) >= checkpoint for p in folder.iterdir()
        ):
            return
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint {checkpoint} in {folder}")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_training_says_so_and_resumes(
    more_recordings, tmp_path, uninterrupted, number
):
    workdir = tmp_path / "run"
    process = begin(more_recordings, workdir)
    wait_for(workdir, 1)
    process.send_signal(number)
    text, _ = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, text
    assert text.splitlines()[-1] == (
        f"Interrupted. Rerun with --workdir={workdir} to resume."
    )
    assert "Traceback" not in text
    assert not (workdir / "scores.csv").exists()
    (text,) = finished(begin(more_recordings, workdir))
    assert "Resuming from" in text
    expected, state = uninterrupted
    assert results(workdir) == expected
    assert final_state(workdir) == state


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_training_that_is_killed_ten_times_ends_with_the_same_bits(
    more_recordings, tmp_path, uninterrupted, number
):
    """At random moments; it saves all the time, so while saving, too."""
    expected, state = uninterrupted
    begun = time.monotonic()
    finished(begin(more_recordings, tmp_path / "timed"))  # all is compiled
    seconds = time.monotonic() - begun
    assert results(tmp_path / "timed") == expected
    workdir = tmp_path / "run"
    chance = random.Random(0)
    kills = 0
    while kills < KILLS:
        process = begin(more_recordings, workdir)
        try:
            process.wait(timeout=chance.uniform(0.3, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            kills += 1
        process.communicate()
        if process.returncode == 0:  # done too soon: kill another one
            assert results(workdir) == expected
            workdir = tmp_path / f"run_{kills}"
    finished(begin(more_recordings, workdir))
    assert results(workdir) == expected
    assert final_state(workdir) == state
