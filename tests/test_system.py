"""Commands in odd surroundings: devices, locales, names, pipes, limits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
QUICK = ("--config=controls", "--config.eval.bootstrap=0")


def command(module, *arguments, before="", **variables):
    """Run a module in a shell, whose `before` sets limits; its code and lines."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    line = [os.fsencode(x) for x in (sys.executable, "-m", module, *arguments)]
    done = subprocess.run(
        [b"bash", b"-c", before.encode() + b' "$@"', b"-", *line],
        cwd=ROOT,
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    text = done.stdout.decode("ascii", "backslashreplace")
    assert "Traceback" not in text, text
    assert "xla_bridge" not in text, text  # the first lines are ours
    return done.returncode, text


def main(recordings, workdir, *arguments, **more):
    data = f"--config.data.root={recordings}"
    workdir = f"--workdir={os.fspath(workdir)}"
    return command("mimii_jax.main", *QUICK, data, workdir, *arguments, **more)


@pytest.mark.parametrize("platform", ["cuda", "odd"])
def test_a_platform_without_a_device_is_one_line(platform, recordings, tmp_path):
    code, text = main(recordings, tmp_path / "w", JAX_PLATFORMS=platform)
    assert code == 1
    assert text.startswith("error: JAX_PLATFORMS names a device that isn't here")
    assert not (tmp_path / "w").exists()


def test_an_ascii_terminal_gets_codes(recordings, tmp_path):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    code, text = main(recordings, tmp_path / "w", **ascii_only)
    assert code == 0, text
    assert r"\xb1" in text


def test_names_that_are_not_utf_8_work(recordings, tmp_path):
    root = tmp_path / os.fsdecode(b"sounds\xff")
    root.mkdir()
    for path in recordings.rglob("*.wav"):
        part = root / ("" if "train" in path.parts else "new")
        part.mkdir(exist_ok=True)
        (part / os.fsdecode(path.stem.encode() + b"\xfe.wav")).symlink_to(path)
    new = (root / "new").rename(tmp_path / "new")
    workdir = root / "w"
    data = f"--config.data.root={root}"
    more = ("--config.features.n_mels=16", f"--workdir={workdir}")
    code, text = command("mimii_jax.main", "--config=functionals", data, *more)
    assert code == 0, text
    assert (workdir / "report.html").exists()
    out = tmp_path / "scores.csv"
    code, text = command("mimii_jax.score", f"--workdir={workdir}", new, f"--out={out}")
    assert code == 0, text
    assert len(out.read_bytes().splitlines()) == 1 + len(list(new.iterdir()))
    assert command("mimii_jax.report", workdir)[0] == 0


def test_a_reader_that_leaves_gets_no_traceback(recordings, tmp_path):
    code, text = main(recordings, tmp_path / "w", before='exec "$@" | true; :')
    assert text == ""
    assert code in (0, 1)


def test_too_few_descriptors_are_one_line(recordings, tmp_path):
    code, text = main(recordings, tmp_path / "w", before="ulimit -n 6;")
    assert code == 1
    assert text.splitlines()[-1].startswith("error: "), text


def test_a_cluster_that_is_not_there_is_one_line(recordings, tmp_path):
    study = ("--config", "controls", f"--out={tmp_path / 's'}", "--backend=dask")
    address = "--scheduler=tcp://127.0.0.1:1"
    code, text = command("experiments.cross_id", *study, address)
    assert code == 1
    assert text.splitlines()[-1].startswith("error: --backend=dask: "), text


def test_other_processes_that_do_not_come_are_one_line(recordings, tmp_path):
    wait = "import sys; from mimii_jax.train import mesh; mesh.PATIENCE_S = 3; "
    begin = "sys.argv[0] = 'main'; from mimii_jax import main; from absl import app; "
    run = "app.run(main.main, flags_parser=main.parse)"
    flags = ("--coordinator_address=127.0.0.1:1", "--num_processes=2", "--process_id=1")
    done = subprocess.run(
        [sys.executable, "-c", wait + begin + run, *QUICK, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: --coordinator_address=127.0.0.1:1: "), line


def test_an_empty_config_is_one_line(tmp_path):
    (tmp_path / "own.py").touch()
    code, text = command("mimii_jax.main", f"--config={tmp_path / 'own.py'}")
    assert code == 1
    assert text == f"error: --config: {tmp_path / 'own.py'}: defines no get_config()\n"
