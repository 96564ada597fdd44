"""The detector of functionals: what it compares with what, and what it keeps."""

from dataclasses import replace

import numpy as np
import pytest
from slowly import slow
from small_clips import RATE, small_clips

from configs import functionals
from mimii_jax import run
from mimii_jax.config import build
from mimii_jax.data import dcase
from mimii_jax.detectors.functionals import Functionals, default_functionals
from mimii_jax.detectors.vectors import FOLDER
from mimii_jax.errors import ConfigError, DataError
from mimii_jax.results.metrics import auc
from mimii_jax.train.runs import Run

CLIPS = small_clips(train=12)
NONE = np.arange(0)
GROUPS = ("bands", "descriptors", "modulation")


def detector(**sections):
    c = functionals.get_config()
    c.features.n_mels = 32
    for section, fields in sections.items():
        c[section].update(fields)
    return build(c).detector


def on_all(clips, seeds=(0,)):
    return [Run(seed, np.arange(len(clips)), NONE) for seed in seeds]


def fit(clips=CLIPS.train, folder=None, runs=None, held_out=None, **sections):
    held_out = clips[:0] if held_out is None else held_out
    made = detector(**sections)
    return made.fit(clips, held_out, runs or on_all(clips), folder)


@pytest.mark.parametrize("groups", [GROUPS, *(slow((name,)) for name in GROUPS)])
def test_faults_score_higher(groups):
    (score,) = fit(detector={"groups": groups}).score(CLIPS.test)
    assert auc(CLIPS.test.label, score) > 0.9


def test_the_score_is_the_mean_of_the_groups():
    whole, *parts = (
        fit(scoring={"groups": groups}).score(CLIPS.test)
        for groups in ((), *((name,) for name in GROUPS))
    )
    np.testing.assert_allclose(whole, np.mean(parts, axis=0), rtol=1e-6)


def test_normal_scores_are_around_zero():
    more = small_clips(train=12, test=20, seed=1).test
    (score,) = fit().score(more[more.label == 0])
    assert abs(np.median(score)) < 2


def test_vectors_are_those_of_the_groups_side_by_side():
    made = fit(runs=on_all(CLIPS.train, (0, 1)))
    vectors = made.detector.extract(CLIPS.test)
    joined = np.concatenate([vectors[name] for name in GROUPS], axis=1)
    represented = made.represent(CLIPS.test)
    assert represented.shape == (2, 12, 1, 5 * 32 + 80 + 12 * 32)
    np.testing.assert_array_equal(represented[1, :, 0], joined)
    assert not made.pretrained()


def test_bins_and_frames_explain_a_fault():
    burst = CLIPS.test[CLIPS.test.label == 0][:2]
    time = np.arange(RATE) / RATE
    audio = burst.audio.copy()
    tone = 3000 * np.sin(2 * np.pi * 3000 * time) * (abs(time - 0.7) < 0.05)
    audio[0] += tone.astype(np.int16)
    made = fit()
    why = made.explain(replace(burst, audio=audio))
    hertz = made.detector.front_end.frequencies
    assert abs(why.seconds[np.argmax(why.track[0])] - 0.7) < 0.1
    assert hertz[np.argmax(why.bins[0])] == pytest.approx(3000, rel=0.15)
    assert hertz[np.argmax(why.error[0].sum(0))] == pytest.approx(3000, rel=0.15)
    assert why.bins[0].max() > 2 * why.bins[1].max()
    np.testing.assert_allclose(why.track, why.error.mean(axis=2))
    # Normal clips themselves are as expected, in every bin.
    own = made.explain(CLIPS.train)
    assert np.median(own.bins) < 1
    assert fit(detector={"groups": ("modulation",)}).explain(burst) is None


def test_loaded_banks_score_the_same_bits(tmp_path):
    before = fit(folder=tmp_path).score(CLIPS.test)
    loaded = detector().load(tmp_path, on_all(NONE))
    np.testing.assert_array_equal(loaded.score(CLIPS.test), before)
    again = fit(CLIPS.train[:4], folder=tmp_path)  # it is fitted already
    np.testing.assert_array_equal(again.score(CLIPS.test), before)
    other = detector(scoring={"backend": "mahalanobis"}).load(tmp_path, on_all(NONE))
    assert not np.array_equal(other.score(CLIPS.test), before)
    with pytest.raises(DataError, match=r"bands\.npz: 1 runs instead of 2"):
        detector().load(tmp_path, on_all(NONE, (0, 1)))


def test_known_vectors_are_not_extracted_again(tmp_path, monkeypatch):
    before = fit(folder=tmp_path).score(CLIPS.test)
    monkeypatch.setattr(Functionals, "extract", None)
    loaded = detector().load(tmp_path, on_all(NONE))
    np.testing.assert_array_equal(loaded.score(CLIPS.test), before)


