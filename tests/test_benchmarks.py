import sys

import jax
import numpy as np
import pytest
from flax import nnx

from experiments.benchmarks import (
    conv_vae,
    front_end,
    many_runs,
    memory,
    mlp_vae,
    rounds,
    transformer,
    transformer_torch,
)
from mimii_jax.models.transformer import Transformer

QUICK = ["--rounds", "2", "--spare", "1", "--patience", "0"]
TINY = ["--clips", "3", *QUICK]
needs_torch = pytest.mark.skipif(mlp_vae.torch is None, reason="PyTorch is optional")


def test_front_end_prints_everyone_and_the_machine(capsys):
    front_end.main([*TINY, "--torch_batch", "2"])
    printed = capsys.readouterr().out
    assert "ours" in printed
    assert "librosa" in printed
    assert f"jax {jax.__version__}" in printed
    assert ("torch, 2 clips" in printed) == (front_end.torch is not None)


def test_the_front_ends_agree():
    ours = front_end.default_front_end()
    audio = front_end.noise(3, ours.sample_rate)
    everyone = front_end.contestants(ours, audio, batches=[2])
    results = {name: work() for name, work in everyone.items()}
    assert max(front_end.agreement(results).values()) < 1e-3


def test_mlp_vae_prints_ratios(capsys):
    mlp_vae.main(["--steps", "1", "--runs", "2", *TINY])
    printed = capsys.readouterr().out
    assert "ours, 2 runs" in printed
    assert "loss per window in the last turn" in printed
    assert ("torch, fused" in printed) == (mlp_vae.torch is not None)


def test_conv_vae_prints_ratios(capsys, monkeypatch):
    config = conv_vae.get_config("quick")
    config.detector.channels, config.train.batch_size = (2, 3, 2, 3, 2), 4
    monkeypatch.setattr(conv_vae, "get_config", lambda variant: config)
    conv_vae.main(["--steps", "1", "--runs", "2", *TINY])
    printed = capsys.readouterr().out
    assert "ours, 2 runs" in printed
    assert ("torch, channels last" in printed) == (conv_vae.torch is not None)


@needs_torch
def test_torchs_conv_vae_has_as_many_parameters():
    """But for its biases: a block of pixels has one for each of them in ours."""
    config = conv_vae.get_config()
    model = mlp_vae.Task(2, 1, config).build(nnx.Rngs(0))
    ours = sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))
    peer = conv_vae.torch_network((32, 128), config.detector)
    theirs = sum(p.numel() for p in peer.parameters())
    fine = (1, *config.detector.channels[:-1])
    assert ours - theirs == 3 * sum(fine)


@pytest.mark.slow
def test_many_runs_prints_ratios(capsys):
    many_runs.main(["--scale", "0.002", "--seeds", "1", *QUICK])
    printed = capsys.readouterr().out
    assert "one by one" in printed


def test_the_training_sets_are_those_of_the_cross_id_study():
    sets = many_runs.training_sets(1)
    assert [len(rows) for rows in sets] == [2370, 968, 968, 434, 3 * 434]
    np.testing.assert_array_equal(np.concatenate(sets[1:4]), sets[0])


def test_the_network_of_the_benchmark_is_the_reported_one():
    task = mlp_vae.Task(clips=2, steps=1)
    params = jax.tree.leaves(nnx.state(task.build(nnx.Rngs(0)), nnx.Param))
    assert sum(leaf.size for leaf in params) == 858_280
    assert task.batch == 512


@needs_torch
def test_torch_starts_from_the_same_network():
    task = mlp_vae.Task(clips=2, steps=1)
    model = task.build(nnx.Rngs(0))
    layers = mlp_vae.torch_layers(model)
    x = task.features[0, :10].reshape(2, 640)
    mean, _ = model.encode(x)
    with mlp_vae.torch.inference_mode():
        hidden = layers["encoder"](mlp_vae.torch.from_numpy(x))
        peer = layers["mean"](hidden)
        output = layers["decoder"](peer)
    np.testing.assert_allclose(peer.numpy(), mean, atol=1e-5)
    np.testing.assert_allclose(output.numpy(), model.decode(mean), atol=1e-5)


