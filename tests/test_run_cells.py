"""Cells run once, whatever happens to others, to their processes, or to the study."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments import cell
from experiments import run_cells as runner
from experiments.cell import Cell, Options, read_cell, require_known
from experiments.run_cells import command_parser, parse, run_cells
from mimii_jax import log, main
from mimii_jax.errors import ConfigError
from mimii_jax.named import set_fields
from mimii_jax.train import runs
from mimii_jax.train.loop import Diverged

ROOT = Path(__file__).parents[1]
FAKE = (sys.executable, str(ROOT / "tests" / "fake_cell.py"))


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(runner, "COMMAND", FAKE)


def arguments(out, *flags):
    return command_parser("test", "", "unused").parse_args(["--out", str(out), *flags])


def run(cells, out, *flags, overrides=()):
    """Outcomes, and the printed lines."""
    with log.console.capture() as printed:
        outcomes = run_cells(cells, Options(overrides), arguments(out, *flags))
    return outcomes, printed.get()


def forest(name, trees=100, **more):
    return Cell(name, "isolation_forest", {"detector.n_estimators": trees}, **more)


def test_a_cell_is_an_ordinary_workdir_and_runs_once(tmp_path):
    cells = {"s/a": forest("a", 1), "s/b": forest("b", 2)}
    outcomes, printed = run(cells, tmp_path)
    assert [o.error for o in outcomes.values()] == ["", ""]
    assert re.search(r"2/2 s/[ab]: \d+ s", printed)
    config = json.loads((tmp_path / "s/a/config.json").read_text())
    assert config["detector"]["n_estimators"] == 1
    before = (tmp_path / "s/a/scores.csv").stat().st_mtime_ns
    outcomes, printed = run(cells, tmp_path)
    assert {o.seconds for o in outcomes.values()} == {None}
    assert printed.count("done before") == 2
    assert (tmp_path / "s/a/scores.csv").stat().st_mtime_ns == before


def test_a_workdir_with_another_config_is_refused(tmp_path):
    run({"a": forest("a", 1)}, tmp_path)
    for _ in range(2):
        outcomes, _ = run({"a": forest("a", 2)}, tmp_path)
        assert outcomes["a"].failed
        assert "a: holds another config; choose another --out" in outcomes["a"].error
        (tmp_path / "a/scores.csv").unlink(missing_ok=True)  # but not its checkpoints
    outcomes, _ = run({"a": forest("a", 1)}, tmp_path)
    assert not outcomes["a"].error


def test_a_field_that_an_older_workdir_lacks_has_its_default(tmp_path):
    cells = {"a": forest("a")}
    run(cells, tmp_path)
    path = tmp_path / "a/config.json"
    config = json.loads(path.read_text())
    del config["data"]["test_share"], config["eval"]["max_fpr"]
    path.write_text(json.dumps(config))
    outcomes, _ = run(cells, tmp_path)
    assert not outcomes["a"].error
    assert outcomes["a"].seconds is None


def test_failures_do_not_stop_the_rest(tmp_path):
    names = ("breaks", "refused", "diverges", "dies", "good")
    cells = {name: forest(name, n) for n, name in enumerate(names, start=1)}
    cells["typo"] = Cell("typo", "controls", {"eval.nope": 1})
    cells["file"] = Cell("file", "not_there")
    (tmp_path / "breaks").mkdir()
    (tmp_path / "breaks/log.txt").write_text("error: of an earlier start\n")
    outcomes, printed = run(cells, tmp_path, "--jobs", "2")
    errors = {key: outcome.error for key, outcome in outcomes.items()}
    assert errors["breaks"].startswith("failed: ZeroDivisionError: a bug (traceback in")
    assert errors["refused"] == "failed: data.root=/nowhere: no such folder"
    assert errors["diverges"] == "diverged: every run diverged"
    assert errors["dies"] == "failed: killed by signal 9; is there enough memory?"
    assert errors["good"] == ""
    assert errors["typo"] == "failed: eval.nope: no such field in this config"
    assert errors["file"].startswith("failed: not_there: no such config")
    failed = [key for key, outcome in outcomes.items() if outcome.failed]
    assert failed == ["breaks", "refused", "dies", "typo", "file"]
    assert "breaks: failed: ZeroDivisionError" in printed
    text = (tmp_path / "breaks/log.txt").read_text()
    assert "Traceback" in text
    assert "fake_cell.py" in text


def test_a_cell_that_was_refused_takes_other_settings(tmp_path):
    outcomes, _ = run({"refused": forest("refused", 1)}, tmp_path)
    assert outcomes["refused"].failed
    outcomes, _ = run({"refused": forest("refused", 2)}, tmp_path)
    assert "no such folder" in outcomes["refused"].error


def test_cells_with_the_same_config_share_a_workdir(tmp_path):
    cells = {
        "one/a": forest("a"),
        "two/b": forest("b"),
        "two/c": forest("c", 5),
        "two/d": forest("d", training_sets=("all", "id"), scorings={"x": {}}),
    }
    outcomes, _ = run(cells, tmp_path, "--jobs", "2")
    folders = [outcome.workdir for outcome in outcomes.values()]
    names = ("one/a", "one/a", "two/c", "two/d")
    assert folders == [tmp_path / name for name in names]
    a, b, _, d = (
        read_cell(cells[key].name, outcome.workdir) for key, outcome in outcomes.items()
    )
    assert (a.detectors, b.detectors) == (["a"], ["b"])
    np.testing.assert_array_equal(a.score, b.score)
    assert d.detectors == [f"d: {row}: x" for row in ("all", "id 00", "id 02")]
    outcomes, _ = run({"three/e": forest("e", 5)}, tmp_path)  # of another command
    assert outcomes["three/e"].workdir == tmp_path / "two/c"
    assert outcomes["three/e"].seconds is None


STUDY = """
import sys
from pathlib import Path
from experiments import run_cells
from experiments.cell import Cell, Options

