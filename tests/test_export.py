"""Exported detectors score as the package does, without it."""

import ast
import io
import json
import runpy
import sys
import zipfile

import numpy as np
import pytest
from jax import export as jax_export
from small_clips import small_clips

import mimii_jax
from mimii_jax import export
from mimii_jax.results.metrics import median_and_spread
from mimii_jax.scorer import known_ids

SMALL = {"features__n_mels": 16}
NETWORK = {"detector__hidden": (16,), "detector__latent": 2, "train__epochs": 1}
CONV = {"detector__channels": (4, 8), "detector__strides": ((2, 2), (2, 2))}
CONV |= {"detector__latent": 2, "windows__width": 16, "train__epochs": 1}
FUSED = {"row": "transformer & functionals", "train__epochs": 1}
DETECTORS = {
    "functionals": ("functionals", {}),
    "back-ends": ("functionals", {"scoring__backend": "ldn+mahalanobis+lof+mean"}),
    "mlp_vae": ("mlp_vae", {**NETWORK, "seeds": (0, 1)}),
    "mlp_ae": ("mlp_ae", {**NETWORK, "scoring__backend": "knn", "seeds": (0,)}),
    "conv_vae": ("conv_vae", {**CONV, "seeds": (0,)}),
    "transformer": ("transformer:quick", {**FUSED, "seeds": (0, 1)}),
    "id_classifier": ("id_classifier:quick", {"train__epochs": 1, "seeds": (0,)}),
}


@pytest.fixture(scope="module")
def clips():
    return small_clips(train=30, test=3)


def learned(name, clips):
    config, fields = DETECTORS[name]
    if name == "back-ends":
        fields = {**fields, "detector__groups": ("bands",)}
    detector = mimii_jax.Detector(config, **SMALL, **fields)
    return detector.fit(clips.train.audio, ids=clips.train.machine_id)


def cases(detector, clips):
    """Float waves, places of IDs, expected scores and decisions; known IDs and not."""
    ids, known = clips.test.machine_id, known_ids(detector._judge)
    for machine_id in (ids, np.full(len(ids), "another")):
        places = [
            known.index(i if i in known else known[-1]) for i in machine_id.tolist()
        ]
        scores = detector.decision_function(clips.test.audio, ids=machine_id)
        decisions = detector.predict(clips.test.audio, ids=machine_id)
        waves = (clips.test.audio / 32768).astype(np.float32)
        yield waves, np.array(places, np.int32), scores, decisions


def spread_of(detector):
    """The unit of a z-score: the least spread of normal scores of an ID."""
    normals = detector._judge.normals
    return min(median_and_spread(normals.of(i))[1] for i in known_ids(detector._judge))


def same(found, scores, decisions, atol):
    np.testing.assert_allclose(found[0], scores, rtol=1e-5, atol=atol)
    assert np.array_equal(np.asarray(found[1]), decisions == 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
def test_scores_are_those_of_the_package(clips, name):
    detector = learned(name, clips)
    files = zipfile.ZipFile(io.BytesIO(export.export(detector._judge)))
    exported = jax_export.deserialize(bytearray(files.read(export.STABLEHLO)))
    # Scores near 0 have no digits of their own; LOF's are near 1 and vary by .01.
    atol = (5e-5 if name == "back-ends" else 1e-5) * spread_of(detector)
    for waves, places, scores, decisions in cases(detector, clips):
        same(exported.call(waves, places), scores, decisions, atol)
        one = exported.call(waves[:1], places[:1])
        same(one, scores[:1], decisions[:1], atol)
    nobody = np.full(len(waves), 99, np.int32)
    score, decision = exported.call(waves, nobody)
    assert np.isnan(score).all()
    assert np.asarray(decision).all()


def test_the_example_runs_on_jax_and_numpy_alone(clips, tmp_path, monkeypatch, capsys):
    functionals = mimii_jax.Detector(**SMALL, detector__groups=("bands",))
    functionals.fit(clips.train.audio, ids=clips.train.machine_id)
    functionals.save(tmp_path / "machine7")
    out = tmp_path / "machine7.zip"
    export.main(["--workdir", str(tmp_path / "machine7"), "--out", str(out)])
    with zipfile.ZipFile(out) as files:
        files.extractall(tmp_path / "unzipped")
    about = json.loads((tmp_path / "unzipped" / "about.json").read_text())
    assert about["ids"] == ["00", "02", ""]
    assert about["n_samples"] == clips.audio.shape[1]
    assert about["thresholds"][0] == functionals.thresholds_["00"]
    example = tmp_path / "unzipped" / "example.py"
    tree = ast.parse(example.read_text())
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported == {"json", "sys", "zipfile", "numpy", "jax"}
    waves = clips.test.audio / 32768
    np.save(tmp_path / "waves.npy", waves)
    monkeypatch.setattr(sys, "argv", ["x", str(out), str(tmp_path / "waves.npy"), "00"])
    capsys.readouterr()
    runpy.run_path(str(example))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    scores = functionals.decision_function(waves, ids="00")
    printed = [float(score) for score, _ in lines]
    np.testing.assert_allclose(printed, scores, rtol=1e-5, atol=1e-5)
    assert [d for _, d in lines] == [
        "anomaly" if flag else "normal" for flag in functionals.predict(waves, ids="00")
    ]


def test_what_is_scikit_learns_is_refused(clips, tmp_path, capsys):
    fields = {"detector__groups": ("bands",), "scoring__backend": "one_class_svm"}
    detector = mimii_jax.Detector(**SMALL, **fields)
    detector.fit(clips.train.audio, ids=clips.train.machine_id).save(tmp_path / "x")
    with pytest.raises(SystemExit):
        export.main(["--workdir", str(tmp_path / "x"), "--out", str(tmp_path / "z")])
    assert "can't be exported" in capsys.readouterr().err
    assert not (tmp_path / "z").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["functionals", "mlp_vae", "conv_vae"])
def test_onnx_models_score_as_the_package(clips, name):
    pytest.importorskip("jax2onnx")
    runtime = pytest.importorskip("onnxruntime")
    detector = learned(name, clips)
    session = runtime.InferenceSession(export.to_onnx(detector._judge))
    for waves, places, scores, decisions in cases(detector, clips):
        found = session.run(None, {"waves": waves, "ids": places})
        same(found, scores, decisions, atol=1e-3)