@needs_torch
def test_torch_has_the_same_loss(monkeypatch):
    task = mlp_vae.Task(clips=2, steps=1)
    model = task.build(nnx.Rngs(0))
    x = task.features[0, :10].reshape(2, 640)
    monkeypatch.setattr(mlp_vae.torch, "randn_like", mlp_vae.torch.zeros_like)
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, _: np.zeros(shape))
    ours = model.loss(x.reshape(2, 5, 128), jax.random.key(0)).mean()
    inputs = mlp_vae.torch.from_numpy(x)
    peer = mlp_vae.torch_loss(mlp_vae.torch_layers(model), inputs, 1.0)
    assert peer.item() == pytest.approx(float(ours), rel=1e-5)


def test_transformer_prints_ratios(capsys):
    small = ["--batch", "2", "--width", "16", "--layers", "1", "--frames", "36"]
    transformer.main([*small, "--positions", "2", *QUICK])
    printed = capsys.readouterr().out
    assert "a dispatch takes" in printed
    assert "ours, decoder again" in printed
    assert "measured at prefixes of 2, 5" in printed  # of 6 positions
    assert ("torch" in printed.split("jax")[0]) == (transformer.torch is not None)


@needs_torch
def test_the_transformer_of_torch_is_the_same_network():
    model = Transformer(
        (11, 3),
        patch=2,
        stride=2,
        width=8,
        encoder_layers=2,
        decoder_layers=2,
        heads=2,
        feed_forward=16,
        attention="causal",
        decoding="autoregressive",
        context=0,
        rngs=nnx.Rngs(0),
    )
    # Biases and scales that a wrong copy would mix up.
    params = nnx.state(model, nnx.Param)
    noise = np.random.default_rng(0).normal
    nnx.update(
        model, jax.tree.map(lambda p: p + np.float32(noise(0, 0.1, p.shape)), params)
    )
    peer = transformer_torch.Peer(model.network)
    x = np.float32(noise(size=(2, 11, 3)))
    patches = np.asarray(model.patches(x))
    vectors = transformer_torch.torch.from_numpy(patches[:, :-1].copy())
    with transformer_torch.torch.inference_mode():
        parallel, loop = peer.teacher_forced(vectors), peer.autoregress(vectors)
    ours = jax.jit(lambda v: model.network.teacher_forced(v))(patches[:, :-1])
    np.testing.assert_allclose(parallel.numpy(), ours, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        loop.numpy(), jax.jit(model.decode)(patches), rtol=1e-4, atol=1e-5
    )


def test_too_few_clips_for_the_steps_are_refused():
    with pytest.raises(ValueError, match="9 steps need more than 2 clips"):
        mlp_vae.Task(clips=2, steps=9)


def test_memory_of_a_process_that_takes_a_known_amount():
    megabytes = 300
    hold = f"import time; x = b'x' * ({megabytes} << 20); time.sleep(0.7)"
    process, tree, seconds = memory.measure([sys.executable, "-c", hold])
    assert megabytes / 1000 < process < megabytes / 1000 + 0.1
    assert megabytes / 1000 < tree < megabytes / 1000 + 0.1
    assert seconds > 0.7


def test_memory_counts_processes_that_a_process_starts():
    hold = "import time; x = b'x' * (200 << 20); time.sleep(0.7)"
    start = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {hold!r}])"
    _, tree, _ = memory.measure([sys.executable, "-c", start])
    assert tree > 0.2


def test_memory_of_a_command_that_fails_is_no_result():
    with pytest.raises(RuntimeError, match="exit status 3"):
        memory.measure([sys.executable, "-c", "raise SystemExit(3)"])


@pytest.mark.slow
def test_memory_of_the_main_job(capsys):
    memory.main(["--scale", "0.01", "--config", "configs/mlp_vae.py:quick"])
    assert "36" in capsys.readouterr().out


def test_the_rounds_that_count_are_the_least_disturbed(monkeypatch):
    disturbed = iter([9.0, 0.5, 0.1, 0.9, 0.2])
    monkeypatch.setattr(
        rounds, "_time", lambda work, patience: rounds.Turn(1.0, next(disturbed))
    )
    args = type("Args", (), {"rounds": 2, "spare": 2, "patience": 0.0})()
    kept = rounds.take_turns({"ours": lambda: None}, args)
    assert [turns["ours"].others for turns in kept] == [0.1, 0.2]


def test_ratios_are_medians_over_rounds(capsys):
    turns = [
        {"ours": rounds.Turn(1.0, 0.0), "peer": rounds.Turn(seconds, 0.0)}
        for seconds in (2.0, 3.0, 10.0)
    ]
    rounds.report("T", "clips", {"ours": 6.0, "peer": 6.0}, turns, ["ours"])
    assert "3.00 (2.00 to 10.00)" in capsys.readouterr().out
