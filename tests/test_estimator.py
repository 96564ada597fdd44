"""The estimator: waves and files, thresholds, workdirs, threads, scikit-learn."""

import pickle
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
import soundfile
import soxr
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator
from small_clips import RATE, small_clips, sound
from small_runs import small, trained

import mimii_jax
from configs import functionals
from mimii_jax import score
from mimii_jax.errors import ConfigError, DataError
from mimii_jax.results.table import read_scores

FIELDS = {"features__n_mels": 16, "detector__groups": ("bands",)}
# Of scikit-learn's, those that can't hold for sound.
EXCLUDED = {
    "check_no_attributes_set_in_init": "config fields are keywords without a list",
    "check_n_features_in": "recordings may have another length than those learned from",
    "check_n_features_in_after_fitting": "as above",
    "check_estimators_dtypes": "integers but int16 have no full scale that is known",
    "check_fit2d_1feature": "a recording of a single sample has no spectrum",
    "check_array_api_input": "skipped unless SCIPY_ARRAY_API is set",
}


@pytest.fixture(scope="module")
def clips():
    return small_clips(train=20, test=4).train


@pytest.fixture(scope="module")
def fitted(clips):
    return mimii_jax.Detector(**FIELDS).fit(clips.audio, ids=clips.machine_id)


@pytest.fixture(scope="module")
def new():
    rng = np.random.default_rng(7)
    lengths = (RATE, RATE, RATE // 2, 3 * RATE, RATE)
    faulty = (False, True, False, True, False)
    pairs = zip(faulty, lengths, strict=True)
    return [sound(rng, fault, length) for fault, length in pairs]


def test_faults_score_higher_and_are_found(fitted, new):
    scores = fitted.decision_function(new, ids="02")
    assert scores[[1, 3]].min() > 10 > scores[[0, 4]].max()
    found = fitted.predict(new, ids="02")
    assert found[[0, 1, 3, 4]].tolist() == [0, 1, 1, 0]
    limit = fitted.thresholds_["02"]
    assert np.array_equal(found, (scores > limit).astype(int))


def test_floats_and_other_rates_are_the_same_sound(fitted, new, clips):
    scores = fitted.decision_function(new, ids="00")
    floats = [wave / 32768 for wave in new]
    assert np.array_equal(fitted.decision_function(floats, ids="00"), scores)
    twice = soxr.resample(new[4] / 32768, RATE, 2 * RATE)
    (again,) = fitted.decision_function([twice], "00", 2 * RATE)
    assert again < 10
    of_floats = mimii_jax.Detector(**FIELDS)
    of_floats.fit(clips.audio / 32768, ids=clips.machine_id)
    assert np.array_equal(of_floats.decision_function(new, ids="00"), scores)


def test_training_scores_are_those_of_clips_left_out(fitted, clips):
    assert fitted.decision_scores_.shape == (len(clips),)
    inside = fitted.decision_function(clips.audio, ids=clips.machine_id)
    assert np.mean(fitted.decision_scores_) > np.mean(inside)
    assert fitted.labels_.mean() < 0.2
    fewer = clone(fitted).set_params(false_alarms=0.001)
    assert fewer.get_params() == {**fitted.get_params(), "false_alarms": 0.001}
    with pytest.raises(NotFittedError):
        fewer.predict(clips.audio)
    limit = fitted.threshold_
    changed = pickle.loads(pickle.dumps(fitted)).set_params(false_alarms=0.001)
    assert changed.threshold_ > limit


def test_without_ids_recordings_of_several_are_compared_with_all(fitted, new):
    assert np.array_equal(
        fitted.decision_function(new), fitted.decision_function(new, ids="nobody")
    )
    assert set(fitted.thresholds_) == {"00", "02"}


def test_a_saved_detector_is_a_workdir(fitted, new, tmp_path, capsys):
    fitted.save(tmp_path / "machine7")
    scores = fitted.decision_function(new, ids="00")
    loaded = mimii_jax.load(tmp_path / "machine7")
    assert np.array_equal(loaded.decision_function(new, ids="00"), scores)
    assert loaded.thresholds_ == fitted.thresholds_
    assert np.array_equal(loaded.decision_scores_, fitted.decision_scores_)
    copy = pickle.loads(pickle.dumps(loaded))
    assert np.array_equal(copy.decision_function(new, ids="00"), scores)
    soundfile.write(tmp_path / "new.wav", new[1], RATE)
    out = tmp_path / "scores.csv"
    command = ["--workdir", tmp_path / "machine7", "--id", "00", "--out", out]
    with pytest.raises(SystemExit):
        score.main([*map(str, command), str(tmp_path / "new.wav")])
    assert repr(float(scores[1])) in out.read_text()
    with pytest.raises(DataError, match="isn't empty"):
        fitted.save(tmp_path / "machine7")


def test_a_workdir_of_main_is_loaded(recordings, tmp_path, no_figures):
    model = tmp_path / "run"
    trained(small(functionals, root=recordings), model)
    detector = mimii_jax.load(model)
    folder = recordings / "slider" / "test"
    table = read_scores(model / "scores.csv")
    own = table[table.detector == "functionals"]
    by_name = dict(zip(own.name.tolist(), own.score.tolist(), strict=True))
    files = score.recordings([folder])
    expected = [by_name[file.name] for file in files]
    scores = detector.decision_function(folder)
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-5)
    again = detector.decision_function([str(file) for file in files])
    assert np.array_equal(again, scores)
    assert clone(detector).get_params()["config"] == str(model)


