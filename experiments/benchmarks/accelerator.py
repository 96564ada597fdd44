"""Speed, memory and repeatability on one accelerator, from noise alone.

python -m experiments.benchmarks.accelerator --out FOLDER

Needs no network, no file, and of packages only jax, flax, optax, orbax-checkpoint,
numpy, scipy and jaxtyping with what they need (jaxtyping and wadler-lindig are pure
Python). Writes FOLDER/accelerator.json, every number, after each measurement, and at
the end accelerator.md, the tables. Measured, at the sizes of the configs' `:reference`:

- training: the compiled steps of `mimii_jax.train.step`, several per dispatch, state
  donated, as `train_runs` dispatches them; 1, 5 and 25 runs as one program. An epoch is
  one of the full slider: 2,370 clips of 313 frames. "same bits": whether the same steps
  from the same state, twice, give the same bits
- scoring: `FittedNeural.summarise` of int16 clips in the host's memory, one run
- front ends: `extract` from the host's memory, and `map_clips` of arrays on the device
- back-ends: fit to a bank of vectors, and score clips against it

Medians after a warm-up; compiling is timed apart (with JAX's compilation cache: reading
it). FLOP are XLA's count of the float32 step before optimisation, attention's masked
blocks left out; a float32 step's peak is that of TF32, unless
JAX_DEFAULT_MATMUL_PRECISION asks for more. "program": arguments, results and buffers of
the compiled steps; "peak": most that the device has held in this process so far. What
runs out of memory or fails gets a row that says so; a failure also exit code 1.
"""

import argparse
import gc
import hashlib
import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from experiments.benchmarks.accelerator_tables import COLUMNS, tables
from experiments.benchmarks.machine import cores, processor, versions
from experiments.benchmarks.reference import REFERENCE, SIZES, Size
from mimii_jax import log
from mimii_jax.data.clips import Clips
from mimii_jax.detectors.backends import BACKENDS, Scoring
from mimii_jax.detectors.fitted_neural import FittedNeural
from mimii_jax.detectors.neural import NeuralDetector
from mimii_jax.features.front_ends import CLIPS_PER_TRANSFER, extract, map_clips
from mimii_jax.features.windows import Standardiser
from mimii_jax.files import make_folder, replace_file
from mimii_jax.train.mesh import DATA, RUN, make_mesh, put, replicated
from mimii_jax.train.runs import Labels, Run
from mimii_jax.train.state import init_runs, make_plan, spread
from mimii_jax.train.step import compile_steps, group_size

SAMPLES, RATE = 160_000, 16_000  # of a clip; per second
SLIDER = {"train": 2370, "test": 1101}  # clips
N_IDS = 3
REPEATS = 5  # dispatches, of which the median is taken
MOST = 20  # calls of what takes no number of steps
TWICE = 3  # steps from the same state, twice
PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "scipy",
    "jaxtyping",
)
# Dense peaks in FLOP/s, by the name that JAX has for the device.
HOPPER = {"bfloat16": 989e12, "tf32": 494e12, "float32": 67e12}
AMPERE = {"bfloat16": 312e12, "tf32": 156e12, "float32": 19.5e12}
PEAKS = {
    "NVIDIA H100 80GB HBM3": HOPPER,
    "NVIDIA H200": HOPPER,
    "NVIDIA A100-SXM4-40GB": AMPERE,
    "NVIDIA A100-SXM4-80GB": AMPERE,
    "NVIDIA A100-PCIE-40GB": AMPERE,
    "NVIDIA A100 80GB PCIe": AMPERE,
}
TF32 = (None, "default", "tensorfloat32")  # precisions of JAX that may round to it
NO_MEMORY = "out of memory"
Row = dict[str, Any]