def test_a_normal_clip_is_scored_as_if_it_were_not_in_the_bank():
    (normal,) = fit().normal_scores()
    assert normal.name.tolist() == CLIPS.train.name.tolist()
    train, ids = CLIPS.train, CLIPS.train.machine_id
    (without,) = fit(train[np.arange(len(train)) != 3]).score(train[3:4])
    spread = np.ptp(normal.score[ids == ids[3]])
    assert normal.score[3] == pytest.approx(without[0], abs=0.5 * spread)
    (inside,) = fit().score(train[3:4])
    assert normal.score[3] > inside[0]  # a clip in the bank is its own neighbour


def test_the_default_is_that_of_the_config():
    assert build(functionals.get_config()).detector == default_functionals(16000)


def test_damaged_vectors_are_named(tmp_path):
    fit(folder=tmp_path)
    for content in (b"no zip", b""):
        (tmp_path / FOLDER / "bands.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"bands\.npz: damaged .* remove it"):
            detector().load(tmp_path, on_all(NONE))


def test_a_run_compares_with_its_own_clips_alone():
    """Garbage in the clips of others changes nothing; validation clips count."""
    audio = CLIPS.train.audio.copy()
    audio[12:] = np.random.default_rng(0).integers(-9999, 9999, (12, RATE), np.int16)
    spoilt = replace(CLIPS.train, audio=audio)
    runs = [Run(0, np.arange(12), NONE), Run(0, np.arange(24), NONE)]
    first, second = (
        fit(clips, runs=runs).score(CLIPS.test) for clips in (CLIPS.train, spoilt)
    )
    np.testing.assert_array_equal(first[0], second[0])
    assert not np.array_equal(first[1], second[1])
    halves = [Run(0, np.arange(12), np.arange(12))]
    split = fit(CLIPS.train[:12], held_out=CLIPS.train[12:], runs=halves)
    np.testing.assert_array_equal(split.score(CLIPS.test)[0], first[1])


def test_an_id_is_compared_with_its_own_bank_and_an_unknown_one_with_all():
    other = replace(CLIPS.test, machine_id=np.full(12, "06"))
    own, of_all = fit(), fit(scoring={"per_id": False})
    np.testing.assert_allclose(
        own.score(other), of_all.score(CLIPS.test), rtol=1e-5, atol=1e-5
    )
    assert not np.allclose(own.score(CLIPS.test), of_all.score(CLIPS.test), atol=0.1)


@pytest.mark.parametrize("value", [0, 100, -32768])
def test_constant_clips_have_finite_scores(value):
    audio = np.full_like(CLIPS.test.audio, value)
    assert np.all(np.isfinite(fit().score(replace(CLIPS.test, audio=audio))))
    same = replace(CLIPS.train, audio=np.full_like(CLIPS.train.audio, value))
    assert np.all(np.isfinite(fit(same).score(CLIPS.test)))


@pytest.mark.parametrize(
    ("section", "fields", "named"),
    [
        ("detector", {"groups": ()}, "detector.groups"),
        ("detector", {"groups": ("bands", "nope")}, "detector.groups"),
        ("detector", {"groups": ("bands", "bands")}, "detector.groups"),
        ("detector", {"groups": ("bands",)}, ""),
        ("scoring", {"groups": ("nope",)}, "scoring.groups"),
        ("scoring", {"backend": "nope"}, "scoring.backend"),
        ("features", {"name": "raw"}, "features.name"),
    ],
)
def test_bad_fields_are_named(section, fields, named):
    if not named:
        assert detector(**{section: fields}).counted == ("bands",)
        return
    with pytest.raises(ConfigError, match=named):
        detector(**{section: fields})


def test_clips_that_are_too_short_are_refused():
    detector().check(2048)
    with pytest.raises(ConfigError, match="too short"):
        detector().check(512)


def test_scoring_is_no_part_of_the_training():
    assert detector(scoring={"groups": ("bands",)}).training() == detector().training()
    fewer = detector(detector={"groups": ("bands",)})
    assert fewer.training() != detector().training()


def test_a_workdir_has_a_row_per_group_and_evaluates_to_the_same_scores(
    recordings, tmp_path, no_figures
):
    c = functionals.get_config("groups")
    c.data.root, c.features.n_mels, c.eval.bootstrap = str(recordings), 16, 10
    table = run.train(c, tmp_path / "run")
    rows = {f"functionals: {name}" for name in ("fused", *GROUPS)}
    assert rows < set(table.detector.tolist())
    again = run.evaluate(None, tmp_path / "run", tmp_path / "again")
    assert run.same_scores(table, again)


@pytest.mark.slow
@pytest.mark.parametrize("groups", [GROUPS, *((name,) for name in GROUPS)])
def test_faults_of_a_real_slide_rail_score_higher(real_sample, groups):
    clips = _real(real_sample)
    c = functionals.get_config()
    c.scoring.groups = groups
    made = build(c).detector
    fitted = made.fit(clips.train, clips.train[:0], on_all(clips.train), None)
    (score,) = fitted.score(clips.test)
    assert auc(clips.test.label, score) == 1


def _real(root):
    return dcase.read(
        root,
        "slider",
        (),
        splits=("train", "test"),
        on_bad_file="error",
        labels={},
        test_normals=None,
    )