run_cells.COMMAND = sys.argv[2:]
flags = ["--out", sys.argv[1], "--jobs", "2"]
cells = {n: Cell(n, "isolation_forest", {"seeds": (s,)})
         for s, n in enumerate(("waits", "s/waits", "later"))}
args = run_cells.command_parser("test", "", "").parse_args(flags)
run_cells.run_cells(cells, Options(), args)
"""


def _text(path):
    return path.read_text() if path.exists() else ""


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_study_that_is_stopped_or_killed_saves_its_cells_and_resumes(tmp_path):
    command = [sys.executable, "-c", STUDY, str(tmp_path), *FAKE]
    waiting = [tmp_path / name for name in ("waits", "s/waits")]
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    for times, number in enumerate(signals, start=1):
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        until(lambda: all((path / "started").exists() for path in waiting))
        process.send_signal(number)
        printed, _ = process.communicate(timeout=30)
        if number != signal.SIGKILL:
            assert process.returncode == runner.INTERRUPTED
            assert "Run the same command again to resume" in printed
        saved = "x" * times
        until(lambda s=saved: all(_text(p / "saved") == s for p in waiting))
        assert not (tmp_path / "later").exists()
        for path in waiting:
            (path / "started").unlink()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    assert "3/3" in done.stdout


WRAPPED = """
import sys, time
from experiments import cell_process
from mimii_jax.simulated import simulate

def main(*_, **__):
    clips = simulate.simulate(("00",), scale=0.001, seed=0).clips
    print(sys.argv[1:], sys.orig_argv[1:], clips.audio.sum(), flush=True)
    time.sleep(60)