def test_folders_and_files_are_learned_from(clips, new, tmp_path):
    own = clips[clips.machine_id == "00"]
    files = [tmp_path / "normals" / f"{row:02d}.wav" for row in range(len(own))]
    files[0].parent.mkdir()
    for file, wave in zip(files, own.audio, strict=True):
        soundfile.write(file, wave, RATE)
    learned = [
        mimii_jax.Detector(**FIELDS).fit(x)
        for x in (own.audio, tmp_path / "normals", files, list(own.audio))
    ]
    scores = [detector.decision_function(new) for detector in learned]
    for other in scores[1:]:
        assert np.array_equal(other, scores[0])
    longer = [*own.audio, np.zeros(2 * RATE, np.int16)]
    assert len(mimii_jax.Detector(**FIELDS).fit(longer).labels_) == len(longer)
    with pytest.raises(ConfigError, match="ids"):
        mimii_jax.Detector(**FIELDS).fit(tmp_path / "normals", ids="7")


@pytest.mark.slow
def test_a_neural_detector_scores_all_that_it_was_fitted_to(clips, new):
    fields = {"detector__hidden": (16,), "detector__latent": 2, "train__epochs": 2}
    detector = mimii_jax.Detector(
        "mlp_vae", seeds=(0, 1), features__n_mels=16, **fields
    )
    detector.fit(clips.audio, ids=clips.machine_id)
    assert detector.decision_scores_.shape == (len(clips),)
    assert np.isfinite(detector.decision_scores_).all()
    assert detector.predict(new, ids="00")[1] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["isolation_forest", "one_class_svm"])
def test_scikit_learns_models_are_detectors_too(name, clips, new, tmp_path):
    detector = mimii_jax.Detector(name, features__n_mels=16)
    detector.fit(clips.audio, ids=clips.machine_id)
    scores = detector.decision_function(new, ids="00")
    assert scores[1] > detector.thresholds_["00"] > scores[0]
    assert detector.predict(new[:2], ids="00").tolist() == [0, 1]
    detector.save(tmp_path / "machine7")
    loaded = mimii_jax.load(tmp_path / "machine7")
    np.testing.assert_array_equal(loaded.decision_function(new, ids="00"), scores)
    np.testing.assert_array_equal(loaded.decision_scores_, detector.decision_scores_)
    assert loaded.thresholds_ == detector.thresholds_


def test_threads_agree_and_compile_once_per_number_of_pieces(fitted, new):
    compiled = []

    def count(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    expected = fitted.decision_function(new, ids="00")
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        with ThreadPoolExecutor(4) as pool:
            runs = [pool.submit(fitted.decision_function, new, "00") for _ in range(8)]
        for run in runs:
            assert np.array_equal(run.result(), expected)
        assert not compiled
        for length in (RATE, RATE - 1, RATE // 3):  # one piece each
            fitted.decision_function([new[0][:length]] * 5, ids="00")
        assert not compiled  # 5 pieces and 7, as of `new`, are filled up to 8
    finally:
        jax.monitoring.unregister_event_duration_listener(count)


def test_unusable_waves_and_fields_are_named(clips):
    detector = mimii_jax.Detector(**FIELDS)
    for wrong, message in (
        (np.full((3, RATE), np.nan), "NaN"),
        (np.zeros((3, RATE), np.int32), "int32"),
        (np.zeros(RATE), "1D array"),
        (clips.audio[:1], "1 sample"),
    ):
        with pytest.raises(ValueError, match=message):
            detector.fit(wrong)
    with pytest.raises(ValueError, match="3 ids for 40 recordings"):
        detector.fit(clips.audio, ids=["1", "2", "3"])
    with pytest.raises(ConfigError, match=r"train\.epochs"):
        mimii_jax.Detector(train__epochs=3).fit(clips.audio)
    with pytest.raises(ConfigError, match="mlp_va: no such config"):
        mimii_jax.Detector("mlp_va").fit(clips.audio)
    with pytest.raises(ConfigError, match="controls"):
        mimii_jax.Detector("controls").fit(clips.audio)


def test_the_last_step_of_a_pipeline(clips, new, fitted):
    halved = FunctionTransformer(lambda x: x / 32768)
    pipeline = make_pipeline(halved, mimii_jax.Detector(**FIELDS))
    pipeline.fit(clips.audio, detector__ids=clips.machine_id)
    waves = np.stack([new[0], new[1]])
    assert np.array_equal(
        pipeline.decision_function(waves), fitted.decision_function(waves)
    )


@pytest.mark.slow
def test_scikit_learns_checks():
    fields = {"features__name": "linear", "features__n_fft": 2, "features__hop": 1}
    detector = mimii_jax.Detector(
        **fields, detector__groups=("bands",), scoring__backend="mahalanobis"
    )
    found = check_estimator(detector, expected_failed_checks=EXCLUDED, on_skip=None)
    passed = [one["check_name"] for one in found if one["status"] == "passed"]
    assert len(passed) >= 35
    assert not set(passed) & set(EXCLUDED)
