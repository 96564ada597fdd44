"""Experiments from end to end, on small data."""

import csv
import importlib
import json
import re
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest
import soundfile
from slowly import slow
from small_clips import small_clips
from small_runs import again, small, trained

from configs import (
    controls,
    conv_vae,
    isolation_forest,
    mlp_ae,
    mlp_vae,
    one_class_svm,
    transformer,
)
from mimii_jax import config as configuration
from mimii_jax.data import audio, dcase
from mimii_jax.data.clips import ANOMALOUS, NORMAL, UNKNOWN
from mimii_jax.errors import ConfigError, DataError
from mimii_jax.files import read_arrays
from mimii_jax.judge import Judge
from mimii_jax.results.metrics import auc
from mimii_jax.results.table import CONTROLS, read_scores
from mimii_jax.scorer import build_scorer, known_ids
from mimii_jax.simulated import simulate as simulator
from mimii_jax.train.runs import Run
from mimii_jax.workdir import Workdir

QUICK = {
    "mlp_vae": mlp_vae,
    "mlp_ae": mlp_ae,
    "conv_vae": conv_vae,
    "transformer": transformer,
    "isolation_forest": isolation_forest,
    "sgd_one_class_svm": one_class_svm,
    "controls": controls,
}
SLOW = tuple(name for name in QUICK if name != "controls")


@pytest.fixture(scope="session")
def simulation():
    return simulator.simulate(("00", "02"), scale=0.003, seed=0)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        for name in QUICK
    ],
)
def test_the_quick_variants_run_on_simulated_sound(
    name, simulation, monkeypatch, tmp_path, no_figures
):
    monkeypatch.setattr(simulator, "simulate", lambda *a, **k: simulation)
    workdir = tmp_path / "run"
    config = QUICK[name].get_config("quick")
    config.scorings, config.fuse_with = {}, ()  # tests/test_transformer_run.py has them
    printed = trained(config, workdir)
    assert "SIMULATED sound, not recordings" in printed
    assert "slider, simulated" in printed

    table = read_scores(workdir / "scores.csv")
    own = [] if name == "controls" else [name]
    assert table.detectors == [*own, *CONTROLS]
    n_test = len(simulation.clips.test)
    assert len(table) == n_test * (3 * len(own) + len(CONTROLS))
    for detector in own:
        assert table[table.detector == detector].seeds == [0, 1, 2]
        folder = workdir / "official" / detector
        assert len(list(folder.glob("seed_?/anomaly_score_slider_id_??.csv"))) == 6
    assert (workdir / "official" / "rms_dbfs" / "result.csv").exists()
    assert (workdir / "checkpoints" / "slider").is_dir() == bool(own)
    assert (workdir / "metrics.jsonl").exists() == ("train" in config)
    with (workdir / "clips.csv").open() as file:
        clips = list(csv.DictReader(file))
    assert len(clips) == len(simulation.clips)
    assert {row["split"] for row in clips} == {"train", "test"}
    examples = read_arrays(workdir / "examples.npz")
    n_frames = 1 + simulation.clips.audio.shape[1] // config.features.hop
    assert examples["slider/00/normal/features"].shape == (n_frames, 128)
    assert ("slider/00/normal/track" in examples) == ("train" in config)
    assert len(examples["frequency"]) == 128
    printed, folder = again(None, workdir)
    assert "identical" in printed
    assert (folder / "scores.csv").read_bytes() == (workdir / "scores.csv").read_bytes()


