"""The command line: what is wrong is one line, and a whole run as a user starts it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from absl import app, flags
from absl.testing import flagsaver
from small_clips import small_clips

from mimii_jax import main, run
from mimii_jax.data import dcase
from mimii_jax.detectors.neural import NeuralDetector

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
    "--config.data.cache=",
)


@pytest.fixture(scope="session")
def recordings(tmp_path_factory):
    """Root of a small data set of wav files."""
    root = tmp_path_factory.mktemp("recordings")
    dcase.write(small_clips(), root)
    return root


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
        code = stop.value.code
        printed = capsys.readouterr()
        # Python prints an exit code that is text to stderr, and exits with 1.
        lines = code if isinstance(code, str) else printed.err
        return (1 if isinstance(code, str) else code or 0), printed.out, lines

    yield called
    flags.FLAGS.mark_as_parsed()


def command(*arguments):
    """Run main in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "mimii_jax.main", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--config: name an experiment, see --help"),
        (("--confg=x",), "Unknown command line flag 'confg'. Did you mean: config"),
        ((VAE, "extra"), "extra: not a flag"),
        ((VAE, "--mode=nope"), "--mode=nope: value should be one of <train|evaluate>"),
        (("--mode=evaluate",), "--workdir: name the folder of a trained model"),
        (("--config=configs/nope.py",), "No such file or directory: 'configs/nope.py'"),
        (
            ("--config=configs/nope.py", "--config.seeds=1"),
            "No such file or directory: 'configs/nope.py'",
        ),
        ((f"{VAE}:nope",), "':nope' is not one of default, reference, quick"),
        ((VAE, "--config.data.rot=x"), '--config: unknown field .*"root"'),
        ((VAE, "--config.nothing.here=x"), "unknown field 'nothing'"),
        ((VAE, "--config.train.epochs.x=1"), "unknown field .*train.epochs.x"),
        ((VAE, "--config.train.epochs=abc"), "--config.train.epochs=abc: invalid"),
        ((VAE, "--config.data"), "Missing value for flag --config.data"),
        ((VAE, "--config.detector.name=nope"), "detector.name='nope': must be one of"),
        ((VAE, "--config.features.name=nope"), "features.name='nope': must be one of"),
        (
            (VAE, "--config.scoring.pooling=nope"),
            "scoring.pooling='nope': must be one",
        ),
        ((VAE, "--config.eval.split=nope"), "eval.split='nope': must be one of"),
        ((VAE, "--config.data.on_bad_file=x"), "data.on_bad_file='x': must be one"),
        ((VAE, "--config.data.ids=00,77"), r"data.ids=\(0, 77\): must be strings"),
        ((VAE, "--config.data.ids='77',"), "no slide rail 77; choose from"),
        ((VAE, "--config.data.machine_types='fan',"), "only 'slider' can be simul"),
        ((VAE, "--config.seeds=()"), r"seeds=\(\): must be one or more"),
        ((VAE, "--config.seeds=1,1"), r"seeds=\(1, 1\): must be .* different"),
        ((VAE, "--config.seeds='a',"), r"seeds=\('a',\): must be .* integers"),
        ((VAE, "--config.seeds=-1,"), r"seeds=\(-1,\): must be .* from 0"),
        (
            (VAE, "--config.detector.hidden=()"),
            r"detector.hidden=\(\), .*positive integers",
        ),
        ((VAE, "--config.detector.latent=0"), "detector.latent=0: .*positive integers"),
        ((VAE, "--config.train.epochs=0"), "train.epochs=0: must be positive"),
        ((VAE, "--config.train.validation_fraction=1"), "train.validation_fraction=1"),
        ((VAE, "--config.features.n_fft=0"), "features.n_fft=0: must be positive"),
        ((VAE, "--config.windows.hop=0"), "the hop of windows at least 1"),
        ((VAE, "--config.mesh.group=-1"), "mesh.group=-1: must be 0 or more"),
        ((VAE, "--config.eval.max_fpr=0"), "eval.max_fpr=0.0: must be above 0"),
        ((VAE, "--config.eval.bootstrap=-1"), "eval.bootstrap=-1: must be 0 or more"),
        ((VAE, "--config.data.scale=-1"), "scale must be greater than 0"),
        ((VAE, "--config.data.root=/no/such"), "/no/such: no such folder"),
        ((VAE, "--workdir=configs"), "--workdir=configs: is not empty"),
        (
            (VAE, "--config.detector.name=isolation_forest"),
            "detector.name='isolation_forest': does not fit",
        ),
        (
            ("--config=configs/one_class_svm.py", "--config.detector.nu=2"),
            "detector.nu=2.0: must be above 0, up to 1",
        ),
        (
            ("--config=configs/one_class_svm.py", "--config.detector.kernel=x"),
            "detector.kernel='x': must be 'linear' or 'rbf'",
        ),
        (
            ("--config=configs/isolation_forest.py", "--config.windows.max_examples=0"),
            "windows.max_examples=0: must be at least 1",
        ),
        (
            (
                "--config=configs/isolation_forest.py",
                "--config.detector.n_estimators=0",
            ),
            "detector.n_estimators=0: must be at least 1",
        ),
        (("--mode=evaluate", "--workdir=configs"), "no config of a finished training"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_is_wrong_is_one_line(call, tmp_path, arguments, message):
    if not any(a.startswith(("--workdir", "--mode")) for a in arguments):
        arguments = (f"--workdir={tmp_path}", *arguments)
    code, _, error = call(*arguments)
    assert code == 1
    assert error.startswith("error: ")
    assert re.search(message, error), error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())  # nothing was begun


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("windows.width=33", "window of 33 frames does not fit into clips of 32"),
        ("features.n_fft=40000", "a clip of 16000 samples is too short"),
        ("features.sample_rate=8000", "features.sample_rate=8000: the clips have 1600"),
        ("data.ids='00','77'", "no clips of id 77; present: 00, 02"),
        ("data.machine_types='fan',", "no machine type fan; present: slider"),
    ],
)
def test_settings_that_do_not_fit_the_clips_are_one_line(
    call, recordings, tmp_path, field, message
):
    workdir = tmp_path / "run"
    root = (f"--config.data.root={recordings}", "--config.data.cache=")
    arguments = (*root, f"--config.{field}")
    code, _, error = call(VAE, *arguments, f"--workdir={workdir}")
    assert (code, len(error.strip().splitlines())) == (1, 1)
    assert re.search(message, error), error
    assert not workdir.exists()


