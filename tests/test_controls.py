"""The controls: one number per clip, as librosa computes it."""

import librosa
import numpy as np
import pytest
from small_clips import RATE, small_clips

from mimii_jax.detectors.controls import measure, score_controls
from mimii_jax.results.table import CONTROLS, NO_SEED

CLIPS = small_clips()


def sine(hertz, amplitude):
    wave = amplitude * np.sin(2 * np.pi * hertz * np.arange(4 * RATE) / RATE + 0.1)
    return np.round(32768 * wave).astype(np.int16)


def control(name, audio):
    return measure(audio, RATE)[CONTROLS.index(name)]


def test_the_level_of_a_sine_is_that_of_its_amplitude():
    expected = 20 * np.log10(0.1) - 10 * np.log10(2)
    assert control("rms_dbfs", sine(440, 0.1)) == pytest.approx(expected, abs=1e-3)
    full = np.full(100, -32768, np.int16)
    assert control("rms_dbfs", np.tile(full, 100)) == pytest.approx(0, abs=1e-6)


def test_a_sine_crosses_zero_twice_a_period():
    expected = 2 * 500 / RATE
    assert control("zero_crossings", sine(500, 0.1)) == pytest.approx(
        expected, rel=1e-3
    )


def test_flatness_is_high_for_noise_and_low_for_a_sine():
    noise = np.random.default_rng(0).integers(-999, 999, 2 * RATE, np.int16)
    assert control("flatness", noise) > 0.4
    assert control("flatness", sine(440, 0.1)) < 0.01


def test_a_steady_sound_has_a_steady_bandwidth():
    rng = np.random.default_rng(0)
    steady = rng.normal(0, 300, 4 * RATE)
    changing = steady.copy()
    changing[: 2 * RATE] = np.convolve(steady[: 2 * RATE], np.ones(8) / 8, "same")
    steady, changing = (wave.astype(np.int16) for wave in (steady, changing))
    assert control("bandwidth_sd", changing) > 3 * control("bandwidth_sd", steady)


def test_controls_are_those_of_librosa_called_directly():
    audio = CLIPS.test.audio[-1]
    wave = np.float32(audio) / 32768
    bandwidth = librosa.feature.spectral_bandwidth(y=wave, sr=RATE)
    crossings = np.sum(librosa.zero_crossings(wave, threshold=0, pad=False))
    expected = [
        20 * np.log10(np.sqrt(np.mean(np.float64(wave) ** 2))),
        np.std(bandwidth),
        np.mean(librosa.feature.spectral_flatness(y=wave)),
        crossings / (len(wave) - 1),
    ]
    np.testing.assert_allclose(measure(audio, RATE), expected, rtol=1e-5)


def test_controls_of_silence_are_finite():
    values = measure(np.zeros(RATE, np.int16), RATE)
    assert np.all(np.isfinite(values))
    assert values[CONTROLS.index("rms_dbfs")] == pytest.approx(-156.5, abs=0.05)


def test_the_table_of_controls_has_each_clip_once_per_control():
    table = score_controls(CLIPS.test)
    assert table.detectors == list(CONTROLS)
    assert set(table.seed.tolist()) == {NO_SEED}
    for name in CONTROLS:
        of = table[table.detector == name]
        assert of.name.tolist() == CLIPS.test.name.tolist()
        expected = [control(name, audio) for audio in CLIPS.test.audio]
        np.testing.assert_array_equal(of.score, expected)
