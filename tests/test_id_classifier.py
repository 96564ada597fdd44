"""The ID classifier: its embedding, transforms, mixing, training and scores."""

import json
from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_clips import RATE, small_clips
from small_runs import again, small, trained
from training import leaves

from configs import id_classifier
from mimii_jax import log, run
from mimii_jax.config import build
from mimii_jax.data import dcase
from mimii_jax.data.clips import COLUMNS, NORMAL
from mimii_jax.errors import ConfigError
from mimii_jax.features.windows import Standardiser, Windows
from mimii_jax.models.id_classifier import (
    TRANSFORMS,
    IDClassifier,
    mix,
    transform,
)
from mimii_jax.results.table import read_scores
from mimii_jax.simulated.simulate import simulate
from mimii_jax.train.checkpoints import Checkpoints
from mimii_jax.train.loop import Features, train_runs
from mimii_jax.train.mesh import make_mesh, replicate
from mimii_jax.train.runs import CheckpointPolicy, Labels, Run, Settings
from mimii_jax.workdir import Workdir

FRAMES, MELS, SPECTRUM, IDS = 8, 8, 2, 3
SETTINGS = Settings(4, 4, 1e-2, "constant", 0.0, weight_decay=0.01)
FIELDS = {
    "channels": (8,),
    "blocks": 1,
    "spectrum_bins": SPECTRUM,
    "spectrum_channels": 8,
    "embedding": 4,
    "loss": "sub_adacos",
    "centres": 2,
    "scale": None,
    "margin": 0.5,
    "mixup": 0.5,
    "transforms": None,
    "n_classes": IDS,
}


def classifier(rngs=None, **changes):
    """Model with NumPy's random numbers: JAX's take a second per shape to compile."""
    fields = FIELDS | changes
    shape = (FRAMES, MELS + fields["spectrum_bins"])
    model = nnx.eval_shape(lambda: IDClassifier(shape, **fields, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)

    def filled(leaf):
        if leaf.ndim == 1:
            return jnp.ones(leaf.shape)  # the classes that are present
        draw = rng.normal(size=leaf.shape) / np.prod(leaf.shape[:-1]) ** 0.5
        return jnp.asarray(draw, jnp.float32)

    graph, state = nnx.split(model)
    return nnx.merge(graph, jax.tree.map(filled, state))


def examples(n=5, spectrum=SPECTRUM, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, FRAMES, MELS + spectrum))
    return jnp.asarray(x, jnp.float32)


def test_embeddings_have_unit_norm_and_halves_of_equal_weight():
    embedding, x = jax.jit(classifier().embedding), examples()
    found = np.asarray(embedding(x))
    assert found.shape == (5, 1, 8)
    np.testing.assert_allclose(np.linalg.norm(found, axis=2), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found[..., :4], axis=2) ** 2, 0.5, 1e-5)
    assert np.ptp(found[:, 0], axis=0).min() > 0.01
    for i in range(3):  # no other clip has a part in it
        alone = x.at[:].set(1e3).at[i].set(x[i])
        np.testing.assert_allclose(embedding(alone)[i], found[i], 1e-4, 1e-6)


