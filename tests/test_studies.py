"""Studies: their files, the sentences about their numbers, the matrix, the page."""

import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from browser import measured
from example_scores import some_scores
from flax import nnx
from test_page import Reader
from test_run_cells import FAKE

from experiments import cross_id, reproduce, results, run_cells, select
from experiments.cell import Options
from experiments.matrix import compare, matrices
from experiments.reported import FIRST_REPORT
from experiments.studies import STUDIES
from experiments.study_page import find
from experiments.summary_text import about_matrix, about_rows, about_tuning
from mimii_jax import evaluate as evaluate_command
from mimii_jax import log
from mimii_jax.config import build
from mimii_jax.results.table import Scores, read_scores, write_scores
from mimii_jax.workdir import Workdir

SMALL = (
    "--config.data.ids=('00', '02')",
    "--config.features.n_mels=16",
    "--config.eval.bootstrap=20",
    "--config.seeds=(0, 1)",
    "--config.detector.hidden=(8,)",
    "--config.detector.latent=2",
    "--config.detector.n_estimators=10",
    "--config.train.epochs=1",
)


@pytest.fixture
def fake(monkeypatch):
    """Cells whose scores are drawn."""
    monkeypatch.setattr(run_cells, "COMMAND", FAKE)


def printed_by(command, *argv):
    """Exit code and printed lines."""
    with log.console.capture() as printed, pytest.raises(SystemExit) as ended:
        command.main([str(text) for text in argv])
    return int(ended.value.code or 0), printed.get()


@pytest.mark.parametrize("study", STUDIES.values(), ids=list(STUDIES))
def test_every_study_asks_a_question_and_its_cells_can_be_built(study):
    assert study.question.endswith("?")
    folders = [cell.folder for cell in study.cells]
    assert len(set(folders)) == len(folders)
    rows = {
        ": ".join(part for part in (cell.name, label) if part)
        for cell in study.cells
        for label in cell.scorings or {"": {}}
    }
    assert not study.base or study.base in rows
    assert study.reported.keys() <= rows
    assert study.base or not study.tunes
    for share in (0.1, 1.0):
        for cell in study.cells:
            config = cell.build(Options(train_share=share, test_share=share))
            experiment = build(config)
            assert (experiment.data.train_share, experiment.data.scale) == (share, 1)
            if experiment.detector:
                labels = {label for _, label in experiment.scorings}
                assert labels == set(cell.scorings or [""])


def test_what_was_reported_is_what_the_averages_say():
    for rows in FIRST_REPORT.values():
        for row, reported in rows.items():
            # The reports' averages are of more digits than their columns show.
            mean = pytest.approx(reported.average, abs=0.011)
            assert np.mean(reported.ids) == mean, row
    assert str(FIRST_REPORT["transformer"]["all"]) == (
        ".95 / .77 / .44, .72 (pooled .78)"
    )


IDS = {"00": (40, 40), "02": (40, 40)}


def shifted(name, by, seed=0):
    scores = some_scores(IDS, name, seed)
    return replace(scores, score=scores.score + by * (scores.label == 1))


def rows_of(base, **shifts):
    return compare(
        Scores.concatenate(shifted(name, by) for name, by in shifts.items()),
        "slider",
        base,
        bootstrap=100,
    )


def test_sentences_claim_what_is_beyond_noise_and_no_more():
    text = about_rows(rows_of("plain", plain=0.0, good=1.5, same=0.0))
    assert "to .9" in text
    assert "1 of 2 rows differs from it beyond noise: “good” +" in text
    assert "“same”" not in text
    text = about_rows(rows_of("plain", plain=0.0, same=0.0, also=0.0))
    assert "none of 2 rows differs from it beyond noise." in text
    assert "nothing to compare" in about_rows(rows_of("plain", plain=0.0))


def test_a_row_is_picked_on_one_split_and_reported_on_the_other():
    picked = rows_of("plain", plain=0.0, good=1.0, lucky=0.2)
    reported = rows_of("plain", plain=0.0, good=0.0, lucky=3.0)
    text = about_tuning(picked, reported)
    assert text.startswith("On the validation split “good” has the highest")
    assert "lucky" not in text
    assert text.endswith(" .000 (.000 to .000) against “plain”: within noise.")


def test_sentences_on_a_matrix_are_about_transfer_and_forgetting():
    rows = {"all": 0.5, "id 00": -1.0, "id 02": 0.5, "all, then id 00": -2.0}
    table = Scores.concatenate(shifted(f"m: {name}", by) for name, by in rows.items())
    (matrix,) = matrices(table, bootstrap=100)
    text = about_matrix(matrix)
    assert "m has a mean AUC of ." in text
    assert "1 of 2 rows differs from it beyond noise: “id 00” -" in text
    assert re.search(r"00 -\.\d+ \([^)]*\); 02 \.000 .*, within noise", text)
    assert re.search(r"Fine-tuning on 00 changes its AUC by -\.\d+ ", text)


