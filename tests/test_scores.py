"""Score table, its files, the DCASE csv files, the splits of the test set."""

import numpy as np
import pytest
from example_scores import some_scores
from hypothesis import given, settings
from hypothesis import strategies as st

from mimii_jax.data.clips import Clips
from mimii_jax.errors import DataError
from mimii_jax.results.official import (
    compare_result,
    read_official,
    result_text,
    write_official,
)
from mimii_jax.results.table import (
    COLUMNS,
    NO_SEED,
    SPLITS,
    Scores,
    read_scores,
    select_split,
    split_mask,
    write_scores,
)


def columns(scores):
    """All columns of a table, scores as bits."""
    bits = scores.score.astype(np.float64).view(np.int64).tolist()
    return [*(getattr(scores, c).tolist() for c in COLUMNS[:-1]), bits]


# The table and scores.csv


def test_scores_csv_gives_back_every_bit(tmp_path):
    scores = some_scores({"00": (20, 20, 3), "02": (2, 0)}, detector='a,"b"')
    awkward = [0.1, 1e-310, -0.0, 1 / 3, 1e300, np.nextafter(1, 2), 12345678901234567.0]
    scores.score[: len(awkward)] = awkward
    control = some_scores({"00": (5, 5)}, detector="rms_dbfs", seed=NO_SEED)
    both = Scores.concatenate([scores, control])
    write_scores(both, tmp_path / "scores.csv")
    assert columns(read_scores(tmp_path / "scores.csv")) == columns(both)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.csv"]


def test_float32_scores_survive_scores_csv(tmp_path):
    clips = Clips(
        audio=np.zeros((2, 4), np.int16),
        machine_id=np.array(["00", "00"]),
        split=np.array(["test", "test"]),
        label=np.array([0, 1], np.int8),
        name=np.array(["normal_id_00_00000000.wav", "anomaly_id_00_00000000.wav"]),
        machine_type="slider",
        sample_rate=16000,
    )
    score = np.array([0.1, 3.3], np.float32)
    write_scores(Scores.of_clips("mlp_vae", 2, clips, score), tmp_path / "scores.csv")
    back = read_scores(tmp_path / "scores.csv")
    np.testing.assert_array_equal(back.score.astype(np.float32), score)
    assert back.seed.tolist() == [2, 2]
    assert back.label.tolist() == [0, 1]


def test_scores_that_are_not_finite_are_refused_with_clip_and_detector():
    scores = some_scores({"00": (3, 3)}, detector="vae", seed=3)
    score = np.array([1, np.nan, 2, 3, np.inf, 5])
    with pytest.raises(
        DataError, match=r"slider/normal_id_00_00000001.wav \(vae, seed 3\): score nan"
    ):
        Scores(**{**vars(scores), "score": score})


def test_two_scores_for_a_clip_are_refused():
    scores = some_scores({"00": (3, 3)})
    other_seed = some_scores({"00": (3, 3)}, seed=1)
    assert len(Scores.concatenate([scores, other_seed])) == 12
    with pytest.raises(DataError, match=r"normal_id_00_00000000.wav.*two scores"):
        Scores.concatenate([scores, scores])


# DCASE csv files


def test_published_result_is_reproduced_byte_for_byte(published_scores):
    theirs = (published_scores / "result.csv").read_bytes()
    assert result_text(read_official(published_scores)).encode() == theirs
    assert compare_result(published_scores) == []


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
    ours, theirs = (
        sorted(zip(*columns(table), strict=True))
        for table in (scores, read_official(tmp_path))
    )
    assert ours == theirs


def test_folder_of_one_detector_and_of_one_seed_know_what_they_are(tmp_path):
    write_official(some_scores({"00": (2, 2)}, seed=4), tmp_path)
    for path in ("mlp_vae", "mlp_vae/seed_4"):
        scores = read_official(tmp_path / path)
        assert (scores.detectors, scores.seeds) == (["mlp_vae"], [4])
    file = tmp_path / "mlp_vae/seed_4/anomaly_score_slider_id_00.csv"
    assert columns(read_official(file)) == columns(scores)


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


# Validation and test split


@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.tuples(*[st.integers(0, 12)] * 3), min_size=1, max_size=3),
    shuffle=st.integers(0, 99),
)
def test_splits_are_disjoint_exhaustive_stratified_and_know_no_order(counts, shuffle):
    ids = {f"{2 * i:02d}": c for i, c in enumerate(counts)}
    two = [some_scores(ids), some_scores(ids, detector="rms_dbfs", seed=NO_SEED)]
    scores = Scores.concatenate(two)
    masks = {split: split_mask(scores, split) for split in SPLITS}
    assert np.all(masks["all"])
    assert np.array_equal(masks["validation"], ~masks["test"])
    learned = scores.detector == "mlp_vae"
    assert np.array_equal(masks["test"][learned], masks["test"][~learned])
    for machine_id, per_label in ids.items():
        for label, count in zip((0, 1, -1), per_label, strict=True):
            of = (scores.machine_id == machine_id) & (scores.label == label) & learned
            assert abs(np.sum(masks["validation"] & of) - 0.4 * count) <= 0.5
    order = np.random.default_rng(shuffle).permutation(len(scores))
    mixed = split_mask(scores[order], "test")
    np.testing.assert_array_equal(mixed, masks["test"][order])


def test_the_split_keeps_its_golden_value():
    names = select_split(some_scores({"00": (30, 30)}), "validation").name.tolist()
    assert len(names) == 24
    # Should this change, published numbers of a split are of other clips.
    numbers = [int(name[-12:-4]) for name in names if name.startswith("normal")]
    assert numbers == [1, 2, 7, 9, 10, 13, 18, 19, 21, 22, 24, 28]
