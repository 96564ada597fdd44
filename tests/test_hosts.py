"""Two processes on this machine, over loopback, as one training."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_clips import small_clips

from mimii_jax.data import dcase
from mimii_jax.metrics import auc
from mimii_jax.scores import read_scores

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    root = tmp_path_factory.mktemp("recordings")
    dcase.write(small_clips(train=20), root)
    return root


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def train_in(n_processes, recordings, workdir, *more):
    """What each process prints, when all have ended well."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [
        sys.executable,
        "-m",
        "mimii_jax.main",
        "--config=configs/mlp_vae.py:quick",
        f"--workdir={workdir}",
        f"--config.data.root={recordings}",
        "--config.train.batch_size=32",
        "--config.detector.hidden=(16,)",
        "--config.eval.bootstrap=0",
        *more,
    ]
    port = free_port()
    processes = [
        subprocess.Popen(
            command
            if n_processes == 1
            else [
                *command,
                f"--coordinator_address=localhost:{port}",
                f"--num_processes={n_processes}",
                f"--process_id={i}",
            ],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(n_processes)
    ]
    texts = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * n_processes, texts
    return texts


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "mesh"), [("(0, 1)", "run"), ("(3,)", "data")])
def test_two_processes_train_what_one_does(recordings, tmp_path, seeds, mesh):
    """Runs on a process each, and one run whose batches both of them share."""
    more = (f"--config.seeds={seeds}", f"--config.mesh.{mesh}=2")
    first, second = train_in(2, recordings, tmp_path / "two", *more)
    assert f"workdir: {tmp_path / 'two'}" in first
    assert "AUC" not in second  # process 0 alone prints tables
    train_in(1, recordings, tmp_path / "one", f"--config.seeds={seeds}")
    one, two = (read_scores(tmp_path / n / "scores.csv") for n in ("one", "two"))
    for column in ("detector", "seed", "name", "label"):
        np.testing.assert_array_equal(getattr(one, column), getattr(two, column))
    np.testing.assert_allclose(two.score, one.score, rtol=1e-4)
    assert auc(two.label[two.detector == "level"], two.score[two.detector == "level"])
    files = {
        n: sorted(str(p.relative_to(tmp_path / n)) for p in (tmp_path / n).glob("*"))
        for n in ("one", "two")
    }
    assert files["one"] == files["two"]


def test_a_lone_process_id_is_one_line(recordings, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mimii_jax.main", "--num_processes=2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: --coordinator_address, --num_processes and")
    assert len(done.stderr.splitlines()) == 1
