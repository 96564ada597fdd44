"""The training loop: runs, order of examples, losses, schedules, memory."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from rich.console import Console

from mimii_jax import train
from mimii_jax.examples import Windows
from mimii_jax.models.mlp_vae import MLPVAE
from mimii_jax.train import NonFiniteLoss, Settings, init_runs, mean_loss, train_runs
from mimii_jax.watch import Watch

SETTINGS = Settings(
    epochs=2, batch_size=16, learning_rate=1e-2, schedule="constant", warmup=0.0
)
WINDOWS = Windows(3)


class Centre(nnx.Module):
    """One parameter per feature; every loss can be worked out by hand."""

    def __init__(self, n_features, rngs):
        self.w = nnx.Param(jax.random.uniform(rngs.params(), (n_features,)))

    def loss(self, x, key):
        del key
        return self.error(x)

    def error(self, x):
        return jnp.sum((x - self.w[None]) ** 2, axis=-1)


def build_centre(rngs):
    return Centre(3 * 2, rngs)


def build_vae(rngs):
    return MLPVAE(3 * 2, hidden=(8,), latent=2, kl_weight=0.1, rngs=rngs)


def some_features(clips=5, frames=11, bins=2):
    """Sound with a structure: a sine over the frames at a level per clip."""
    key = jax.random.key(3)
    level = jax.random.normal(key, (clips, 1, bins))
    frame = jnp.sin(jnp.arange(float(frames)))[None, :, None]
    return level * frame + 0.1 * jax.random.normal(key, (clips, frames, bins))


def silent_watch(path=None):
    return Watch(path, Console(file=io.StringIO()))


def fit(build=build_vae, seeds=(0,), settings=SETTINGS, validation=None, path=None):
    features = some_features()
    return train_runs(
        build, WINDOWS, features, validation, settings, seeds, silent_watch(path)
    )


def epochs(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def leaves(params):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def test_a_run_among_several_equals_the_run_alone():
    """Bit for bit at the start, to the last digits after a training.

    Start, order and noise are the same bits; after that a matrix product of three
    runs at once may be summed in another order than that of one, and Adam carries
    the last digits on.
    """
    _, start, keys = init_runs(build_vae, (0, 1, 2))
    _, start_alone, key_alone = init_runs(build_vae, (1,))
    for many, one in zip(leaves(start), leaves(start_alone), strict=True):
        np.testing.assert_array_equal(many[1:2], one)
    assert keys[1] == key_alone[0]
    _, trained = fit(seeds=(0, 1, 2))
    _, trained_alone = fit(seeds=(1,))
    moved = 0.0
    for many, one, before in zip(
        *map(leaves, (trained, trained_alone, start_alone)), strict=True
    ):
        np.testing.assert_allclose(many[1:2], one, rtol=1e-4, atol=1e-6)
        moved = max(moved, np.abs(one - before).max())
    assert moved > 1e-2  # the training did something


def test_the_same_seed_gives_the_same_bits_and_another_one_does_not():
    _, first = fit(seeds=(4,))
    _, again = fit(seeds=(4,))
    _, other = fit(seeds=(5,))
    for a, b, c in zip(*map(leaves, (first, again, other)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


@pytest.mark.parametrize(("n", "batch"), [(45, 16), (48, 16), (1, 16), (7, 1)])
def test_an_epoch_visits_every_example_once(n, batch):
    keys = jax.random.split(jax.random.key(0), 3)
    order = np.asarray(train._epoch_order(keys, 0, n, batch))
    assert order.shape == (3, -(-n // batch), batch)
    for run in order.reshape(3, -1):
        assert sorted(run[:n]) == list(range(n))
        assert np.all(run[n:] == -1)  # only the end of the last batch is empty


def test_orders_differ_by_epoch_and_run_and_repeat_by_key():
    keys = jax.random.split(jax.random.key(0), 2)
    order = [np.asarray(train._epoch_order(keys, e, 45, 16)) for e in (0, 1)]
    assert not np.array_equal(order[0], order[1])
    assert not np.array_equal(order[0][0], order[0][1])
    again = train._epoch_order(keys, 0, 45, 16)
    np.testing.assert_array_equal(again, order[0])
    alone = train._epoch_order(keys[1:], 0, 45, 16)
    np.testing.assert_array_equal(alone[0], order[0][1])


def test_training_equals_a_loop_by_hand(tmp_path):
    """45 examples in batches of 2: the last batch is of one, and counts as such.

    The 23 steps are 8 dispatches, the last of which is shorter than the others.
    """
    path = tmp_path / "metrics.jsonl"
    settings = Settings(2, 2, 1e-2, "constant", 0.0)
    _, trained = fit(build_centre, (7,), settings=settings, path=path)

    _, params, keys = init_runs(build_centre, (7,))
    w = np.array(leaves(params)[0][0])
    view = np.lib.stride_tricks.sliding_window_view(some_features(), 3, axis=1)
    examples = view.transpose(0, 1, 3, 2).reshape(45, 6)
    adam = optax.adam(1e-2)
    state = adam.init(w)
    for epoch, row in enumerate(epochs(path)):
        total = 0.0
        for index in np.asarray(train._epoch_order(keys, epoch, 45, 2))[0]:
            x = examples[index[index >= 0]]
            total += np.sum((x - w) ** 2)
            update, state = adam.update(np.mean(2 * (w - x), axis=0), state)
            w += np.asarray(update)
        np.testing.assert_allclose(row["train_loss"], [total / 45], rtol=1e-4)
    assert len(epochs(path)) == 2
    np.testing.assert_allclose(leaves(trained)[0][0], w, rtol=1e-4)


def test_the_noise_of_the_loss_is_fresh_in_every_step_and_run(tmp_path):
    class Noisy(Centre):
        def loss(self, x, key):
            return jax.random.uniform(key, (len(x),)) + 0 * self.error(x)

    path = tmp_path / "metrics.jsonl"
    one_step = Settings(2, 45, 1e-2, "constant", 0.0)
    fit(lambda rngs: Noisy(6, rngs), (0, 1), settings=one_step, path=path)
    assert len({loss for row in epochs(path) for loss in row["train_loss"]}) == 4


def test_the_record_has_a_loss_per_seed_and_the_validation_loss(tmp_path):
    path = tmp_path / "metrics.jsonl"
    held_out = some_features(clips=2)
    graph, trained = fit(seeds=(3, 8), validation=held_out, path=path)
    last = epochs(path)[-1]
    assert (last["epoch"], last["seeds"]) == (2, [3, 8])
    assert len(last["train_loss"]) == 2
    expected = mean_loss(graph, WINDOWS, trained, held_out)
    np.testing.assert_array_equal(np.float32(last["validation_loss"]), expected)


def test_the_mean_loss_is_that_of_every_window_under_every_run():
    graph, params, _ = init_runs(build_centre, (0, 1))
    view = np.lib.stride_tricks.sliding_window_view(some_features(), 3, axis=1)
    examples = view.transpose(0, 1, 3, 2).reshape(45, 6)
    found = mean_loss(graph, WINDOWS, params, some_features())
    for w, loss in zip(jax.tree.leaves(params)[0], found, strict=True):
        by_hand = np.mean(np.sum((examples - np.asarray(w)) ** 2, axis=1))
        np.testing.assert_allclose(loss, by_hand, rtol=1e-5)


def test_the_loss_falls_on_sound_with_a_structure(tmp_path):
    path = tmp_path / "metrics.jsonl"
    long = Settings(
        epochs=30, batch_size=16, learning_rate=1e-2, schedule="cosine", warmup=0.1
    )
    fit(seeds=(0, 1), settings=long, validation=some_features(), path=path)
    for column in ("train_loss", "validation_loss"):
        first, last = (np.array(epochs(path)[i][column]) for i in (0, -1))
        assert np.all(last < 0.75 * first)


def test_nothing_is_traced_again_after_the_first_steps():
    traces = []

    class Counted(Centre):
        def loss(self, x, key):
            traces.append(x.shape)
            return super().loss(x, key)

    # 23 steps of 2 are 8 dispatches per epoch, the last of which is shorter.
    settings = Settings(4, 2, 1e-2, "constant", 0.0)
    validation = some_features(clips=2)
    fit(lambda rngs: Counted(6, rngs), settings=settings, validation=validation)
    assert traces == [(2, 6), (9, 6)]  # a batch, and the windows of a held-out clip


def compiled_steps(n_clips, n_frames, n_bins, hidden, batch_size):
    """The lowered train step of a VAE for data that are never allocated."""
    windows = Windows(5)

    def build(rngs):
        return MLPVAE(5 * n_bins, hidden=hidden, latent=4, kl_weight=1.0, rngs=rngs)

    graph, params, keys = init_runs(build, (0, 1))
    optimizer = optax.adam(1e-3)
    steps = train._compile_steps(graph, optimizer, windows)
    state = train.TrainState(
        jnp.zeros(2, np.int32), params, jax.vmap(optimizer.init)(params), keys
    )
    n_steps = -(-n_clips * windows.per_clip(n_frames) // batch_size)
    features = jax.ShapeDtypeStruct((n_clips, n_frames, n_bins), np.float32)
    order = jax.ShapeDtypeStruct((2, n_steps, batch_size), np.int32)
    return steps.lower(state, jnp.zeros(2), features, order, 0, 1).compile()


def test_the_window_matrix_never_exists():
    """All slider clips at the official size: it would be 1.9 GB."""
    program = compiled_steps(2370, 313, 128, hidden=(64,), batch_size=512)
    memory = program.memory_analysis()
    if memory is None:
        pytest.skip("this backend does not tell its memory")
    window_matrix = 2370 * 309 * 640 * 4
    assert memory.argument_size_in_bytes > 2370 * 313 * 128 * 4
    assert memory.temp_size_in_bytes < window_matrix / 100
    assert memory.output_size_in_bytes < window_matrix / 100


def test_the_steps_do_not_call_the_host_and_reuse_the_state():
    with jax.debug_nans(False):  # which keeps what would be donated
        text = compiled_steps(4, 20, 8, hidden=(16,), batch_size=8).as_text()
    assert "callback" not in text
    assert "input_output_alias" in text


def test_the_state_is_donated():
    graph, params, keys = init_runs(build_centre, (0,))
    optimizer = optax.adam(1e-3)
    state = train.TrainState(
        jnp.zeros(1, np.int32), params, jax.vmap(optimizer.init)(params), keys
    )
    steps = train._compile_steps(graph, optimizer, WINDOWS)
    order = train._epoch_order(keys, 0, 45, 16)
    with jax.debug_nans(False):  # which keeps what would be donated
        new, _ = steps(state, jnp.zeros(1), some_features(), order, 0, 2)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params))
    assert new.step.tolist() == [2]


def rates(settings, n_steps):
    """The rates of n_steps + 1 steps: Adam moves by them when gradients are equal."""
    optimizer = settings.optimizer(n_steps)
    w = jnp.zeros(())
    state, found = optimizer.init(w), []
    for _ in range(n_steps + 1):
        update, state = optimizer.update(jnp.ones(()), state)
        found.append(-float(update))
    return np.array(found)


def test_a_constant_schedule_is_constant():
    settings = Settings(1, 1, 0.5, "constant", 0.0)
    np.testing.assert_allclose(rates(settings, 10), 0.5, rtol=1e-4)


def test_a_cosine_falls_from_the_peak_to_zero():
    found = rates(Settings(1, 1, 0.5, "cosine", 0.0), 20)
    expected = 0.25 * (1 + np.cos(np.pi * np.arange(21) / 20))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_warmup_rises_from_zero_to_the_peak(schedule):
    found = rates(Settings(1, 1, 0.5, schedule, 0.25), 20)
    np.testing.assert_allclose(found[:6], 0.1 * np.arange(6), rtol=1e-4, atol=1e-7)
    assert np.argmax(found) == 5
    expected = 0.0 if schedule == "cosine" else 0.5
    np.testing.assert_allclose(found[20], expected, rtol=1e-4, atol=1e-7)


def test_a_loss_that_is_not_finite_stops_the_training_and_names_its_seed():
    class Divergent(Centre):
        def error(self, x):
            return jnp.sum(jnp.log(0.5 - self.w)[None] * x, axis=-1)

    def build(rngs):
        return Divergent(6, rngs)

    starts = [leaves(init_runs(build_centre, (s,))[1])[0].max() for s in range(9)]
    tame = Settings(2, 16, 1e-9, "constant", 0.0)
    bad = int(np.argmax(np.array(starts) >= 0.5))
    with jax.debug_nans(False), pytest.raises(NonFiniteLoss, match=f"seed {bad} "):
        fit(build, (bad,), settings=tame)


def test_the_seed_that_diverged_is_the_one_named():
    with pytest.raises(NonFiniteLoss, match="seed 5 is nan in epoch 3, by step 2:"):
        train._require_finite(np.array([1.0, np.nan, np.inf]), (3, 5, 7), 2, 2)
    train._require_finite(np.array([1.0, -2.0]), (3, 5), 2, 2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("batch_size", -1),
        ("learning_rate", 0.0),
        ("schedule", "step"),
        ("warmup", 1.0),
        ("warmup", -0.1),
    ],
)
def test_a_bad_setting_is_named(field, value):
    with pytest.raises(ValueError, match=f"train.{field}='?{value}'?: must be"):
        Settings(**{**vars(SETTINGS), field: value})
