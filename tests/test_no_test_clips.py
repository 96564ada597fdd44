"""A folder of normal recordings alone is trained on; there is nothing to measure."""

import csv

import numpy as np
import pytest
from slowly import slow
from small_clips import sound
from small_runs import small, trained
from wav_files import put

from configs import functionals, isolation_forest, mlp_vae
from mimii_jax import evaluate, run
from mimii_jax.errors import DataError
from mimii_jax.judge import Judge
from mimii_jax.report.__main__ import main as report
from mimii_jax.results.table import read_scores
from mimii_jax.workdir import Workdir


@pytest.fixture
def normals(tmp_path):
    """A plain folder of two machines, one with a name that is no number."""
    rng = np.random.default_rng(0)
    for machine_id in ("7", "line A"):
        for number in range(8):
            put(tmp_path / "pump" / machine_id, f"{number}.wav", sound(rng, 0, 16000))
    return tmp_path / "pump"


@pytest.mark.parametrize("module", [functionals, slow(mlp_vae), slow(isolation_forest)])
def test_a_detector_is_trained_and_the_report_has_no_auc(
    normals, tmp_path, module, capsys
):
    workdir = tmp_path / "w"
    config = small(module, "quick", normals)
    printed = trained(config, workdir)
    assert "pump: no test clips, so no AUC" in printed
    assert "AUC mean" not in printed
    assert len(read_scores(workdir / "scores.csv")) == 0
    assert Workdir(workdir).finished
    assert "No test clips" in (workdir / "report.html").read_text(encoding="utf-8")
    with (workdir / "clips.csv").open(newline="") as file:
        clips = list(csv.DictReader(file))
    assert {clip["machine_id"] for clip in clips} == {"7", "line A"}
    found = read_scores(workdir / "normals.csv")
    assert found.ids == ["7", "line A"]
    assert len(found) == (2 if module is mlp_vae else 16)
    judge = Judge.load(workdir, false_alarms=0.05, method="gamma")
    assert all(verdict.threshold for verdict in judge([normals / "7" / "0.wav"]))
    # The same start again, the page again; nothing to evaluate is one line.
    trained(config, workdir)
    report([str(workdir)])
    with pytest.raises(SystemExit):
        evaluate.main([str(workdir)])
    assert "scores.csv: no scores: the run had no test clips" in capsys.readouterr().err
    with pytest.raises(DataError, match="pump: no test clips"):
        run.evaluate(config, workdir, workdir / "again")


@pytest.mark.slow
def test_ids_of_any_text_reach_every_file(normals, tmp_path):
    lines = ["file,id,split,label"]
    for number in range(8):
        split = "test" if number > 4 else "train"
        label = "anomalous" if number == 7 else "normal"
        lines.append(f"7/{number}.wav,Ω/2 (north),{split},{label}")
        lines.append(f"line A/{number}.wav,7,{split},{label}")
    (normals / "manifest.csv").write_text("\n".join(lines), encoding="utf-8")
    workdir = tmp_path / "w"
    printed = trained(small(functionals, "quick", normals), workdir)
    assert "Ω/2 (north)" in printed
    page = (workdir / "report.html").read_text(encoding="utf-8")
    assert "Ω/2 (north)" in page
    assert read_scores(workdir / "scores.csv").ids == ["7", "Ω/2 (north)"]
