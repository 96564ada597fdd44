"""Recordings that are read when needed are those that are kept in memory."""

from pathlib import Path

import numpy as np
import pytest
from slowly import slow
from small_runs import small, trained
from training import epochs
from wav_files import RATE, noise, put

from configs import functionals, isolation_forest, mlp_vae
from mimii_jax.config import build
from mimii_jax.data import dcase, reading
from mimii_jax.data.clips import join_types
from mimii_jax.data.recordings import Recordings, concatenate
from mimii_jax.detectors import neural
from mimii_jax.errors import DataError
from mimii_jax.results.table import read_scores


@pytest.fixture
def read_when_needed(monkeypatch):
    monkeypatch.setattr(reading, "HELD", 0)


@pytest.fixture
def files(tmp_path):
    """Files of other lengths and rates, too, and a bad one."""
    for number, seconds in enumerate((1, 1, 1, 0.5, 1.5)):
        put(tmp_path, f"{number}.wav", noise(number, int(seconds * RATE)))
    (tmp_path / "2.wav").write_bytes(b"RIFF")
    return sorted(map(str, tmp_path.glob("*.wav")))


def load(files):
    return reading.load(files, RATE, seconds=1)


def test_files_are_an_array(files, monkeypatch):
    held, headers, bad = load(files)
    assert isinstance(held, np.ndarray)
    monkeypatch.setattr(reading, "HELD", 0)
    found, again, still_bad = load(files)
    assert isinstance(found, Recordings)
    assert (found.shape, len(found)) == (held.shape, len(held))
    assert (again, still_bad) == (headers, bad)
    rows = np.array([2, 0])
    for index in (slice(1, 3), rows, np.array([True, False, True, False])):
        np.testing.assert_array_equal(np.asarray(found[index]), held[index])
    np.testing.assert_array_equal(found[3], held[3])
    np.testing.assert_array_equal(np.stack(list(found)), held)
    np.testing.assert_array_equal(np.asarray(found[:0]), held[:0])


def test_several_sets_are_joined(files, read_when_needed):
    found, *_ = load(files)
    joined = concatenate([found[:2], found[2:]])
    assert isinstance(joined, Recordings)
    np.testing.assert_array_equal(np.asarray(joined), np.asarray(found))
    mixed = concatenate([found[:2], np.asarray(found[2:])])
    assert isinstance(mixed, np.ndarray)
    np.testing.assert_array_equal(mixed, np.asarray(found))


def test_a_file_that_vanishes_is_named(files, read_when_needed):
    found, *_ = load(files)
    Path(files[0]).unlink()
    with pytest.raises(DataError, match=r"0\.wav: unreadable"):
        np.asarray(found)


def test_types_are_joined_without_reading(recordings, read_when_needed):
    clips = dcase.read(recordings, "slider")
    joined = join_types([clips, clips])
    assert isinstance(joined.audio, Recordings)
    assert len(joined) == 2 * len(clips)


@pytest.mark.parametrize("module", [mlp_vae, functionals, slow(isolation_forest)])
def test_scores_are_the_same_bits(
    module, recordings, tmp_path, no_figures, monkeypatch
):
    config = small(module, "quick" if module is mlp_vae else "default", recordings)
    trained(config, tmp_path / "held")
    monkeypatch.setattr("mimii_jax.data.reading.HELD", 0)
    trained(config, tmp_path / "read")
    kept, read = (read_scores(tmp_path / n / "scores.csv") for n in ("held", "read"))
    assert kept.name.tolist() == read.name.tolist()
    np.testing.assert_array_equal(kept.score, read.score)
    names = [p.name for p in (tmp_path / "held" / "checkpoints").rglob("*.npy")]
    assert bool(names) == (module is not isolation_forest)


@pytest.mark.slow
def test_features_in_bfloat16_take_half_the_memory_and_train_alike(
    recordings, tmp_path, no_figures, monkeypatch
):
    kept = []
    extract = neural.extract

    def watched(*args):
        kept.append(extract(*args))
        return kept[-1]

    monkeypatch.setattr(neural, "extract", watched)
    losses = {}
    for dtype in ("float32", "bfloat16"):
        config = small(
            root=recordings,
            train={"features": dtype, "epochs": 4},
            data={"validation_fraction": 0.2},
        )
        trained(config, tmp_path / dtype)
        losses[dtype] = epochs(tmp_path / dtype / "metrics.jsonl")[-1]["train_loss"]
        table = read_scores(tmp_path / dtype / "scores.csv")
        assert np.isfinite(table.score).all()
    sizes = [features.nbytes for features in kept if features.dtype == "float32"]
    half = [features.nbytes for features in kept if features.dtype == "bfloat16"]
    assert half == [size // 2 for size in sizes]
    np.testing.assert_allclose(losses["bfloat16"], losses["float32"], rtol=0.01)
    assert losses["bfloat16"] != losses["float32"]


def test_types_that_are_joined_share_what_is_held(tmp_path, monkeypatch):
    """Each would fit, both don't."""
    for name in ("fan", "valve"):
        for number in range(3):
            path = tmp_path / name / f"train/normal_id_00_{number:08d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            put(path.parent, path.name, noise(number, RATE))
    size = 2 * 3 * RATE
    monkeypatch.setattr(reading, "HELD", size)
    data = {"machine_types": ("all",), "test_normals": None}
    together = build(small(root=tmp_path, data=data)).data
    assert isinstance(together.load("all").audio, Recordings)
    monkeypatch.setattr(reading, "HELD", 2 * size)
    assert isinstance(together.load("all").audio, np.ndarray)
