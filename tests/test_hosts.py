"""Two processes on this machine, over loopback, as one training."""

import socket
import subprocess
import sys

import numpy as np
import pytest
from job import ROOT, finished, start

from mimii_jax.metrics import auc
from mimii_jax.scores import read_scores


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def train_in(n_processes, more_recordings, workdir, *more):
    """What each process prints, when all have ended well."""
    port = free_port()
    return finished(
        *(
            start(
                more_recordings,
                workdir,
                f"--coordinator_address=localhost:{port}",
                f"--num_processes={n_processes}",
                f"--process_id={i}",
                *more,
            )
            for i in range(n_processes)
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "mesh"), [("(0, 1)", "run"), ("(3,)", "data")])
def test_two_processes_train_what_one_does(more_recordings, tmp_path, seeds, mesh):
    """Runs on a process each, and one run whose batches both of them share."""
    more = (f"--config.seeds={seeds}", f"--config.mesh.{mesh}=2")
    first, second = train_in(2, more_recordings, tmp_path / "two", *more)
    assert f"workdir: {tmp_path / 'two'}" in first
    assert "AUC" not in second  # process 0 alone prints tables
    finished(start(more_recordings, tmp_path / "one", f"--config.seeds={seeds}"))
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


def test_a_lone_process_id_is_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "mimii_jax.main", "--num_processes=2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: --coordinator_address, --num_processes and")
    assert len(done.stderr.splitlines()) == 1
