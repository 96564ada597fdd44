"""The transformer in whole experiments: front ends, horizons, tracks."""

import itertools

import numpy as np
import pytest
from ml_collections import ConfigDict
from small_runs import again, trained

from configs import mlp_vae
from configs import transformer as transformer_config
from mimii_jax import run
from mimii_jax.errors import ConfigError
from mimii_jax.files import read_arrays
from mimii_jax.results.fusion import fuse
from mimii_jax.results.table import read_scores

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("no_figures")]


def small(root, **features):
    c = transformer_config.get_config("quick")
    c.seeds = (0, 1)
    c.data.root = str(root)
    c.features.hop, c.features.n_mels = 512, 8
    c.features.update(features)
    c.detector.width, c.detector.heads, c.detector.feed_forward = 8, 2, 16
    c.detector.encoder_layers = c.detector.decoder_layers = 1
    c.detector.patch = c.detector.stride = 4
    c.detector.likelihood, c.scoring.representation = "squared", "error"
    c.eval.bootstrap = 20
    return c


@pytest.fixture(scope="module")
def causal(recordings, tmp_path_factory):
    """The workdir of a small trained transformer."""
    workdir = tmp_path_factory.mktemp("causal") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "write_figures", lambda *_, **__: None)
        trained(small(recordings), workdir)
    return workdir


def of_detector(workdir, name="transformer"):
    table = read_scores(workdir / "scores.csv")
    return table[table.detector == name]


def test_a_trained_model_scores_at_every_horizon(recordings, causal):
    config = small(recordings)
    config.scorings = ConfigDict({"default": {}, "two": {"horizon": 2}})
    config.fuse_with = ()
    _, folder = again(config, causal)
    scores = [
        of_detector(causal),
        of_detector(causal, "transformer: free generation"),
        of_detector(folder, "transformer: two"),
    ]
    for one, other in itertools.combinations(scores, 2):
        assert not np.any(one.score == other.score)
    np.testing.assert_array_equal(of_detector(folder).score, scores[0].score)


def test_rows_are_fused_with_functionals(causal):
    table, normal = (read_scores(causal / f"{f}.csv") for f in ("scores", "normals"))
    rows = ["transformer", "transformer: free generation"]
    companion = ["functionals"]
    names = [*rows, *companion, *(f"{row} & functionals" for row in rows)]
    assert table.detectors[:5] == names
    assert normal.detectors == names
    expected = fuse(table, normal, ("transformer", "functionals"), "both")
    found = of_detector(causal, "transformer & functionals")
    order = np.lexsort((found.name, found.seed))
    again = np.lexsort((expected.name, expected.seed))
    np.testing.assert_array_equal(found.score[order], expected.score[again])


@pytest.mark.parametrize(
    "features", [{"name": "raw"}, {"name": "linear", "n_fft": 128}], ids=["raw", "lin"]
)
def test_it_takes_other_front_ends(recordings, tmp_path, features):
    workdir = tmp_path / "run"
    trained(small(recordings, **features), workdir)
    assert np.isfinite(of_detector(workdir).score).all()
    examples = read_arrays(workdir / "examples.npz")
    assert ("frequency" in examples) == (features["name"] == "linear")
    bins = 512 if features["name"] == "raw" else 65
    assert examples["slider/00/normal/features"].shape[1] == bins


@pytest.mark.parametrize("config", ["transformer", "mlp_vae"])
def test_the_mean_of_a_track_is_the_score_of_its_clip(
    config, recordings, causal, tmp_path
):
    workdir = causal
    if config == "mlp_vae":
        c = mlp_vae.get_config("quick")
        c.data.root, c.eval.bootstrap, c.seeds = str(recordings), 0, (0,)
        c.detector.hidden, c.features.n_mels = (8,), 8
        workdir = tmp_path / "run"
        trained(c, workdir)
    table, found = (
        read_scores(workdir / "scores.csv"),
        read_arrays(workdir / "examples.npz"),
    )
    names = [name.removesuffix("/track") for name in found if name.endswith("/track")]
    assert len(names) == 4  # a normal and an anomalous clip of two IDs
    for name in names:
        _, machine_id, kind = name.split("/")
        seconds, error = found[f"{name}/seconds"], found[f"{name}/track"]
        assert np.all(np.diff(seconds) > 0)
        assert 0 < seconds[0] < seconds[-1] < 1.05  # clips of one second
        label = int(kind == "anomalous")
        mine = (table.machine_id == machine_id) & (table.label == label)
        mine &= (table.detector == config) & (table.seed == 0)
        assert np.isclose(table.score[mine][0], error.mean(), rtol=1e-4)


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("scoring", "horizon", 0, "scoring.horizon=0: .* positive"),
        ("features", "hop", 20000, "features.hop=20000: .* 16000 samples"),
    ],
)
def test_what_does_not_fit_the_clips_is_one_line(
    recordings, tmp_path, section, field, value, message
):
    config = small(recordings)
    config.scorings, config.fuse_with = ConfigDict(), ()
    config[section][field] = value
    if section == "features":
        config.features.name = "raw"
    with pytest.raises(ConfigError, match=message) as error:
        trained(config, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
