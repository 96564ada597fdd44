"""Train a detector on normal sound, score the test clips, measure AUC per machine ID.

python -m mimii_jax.main --config configs/transformer.py
python -m mimii_jax.main --config configs/mlp_vae.py
python -m mimii_jax.main --config configs/mlp_vae.py --config.data.root=PATH
python -m mimii_jax.main --config configs/mlp_vae.py:reference --config.seeds=0,
python -m mimii_jax.main --mode evaluate --workdir runs/...
"""

import os
import signal
import sys
from datetime import datetime
from itertools import chain, count
from pathlib import Path

import jax
import pooch
from absl import app, flags, logging
from ml_collections import config_flags

from mimii_jax import run
from mimii_jax.errors import ConfigError, DataError
from mimii_jax.train.checkpoints import CheckpointError
from mimii_jax.train.loop import StartError
from mimii_jax.train.mesh import join_processes
from mimii_jax.train.progress import NonFiniteLoss
from mimii_jax.watch import Interrupted, Watch

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Experiment, such as configs/mlp_vae.py; any of its fields can be set as "
    "--config.section.field=value. Needed for --mode=train.",
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder of all that a run writes; a new dated one under runs/."
)
MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "evaluate"],
    "train: fit and score. evaluate: score again with the model in --workdir, on the "
    "clips of its own config or of --config; writes a new folder in the workdir.",
)


RESUME = flags.DEFINE_enum(
    "resume",
    "auto",
    ["auto", "never"],
    "auto: go on with a training that was stopped in --workdir. never: begin afresh, "
    "in a new folder beside it.",
)
ERRORS = (
    CheckpointError,
    ConfigError,
    DataError,
    ImportError,
    NonFiniteLoss,
    StartError,
)
COORDINATOR = flags.DEFINE_string(
    "coordinator_address", "", "host:port of process 0, where no scheduler is found."
)
PROCESSES = flags.DEFINE_integer("num_processes", 0, "How many processes there are.")
PROCESS = flags.DEFINE_integer("process_id", -1, "Which of them this is, from 0 on.")
STOPPED = 75  # exit code: try again (EX_TEMPFAIL of sysexits.h)


def main(argv: list[str]) -> None:
    """Run what the flags say; an error that a user can mend is one line."""
    if len(argv) > 1:
        sys.exit(f"error: {argv[1]}: not a flag; see --help")
    logging.set_verbosity(logging.WARNING)  # Orbax tells every step of a save
    try:
        _prepare_jax()
        join_processes(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"error: {_one_line(error)}")
    if jax.process_count() > 1 and not WORKDIR.value:
        sys.exit("error: --workdir: several processes need the same folder")
    watch = Watch(leader=jax.process_index() == 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, watch.stop)
    workdir = Path(WORKDIR.value or "")
    stamp = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    try:
        if MODE.value == "train":
            if CONFIG.value is None:
                sys.exit("error: --config: name an experiment, see --help")
            name = CONFIG.value.detector.name
            workdir = Path(WORKDIR.value or f"runs/{stamp}_{name}")
            if RESUME.value == "never":
                workdir = _new_folder(workdir)
            run.train(CONFIG.value, workdir, watch)
        else:
            if WORKDIR.value is None:
                sys.exit("error: --workdir: name the folder of a trained model")
            config = CONFIG.value or run.load_config(workdir)
            run.evaluate_again(config, workdir, workdir / f"evaluate_{stamp}", watch)
    except ERRORS as error:
        sys.exit(f"error: {error}")
    except Interrupted:
        watch.say(f"stopped; the same command with --workdir={workdir} goes on")
        sys.exit(STOPPED)
    except OSError as error:
        sys.exit(f"error: {_one_line(error)}")


def _prepare_jax() -> None:
    """Keep what is compiled for the next start; deterministic kernels if asked for."""
    keep_compiled()
    if CONFIG.value is not None and CONFIG.value.deterministic:
        given = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{given} --xla_gpu_deterministic_ops=true"


def keep_compiled() -> None:
    """Keep what JAX compiles under the user's cache folder, unless another is set."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = pooch.os_cache("mimii_jax") / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _new_folder(path: Path) -> Path:
    """The path itself, or with a number behind it, so that nothing is there yet."""
    candidates = (path.with_name(f"{path.name}_{i}") for i in count(2))
    return next(p for p in chain([path], candidates) if not p.exists())


def parse(argv: list[str]) -> list[str]:
    """Parse the flags; what is wrong with them is one line."""
    try:
        return flags.FLAGS(argv)
    except (AttributeError, LookupError) as error:
        sys.exit(f"error: --config: unknown field {_one_line(error)}")
    except (flags.Error, OSError, TypeError, ValueError) as error:
        sys.exit(f"error: {_one_line(error)}")


def _one_line(error: Exception) -> str:
    """The message without the attempts and tracebacks that ml_collections puts in."""
    text: object = error
    while isinstance(text, Exception) and text.args and not isinstance(text, OSError):
        text = text.args[0]  # an AttributeError of a KeyError of the text
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    if any(line.startswith("Traceback") for line in lines):
        return f"{lines[0].partition(': ')[0]}: {lines[-1].partition(': ')[2]}"
    return lines[-1] if isinstance(error, OSError) else " ".join(lines)


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
