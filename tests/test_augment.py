"""Augmentations: bounds, identities, what stays, fresh draws, runs that differ."""

import json
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slowly import slow
from training import SETTINGS, Centre, build_vae, leaves, train_on

from configs import conv_vae
from mimii_jax.config import build
from mimii_jax.errors import ConfigError
from mimii_jax.features.augment import (
    AUGMENTATIONS,
    bands,
    build_augment,
    extents,
    fill_hole,
)
from mimii_jax.train.runs import Run, Settings

EVERY = tuple(AUGMENTATIONS)
X = np.random.default_rng(8).standard_normal((6, 17, 12)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(0), 200)
ALWAYS = {
    "spec_augment": {"probability": 1.0, "time_width": 5.0, "frequency_width": 3.0},
    "cutout": {"probability": 1.0, "time_width": 5.0, "frequency_width": 3.0},
    "warp": {
        "move_probability": 1.0,
        "move_time": 3.0,
        "move_frequency": 2.0,
        "scale_probability": 1.0,
        "scale": 0.2,
        "rotate_probability": 1.0,
        "rotate": 9.0,
    },
    "gain": {"probability": 1.0, "strength": 2.0},
    "noise": {"probability": 1.0, "strength": 0.5},
    "mixup": {"probability": 1.0, "strength": 0.5},
}


def augment(name, **values):
    return build_augment({"names": (name,), name: ALWAYS[name] | values})


compiled = cache(jax.jit)


def applied(augment, x=X, key=KEYS[0], n=None):
    values = {name: jnp.float32(value) for name, value in augment.values.items()}
    # Floats are arguments: augmentations that differ in them share a program.
    program = compiled(augment.changed(dict.fromkeys(values, 0.0)))
    return np.asarray(program(values, key, x, n or len(x)))


def strengths(name, value):
    return {k: value for k in ALWAYS[name] if "probability" not in k}


def probabilities(name, value):
    return {k: value for k in ALWAYS[name] if "probability" in k}


def test_a_config_names_augmentations_and_lists_what_it_changes():
    c = conv_vae.get_config("reference")
    c.augment.warp.rotate = 5.0
    augment = build(c).detector.settings.augment
    assert [name for name, _ in augment.parts] == ["cutout", "warp"]
    assert augment.values["warp.rotate"] == 5.0
    assert augment.values["warp.rotate_probability"] == 0.5
    assert build(conv_vae.get_config()).detector.settings.augment is None
    assert set(ALWAYS) == set(EVERY)


@pytest.mark.parametrize("name", EVERY)
def test_without_probability_or_strength_nothing_changes(name):
    for values in (probabilities(name, 0.0), strengths(name, 0.0)):
        np.testing.assert_array_equal(applied(augment(name, **values)), X)
    assert not np.array_equal(applied(augment(name)), X)


@pytest.mark.parametrize("name", EVERY)
def test_draws_are_of_the_key_and_of_each_example(name):
    same = np.broadcast_to(X[:1], X.shape) if name != "mixup" else X
    first, again = (applied(augment(name), same) for _ in range(2))
    other = applied(augment(name), same, KEYS[1])
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    if name != "mixup":  # of a batch
        assert len({row.tobytes() for row in first}) > 3


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("shape", [(1, 1), slow((1, 9)), slow((9, 1))])
def test_no_strength_and_no_shape_makes_it_fail(name, shape):
    most = strengths(name, 1.0 if name == "mixup" else 1e6)
    x = jax.random.normal(jax.random.key(1), (4, *shape))
    found = applied(augment(name, **most), x)
    assert found.shape == x.shape
    assert np.all(np.isfinite(found))


@pytest.mark.parametrize("name", EVERY)
def test_a_probability_is_that_of_an_example(name):
    one = augment(name, **probabilities(name, 0.25))
    values = {name: jnp.float32(value) for name, value in one.values.items()}
    x = jnp.asarray(X[:2])
    found = jax.jit(jax.vmap(lambda key: one(values, key, x, 2)))(KEYS)
    share = np.mean(np.any(np.asarray(found) != x[None], axis=(2, 3)))
    expected = 1 - 0.75**3 if name == "warp" else 0.25  # any of its three
    if name in ("spec_augment", "cutout"):  # a mask may be of width 0
        expected *= 0.95
    assert abs(share - expected) < 0.1


@pytest.mark.parametrize(("size", "width"), [(20, 6), (20, 0), (5, 9), (1, 1)])
def test_a_mask_never_exceeds_its_width_or_the_image(size, width):
    start, end = jax.vmap(partial(extents, size=size, width=width, n=3))(KEYS)
    assert np.min(start) >= 0
    assert np.max(end) <= size
    assert set(np.unique(end - start)) == set(range(min(size, width) + 1))
    if width == 6:  # anywhere
        assert np.min(start) == 0
        assert np.max(end) == size


