"""Cells are run once, whatever happens to others, to their processes, or to the run."""

import argparse
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cells import Breaks, Dies, controls
from rich.console import Console

from experiments.cell import (
    Cell,
    Options,
    has_field,
    require_known,
    set_field,
    split_overrides,
)
from experiments.runner import DIED, add_arguments, run_cells
from mimii_jax.errors import ConfigError
from mimii_jax.main import STOPPED
from mimii_jax.results.table import CONTROLS, read_scores

ROOT = Path(__file__).parents[1]
FOLDERS = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"


def arguments(out, *flags):
    parser = argparse.ArgumentParser()
    add_arguments(parser, "unused")
    return parser.parse_args(["--out", str(out), *flags])


def run(cells, recordings, out, *flags):
    """Outcomes, and what was said."""
    options = Options("command", (("data.root", str(recordings)),))
    console = Console(file=io.StringIO(), width=200)
    outcomes = run_cells(cells, options, arguments(out, *flags), console)
    return outcomes, console.file.getvalue()


def test_cells_are_run_and_then_skipped(recordings, tmp_path):
    cells = {"s/a": controls("a"), "s/b": controls("b")}
    outcomes, said = run(cells, recordings, tmp_path)
    assert [o.error for o in outcomes.values()] == ["", ""]
    assert "2/2 s/b: " in said
    assert read_scores(tmp_path / "s/a/scores.csv").detectors == list(CONTROLS)
    result = json.loads((tmp_path / "s/a/cell.json").read_text())
    assert result["command"] == "command"
    assert result["config"]["data"]["root"] == str(recordings)
    before = (tmp_path / "s/a/scores.csv").stat().st_mtime_ns
    outcomes, said = run(cells, recordings, tmp_path)
    assert not any(o.fresh for o in outcomes.values())
    assert said.count("was done before") == 2
    assert (tmp_path / "s/a/scores.csv").stat().st_mtime_ns == before


def test_a_result_of_other_settings_is_refused_not_reused(recordings, tmp_path):
    run({"a": controls("a")}, recordings, tmp_path)
    changed = {"a": controls("a", **{"eval.bootstrap": 21})}
    outcomes, _ = run(changed, recordings, tmp_path)
    assert outcomes["a"].error.endswith("is of other settings; choose another --out")


def test_what_other_settings_have_begun_is_not_gone_on_with(recordings, tmp_path):
    """As after a kill: there is no result yet, but there may be checkpoints."""
    run({"a": controls("a")}, recordings, tmp_path)
    (tmp_path / "a/cell.json").unlink()
    changed = {"a": controls("a", **{"eval.bootstrap": 21})}
    outcomes, _ = run(changed, recordings, tmp_path)
    assert "was begun with other settings" in outcomes["a"].error
    outcomes, _ = run({"a": controls("a")}, recordings, tmp_path)
    assert not outcomes["a"].error


def test_a_field_that_no_config_has_is_refused():
    require_known(Options(overrides=(("train.epochs", "5"), ("detector.nu", ".1"))))
    with pytest.raises(ConfigError, match=r"train\.epoch: there is no"):
        require_known(Options(overrides=(("train.epoch", "5"),)))


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_a_number_of_jobs_is_above_0(number, tmp_path, capsys):
    with pytest.raises(SystemExit):
        arguments(tmp_path, "--jobs", number)
    assert f"'{number}' is not a number above 0" in capsys.readouterr().err


def test_failures_and_what_is_not_there_do_not_stop_the_rest(recordings, tmp_path):
    cells = {
        "breaks": Breaks("breaks", "controls"),
        "typo": controls("typo", **{"eval.nope": 1}),
        "data": controls("data", **{"data.root": "/nowhere"}),
        "later": Cell("later", "not_written_yet"),
        "good": controls("good"),
    }
    outcomes, said = run(cells, recordings, tmp_path)
    assert outcomes["breaks"].error == "failed: ZeroDivisionError: a b"
    assert outcomes["typo"].error == "failed: eval.nope: no such field in this config"
    assert outcomes["data"].error.startswith("failed: /nowhere: no such folder")
    assert [key for key, o in outcomes.items() if o.failed] == list(cells)[:3]
    assert outcomes["good"].error == ""
    assert "breaks: failed: ZeroDivisionError" in said
    assert "later: not available: configs/not_written_yet.py is not there" in said


@pytest.mark.slow
def test_a_process_that_dies_is_a_failed_cell(recordings, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", FOLDERS)
    cells = {"a": controls("a"), "dies": Dies("dies", "x")}
    cells |= {name: controls(name) for name in "bc"}
    outcomes, _ = run(cells, recordings, tmp_path, "--jobs", "2")
    assert outcomes.pop("dies").error == f"failed: {DIED}"
    assert [o.error for o in outcomes.values()] == ["", "", ""]


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_where_it_was(more_recordings, tmp_path):
    small = ["--config.features.n_mels=16", "--config.eval.bootstrap=20"]
    small += ["--config.detector.hidden=(16,)", "--config.detector.latent=2"]
    command = [sys.executable, "-m", "experiments.cross_id", *small]
    command += ["--config", "mlp_vae:quick", "--config.seeds=(0,)"]
    command += [f"--config.data.root={more_recordings}", "--config.train.epochs=60"]
    command += ["--config.train.batch_size=32", "--config.checkpoint.every_steps=20"]
    env = os.environ | {"PYTHONPATH": FOLDERS}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, f"--out={whole}"], cwd=ROOT, env=env, check=True)
    signals, codes = [signal.SIGTERM, signal.SIGKILL], []
    while not codes or codes[-1]:
        assert len(codes) < 5
        checkpoints = killed / "mlp_vae_quick" / "checkpoints"
        before = set(checkpoints.glob("*/[0-9]*"))
        process = subprocess.Popen([*command, f"--out={killed}"], cwd=ROOT, env=env)
        while process.poll() is None and signals:
            if set(checkpoints.glob("*/[0-9]*")) - before:
                process.send_signal(signals.pop(0))
                break
            time.sleep(0.02)
        codes.append(process.wait(timeout=180))
    assert codes == [STOPPED, -signal.SIGKILL, 0]
    scores = "mlp_vae_quick/scores.csv"
    assert (killed / scores).read_bytes() == (whole / scores).read_bytes()


