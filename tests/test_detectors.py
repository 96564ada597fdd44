"""The detectors: what they learn from, what they score, what they save."""

import json
from dataclasses import replace

import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from small_clips import RATE, quiet_watch, said, small_clips

from configs import isolation_forest, mlp_ae, mlp_vae, one_class_svm
from mimii_jax import log
from mimii_jax.data.clips import hold_out
from mimii_jax.detectors.controls import measure, score_controls
from mimii_jax.detectors.neural import FittedNeural, ModelSpec, NeuralDetector
from mimii_jax.errors import ConfigError, DataError
from mimii_jax.features.windows import Standardiser
from mimii_jax.results.metrics import auc
from mimii_jax.results.table import CONTROLS, NO_SEED
from mimii_jax.run import build_detector
from mimii_jax.train.runs import Run

CLIPS = small_clips()
SEEDS = (0, 1)
NEURAL = {"mlp_vae": mlp_vae, "mlp_ae": mlp_ae}
CLASSICAL = {
    "forest": (isolation_forest, "default"),
    "forest_windows": (isolation_forest, "windows"),
    "svm": (one_class_svm, "default"),
    "svm_linear": (one_class_svm, "linear"),
    "svm_exact": (one_class_svm, "exact"),
}


def small(config, **sections):
    """A config whose detector fits in a moment."""
    c = config.copy_and_resolve_references()
    c.features.n_mels = 32
    if "train" in c:
        c.detector.hidden = (16,)
        c.detector.latent = 4
        c.train.epochs = 3
        c.train.batch_size = 64
    for section, fields in sections.items():
        c[section].update(fields)
    return c


def neural(name="mlp_vae", **sections):
    return build_detector(small(NEURAL[name].get_config(), **sections))


def classical(kind, **sections):
    module, variant = CLASSICAL[kind]
    return build_detector(small(module.get_config(variant), **sections))


NOTHING = CLIPS[:0]


def on_all(n_clips, seeds):
    return [Run(seed, np.arange(n_clips)) for seed in seeds]


def fitted(detector, clips=CLIPS.train, seeds=SEEDS, folder=None, runs=None):
    runs = runs or on_all(len(clips), seeds)
    if isinstance(detector, NeuralDetector):
        return detector.fit(clips, NOTHING, runs, folder)
    return detector.fit(clips, runs, folder, quiet_watch())


def loaded(detector, folder):
    runs = on_all(0, SEEDS)
    if isinstance(detector, NeuralDetector):
        return detector.load(folder, runs)
    return detector.load(folder, runs, CLIPS.audio.shape[1], quiet_watch())


def scores(detector, clips=CLIPS.test):
    neural = isinstance(detector, FittedNeural)
    return detector.score(clips) if neural else detector.score(clips, quiet_watch())


@pytest.mark.parametrize("name", NEURAL)
def test_a_neural_detector_that_was_saved_scores_the_same_bits(name, tmp_path):
    options = {"features": {"standardise": True}}
    before = scores(fitted(neural(name, **options), folder=tmp_path))
    assert before.shape == (2, 12)
    np.testing.assert_array_equal(
        scores(loaded(neural(name, **options), tmp_path)), before
    )
    assert not np.array_equal(before[0], before[1])  # a model per seed


@pytest.mark.parametrize("kind", CLASSICAL)
def test_a_classical_detector_that_was_saved_scores_the_same_bits(kind, tmp_path):
    detector = fitted(classical(kind), folder=tmp_path)
    before = scores(detector)
    assert before.shape == (2, 12)
    np.testing.assert_array_equal(scores(loaded(classical(kind), tmp_path)), before)
    again = fitted(classical(kind), CLIPS.train[:2], folder=tmp_path)
    np.testing.assert_array_equal(scores(again), before)  # it was done already


@pytest.mark.parametrize("kind", CLASSICAL)
def test_classical_seeds_reproduce(kind):
    first, again = scores(fitted(classical(kind))), scores(fitted(classical(kind)))
    np.testing.assert_array_equal(first, again)
    alone = scores(fitted(classical(kind), seeds=(1,)))
    np.testing.assert_array_equal(alone[0], first[1])
    same = np.array_equal(first[0], first[1])
    assert same == (kind == "svm_exact")  # its solution is unique