class Training:
    """Runs of a detector on noise, as `train_runs` has them before its first step."""

    def __init__(
        self, detector: NeuralDetector, n_clips: int, n_runs: int, mesh: Mesh
    ) -> None:
        wave = jax.ShapeDtypeStruct((SAMPLES,), np.float32)
        frames, bins = jax.eval_shape(detector.front_end, wave).shape
        windows, model = detector.windows, detector.model
        clips, labels = np.arange(n_clips), None
        if model.classifies:
            model = replace(model, n_classes=N_IDS)
            labels = Labels(clips % N_IDS, clips[:0])
        # More epochs than are measured: a run that is done would cost nothing.
        self.settings = replace(detector.settings, epochs=10**5)
        self.per_clip = windows.per_clip(frames)
        runs = [Run(seed, clips) for seed in range(n_runs)]
        same = [Standardiser.identity(bins)] * n_runs
        build = partial(model, (windows.width_in(frames), bins))
        self.graph, self.state = init_runs(build, self.settings, runs, same)
        self.plan = make_plan(self.settings, runs, self.per_clip, labels)
        self.mesh, self.group = mesh, group_size(mesh, n_runs)
        args = self.graph, windows, self.settings, mesh, self.group
        self.advance: Any = compile_steps(*args)
        self.shape = (n_clips, frames, bins)

    def start(self) -> tuple[Any, Any]:
        """State and plan on the device, anew."""
        return spread(self.mesh, self.group, self.state, self.plan)

    def noise(self) -> jax.Array:
        """Features, drawn on the device."""
        draw = partial(jax.random.normal, shape=self.shape, dtype=np.float32)
        return jax.jit(draw, out_shardings=replicated(self.mesh))(jax.random.key(0))


def train(
    detector: NeuralDetector,
    n_runs: int,
    size: Size,
    flop_of: Callable[[], float | None],
) -> Row:
    """Time the training steps of all runs, and take some twice."""
    training = Training(detector, size.train_clips, n_runs, make_mesh(n_runs, 1, 1))
    features, (state, plan) = training.noise(), training.start()
    begin = time.perf_counter()
    step = training.advance.lower(state, plan, features, 1).compile()
    compiling = time.perf_counter() - begin
    del state
    same_bits = _digest(step, training, features) == _digest(step, training, features)
    state, _ = training.start()

    def dispatch(n: int) -> float:
        nonlocal state
        begin = time.perf_counter()
        state = jax.block_until_ready(step(state, plan, features, n))
        return time.perf_counter() - begin

    n = 1
    for _ in range(3):
        n = max(1, round(n * size.seconds / REPEATS / dispatch(n)))
    seconds = np.array([dispatch(n) for _ in range(REPEATS)]) / n
    if not np.asarray(state.alive)[:n_runs].all():
        raise FloatingPointError("a run diverged: its steps cost nothing")
    median = float(np.median(seconds))
    batch, epochs = training.settings.batch_size, detector.settings.epochs
    examples = training.plan.n_examples[0] / training.plan.n_steps[0] / median
    epoch = -(-SLIDER["train"] * training.per_clip // batch) * median
    flop = flop_of()
    known = peak(str(jnp.dtype(detector.model.dtype)))
    return {
        "batch": batch,
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)) // n_runs,
        "compile_seconds": compiling,
        "steps_per_dispatch": n,
        "step_seconds": median,
        "step_seconds_range": [float(seconds.min()), float(seconds.max())],
        "examples_per_second_per_run": float(examples),
        "examples_per_second": float(n_runs * examples),
        "epoch_seconds": epoch,
        "epochs": epochs,
        "training_seconds": epochs * epoch,
        "flop_per_step": flop and n_runs * flop,
        "flop_per_second": flop and n_runs * flop / median,
        "share_of_peak": flop and known and n_runs * flop / median / known,
        "program_bytes": _program_bytes(step),
        "peak_bytes": _peak_bytes(),
        "same_bits": same_bits,
    }


def _digest(step: Any, training: Training, features: jax.Array) -> str:
    """Hash of the state after some steps from the first."""
    state = step(*training.start(), features, TWICE)
    found = hashlib.blake2b()
    for leaf in jax.tree.leaves(state):
        found.update(np.asarray(leaf).tobytes())
    return found.hexdigest()


def flop_per_step(detector: NeuralDetector, size: Size) -> float | None:
    """XLA's count for a step of one run; None where JAX has no CPU.

    On a GPU XLA doesn't know the work of the library calls that products become, and
    counts nothing before it compiles (jax-ml/jax#22249, #22713).
    """
    try:
        cpu = np.array(jax.devices("cpu")[:1]).reshape(1, 1)
    except RuntimeError:
        return None
    mesh = Mesh(cpu, (RUN, DATA), axis_types=(AxisType.Auto,) * 2)
    training = Training(detector, size.train_clips, 1, mesh)
    features = jax.ShapeDtypeStruct(training.shape, np.float32)
    # A loop counts as one turn of it: of a single run, that is a step.
    cost = training.advance.lower(*training.start(), features, 1).cost_analysis()
    return cost and cost["flops"]


