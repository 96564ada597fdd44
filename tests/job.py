"""The main job on little data, as a separate process."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def start(recordings, workdir, *more, **variables):
    """Start it; both of its streams come as one text."""
    # Without the virtual devices of the tests.
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | variables
    return subprocess.Popen(
        [
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
        ],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(*processes):
    """Output of each, once all have ended well."""
    texts = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), texts
    return texts
