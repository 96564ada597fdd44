"""Functionals: their definitions against NumPy and librosa, and awkward clips."""

import itertools

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import pytest
from slowly import slow
from small_clips import RATE, small_clips

from mimii_jax.features.front_ends import Linear, LogMel
from mimii_jax.features.functionals import (
    GROUPS,
    SERIES,
    bands,
    describe,
    descriptors,
    extract_functionals,
    functionals,
    modulation,
    statistics,
)

LENGTHS = (2048, 2049, 2175, 2176, 16001)
LOG_MEL = LogMel(RATE, 1024, 512, 0.0, None, 128)
NAMES = tuple(GROUPS)
SIZES = {"bands": 640, "descriptors": 80, "modulation": 384}


def wave_of(length, seed=0):
    """Noise that swells, over a tone."""
    rng = np.random.default_rng(seed)
    time = np.arange(length) / RATE
    wave = 0.05 * rng.normal(size=length) * (1.2 + np.sin(25 * time))
    return np.float32(wave + 0.1 * np.sin(2 * np.pi * 440 * time))


jitted = jax.jit(functionals, static_argnums=(0, 1))
described = jax.jit(lambda wave: describe(LOG_MEL.power(wave), sample_rate=RATE))


def of(wave, groups=NAMES, front_end=LOG_MEL):
    return jitted(front_end, groups, jnp.asarray(wave, np.float32))


