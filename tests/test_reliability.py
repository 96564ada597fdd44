"""Locks, starts that fail, names that a terminal obeys; all in one process."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_runs import again, small

from mimii_jax import files, log, run
from mimii_jax.command import one_line_errors
from mimii_jax.data import own
from mimii_jax.data.labels import read_labels
from mimii_jax.errors import ConfigError, DataError, InUse
from mimii_jax.report.figures import write_figures
from mimii_jax.results.official import read_official
from mimii_jax.results.table import Scores, read_scores, write_scores
from mimii_jax.workdir import Workdir

ROOT = Path(__file__).parents[1]
HOLD = """
import sys, time
from pathlib import Path
from mimii_jax.files import owned
with owned(Path(sys.argv[1]), Path(sys.argv[1])):
    print("owned", flush=True)
    time.sleep(60)
"""


def contents(folder):
    """Every file but the lock; bytes and time of the last change."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_a_second_owner_is_refused_and_a_killed_one_frees_the_lock(tmp_path):
    lock = tmp_path / ".lock"
    command = [sys.executable, "-c", HOLD, str(lock)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"owned\n"
    message = rf"in use by process {process.pid} on .* since \d{{4}}-"
    with pytest.raises(InUse, match=message), files.owned(lock, tmp_path):
        pass
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with files.owned(lock, tmp_path):
        assert lock.read_text().startswith(f"process {os.getpid()} on ")


def test_a_request_to_stop_that_python_wraps_still_stops():
    wrapped = RuntimeError("Error calling __set_name__")  # by 3.11 in a class body
    wrapped.__cause__ = log.Interrupted()
    with pytest.raises(log.Interrupted), one_line_errors():
        raise wrapped


def test_two_trainings_do_not_share_a_workdir(model, recordings, tmp_path):
    new = tmp_path / "w"
    with Workdir(new).owned(), pytest.raises(InUse):
        run.train(small(root=recordings), new)
    assert not new.exists()


def test_a_start_that_fails_leaves_a_finished_workdir(
    model, recordings, monkeypatch, no_figures
):
    before = contents(model)
    config = small(root=recordings)

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    for name in ("fit", "score_controls", "write_official", "evaluate_scores"):
        with monkeypatch.context() as patch:
            patch.setattr(run, name, fail)
            with pytest.raises(OSError, match="No space"):
                run.train(config, model)
    found = contents(model)
    assert {k: v[0] for k, v in found.items() if k != "run.json"} == {
        k: v[0] for k, v in before.items() if k != "run.json"
    }


def test_scoring_again_changes_no_file_of_the_workdir(model, recordings, no_figures):
    before = contents(model)
    _, out = again(None, model, out="reads")
    found = contents(model)
    inside = [name for name in found if name.startswith(f"{out.name}/")]
    assert inside
    assert {k: v for k, v in found.items() if k not in inside} == before


def test_a_damaged_small_file_is_named(model, tmp_path):
    copy = tmp_path / "w"
    shutil.copytree(model, copy)
    for name in ("config.json", "checkpoints/slider/shape.json"):
        kept = (copy / name).read_bytes()
        for content in (b"", kept[: len(kept) // 2], b"[]", b"\xff", b"null", b"7"):
            (copy / name).write_bytes(content)
            with pytest.raises((ConfigError, DataError), match=Path(name).name):
                run.evaluate(None, copy, copy / "again")
        (copy / name).write_bytes(kept)


def test_names_are_text_for_terminal_and_figures(tmp_path, capsys):
    log.info("a\x1b[31mb [bold]c[/bold]")
    log.warning("\x07d")
    printed = capsys.readouterr()
    assert printed.out == "a\\x1b[31mb [bold]c[/bold]\n"
    assert printed.err == "warning: \\x07d\n"
    for name in (r"$\frac$", "a$b^$", "[red]"):
        rows = [
            ("d", 0, name, name, label, f"{label}{n}.wav", float(n + label), "")
            for n in range(3)
            for label in (0, 1)
        ]
        write_scores(Scores.from_rows(rows), tmp_path / "scores.csv")
        assert write_figures(tmp_path)


TEXTS = st.text(max_size=200) | st.binary(max_size=200)
READERS = {
    "scores.csv": read_scores,
    "manifest.csv": own.machines,
    "eval_data_list.csv": read_labels,
    "anomaly_score_fan_id_00.csv": read_official,
    "config.json": lambda path: Workdir(path.parent).read_config(),
    "runs.json": files.read_json,
    "a.npz": files.read_arrays,
}


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=TEXTS)
def test_readers_raise_nothing_but_errors_of_the_user(name, content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / f"read_{name}_{os.getpid()}" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(
        content if isinstance(content, bytes) else content.encode(errors="replace")
    )
    with suppress(ConfigError, DataError):
        READERS[name](path)


NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=20
)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(
        st.tuples(NAMES, st.integers(-1, 10**17), st.floats(allow_nan=False, width=32)),
        min_size=1,
        max_size=10,
        unique_by=lambda row: row[0],
    )
)
def test_score_tables_are_read_as_written(rows, tmp_path_factory):
    rows = [row for row in rows if abs(row[2]) < float("inf")]
    if not rows:
        return
    path = tmp_path_factory.getbasetemp() / f"table_{os.getpid()}.csv"
    table = Scores.from_rows(
        [("d,é", seed, "fan", "00", -1, name, score, "") for name, seed, score in rows]
    )
    write_scores(table, path)
    again = read_scores(path)
    assert list(again.rows()) == list(table.rows())
