import re
import sys
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.benchmarks import (
    files,
    front_end,
    latency,
    memory,
    peers,
    rounds,
    scale,
    score,
    train,
)
from mimii_jax.named import load_config, set_fields

QUICK = ["--rounds", "1", "--spare", "0", "--patience", "0"]
needs_torch = pytest.mark.skipif(rounds.torch is None, reason="PyTorch is optional")


def task(spec, clips=2, **fields):
    config = load_config(spec)
    set_fields(config, {name.replace("__", "."): v for name, v in fields.items()})
    return train.Task(config, clips, 1)


def small_transformer():
    """A transformer with noisy biases and scales, which a wrong copy would mix up."""
    small = {
        "features__hop": 4096,
        "features__n_mels": 3,
        "train__batch_size": 2,
        "detector__width": 8,
        "detector__encoder_layers": 2,
        "detector__decoder_layers": 2,
        "detector__heads": 2,
        "detector__feed_forward": 16,
        "detector__likelihood": "squared",
    }
    one = task("transformer", **small)
    model = one.build(nnx.Rngs(0))
    noise, params = np.random.default_rng(0).normal, nnx.state(model, nnx.Param)
    noisy = jax.tree.map(lambda p: p + np.float32(noise(0, 0.1, p.shape)), params)
    nnx.update(model, noisy)
    return one, model


def test_front_ends_agree_and_the_machine_is_printed(capsys):
    front_end.main(["--clips", "3", *QUICK, "--torch_batch", "2"])
    printed = capsys.readouterr().out
    assert f"jax {jax.__version__}" in printed
    found = dict(re.findall(r"^(.*): differs from ours by (\S+) dB", printed, re.M))
    assert ("torch, 2 clips" in found) == (rounds.torch is not None)
    assert "librosa" in found
    assert max(map(float, found.values())) < 1e-3


@pytest.mark.slow
def test_latency_is_printed_beside_its_goal(capsys):
    latency.main(["functionals", "--calls", "2", "--clips", "12", "--seconds", "1"])
    printed = capsys.readouterr().out
    (row,) = re.findall(r"functionals\D*([\d.]+)\D+[\d.]+ to [\d.]+\D+(10)\D", printed)
    assert float(row[0]) > 0
    assert f"jax {jax.__version__}" in printed


@pytest.mark.slow
def test_the_speed_of_judging_files_is_printed(capsys):
    files.main(["--files", "33", "--clips", "12", "--seconds", "1"])
    printed = capsys.readouterr().out
    assert re.search(r"^33 files of 1 s: \d+ files/s; [\d.]+ ms", printed, re.M)


@pytest.mark.slow
def test_training_prints_ratios(capsys):
    small = ["--config.detector.hidden=(8,)", "--config.train.batch_size=32"]
    train.main(["--clips", "3", "--steps", "1", "--runs", "2", *small, *QUICK])
    printed = capsys.readouterr().out
    assert "Training mlp_vae:reference" in printed
    assert "ours, 2 runs" in printed
    assert "loss in the last turn" in printed
    assert ("torch, fused" in printed) == (rounds.torch is not None)


@pytest.mark.slow
def test_every_neural_config_can_be_timed():
    for spec, fields in (
        ("mlp_ae", {"detector__hidden": (8,)}),
        ("conv_vae", {"detector__channels": (2, 3, 2, 3, 2)}),
        ("transformer:quick", {"detector__width": 8, "features__hop": 4096}),
    ):
        one = task(spec, train__batch_size=1, features__n_mels=4, **fields)
        assert np.isfinite(train.ours(one, 1)())


@needs_torch
@pytest.mark.slow
def test_torch_has_the_reported_vae_and_its_loss(monkeypatch):
    one = task("mlp_vae:reference")
    model = one.build(nnx.Rngs(0))
    params = jax.tree.leaves(nnx.state(model, nnx.Param))
    assert sum(leaf.size for leaf in params) == 858_280
    peer = peers.mlp_vae(model)
    x = one.features[0, :10].reshape(2, 5, 128)
    monkeypatch.setattr(rounds.torch, "randn_like", rounds.torch.zeros_like)
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, _: np.zeros(shape))
    ours = model.loss(jnp.asarray(x), jax.random.key(0)).mean()
    theirs = peer.loss(rounds.torch.from_numpy(x))
    assert theirs.item() == pytest.approx(float(ours), rel=1e-5)


@needs_torch
@pytest.mark.slow
def test_torchs_conv_vae_has_as_many_parameters():
    """Except its biases: ours has one for each pixel of a block."""
    one = task("conv_vae", detector__channels=(2, 3, 2, 3, 2))
    model = one.build(nnx.Rngs(0))
    ours = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    peer = peers.conv_vae(model)
    theirs = sum(p.numel() for p in peer.parameters())
    fine = (1, *one.config.detector.channels[:-1])
    assert ours - theirs == 3 * sum(fine)
    assert peer.loss(rounds.torch.zeros(2, 32, 128)).ndim == 0


