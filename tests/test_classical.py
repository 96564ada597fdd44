"""scikit-learn detectors: what they learn from, what they score, what they save."""

from dataclasses import replace
from functools import cache

import jax.numpy as jnp
import numpy as np
import pytest
from slowly import slow
from small_clips import RATE, small_clips

from configs import isolation_forest, one_class_svm
from mimii_jax import log
from mimii_jax.config import build
from mimii_jax.detectors import classical
from mimii_jax.errors import DataError
from mimii_jax.features.windows import Standardiser
from mimii_jax.results.metrics import auc
from mimii_jax.train.runs import Run

CLIPS = small_clips()
SEEDS = (0, 1)
NONE = np.arange(0)
KINDS = {
    "forest": (isolation_forest, "default"),
    "forest_windows": (isolation_forest, "windows"),
    "svm": (one_class_svm, "default"),
    "svm_linear": (one_class_svm, "linear"),
    "svm_exact": (one_class_svm, "exact"),
}


def detector(kind, **sections):
    module, variant = KINDS[kind]
    c = module.get_config(variant)
    c.features.n_mels = 32
    if kind == "forest_windows":
        c.detector.n_estimators = 10
    for section, fields in sections.items():
        c[section].update(fields)
    return build(c).detector


def on_all(clips, seeds=SEEDS):
    return [Run(seed, np.arange(len(clips)), NONE) for seed in seeds]


def fit(kind, clips=CLIPS.train, seeds=SEEDS, folder=None, **sections):
    made = detector(kind, **sections)
    return made.fit(clips, clips[:0], on_all(clips, seeds), folder)


@cache
def fitted(kind):
    return fit(kind)


@pytest.mark.parametrize(
    "kind", [slow(kind) if "forest" in kind else kind for kind in KINDS]
)
def test_a_saved_detector_scores_the_same_bits_as_another_fit(kind, tmp_path):
    first = fitted(kind).score(CLIPS.test)
    assert first.shape == (2, 12)
    np.testing.assert_array_equal(fit(kind, folder=tmp_path).score(CLIPS.test), first)
    loaded = fit(kind, CLIPS.train[:2], folder=tmp_path)  # it is fitted already
    np.testing.assert_array_equal(loaded.score(CLIPS.test), first)
    alone = fit(kind, seeds=(1,)).score(CLIPS.test)
    np.testing.assert_array_equal(alone[0], first[1])
    same = np.array_equal(first[0], first[1])
    assert same == (kind == "svm_exact")  # its solution is unique


def test_a_damaged_model_is_named(tmp_path):
    (tmp_path / classical.MODEL).write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"models\.skops: damaged .* fit again"):
        detector("forest").load(tmp_path, on_all(NONE))


@pytest.mark.parametrize("field", ["left_child", "feature"])
def test_a_tree_that_points_outside_is_refused(field, tmp_path):
    """scikit-learn would read other memory, or crash."""
    made = fit("forest", seeds=(0,))
    tree = made.models[0].estimators_[0].tree_
    state = tree.__getstate__()
    state["nodes"][field][0] = 10**6
    tree.__setstate__(state)
    made.save(tmp_path)
    with pytest.raises(DataError, match=r"models\.skops: damaged"):
        detector("forest").load(tmp_path, on_all(NONE, (0,)))


@pytest.mark.parametrize(
    ("kind", "least"),
    [("forest", 0.8), slow("forest_windows", 1), ("svm", 1), ("svm_exact", 1)],
)
def test_faults_score_higher(kind, least):
    """A forest has little to isolate with from 12 examples of 1,024 numbers."""
    score = fitted(kind).score(CLIPS.test)
    assert min(auc(CLIPS.test.label, run) for run in score) >= least


def test_the_level_of_an_id_changes_nothing_with_standardised_ids(tmp_path):
    louder = np.where(CLIPS.machine_id == "02", 4, 1).astype(np.int16)
    changed = replace(CLIPS, audio=CLIPS.audio * louder[:, None])
    own = replace(detector("svm"), standardise_ids=True)
    score = []
    for clips in (CLIPS, changed):
        folder, runs = tmp_path / str(len(score)), on_all(clips.train, (0,))
        made = own.fit(clips.train, clips[:0], runs, folder)
        score.append(made.score(clips.test))
        again = own.load(folder, runs).score(clips.test)
        np.testing.assert_array_equal(again, score[-1])
    np.testing.assert_allclose(*score, rtol=1e-3)


