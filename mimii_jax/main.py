"""Train a detector on normal sound, score the test clips, measure AUC per machine ID.

python -m mimii_jax.main --config configs/transformer.py
python -m mimii_jax.main --config configs/mlp_vae.py --config.data.root=PATH
python -m mimii_jax.main --config configs/mlp_vae.py:reference --config.seeds=0,
python -m mimii_jax.main --workdir runs/...                    resume
python -m mimii_jax.main --mode evaluate --workdir runs/...    score again
"""

import os
import signal
import sys
from datetime import datetime
from functools import partial
from itertools import chain, count
from pathlib import Path

import jax
from absl import app, flags
from ml_collections import config_flags

from mimii_jax import log, run
from mimii_jax.command import INTERRUPTED, one_line_errors
from mimii_jax.errors import ConfigError
from mimii_jax.named import parse_flags
from mimii_jax.train.mesh import join_processes, keep_compiled_programs
from mimii_jax.workdir import Workdir

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Experiment, such as configs/mlp_vae.py; set any field as "
    "--config.section.field=value. Default: the config of --workdir.",
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of everything a run writes. Default: a dated one in runs/."
)
MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "evaluate"],
    "train: fit and score. evaluate: score with the model in --workdir, into a new "
    "folder in it; the clips are those of its config, or of --config.",
)
RESUME = flags.DEFINE_enum(
    "resume",
    "auto",
    ["auto", "never"],
    "auto: resume an interrupted training in --workdir. never: start in a new folder "
    "beside it.",
)
DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of every error.")
COORDINATOR = flags.DEFINE_string(
    "coordinator_address", "", "host:port of process 0, where no scheduler is found."
)
PROCESSES = flags.DEFINE_integer("num_processes", 0, "Number of processes.")
PROCESS = flags.DEFINE_integer("process_id", -1, "Index of this process, from 0.")
parse = partial(parse_flags, CONFIG)


def main(argv: list[str]) -> None:
    """Dispatch to training or evaluation; print user errors as one line."""
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    workdir = Path(WORKDIR.value).expanduser() if WORKDIR.value else None
    try:
        with one_line_errors(DEBUG.value):
            if len(argv) > 1:
                raise ConfigError(f"{argv[1]}: not a flag; see --help")
            if CONFIG.value is None and workdir is None:
                raise ConfigError("--config: name an experiment; see --help")
            _prepare_jax()
            if jax.process_count() > 1 and workdir is None:
                raise ConfigError("--workdir: several processes need the same folder")
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, log.request_stop)
            if MODE.value == "evaluate":
                if workdir is None:
                    raise ConfigError("--workdir: name the folder of a trained model")
                run.evaluate(CONFIG.value, workdir, workdir / f"evaluate_{stamp}")
                return
            if workdir is None:
                assert CONFIG.value is not None
                workdir = Path(f"runs/{stamp}_{CONFIG.value.detector.name}")
            config = CONFIG.value or Workdir(workdir).read_config()
            if RESUME.value == "never":
                workdir = _new_folder(workdir)
            run.train(config, workdir)
    except log.Interrupted:
        log.info(f"Interrupted. Rerun with --workdir={workdir} to resume.")
        sys.exit(INTERRUPTED)


def _prepare_jax() -> None:
    """Keep compiled programs; deterministic kernels if wanted; join the processes."""
    keep_compiled_programs()
    if CONFIG.value is not None and CONFIG.value.deterministic:
        given = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{given} --xla_gpu_deterministic_ops=true"
    join_processes(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    if jax.process_index():
        log.quiet()


def _new_folder(path: Path) -> Path:
    """Append a number to the path until nothing is there."""
    candidates = (path.with_name(f"{path.name}_{i}") for i in count(2))
    return next(p for p in chain([path], candidates) if not p.exists())


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