def test_a_run_on_recordings_leaves_a_whole_workdir(recordings, tmp_path):
    workdir = tmp_path / "run"
    config = small(root=recordings)
    config.seeds = (0, 3)
    config.data.validation_fraction = 0.2
    printed = trained(config, workdir)
    assert "slider, recordings" in printed
    assert "SIMULATED" not in printed
    assert printed.count("Report: ") == 1
    assert {path.name for path in workdir.glob("[!.]*")} == {
        "run.json",
        "config.json",
        "metrics.jsonl",
        "normals.csv",
        "checkpoints",
        "scores.csv",
        "official",
        "clips.csv",
        "examples.npz",
        "figures",
        "report.html",
    }
    assert len(list((workdir / "figures").glob("*.png"))) >= 6
    assert Workdir(workdir).read_config().to_dict() == config.to_dict()
    about = json.loads((workdir / "run.json").read_text())
    fields = {"command", "seconds", "seconds_of", "commit", "python", "jax", "devices"}
    assert about.keys() == fields
    assert 0 < about["seconds_of"]["slider, mlp_vae"]["train"] < about["seconds"]
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    for line in map(json.loads, lines):
        assert line["machine_type"] == "slider"
        assert line["seeds"] == [0, 3]
        assert len(line["val_loss"]) == 2
    table = read_scores(workdir / "scores.csv")
    of_detector = table[table.detector == "mlp_vae"]
    assert of_detector.seeds == [0, 3]
    assert sorted(set(of_detector.name)) == sorted(set(small_clips().test.name))


def test_a_training_builds_one_detector_and_one_front_end(
    recordings, tmp_path, no_figures, monkeypatch
):
    built = []
    for name in ("_build_detector", "_build_front_end"):
        inner = getattr(configuration, name)

        def counted(*a, inner=inner, name=name):
            built.append(name)
            return inner(*a)

        monkeypatch.setattr(configuration, name, counted)
    trained(small(isolation_forest, root=recordings), tmp_path / "run")
    assert sorted(built) == ["_build_detector", "_build_front_end"]


@pytest.mark.parametrize("module", [mlp_vae, slow(isolation_forest)])
def test_training_sets_are_rows_of_one_workdir(
    module, recordings, tmp_path, no_figures
):
    kinds = ("all", "id", "downsampled", "without", "all, then id")
    config = small(module, root=recordings)
    config.training_sets = kinds
    trained(config, tmp_path / "run")
    names = read_scores(tmp_path / "run" / "scores.csv").detectors
    model = config.detector.name
    rows = ["all", "id 00", "id 02", "downsampled", "without 00", "without 02"]
    if module is mlp_vae:  # only these can be fine-tuned
        rows += ["all, then id 00", "all, then id 02"]
    assert names == [*(f"{model}: {row}" for row in rows), *CONTROLS]
    assert "identical" in again(None, tmp_path / "run")[0]


@pytest.mark.slow
def test_one_training_is_scored_in_several_ways(recordings, tmp_path, no_figures):
    config = small(root=recordings)
    config.scorings = {
        "mean": {},
        "max": {"pooling": "max"},
        "per id": {"backend": "mahalanobis", "per_id": True},
    }
    trained(config, tmp_path / "run")
    table = read_scores(tmp_path / "run" / "scores.csv")
    names = [f"mlp_vae: {name}" for name in config.scorings]
    assert table.detectors == [*names, *CONTROLS]
    scores = [table.score[table.detector == name] for name in names]
    assert all(not np.array_equal(scores[0], other) for other in scores[1:])
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == config.train.epochs  # trained once
    assert "identical" in again(None, tmp_path / "run")[0]
    config.scorings = {"other": {"backend": "mahalanobis", "pooling": "top_k"}}
    with pytest.raises(ConfigError, match="scoring"):  # no vectors
        again(config, tmp_path / "run", "other")


@pytest.mark.parametrize("label", [slow(NORMAL), ANOMALOUS, slow(UNKNOWN)])
def test_one_class_of_test_clips_gives_scores_and_no_auc(tmp_path, label, no_figures):
    """Unlabelled as in the evaluation layout, whose files are id_NN_NNNNNNNN.wav."""
    clips = small_clips()
    if label == UNKNOWN:
        test = clips.split == "test"
        pairs = zip(clips.machine_id, np.cumsum(test), strict=True)
        names = [f"id_{machine_id}_{number:08d}.wav" for machine_id, number in pairs]
        clips = replace(
            clips,
            label=np.where(test, UNKNOWN, clips.label).astype(np.int8),
            name=np.where(test, names, clips.name),
        )
    of_02 = clips.machine_id == "02"
    dcase.write(
        clips[~of_02 | (clips.split == "train") | (clips.label == label)], tmp_path
    )
    printed = trained(small(isolation_forest, root=tmp_path), tmp_path / "run")
    kind = {NORMAL: "normal", ANOMALOUS: "anomalous", UNKNOWN: "unlabelled"}[label]
    assert re.search(f"02[^:]*: only {kind} clips", printed)
    table = read_scores(tmp_path / "run" / "scores.csv")
    found = (table.detector == "isolation_forest") & (table.machine_id == "02")
    assert set(table.label[found].tolist()) == {label}
    assert "identical" in again(None, tmp_path / "run")[0]