@pytest.mark.parametrize(
    ("kind", "least"),
    [("forest", 0.8), ("forest_windows", 1), ("svm", 1), ("svm_exact", 1)],
)
def test_faults_score_higher_with_classical_detectors(kind, least):
    """A forest has little to isolate with from 12 examples of 1,024 numbers."""
    score = scores(fitted(classical(kind)))
    assert min(auc(CLIPS.test.label, run) for run in score) >= least


@pytest.mark.parametrize("name", NEURAL)
def test_faults_score_higher_with_neural_detectors(name):
    more = {"epochs": 15, "learning_rate": 1e-2}
    score = scores(fitted(neural(name, features={"standardise": True}, train=more)))
    assert min(auc(CLIPS.test.label, run) for run in score) == 1


@pytest.mark.parametrize("kind", ["forest", "forest_windows", "svm"])
def test_a_score_is_minus_that_of_scikit_learn(kind):
    """On examples that NumPy makes from the front end's frames."""
    detector = fitted(classical(kind))
    clip = CLIPS.test[:1]
    frames = detector.front_end(jnp.float32(clip.audio[0]) / 32768)
    frames = np.asarray(detector.standardisers[0].apply(frames))
    width = detector.windows.width_in(len(frames))
    x = [frames[i : i + width].ravel() for i in range(len(frames) - width + 1)]
    for model, score in zip(detector.models, scores(detector, clip), strict=True):
        expected = -np.mean(model.score_samples(np.array(x)))
        np.testing.assert_allclose(score, expected, rtol=1e-4)


def test_whole_clips_and_windows_are_examples():
    frames = 32
    whole = fitted(classical("forest"))
    assert whole.models[0].n_features_in_ == frames * 32
    windows = fitted(classical("forest_windows"))
    assert windows.models[0].n_features_in_ == 5 * 32


def test_more_windows_than_wanted_are_subsampled_and_it_says_so():
    watch = quiet_watch()
    detector = classical("forest_windows", windows={"max_examples": 50})
    runs = on_all(12, SEEDS)
    detector.fit(CLIPS.train, runs, None, watch)
    for seed in SEEDS:
        assert f"seed {seed}: fitted to 50 of 336 windows" in said(watch)
    numbered = jnp.arange(12.0 * 32).reshape(12, 32, 1)
    features = jnp.broadcast_to(numbered, (12, 32, 32))
    same = Standardiser.identity(32)
    chosen = [
        detector._training_examples(features, runs[s], same, watch) for s in (0, 0, 1)
    ]
    assert chosen[0].shape == (50, 160)
    assert len(np.unique(chosen[0], axis=0)) == 50  # none twice
    np.testing.assert_array_equal(chosen[0], chosen[1])
    assert not np.array_equal(chosen[0], chosen[2])


def test_as_many_windows_as_wanted_are_not_subsampled():
    watch = quiet_watch()
    detector = classical("forest_windows", windows={"max_examples": 336})
    detector.fit(CLIPS.train, on_all(12, (0,)), None, watch)
    assert "fitted to" not in said(watch)


def test_held_out_clips_are_not_trained_on(tmp_path):
    """Garbage in their place changes nothing but the validation loss."""
    out = hold_out(CLIPS.train.machine_id, 0.34)
    assert out.sum() == 4
    train, held_out = CLIPS.train[~out], CLIPS.train[out]
    noise = np.random.default_rng(0).integers(-9999, 9999, (4, RATE), np.int16)
    spoilt = replace(held_out, audio=noise)
    runs = [Run(0, np.arange(8), np.arange(4))]
    found = []
    for clips in (held_out, spoilt):
        path = tmp_path / f"{len(found)}.jsonl"
        log.open_metrics(path, {})
        score = scores(neural().fit(train, clips, runs, None))
        log.close_metrics()
        last = json.loads(path.read_text().splitlines()[-1])
        found.append((score, last["train_loss"], last["val_loss"]))
    (score, train_loss, val_loss), (other, again, spoilt_loss) = found
    np.testing.assert_array_equal(score, other)
    assert train_loss == again
    assert spoilt_loss[0] > 2 * val_loss[0]


def test_a_clip_is_scored_alike_whatever_stands_beside_it():
    """Silence fills the last chunk; a clip's score does not depend on it."""
    detector = fitted(neural())
    many = small_clips(test=18, length=RATE, seed=1).test  # 72 clips, two chunks
    score = scores(detector, many)
    assert score.shape == (2, 72)
    np.testing.assert_array_equal(scores(detector, many[65:]), score[:, 65:])
    np.testing.assert_array_equal(scores(detector, many[:1]), score[:, :1])


