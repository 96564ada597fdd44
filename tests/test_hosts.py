"""Two processes on this machine, over loopback, as one training."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from job import ROOT, finished, start

from mimii_jax.errors import ConfigError
from mimii_jax.results.table import read_scores
from mimii_jax.train.mesh import join_processes, started_by_scheduler


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def by_hand(process, port):
    """Flags and environment that number a process."""
    flags = (
        f"--coordinator_address=localhost:{port}",
        "--num_processes=2",
        f"--process_id={process}",
    )
    return flags, {}


def under_slurm(process, port):
    """As `srun --ntasks=2` on one node sets it; the port follows from the job."""
    return (), {
        "SLURM_JOB_ID": str(port),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_NTASKS": "2",
        "SLURM_PROCID": str(process),
        "SLURM_LOCALID": str(process),
    }


def under_open_mpi(process, port):
    """As `mpirun -n 2` of Open MPI 4 sets it; the port follows from the job."""
    return (), {
        "OMPI_MCA_orte_hnp_uri": f"{port * 2**12}.0;tcp://127.0.0.1:{port}",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_RANK": str(process),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(process),
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seeds", "mesh", "found"),
    [
        ("(0, 1)", "run", by_hand),
        ("(3,)", "data", by_hand),
        ("(0, 1)", "run", under_slurm),
        ("(0, 1)", "run", under_open_mpi),
    ],
)
def test_two_processes_train_what_one_does(
    more_recordings, tmp_path, seeds, mesh, found
):
    """Runs on a process each, and one run whose batches both of them share."""
    port = free_port()
    more = (f"--config.seeds={seeds}", f"--config.mesh.{mesh}=2")
    processes = []
    for process in range(2):
        flags, variables = found(process, port)
        command = (more_recordings, tmp_path / "two", *more, *flags)
        processes.append(start(*command, **variables))
    first, second = finished(*processes)
    assert f"Report: {tmp_path / 'two'}" in first
    assert "AUC" not in second  # process 0 alone prints tables
    finished(start(more_recordings, tmp_path / "one", f"--config.seeds={seeds}"))
    one, two = (read_scores(tmp_path / n / "scores.csv") for n in ("one", "two"))
    for column in ("detector", "seed", "name", "label"):
        np.testing.assert_array_equal(getattr(one, column), getattr(two, column))
    np.testing.assert_allclose(two.score, one.score, rtol=1e-4)
    files = {
        n: sorted(str(p.relative_to(tmp_path / n)) for p in (tmp_path / n).glob("*"))
        for n in ("one", "two")
    }
    assert files["one"] == files["two"]


def test_a_lone_number_of_processes_is_refused():
    with pytest.raises(ConfigError, match="coordinator_address='', --num_processes=2"):
        join_processes("", 2, -1)


SCHEDULERS = {
    "SLURM": {"SLURM_STEP_NUM_TASKS": "2"},
    "Open MPI": {"OMPI_COMM_WORLD_SIZE": "2"},
    "Kubernetes": {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"},
}
ALONE = {
    "one task of SLURM": {"SLURM_STEP_NUM_TASKS": "1"},
    "a pod that is no part of an indexed job": {"KUBERNETES_SERVICE_HOST": "10.0.0.1"},
    "nothing": {},
}


@pytest.mark.parametrize("name", [*SCHEDULERS, *ALONE])
def test_a_scheduler_that_started_several_processes_is_recognised(name, monkeypatch):
    """The slow tests above join processes; for Kubernetes this is the only test."""
    for variables in SCHEDULERS.values():
        for variable in variables:
            monkeypatch.delenv(variable, raising=False)
    for variable, value in (SCHEDULERS | ALONE)[name].items():
        monkeypatch.setenv(variable, value)
    assert started_by_scheduler() == (name in SCHEDULERS)


AGREE = """
import sys, jax
from mimii_jax.train.mesh import agree, join_processes
index = int(sys.argv[1])
join_processes(f"localhost:{sys.argv[2]}", 2, index)
print(agree(3 - index, index, False))
"""


def test_several_processes_agree_on_the_greatest():
    port = str(free_port())
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", AGREE, str(index), port],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    for printed in finished(*processes):  # Gloo prints a line, too
        assert printed.splitlines()[-1] == "(3, 1, 0)"
