"""Train one cell, as `python -m mimii_jax.main --workdir WORKDIR` does.

python -m experiments.cell_process WORKDIR CACHE

It saves and ends when its standard input closes, since then the parent died or was
interrupted. Cells share simulated clips and the scores of controls in the folder CACHE.
"""

import os
import runpy
import signal
import sys
import threading
import time

from joblib import Memory

from mimii_jax.detectors import controls
from mimii_jax.simulated import simulate as simulator

PATIENCE = 60.0  # seconds to save and end


def _end_with_stdin() -> None:
    os.read(0, 1)  # returns when the parent's end is closed
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Watch the parent, set up the cache, and run the main program."""
    workdir, folder = sys.argv[1:]
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    memory = Memory(folder, mmap_mode="r", verbose=0)
    simulator.simulate = memory.cache(simulator.simulate)
    controls.score_controls = memory.cache(controls.score_controls)
    sys.argv[1:] = ["--workdir", workdir]
    sys.orig_argv[1:] = ["-m", "mimii_jax.main", *sys.argv[1:]]  # for run.json
    runpy.run_module("mimii_jax.main", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
