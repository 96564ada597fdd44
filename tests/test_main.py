"""The command line: errors of one line, exit codes, a whole run as a user starts it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import app, flags
from absl.testing import flagsaver
from small_runs import small

from mimii_jax import log, main, run
from mimii_jax.train.loop import Diverged

# ml_collections loads a config file in a way that Python 3.15 will not have.
pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
ROOT = Path(__file__).parents[1]
VAE = "--config=configs/mlp_vae.py"
SMALL = (
    "--config.seeds=0,",
    "--config.features.n_mels=16",
    "--config.detector.hidden=16,",
    "--config.detector.latent=2",
    "--config.eval.bootstrap=20",
)


@pytest.fixture
def call(monkeypatch, capsys):
    """Call main in this process as `python -m mimii_jax.main` would."""

    def called(*arguments):
        argv = ["main", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", argv)
        monkeypatch.chdir(ROOT)
        capsys.readouterr()
        flags.FLAGS.unparse_flags()
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as stop:
            app.run(main.main, argv=argv, flags_parser=main.parse)
        printed = capsys.readouterr()
        return stop.value.code or 0, printed.err

    yield called
    flags.FLAGS.mark_as_parsed()


def command(*arguments):
    """Run main in a process by itself."""
    return subprocess.run(
        [sys.executable, "-m", "mimii_jax.main", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), "--config"),
        (("--confg=x",), "confg.*Did you mean: config"),
        ((VAE, "extra"), "extra"),
        ((VAE, "--num_processes=2"), "--coordinator_address='', --num_processes=2"),
        ((VAE, "--mode=nope"), "mode=nope"),
        (("--mode=evaluate",), "--workdir|--config"),
        (("--config=configs/nope.py",), "configs/nope.py"),
        ((f"{VAE}:nope",), "':nope' is not one of default, reference, quick"),
        ((VAE, "--config.data.rot=x"), 'rot.*"root"'),
        ((VAE, "--config.train.epochs.x=1"), "epochs"),
        ((VAE, "--config.train.epochs=abc"), "epochs=abc"),
        ((VAE, "--config.data"), "--config.data"),
        ((VAE, "--config.train.epochs=0"), "train.epochs=0"),
        ((VAE, "--config.data.root=/no/such"), "/no/such"),
        ((VAE, "--workdir=configs"), "configs: exists but isn't a workdir"),
        (("--workdir=configs",), "configs/config.json"),
        (("--mode=evaluate", "--workdir=configs"), "configs/config.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_line_that_names_it(call, tmp_path, arguments, named):
    bare = not any(a.startswith(("--workdir", "--mode")) for a in arguments)
    if bare and arguments:
        arguments = (f"--workdir={tmp_path}", *arguments)
    code, error = call(*arguments)
    assert code == 1
    assert error.startswith("error: ")
    assert re.search(named, error), error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())  # nothing was written


def test_debug_shows_the_traceback_of_a_mistake(call, tmp_path):
    bad = (VAE, "--config.train.epochs=0", f"--workdir={tmp_path}")
    assert "Traceback" not in call(*bad)[1]
    code, error = call(*bad, "--debug")
    assert code == 1
    assert "Traceback" in error
    assert "in __post_init__" in error


def test_a_bug_is_raised_as_it_is(call, tmp_path, monkeypatch):
    def bug(*_):
        raise KeyError("a bug")

    monkeypatch.setattr(run, "train", bug)
    with pytest.raises(KeyError, match="a bug"):
        call(VAE, f"--workdir={tmp_path}")


@pytest.mark.parametrize(
    ("raised", "code"),
    [(Diverged("try a smaller train.learning_rate"), 3), (log.Interrupted(), 75)],
)
def test_other_ends_have_exit_codes(call, tmp_path, monkeypatch, raised, code):
    def end(*_):
        raise raised

    monkeypatch.setattr(run, "train", end)
    assert call(VAE, f"--workdir={tmp_path}")[0] == code


def test_flags_reach_the_run(call, monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr(run, "train", lambda *a: seen.update(config=a[0], workdir=a[1]))
    assert call(f"{VAE}:reference", *SMALL, f"--workdir={tmp_path / 'w'}")[0] == 0
    assert seen["workdir"] == tmp_path / "w"
    assert seen["config"].seeds == (0,)
    assert seen["config"].detector.hidden == (16,)
    assert seen["config"].train.epochs == 50
    optional = ("--config.features.fmax=4000", "--config.mesh.run=2")
    assert call(VAE, *optional)[0] == 0
    assert (seen["config"].features.fmax, seen["config"].mesh.run) == (4000.0, 2)


def test_a_workdir_alone_is_resumed_with_its_config(call, monkeypatch, tmp_path):
    config, seen = small(), []
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    monkeypatch.setattr(run, "train", lambda *a: seen.append(a))
    assert call(f"--workdir={tmp_path}")[0] == 0
    assert seen[0][0].to_dict() == config.to_dict()


def test_deterministic_kernels_are_a_flag_of_xla(call, monkeypatch):
    given = "--xla_force_host_platform_device_count=8"
    monkeypatch.setattr(run, "train", lambda *_: None)
    monkeypatch.setenv("XLA_FLAGS", given)
    assert call(VAE, "--workdir=w")[0] == 0
    assert os.environ["XLA_FLAGS"] == given
    assert call(VAE, "--workdir=w", "--config.deterministic=True")[0] == 0
    assert os.environ["XLA_FLAGS"] == f"{given} --xla_gpu_deterministic_ops=true"


def test_a_workdir_is_dated_or_numbered_if_its_name_is_taken(
    call, monkeypatch, tmp_path
):
    seen = []
    monkeypatch.setattr(run, "train", lambda config, workdir: seen.append(workdir))
    for name in ("run", "run_2"):
        (tmp_path / name).mkdir()
    assert call(VAE, "--resume=never", f"--workdir={tmp_path / 'run'}")[0] == 0
    assert call("--config=configs/controls.py")[0] == 0
    assert seen[0] == tmp_path / "run_3"
    assert re.fullmatch(r"runs/\d{4}(-\d\d){2}_(\d\d-){2}\d\d_controls", str(seen[1]))


@pytest.mark.slow
def test_help_names_the_flags_and_shows_examples():
    done = command("--help")
    for flag in ("--config", "--workdir", "--mode", "configs/mlp_vae.py:reference"):
        assert flag in done.stdout
    assert "python -m mimii_jax.main --config configs/mlp_vae.py" in done.stdout
    assert "--config.data.root=PATH" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_whole_run_and_its_second_scoring_by_command(recordings, tmp_path):
    workdir = tmp_path / "run"
    root = f"--config.data.root={recordings}"
    # A flag that XLA does not know would end the process.
    fixed = "--config.deterministic=True"
    trained = command(f"{VAE}:quick", root, *SMALL, fixed, f"--workdir={workdir}")
    assert trained.returncode == 0, trained.stderr
    assert f"Report: {workdir}" in trained.stdout
    assert "Traceback" not in trained.stderr
    for text in ("mlp_vae", "mean", "pooled", "zero_crossings", "AUC"):
        assert text in trained.stdout
    assert json.loads((workdir / "config.json").read_text())["seeds"] == [0]
    again = command("--mode=evaluate", f"--workdir={workdir}")
    assert again.returncode == 0, again.stderr
    assert "identical" in again.stdout
    (folder,) = workdir.glob("evaluate_*")
    for name in ("scores.csv", "official/mlp_vae/seed_0/result.csv"):
        assert (folder / name).read_bytes() == (workdir / name).read_bytes()