@pytest.mark.parametrize("kind", [slow("forest_windows"), "svm"])
def test_a_score_is_minus_that_of_scikit_learn(kind):
    """On examples that NumPy makes from the front end's frames."""
    made, clip = fitted(kind), CLIPS.test[:1]
    frames = made.detector.front_end(jnp.float32(clip.audio[0]) / 32768)
    frames = np.asarray(made.standardisers[0].apply(frames))
    width = made.detector.windows.width_in(len(frames))
    x = [frames[i : i + width].ravel() for i in range(len(frames) - width + 1)]
    represented = made.represent(clip)
    assert represented.shape == (2, 1, len(x), 1)
    for model, score in zip(made.models, made.score(clip), strict=True):
        expected = -np.mean(model.score_samples(np.array(x)))
        np.testing.assert_allclose(score, expected, rtol=1e-4)


@pytest.mark.slow
def test_more_windows_than_wanted_are_subsampled_by_the_seed(monkeypatch):
    monkeypatch.setattr(classical, "MAX_EXAMPLES", 50)
    with log.console.capture() as printed:
        made = fit("forest_windows")
    assert "seed 1: fitted to 50 of 336 windows" in printed.get()
    numbered = jnp.arange(12.0 * 32).reshape(12, 32, 1)
    frames = jnp.broadcast_to(numbered, (12, 32, 32))
    features = classical.Features(frames, np.zeros(12, np.int32))
    runs, same = on_all(CLIPS.train), Standardiser.identity(32)
    first, again, other = (
        made.detector._examples(features, runs[s], same) for s in (0, 0, 1)
    )
    assert first.shape == (50, 160)
    assert len(np.unique(first, axis=0)) == 50  # none twice
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("kind", ["svm", "forest"])
def test_digital_silence_has_a_finite_score(kind):
    silent = replace(CLIPS.test, audio=np.zeros_like(CLIPS.test.audio))
    assert np.all(np.isfinite(fitted(kind).score(silent)))


def test_a_run_learns_from_its_own_clips_alone():
    """And standardises by them: garbage in the clips of others changes nothing."""
    audio = CLIPS.train.audio.copy()
    audio[6:] = np.random.default_rng(0).integers(-9999, 9999, (6, RATE), np.int16)
    rows = ((0, np.arange(6)), (0, np.arange(12)), (3, np.arange(2, 7)))
    runs = [Run(seed, own, NONE) for seed, own in rows]
    made = detector("svm", features={"standardise": True})
    first, second = (
        made.fit(clips, clips[:0], runs, None).score(CLIPS.test)
        for clips in (CLIPS.train, replace(CLIPS.train, audio=audio))
    )
    np.testing.assert_array_equal(first[0], second[0])
    assert not np.array_equal(first[1], second[1])
    assert not np.array_equal(first[2], second[2])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["forest_windows", "svm"])
def test_normal_clips_are_scored_by_models_that_were_not_fitted_to_them(kind, tmp_path):
    clips = small_clips(train=15).train
    made, fold = detector(kind), np.arange(30) % 10
    of_fold = fit(kind, clips, folder=tmp_path).normal_scores()
    for run, seed in enumerate(SEEDS):
        assert of_fold[run].name.tolist() == clips.name.tolist()
        rest = [Run(seed, np.flatnonzero(fold != 3))]
        others = made.fit(clips, clips[:0], rest, None).score(clips[fold == 3])[0]
        # But for the scale, which is that of the model of all clips.
        found = of_fold[run].score[fold == 3]
        slope, offset = np.polyfit(others, found, 1)
        assert slope > 0
        np.testing.assert_allclose(found, slope * others + offset, rtol=1e-5)
    again = made.load(tmp_path, on_all(clips)).normal_scores()
    np.testing.assert_array_equal(again[1].score, of_fold[1].score)

    own, held_out = CLIPS.train[:9], CLIPS.train[9:]
    known = made.fit(own, held_out, [Run(0, np.arange(9), np.arange(1, 3))], None)
    (normal,) = known.normal_scores()
    assert normal.name.tolist() == held_out.name[1:].tolist()
    expected = known.score(held_out)[0, 1:]
    np.testing.assert_allclose(normal.score, expected, rtol=1e-5)