@needs_torch
@pytest.mark.slow
def test_torchs_transformer_is_the_same_network():
    one, model = small_transformer()
    peer = peers.Transformer(model)
    x = one.features
    patches = np.asarray(model.patches(jnp.asarray(x)))
    vectors = rounds.torch.from_numpy(patches[:, :-1].copy())
    with rounds.torch.inference_mode():
        forced, loop = peer.teacher_forced(vectors), vectors[:, :1]
        memory = peer.encode(vectors)
        for _ in range(vectors.shape[1]):
            loop = rounds.torch.cat([loop, peer.next_of(loop, memory)], dim=1)
        loss = peer.loss(rounds.torch.from_numpy(x)).item()
    network = model.network
    ours = jax.jit(lambda v: network.teacher_forced(v))(patches[:, :-1])
    np.testing.assert_allclose(forced.numpy(), ours, rtol=1e-4, atol=1e-5)
    decoded = jax.jit(lambda v: network.autoregress(v))(patches[:, :-1])
    np.testing.assert_allclose(loop[:, 1:].numpy(), decoded, rtol=1e-4, atol=1e-5)
    ours = jax.jit(model.loss)(x, jax.random.key(0)).mean()
    assert loss == pytest.approx(float(ours), rel=1e-4)


@pytest.mark.slow
def test_scoring_prints_ratios(capsys):
    small = {"width": 8, "encoder_layers": 1, "decoder_layers": 1, "heads": 2}
    small["feed_forward"] = 8
    fields = [f"--config.detector.{name}={value}" for name, value in small.items()]
    fields += ["--config.features.hop=4096", "--config.features.n_mels=3"]
    score.main(["--batch", "2", "--positions", "2", *fields, *QUICK])
    printed = capsys.readouterr().out
    assert "ours, decoder again" in printed
    assert "timed at prefixes of" in printed
    assert ("torch" in printed.split("jax")[0]) == (rounds.torch is not None)


@pytest.mark.slow
def test_memory_of_a_process_and_of_those_that_it_starts():
    child = "import time; x = b'x' * (200 << 20); time.sleep(0.7)"
    own = "import subprocess, sys; x = b'x' * (300 << 20)"
    run = f"{own}; subprocess.run([sys.executable, '-c', {child!r}])"
    process, tree, seconds = memory.measure([sys.executable, "-c", run])
    assert 0.3 < process < 0.4
    assert 0.5 < tree < 0.65
    assert seconds > 0.7
    with pytest.raises(RuntimeError, match="exit status 3"):
        memory.measure([sys.executable, "-c", "raise SystemExit(3)"])


@pytest.mark.slow
def test_memory_of_the_main_program(capsys):
    memory.main(["--scale", "0.01", "--config", "configs/mlp_vae.py:quick"])
    assert "36" in capsys.readouterr().out


@pytest.mark.slow
def test_memory_of_several_types_as_one_model(capsys):
    several = ["--types", "fan", "valve", "--seconds", "1", "--scale", "0.01"]
    memory.main([*several, "--config", "configs/mlp_vae.py:quick"])
    assert "72 clips" in capsys.readouterr().out


@dataclass
class Rounds:
    """Arguments of a benchmark."""

    rounds: int = 2
    spare: int = 2
    patience: float = 0.0


def test_the_rounds_that_count_are_the_least_disturbed(monkeypatch):
    disturbed = iter([9.0, 0.5, 0.1, 0.9, 0.2])
    monkeypatch.setattr(
        rounds, "_time", lambda work, patience: rounds.Turn(1.0, next(disturbed))
    )
    kept = rounds.take_turns({"ours": lambda: None}, Rounds())
    assert [turns["ours"].others for turns in kept] == [0.1, 0.2]


def test_ratios_are_medians_over_rounds(capsys):
    turns = [
        {"ours": rounds.Turn(1.0, 0.0), "peer": rounds.Turn(seconds, 0.0)}
        for seconds in (2.0, 3.0, 10.0)
    ]
    rounds.report("T", "clips", {"ours": 6.0, "peer": 6.0}, turns, ["ours"])
    assert "3.00 (2.00 to 10.00)" in capsys.readouterr().out


@pytest.mark.slow
def test_the_cost_of_data_and_runs_is_printed(capsys):
    scale.main(["--clips", "2", "--times", "1", "--runs", "2", "--epochs", "1"])
    row = capsys.readouterr().out.splitlines()[2].strip("| ").split(" | ")
    assert row[:2] == ["2", "1 x"]
    cores, per_unit, *others = map(float, row[2:])
    assert min(others) > 0
    np.testing.assert_allclose(cores, 2 * per_unit, atol=0.01)
