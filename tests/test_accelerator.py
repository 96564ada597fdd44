"""The benchmark of one accelerator, on a CPU, and without most of our dependencies."""

import json
import math
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from experiments.benchmarks import accelerator, accelerator_tables
from experiments.benchmarks.reference import REFERENCE, SIZES
from mimii_jax.config import build
from mimii_jax.named import load_config

ROOT = Path(__file__).parents[1]
# All that the benchmark says it needs.
NEEDED = ("jax", "flax", "optax", "orbax-checkpoint", "numpy", "scipy", "jaxtyping")
# A Python that finds no other distribution.
WITHOUT = """
import sys

class Missing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in {missing}:
            raise ModuleNotFoundError(f"No module named '{{name}}'", name=name)

sys.meta_path.insert(0, Missing())
from experiments.benchmarks import accelerator
sys.exit(accelerator.main({arguments}))
"""
QUICK = ["--size", "small", "--seconds", "0.01"]


def with_requirements(found, name, extras=("",)):
    """Add a distribution and those that it needs."""
    try:
        requires = metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return
    found.add(canonicalize_name(name))
    for one in map(Requirement, requires):
        wanted = any(
            not one.marker or one.marker.evaluate({"extra": e}) for e in extras
        )
        if wanted and canonicalize_name(one.name) not in found:
            with_requirements(found, one.name, ("", *one.extras))


def missing_modules():
    """Modules of distributions that aren't needed."""
    needed = set()
    for name in NEEDED:
        with_requirements(needed, name)
    modules = metadata.packages_distributions().items()
    return {
        module
        for module, names in modules
        if not (needed | {"mimii-jax"}) & set(map(canonicalize_name, names))
    }


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["--help"], [*QUICK, "--runs", "1", "--out"]])
def test_it_needs_jax_flax_optax_orbax_and_what_these_need(arguments, tmp_path):
    missing = missing_modules()
    other = {"sklearn", "librosa", "ml_collections", "soundfile", "soxr", "matplotlib"}
    other |= {"joblib", "pooch", "requests", "jinja2", "skops", "filelock", "beartype"}
    assert other <= missing
    arguments = [*arguments, str(tmp_path)] if "--out" in arguments else arguments
    program = WITHOUT.format(missing=missing, arguments=arguments)
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert not done.returncode, done.stdout + done.stderr
    assert "--help" in arguments or (tmp_path / "accelerator.md").exists()


@pytest.mark.parametrize("name", REFERENCE)
def test_the_sizes_are_those_of_the_configs(name):
    assert REFERENCE[name] == build(load_config(f"{name}:reference")).detector


@pytest.mark.slow
def test_every_number_is_written_and_makes_sense(tmp_path, capsys):
    own = ["--models", "mlp_vae", "--runs", "2", "--out", str(tmp_path)]
    assert accelerator.main([*QUICK, *own]) == 0
    found = json.loads((tmp_path / "accelerator.json").read_text())
    assert found["versions"]["jax"] == jax.__version__
    assert found["device"]["platform"] == "cpu"
    assert "--models mlp_vae" in found["command"]
    for part, columns in accelerator_tables.COLUMNS.items():
        assert found[part]
        for row in found[part]:
            assert "error" not in row
            assert row.keys() >= {field for _, field, *_ in columns} - {"speed_up"}
            numbers = {k: x for k, x in row.items() if isinstance(x, float)}
            assert all(math.isfinite(x) for x in numbers.values())
            assert all(x > 0 or "compile" in k for k, x in numbers.items())
    (two,) = found["training"]
    assert two["same_bits"] is True
    assert two["examples_per_second"] == 2 * two["examples_per_second_per_run"]
    assert two["training_seconds"] == 50 * two["epoch_seconds"]
    assert two["peak_bytes"] is two["share_of_peak"] is None  # a CPU's aren't known
    text = (tmp_path / "accelerator.md").read_text()
    assert text in capsys.readouterr().out
    assert text.count("| mlp_vae float32") == 2


def test_the_work_of_a_step_is_that_of_its_products():
    """Three products of a layer per step, two of the first; little else."""
    model = REFERENCE["mlp_vae"]
    found = accelerator.flop_per_step(model, SIZES["small"])
    parameters, first, batch = 858_280, 5 * 128 * 400, 512
    products = 2 * batch * (3 * parameters - first)
    assert products < found < 1.02 * products


def test_what_fails_gets_a_row_and_the_rest_goes_on(capsys):
    def too_much():
        return {"bytes": int(jnp.zeros(2**46).size)}

    def wrong():
        raise NotImplementedError("no such kernel\nand more")

    about = {"model": "mlp_vae"}
    attempt = accelerator.attempt
    assert attempt("big", about, too_much) == {**about, "error": "out of memory"}
    text = "NotImplementedError: no such kernel"
    assert attempt("odd", about, wrong) == {**about, "error": text}
    assert "big: out of memory" in capsys.readouterr().out


def test_many_runs_are_compared_with_one_by_one():
    one = {"model": "a", "precision": "float32", "runs": 1, "examples_per_second": 50.0}
    many = one | {"runs": 25, "examples_per_second": 400.0, "share_of_peak": 0.425}
    failed = {"model": "b", "precision": "float32", "runs": 1, "error": "out of memory"}
    found = {part: [] for part in accelerator_tables.COLUMNS} | {
        "training": [one, many, failed],
        "command": "python",
        "size": "small",
        "versions": {"jax": "1"},
        "device": {"kind": "K", "platform": "p"},
        "host": {"processor": "P", "cores": 2, "load": 0.0},
    }
    text = accelerator_tables.tables(found)
    assert "| a float32 1 | - | 50 | - |" in text
    assert "| a float32 25 | - | 400 | 8.00 |" in text
    assert "| 42.5 |" in text
    assert "| b float32 1 | out of memory |" in text