@pytest.mark.parametrize("module", [mlp_vae, isolation_forest, one_class_svm])
def test_digital_silence_gets_finite_scores(module, tmp_path, no_figures):
    clips = small_clips()
    clips.audio[[0, -1]] = 0  # a training clip and a test clip
    dcase.write(clips, tmp_path)
    trained(small(module, root=tmp_path), tmp_path / "run")
    scores = read_scores(tmp_path / "run" / "scores.csv").score
    assert np.all(np.isfinite(scores))


@pytest.mark.slow
def test_two_machine_types_have_a_model_each(tmp_path, no_figures):
    for machine_type, seed in (("slider", 0), ("fan", 1)):
        clips = small_clips(ids=("00",), seed=seed)
        dcase.write(replace(clips, machine_type=machine_type), tmp_path)
    config = small(isolation_forest, root=tmp_path, data={"machine_types": ()})
    workdir = tmp_path / "run"
    trained(config, workdir)
    assert {p.name for p in (workdir / "checkpoints").iterdir()} == {"fan", "slider"}
    assert read_scores(workdir / "scores.csv").machine_types == ["fan", "slider"]
    assert "identical" in again(config, workdir)[0]


@pytest.mark.slow
def test_one_model_over_all_machine_types(tmp_path, no_figures):
    """With a bank per type and ID; each recording is judged by that of its own."""
    for machine_type, seed in (("slider", 0), ("fan", 1)):
        clips = small_clips(seed=seed)
        dcase.write(replace(clips, machine_type=machine_type), tmp_path)
    own = {"root": str(tmp_path), "machine_types": ("all",)}
    config = small(variant="quick", data=own)
    config.scoring.backend = "mean,ldn"
    config.training_sets = ("all", "type")
    workdir = tmp_path / "run"
    trained(config, workdir)
    assert [p.name for p in (workdir / "checkpoints").iterdir()] == ["all"]
    table = read_scores(workdir / "scores.csv")
    assert table.machine_types == ["fan", "slider"]
    assert set(table.machine_id) == {"00", "02"}
    sets = ("all", "type fan", "type slider")
    rows = {f"mlp_vae{end}: {one}" for end in ("", "+ldn") for one in sets}
    assert rows <= set(table.detectors)
    assert "identical" in again(config, workdir)[0]
    judge = Judge.load(
        workdir,
        detector="mlp_vae+ldn: all",
        machine_type="fan",
        false_alarms=0.05,
        method="gamma",
    )
    files = sorted((tmp_path / "fan" / "test").glob("*.wav"))
    ours = table[(table.machine_type == "fan") & (table.detector == judge.detector)]
    score = dict(zip(ours.name.tolist(), ours.score.tolist(), strict=True))
    found = list(judge(files))
    assert [v.score for v in found] == pytest.approx([score[f.name] for f in files])
    assert {v.machine_id for v in found} == {"00", "02"}
    waves = np.stack([soundfile.read(f, dtype="float32")[0] for f in files])
    places = np.array([known_ids(judge).index(v.machine_id) for v in found], np.int32)
    exported, _ = jax.jit(build_scorer(judge))(waves, places)
    np.testing.assert_allclose(exported, [v.score for v in found], rtol=1e-5)
    unlike, _ = jax.jit(build_scorer(judge))(waves, 1 - places)  # as the other ID
    assert not np.isclose(unlike, exported).any()


