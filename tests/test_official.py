"""The DCASE csv files."""

import numpy as np
from example_scores import some_scores

from mimii_jax.results.official import (
    compare_result,
    read_official,
    result_text,
    write_official,
)
from mimii_jax.results.table import NO_SEED, Scores


def test_published_result_is_reproduced_byte_for_byte(published_scores):
    theirs = (published_scores / "result.csv").read_bytes()
    assert result_text(read_official(published_scores)).encode() == theirs
    assert compare_result(published_scores, {}) == []


def test_published_scores_are_written_as_they_were_read(published_scores, tmp_path):
    scores = read_official(published_scores)
    written = write_official(scores, tmp_path)
    assert len(written) == 5
    for path in written:
        assert path.parent == tmp_path / "published_scores"
        assert path.read_bytes() == (published_scores / path.name).read_bytes()


def test_official_files_give_back_every_seed_and_bit(tmp_path):
    ids = {"00": (5, 4), "02": (3, 2, 6)}
    runs = [
        some_scores(ids, seed=s, machine_type=t) for s in (0, 7) for t in ("a", "b_id")
    ]
    runs.append(some_scores(ids, detector="rms_dbfs", seed=NO_SEED, machine_type="a"))
    scores = Scores.concatenate(runs)
    write_official(scores, tmp_path)
    assert (tmp_path / "mlp_vae/seed_7/anomaly_score_b_id_id_02.csv").is_file()
    assert (tmp_path / "rms_dbfs/result.csv").is_file()
    assert not any(b"\r" in path.read_bytes() for path in tmp_path.rglob("*.csv"))
    assert sorted(read_official(tmp_path).rows()) == sorted(scores.rows())


def test_folder_of_one_detector_and_of_one_seed_know_what_they_are(tmp_path):
    write_official(some_scores({"00": (2, 2)}, seed=4), tmp_path)
    for path in ("mlp_vae", "mlp_vae/seed_4"):
        scores = read_official(tmp_path / path)
        assert (scores.detectors, scores.seeds) == (["mlp_vae"], [4])
    file = tmp_path / "mlp_vae/seed_4/anomaly_score_slider_id_00.csv"
    assert list(read_official(file).rows()) == list(scores.rows())


def test_result_of_an_id_with_one_class_is_empty_and_not_averaged():
    scores = some_scores({"00": (9, 9), "02": (0, 5), "04": (9, 9), "06": (9, 9)})
    lines = result_text(scores).splitlines()
    assert lines[3] == "02,,"
    values = np.array([line.split(",")[1:] for line in (lines[2], *lines[4:6])], float)
    np.testing.assert_array_equal(
        np.array(lines[6].split(",")[1:], float), values.mean(0)
    )
    assert result_text(scores[scores.machine_id == "02"]) == (
        "slider\nid,AUC,pAUC\n02,,\nAverage,,\n\n"
    )


def test_names_with_commas_and_quotes_are_read_as_written(tmp_path):
    names = [
        f'section_00_source_test_{kind}_0000_a,"b".wav'
        for kind in ("normal", "anomaly")
    ]
    rows = [
        ("d", 0, "fan", "00", label, name, float(label), "source")
        for label, name in enumerate(names)
    ]
    scores = Scores.from_rows(rows)
    write_official(scores, tmp_path)
    assert list(read_official(tmp_path).rows()) == rows
