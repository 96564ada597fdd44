"""Commands that are killed, started twice, or run out of disk: nothing is spoilt."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from records_server import DEV, NAME, require_whole, zipped

from mimii_jax.data import download
from mimii_jax.errors import InUse

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
KILLS = int(os.environ.get("KILLS", "3"))  # of each command; KILLS=20 takes an hour
FETCH = """
import json, sys
from mimii_jax.data import download
url, out, registry = sys.argv[1:]
download.REGISTRY = json.loads(registry)
download.main(["--machine", "fan", "--split", "dev", "--out", out, "--base-url", url])
"""


def start(*arguments, blocks=None):
    """Start a command; `blocks` of 1 kB are the most that a file may have."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    limit = "" if blocks is None else f"ulimit -f {blocks}; "
    return subprocess.Popen(
        ["bash", "-c", f'{limit}exec "$@"', "-", sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def ended(process):
    text, _ = process.communicate(timeout=300)
    return process.returncode, text


def disturb(command, number, seconds, times=KILLS):
    """Kill a command at random moments of its life, with all its processes."""
    chance = random.Random(0)
    codes = []
    for _ in range(times):
        process = start(*command)
        try:
            process.wait(timeout=chance.uniform(0.2, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, number)
        code, text = ended(process)
        # Python prints and drops a request to stop that finds it in a weak reference.
        dropped = "Exception ignored" in text or number == signal.SIGKILL
        assert "Traceback" not in text or dropped, text
        codes.append(code)
    return codes


def forest(recordings, workdir):
    return (
        "-m",
        "mimii_jax.main",
        "--config=configs/isolation_forest.py",
        f"--config.data.root={recordings}",
        "--config.detector.n_estimators=5",
        "--config.eval.bootstrap=0",
        f"--workdir={workdir}",
    )


def tables(workdir):
    found = {
        str(path.relative_to(workdir)): path.read_bytes()
        for path in workdir.rglob("*.csv")
    }
    assert found
    return found


@pytest.fixture(scope="module")
def undisturbed(recordings, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed") / "w"
    begun = time.monotonic()
    code, text = ended(start(*forest(recordings, workdir)))
    assert code == 0, text
    return workdir, time.monotonic() - begun


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_forest_that_is_killed_ends_with_the_same_bytes(
    number, recordings, undisturbed, tmp_path
):
    finished, seconds = undisturbed
    command = forest(recordings, tmp_path / "w")
    disturb(command, number, seconds)
    code, text = ended(start(*command))
    assert code == 0, text
    assert tables(tmp_path / "w") == tables(finished)


def test_of_two_starts_at_once_one_trains(recordings, undisturbed, tmp_path):
    command = forest(recordings, tmp_path / "w")
    both = [start(*command), start(*command)]
    results = sorted(map(ended, both))
    assert [code for code, _ in results] in ([0, InUse.exit_code], [0, 0]), results
    if results[1][0]:
        assert "in use by process" in results[1][1]
    assert tables(tmp_path / "w") == tables(undisturbed[0])


def test_a_disk_that_fills_at_ten_moments_loses_nothing(
    recordings, undisturbed, tmp_path
):
    """Ten trainings in one workdir, each with a little more room for a file."""
    command = forest(recordings, tmp_path / "w")
    codes = []
    for blocks in (0, 1, 2, 4, 8, 16, 32, 48, 64, 96):
        code, text = ended(start(*command, blocks=blocks))
        codes.append(code)
        last = text.splitlines()[-1]
        assert code in (0, 1), text
        assert code == 0 or re.search(r"error: /\S+: ", last), text
        assert "Traceback" not in text
    assert 1 in codes
    assert ended(start(*command))[0] == 0
    assert tables(tmp_path / "w") == tables(undisturbed[0])


@pytest.mark.parametrize("blocks", [1, 4, 16])
def test_a_disk_that_fills_leaves_a_finished_workdir(
    blocks, recordings, undisturbed, tmp_path
):
    workdir = tmp_path / "w"
    shutil.copytree(undisturbed[0], workdir)
    code, text = ended(start(*forest(recordings, workdir), blocks=blocks))
    assert code in (0, 1), text
    assert code == 0 or "error: " in text.splitlines()[-1], text
    assert "Traceback" not in text
    assert tables(workdir) == tables(undisturbed[0])
    code, text = ended(start("-m", "mimii_jax.evaluate", workdir))
    assert code == 0, text


def study(recordings, out):
    return (
        "-m",
        "experiments.cross_id",
        "--config",
        "isolation_forest",
        "one_class_svm:linear",
        "--jobs=2",
        f"--out={out}",
        f"--config.data.root={recordings}",
        "--config.eval.bootstrap=0",
        "--config.detector.n_estimators=5",
    )


def require_cells(out):
    for cell in ("isolation_forest", "one_class_svm_linear"):
        assert (out / cell / "scores.csv").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_study_whose_parent_is_killed_runs_again(number, recordings, tmp_path):
    command = study(recordings, tmp_path / "study")
    disturb(command, number, 15.0)
    limit = time.monotonic() + 120
    while True:  # orphans of a killed parent save and end by themselves
        code, text = ended(start(*command))
        if code == 0 or time.monotonic() > limit:
            break
    assert code == 0, text
    require_cells(tmp_path / "study")


def test_of_two_studies_at_once_each_cell_has_one_owner(recordings, tmp_path):
    command = study(recordings, tmp_path / "study")
    for code, text in map(ended, [start(*command), start(*command)]):
        assert code == 0 or "in use by process" in text, text
        assert "Traceback" not in text
    assert ended(start(*command))[0] == 0
    require_cells(tmp_path / "study")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_watching_that_is_killed_judges_each_file_once(
    number, recordings, undisturbed, tmp_path
):
    incoming, out = recordings / "slider" / "test", tmp_path / "scores.csv"
    command = ("-m", "mimii_jax.score", f"--workdir={undisturbed[0]}")
    command = (*command, "--watch", incoming, "--out", out)
    disturb(command, number, 12.0)
    process = start(*command)
    assert any("watching" in line for line in process.stdout)  # it owns the csv now
    limit = time.monotonic() + 60
    expected = len(list(incoming.glob("*.wav")))
    while time.monotonic() < limit:
        if out.exists() and len(out.read_text().splitlines()) == expected + 1:
            break
        time.sleep(0.2)
    second, text = ended(start(*command))
    assert second == InUse.exit_code, text
    process.send_signal(signal.SIGTERM)
    ended(process)
    lines = out.read_text().splitlines()[1:]
    names = [line.split(",")[0] for line in lines]
    assert len(names) == len(set(names)) == expected


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_download_that_is_killed_is_resumed(number, server, fan, tmp_path):
    server.publish(DEV, NAME, zipped(fan["dev"]))
    registry = json.dumps({name: download.REGISTRY[name] for name in (NAME,)})
    command = ("-c", FETCH, server.url, tmp_path, registry)
    disturb(command, number, 2.0)
    code, text = ended(start(*command))
    assert code == 0, text
    require_whole(tmp_path, fan, "dev")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_export_that_is_killed_leaves_a_whole_file_or_none(number, model, tmp_path):
    before = tables(model)
    out = tmp_path / "scorer.zip"
    command = ("-m", "mimii_jax.export", f"--workdir={model}", f"--out={out}")
    for _ in range(KILLS):
        disturb(command, number, 15.0, times=1)
        assert not out.exists() or not zipfile.ZipFile(out).testzip()
    code, text = ended(start(*command))
    assert code == 0, text
    assert not zipfile.ZipFile(out).testzip()
    assert tables(model) == before


def test_of_two_exports_at_once_one_file_is_left_whole(model, tmp_path):
    out = tmp_path / "scorer.zip"
    command = ("-m", "mimii_jax.export", f"--workdir={model}", f"--out={out}")
    for code, text in map(ended, [start(*command), start(*command)]):
        assert code == 0, text
    assert not zipfile.ZipFile(out).testzip()
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
