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
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float32, Int16

from mimii_jax.simulated.acoustics import (
    LEAD,
    LENGTH,
    SAMPLE_RATE,
    Fault,
    Mask,
    Rng,
    Spectrum,
    Wave,
    amplitude,
    factory,
    frequency,
    intervals_of,
    level_at,
    modes,
    passings,
    record,
    rms,
    room,
    slow,
    spectrum,
    spread,
    unit_power,
)
from mimii_jax.simulated.rails import BELT, DAMAGE, FRICTION_SD_DB, GREASE, Mechanics

Added = tuple[Spectrum, Mask]  # by a fault, and the samples at which it sounds


def render(
    rail: Mechanics, fault: Fault | None, rng: Rng
) -> tuple[Int16[np.ndarray, " time"], list[tuple[float, float]]]:
    """Synthesise one clip, and the intervals in s in which its fault sounds."""
    wobble = fault.severity if fault and fault.kind == BELT else 0.0
    motion = carriage(rail, wobble, rng)
    rubbing, rest = _machine(rail, motion, rng)
    machine = (rubbing + rest) * room()
    background, background_rms = factory(rng)
    snr_db = rail.snr_db + rng.normal(0, 0.7)
    gain = background_rms * amplitude(snr_db) / rms(machine)
    intervals = []
    if fault:
        level = amplitude(level_at(fault.severity, rail.fault_db[fault.kind]))
        sound, sounding = _FAULT_SOUNDS[fault.kind](rail, level, motion, rng)
        rubbing *= np.float32(amplitude(level_at(fault.severity, rail.wear_db)))
        machine = (rubbing + rest) * room()
        machine *= np.float32(amplitude(level_at(fault.severity, rail.load_db)))
        machine += sound * room()
        intervals = intervals_of(sounding[LEAD:])
    machine *= np.float32(gain)
    return record(machine, background, background_rms, rng), intervals


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
    friction_db = rail.friction_db + rng.normal(0, FRICTION_SD_DB)
    excitation *= motion.speed * np.float32(amplitude(friction_db))
    ticks = passings(motion.travel, rail.tick_pitch_m, rng.uniform(0, 1))
    per_second = rail.speed_m_s / rail.tick_pitch_m
    strength = amplitude(rail.tick_db) * np.sqrt(SAMPLE_RATE / per_second)
    excitation[ticks] += strength * motion.speed[ticks] * spread(ticks, 0.3, rng)
    knocks = np.zeros(LENGTH, np.float32)
    strike = amplitude(rail.knock_db) * SAMPLE_RATE**0.5
    knocks[motion.stops] = strike * spread(motion.stops, 0.15, rng)
    rest = spectrum(knocks) * _frame_response(rail)
    rest += spectrum(_motor(rail, motion, rng))
    return spectrum(excitation) * _rail_response(rail), rest


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
        level = 2**0.5 * amplitude(level_db + rng.normal(0, 0.5))
        wave += (harmonic * np.complex64(level * phase)).real
    return wave * np.minimum(1, 4 * motion.speed)


def _rail_damage(rail: Mechanics, level: float, motion: Motion, rng: Rng) -> Added:
    """Strikes at two to four patches of 4 cm with six pits, in both directions."""
    places = rail.stroke_m * rng.uniform(0.1, 0.9, size=rng.integers(2, 5))
    pits = (places[:, None] + rng.uniform(-0.02, 0.02, (len(places), 6))).ravel()
    cycle = 2 * rail.stroke_m  # there and back
    along = np.concatenate([pits, cycle - pits])
    strikes = [passings(motion.travel, cycle, place / cycle) for place in along]
    struck = np.concatenate(strikes)
    force = np.zeros(LENGTH, np.float32)
    np.add.at(force, struck, motion.speed[struck] * spread(struck, 0.3, rng))
    sounding = np.zeros(LENGTH, bool)
    for sample in struck:
        sounding[sample : sample + SAMPLE_RATE // 8] = True
    force *= level * SAMPLE_RATE**0.5
    return spectrum(force) * _struck_response(rail), sounding


def _loose_belt(rail: Mechanics, level: float, motion: Motion, rng: Rng) -> Added:
    """Slaps of the belt while the carriage runs; `carriage` makes its speed wobble."""
    moving = motion.speed > 0.02
    beats = np.cumsum(moving) * (rail.belt_hz / SAMPLE_RATE)
    slaps = passings(beats, 1.0, rng.uniform())
    force = np.zeros(LENGTH, np.float32)
    force[slaps] = level * SAMPLE_RATE**0.5 * spread(slaps, 0.3, rng)
    response = _struck_response(rail) + amplitude(-6) * _frame_response(rail)
    return spectrum(force) * response, moving


def _no_grease(rail: Mechanics, level: float, motion: Motion, rng: Rng) -> Added:
    """High-frequency friction, and bursts of stick-slip squeal with two overtones."""
    rough = rng.standard_normal(LENGTH, dtype=np.float32) * motion.speed
    rough *= np.float32(level * (1 - rail.ringing) ** 0.5)
    hertz = rail.squeal_hz * (1 + 0.04 * rng.standard_normal())
    pitch = 1 + 0.03 * (motion.speed - 1) + 0.004 * slow(rng, 8.0)
    cycles = np.cumsum(pitch, dtype=np.float64) * (hertz / SAMPLE_RATE)
    burst = np.clip(1 + slow(rng, 6.0), 0, 2) * np.minimum(1, 4 * motion.speed)
    saw = np.zeros(LENGTH, np.float32)
    for overtone in (1, 2, 3):
        if overtone * hertz < 0.45 * SAMPLE_RATE:
            saw += np.sin(2 * np.pi * (overtone * cycles % 1)) / overtone
    saw *= burst * np.float32(level * rail.ringing**0.5)
    added = spectrum(rough) * _rough_response(rail) + spectrum(saw)
    return added, motion.speed > 0.02


_FAULT_SOUNDS = {DAMAGE: _rail_damage, BELT: _loose_belt, GREASE: _no_grease}


@lru_cache
def _rail_response(rail: Mechanics) -> Spectrum:
    """Resonances of rail and carriage; white noise keeps its power."""
    hertz = np.maximum(frequency(), 20.0).astype(np.float64)
    response = np.ones(len(hertz), complex)
    for centre, q, level_db in rail.modes:
        response += amplitude(level_db) * modes([centre], q)
    tilt = rail.friction_tilt_db * np.log2(hertz / 1000)
    response *= 10 ** (np.minimum(tilt, 12) / 20) * (hertz / (hertz + 200))
    return unit_power(response).astype(np.complex64)


@lru_cache
def _frame_response(rail: Mechanics) -> Spectrum:
    """Resonances of the frame; an impulse keeps its energy."""
    return unit_power(modes(rail.frame_hz, 9)).astype(np.complex64)


@lru_cache
def _struck_response(rail: Mechanics) -> Spectrum:
    """Sharp rings and a broadband click; an impulse keeps its energy."""
    rings = unit_power(modes(rail.rings_hz, 120))
    click = _rough_response(rail)
    mixed = rail.ringing**0.5 * rings + (1 - rail.ringing) ** 0.5 * click
    return mixed.astype(np.complex64)


@lru_cache
def _rough_response(rail: Mechanics) -> Float32[np.ndarray, " frequency"]:
    """Band excited by rubbing and clicking metal; white noise keeps its power."""
    hertz = frequency()
    low, high = rail.rough_hz
    band = hertz**2 / (hertz**2 + low**2) / np.sqrt(1 + (hertz / high) ** 2)
    return unit_power(band).astype(np.float32)