def test_a_mask_of_the_greatest_draw_is_within_its_width(monkeypatch):
    below_one = np.float32(1) - np.finfo(np.float32).epsneg
    monkeypatch.setattr(
        jax.random, "uniform", lambda key, shape: jnp.full(shape, below_one)
    )
    for size in (7, 313, 1_000_003):
        start, end = extents(KEYS[0], size, float(size), 2)
        assert np.all(end <= size)
        assert np.all(start >= 0)


def test_bands_are_the_union_of_masks():
    start, end = extents(KEYS[3], 30, 8, 3)
    expected = np.zeros(30, bool)
    for first, last in zip(start.tolist(), end.tolist(), strict=True):
        expected[first:last] = True
    np.testing.assert_array_equal(bands(KEYS[3], 30, 8, 3), expected)


@pytest.mark.parametrize("fill", ["mean", "zero"])
def test_masks_blank_whole_frames_and_bins(fill):
    fields = {"fill": fill, "time_masks": 1, "frequency_masks": 1}
    found = applied(augment("spec_augment", **fields))
    for x, y in zip(X, found, strict=True):
        masked = y != x
        value = np.mean(x) if fill == "mean" else 0.0
        np.testing.assert_allclose(y[masked], value, rtol=1e-5)
        frames, bins = masked.all(axis=1), masked.all(axis=0)
        np.testing.assert_array_equal(masked, frames[:, None] | bins[None])
        assert frames.sum() <= 5
        assert bins.sum() <= 3


@pytest.mark.parametrize("size", [5.0, 1e6])
def test_holes_of_a_constant_image_leave_no_trace(size):
    flat = jnp.full((3, 9, 8), -1.7)
    found = applied(augment("cutout", time_width=size, frequency_width=size), flat)
    np.testing.assert_allclose(found, flat, rtol=1e-6)


def test_a_hole_is_filled_from_the_pixels_around_it():
    """By hand: one pixel, whose neighbours are as far away in all directions."""
    x = np.arange(20.0, dtype=np.float32).reshape(4, 5) ** 2
    found = fill_hole(jnp.asarray(x), 1, 2, 3, 4)
    expected = x.copy()
    expected[1, 3] = (x[0, 3] + x[2, 3] + x[1, 2] + x[1, 4]) / 4
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    at_border = fill_hole(jnp.asarray(x), 0, 2, 0, 1)
    pixel = (x[2, 0] / 2 + x[0, 1]) / 1.5  # what is beyond the border does not count
    np.testing.assert_allclose(at_border[0, 0], pixel, rtol=1e-6)
    np.testing.assert_array_equal(at_border[2:], x[2:])


def test_a_move_moves():
    """By whole frames, as far as drawn; the border is repeated."""
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32)[:, None], (6, 40, 5))
    values = strengths("warp", 0.0) | {"move_time": 4.0}
    found = applied(augment("warp", **values), ramp)[:, 10:30]
    away = found - ramp[:, 10:30]
    np.testing.assert_allclose(away, away[:, :1, :1] * np.ones((20, 5)), atol=1e-4)
    assert 0.5 < np.abs(away).max() <= 4


def test_scaling_and_rotating_leave_the_middle():
    x = X[:, :, :11]  # 17 x 11: the middle is a pixel
    for field, strength in (("scale", 0.5), ("rotate", 30.0)):
        values = strengths("warp", 0.0) | {field: strength}
        found = applied(augment("warp", **values), x)
        np.testing.assert_allclose(found[:, 8, 5], x[:, 8, 5], atol=1e-5)
        assert not np.allclose(found, x, atol=0.1)


def test_a_rotation_keeps_lengths():
    """A rotated plane is as steep as before."""
    plane = np.broadcast_to(np.arange(40, dtype=np.float32)[:, None], (6, 40, 40))
    values = strengths("warp", 0.0) | {"rotate": 20.0}
    found = applied(augment("warp", **values), plane)[:, 10:30, 10:30]
    slopes = np.stack(np.gradient(found, axis=(1, 2)))
    np.testing.assert_allclose(np.sum(slopes**2, axis=0), 1.0, atol=1e-3)
    assert np.abs(slopes[1]).max() > 0.05
    assert np.abs(slopes[1]).max() < np.sin(np.deg2rad(20.1))


def test_a_gain_is_one_number_per_example():
    away = applied(augment("gain")) - X
    np.testing.assert_allclose(away, away[:, :1, :1] * np.ones(X.shape[1:]), atol=1e-5)
    assert np.abs(away).max() <= 2