def test_nothing_before_the_embedding_can_be_constant():
    """No parameter is a bias: the branches send zero to zero."""
    model = classifier()
    assert not np.any(jax.jit(model.embed)(0 * examples()))
    names = {path[-1] for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    assert names == {"kernel", "centres"}


def test_transforms_are_what_they_are_called():
    x = examples(len(TRANSFORMS))[..., :MELS]
    x = jnp.tile(x[:1], (len(TRANSFORMS), 1, 1))
    found = dict(zip(TRANSFORMS, transform(x, jnp.arange(len(x))), strict=True))
    np.testing.assert_array_equal(found["none"], x[0])
    np.testing.assert_array_equal(found["reversed"], x[0, ::-1])
    np.testing.assert_array_equal(found["higher"][:, 1:], x[0, :, :-1])
    np.testing.assert_array_equal(found["lower"][:, :-1], x[0, :, 1:])
    for name, kept, faded in (("low", 0, -1), ("high", -1, 0)):
        np.testing.assert_array_equal(found[name][:, kept], x[0, :, kept])
        np.testing.assert_allclose(found[name][:, faded], x[0, :, faded] - 3, 1e-5)


def test_examples_are_mixed_with_their_labels_and_never_with_padding():
    n = 200
    x, target = jnp.arange(n + 3.0), jax.nn.one_hot(jnp.arange(n + 3), n + 3)
    x = jnp.where(x < n, x, jnp.inf)[:, None, None]
    with jax.debug_nans(False):
        mixed, label = mix(jax.random.key(0), 0.5, x, target, n)
    mixed, label = np.asarray(mixed)[:n, 0, 0], np.asarray(label)[:n]
    np.testing.assert_allclose(label.sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(label[:, :n] @ np.arange(n), mixed, rtol=1e-4, atol=0.1)
    share = 1 - label[np.arange(n), np.arange(n)]
    assert 0.4 < np.mean(share > 0) < 0.6
    assert 0.4 < share[share > 0].mean() < 0.6
    alone, _ = mix(jax.random.key(0), 0.0, x[:n], target[:n], n)
    np.testing.assert_array_equal(alone, x[:n])


@pytest.mark.parametrize(
    ("ids", "transforms", "n"), [(3, 6, 18), (5, 6, 30), (6, 1, 6)]
)
def test_few_ids_have_their_transforms_as_further_classes(ids, transforms, n):
    model = classifier(n_classes=ids)
    assert model.n_transforms == transforms
    assert model.centres.shape[0] == n
    assert jax.eval_shape(model.nll, examples()).shape == (5, 1, ids)


@pytest.mark.parametrize(
    ("field", "value"),
    [("channels", (8, 12)), ("blocks", 0), ("spectrum_bins", 99), ("mixup", 1.5)],
)
def test_bad_fields_are_named(field, value):
    fields = FIELDS | {field: value}
    with pytest.raises(ConfigError, match=f"detector.{field}="):
        IDClassifier((FRAMES, MELS + SPECTRUM), **fields, rngs=nnx.Rngs(0))


# training

CLASS = np.arange(9) % IDS
RUNS = [
    Run(0, np.arange(9), changes={"present": np.ones(3)}),
    Run(1, np.flatnonzero(CLASS != 1), changes={"present": np.array([1, 0, 1])}),
]


def train(runs=RUNS, mesh=(1, 1), group=1, checkpoints=None):
    """Train on nine clips of three IDs, each with a level at its own bins."""
    x = np.array(examples(9, spectrum=0))
    for i, label in enumerate(CLASS):
        x[i, :, 2 * label : 2 * label + 3] += 3
    mesh = make_mesh(len(runs), *mesh)
    array = replicate(x, mesh)
    same = [Standardiser.identity(MELS)] * len(runs)
    features = Features(array, array[:2], same, Labels(CLASS, CLASS[:2]))
    return train_runs(
        partial(classifier, spectrum_bins=0, embedding=8),
        Windows(None),
        features,
        SETTINGS,
        runs,
        mesh,
        checkpoints,
        group=group,
    )


@cache
def together():
    return train()


@pytest.mark.slow
def test_a_run_among_others_equals_the_run_alone():
    """Though its clips have two of the three IDs."""
    _, many = together()
    _, one = train(RUNS[1:])
    for a, b in zip(leaves(many), leaves(one), strict=True):
        np.testing.assert_array_equal(a[1:], b)


@pytest.mark.slow
def test_several_devices_give_the_same_models():
    """A batch of four is padded to six, and a group of one run to two."""
    _, spread = train(mesh=(2, 3), group=None)
    for a, b in zip(leaves(spread.params), leaves(together()[1].params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_a_training_that_was_stopped_ends_with_the_same_bits(tmp_path):
    saved = Checkpoints(tmp_path, CheckpointPolicy(every_steps=1))
    due = saved.due

    def stop(step):
        log.request_stop()
        return due(step)

    saved.due = stop
    with pytest.raises(log.Interrupted):
        train(checkpoints=saved)
    saved.close()
    saved = Checkpoints(tmp_path, CheckpointPolicy())
    assert 0 < saved.latest < 12
    _, resumed = train(checkpoints=saved)
    saved.close()
    for a, b in zip(leaves(resumed), leaves(together()[1]), strict=True):
        np.testing.assert_array_equal(a, b)


def test_centres_of_ids_that_a_run_lacks_stay_as_they_were():
    _, state = together()
    decayed = (1 - 1e-2 * 0.01) ** 8  # steps of the second run
    before = np.asarray(classifier(spectrum_bins=0, embedding=8).centres[...])
    after = np.asarray(state.params["centres"][...][1])
    np.testing.assert_allclose(after[6:12], before[6:12] * decayed, rtol=1e-4)
    assert np.abs(after - before)[np.r_[:6, 12:18]].max(-1).min() > 1e-3


# sound


def small_config(root):
    c = small(id_classifier, root=root)
    c.seeds = (0, 1)
    c.features.spectrum_bins = 2
    c.detector.channels = (8,)
    c.data.validation_fraction = 0.2
    c.train.epochs, c.train.learning_rate = 40, 1e-2
    return c


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Workdir of a training on two IDs, of which one whistles."""
    folder = tmp_path_factory.mktemp("classifier")
    dcase.write(whistling(small_clips()), folder / "clips")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("write_figures", "write_report"):
            patch.setattr(run, name, lambda *_, **__: None)
        trained(small_config(folder / "clips"), folder / "run")
    return folder / "run"


def whistling(clips):
    tone = 800 * np.sin(2 * np.pi * 1500 * np.arange(RATE) / RATE)
    whistles = (clips.machine_id == "02")[:, None]
    return replace(clips, audio=(clips.audio + whistles * tone).astype(np.int16))


def loaded(workdir, scoring=("+ldn", "")):
    """The detector of a scoring; its vectors aren't read from the workdir."""
    experiment = build(Workdir(workdir).read_config())
    detector = experiment.scorings[scoring]
    runs = [Run(seed, np.arange(0)) for seed in experiment.seeds]
    fitted = detector.load(Workdir(workdir).checkpoints("slider"), runs)
    return replace(fitted, folder=None)


@pytest.mark.slow
def test_its_rows_are_two_distances_and_the_control(workdir, no_figures):
    scores = read_scores(workdir / "scores.csv")
    rows = {f"id_classifier{end}" for end in ("+ldn", "+mahalanobis", ": nll")}
    assert rows <= set(scores.detectors)
    rows = [json.loads(s) for s in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert np.all(np.array(rows[-1]["val_loss"]) < rows[0]["val_loss"])
    printed, _ = again(Workdir(workdir).read_config(), workdir)
    assert "Scores are identical" in printed


@pytest.mark.slow
def test_clips_have_unit_embeddings_and_scores_of_their_own(workdir):
    detector, clips = loaded(workdir), whistling(small_clips()).test
    found = detector.represent(clips)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, rtol=1e-5)
    score = detector.score(clips)
    np.testing.assert_array_equal(detector.score(clips[5:7]), score[:, 5:7])


@pytest.mark.slow
def test_ids_are_told_apart(workdir):
    """Normal clips that the training never had."""
    clips = whistling(small_clips(seed=5))
    nll = loaded(workdir, ("", "nll")).represent(clips[clips.label == NORMAL])[:, :, 0]
    own = np.searchsorted(clips.ids, clips.machine_id[clips.label == NORMAL])
    assert np.mean(np.argmin(nll, axis=2) == own[None]) > 0.8


def test_a_front_end_without_the_spectrum_or_with_windows_is_refused():
    c = id_classifier.get_config("quick")
    c.features.name = "log_mel"
    with pytest.raises(ConfigError, match=r"detector.spectrum_bins=32: must be"):
        build(c).detector.check(RATE)
    c = id_classifier.get_config("quick")
    c.windows.width = 16
    with pytest.raises(ConfigError, match=r"windows.width=16: must be None"):
        build(c).detector.check(RATE)


def test_a_single_id_without_transforms_is_refused():
    c = id_classifier.get_config("quick")
    c.detector.transforms = False
    clips = small_clips(ids=("00",)).train
    with pytest.raises(ConfigError, match=r"single ID .*detector.transforms=True"):
        build(c).detector.fit(clips, clips[:0], [Run(0, np.arange(6))], None)


@pytest.mark.slow
def test_real_clips_are_told_from_simulated_ones(real_sample):
    """Three simulated machines are the further classes.

    Whether the six test clips are in order isn't asserted: they aren't. After 80 steps
    of channels (8, 16, 32) their AUC was .22 by ldn, .11 by mahalanobis, .56 by nll.
    """
    c = id_classifier.get_config()
    c.data.root = str(real_sample)
    c.detector.channels, c.train.epochs = (8, 16), 10
    experiment = build(c)
    real = experiment.data.load("slider")
    simulated = simulate(("00", "02", "04"), scale=0.04, test_share=0.01).clips.train
    parts = [real.train, simulated]
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("audio", *COLUMNS)
    }
    of_simulated = np.char.add("simulated ", simulated.machine_id)
    columns["machine_id"] = np.append(["real"] * len(real.train), of_simulated)
    train = replace(real.train, **columns)
    runs = [Run(0, np.arange(len(train)))]
    detector = experiment.scorings["", "nll"].fit(train, train[:0], runs, None)
    nll = detector.represent(real.test)[0, :, 0]
    assert np.all(np.argmin(nll, axis=1) == train.ids.index("real"))
