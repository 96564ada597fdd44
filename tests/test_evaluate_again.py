"""A trained workdir scores again; what it was not trained for is refused."""

import json

import numpy as np
import pytest
from small_clips import quiet_watch, small_clips
from small_runs import again, small, trained

from configs import mlp_vae
from mimii_jax import config as build
from mimii_jax import run
from mimii_jax.data import dcase
from mimii_jax.errors import ConfigError
from mimii_jax.results.metrics import auc
from mimii_jax.results.table import read_scores


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("features", "hop", 256),
        ("windows", "width", 4),
        ("detector", "latent", 3),
    ],
)
def test_a_model_of_another_config_is_refused(recordings, model, section, field, value):
    config = small(root=recordings, **{section: {field: value}})
    with pytest.raises(ConfigError, match=f"{section}.{field}={value} differs from"):
        again(config, model)


def test_the_same_config_given_anew_is_accepted(recordings, model, no_figures):
    config = small(root=recordings)
    config.lock()  # as one that comes from a flag is
    run.evaluate_again(config, model, model / "anew", quiet_watch())
    expected = (model / "scores.csv").read_bytes()
    assert (model / "anew" / "scores.csv").read_bytes() == expected


def test_a_model_of_other_seeds_is_refused(recordings, model):
    config = small(root=recordings)
    config.seeds = (1,)
    with pytest.raises(ConfigError, match=r"seeds=\[1\] differs from .* \[0\]"):
        again(config, model)


def test_other_data_and_another_pooling_are_scored_with_the_model(
    recordings, model, tmp_path, no_figures
):
    """What the model does not depend on may differ from its training."""
    dcase.write(small_clips(ids=("04",), seed=5), tmp_path)
    config = small(root=tmp_path, scoring={"pooling": "max"})
    printed, folder = again(config, model)
    assert "identical" not in printed
    table = read_scores(folder / "scores.csv")
    assert table.ids == ["04"]
    mean = small(root=tmp_path)
    run.evaluate_again(mean, model, model / "mean", quiet_watch())
    of_mean = read_scores(model / "mean" / "scores.csv")
    of_vae = table.detector == "mlp_vae"
    assert np.all(table.score[of_vae] > of_mean.score[of_vae])


def test_a_config_of_another_version_is_one_line():
    config = mlp_vae.get_config("quick")
    del config.data["test_normals"]
    with pytest.raises(
        ConfigError, match=r"missing .*test_normals.* with --config"
    ) as e:
        build.check(config)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("per_id", [False, True])
def test_distances_from_normal_clips_are_kept_with_the_model(
    per_id, recordings, tmp_path, no_figures
):
    scoring = {"kind": "mahalanobis", "per_id": per_id}
    config = small(root=recordings, scoring=scoring)
    trained(config, tmp_path / "run")
    table = read_scores(tmp_path / "run" / "scores.csv")
    vae = table[table.detector == "mlp_vae"]
    assert auc(vae.label, vae.score) == 1.0
    printed, _ = again(config, tmp_path / "run")
    assert "scores: identical" in printed
    config.scoring.pooling = "max"  # not what the kept statistics are of
    with pytest.raises(ConfigError, match=r'scoring\.pooling="max" differs'):
        again(config, tmp_path / "run")


def test_a_workdir_that_holds_something_is_refused(recordings, tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ConfigError, match=f"--workdir={tmp_path}: is not empty"):
        trained(small(root=recordings), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_without_a_model_is_refused(recordings, tmp_path):
    with pytest.raises(ConfigError, match="no config of a finished training"):
        again(small(root=recordings), tmp_path)
    text = json.dumps(small(root=recordings).to_dict())
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="its training is not finished"):
        again(small(root=recordings), tmp_path)