def test_a_study_that_tunes_has_two_parts_without_a_common_clip(tmp_path):
    study = STUDIES["isolation_forest"]
    names = [cell.name for cell in study.cells]
    workdirs = {cell.name: tmp_path / cell.folder for cell in study.cells}
    table = shifted("isolation_forest", 0.1)
    for cell in study.cells:
        Workdir(workdirs[cell.name]).start(cell.build(Options()))
        write_scores(table, workdirs[cell.name] / "scores.csv")
    (found,) = find(study, workdirs, bootstrap=10, max_fpr=0.1)
    assert found.tuned.rows == found.rows.rows == names
    assert not found.matrices
    two = [m.estimate("default", "00").by_seed for m in (found.tuned, found.rows)]
    assert not np.array_equal(*two)


@pytest.mark.parametrize(
    ("command", "field"),
    [
        ([cross_id, "--config", "mine/mlp_vae.py"], "mine/mlp_vae.py"),
        ([cross_id, "--config", "mlp_vae", "--config.train.epoch=5"], "train.epoch"),
        ([reproduce, "--config.eval.split=test"], "eval.split"),  # a study's choice
    ],
)
def test_something_else_than_was_meant_is_refused(command, field, tmp_path, capsys):
    code, _ = printed_by(*command, "--out", tmp_path)
    assert code == 1
    assert field in capsys.readouterr().err


