"""Trainings that begin with what another one has left, or go on with their own."""

import numpy as np
import pytest
from small_runs import small, trained

from mimii_jax import config as build
from mimii_jax import run
from mimii_jax.errors import ConfigError
from mimii_jax.train.runs import Run


def loaded(config, workdir):
    runs = [Run(seed, np.arange(0)) for seed in config.seeds]
    return build.build_detector(config).load(workdir / "checkpoints" / "slider", runs)


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
    before = loaded(run.load_config(model), model)
    after = loaded(config, tmp_path / "tuned")
    (first,) = before.pretrained()
    for tuned in after.pretrained():
        np.testing.assert_array_equal(tuned.standardiser.mean, first.standardiser.mean)
        for path, value in tuned.params.items():
            same = np.array_equal(value, first.params[path])
            assert same == (path[0] == "encoder"), path
    assert after.models.fixed["kl_weight"][...].tolist() == [2.0, 2.0]


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("features", {"hop": 256}, "was trained with features.hop=512, not 256"),
        ("detector", {"latent": 3}, r"is of shape \(.*\) in the pretrained model"),
        ("detector", {"hidden": (16, 8)}, r"is of shape \(16,\) in the pretrained"),
    ],
)
def test_a_model_that_does_not_fit_is_not_begun_with(
    recordings, model, tmp_path, section, changes, message
):
    config = small(root=recordings, **{section: changes})
    config.init_from = str(model)
    with pytest.raises(ConfigError, match=f"init_from.*{message}"):
        trained(config, tmp_path / "tuned")


def test_what_cannot_be_frozen_is_refused_before_any_work(tmp_path):
    config = small(train={"freeze": ("encodr",)})
    with pytest.raises(
        ConfigError, match=r"freeze.*no part encodr; its parts: decoder"
    ):
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
    config.data.workers = 1
    assert "Trained already" in trained(config, tmp_path / "run")
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
    assert f"Profile: {tmp_path / 'run' / 'profile'}" in printed
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))