@pytest.mark.slow
def test_cells_run_on_a_dask_cluster_of_two_workers(recordings, tmp_path):
    """A scheduler and two workers over loopback; both get cells."""
    distributed = pytest.importorskip("distributed")
    env = os.environ | {"PYTHONPATH": FOLDERS}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    started = []

    def start(program, *flags):
        command = [sys.executable, "-m", f"distributed.cli.{program}", *flags]
        with (tmp_path / f"log_{len(started)}").open("w") as log:
            started.append(
                subprocess.Popen(
                    [*command, "--no-dashboard"],
                    env=env,
                    cwd=ROOT,
                    stdout=log,
                    stderr=log,
                )
            )

    cells = {
        name: controls(name, **{"eval.split_seed": seed})
        for seed, name in enumerate("abcdef")
    }
    cells["breaks"] = Breaks("breaks", "x")
    flags = ("--backend", "dask", "--scheduler", address)
    try:
        start("dask_scheduler", "--host=127.0.0.1", f"--port={port}")
        for number in range(2):
            folder = f"--local-directory={tmp_path / f'worker_{number}'}"
            start("dask_worker", address, "--nthreads=1", folder)
        with distributed.Client(address, timeout=60) as client:
            client.wait_for_workers(2, timeout=60)
        outcomes, _ = run(cells, recordings, tmp_path / "out", *flags)
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(timeout=30)
    assert outcomes.pop("breaks").error.startswith("failed: ZeroDivisionError")
    assert {o.error for o in outcomes.values()} == {""}
    results = [
        json.loads((tmp_path / "out" / name / "cell.json").read_text())
        for name in outcomes
    ]
    assert len({result["process"] for result in results}) == 2


def test_a_field_is_set_from_text_of_its_type():
    config = controls("a").build(Options())
    for name, text, value in (
        ("seeds", "3", (3,)),
        ("seeds", "(0, 2)", (0, 2)),
        ("data.ids", "('00',)", ("00",)),
        ("data.root", "00", "00"),
        ("data.scale", "1", 1.0),
        ("features.standardise", "True", True),
    ):
        set_field(config, name, text)
        section, _, field = name.rpartition(".")
        assert (config[section] if section else config)[field] == value
    assert not has_field(config, "train.epochs")
    for name, text in (("data.ids", "(00"), ("features.hop", "a"), ("seeds.x", "1")):
        with pytest.raises(ConfigError, match=f"^{name}"):
            set_field(config, name, text)


def test_overrides_are_for_the_configs_that_have_the_field():
    overrides = split_overrides(["--config.train.epochs=3", "--config.data.scale=.5"])
    options = Options(overrides=overrides)
    assert Cell("a", "mlp_vae").build(options).train.epochs == 3
    assert Cell("a", "isolation_forest").build(options).data.scale == 0.5
    # What a cell is about stays as it is.
    fixed = Cell("a", "mlp_vae", {"train.epochs": 7}).build(options)
    assert fixed.train.epochs == 7
    with pytest.raises(ConfigError, match="--epochs=3: not known"):
        split_overrides(["--epochs=3"])


def test_what_another_study_has_done_is_not_done_again(recordings, tmp_path):
    name = "detector.max_features"
    small = {"features.n_mels": 16, "detector.n_estimators": 5, "seeds": (0,)}
    first = Cell("a", "isolation_forest", small)
    cells = {
        "one/a": first,
        "two/b": replace(first, name="b"),
        "two/c": Cell("c", "isolation_forest", small | {name: 0.5}),
        "two/d": replace(first, name="d", sets=("all", "id")),
    }
    run(cells, recordings, tmp_path)
    results = {
        key: json.loads((tmp_path / key / "cell.json").read_text()) for key in cells
    }
    assert [key for key in cells if "same_as" in results[key]] == ["two/b"]
    a, b, _, d = (read_scores(tmp_path / key / "scores.csv") for key in cells)
    assert (a.detectors, b.detectors) == (["a"], ["b"])
    assert (a.score == b.score).all()
    assert d.detectors == ["d: all", "d: id 00", "d: id 02"]
    outcomes, _ = run(cells, recordings, tmp_path)
    assert not any(o.fresh for o in outcomes.values())


SLEEPS = """
import os, time
from experiments.processes import workers
if __name__ == "__main__":
    with workers(1) as started:
        print(started.call(os.getpid), flush=True)
        started.call(time.sleep, 60)
"""


def test_a_process_ends_with_the_one_that_started_it(tmp_path):
    script = tmp_path / "sleeps.py"
    script.write_text(SLEEPS)
    parent = subprocess.Popen(
        [sys.executable, script],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": FOLDERS},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout
    child = Path("/proc") / parent.stdout.readline().strip()

    def runs():
        """Not gone, nor a zombie that nobody asks how it ended."""
        try:
            return (child / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False

    assert runs()
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 30
    while runs() and time.monotonic() < until:
        time.sleep(0.1)
    assert not runs()