def test_noise_has_its_standard_deviation():
    away = applied(augment("noise")) - X
    assert abs(np.std(away) - 0.5) < 0.03


def test_mixup_keeps_the_mean_of_the_examples_that_count():
    for key in KEYS[:5]:
        found = applied(augment("mixup"), X, key, n=4)
        np.testing.assert_allclose(found[:4].mean(0), X[:4].mean(0), atol=1e-5)
    alone = applied(augment("mixup"), X, n=1)
    np.testing.assert_array_equal(alone[0], X[0])


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("blur", {}, "augment.blur: .* spec_augment"),
        ("gain", {"level": 1.0}, "augment.gain.level: .* probability, strength"),
        ("gain", {"probability": 2.0}, "augment.gain.probability=2.0: .* 0 to 1"),
        ("noise", {"strength": -1}, "augment.noise.strength=-1.0: .* from 0"),
        ("noise", {"strength": np.nan}, "augment.noise.strength=nan"),
        ("noise", {"strength": "1"}, "augment.noise.strength='1': .* float"),
        ("mixup", {"strength": 1.5}, "augment.mixup.strength=1.5: .* 0 to 1"),
        ("cutout", {"holes": -1}, "augment.cutout.holes=-1: .* from 0"),
        ("cutout", {"holes": 1.5}, "augment.cutout.holes=1.5: .* int"),
        ("spec_augment", {"fill": "max"}, "augment.spec_augment.fill=max: .* mean"),
    ],
)
def test_a_bad_field_is_named(name, changes, message):
    with pytest.raises(ConfigError, match=message):
        build_augment({"names": (name,), name: changes})


def test_a_misspelt_section_is_refused():
    with pytest.raises(ConfigError, match=r"augment\.spec_augmnt: unknown"):
        build_augment({"names": ("spec_augment",), "spec_augmnt": {}})


# In a training


def settings(names, **changes):
    augment = build_augment({"names": names, **ALWAYS})
    augment = augment and augment.changed(changes)
    return Settings(**(vars(SETTINGS) | {"augment": augment}))


@pytest.mark.slow
def test_runs_that_differ_in_their_masks_equal_the_runs_alone():
    """A change of the run is what it would be in the settings."""
    changes = {"spec_augment.time_width": 0.0, "noise.strength": 0.1}
    runs = [Run(0, np.arange(5)), Run(0, np.arange(5), changes=changes)]
    names = ("spec_augment", "noise", "mixup")
    _, both = train_on(runs=runs, settings=settings(names))
    _, alone = train_on(runs=runs[:1], settings=settings(names, **changes))
    for a, b in zip(leaves(both), leaves(alone), strict=True):
        np.testing.assert_allclose(a[1:], b, rtol=1e-4, atol=1e-6)
    first, second = leaves(both.params)[0]
    assert not np.allclose(first, second, rtol=1e-3)


def test_what_is_not_compiled_in_cannot_differ():
    run = Run(0, np.arange(5), changes={"gain.strength": 1.0})
    with pytest.raises(ConfigError, match=r"gain\.strength: runs can't differ"):
        train_on(runs=[run], settings=settings(("noise",)))


class Seen(Centre):
    """Its loss is the mean of what it sees; nothing is learned."""

    def loss(self, x, key):
        return jnp.mean(x, axis=(1, 2)) + 0 * super().loss(x, key)


def test_every_step_and_run_draws_anew_and_validation_draws_nothing(tmp_path):
    def losses(names):
        path = tmp_path / f"{len(names)}.jsonl"
        whole = Settings(**(vars(settings(names)) | {"batch_size": 27}))
        train_on(partial(Seen, 6), (0, 1), settings=whole, held_out=2, metrics=path)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        return tuple(
            np.array([line[field] for line in lines])
            for field in ("train_loss", "val_loss")
        )

    plain, held_out = losses(())
    noisy, still_held_out = losses(("noise",))
    np.testing.assert_allclose(plain, plain[0, 0], rtol=1e-5)  # all clips in a batch
    assert len(set(noisy.ravel().tolist())) == 4
    np.testing.assert_allclose(noisy, plain, atol=0.1)
    np.testing.assert_array_equal(held_out, still_held_out)


@pytest.mark.slow
def test_augmented_runs_train_on_several_devices():
    names = ("spec_augment", "mixup")
    _, one = train_on(build_vae, settings=settings(names))
    _, four = train_on(build_vae, settings=settings(names), mesh=(1, 4))
    for a, b in zip(leaves(one), leaves(four), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
