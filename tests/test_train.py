"""The training loop: runs, losses, schedules, memory, divergence."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from slowly import slow
from training import (
    SETTINGS,
    Centre,
    all_clips,
    build_centre,
    build_vae,
    epochs,
    leaves,
    order_of,
    some_features,
    train_on,
)

from mimii_jax.errors import ConfigError
from mimii_jax.features.windows import Standardiser, Windows
from mimii_jax.models.mlp import MLPVAE
from mimii_jax.train.loop import Diverged
from mimii_jax.train.mesh import make_mesh, replicated
from mimii_jax.train.runs import CheckpointPolicy, Run, Settings
from mimii_jax.train.state import init_runs, make_plan, spread
from mimii_jax.train.step import compile_steps, group_size


def settings_of(epochs, batch_size, **changes):
    fields = {"learning_rate": 1e-2, "schedule": "constant", "warmup": 0.0}
    return Settings(epochs, batch_size, **(fields | changes))


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not():
    _, first = train_on(seeds=(4,))
    _, again = train_on(seeds=(4,))
    _, other = train_on(seeds=(5,))
    for a, b in zip(leaves(first), leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(leaves(first.params), leaves(other.params), strict=True):
        assert not np.array_equal(a, b)


def test_training_equals_a_loop_by_hand(tmp_path):
    """45 examples in batches of 2: the last batch is of one, and counts as such."""
    path = tmp_path / "metrics.jsonl"
    _, trained = train_on(build_centre, (7,), settings=settings_of(2, 2), metrics=path)
    runs = all_clips((7,))
    _, start = init_runs(build_centre, SETTINGS, runs, [Standardiser.identity(2)])
    w = np.array(leaves(start.params)[0][0])
    view = np.lib.stride_tricks.sliding_window_view(some_features(), 3, axis=1)
    examples = view.transpose(0, 1, 3, 2).reshape(45, 6)
    adam = optax.adam(1e-2)
    state = adam.init(w)
    for epoch, row in enumerate(epochs(path)):
        total = 0.0
        order = order_of(start.key[0], epoch, 45)
        for index in np.split(order, range(2, 45, 2)):
            x = examples[index]
            total += np.sum((x - w) ** 2)
            update, state = adam.update(np.mean(2 * (w - x), axis=0), state)
            w += np.asarray(update)
        np.testing.assert_allclose(row["train_loss"], [total / 45], rtol=1e-4)
    assert [row["step"] for row in epochs(path)] == [23, 46]
    np.testing.assert_allclose(leaves(trained.params)[0][0], w, rtol=1e-4)


def test_the_noise_of_the_loss_is_fresh_in_every_step_and_run(tmp_path):
    class Noisy(Centre):
        def loss(self, x, key):
            return jax.random.uniform(key, (len(x),)) + 0 * self.error(x)

    path = tmp_path / "metrics.jsonl"
    train_on(partial(Noisy, 6), (0, 1), settings=settings_of(2, 45), metrics=path)
    assert len({loss for row in epochs(path) for loss in row["train_loss"]}) == 4


def test_the_record_has_the_losses_of_every_run(tmp_path):
    path = tmp_path / "metrics.jsonl"
    _, state = train_on(build_centre, (3, 8), held_out=2, metrics=path)
    last = epochs(path)[-1]
    assert (last["epoch"], last["seeds"], last["step"]) == (2, [3, 8], 4)
    np.testing.assert_array_equal(np.float32(last["train_loss"]), state.epoch_loss)
    view = np.lib.stride_tricks.sliding_window_view(some_features()[3:], 3, axis=1)
    examples = view.transpose(0, 1, 3, 2).reshape(18, 6)
    for w, loss in zip(leaves(state.params)[0], last["val_loss"], strict=True):
        by_hand = np.mean(np.sum((examples - w) ** 2, axis=1))
        np.testing.assert_allclose(loss, by_hand, rtol=1e-5)
    for field in ("seconds", "seconds_to_first_step", "examples_per_second"):
        assert last[field] > 0
    assert 1e7 < last["device_bytes"] < 1e11


def test_the_loss_falls_on_sound_with_a_structure(tmp_path):
    path = tmp_path / "metrics.jsonl"
    long = settings_of(40, 16, schedule="cosine", warmup=0.1)
    train_on(seeds=(0, 1), settings=long, held_out=1, metrics=path)
    for column in ("train_loss", "val_loss"):
        first, last = (np.array(epochs(path)[i][column]) for i in (0, -1))
        assert np.all(last < 0.75 * first)


def test_nothing_is_traced_again_after_the_first_steps():
    traces = []

    class Counted(Centre):
        def loss(self, x, key):
            traces.append(x.shape)
            return super().loss(x, key)

    train_on(partial(Counted, 6), settings=settings_of(4, 2), held_out=2)
    # A batch under the gradient, and the windows of a held-out clip.
    assert set(traces) == {(2, 3, 2), (9, 3, 2)}
    assert len(traces) <= 4


def test_what_is_frozen_stays_and_the_rest_is_trained():
    _, start = init_runs(
        build_vae, SETTINGS, all_clips((0,)), [Standardiser.identity(2)]
    )
    _, state = train_on(settings=settings_of(2, 16, freeze=("encoder", "mean.kernel")))
    frozen = {".".join(map(str, path)) for path, _ in nnx.to_flat_state(state.fixed)}
    parameters = {"encoder.0.kernel", "encoder.0.bias", "mean.kernel"}
    assert frozen == parameters | {"kl_weight"}
    before = dict(nnx.to_flat_state(start.params))
    for path, value in nnx.to_flat_state(state.fixed):
        if path != ("kl_weight",):
            np.testing.assert_array_equal(value[...], before[path][...])
    for path, value in nnx.to_flat_state(state.params):
        assert not np.array_equal(value[...], before[path][...])


@pytest.mark.parametrize("name", ["batch_size", "encoder"])
def test_runs_cannot_differ_in_what_is_compiled(name):
    with pytest.raises(ConfigError, match=f"{name}: runs can't differ in it"):
        train_on(runs=[Run(0, np.arange(5), changes={name: 1.0})])


def test_freezing_everything_is_refused():
    everything = ("encoder", "decoder", "mean", "log_variance", "output")
    with pytest.raises(ConfigError, match="leaves nothing to train"):
        train_on(settings=settings_of(1, 16, freeze=everything))


def compiled_steps(
    n_clips, n_frames, n_bins, hidden, batch_size, mesh=(1, 1), runs=2, group=None
):
    """The compiled train step of a VAE for data that are never allocated."""
    windows = Windows(5)
    build = partial(MLPVAE, (5, n_bins), hidden=hidden, latent=4, kl_weight=1.0)
    settings = settings_of(1, batch_size)
    members = [Run(seed, np.arange(n_clips)) for seed in range(runs)]
    same = [Standardiser.identity(n_bins)] * runs
    graph, state = init_runs(build, settings, members, same)
    mesh = make_mesh(runs, *mesh)
    group = group or group_size(mesh, runs)
    plan = make_plan(settings, members, windows.per_clip(n_frames))
    features = jax.ShapeDtypeStruct(
        (n_clips, n_frames, n_bins), np.float32, sharding=replicated(mesh)
    )
    steps = compile_steps(graph, windows, settings, mesh, group)
    return steps.lower(*spread(mesh, group, state, plan), features, 1).compile()


def test_the_window_matrix_never_exists():
    """All slider clips at the official size: it would be 1.9 GB."""
    program = compiled_steps(2370, 313, 128, hidden=(64,), batch_size=512)
    memory = program.memory_analysis()
    if memory is None:
        pytest.skip("this backend has no memory analysis")
    window_matrix = 2370 * 309 * 640 * 4
    assert memory.argument_size_in_bytes > 2370 * 313 * 128 * 4
    assert memory.temp_size_in_bytes < window_matrix / 100
    assert memory.output_size_in_bytes < window_matrix / 100


def test_the_steps_do_not_call_the_host_and_reuse_the_state():
    with jax.debug_nans(False):  # which keeps what would be donated
        program = compiled_steps(4, 20, 8, hidden=(16,), batch_size=8)
    text = program.as_text()
    assert "callback" not in text
    assert "input_output_alias" in text


COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective", "reduce-scatter")


def collectives(mesh, runs, group=None):
    program = compiled_steps(
        4, 20, 8, (16,), batch_size=16, mesh=mesh, runs=runs, group=group
    )
    text = program.as_text()
    return {name for name in COLLECTIVES if f" {name}" in text}


@pytest.mark.parametrize("group", [slow(1), 2])
def test_runs_on_several_devices_have_nothing_to_tell_each_other(group):
    assert collectives((2, 1), 4, group=group) == set()


@pytest.mark.parametrize(
    ("mesh", "runs", "group"), [slow((1, 2), 1, 1), ((2, 2), 4, 2)]
)
def test_a_batch_on_several_devices_is_summed_over_them(mesh, runs, group):
    assert collectives(mesh, runs, group) == {"all-reduce"}


def rates(settings, n_steps):
    """The rates of the first n_steps + 1 steps."""
    step = jnp.arange(n_steps + 1)
    rate = jax.vmap(lambda s: settings.rate(s, jnp.int32(n_steps), jnp.float32(0.5)))
    return np.asarray(rate(step))


def test_a_cosine_falls_from_the_peak_to_zero():
    found = rates(settings_of(1, 1, schedule="cosine"), 20)
    expected = 0.25 * (1 + np.cos(np.pi * np.arange(21) / 20))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("schedule", "last"), [("constant", 0.5), ("cosine", 0.0)])
def test_a_warmup_rises_from_zero_to_the_peak(schedule, last):
    found = rates(settings_of(1, 1, schedule=schedule, warmup=0.25), 20)
    np.testing.assert_allclose(found[:6], 0.1 * np.arange(6), rtol=1e-4, atol=1e-7)
    assert np.argmax(found) == 5
    np.testing.assert_allclose(found[20], last, rtol=1e-4, atol=1e-7)


class Divergent(Centre):
    """A loss that is not finite once a parameter is above .95."""

    def error(self, x):
        loss = super().error(x)
        return jnp.where(jnp.max(self.w[...]) > 0.95, jnp.nan, loss)


def test_a_run_that_diverges_stays_as_it_was_and_the_others_go_on(capsys):
    build = partial(Divergent, 6)
    runs = all_clips(range(12))
    _, start = init_runs(build, SETTINGS, runs, [Standardiser.identity(2)] * 12)
    highest = leaves(start.params)[0].max(axis=1)
    bad, good = int(np.argmax(highest)), int(np.argmin(highest))
    assert highest[bad] > 0.95
    with jax.debug_nans(False):
        _, state = train_on(build, (bad, good))
        _, alone = train_on(build, (good,))
    assert state.alive.tolist() == [False, True]
    assert f"seed {bad}: the loss is not finite at step 1;" in capsys.readouterr().err
    as_it_was = leaves(start.params)[0][bad]
    np.testing.assert_array_equal(leaves(state.params)[0][0], as_it_was)
    assert state.step[0] == 0
    for a, b in zip(leaves(state), leaves(alone), strict=True):
        np.testing.assert_allclose(a[1:], b, rtol=1e-5)
    with (
        jax.debug_nans(False),
        pytest.raises(Diverged, match=rf"seeds {bad}\)"),
    ):
        train_on(build, (bad,))


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("learning_rate", 0.0), ("schedule", "step"), ("warmup", 1.0)],
)
def test_a_bad_setting_is_named(field, value):
    with pytest.raises(ConfigError, match=f"train.{field}='?{value}'?: must be"):
        Settings(**{**vars(SETTINGS), field: value})


def test_a_bad_rhythm_of_checkpoints_is_named():
    with pytest.raises(ConfigError, match="every_steps=0: must be positive"):
        CheckpointPolicy(every_steps=0)
