"""Sound of one clip of a simulated slide rail: mechanics, faults, room, factory.

A carriage runs back and forth on a rail with a trapezoid speed profile. Its sounds:

- the motor: harmonics of a frequency that follows the speed;
- the rail: friction noise that follows the speed, and the ticks of recirculating
  balls, both shaped by the resonances of rail and carriage;
- the frame: knocks at the end stops;
- the room: reverberation, and factory noise at a set signal-to-noise ratio.

Faults add to these: a damaged rail is struck wherever the carriage passes the damage, a
loose belt makes the speed wobble and slaps, lack of grease raises high-frequency
friction and squeals by stick-slip. Any fault may also change the level of the whole
machine and make its rail rub harder; the labels cover the added sounds only.

The room already rings when a clip starts, after one second of lead-in, which alone
circular convolution spoils.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import scipy.fft
from jaxtyping import Bool, Complex, Complex64, Float, Float32, Int16

from mimii_jax.simulated import rails
from mimii_jax.simulated.rails import BELT, DAMAGE, GREASE, OCTAVES_HZ, Mechanics

SAMPLE_RATE = 16_000
SAMPLES = 10 * SAMPLE_RATE
LEAD = SAMPLE_RATE
LENGTH = LEAD + SAMPLES  # 2^7 5^3 11: a fast FFT

Wave = Float32[np.ndarray, " time"]  # lead-in and clip
Spectrum = Complex64[np.ndarray, " frequency"]  # one-sided, of lead-in and clip
Response = Float[np.ndarray, " frequency"] | Complex[np.ndarray, " frequency"]
Mask = Bool[np.ndarray, " time"]
Rng = np.random.Generator
Added = tuple[Spectrum, Mask]  # by a fault, and the samples at which it sounds


@dataclass(frozen=True)
class Fault:
    """A fault of one of `FAULT_KINDS`, severity in (0, 1]."""

    kind: str
    severity: float


def render(
    rail: Mechanics, fault: Fault | None, rng: Rng
) -> tuple[Int16[np.ndarray, " time"], list[tuple[float, float]]]:
    """Synthesise one clip, and the intervals in s in which its fault sounds."""
    wobble = fault.severity if fault and fault.kind == BELT else 0.0
    motion = carriage(rail, wobble, rng)
    rubbing, rest = _machine(rail, motion, rng)
    machine = (rubbing + rest) * _room()
    background, background_rms = _factory(rng)
    snr_db = rail.snr_db + rng.normal(0, 0.7)
    gain = background_rms * _amplitude(snr_db) / _rms(machine)
    intervals = []
    if fault:
        level = _amplitude(_at(fault.severity, rail.fault_db[fault.kind]))
        sound, sounding = _FAULT_SOUNDS[fault.kind](rail, level, motion, rng)
        rubbing *= np.float32(_amplitude(_at(fault.severity, rail.wear_db)))
        machine = (rubbing + rest) * _room()
        machine *= np.float32(_amplitude(_at(fault.severity, rail.load_db)))
        machine += sound * _room()
        intervals = _intervals(sounding[LEAD:])
    machine *= np.float32(gain)
    machine += background
    wave = (_to_wave(machine) + _gusts(background_rms, rng))[LEAD:]
    audio = np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16)
    return audio, intervals


@dataclass(frozen=True, eq=False)
class Motion:
    """Motion of the carriage at every sample of lead-in and clip."""

    speed: Wave  # relative to full speed, >= 0
    travel: Float[np.ndarray, " time"]  # accumulated distance in m, never decreasing
    stops: np.ndarray  # samples at which the carriage meets an end stop


def carriage(rail: Mechanics, wobble: float, rng: Rng) -> Motion:
    """Simulate strokes of trapezoid speed, which a loose belt makes `wobble` (0 to 1).

    The duration of every stroke and pause varies by about one per cent.
    """
    run = rail.stroke_m / rail.speed_m_s + rail.ramp_s  # trapezoid of full speed
    period = 2 * run + sum(rail.dwell_s)
    strokes = 2 * int(np.ceil(LENGTH / SAMPLE_RATE / period) + 2)
    pace = 1 + 0.01 * rng.standard_normal(strokes)
    dwell = np.resize(rail.dwell_s, strokes) * (1 + 0.03 * rng.standard_normal(strokes))
    start = np.cumsum(run * pace + dwell) - (run * pace + dwell)
    start -= period * rng.uniform(0, 1)
    corners = np.array([0, rail.ramp_s, run - rail.ramp_s, run])
    knots = start[:, None] + pace[:, None] * corners  # [stroke, corner]
    height = np.array([0, 1, 1, 0]) / pace[:, None]
    time = np.arange(-period * SAMPLE_RATE // 1, LENGTH) / SAMPLE_RATE
    speed = np.interp(time, knots.ravel(), height.ravel())
    if wobble:
        swing = np.sin(2 * np.pi * (rail.belt_hz * time + rng.uniform()))
        speed = speed * (1 + 0.25 * wobble * swing)
    travel = np.cumsum(speed) * (rail.speed_m_s / SAMPLE_RATE)
    stops = np.rint(knots[:, -1] * SAMPLE_RATE).astype(int)
    stops = stops[(stops >= 0) & (stops < LENGTH)]
    return Motion(speed[-LENGTH:].astype(np.float32), travel[-LENGTH:], stops)


def _machine(rail: Mechanics, motion: Motion, rng: Rng) -> tuple[Spectrum, Spectrum]:
    """Spectra of the faultless machine without the room: the rail, and the rest."""
    excitation = rng.standard_normal(LENGTH, dtype=np.float32)
    friction_db = rail.friction_db + rng.normal(0, rails.FRICTION_SD_DB)
    excitation *= motion.speed * np.float32(_amplitude(friction_db))
    ticks = _passings(motion.travel, rail.tick_pitch_m, rng.uniform(0, 1))
    per_second = rail.speed_m_s / rail.tick_pitch_m
    strength = _amplitude(rail.tick_db) * np.sqrt(SAMPLE_RATE / per_second)
    excitation[ticks] += strength * motion.speed[ticks] * _spread(ticks, 0.3, rng)
    knocks = np.zeros(LENGTH, np.float32)
    strike = _amplitude(rail.knock_db) * SAMPLE_RATE**0.5
    knocks[motion.stops] = strike * _spread(motion.stops, 0.15, rng)
    rest = _spectrum(knocks) * _frame_response(rail)
    rest += _spectrum(_motor(rail, motion, rng))
    return _spectrum(excitation) * _rail_response(rail), rest


def _motor(rail: Mechanics, motion: Motion, rng: Rng) -> Wave:
    """Harmonics of a frequency that follows the speed, silent at rest."""
    hertz = rail.motor_hz * (1 + 0.004 * rng.standard_normal())
    cycles = np.cumsum(motion.speed, dtype=np.float64) * (hertz / SAMPLE_RATE)
    fundamental = np.exp(2j * np.pi * (cycles % 1)).astype(np.complex64)
    wave = np.zeros(LENGTH, np.float32)
    harmonic = np.ones(LENGTH, np.complex64)
    for level_db in rail.motor_db:
        harmonic *= fundamental
        phase = np.exp(2j * np.pi * rng.uniform())
        level = 2**0.5 * _amplitude(level_db + rng.normal(0, 0.5))
        wave += (harmonic * np.complex64(level * phase)).real
    return wave * np.minimum(1, 4 * motion.speed)


def _rail_damage(rail: Mechanics, level: float, motion: Motion, rng: Rng) -> Added:
    """Strikes at two to four patches of 4 cm with six pits, in both directions."""
    places = rail.stroke_m * rng.uniform(0.1, 0.9, size=rng.integers(2, 5))
    pits = (places[:, None] + rng.uniform(-0.02, 0.02, (len(places), 6))).ravel()
    cycle = 2 * rail.stroke_m  # there and back
    along = np.concatenate([pits, cycle - pits])
    strikes = [_passings(motion.travel, cycle, place / cycle) for place in along]
    struck = np.concatenate(strikes)
    force = np.zeros(LENGTH, np.float32)
    np.add.at(force, struck, motion.speed[struck] * _spread(struck, 0.3, rng))
    sounding = np.zeros(LENGTH, bool)
    for sample in struck:
        sounding[sample : sample + SAMPLE_RATE // 8] = True
    force *= level * SAMPLE_RATE**0.5
    return _spectrum(force) * _struck_response(rail), sounding


def _loose_belt(rail: Mechanics, level: float, motion: Motion, rng: Rng) -> Added:
    """Slaps of the belt while the carriage runs; `carriage` makes its speed wobble."""
    moving = motion.speed > 0.02
    beats = np.cumsum(moving) * (rail.belt_hz / SAMPLE_RATE)
    slaps = _passings(beats, 1.0, rng.uniform())
    force = np.zeros(LENGTH, np.float32)
    force[slaps] = level * SAMPLE_RATE**0.5 * _spread(slaps, 0.3, rng)
    response = _struck_response(rail) + _amplitude(-6) * _frame_response(rail)
    return _spectrum(force) * response, moving


def _no_grease(rail: Mechanics, level: float, motion: Motion, rng: Rng) -> Added:
    """High-frequency friction, and bursts of stick-slip squeal with two overtones."""
    rough = rng.standard_normal(LENGTH, dtype=np.float32) * motion.speed
    rough *= np.float32(level * (1 - rail.ringing) ** 0.5)
    hertz = rail.squeal_hz * (1 + 0.04 * rng.standard_normal())
    pitch = 1 + 0.03 * (motion.speed - 1) + 0.004 * _slow(rng, 8.0)
    cycles = np.cumsum(pitch, dtype=np.float64) * (hertz / SAMPLE_RATE)
    burst = np.clip(1 + _slow(rng, 6.0), 0, 2) * np.minimum(1, 4 * motion.speed)
    saw = np.zeros(LENGTH, np.float32)
    for overtone in (1, 2, 3):
        if overtone * hertz < 0.45 * SAMPLE_RATE:
            saw += np.sin(2 * np.pi * (overtone * cycles % 1)) / overtone
    saw *= burst * np.float32(level * rail.ringing**0.5)
    added = _spectrum(rough) * _rough_response(rail) + _spectrum(saw)
    return added, motion.speed > 0.02


_FAULT_SOUNDS = {DAMAGE: _rail_damage, BELT: _loose_belt, GREASE: _no_grease}


def _at(severity: float, level_db: tuple[float, float]) -> float:
    """Level at this severity, linear between those at severity 0 and 1."""
    return level_db[0] + (level_db[1] - level_db[0]) * severity


def _intervals(sounding: Mask) -> list[tuple[float, float]]:
    """Runs of True as (start, end) in seconds."""
    edges = np.flatnonzero(np.diff(sounding, prepend=False, append=False))
    starts, ends = edges[::2] / SAMPLE_RATE, edges[1::2] / SAMPLE_RATE
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def _factory(rng: Rng) -> tuple[Spectrum, float]:
    """Spectrum of the factory noise of one clip, and its RMS."""
    scene = rng.choice(len(rails.SCENES), p=rails.SCENE_WEIGHTS)
    octaves = np.log2(np.maximum(_frequency(), 20.0))
    bend = rng.normal(0, rails.BEND_SD_DB)
    bend += rng.normal(0, rails.TILT_SD_DB) * np.log2(np.divide(OCTAVES_HZ, 500))
    psd_db = _scene_db(scene) + np.interp(octaves, np.log2(OCTAVES_HZ), bend)
    noise = _shaped_noise(10 ** (psd_db / 20), rng)
    level = _amplitude(rng.normal(rails.FACTORY_DBFS, rails.FACTORY_SD_DB))
    noise *= np.float32(level / _rms(noise))
    return noise, level


def _gusts(factory_rms: float, rng: Rng) -> Wave:
    """Hiss and whistles that swell now and then: leaking air, tools, vehicles."""
    level = factory_rms * _amplitude(rng.normal(rails.GUST_DB, rails.GUST_SD_DB))
    centre, octaves = 2 ** rng.uniform([9.5, -6.0], [12.5, 0.3])  # 700 Hz to 6 kHz
    distance = np.log2(np.maximum(_frequency(), 20) / centre) / octaves
    noise = _shaped_noise(np.exp(-0.5 * distance**2), rng)
    swell = np.exp(1.2 * _slow(rng, 0.7)) * np.float32(level / _rms(noise))
    return _to_wave(noise) * swell


@lru_cache
def _scene_db(index: int) -> Float32[np.ndarray, " frequency"]:
    """Power density of a factory scene, in dB."""
    hertz = np.maximum(_frequency(), 20.0)
    scene = rails.SCENES[index]
    psd_db = np.interp(np.log2(hertz), np.log2(OCTAVES_HZ), scene.octaves_db)
    psd_db -= 12 * np.maximum(0, np.log2(31.5 / hertz))
    power = np.ones_like(psd_db)
    for centre, width, level_db in scene.lines:
        power += 10 ** (level_db / 10) / (1 + ((hertz - centre) / width) ** 2) ** 2
    return (psd_db + 10 * np.log10(power)).astype(np.float32)


@lru_cache
def _room() -> Spectrum:
    """Transfer function of the hall: direct sound and a decaying diffuse tail."""
    rng = np.random.default_rng(20)
    time = np.arange(int(0.6 * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(time)) * 10 ** (-3 * time / 0.45)
    tail *= 0.6 / np.sqrt(np.sum(tail**2))
    tail[0] += 1
    return np.asarray(scipy.fft.rfft(tail.astype(np.float32), LENGTH))


@lru_cache
def _rail_response(rail: Mechanics) -> Spectrum:
    """Resonances of rail and carriage; white noise keeps its power."""
    hertz = np.maximum(_frequency(), 20.0).astype(np.float64)
    response = np.ones(len(hertz), complex)
    for centre, q, level_db in rail.modes:
        response += _amplitude(level_db) * _modes([centre], q)
    tilt = rail.friction_tilt_db * np.log2(hertz / 1000)
    response *= 10 ** (np.minimum(tilt, 12) / 20) * (hertz / (hertz + 200))
    return _unit_power(response).astype(np.complex64)


@lru_cache
def _frame_response(rail: Mechanics) -> Spectrum:
    """Resonances of the frame; an impulse keeps its energy."""
    return _unit_power(_modes(rail.frame_hz, 9)).astype(np.complex64)


@lru_cache
def _struck_response(rail: Mechanics) -> Spectrum:
    """Sharp rings and a broadband click; an impulse keeps its energy."""
    rings = _unit_power(_modes(rail.rings_hz, 120))
    click = _rough_response(rail)
    mixed = rail.ringing**0.5 * rings + (1 - rail.ringing) ** 0.5 * click
    return mixed.astype(np.complex64)


@lru_cache
def _rough_response(rail: Mechanics) -> Float32[np.ndarray, " frequency"]:
    """Band excited by rubbing and clicking metal; white noise keeps its power."""
    hertz = _frequency()
    low, high = rail.rough_hz
    band = hertz**2 / (hertz**2 + low**2) / np.sqrt(1 + (hertz / high) ** 2)
    return _unit_power(band).astype(np.float32)


@lru_cache
def _frequency() -> Float32[np.ndarray, " frequency"]:
    """Frequencies of a spectrum, in Hz."""
    return np.fft.rfftfreq(LENGTH, 1 / SAMPLE_RATE).astype(np.float32)


def _modes(centres: Sequence[float], q: float) -> Complex[np.ndarray, " frequency"]:
    """Band-pass responses of resonances, each 1 at its centre, summed."""
    hertz = np.maximum(_frequency(), 20.0).astype(np.float64)
    response = np.zeros(len(hertz), complex)
    for centre in centres:
        response += 1 / (1 + 1j * q * (hertz / centre - centre / hertz))
    return response


def _unit_power(response: Response) -> Response:
    """Scale a response to a mean power of 1."""
    return response / np.sqrt(np.mean(np.abs(response) ** 2))


def _shaped_noise(shape: Float[np.ndarray, " frequency"], rng: Rng) -> Spectrum:
    """Spectrum of Gaussian noise with this amplitude, without DC and Nyquist."""
    noise = rng.standard_normal(2 * len(shape), dtype=np.float32).view(np.complex64)
    noise *= shape.astype(np.float32)
    noise[0] = noise[-1] = 0
    return noise


def _slow(rng: Rng, hertz: float) -> Wave:
    """Gaussian noise of unit variance that varies `hertz` times a second."""
    knots = rng.standard_normal(int(LENGTH / SAMPLE_RATE * hertz) + 2)
    at = np.arange(LENGTH) * (hertz / SAMPLE_RATE)
    return np.interp(at, np.arange(len(knots)), knots).astype(np.float32)


def _passings(travel: np.ndarray, spacing: float, offset: float) -> np.ndarray:
    """Samples at which `travel` crosses (k + offset) * spacing, for integers k."""
    first, last = np.ceil(travel[[0, -1]] / spacing - offset)
    marks = (np.arange(first, last) + offset) * spacing
    return np.minimum(np.searchsorted(travel, marks), len(travel) - 1)


def _spread(events: np.ndarray, sd: float, rng: Rng) -> Float32[np.ndarray, " event"]:
    """Strength of every event, log-normal around 1."""
    return np.exp(sd * rng.standard_normal(len(events))).astype(np.float32)


def _amplitude(level_db: float) -> float:
    """Amplitude of a level in dB."""
    return float(10 ** (level_db / 20))


def _rms(spectrum: Spectrum) -> float:
    """RMS over time of a signal with this one-sided spectrum (Parseval)."""
    return float(np.linalg.norm(spectrum)) * 2**0.5 / LENGTH


def _spectrum(wave: Wave) -> Spectrum:
    return np.asarray(scipy.fft.rfft(wave))


def _to_wave(spectrum: Spectrum) -> Wave:
    return np.asarray(scipy.fft.irfft(spectrum, LENGTH))