def test_a_bad_file_of_the_last_machine_type_is_found_first(tmp_path, monkeypatch):
    """By the headers alone, before any audio is decoded."""
    monkeypatch.setattr(audio, "_decode", None)
    for machine_type in ("slider", "fan"):
        clips = small_clips(ids=("00",))
        dcase.write(replace(clips, machine_type=machine_type), tmp_path)
    bad = tmp_path / "slider" / "test" / "anomaly_id_00_00000000.wav"
    bad.write_bytes(bad.read_bytes()[:1000])
    config = small(root=tmp_path, data={"machine_types": ()})
    with pytest.raises(DataError, match=r"anomaly_id_00_00000000\.wav: truncated"):
        trained(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_split_of_the_test_set_is_reported(recordings, tmp_path, no_figures):
    config = small(controls, root=recordings, eval={"split": "validation"})
    printed = trained(config, tmp_path / "run")
    assert "validation" in printed
    # All clips are scored whatever the split.
    assert len(read_scores(tmp_path / "run" / "scores.csv")) == 12 * 4


@pytest.mark.slow
def test_linear_features_run(recordings, tmp_path, no_figures):
    features = {"name": "linear", "n_fft": 256, "hop": 256}
    config = small(isolation_forest, root=recordings, features=features)
    trained(config, tmp_path / "run")
    assert "identical" in again(config, tmp_path / "run")[0]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("windows.width", 33, "window"),
        ("features.n_fft", 40000, "n_fft=40000"),
        ("data.ids", ("00", "77"), "77"),
        ("data.machine_types", ("fan",), "fan"),
    ],
)
def test_settings_that_do_not_fit_the_clips_are_refused(
    recordings, tmp_path, field, value, message
):
    section, last = field.split(".")
    config = small(root=recordings, **{section: {last: value}})
    with pytest.raises((ConfigError, DataError), match=message):
        trained(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- a workdir is resumed, scored again, or refused ---


def test_the_same_command_again_changes_nothing(
    recordings, model, tmp_path, no_figures
):
    """Also with another interval of saving."""
    workdir = shutil.copytree(model, tmp_path / "run")
    config = small(root=recordings, checkpoint={"every_minutes": 1.0})
    trained(config, workdir)
    for name in ("scores.csv", "clips.csv", "metrics.jsonl"):
        assert (workdir / name).read_bytes() == (model / name).read_bytes()


def test_a_workdir_that_lacks_fields_resumes_and_is_scored_again(
    recordings, model, tmp_path, no_figures
):
    config = small(root=recordings)
    workdir = shutil.copytree(model, tmp_path / "run")
    path = workdir / "config.json"
    saved = json.loads(path.read_text())
    del saved["train"]["precision"], saved["scoring"]["top_k"], saved["training_sets"]
    path.write_text(json.dumps(saved))
    printed, _ = again(None, workdir)
    assert "identical" in printed
    flat = " ".join(printed.split())
    for text in ("training_sets=('all',)", "scoring.top_k=10", "precision='float32'"):
        assert text in flat
    path.write_text(json.dumps(saved))
    printed = trained(config, workdir)
    assert "assumed" in printed


def test_a_changed_config_is_refused_and_says_what_changed(recordings, model):
    config = small(root=recordings, train={"epochs": 3}, detector={"latent": 4})
    with pytest.raises(ConfigError, match=r"detector.latent: 2 → 4; train.epochs: 2"):
        trained(config, model)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("features.hop", 256),
        ("windows.width", 4),
        ("detector.latent", 3),
        ("seeds", (1,)),
    ],
)
def test_a_model_of_another_config_is_refused(recordings, model, field, value):
    config = small(root=recordings)
    config.update_from_flattened_dict({field: value})
    with pytest.raises(ConfigError, match=f"{field}: .* → {re.escape(str(value))}"):
        again(config, model)