@pytest.mark.parametrize("kind", ["neural", "svm", "forest"])
def test_digital_silence_has_a_finite_score(kind):
    detector = fitted(neural() if kind == "neural" else classical(kind))
    silent = replace(CLIPS.test, audio=np.zeros_like(CLIPS.test.audio))
    assert np.all(np.isfinite(scores(detector, silent)))


def test_training_on_silence_alone_works():
    silent = replace(CLIPS.train, audio=np.zeros_like(CLIPS.train.audio))
    detector = fitted(neural(features={"standardise": True}), silent)
    assert np.all(np.isfinite(scores(detector)))


MAHALANOBIS = {"kind": "mahalanobis", "per_id": True}


def test_a_finished_training_serves_several_scorings(tmp_path, capsys):
    """Only the back-end is fitted; without its file a load says how to make it."""
    first = scores(fitted(neural(), folder=tmp_path))
    steps = sorted(path.name for path in tmp_path.iterdir() if path.name.isdigit())
    with pytest.raises(ConfigError, match=r"normals_mahalanobis_per_id_mean.*train in"):
        loaded(neural(scoring=MAHALANOBIS), tmp_path)
    by_id = fitted(neural(scoring=MAHALANOBIS), folder=tmp_path)
    assert "Trained already" in capsys.readouterr().out
    longest = fitted(neural(scoring={**MAHALANOBIS, "pooling": "max"}), folder=tmp_path)
    for path in steps:
        assert (tmp_path / path).exists()
    assert len(list(tmp_path.glob("normals_*.npz"))) == 2
    again = loaded(neural(scoring=MAHALANOBIS), tmp_path)
    np.testing.assert_array_equal(scores(again), scores(by_id))
    np.testing.assert_array_equal(scores(loaded(neural(), tmp_path)), first)
    assert not np.array_equal(scores(longest), scores(by_id))


def test_the_mean_of_the_representation_is_the_score():
    detector = fitted(neural())
    errors = detector.represent(CLIPS.test)
    assert errors.shape == (2, 12, 28, 32)  # run, clip, window, mel
    np.testing.assert_allclose(errors.mean(axis=(2, 3)), scores(detector), rtol=1e-5)
    assert detector.represent(NOTHING).shape == (2, 0, 28, 32)


def test_a_folder_of_other_runs_is_refused_and_left_alone(tmp_path):
    fitted(neural(), folder=tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(ConfigError, match="another model or other runs"):
        neural().load(tmp_path, on_all(0, (0, 1, 2)))
    with pytest.raises(ConfigError, match="another model or other runs"):
        loaded(neural(detector={"latent": 5}), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    with pytest.raises(DataError, match="no trained model"):
        loaded(neural(), tmp_path / "none")


def test_a_folder_without_the_length_of_its_clips_is_of_ten_seconds(tmp_path, capsys):
    fitted(neural(), folder=tmp_path)
    expected = scores(loaded(neural(), tmp_path))
    (tmp_path / "shape.json").unlink()
    np.testing.assert_array_equal(scores(loaded(neural(), tmp_path)), expected)
    assert "assuming clips of 160,000 samples" in capsys.readouterr().out


def test_neural_detectors_are_compared_by_what_they_compute():
    assert neural() == neural()
    assert neural() == neural(mesh={"run": 2}, checkpoint={"every_steps": 3})
    for changes in (
        {"detector": {"latent": 5}},
        {"train": {"epochs": 4}},
        {"windows": {"width": 4}},
        {"scoring": {"pooling": "max"}},
    ):
        assert neural() != neural(**changes)


class Picky:
    def __init__(self, shape, *, width, depth=1, dtype=None, rngs=None):
        self.nothing = missing


def test_the_fields_of_a_model_are_checked_by_name():
    with pytest.raises(ConfigError, match=r"detector.widht: unknown.* width, depth"):
        ModelSpec(Picky, {"widht": 3})
    with pytest.raises(ConfigError, match=r"detector.width: missing"):
        ModelSpec(Picky, {"depth": 3})
    with pytest.raises(NameError, match="missing"):  # a bug stays a bug
        ModelSpec(Picky, {"width": 3})((4,), rngs=None)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.99])
def test_a_share_of_each_id_is_held_out(fraction):
    machine_id = np.array(["00"] * 20 + ["02"] * 7 + ["04"])
    held_out = hold_out(machine_id, fraction)
    for value, count in (("00", 20), ("02", 7), ("04", 1)):
        expected = min(round(fraction * count), count - 1)
        assert held_out[machine_id == value].sum() == expected
    np.testing.assert_array_equal(hold_out(machine_id, fraction), held_out)