def peak(precision: str) -> float | None:
    """Peak FLOP/s of the device in this precision; None: unknown."""
    if precision == "float32" and _matmul_precision() in TF32:
        precision = "tf32"
    return PEAKS.get(jax.devices()[0].device_kind, {}).get(precision)


def _matmul_precision() -> str | None:
    config: Any = jax.config
    return config.jax_default_matmul_precision


def score(detector: NeuralDetector, size: Size) -> Row:
    """Time the vectors of clips under one run."""
    training = Training(detector, 2, 1, make_mesh(1, 1, 1))
    fitted = FittedNeural.of(
        replace(detector, mesh=(1, 1)), training.graph, training.state
    )
    n = size.test_clips
    text = np.full(n, "")
    label = np.zeros(n, np.int8)
    clips = Clips(_waves(n), text, text, label, text, "noise", RATE)
    found = _timed(
        lambda: fitted.summarise(clips, detector.scoring, "scoring"), size.seconds
    )
    return found | _rates(n, found) | {"peak_bytes": _peak_bytes()}


def front_end(kind: Any, size: Size) -> Row:
    """Time the features of clips, from the host's memory and on the device."""
    waves = _waves(size.test_clips)
    rows, mesh = np.arange(len(waves)), make_mesh(1, 1, 1)

    def from_host() -> None:
        extract(kind, waves, rows, lambda n: None).block_until_ready()

    chunk = put(waves[:CLIPS_PER_TRANSFER], replicated(mesh))
    run = jax.jit(partial(map_clips, kind))
    found = _timed(from_host, size.seconds)
    on_device = _timed(lambda: run(chunk).block_until_ready(), size.seconds)
    rate = len(chunk) / on_device["seconds"]
    return found | _rates(len(waves), found) | {"on_device_clips_per_second": rate}


def backend(name: str, size: Size) -> Row:
    """Time a back-end's fit to a bank, and its scores."""
    n, columns = size.bank
    draw = np.random.default_rng(0).standard_normal
    bank = draw((n, columns), np.float32)
    queries = draw((SLIDER["test"], columns), np.float32)
    fit = partial(BACKENDS[name], bank, Scoring(name))
    fitting, fitted = _timed(fit, size.seconds), fit()
    found = _timed(lambda: fitted.score(queries), size.seconds)
    about = {"clips": n, "columns": columns, "fit_seconds": fitting["seconds"]}
    about["fit_compile_seconds"] = fitting["compile_seconds"]
    return about | found | _rates(len(queries), found)


def _waves(n_clips: int) -> np.ndarray:
    draw = np.random.default_rng(0).integers
    return draw(-(2**11), 2**11, (n_clips, SAMPLES), np.int16)


def _timed(work: Callable[[], object], seconds: float) -> Row:
    """Median seconds of a call; by how much the first, which compiles, took longer."""
    found = []
    with log.silent():
        while len(found) < 1 + 3 or (sum(found[1:]) < seconds and len(found) <= MOST):
            begin = time.perf_counter()
            work()
            found.append(time.perf_counter() - begin)
    median = float(np.median(found[1:]))
    extent = [min(found[1:]), max(found[1:])]
    return {
        "compile_seconds": max(found[0] - median, 0.0),
        "seconds": median,
        "seconds_range": extent,
    }


def _rates(n_clips: int, found: Row) -> Row:
    """Clips per second, and seconds of the slider's test clips."""
    rate = n_clips / found["seconds"]
    return {"clips_per_second": rate, "slider_seconds": SLIDER["test"] / rate}


def _program_bytes(step: Any) -> int | None:
    """Bytes that a compiled program needs; donated arrays count once."""
    found = step.memory_analysis()
    if found is None:
        return None
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    return found.argument_size_in_bytes + found.temp_size_in_bytes + results