@pytest.mark.parametrize("frames", [1, 2, 5, 313])
def test_statistics_are_those_of_numpy(frames):
    x = np.random.default_rng(frames).normal(size=(frames, 7)).astype(np.float32)
    moved = np.abs(np.diff(x, axis=0)).mean(axis=0) if frames > 1 else np.zeros(7)
    p20, p80 = np.percentile(x, [20, 80], axis=0)
    expected = [x.mean(0), x.std(0), p20, p80, moved]
    found = statistics(jnp.asarray(x))
    np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-6)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_series_are_those_of_librosa(length):
    wave = wave_of(length)
    magnitude = np.abs(
        librosa.stft(wave, n_fft=1024, hop_length=512, pad_mode="reflect")
    )
    feature, s = librosa.feature, {"S": magnitude, "sr": RATE}
    found = described(wave)
    assert found.shape == (1 + length // 512, 16)
    series = dict(zip(SERIES, np.asarray(found).T, strict=False))
    bandwidth = feature.spectral_bandwidth(**s)[0]
    np.testing.assert_allclose(
        series["centroid"], feature.spectral_centroid(**s)[0], rtol=1e-4
    )
    np.testing.assert_allclose(series["bandwidth"], bandwidth, rtol=1e-4)
    np.testing.assert_allclose(
        series["flatness"],
        10 * np.log10(feature.spectral_flatness(S=magnitude)[0]),
        atol=1e-3,
    )
    # librosa's is the next bin.
    after = feature.spectral_rolloff(**s)[0] - series["rolloff"]
    assert np.all((after > -1e-3) & (after < RATE / 1024 + 1e-3))
    mel = feature.melspectrogram(S=magnitude**2, sr=RATE, n_mels=8)
    np.testing.assert_allclose(found[:, 8:], 10 * np.log10(mel).T, atol=1e-3)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_other_series_follow_their_definitions(length):
    wave = wave_of(length)
    m = np.abs(librosa.stft(wave, n_fft=1024, hop_length=512, pad_mode="reflect"))
    m = m.T.astype(np.float64)
    found = described(wave)
    series = dict(zip(SERIES, np.asarray(found).T, strict=False))
    hz = np.linspace(0, RATE / 2, 513)
    p = m / m.sum(1, keepdims=True)
    away = hz - (p @ hz)[:, None]
    skewness = (p * away**3).sum(1) / (p * away**2).sum(1) ** 1.5
    unit = m / np.linalg.norm(m, axis=1, keepdims=True)
    flux = np.append(0, np.linalg.norm(np.diff(unit, axis=0), axis=1))
    bins = np.arange(513) * RATE / 1024
    rolloff = [
        np.interp(0.85 * one[-1], np.append(0, one), np.append(-RATE / 1024, bins))
        for one in np.cumsum(m, axis=1)
    ]
    np.testing.assert_allclose(series["rolloff"], np.maximum(rolloff, 0), atol=0.05)
    energy = m**2
    crest = 10 * np.log10(energy.max(1) / energy.mean(1))
    np.testing.assert_allclose(series["skewness"], skewness, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(series["flux"], flux, atol=1e-4)
    np.testing.assert_allclose(series["crest"], crest, atol=1e-3)
    np.testing.assert_allclose(series["level"], 10 * np.log10(energy.sum(1)), atol=1e-3)


def modulation_of_numpy(log_mel, frame_rate):
    level = np.stack([p.mean(1) for p in np.array_split(log_mel, 32, axis=1)], axis=1)
    level = level - level.mean(0)
    window = np.hanning(len(level) + 1)[:-1, None]
    power = np.abs(np.fft.rfft(level * window, axis=0)) ** 2 / len(level)
    hz = np.fft.rfftfreq(len(level), 1 / frame_rate)
    edges = 0.25 * 2 ** (np.arange(13) / 2)
    rows = []
    for low, high in itertools.pairwise(edges):
        used = (hz >= low) & (hz < high)
        if not used.any():
            nearest = 1 + np.argmin(np.abs(np.log(hz[1:] / np.sqrt(low * high))))
            used = np.arange(len(hz)) == nearest
        rows.append(10 * np.log10(power[used].mean(0) + 0.1))
    return np.concatenate(rows)


@pytest.mark.parametrize("frames", [2, 5, 32, 313])
@pytest.mark.parametrize("n_mels", [128, 50])
def test_the_modulation_is_that_of_numpy(frames, n_mels):
    rng = np.random.default_rng(frames)
    log_mel = (10 * rng.normal(size=(frames, n_mels)) - 40).astype(np.float32)
    found = modulation(jnp.asarray(log_mel), frame_rate=31.25)
    expected = modulation_of_numpy(log_mel.astype(np.float64), 31.25)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_stroke_is_found_at_its_rate_and_a_mean_does_not_matter():
    seconds = np.arange(313) / 31.25
    log_mel = np.tile(np.sin(2 * np.pi * 2.1 * seconds)[:, None], 32).astype(np.float32)
    found = modulation(jnp.asarray(log_mel), frame_rate=31.25).reshape(12, 32)
    assert np.all(np.argmax(found, axis=0) == 6)  # from 2 to 2.8 Hz
    louder = modulation(jnp.asarray(log_mel + 7), frame_rate=31.25)
    np.testing.assert_allclose(louder, found.ravel(), atol=1e-2)
    backwards = modulation(jnp.asarray(log_mel[::-1].copy()), frame_rate=31.25)
    np.testing.assert_allclose(backwards, found.ravel(), atol=0.5)


def test_a_gain_moves_levels_alone():
    quiet, loud = (described(gain * wave_of(16000)) for gain in (1, 10))
    np.testing.assert_allclose(loud[:, 1:8], quiet[:, 1:8], rtol=1e-3, atol=1e-3)
    for columns in (slice(0, 1), slice(8, 16)):
        np.testing.assert_allclose(loud[:, columns] - quiet[:, columns], 20, atol=0.01)


@pytest.mark.parametrize("length", [2048, 16001, *map(slow, LENGTHS[1:4])])
def test_every_length_has_the_same_columns(length):
    found = of(wave_of(length))
    assert {name: v.shape for name, v in found.items()} == {
        name: (size,) for name, size in SIZES.items()
    }
    for vector in found.values():
        assert vector.dtype == np.float32
        assert np.all(np.isfinite(vector))


@pytest.mark.parametrize(
    "wave",
    [
        np.zeros(16000),
        np.full(16000, 0.5),
        np.full(16000, -1.0),
        np.eye(1, 16000, 8000)[0],
        np.resize([1.0, -1.0], 16000),
        np.full(16000, 1 / 32768),
        np.sin(np.arange(16000)),
    ],
    ids=["silence", "constant", "full scale", "click", "square", "one bit", "tone"],
)
def test_degenerate_sounds_give_finite_numbers(wave):
    for vector in of(wave).values():
        assert np.all(np.isfinite(vector))
        assert np.max(np.abs(vector)) < 1e5


def test_silence_has_the_documented_values():
    found = of(np.zeros(16000), ("descriptors", "modulation"))
    floor = 10 * np.log10(np.finfo(np.float64).eps)
    expected = np.append([floor, 0, 0, 0, 0, 0, 0, 0], np.full(8, floor))
    np.testing.assert_allclose(found["descriptors"][:16], expected, atol=1e-3)
    np.testing.assert_allclose(found["modulation"], -10, atol=1e-5)


def test_a_single_frame_gives_finite_numbers():
    @jax.jit
    def of_one_frame(wave):
        power, log_mel = LOG_MEL.power(wave)[:1], LOG_MEL(wave)[:1]
        described = descriptors(power, sample_rate=RATE)
        return described, bands(log_mel), modulation(log_mel, frame_rate=31.25)

    described, of_bands, modulated = of_one_frame(jnp.asarray(wave_of(2048)))
    described = np.asarray(described).reshape(5, 16)
    np.testing.assert_array_equal(described[[1, 4]], 0)
    np.testing.assert_allclose(described[2], described[0], rtol=1e-6)
    assert of_bands.shape == (640,)
    np.testing.assert_allclose(modulated, -10, atol=1e-5)


def test_a_linear_spectrum_and_few_bands_have_functionals_too():
    found = of(wave_of(16000), front_end=Linear(RATE, 256, 128, 100.0, 900.0))
    n_bins = len(Linear(RATE, 256, 128, 100.0, 900.0).frequencies)
    assert n_bins < 32
    assert found["bands"].shape == (5 * n_bins,)
    assert found["modulation"].shape == (12 * n_bins,)


def test_a_clip_does_not_depend_on_the_others(monkeypatch):
    from mimii_jax.features import functionals as module

    audio = small_clips().audio
    whole = extract_functionals(LOG_MEL, NAMES, audio, lambda n: None)
    alone = extract_functionals(LOG_MEL, NAMES, audio[2:3], lambda n: None)
    monkeypatch.setattr(module, "CLIPS_PER_TRANSFER", 8)
    counted = []
    chunks = extract_functionals(LOG_MEL, NAMES, audio, counted.append)
    assert counted == [8, 8, 8]
    for name in NAMES:
        np.testing.assert_array_equal(whole[name][2:3], alone[name])
        np.testing.assert_array_equal(whole[name], chunks[name])


GOLDEN = {  # mean, SD and last column
    "bands": (-5.2857, 10.587, 4.3943),
    "descriptors": (484.57, 1447.3, 4.5161),
    "modulation": (2.7607, 7.9737, -3.9311),
}


def test_golden_values():
    """Of one clip; another version of a library may not change them unseen."""
    found = of(wave_of(16000))
    for name, (mean, sd, last) in GOLDEN.items():
        vector = np.asarray(found[name], np.float64)
        summary = [vector.mean(), vector.std(), vector[-1]]
        np.testing.assert_allclose(summary, [mean, sd, last], rtol=1e-3)