def test_the_matrix_of_several_configs(fake, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["--config", "configs/mlp_vae.py:quick", "isolation_forest", *SMALL]
    code, printed = printed_by(cross_id, *command, "--out", out)
    assert code == 0, printed
    assert "mlp_vae:quick, slider: AUC" in printed
    assert "reported (00 / 02 / 04, mean): all .95 / .75 / .88, .86" in printed
    for name in ("report.html", *(f"matrix_slider.{kind}" for kind in ("md", "csv"))):
        assert (out / "isolation_forest" / name).is_file()
    evaluate_command.main([str(out / "isolation_forest"), "--bootstrap", "0"])
    assert "isolation_forest: id 02" in capsys.readouterr().out


@pytest.mark.slow
def test_a_matrix_from_the_command_line(recordings, tmp_path):
    """With the main program: rows, seeds, and a row as if it were trained alone."""
    options = [f"--config.data.root={recordings}", *SMALL, "--config", "mlp_vae:quick"]
    tables = {}
    for name, more in (("all", []), ("one", ["--config.data.ids=('02',)"])):
        out = tmp_path / name
        code, printed = printed_by(cross_id, *options, "--out", out, *more)
        assert code == 0, printed
        tables[name] = read_scores(out / "mlp_vae_quick" / "scores.csv")
    ids = ("00", "02")
    rows = ["all", *(f"id {i}" for i in ids), "downsampled"]
    rows += [f"{kind} {i}" for kind in ("without", "all, then id") for i in ids]
    scores = tables["all"]
    assert scores.detectors[: len(rows)] == [f"mlp_vae: {row}" for row in rows]
    assert scores.seeds == [-1, 0, 1]
    # With two IDs, all but one is the other one: the same clips, the same training.
    of = {row: scores[scores.detector == f"mlp_vae: {row}"] for row in rows}
    np.testing.assert_allclose(of["id 00"].score, of["without 02"].score, rtol=1e-4)
    assert not np.allclose(of["id 00"].score, of["all, then id 00"].score, rtol=1e-4)
    alone = tables["one"]
    alone = alone[alone.detector == "mlp_vae: all"]
    row = of["id 02"][of["id 02"].machine_id == "02"]
    np.testing.assert_array_equal(row.name, alone.name)
    np.testing.assert_allclose(row.score, alone.score, rtol=1e-4)


@pytest.mark.slow
def test_a_killed_matrix_resumes_with_the_same_bits(more_recordings, tmp_path):
    """SIGTERM, then SIGKILL of the parent; its cell saves both times."""
    command = [sys.executable, "-m", "experiments.cross_id", *SMALL]
    command += ["--config", "mlp_vae:quick", "--config.seeds=(0,)"]
    command += [f"--config.data.root={more_recordings}", "--config.train.epochs=60"]
    command += ["--config.train.batch_size=32", "--config.checkpoint.every_steps=20"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    root = Path(__file__).parents[1]
    subprocess.run([*command, f"--out={whole}"], cwd=root, check=True)
    signals, codes = [signal.SIGTERM, signal.SIGKILL], []
    while not codes or codes[-1]:
        assert len(codes) < 5
        checkpoints = killed / "mlp_vae_quick" / "checkpoints"
        before = set(checkpoints.glob("*/[0-9]*"))
        process = subprocess.Popen([*command, f"--out={killed}"], cwd=root)
        while process.poll() is None and signals:
            if set(checkpoints.glob("*/[0-9]*")) - before:
                process.send_signal(signals.pop(0))
                break
            time.sleep(0.02)
        codes.append(process.wait(timeout=180))
        time.sleep(3 * (codes[-1] == -signal.SIGKILL))  # the child saves
    assert codes == [run_cells.INTERRUPTED, -signal.SIGKILL, 0]
    scores = "mlp_vae_quick/scores.csv"
    assert (killed / scores).read_bytes() == (whole / scores).read_bytes()


SHOWN = ("data", "isolation_forest", "scoring", "learning_rate_batch", "cross_id")


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory):
    """The folder of some studies with drawn scores."""
    out = tmp_path_factory.mktemp("reproduced")
    command = ["--only", *SHOWN, "--scale", "1", "--root", "/recordings"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_cells, "COMMAND", FAKE)
        one_seed = "--config.seeds=(0,)"
        code, printed = printed_by(reproduce, *command, "--out", out, *SMALL, one_seed)
    assert code == 0, printed
    return out


def test_the_page_of_all_studies_has_numbers_and_their_source(reproduced):
    read = Reader((reproduced / "report.html").read_text())
    words = " ".join(read.texts)
    assert "Recordings: /recordings." in words
    assert "Simulated sound" not in words
    for study in SHOWN:
        assert STUDIES[study].title in words
    for row in ("300 trees", "mlp_vae: mahalanobis per id", "rms_dbfs"):
        assert row in words
    assert "On the validation split" in words
    assert len(read.all("img")) >= 3
    assert len(read.all("table")) >= 7


def test_a_browser_shows_the_page_of_all_studies(reproduced, tmp_path):
    found = measured(reproduced / "report.html", 390, tmp_path)
    assert found["images"] >= 3
    assert (found["broken"], found["wide"]) == (0, False)


def test_a_failed_cell_is_on_the_page_with_its_error(fake, tmp_path):
    out, field = tmp_path / "out", "--config.detector.nu=two"
    code, _ = printed_by(reproduce, "--only", "one_class_svm", "--out", out, field)
    assert code == 1
    text = (out / "report.html").read_text()
    assert "failed: detector.nu=two" in text
    assert "No numbers (see the errors above): linear" in text


def test_the_table_of_results_has_all_detectors_and_the_controls(fake, tmp_path):
    command = ["--configs", "mlp_vae", "one_class_svm:linear", "--out", tmp_path]
    code, printed = printed_by(results, *command, "--config.eval.bootstrap=10")
    assert code == 0
    for name in ("mlp_vae", "one_class_svm:linear", "minutes: mlp_vae 0.0"):
        assert name in printed
    *_, alarms = printed.split("false alarms (95 %)")
    assert "| slider, one_class_svm:linear: default | " in alarms
    assert alarms.count(" | yes | ") == 2


@pytest.mark.parametrize("text", ["[]", "{}", '{"seconds": "x"}', '{"seconds_of": 3}'])
def test_a_damaged_run_json_of_a_cell_is_named(text, fake, tmp_path, capsys):
    command = ["--configs", "isolation_forest", "--out", tmp_path]
    assert printed_by(results, *command, "--config.eval.bootstrap=0")[0] == 0
    (tmp_path / "isolation_forest/run.json").write_text(text)
    assert printed_by(results, *command, "--config.eval.bootstrap=0")[0] == 1
    assert "error: " in (line := capsys.readouterr().err)
    assert "isolation_forest/run.json: " in line


def test_a_recipe_is_chosen_by_held_out_clips(fake, tmp_path):
    with log.console.capture() as printed:
        select.main(["transformer", "--out", str(tmp_path)])
    rows = [line.split() for line in printed.get().splitlines() if " │ " in line]
    assert [row[1] for row in rows][:3] == ["0.004"] * 3
    assert len(list(tmp_path.glob("*/*/scores.csv"))) == 7


def test_spatial_and_temporal_have_about_equal_parameters():
    counts = []
    for cell in STUDIES["spatial_temporal"].cells:
        config = cell.build(Options())
        detector = build(config).detector
        frames = config.windows.width or 626
        model = nnx.eval_shape(
            lambda d=detector, n=frames: d.model((n, 128), rngs=nnx.Rngs(0))
        )
        leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
        counts.append(sum(np.prod(leaf.shape) for leaf in leaves))
    assert counts == pytest.approx([1_058_000] * len(counts), rel=0.01)
