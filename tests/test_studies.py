"""Studies: their files, what is said of their numbers, the matrix, and the page."""

import io
import re
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from browser import measured
from example_scores import some_scores
from flax import nnx
from test_page import Reader

from experiments import cross_id, reproduce, studies
from experiments.cell import NotAvailable, Options
from experiments.matrix import compare, matrices
from experiments.reported import FIRST_REPORT
from experiments.study import find
from experiments.summary_text import about_matrix, about_rows, about_tuning
from mimii_jax import evaluate as evaluate_command
from mimii_jax.config import build_detector, check
from mimii_jax.results.table import Scores, read_scores, write_scores

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


@pytest.mark.parametrize("name", studies.NAMES)
def test_every_study_asks_a_question_and_its_cells_can_be_built(name):
    study = studies.load(name)
    assert "?" in studies.question(name) or " against " in study.title
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
            try:
                check(cell.build(Options(train_share=share, test_share=share)))
            except NotAvailable:
                assert not Path("configs", f"{cell.config.split(':')[0]}.py").exists()


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
    assert "“plain” has" in about_rows(rows_of("plain", plain=0.0, same=0.0))
    assert "nothing to compare" in about_rows(rows_of("plain", plain=0.0))


def test_what_is_picked_is_picked_on_one_part_and_told_of_the_other():
    picked = rows_of("plain", plain=0.0, good=1.0, lucky=0.2)
    reported = rows_of("plain", plain=0.0, good=0.0, lucky=3.0)
    text = about_tuning(picked, reported)
    assert text.startswith("On the validation split “good” has the highest")
    assert "lucky" not in text
    assert text.endswith(" .000 (.000 to .000) against “plain”: within noise.")


def test_a_base_without_numbers_is_not_said_to_be_what_was_picked():
    text = about_tuning(*(rows_of("gone", good=1.0, other=0.0) for _ in range(2)))
    assert "“good” has the highest" in text
    assert text.endswith("there are no numbers of “gone” to compare with.")


def test_sentences_on_a_matrix_tell_of_transfer_and_forgetting():
    rows = {"all": 0.5, "id 00": -1.0, "id 02": 0.5, "all, then id 00": -2.0}
    table = Scores.concatenate(shifted(f"m: {name}", by) for name, by in rows.items())
    (matrix,) = matrices(table, bootstrap=100)
    text = about_matrix(matrix)
    assert "m has a mean AUC of ." in text
    assert "1 of 2 rows differs from it beyond noise: “id 00” -" in text
    assert re.search(r"00 -\.\d+ \([^)]*\); 02 \.000 .*, within noise", text)
    assert re.search(r"Fine-tuning on 00 changes its AUC by -\.\d+ ", text)


def test_a_study_that_tunes_has_two_parts_without_a_common_clip(tmp_path):
    study = studies.load("isolation_forest")
    names = [cell.name for cell in study.cells]
    table = Scores.concatenate(shifted(name, 0.1) for name in names)
    write_scores(table, tmp_path / "scores.csv")
    (found,) = find(study, [tmp_path], bootstrap=10, max_fpr=0.1)
    assert found.tuned.rows == found.rows.rows == names
    assert not found.matrices
    two = [m.estimate("default", "00").by_seed for m in (found.tuned, found.rows)]
    assert not np.array_equal(*two)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["--config", "mine/mlp_vae.py"], "mine/mlp_vae.py: only a file in configs/"),
        (
            ["--config", "mlp_vae", "--config.train.epoch=5"],
            "no such field in configs/",
        ),
    ],
)
def test_a_matrix_of_something_else_than_was_meant_is_refused(
    command, message, tmp_path, capsys
):
    with pytest.raises(SystemExit) as ended:
        cross_id.main([*command, "--out", str(tmp_path)])
    assert ended.value.code == 1
    assert message in capsys.readouterr().err


