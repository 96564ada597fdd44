"""Neural detectors: what they learn from, score, represent, explain and save."""

import json
import shutil
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from slowly import slow
from small_clips import RATE, small_clips

from mimii_jax import log
from mimii_jax.data.clips import hold_out
from mimii_jax.detectors.backends import Pooling, Scoring
from mimii_jax.detectors.fitted_neural import FittedNeural
from mimii_jax.detectors.neural import NeuralDetector
from mimii_jax.errors import ConfigError, DataError
from mimii_jax.features.front_ends import LogMel
from mimii_jax.features.windows import Windows
from mimii_jax.models.mlp import MLPAE, MLPVAE
from mimii_jax.models.model import ModelSpec
from mimii_jax.results.metrics import auc
from mimii_jax.train.runs import CheckpointPolicy, Run, Settings

CLIPS = small_clips()
NOTHING = CLIPS[:0]
SEEDS = (0, 1)
MELS, FRAMES = 32, 32
FRONT_END = LogMel(
    sample_rate=RATE,
    n_fft=1024,
    hop=512,
    n_mels=MELS,
    fmin=0.0,
    fmax=8000.0,
)
VAE = ModelSpec(MLPVAE, {"hidden": (16,), "latent": 4, "kl_weight": 0.5})
AE = {"hidden": (16,), "latent": 4, "offset": -30.0, "scale": 20.0}
MODELS = {"mlp_vae": VAE, "mlp_ae": ModelSpec(MLPAE, AE)}
SETTINGS = Settings(
    epochs=15, batch_size=64, learning_rate=1e-2, schedule="cosine", warmup=0.02
)
MEAN = Scoring("mean")
MAHALANOBIS = Scoring("mahalanobis", max_columns=None)


def neural(model=VAE, **changes):
    detector = NeuralDetector(
        FRONT_END, model, Windows(5), standardise=True, settings=SETTINGS, scoring=MEAN
    )
    return replace(detector, **changes)


def runs_on(n_clips, seeds=SEEDS):
    return [Run(seed, np.arange(n_clips), np.arange(0)) for seed in seeds]


