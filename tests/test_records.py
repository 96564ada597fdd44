"""Training from a file equals training from memory."""

import jax.numpy as jnp
import numpy as np
import pytest
from slowly import slow
from small_clips import small_clips
from small_runs import small, trained
from test_checkpoints import train_in
from training import DIFFERENT, WINDOWS, epochs, leaves, some_features, train_on

from configs import conv_vae, id_classifier, mlp_vae
from mimii_jax import log
from mimii_jax.config import build
from mimii_jax.errors import ConfigError
from mimii_jax.features.windows import Windows
from mimii_jax.results.table import read_scores
from mimii_jax.train import loop, records

pytest.importorskip("grain")
pytest.importorskip("array_record")


def in_a_file(features, windows=WINDOWS, folder=None):
    features = np.asarray(features)
    return records.write(folder, features.shape, features.dtype, windows, [features])


@pytest.fixture
def from_disk(monkeypatch):
    train_runs = loop.train_runs

    def from_a_file(build, windows, features, *rest, **options):
        features = features._replace(train=in_a_file(features.train, windows))
        return train_runs(build, windows, features, *rest, **options)

    monkeypatch.setattr("training.train_runs", from_a_file)


def same_bits(found, expected):
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("width", "hop"), [(1, 1), (3, 1), (3, 2), (4, 6), (10, 1), (11, 1), (None, 1)]
)
def test_windows_of_a_file_are_those_of_an_array(width, hop, dtype, tmp_path):
    windows, features = Windows(width, hop), some_features().astype(dtype)
    index = np.random.default_rng(0).permutation(5 * windows.per_clip(11))
    found = in_a_file(features, windows, tmp_path).gather(index)
    assert found.dtype == features.dtype
    expected = windows.gather(features, jnp.asarray(index))
    np.testing.assert_array_equal(found.astype(np.float32), expected)
    assert not list(tmp_path.iterdir())  # even while it is open


@pytest.mark.parametrize(
    ("mesh", "group"), [((1, 1), 1), slow((1, 1), 3), slow((2, 1), None)]
)
def test_training_gives_the_same_bits(mesh, group, from_disk, tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    _, found = train_on(runs=DIFFERENT, mesh=mesh, group=group, metrics=path)
    monkeypatch.undo()
    held = tmp_path / "held.jsonl"
    _, expected = train_on(runs=DIFFERENT, mesh=mesh, group=group, metrics=held)
    same_bits(found, expected)
    for a, b in zip(epochs(path), epochs(held), strict=True):
        assert (a["train_loss"], a["val_loss"]) == (b["train_loss"], b["val_loss"])


@pytest.mark.slow
def test_devices_that_share_a_batch(from_disk, monkeypatch):
    _, found = train_on(mesh=(1, 3))  # 16 examples in shares of 6
    monkeypatch.undo()
    _, expected = train_on(mesh=(1, 3))
    for a, b in zip(leaves(found), leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("threads", "ahead"), [(0, 0), (16, 64)])
def test_the_order_does_not_depend_on_what_is_read_ahead(
    threads, ahead, from_disk, monkeypatch
):
    _, expected = train_on()
    monkeypatch.setattr(records, "THREADS", threads)
    monkeypatch.setattr(records, "AHEAD", ahead)
    _, found = train_on()
    same_bits(found, expected)


@pytest.mark.parametrize("stop_at", [2, slow(3)])
def test_a_stopped_training_resumes_within_an_epoch(
    stop_at, from_disk, tmp_path, monkeypatch
):
    with pytest.raises(log.Interrupted):
        train_in(tmp_path, stop_at=stop_at)
    resumed = train_in(tmp_path)
    monkeypatch.undo()
    same_bits(resumed, train_on(runs=DIFFERENT)[1])


@pytest.mark.parametrize(
    ("module", "features", "standardise", "rtol"),
    [
        # XLA fuses a standardiser into the loss that follows where it gathers windows
        # itself, as a multiply-add on CPUs that have one: another rounding.
        slow(mlp_vae, "float32", True, 1e-5),
        slow(mlp_vae, "float32", False, 0),
        slow(conv_vae, "bfloat16", False, 0),
        slow(id_classifier, "float32", False, 0),
    ],
)
def test_scores_from_a_file_are_those_from_memory(
    module, features, standardise, rtol, recordings, tmp_path, no_figures
):
    for place in ("device", "disk"):
        train = {"features": features, "features_on": place, "epochs": 2}
        config = small(module, root=recordings, train=train)
        config.features.standardise = standardise
        trained(config, tmp_path / place)
    held, read = (read_scores(tmp_path / p / "scores.csv") for p in ("device", "disk"))
    assert held.name.tolist() == read.name.tolist()
    np.testing.assert_allclose(read.score, held.score, rtol=rtol, atol=0)


def test_features_that_exceed_the_memory_are_refused(monkeypatch):
    detector = build(small()).detector
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    with pytest.raises(ConfigError, match=r"--config\.train\.features_on=disk"):
        detector._training_features(small_clips().train, print, None)


def test_the_place_of_features_may_change_between_starts():
    held, read = (
        build(small(train={"features_on": place})) for place in ("device", "disk")
    )
    assert held == read
    assert read.detector.on_disk


def test_packages_that_are_missing_are_named(monkeypatch):
    detector = build(small(train={"features_on": "disk"})).detector
    monkeypatch.setattr(records, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'mimii_jax\[large\]'"):
        detector.check(16000)


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / "features_left").mkdir()
    in_a_file(some_features(), folder=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_too_small_is_named(tmp_path):
    with pytest.raises(ConfigError, match=f"{tmp_path}.*GB of disk"):
        records.write(tmp_path, (2**40, 11, 2), np.float32, WINDOWS, [])
