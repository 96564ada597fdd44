"""The front ends against librosa and NumPy, at awkward lengths."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
import soundfile

from mimii_jax.errors import ConfigError
from mimii_jax.features.front_ends import (
    CLIPS_IN_CACHE,
    CLIPS_PER_TRANSFER,
    Linear,
    LogMel,
    LogMelSpectrum,
    LogMelWave,
    Raw,
    extract,
)
from mimii_jax.features.stft import FLOOR, mel_filters, power_spectrogram

OFFICIAL = LogMel(
    sample_rate=16000,
    n_fft=1024,
    hop=512,
    n_mels=128,
    fmin=0.0,
    fmax=None,
)
LINEAR = Linear(sample_rate=16000, n_fft=1024, hop=512, fmin=0.0, fmax=None)
RAW = Raw(sample_rate=16000, hop=512)
SMALL = replace(OFFICIAL, n_fft=64, hop=32, n_mels=8)


def noise(length, seed=0, level=0.02):
    """About as loud as the real recordings."""
    wave = level * np.random.default_rng(seed).normal(size=length)
    return jnp.asarray(wave, np.float32)


def librosa_log_mel(wave, f):
    mel = librosa.feature.melspectrogram(
        y=np.asarray(wave, np.float64),
        sr=f.sample_rate,
        n_fft=f.n_fft,
        hop_length=f.hop,
        n_mels=f.n_mels,
        fmin=f.fmin,
        fmax=f.fmax,
        power=2.0,
        center=True,
        pad_mode="reflect",
    )
    return 10 * np.log10(mel.T + np.finfo(np.float64).eps)


def librosa_linear(wave, f):
    wave = np.asarray(wave, np.float64)
    spectrum = librosa.stft(wave, n_fft=f.n_fft, hop_length=f.hop, pad_mode="reflect")
    level = 10 * np.log10(np.abs(spectrum.T) ** 2 + FLOOR)
    hertz = librosa.fft_frequencies(sr=f.sample_rate, n_fft=f.n_fft)
    return level[:, (hertz >= f.fmin) & (hertz <= (f.fmax or f.sample_rate / 2))]


compute = jax.jit(lambda front_end, wave: front_end(wave), static_argnums=0)


def assert_same_decibels(ours, expected):
    assert ours.shape == expected.shape
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("length", [1025, 2048, 2175, 2176, 160001])
def test_log_mel_equals_librosa_at_any_length(length):
    wave = noise(length)
    assert_same_decibels(compute(OFFICIAL, wave), librosa_log_mel(wave, OFFICIAL))


def test_a_clip_of_ten_seconds_has_the_official_shape():
    assert jax.eval_shape(OFFICIAL, jnp.zeros(160000)).shape == (313, 128)


@pytest.mark.parametrize(
    "change",
    [
        {"n_fft": 1000, "hop": 300},
        {"n_fft": 1023, "hop": 511},
        {"n_fft": 2048, "hop": 160, "n_mels": 64},
        {"n_fft": 400, "hop": 800, "n_mels": 40},
        {"fmin": 50.0, "fmax": 7000.0},
        {"fmin": 300.5, "fmax": 4000.25, "n_mels": 32},
    ],
    ids=str,
)
def test_log_mel_equals_librosa_with_other_settings(change):
    front_end = replace(OFFICIAL, **change)
    wave = noise(12347)
    assert_same_decibels(compute(front_end, wave), librosa_log_mel(wave, front_end))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"n_fft": 1000, "hop": 300},
        {"n_fft": 1023, "hop": 511},
        {"fmin": 1000.0, "fmax": 3000.0},
        {"fmin": 1000.1, "fmax": 2999.9},
    ],
    ids=str,
)
def test_linear_equals_librosa(change):
    front_end = replace(LINEAR, **change)
    wave = noise(8001)
    ours, expected = compute(front_end, wave), librosa_linear(wave, front_end)
    assert ours.shape[1] == len(front_end.frequencies)
    # A bin that the noise leaves nearly empty has few digits in float32.
    heard = expected > expected.max() - 50
    assert heard.mean() > 0.99
    assert_same_decibels(ours * heard, expected * heard)


def test_a_real_recording_equals_librosa(real_sample):
    path = sorted((real_sample / "slider" / "test").glob("anomaly*.wav"))[0]
    audio, _ = soundfile.read(path, dtype="int16")
    ours = extract(OFFICIAL, audio[None], np.arange(1), lambda n: None)[0]
    assert_same_decibels(ours, librosa_log_mel(audio / 32768, OFFICIAL))


def test_full_scale_is_that_of_16_bits():
    """The most negative sample is -1, as soundfile and librosa read it."""
    audio = np.full((1, 2000), -32768, np.int16)
    ours = extract(OFFICIAL, audio, np.arange(1), lambda n: None)[0]
    np.testing.assert_array_equal(ours, compute(OFFICIAL, jnp.full(2000, -1.0)))


def test_a_sine_of_one_bin_has_the_power_of_its_window():
    amplitude, n_fft, k = 0.5, 1024, 64
    wave = amplitude * np.sin(2 * np.pi * k * np.arange(8192) / n_fft)
    power = power_spectrogram(jnp.asarray(wave, np.float32), n_fft=n_fft, hop=512)
    np.testing.assert_allclose(power[4:-4, k], (amplitude * n_fft / 4) ** 2, rtol=1e-4)


@pytest.mark.parametrize("front_end", [OFFICIAL, LINEAR], ids=["log_mel", "linear"])
def test_digital_silence_is_the_floor(front_end):
    levels = np.asarray(compute(front_end, jnp.zeros(3000)))
    expected = 10 * np.log10(np.finfo(np.float64).eps)
    assert np.all(levels == levels[0, 0])
    np.testing.assert_allclose(levels, expected, rtol=1e-6)
    assert np.min(compute(front_end, noise(3000, level=1e-9))) >= levels[0, 0]


@pytest.mark.parametrize(
    ("n_fft", "band"),
    [
        (1024, {"n_mels": 128, "fmin": 0.0, "fmax": 8000.0}),
        (2048, {"n_mels": 40, "fmin": 50.0, "fmax": 7600.0}),
        (1024, {"n_mels": 3, "fmin": 1000.0, "fmax": 8000.0}),
        (1023, {"n_mels": 10, "fmin": 0.0, "fmax": 900.5}),
    ],
)
def test_mel_filters_are_those_of_librosa(n_fft, band):
    expected = librosa.filters.mel(sr=16000, n_fft=n_fft, dtype=np.float64, **band)
    found = np.zeros((band["n_mels"], 1 + n_fft // 2), np.float32)
    row = 0
    for first, part in mel_filters(16000, n_fft, **band):
        found[row : row + part.shape[1], first : first + len(part)] = part.T
        row += part.shape[1]
    np.testing.assert_allclose(found, expected.astype(np.float32), rtol=1e-6)


def test_empty_filters_are_reported():
    with pytest.warns(UserWarning, match=r"features\.n_mels=256: some filters lie"):
        mel_filters(16000, 512, 256, 0.0, 8000.0)


def test_frequencies_are_those_of_librosa():
    peaks = librosa.mel_frequencies(130, fmin=0, fmax=8000)[1:-1]
    np.testing.assert_allclose(OFFICIAL.frequencies, peaks)
    band = replace(LINEAR, fmin=1000.0, fmax=1031.25).frequencies
    np.testing.assert_allclose(band, [1000, 1015.625, 1031.25])


@pytest.mark.parametrize("length", [512, 1023, 1024])
def test_raw_frames_are_the_wave_itself(length):
    wave = noise(length)
    frames = jax.jit(RAW)(wave)
    assert frames.shape == (length // 512, 512)
    np.testing.assert_array_equal(frames.ravel(), wave[: frames.size])
    assert RAW.frequencies is None


def test_a_wave_shorter_than_a_frame_is_an_error():
    with pytest.raises(ConfigError, match=r"features.hop=512: .* 511 samples"):
        RAW(noise(511))


@pytest.mark.parametrize("length", [1, 512])
def test_a_clip_too_short_for_reflection_is_an_error(length):
    with pytest.raises(ConfigError, match=f"n_fft=1024: a clip of {length} samples"):
        OFFICIAL(noise(length))
    assert jax.eval_shape(OFFICIAL, noise(513)).shape == (2, 128)


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        *itertools.product([LINEAR], ["sample_rate", "n_fft", "hop"], [0, -1]),
        *itertools.product([RAW], ["sample_rate", "hop"], [0]),
        (OFFICIAL, "n_mels", 0),
        (OFFICIAL, "fmin", -1.0),
        (OFFICIAL, "fmin", 8000.0),
        (OFFICIAL, "fmax", 8000.1),
        (LINEAR, "fmax", 0.0),
    ],
)
def test_an_invalid_field_is_named(kind, field, value):
    with pytest.raises(ConfigError, match=f"features.{field}={value}"):
        replace(kind, **{field: value})


def test_a_band_between_two_bins_is_refused():
    with pytest.raises(ConfigError, match=r"features.fmin=1001.0.*no bin"):
        replace(LINEAR, fmin=1001.0, fmax=1002.0)


@pytest.mark.parametrize(
    "n_rows",
    [1, CLIPS_IN_CACHE + 1, CLIPS_PER_TRANSFER]
    + [k * CLIPS_PER_TRANSFER + 1 for k in (1, 2)],
)
def test_extracting_rows_equals_one_by_one_bit_for_bit(n_rows):
    rng = np.random.default_rng(n_rows)
    audio = rng.integers(-3000, 3000, (2 * CLIPS_PER_TRANSFER + 5, 320), np.int16)
    rows = rng.permutation(len(audio))[:n_rows]
    done = []
    features = np.asarray(extract(SMALL, audio, rows, done.append))
    assert sum(done) == n_rows
    assert features.shape == (n_rows, 11, 8)
    for row, found in zip(rows, features, strict=True):
        alone = extract(SMALL, audio, np.array([row]), lambda n: None)[0]
        np.testing.assert_array_equal(found, alone)


def test_the_official_front_end_gives_a_clip_the_same_bits_in_any_company():
    audio = np.random.default_rng(0).integers(-3000, 3000, (6, 20_000), np.int16)
    features = extract(OFFICIAL, audio, np.arange(6), lambda n: None)
    for rows in ([5], [3, 1], [4, 0, 2, 5, 1]):
        few = extract(OFFICIAL, audio, np.array(rows), lambda n: None)
        np.testing.assert_array_equal(few, features[np.array(rows)])


@pytest.mark.parametrize("length", [16000, 16383, 16384])
def test_further_bins_hold_the_spectrum_of_the_whole_clip(length):
    wave = noise(length)
    both = LogMelSpectrum(**vars(SMALL), spectrum_bins=4)
    found = np.asarray(jax.jit(both)(wave))
    assert found.shape == (1 + length // 32, 8 + 4)
    np.testing.assert_allclose(found[:, :8], jax.jit(SMALL)(wave), atol=1e-3)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    power = np.abs(np.fft.rfft(np.float64(wave) * window)) ** 2
    n = len(power) // 4  # groups of 32 / (2 * 4) bins that are full
    expected = 10 * np.log10(power[: 4 * n].reshape(n, 4).mean(1) + FLOOR)
    spectrum = found[:, 8:].ravel()
    np.testing.assert_allclose(spectrum[:n], expected, atol=1e-2)
    last = 10 * np.log10(power[-1] + FLOOR)  # continues the spectrum
    np.testing.assert_allclose(spectrum[n + 1 :], last, atol=0.5)
    assert len(both.frequencies) == 8


@pytest.mark.parametrize("n", [-1, 3, 17])
def test_a_spectrum_that_does_not_fill_frames_is_refused(n):
    with pytest.raises(ConfigError, match=f"features.spectrum_bins={n}: "):
        LogMelSpectrum(**vars(SMALL), spectrum_bins=n)


@pytest.mark.parametrize("length", [1025, 2048, 2175, 2176])
def test_torchaudios_log_mel_is_htks_without_norm_over_its_floor(length):
    front_end = LogMelWave(16000, 1024, 512, 0.0, None, n_mels=128, wave_samples=512)
    wave = np.array(noise(length))
    wave[: length // 2] = 0
    mel = librosa.feature.melspectrogram(
        y=np.float64(wave),
        sr=16000,
        n_fft=1024,
        hop_length=512,
        pad_mode="reflect",
        htk=True,
        norm=None,
    )
    expected = 10 * np.log10(np.maximum(mel.T, 1e-10))
    found = compute(front_end, wave)
    assert_same_decibels(found[:, :128], expected)
    assert len(front_end.frequencies) == 128
    samples = np.ravel(found[:, 128:])
    np.testing.assert_array_equal(samples[:length], wave)
    assert not samples[length:].any()
    without = compute(replace(front_end, wave_samples=0), wave)
    np.testing.assert_array_equal(without, found[:, :128])


def test_the_wave_of_a_frame_is_its_hop():
    with pytest.raises(ConfigError, match=r"features.wave_samples=100: must be feat"):
        LogMelWave(16000, 1024, 512, 0.0, None, n_mels=128, wave_samples=100)