def _peak_bytes() -> int | None:
    """Most that the device has held in this process; None on a CPU."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def attempt(title: str, about: Row, measure: Callable[[], Row]) -> Row:
    """A row: what was measured, or why that failed."""
    begin = time.perf_counter()
    try:
        row = about | measure()
    except Exception as error:  # a program that fails is a finding; the others continue
        line = (str(error).strip() or "no message").split("\n")[0][:200]
        memory = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)
        text = NO_MEMORY if memory else f"{type(error).__name__}: {line}"
        row = about | {"error": text}
    gc.collect()  # what a failed one held
    done = row.get("error", "done")
    log.info(f"{title}: {done}, {time.perf_counter() - begin:.1f} s")
    return row


def measure(args: argparse.Namespace, found: Row, save: Callable[[], None]) -> None:
    """Measure the chosen parts, and save after each row."""
    size: Size = replace(SIZES[args.size], seconds=args.seconds)

    def add(part: str, about: Row, work: Callable[[], Row]) -> None:
        texts = [f"{v} {k}" if isinstance(v, int) else v for k, v in about.items()]
        title = f"{part.replace('_', ' ')}: {', '.join(texts)}"
        found[part].append(attempt(title, about, work))
        save()

    for name in args.models:
        flop_of = cache(partial(flop_per_step, size.detectors[name], size))
        for precision in args.precisions:
            detector = size.detectors[name]
            spec = replace(detector.model, dtype=getattr(jnp, precision))
            detector = replace(detector, model=spec)
            about = {"model": name, "precision": precision}
            for n in args.runs:
                one = partial(train, detector, n, size, flop_of)
                add("training", about | {"runs": n}, one)
            about["clips"] = size.test_clips
            add("scoring", about, partial(score, detector, size))
    for kind in dict.fromkeys(REFERENCE[name].front_end for name in args.models):
        about = {"front_end": type(kind).__name__, "clips": size.test_clips}
        add("front_ends", about, partial(front_end, kind, size))
    for name in ("knn", "ldn", "whitened_ldn"):
        add("backends", {"backend": name}, partial(backend, name, size))


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.accelerator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add, names = parser.add_argument, list(REFERENCE)
    add("--out", type=Path, required=True, metavar="FOLDER")
    add("--size", choices=list(SIZES), help="default: reference; on a CPU small")
    add("--models", nargs="+", choices=names, default=names)
    add(
        "--precisions",
        nargs="+",
        choices=["float32", "bfloat16"],
        help="default: both; on a CPU float32",
    )
    add("--runs", nargs="+", type=int, help="default: 1 5 25, small 1 5")
    add("--seconds", type=float, help="of each measurement; default: 5, small 0.5")
    args = parser.parse_args(arguments)
    on_cpu = jax.default_backend() == "cpu"
    args.size = args.size or ("small" if on_cpu else "reference")
    args.precisions = args.precisions or ["float32", "bfloat16"][: 2 - on_cpu]
    args.runs = args.runs or SIZES[args.size].runs
    args.seconds = args.seconds or SIZES[args.size].seconds
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 1 if anything but the memory failed."""
    arguments = sys.argv[1:] if arguments is None else arguments
    args = parse(arguments)
    device = jax.devices()[0]
    command = ["python", "-m", "experiments.benchmarks.accelerator", *arguments]
    found: Row = {
        "command": shlex.join(command),
        "size": args.size,
        "versions": versions(PACKAGES),
        "device": {
            "kind": device.device_kind,
            "platform": device.platform,
            "runtime": device.client.platform_version,
            "peak_flop_per_second": PEAKS.get(device.device_kind),
        },
        "host": {
            "processor": processor(),
            "cores": cores(),
            "load": os.getloadavg()[0],
            "xla_flags": os.environ.get("XLA_FLAGS", ""),
            "matmul_precision": _matmul_precision(),
        },
        **{part: [] for part in COLUMNS},
    }
    make_folder(args.out)

    def save() -> None:
        text = json.dumps(found, indent=1, allow_nan=False)
        replace_file(args.out / "accelerator.json", text.encode())

    measure(args, found, save)
    text = tables(found)
    replace_file(args.out / "accelerator.md", text.encode())
    print(text)
    errors = [row.get("error", NO_MEMORY) for part in COLUMNS for row in found[part]]
    return int(any(error != NO_MEMORY for error in errors))


if __name__ == "__main__":
    sys.exit(main())