cell_process.runpy.run_module = main
cell_process.main()
"""


def test_a_cells_process_ends_with_its_parent_and_caches_what_it_simulates(tmp_path):
    sums = []
    for _ in range(2):
        folders = [str(tmp_path / name) for name in ("a", "cache")]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        process = subprocess.Popen(
            [sys.executable, "-c", WRAPPED, *folders], cwd=ROOT, **pipes
        )
        assert process.stdin
        assert process.stdout
        line = next(line for line in process.stdout if "[" in line)
        assert f"['-m', 'mimii_jax.main', '--workdir', '{tmp_path / 'a'}']" in line
        sums.append(line.split()[-1])
        process.stdin.close()
        assert process.wait(timeout=30) == -signal.SIGTERM
        process.stdout.close()
    assert sums[0] == sums[1]
    assert len(list((tmp_path / "cache").rglob("output.pkl"))) == 1


@pytest.mark.slow
def test_cells_run_on_a_dask_cluster_of_two_workers(tmp_path):
    """A scheduler and two workers over loopback; both get cells."""
    distributed = pytest.importorskip("distributed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    started = []

    def start(program, *flags):
        command = [sys.executable, "-m", f"distributed.cli.{program}", *flags]
        with (tmp_path / f"log_{len(started)}").open("w") as file:
            process = subprocess.Popen(
                [*command, "--no-dashboard"], cwd=ROOT, stdout=file, stderr=file
            )
            started.append(process)

    cells = {name: forest(name, n) for n, name in enumerate("abcdef", start=1)}
    cells["breaks"] = forest("breaks", 7)
    flags = ("--backend", "dask", "--scheduler", address)
    try:
        start("dask_scheduler", "--host=127.0.0.1", f"--port={port}")
        for number in range(2):
            folder = f"--local-directory={tmp_path / f'worker_{number}'}"
            start("dask_worker", address, "--nthreads=1", folder)
        with distributed.Client(address, timeout=60) as client:
            client.wait_for_workers(2, timeout=60)
        outcomes, _ = run(cells, tmp_path / "out", *flags)
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(timeout=30)
    assert outcomes.pop("breaks").error.startswith("failed: ZeroDivisionError")
    assert {o.error for o in outcomes.values()} == {""}
    files = [outcome.workdir / "run.json" for outcome in outcomes.values()]
    assert len({json.loads(path.read_text())["ppid"] for path in files}) == 2


def test_bad_flags_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="--jobs=0"):
        run({}, tmp_path, "--jobs", "0")
    require_known(Options((("train.epochs", "5"), ("detector.nu", ".1"))))
    with pytest.raises(ConfigError, match=r"--config\.train\.epoch: no such field"):
        require_known(Options((("train.epoch", "5"),)))


def test_fields_are_set_from_text_of_their_type():
    config = Cell("a", "controls").build(Options())
    for name, text, value in (
        ("seeds", "3", (3,)),
        ("seeds", "(0, 2)", (0, 2)),
        ("data.ids", "('00',)", ("00",)),
        ("data.root", "00", "00"),
        ("data.scale", "1", 1.0),
        ("features.standardise", "True", True),
        ("features.fmax", "4000", 4000.0),
        ("features.fmax", "None", None),
    ):
        set_fields(config, {name: text})
        section, _, field = name.rpartition(".")
        assert (config[section] if section else config)[field] == value
    wrong = {"data.ids": "(00", "features.hop": "1.5", "seeds.x": "1"}
    for name, text in wrong.items():
        with pytest.raises(ConfigError, match=f"^{name}"):
            set_fields(config, {name: text})


def test_overrides_are_for_the_configs_that_have_the_field():
    argv = ["--config.train.epochs=3", "--config.data.scale=.5", "--jobs", "2"]
    args, overrides = parse(command_parser("test", "", "out"), argv)
    options = Options(overrides)
    assert args.jobs == 2
    assert Cell("a", "mlp_vae").build(options).train.epochs == 3
    assert Cell("a", "isolation_forest").build(options).data.scale == 0.5
    fixed = Cell("a", "mlp_vae", {"train.epochs": 7}).build(options)
    assert fixed.train.epochs == 7  # the cell's own fields win
    with pytest.raises(SystemExit):
        parse(command_parser("test", "", "out"), ["--epochs=3"])


def test_constants_are_those_of_the_package():
    """Not imported, so that the parent of the cells needs no JAX."""
    assert (Diverged.exit_code, main.INTERRUPTED) == (
        runner.DIVERGED,
        runner.INTERRUPTED,
    )
    assert (cell.MATRIX, cell.ALL, cell.EXTRA) == (runs.MATRIX, runs.ALL, runs.EXTRA)


def test_children_do_not_preallocate_a_gpu(tmp_path, monkeypatch):
    script = "import os, sys; sys.exit(os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'])"
    monkeypatch.setattr(runner, "COMMAND", (sys.executable, "-c", script))
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
    outcomes, _ = run({"a": forest("a")}, tmp_path)
    assert outcomes["a"].error.startswith("failed: false")
    assert "XLA_PYTHON_CLIENT_PREALLOCATE" not in os.environ