def test_studies_are_not_given_a_part_of_the_test_clips(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        reproduce.main(["--config.eval.split=test", "--out", str(tmp_path)])
    assert ended.value.code == 1
    assert "the studies split for themselves" in capsys.readouterr().err


@pytest.mark.slow
def test_the_matrix_of_several_configs_from_the_command_line(
    recordings, tmp_path, capsys
):
    out = tmp_path / "out"
    command = ["--config", "configs/mlp_vae.py:quick", "isolation_forest", *SMALL]
    command += [f"--config.data.root={recordings}", "--out", str(out)]
    with pytest.raises(SystemExit) as ended:
        cross_id.main(command)
    printed = capsys.readouterr().out
    assert ended.value.code == 0, printed
    assert "2/2 isolation_forest" in printed
    assert "mlp_vae:quick, slider: AUC" in printed
    assert "reported (00 / 02 / 04, mean): all .95 / .75 / .88, .86" in printed
    scores = read_scores(out / "mlp_vae_quick" / "scores.csv")
    ids = ("00", "02")
    rows = ["all", *(f"id {i}" for i in ids), "downsampled"]
    rows += [f"{kind} {i}" for kind in ("without", "all, then id") for i in ids]
    assert scores.detectors == [f"mlp_vae:quick: {row}" for row in rows]
    assert scores.seeds == [0, 1]
    # Of two IDs, all but one is the other one: the same clips, the same training.
    of = {name: scores[scores.detector == name].score for name in scores.detectors}
    np.testing.assert_allclose(
        of["mlp_vae:quick: id 00"], of["mlp_vae:quick: without 02"], rtol=1e-4
    )
    assert not np.allclose(
        of["mlp_vae:quick: id 00"], of["mlp_vae:quick: all, then id 00"], rtol=1e-4
    )
    classical = read_scores(out / "isolation_forest" / "scores.csv")
    assert not [name for name in classical.detectors if "then" in name]
    for name in (
        "report.html",
        "matrix_slider.md",
        "matrix_slider.csv",
        "figures/matrix_slider.png",
    ):
        assert (out / "isolation_forest" / name).is_file()
    evaluate_command.main([str(out / "isolation_forest"), "--bootstrap", "0"])
    assert "isolation_forest: id 02" in capsys.readouterr().out


def test_a_row_of_the_matrix_is_as_if_it_were_trained_alone(recordings, tmp_path):
    options = [f"--config.data.root={recordings}", *SMALL, "--config", "mlp_vae:quick"]
    for name, more in (("all", []), ("one", ["--config.data.ids=('02',)"])):
        with pytest.raises(SystemExit):
            cross_id.main([*options, "--out", str(tmp_path / name), *more])
    together = read_scores(tmp_path / "all" / "mlp_vae_quick" / "scores.csv")
    alone = read_scores(tmp_path / "one" / "mlp_vae_quick" / "scores.csv")
    row = together[together.detector == "mlp_vae:quick: id 02"]
    row = row[row.machine_id == "02"]
    np.testing.assert_array_equal(row.name, alone.name)
    np.testing.assert_allclose(row.score, alone.score, rtol=1e-4)


STUDIES = ("data", "isolation_forest", "scoring")


@pytest.fixture(scope="module")
def reproduced(more_recordings, tmp_path_factory):
    """The folder of some studies of small recordings, and what was printed twice."""
    out = tmp_path_factory.mktemp("reproduced")
    command = ["--only", *STUDIES, "--scale", "1", "--root", str(more_recordings)]
    printed = []
    for _ in range(2):
        with (
            redirect_stdout(io.StringIO()) as text,
            pytest.raises(SystemExit) as ended,
        ):
            reproduce.main([*command, "--out", str(out), *SMALL])
        assert ended.value.code == 0
        printed.append(text.getvalue())
    return out, printed


def test_the_page_of_all_studies_has_numbers_and_what_they_are_from(
    reproduced, more_recordings
):
    out, (first, second) = reproduced
    assert "wrote" in first
    assert "was done before" not in first
    assert second.count("was done before") == 9
    read = Reader((out / "report.html").read_text())
    words = " ".join(read.texts)
    assert f"Recordings: {more_recordings}." in words
    assert "Simulated sound" not in words
    for study in STUDIES:
        assert studies.load(study).title in words
    for row in ("contamination .1", "mlp_vae: mahalanobis per id", "rms_dbfs"):
        assert row in words
    assert "On the validation split" in words
    assert len(read.all("img")) >= 3
    assert len(read.all("table")) >= 7


def test_contamination_moves_no_score(reproduced):
    out, _ = reproduced
    scores, default = (
        read_scores(out / "isolation_forest" / name / "scores.csv").score
        for name in ("contamination_.1", "default")
    )
    np.testing.assert_array_equal(scores, default)


def test_a_browser_shows_the_page_of_all_studies(reproduced, tmp_path):
    path = reproduced[0] / "report.html"
    read = Reader(path.read_text())
    found = measured(path, 390, tmp_path)
    assert found["images"] == len(read.all("img"))
    assert found["tables"] == len(read.all("table"))
    assert found["broken"] == 0
    assert not found["wide"]


def test_a_failed_cell_is_on_the_page_with_its_error(more_recordings, tmp_path, capsys):
    out = tmp_path / "out"
    command = [
        "--only",
        "one_class_svm",
        "--root",
        str(more_recordings),
        "--out",
        str(out),
    ]
    with pytest.raises(SystemExit) as ended:
        reproduce.main([*command, *SMALL, "--config.detector.nu=2", "--scale", "1"])
    assert ended.value.code == 1
    text = (out / "report.html").read_text()
    assert "failed: detector.nu=2" in text
    assert "No numbers (see the errors above): linear, " in text
    assert "rbf_map_nu_.1" in str([p.parent.name for p in out.glob("*/*/scores.csv")])


def test_spatial_and_temporal_have_about_equal_parameters():
    counts = []
    for cell in studies.load("spatial_temporal").cells:
        try:
            config = cell.build(Options())
        except NotAvailable:
            continue
        detector = build_detector(config)
        frames = config.windows.width or 626
        model = nnx.eval_shape(
            lambda d=detector, n=frames: d.build((n, 128), rngs=nnx.Rngs(0))
        )
        leaves = jax.tree.leaves(nnx.state(model, nnx.Param))
        counts.append(sum(np.prod(leaf.shape) for leaf in leaves))
    assert counts
    assert counts == pytest.approx([1_058_000] * len(counts), rel=0.01)
