"""A factory hall around simulated machines: its noise, its room, and parts of sounds.

The room already rings when a clip starts, after one second of lead-in, which alone
circular convolution spoils.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft
from jaxtyping import Bool, Complex, Complex64, Float, Float32, Int16

SAMPLE_RATE = 16_000
SAMPLES = 10 * SAMPLE_RATE
LEAD = SAMPLE_RATE
LENGTH = LEAD + SAMPLES  # 2^7 5^3 11: a fast FFT

Wave = Float32[np.ndarray, " time"]  # lead-in and clip
Spectrum = Complex64[np.ndarray, " frequency"]  # one-sided, of lead-in and clip
Response = Float[np.ndarray, " frequency"] | Complex[np.ndarray, " frequency"]
Mask = Bool[np.ndarray, " time"]
Rng = np.random.Generator


@dataclass(frozen=True)
class Scene:
    """Spectrum of the rest of the factory."""

    octaves_db: tuple[float, ...]  # power density at `OCTAVES_HZ`
    lines: tuple[tuple[float, float, float], ...]  # tones of other machines:
    # (Hz, width in Hz, dB above the spectrum)


OCTAVES_HZ = (31.5, 63.0, 125.0, 250.0, 500.0, 1000.0, 2000.0, 4000.0, 8000.0)
FACTORY_DBFS, FACTORY_SD_DB = -41.4, 0.75  # level of the factory, over clips
# How far the spectrum of a clip bends from its scene's, at `OCTAVES_HZ`.
BEND_SD_DB = (0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 1.2, 2.2, 3.5)
TILT_SD_DB = 0.45  # and tilts, in all, per octave
GUST_DB, GUST_SD_DB = -31.5, 8.5  # passing hiss against the factory, over clips

SCENES = (
    Scene((-17, -15, -15, -16, -20.7, -28, -35.5, -45.2, -58.8), ((1450, 8, 8),)),
    Scene(
        (-14, -13, -14, -16, -22.7, -29, -36.5, -46.2, -60.8),
        ((1480, 8, 10), (300, 6, 6)),
    ),
    Scene(
        (-20, -18, -18, -19, -22.7, -30, -36.5, -43.2, -52.8),
        ((905, 25, 12), (430, 15, 8), (1860, 12, 6), (7000, 60, 4)),
    ),
    Scene((-17, -15, -16, -17, -22.7, -28, -33.5, -41.2, -50.8), ((2100, 200, 4),)),
)
SCENE_WEIGHTS = (0.4, 0.25, 0.15, 0.2)


@dataclass(frozen=True)
class Fault:
    """A fault of a kind that a machine may have."""

    kind: str
    severity: float  # in (0, 1]


def record(
    machine: Spectrum, background: Spectrum, background_rms: float, rng: Rng
) -> Int16[np.ndarray, " time"]:
    """A clip of a machine, already in its room, before the factory's noise."""
    wave = (to_wave(machine + background) + gusts(background_rms, rng))[LEAD:]
    return np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16)


def factory(rng: Rng) -> tuple[Spectrum, float]:
    """Spectrum of the factory noise of one clip, and its RMS."""
    scene = rng.choice(len(SCENES), p=SCENE_WEIGHTS)
    octaves = np.log2(np.maximum(frequency(), 20.0))
    bend = rng.normal(0, BEND_SD_DB)
    bend += rng.normal(0, TILT_SD_DB) * np.log2(np.divide(OCTAVES_HZ, 500))
    psd_db = scene_db(scene) + np.interp(octaves, np.log2(OCTAVES_HZ), bend)
    noise = shaped_noise(10 ** (psd_db / 20), rng)
    level = amplitude(rng.normal(FACTORY_DBFS, FACTORY_SD_DB))
    noise *= np.float32(level / rms(noise))
    return noise, level


def gusts(factory_rms: float, rng: Rng) -> Wave:
    """Hiss and whistles that swell now and then: leaking air, tools, vehicles."""
    level = factory_rms * amplitude(rng.normal(GUST_DB, GUST_SD_DB))
    centre, octaves = 2 ** rng.uniform([9.5, -6.0], [12.5, 0.3])  # 700 Hz to 6 kHz
    distance = np.log2(np.maximum(frequency(), 20) / centre) / octaves
    noise = shaped_noise(np.exp(-0.5 * distance**2), rng)
    swell = np.exp(1.2 * slow(rng, 0.7)) * np.float32(level / rms(noise))
    return to_wave(noise) * swell


