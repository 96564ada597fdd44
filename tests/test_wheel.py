"""A wheel, installed: configs travel with it, and every folder will do."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Wheel of a copy of the sources: a build leaves files beside them."""
    source = tmp_path_factory.mktemp("source") / "mimii"
    unwanted = shutil.ignore_patterns("__pycache__")
    for name in ("mimii_jax", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    out = source.parent / "out"
    out.mkdir()
    # pip's isolation would download setuptools.
    program = "from setuptools import build_meta as b; print(b.build_wheel(%r))"
    command = [sys.executable, "-c", program % str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


def test_every_module_and_config_is_in_the_wheel(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    inside = {path.relative_to(ROOT) for path in (ROOT / "mimii_jax").rglob("*.py")}
    inside |= {Path("mimii_jax/report/template.html"), Path("mimii_jax/__init__.pyi")}
    inside |= {
        "mimii_jax" / path.relative_to(ROOT) for path in (ROOT / "configs").glob("*.py")
    }
    missing = {path.as_posix() for path in inside} - names
    assert not missing
    assert not {name for name in names if not re.match("mimii_jax", name)}


@pytest.mark.slow
def test_an_installed_package_runs_from_any_folder(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)  # as `pip install --no-deps --target`
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    environment = os.environ | {"PYTHONPATH": str(site)}

    def python(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    place = python("-c", "import mimii_jax; print(mimii_jax.__file__)")
    assert Path(place.strip()).is_relative_to(site)
    small = ("--config.eval.bootstrap=10", "--config.features.n_mels=16")
    for name in ("functionals:quick", "configs/functionals.py:quick"):
        workdir = f"--workdir={name.replace('/', '_')}"
        main = ("-m", "mimii_jax.main", "--config", name, workdir)
        assert "functionals" in python(*main, *small)
    program = "import sys, mimii_jax; print(mimii_jax.Detector, 'jax' in sys.modules)"
    assert "True" in python("-c", program)
    program = "import sys, mimii_jax; print('jax' in sys.modules)"
    assert "False" in python("-c", program)
