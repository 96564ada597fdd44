"""Trainings that begin with what another one has left, or go on with their own."""

import numpy as np
import pytest
from small_clips import RATE, quiet_watch
from small_runs import small, trained

from mimii_jax import config as build
from mimii_jax import run
from mimii_jax.errors import ConfigError
from mimii_jax.train.loop import StartError
from mimii_jax.train.runs import runs_on_all


def test_a_training_begins_with_another_workdirs_model(
    recordings, model, tmp_path, no_figures
):
    """Frozen parts stay those of the other; the rest moves; so does the KL weight."""
    config = small(root=recordings)
    config.init_from = str(model)
    config.seeds = (0, 5)  # of seed 5 there is none, but only one to choose
    config.detector.kl_weight = 2.0
    config.train.freeze = ("encoder",)
    trained(config, tmp_path / "tuned")
    before = build.build_detector(run.load_config(model))
    before.load(
        model / "checkpoints" / "slider", runs_on_all(0, (0,)), RATE, quiet_watch()
    )
    after = build.build_detector(config)
    folder = tmp_path / "tuned" / "checkpoints" / "slider"
    after.load(folder, runs_on_all(0, (0, 5)), RATE, quiet_watch())
    (first,) = before.starts()
    for start in after.starts():
        np.testing.assert_array_equal(start.standardiser.mean, first.standardiser.mean)
        for path, value in start.params.items():
            same = np.array_equal(value, first.params[path])
            assert same == (path[0] == "encoder"), path
    assert after.state.fixed["kl_weight"][...].tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("features", {"hop": 256}, "was trained with features.hop=512, not 256"),
        ("detector", {"latent": 3}, "has the shape .* in the model to begin with"),
        ("detector", {"hidden": (16, 8)}, r"has the shape \(16,\) in the model"),
    ],
)
def test_a_model_that_does_not_fit_is_not_begun_with(
    recordings, model, tmp_path, section, changes, message
):
    config = small(root=recordings, **{section: changes})
    config.init_from = str(model)
    with pytest.raises((ConfigError, StartError), match=f"init_from.*{message}"):
        trained(config, tmp_path / "tuned")


def test_what_cannot_be_frozen_is_refused_before_any_work(tmp_path):
    config = small(train={"freeze": ("encodr",)})
    with pytest.raises(ConfigError, match="no part is named encodr"):
        trained(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_changed_config_is_refused_and_says_what_changed(recordings, model):
    config = small(root=recordings, train={"epochs": 3}, detector={"latent": 4})
    with pytest.raises(ConfigError, match=r"detector.latent was 2, is 4; train.epochs"):
        trained(config, model)


def test_the_same_command_again_changes_nothing(recordings, tmp_path, no_figures):
    """And may be given other devices and another rhythm of saving."""
    config = small(root=recordings)
    trained(config, tmp_path / "run")
    names = ("scores.csv", "clips.csv", "metrics.jsonl")
    before = [(tmp_path / "run" / name).read_bytes() for name in names]
    config.checkpoint.every_minutes = 1.0
    assert "goes on from" in trained(config, tmp_path / "run")
    assert [(tmp_path / "run" / name).read_bytes() for name in names] == before


def test_tensorboard_and_a_profile_are_written_when_asked_for(
    recordings, tmp_path, no_figures
):
    config = small(root=recordings, train={"epochs": 3})
    config.tensorboard = True
    config.profile = True
    printed = trained(config, tmp_path / "run")
    (events,) = (tmp_path / "run" / "tensorboard" / "slider").iterdir()
    assert events.name.startswith("events.out.tfevents")
    assert b"train_loss" in events.read_bytes()
    assert f"profile: {tmp_path / 'run' / 'profile'}" in printed
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