@lru_cache
def scene_db(index: int) -> Float32[np.ndarray, " frequency"]:
    """Power density of a factory scene, in dB."""
    hertz = np.maximum(frequency(), 20.0)
    scene = SCENES[index]
    psd_db = np.interp(np.log2(hertz), np.log2(OCTAVES_HZ), scene.octaves_db)
    psd_db -= 12 * np.maximum(0, np.log2(31.5 / hertz))
    power = np.ones_like(psd_db)
    for centre, width, level_db in scene.lines:
        power += 10 ** (level_db / 10) / (1 + ((hertz - centre) / width) ** 2) ** 2
    return (psd_db + 10 * np.log10(power)).astype(np.float32)


@lru_cache
def room() -> Spectrum:
    """Transfer function of the hall: direct sound and a decaying diffuse tail."""
    rng = np.random.default_rng(20)
    time = np.arange(int(0.6 * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / 0.45)
    tail *= 0.6 / np.sqrt(np.sum(tail**2))
    tail[0] += 1
    return np.asarray(scipy.fft.rfft(tail.astype(np.float32), LENGTH))


@lru_cache
def frequency() -> Float32[np.ndarray, " frequency"]:
    """Frequencies of a spectrum, in Hz."""
    return np.fft.rfftfreq(LENGTH, 1 / SAMPLE_RATE).astype(np.float32)


def modes(centres: Sequence[float], q: float) -> Complex[np.ndarray, " frequency"]:
    """Band-pass responses of resonances, each 1 at its centre, summed."""
    hertz = np.maximum(frequency(), 20.0).astype(np.float64)
    response = np.zeros(len(hertz), complex)
    for centre in centres:
        response += 1 / (1 + 1j * q * (hertz / centre - centre / hertz))
    return response


def unit_power(response: Response) -> Response:
    """Scale a response to a mean power of 1."""
    return response / np.sqrt(np.mean(np.abs(response) ** 2))


def shaped_noise(shape: Float[np.ndarray, " frequency"], rng: Rng) -> Spectrum:
    """Spectrum of Gaussian noise with this amplitude, without DC and Nyquist."""
    noise = rng.standard_normal(2 * len(shape), dtype=np.float32).view(np.complex64)
    noise *= shape.astype(np.float32)
    noise[0] = noise[-1] = 0
    return noise


def slow(rng: Rng, hertz: float) -> Wave:
    """Gaussian noise of unit variance that varies `hertz` times a second."""
    knots = rng.standard_normal(int(LENGTH / SAMPLE_RATE * hertz) + 2)
    at = np.arange(LENGTH) * (hertz / SAMPLE_RATE)
    return np.interp(at, np.arange(len(knots)), knots).astype(np.float32)


def passings(travel: np.ndarray, spacing: float, offset: float) -> np.ndarray:
    """Samples at which `travel` crosses (k + offset) * spacing, for integers k."""
    first, last = np.ceil(travel[[0, -1]] / spacing - offset)
    marks = (np.arange(first, last) + offset) * spacing
    return np.minimum(np.searchsorted(travel, marks), len(travel) - 1)


def spread(events: np.ndarray, sd: float, rng: Rng) -> Float32[np.ndarray, " event"]:
    """Strength of every event, log-normal around 1."""
    return np.exp(sd * rng.standard_normal(len(events))).astype(np.float32)


def level_at(severity: float, level_db: tuple[float, float]) -> float:
    """Level at this severity, linear between those at severity 0 and 1."""
    return level_db[0] + (level_db[1] - level_db[0]) * severity


def intervals_of(sounding: Mask) -> list[tuple[float, float]]:
    """Runs of True as (start, end) in seconds."""
    edges = np.flatnonzero(np.diff(sounding, prepend=False, append=False))
    starts, ends = edges[::2] / SAMPLE_RATE, edges[1::2] / SAMPLE_RATE
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def amplitude(level_db: float) -> float:
    """Amplitude of a level in dB."""
    return float(10 ** (level_db / 20))


def rms(spectrum: Spectrum) -> float:
    """RMS over time of a signal with this one-sided spectrum (Parseval)."""
    return float(np.linalg.norm(spectrum)) * 2**0.5 / LENGTH


def spectrum(wave: Wave) -> Spectrum:
    """Spectrum of a wave of lead-in and clip."""
    return np.asarray(scipy.fft.rfft(wave))


def ring(force: Wave, response: Response) -> Wave:
    """Sound of what a force excites."""
    return to_wave((spectrum(force) * response).astype(np.complex64))


def to_wave(spectrum: Spectrum) -> Wave:
    """Wave of a spectrum."""
    return np.asarray(scipy.fft.irfft(spectrum, LENGTH))
