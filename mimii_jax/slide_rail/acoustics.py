"""Responses of rail, frame and room, and the signals that simulated sound is made of.

A clip is synthesised with one second of lead-in, so that the room already rings when
it begins; circular convolution then spoils the lead-in only.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import scipy.fft
from jaxtyping import Complex, Complex64, Float, Float32

from mimii_jax.slide_rail.machines import Mechanics

SAMPLE_RATE = 16_000
SAMPLES = 10 * SAMPLE_RATE
LEAD = SAMPLE_RATE
LENGTH = LEAD + SAMPLES  # 2^7 5^3 11: a fast FFT

Wave = Float32[np.ndarray, " time"]
Spectrum = Complex64[np.ndarray, " frequency"]


def spectrum(wave: Wave) -> Spectrum:
    """One-sided spectrum of lead-in and clip."""
    return np.asarray(scipy.fft.rfft(wave))


def to_wave(spectrum: Spectrum) -> Wave:
    """Lead-in and clip with this one-sided spectrum."""
    return np.asarray(scipy.fft.irfft(spectrum, LENGTH))


@lru_cache
def room() -> Spectrum:
    """Transfer function of the hall: direct sound and a decaying diffuse tail."""
    rng = np.random.default_rng(20)
    time = np.arange(int(0.6 * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / 0.45)
    tail *= 0.6 / np.sqrt(np.sum(tail**2))
    tail[0] += 1
    padded = np.zeros(LENGTH, np.float32)
    padded[: len(tail)] = tail
    return spectrum(padded)


@lru_cache
def rail_response(rail: Mechanics) -> Spectrum:
    """Resonances of rail and carriage; white noise keeps its power."""
    hertz = np.maximum(frequency(), 20.0).astype(np.float64)
    response = np.ones(len(hertz), complex)
    for centre, q, level_db in rail.modes:
        response += amplitude(level_db) * _modes(hertz, [centre], q)
    tilt = rail.friction_tilt_db * np.log2(hertz / 1000)
    response *= 10 ** (np.minimum(tilt, 12) / 20) * (hertz / (hertz + 200))
    response /= np.sqrt(np.mean(np.abs(response) ** 2))
    return response.astype(np.complex64)


@lru_cache
def frame_response(rail: Mechanics) -> Spectrum:
    """Resonances of the frame; an impulse keeps its energy."""
    hertz = np.maximum(frequency(), 20.0).astype(np.float64)
    response = _modes(hertz, rail.frame_hz, 9)
    response /= np.sqrt(np.mean(np.abs(response) ** 2))
    return response.astype(np.complex64)


@lru_cache
def struck_response(rail: Mechanics) -> Spectrum:
    """Sharp rings and a broadband click; an impulse keeps its energy."""
    hertz = np.maximum(frequency(), 20.0).astype(np.float64)
    rings = _modes(hertz, rail.rings_hz, 120)
    rings /= np.sqrt(np.mean(np.abs(rings) ** 2))
    mixed = rail.ringing**0.5 * rings + (1 - rail.ringing) ** 0.5 * rough_response(rail)
    return mixed.astype(np.complex64)


@lru_cache
def rough_response(rail: Mechanics) -> Float32[np.ndarray, " frequency"]:
    """The band that rubbing and clicking metal excites; white noise keeps its power."""
    hertz = frequency()
    low, high = rail.rough_hz
    band = hertz**2 / (hertz**2 + low**2) / np.sqrt(1 + (hertz / high) ** 2)
    return (band / np.sqrt(np.mean(band**2))).astype(np.float32)


@lru_cache
def frequency() -> Float32[np.ndarray, " frequency"]:
    """Frequencies of the spectrum, in Hz."""
    return np.fft.rfftfreq(LENGTH, 1 / SAMPLE_RATE).astype(np.float32)


def _modes(
    hertz: Float[np.ndarray, " frequency"], centres: Sequence[float], q: float
) -> Complex[np.ndarray, " frequency"]:
    """Band-pass responses of resonances, each 1 at its centre, summed."""
    response = np.zeros(len(hertz), complex)
    for centre in centres:
        response += 1 / (1 + 1j * q * (hertz / centre - centre / hertz))
    return response


def passings(travel, spacing: float, offset: float) -> np.ndarray:
    """Samples at which `travel` crosses (k + offset) * spacing, whole k."""
    first, last = np.ceil(travel[[0, -1]] / spacing - offset)
    marks = (np.arange(first, last) + offset) * spacing
    return np.minimum(np.searchsorted(travel, marks), len(travel) - 1)


def slow(rng: np.random.Generator, hertz: float) -> Wave:
    """Gaussian noise of unit variance that varies `hertz` times a second."""
    knots = rng.standard_normal(int(LENGTH / SAMPLE_RATE * hertz) + 2)
    at = np.arange(LENGTH) * (hertz / SAMPLE_RATE)
    return np.interp(at, np.arange(len(knots)), knots).astype(np.float32)


def spread(events, sd: float, rng: np.random.Generator):
    """A strength for every event, log-normal around 1."""
    return np.exp(sd * rng.standard_normal(len(events))).astype(np.float32)


def strike(energy_db: float) -> float:
    """Height of an impulse with the energy of one second at this level."""
    return amplitude(energy_db) * SAMPLE_RATE**0.5


def amplitude(level_db: float) -> float:
    """Factor of amplitude that a level in dB stands for."""
    return float(10 ** (level_db / 20))


def rms(spectrum: Spectrum) -> float:
    """RMS over time of a signal with this one-sided spectrum (Parseval)."""
    return float(np.linalg.norm(spectrum)) * 2**0.5 / LENGTH