def fitted(detector, clips=CLIPS.train, seeds=SEEDS, folder=None):
    return detector.fit(clips, NOTHING, runs_on(len(clips), seeds), folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of the model of `trained`."""
    return tmp_path_factory.mktemp("neural")


@pytest.fixture(scope="module")
def trained(folder):
    return fitted(neural(), folder=folder)


def test_a_detector_that_was_saved_scores_the_same_bits(trained, folder):
    before = trained.score(CLIPS.test)
    assert before.shape == (2, 12)
    loaded = replace(neural().load(folder, runs_on(0)), folder=None)
    again = loaded.score(CLIPS.test)  # by the models, since nothing is kept
    np.testing.assert_array_equal(again, before)
    assert not np.array_equal(before[0], before[1])  # a model per seed


@pytest.mark.parametrize("name", ["mlp_vae", slow("mlp_ae")])
def test_faults_score_higher(name, trained):
    if name != "mlp_vae":
        trained = fitted(neural(MODELS[name]))
    score = trained.score(CLIPS.test)
    assert min(auc(CLIPS.test.label, run) for run in score) == 1


@pytest.mark.slow
def test_the_level_of_an_id_changes_nothing_with_standardised_ids(tmp_path):
    """With one standardiser for all it does; unknown IDs have that of all clips."""
    louder = np.where(CLIPS.machine_id == "02", 4, 1).astype(np.int16)
    changed = replace(CLIPS, audio=CLIPS.audio * louder[:, None])
    settings = replace(SETTINGS, epochs=2)
    score = {}
    for per_id in (True, False):
        made = neural(standardise_ids=per_id, settings=settings)
        clips = (CLIPS, changed)
        score[per_id], again = (fitted(made, c.train).score(c.test) for c in clips)
        same = np.isclose(score[per_id], again, rtol=1e-3)
        assert same.all() if per_id else not same.any()
    unknown = replace(CLIPS.test, machine_id=np.full(12, "77"))
    own = neural(standardise_ids=True, settings=settings)
    made = fitted(own, CLIPS.train, folder=tmp_path)
    np.testing.assert_array_equal(made.score(CLIPS.test), score[True])
    assert made.detector.groups(unknown.machine_id).tolist() == [0] * 12
    assert not np.isclose(made.score(unknown), score[True]).any()


def test_held_out_clips_are_not_trained_on(tmp_path):
    """Garbage in their place changes nothing but the validation loss."""
    out = hold_out(CLIPS.train.machine_id, 0.34)
    assert out.sum() == 4
    train, held_out = CLIPS.train[~out], CLIPS.train[out]
    noise = np.random.default_rng(0).integers(-9999, 9999, (4, RATE), np.int16)
    runs = [Run(0, np.arange(8), np.arange(4))]
    found = []
    for name, clips in (("own", held_out), ("noise", replace(held_out, audio=noise))):
        log.open_metrics(tmp_path / name, {})
        made = neural().fit(train, clips, runs, None)
        log.close_metrics()
        last = json.loads((tmp_path / name).read_text().splitlines()[-1])
        found.append((made, last["train_loss"], last["val_loss"][0]))
    (one, train_loss, val_loss), (other, again, of_noise) = found
    for a, b in zip(*map(jax.tree.leaves, (one.models, other.models)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert train_loss == again
    assert abs(of_noise - val_loss) > 0.1 * val_loss


def test_a_run_learns_from_its_own_clips_alone():
    """And standardises by them: garbage in the clips of others changes nothing."""
    audio = CLIPS.train.audio.copy()
    audio[6:] = np.random.default_rng(0).integers(-9999, 9999, (6, RATE), np.int16)
    rows = [np.arange(6), np.arange(12), np.arange(2, 7)]
    runs = [Run(seed, own) for seed, own in zip((0, 0, 3), rows, strict=True)]
    first, second = (
        neural().fit(clips, NOTHING, runs, None).score(CLIPS.test)
        for clips in (CLIPS.train, replace(CLIPS.train, audio=audio))
    )
    np.testing.assert_array_equal(first[0], second[0])
    assert not np.array_equal(first[1], second[1])
    assert not np.array_equal(first[2], second[2])


@pytest.mark.parametrize("data", [None, 3])
def test_a_clip_is_scored_alike_whatever_stands_beside_it(data, trained):
    """Silence fills the last chunk, on one device or three."""
    detector = replace(trained, detector=neural(mesh=(None, data)))
    many = small_clips(test=18, length=RATE, seed=1).test  # 72 clips, two chunks
    score = detector.score(many)
    assert score.shape == (2, 72)
    np.testing.assert_array_equal(detector.score(many[65:]), score[:, 65:])
    np.testing.assert_array_equal(detector.score(many[:1]), score[:, :1])


def test_silence_has_a_finite_score_and_can_be_trained_on(trained):
    silent = replace(CLIPS.test, audio=np.zeros_like(CLIPS.test.audio))
    assert np.all(np.isfinite(trained.score(silent)))
    silent = replace(CLIPS.train, audio=np.zeros_like(CLIPS.train.audio))
    assert np.all(np.isfinite(fitted(neural(), silent).score(CLIPS.test)))


def test_another_back_end_needs_no_model(folder, trained, monkeypatch):
    """The vectors are kept, of normal clips and of those that were scored."""
    trained.score(CLIPS.test)
    monkeypatch.setattr(FittedNeural, "summarise", None)
    found = [
        neural(scoring=scoring).load(folder, runs_on(0)).score(CLIPS.test)
        for scoring in (MEAN, MAHALANOBIS, replace(MAHALANOBIS, backend="ldn"))
    ]
    for score in found:
        assert min(auc(CLIPS.test.label, run) for run in score) > 0.9
    assert not np.array_equal(found[1], found[2])


def test_a_finished_training_serves_other_vectors(folder, trained, tmp_path, capsys):
    """Without those of normal clips a load says how to make them."""
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    of_max = replace(MAHALANOBIS, pooling=Pooling("max"))
    latent = replace(MAHALANOBIS, representation="latent")
    with pytest.raises(ConfigError, match=r"scoring.backend='mahalanobis'.*train in"):
        neural(scoring=of_max).load(tmp_path, runs_on(0))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("[0-9]*")}
    scores = []
    for scoring in (of_max, latent):
        made = fitted(neural(scoring=scoring), folder=tmp_path)
        assert "Trained already" in capsys.readouterr().out
        scores.append(made.score(CLIPS.test))
        loaded = neural(scoring=scoring).load(tmp_path, runs_on(0))
        np.testing.assert_array_equal(loaded.score(CLIPS.test), scores[-1])
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.glob("[0-9]*")}
    assert not np.array_equal(*scores)


def test_damaged_vectors_of_test_clips_are_computed_again(trained, tmp_path):
    kept = replace(trained, folder=tmp_path)
    first = kept.score(CLIPS.test)
    (path,) = (tmp_path / "vectors").glob("*.npy")
    path.write_bytes(path.read_bytes()[:50])
    np.testing.assert_array_equal(kept.score(CLIPS.test), first)
    louder = replace(CLIPS.test, audio=CLIPS.test.audio + np.int16(1))
    assert not np.array_equal(kept.score(louder), first)  # other audio, same names


def test_normal_scores_are_those_of_clips_held_out():
    runs = [Run(0, np.arange(10), np.arange(2))]
    train, held_out = CLIPS.train[:10], CLIPS.train[10:]
    made = neural().fit(train, held_out, runs, None)
    (normal,) = made.normal_scores()
    assert normal.name.tolist() == held_out.name.tolist()
    np.testing.assert_allclose(normal.score, made.score(held_out)[0], rtol=1e-5)


def test_a_representation_that_a_model_lacks_is_named():
    for name, message in (
        ("hidden", "MLPVAE has no such"),
        ("nll", "detector.likelihood='gaussian'"),
    ):
        with pytest.raises(
            ConfigError, match=f"scoring.representation='{name}'.*{message}"
        ):
            neural(scoring=Scoring(representation=name)).check(RATE)


def test_the_mean_of_the_representation_is_the_score(trained):
    errors = trained.represent(CLIPS.test)
    assert errors.shape == (2, 12, FRAMES - 4, MELS)  # run, clip, window, mel
    score = trained.score(CLIPS.test)
    np.testing.assert_allclose(errors.mean(axis=(2, 3)), score, rtol=1e-5)
    assert trained.represent(NOTHING).shape == (2, 0, FRAMES - 4, MELS)
    assert trained.score(NOTHING).shape == (2, 0)


class Level(nnx.Module):
    """Predicts a level per bin, but none in the first segment of eight frames."""

    def __init__(self, shape, *, dtype, rngs):
        del dtype
        self.n_segments = shape[0] // 8 - 1
        self.level = nnx.Param(jax.random.normal(rngs.params(), shape[1:]))

    def loss(self, x, key):
        del key
        return jnp.mean(self.error(x), axis=(1, 2))

    def predict(self, x):
        silent = jnp.arange(x.shape[1])[None, :, None] < 8
        level = jnp.broadcast_to(self.level[...][None, None], x.shape)
        return jnp.where(silent, jnp.nan, level)

    def error(self, x):
        away = (x - self.level[...][None, None])[:, 8:] ** 2
        return away.reshape(len(x), self.n_segments, 8, -1).mean(axis=2)

    def segment_centres(self):
        return 12.0 + 8 * np.arange(self.n_segments)


WHOLE = ModelSpec(Level, {})


@pytest.mark.parametrize("whole", [False, True])
def test_an_explanation_has_the_errors_of_the_first_run(whole, trained):
    """Its track has the score as mean, its map the frames of windows side by side."""
    detector = fitted(neural(WHOLE, windows=Windows(None))) if whole else trained
    why = detector.explain(CLIPS.test)
    shape = (12, FRAMES, MELS)
    assert why.features.shape == why.expected.shape == why.error.shape == shape
    np.testing.assert_allclose(
        why.track.mean(axis=1), detector.score(CLIPS.test)[0], rtol=1e-4
    )
    scale = np.asarray(detector.models.standardiser.scale[0])
    by_hand = ((why.features - why.expected) / scale) ** 2
    np.testing.assert_allclose(why.error, by_hand, rtol=1e-5)
    assert np.isnan(why.expected[:, :8]).all() == whole
    assert np.isfinite(why.expected[:, 8:]).all()
    assert np.all(np.diff(why.seconds) > 0)
    assert why.seconds.shape == why.track.shape[1:]
    assert 0 < why.seconds[0] < why.seconds[-1] < 1.05  # clips of one second
    nothing = replace(detector, alive=np.zeros(2, bool))
    assert nothing.explain(CLIPS.test) is None
    assert np.isnan(nothing.score(CLIPS.test)).all()


def test_a_folder_of_other_runs_is_refused_and_left_alone(folder, trained, tmp_path):
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(ConfigError, match="another model or other runs"):
        neural().load(folder, runs_on(0, (0, 1, 2)))
    wider = ModelSpec(MLPVAE, {**VAE.fields, "latent": 5})
    with pytest.raises(ConfigError, match="another model or other runs"):
        neural(wider).load(folder, runs_on(0))
    assert sorted(path.name for path in folder.iterdir()) == before
    with pytest.raises(DataError, match=r"shape\.json: .*"):
        neural().load(tmp_path / "none", runs_on(0))


def test_detectors_are_compared_by_what_they_compute():
    assert neural() == neural()
    assert neural() == neural(mesh=(2, None), checkpoint=CheckpointPolicy(3))
    for other in (neural(scoring=MAHALANOBIS), neural(scoring_hop=2)):
        assert other != neural()
        assert other.training() == neural().training()
    wider = neural(ModelSpec(MLPVAE, {**VAE.fields, "latent": 5}))
    for other in (wider, neural(windows=Windows(4)), neural(standardise=False)):
        assert other != neural()
        assert other.training() != neural().training()


def test_pretrained_models_are_those_of_the_runs(trained):
    first, second = trained.pretrained()
    for i, one in enumerate((first, second)):
        mean = trained.models.standardiser.mean[i]
        np.testing.assert_array_equal(one.standardiser.mean, mean)
    kernel = ("encoder", 0, "kernel")
    assert first.params[kernel].shape == (5 * MELS, 16)
    assert not np.array_equal(first.params[kernel], second.params[kernel])
    runs = [Run(0, np.arange(12), pretrained=one) for one in (first, second)]
    tuned = neural().fit(CLIPS.train, NOTHING, runs, None)
    assert not np.array_equal(*tuned.score(CLIPS.test))


class Picky:
    def __init__(self, shape, *, width, depth=1, dtype=None, rngs=None):
        self.shape = sahpe


def test_the_fields_of_a_model_are_checked_by_name():
    with pytest.raises(ConfigError, match=r"detector.widht: unknown.* width, depth"):
        ModelSpec(Picky, {"widht": 3})
    with pytest.raises(ConfigError, match=r"detector.width: missing"):
        ModelSpec(Picky, {"depth": 3})
    with pytest.raises(NameError, match="sahpe"):  # a bug stays a bug
        ModelSpec(Picky, {"width": 3})((4,), rngs=nnx.Rngs(0))


def test_what_does_not_fit_the_clips_is_refused_before_any_work():
    neural().check(RATE)
    frozen = replace(SETTINGS, freeze=("encodr",))
    with pytest.raises(ConfigError, match=r"train.freeze.*encodr; its parts: decoder"):
        neural(settings=frozen).check(RATE)
    with pytest.raises(ConfigError, match="JAX has 8 devices"):
        neural(mesh=(9, 1)).check(RATE)


def test_scoring_again_compiles_nothing():
    traces = []

    class Counted(MLPVAE):
        def error(self, x):
            traces.append(x.shape)
            return super().error(x)

    brief = replace(SETTINGS, epochs=1)
    detector = fitted(neural(ModelSpec(Counted, VAE.fields), settings=brief))
    first = detector.score(CLIPS.test)  # in one chunk, as its normal clips were
    count = len(traces)
    np.testing.assert_array_equal(detector.score(CLIPS.test), first)
    assert len(traces) == count > 0