@pytest.mark.parametrize("fraction", [1.0, -0.1, float("nan")])
def test_a_held_out_share_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match=rf"fraction of {fraction}: must be in \[0, 1"):
        hold_out(np.array(["00"]), fraction)


@pytest.mark.parametrize("kind", ["neural", "svm", "forest"])
def test_a_run_learns_from_its_own_clips_alone(kind):
    """And standardises by them: garbage in the clips of others changes nothing."""
    audio = CLIPS.train.audio.copy()
    audio[6:] = np.random.default_rng(0).integers(-9999, 9999, (6, RATE), np.int16)
    spoilt = replace(CLIPS.train, audio=audio)
    runs = [Run(0, np.arange(6)), Run(0, np.arange(12)), Run(3, np.arange(2, 7))]
    options = {"features": {"standardise": True}}
    first, second = (
        scores(
            fitted(
                neural(**options) if kind == "neural" else classical(kind, **options),
                clips,
                runs=runs,
            )
        )
        for clips in (CLIPS.train, spoilt)
    )
    np.testing.assert_array_equal(first[0], second[0])
    assert not np.array_equal(first[1], second[1])
    assert not np.array_equal(first[2], second[2])


def sine(hertz, amplitude):
    wave = amplitude * np.sin(2 * np.pi * hertz * np.arange(4 * RATE) / RATE + 0.1)
    return np.round(32768 * wave).astype(np.int16)


def control(name, audio):
    return measure(audio, RATE)[CONTROLS.index(name)]


def test_the_level_of_a_sine_is_that_of_its_amplitude():
    expected = 20 * np.log10(0.1) - 10 * np.log10(2)
    assert control("level", sine(440, 0.1)) == pytest.approx(expected, abs=1e-3)
    full = np.full(100, -32768, np.int16)
    assert control("level", np.tile(full, 100)) == pytest.approx(0, abs=1e-6)


def test_a_sine_crosses_zero_twice_a_period():
    expected = 2 * 500 / RATE
    assert control("zero_crossings", sine(500, 0.1)) == pytest.approx(
        expected, rel=1e-3
    )


def test_flatness_is_high_for_noise_and_low_for_a_sine():
    noise = np.random.default_rng(0).integers(-999, 999, 2 * RATE, np.int16)
    assert control("flatness", noise) > 0.4
    assert control("flatness", sine(440, 0.1)) < 0.01


def test_a_steady_sound_has_a_steady_bandwidth():
    rng = np.random.default_rng(0)
    steady = rng.normal(0, 300, 4 * RATE)
    changing = steady.copy()
    changing[: 2 * RATE] = np.convolve(steady[: 2 * RATE], np.ones(8) / 8, "same")
    steady, changing = (wave.astype(np.int16) for wave in (steady, changing))
    assert control("bandwidth_sd", changing) > 3 * control("bandwidth_sd", steady)


def test_controls_are_those_of_librosa_called_directly():
    audio = CLIPS.test.audio[-1]
    wave = np.float32(audio) / 32768
    bandwidth = librosa.feature.spectral_bandwidth(y=wave, sr=RATE)
    crossings = np.sum(librosa.zero_crossings(wave, threshold=0, pad=False))
    expected = [
        20 * np.log10(np.sqrt(np.mean(np.float64(wave) ** 2))),
        np.std(bandwidth),
        np.mean(librosa.feature.spectral_flatness(y=wave)),
        crossings / (len(wave) - 1),
    ]
    np.testing.assert_allclose(measure(audio, RATE), expected, rtol=1e-5)


def test_controls_of_silence_are_finite():
    values = measure(np.zeros(RATE, np.int16), RATE)
    assert np.all(np.isfinite(values))
    assert values[CONTROLS.index("level")] == pytest.approx(-156.5, abs=0.05)


def test_the_table_of_controls_has_each_clip_once_per_control():
    table = score_controls(CLIPS.test, quiet_watch())
    assert table.detectors == list(CONTROLS)
    assert set(table.seed.tolist()) == {NO_SEED}
    for name in CONTROLS:
        of = table[table.detector == name]
        assert of.name.tolist() == CLIPS.test.name.tolist()
        expected = [control(name, audio) for audio in CLIPS.test.audio]
        np.testing.assert_array_equal(of.score, expected)