def test_a_training_that_diverges_is_one_line(call, recordings, tmp_path, monkeypatch):
    def diverge(*_):
        raise main.NonFiniteLoss("the loss of seed 0 is nan in epoch 1, by step 1")

    monkeypatch.setattr(NeuralDetector, "fit", diverge)
    workdir = tmp_path / "run"
    root = (f"--config.data.root={recordings}", "--config.data.cache=")
    code, _, error = call(VAE, *root, f"--workdir={workdir}")
    assert (code, error) == (
        1,
        "error: the loss of seed 0 is nan in epoch 1, by step 1",
    )


def test_flags_reach_the_run(call, monkeypatch, tmp_path):
    seen = {}
    monkeypatch.setattr(run, "train", lambda *a: seen.update(config=a[0], workdir=a[1]))
    code, _, _ = call(f"{VAE}:reference", *SMALL, f"--workdir={tmp_path / 'w'}")
    assert code == 0
    assert seen["workdir"] == tmp_path / "w"
    assert seen["config"].seeds == (0,)
    assert seen["config"].detector.hidden == (16,)
    assert seen["config"].train.epochs == 50


def test_deterministic_kernels_are_asked_for_before_jax_starts(call, monkeypatch):
    given = "--xla_force_host_platform_device_count=8"
    monkeypatch.setattr(run, "train", lambda *_: None)
    monkeypatch.setenv("XLA_FLAGS", given)
    assert call(VAE, "--workdir=w")[0] == 0
    assert os.environ["XLA_FLAGS"] == given
    assert call(VAE, "--workdir=w", "--config.deterministic=True")[0] == 0
    assert os.environ["XLA_FLAGS"] == f"{given} --xla_gpu_deterministic_ops=true"


def test_without_a_workdir_there_is_a_dated_one_under_runs(call, monkeypatch):
    seen = []
    monkeypatch.setattr(
        run, "train", lambda config, workdir, watch: seen.append(workdir)
    )
    assert call("--config=configs/controls.py")[0] == 0
    assert re.fullmatch(r"runs/\d{4}(-\d\d){2}_(\d\d-){2}\d\d_controls", str(seen[0]))


def test_help_names_the_flags_and_shows_examples():
    done = command("--help")
    for flag in ("--config", "--workdir", "--mode", "configs/mlp_vae.py:reference"):
        assert flag in done.stdout
    assert "python -m mimii_jax.main --config configs/mlp_vae.py" in done.stdout
    assert "--config.data.root=PATH" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_a_mistyped_field_in_a_process_of_its_own():
    done = command("--config", "configs/mlp_vae.py", "--config.data.rot=x")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --config: unknown field 'rot'")
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.slow
def test_a_whole_run_and_its_second_scoring_by_command(recordings, tmp_path):
    workdir = tmp_path / "run"
    root = f"--config.data.root={recordings}"
    # A flag that XLA does not know would end the process.
    fixed = "--config.deterministic=True"
    trained = command(f"{VAE}:quick", root, *SMALL, fixed, f"--workdir={workdir}")
    assert trained.returncode == 0, trained.stderr
    assert f"workdir: {workdir}" in trained.stdout
    assert "Traceback" not in trained.stderr
    for text in ("mlp_vae", "mean", "pooled", "zero_crossings", "AUC"):
        assert text in trained.stdout
    assert json.loads((workdir / "config.json").read_text())["seeds"] == [0]
    again = command("--mode=evaluate", f"--workdir={workdir}")
    assert again.returncode == 0, again.stderr
    assert f"scores: identical to those in {workdir / 'scores.csv'}" in again.stdout
    (folder,) = workdir.glob("evaluate_*")
    for name in ("scores.csv", "official/mlp_vae/seed_0/result.csv"):
        assert (folder / name).read_bytes() == (workdir / name).read_bytes()


def test_a_new_folder_has_a_number_if_the_name_is_taken(tmp_path):
    assert main._new_folder(tmp_path / "run") == tmp_path / "run"
    (tmp_path / "run").mkdir()
    (tmp_path / "run_2").mkdir()
    assert main._new_folder(tmp_path / "run") == tmp_path / "run_3"