def test_another_pooling_is_scored_with_the_model(recordings, model, no_figures):
    config = small(root=recordings, scoring={"pooling": "max"})
    config.lock()  # as one that comes from a flag is
    printed, folder = again(config, model, "max")
    assert "identical" not in printed
    of_max, of_mean = (read_scores(path / "scores.csv") for path in (folder, model))
    of_vae = of_mean.detector == "mlp_vae"
    assert np.all(of_max.score[of_vae] > of_mean.score[of_vae])


def test_a_workdir_that_holds_something_is_refused(recordings, tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ConfigError, match=f"--workdir={tmp_path}: exists but isn't"):
        trained(small(root=recordings), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_folder_without_a_model_is_refused(recordings, tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json"):
        again(small(root=recordings), tmp_path)
    text = json.dumps(small(root=recordings).to_dict())
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="isn't finished; resume it"):
        again(small(root=recordings), tmp_path)


# --- fine-tuning another workdir's model ---


def test_a_training_fine_tunes_another_workdirs_model(
    recordings, model, tmp_path, no_figures
):
    """Frozen parts stay those of the other; the rest moves."""
    config = small(root=recordings)
    config.init_from = str(model)
    config.seeds = (0, 5)  # there is no model of seed 5, but only one to choose
    config.train.freeze = ("encoder",)
    workdir = tmp_path / "tuned"
    trained(config, workdir)

    def models(path):
        saved = Workdir(path)
        experiment = configuration.build(saved.read_config())
        none = np.arange(0)
        runs = [Run(seed, none, none) for seed in experiment.seeds]
        return experiment.detector.load(saved.checkpoints("slider"), runs).pretrained()

    (first,) = models(model)
    for tuned in models(workdir):
        np.testing.assert_array_equal(tuned.standardiser.mean, first.standardiser.mean)
        for path, value in tuned.params.items():
            same = np.array_equal(value, first.params[path])
            assert same == (path[0] == "encoder"), path


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("features", {"hop": 256}, "hop=512"),
        ("detector", {"latent": 3}, "shape"),
        ("detector", {"hidden": (16, 8)}, r"\(16,\)"),
    ],
)
def test_a_model_that_does_not_fit_is_not_fine_tuned(
    recordings, model, tmp_path, section, changes, message
):
    config = small(root=recordings, **{section: changes})
    config.init_from = str(model)
    with pytest.raises(ConfigError, match=f"init_from.*{message}"):
        trained(config, tmp_path / "tuned")


def test_a_missing_model_is_found_before_anything_is_written(recordings, tmp_path):
    config = small(root=recordings)
    config.init_from = str(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match=r"nowhere.*config\.json"):
        trained(config, tmp_path / "run")
    assert not any((tmp_path / "run").glob("config.json"))


def test_what_cannot_be_frozen_is_refused_before_any_work(recordings, tmp_path):
    config = small(root=recordings, train={"freeze": ("encodr",)})
    with pytest.raises(ConfigError, match="encodr"):
        trained(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_tensorboard_and_a_profile_are_written_if_wanted(
    recordings, tmp_path, no_figures
):
    config = small(root=recordings, train={"epochs": 3})
    config.tensorboard = config.profile = True
    trained(config, tmp_path / "run")
    (events,) = (tmp_path / "run" / "tensorboard" / "slider").iterdir()
    assert events.name.startswith("events.out.tfevents")
    assert b"train_loss" in events.read_bytes()
    assert list((tmp_path / "run").rglob("*.xplane.pb"))


# --- real recordings ---


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mlp_vae", "isolation_forest", "one_class_svm"])
def test_real_recordings_separate_perfectly(real_sample, tmp_path, name, no_figures):
    """Three normal and three anomalous clips of slide rail 00."""
    config = importlib.import_module(f"configs.{name}").get_config()
    if name == "mlp_vae":
        config.train.epochs = 3
        config.seeds = (0,)
    config.data.root = str(real_sample)
    config.eval.bootstrap = 0
    trained(config, tmp_path / "run")
    table = read_scores(tmp_path / "run" / "scores.csv")
    of = table[table.detector == config.detector.name]
    runs = [of[of.seed == seed] for seed in of.seeds]
    assert {auc(one.label, one.score) for one in runs} == {1.0}
