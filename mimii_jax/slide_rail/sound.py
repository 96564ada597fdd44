"""The sound of one clip of a simulated slide rail: mechanics, faults, room, factory.

A carriage runs back and forth on a rail with a trapezoid speed profile. What sounds:

- the motor: harmonics of a frequency that follows the speed;
- the rail: friction noise that follows the speed, and the ticks of recirculating
  balls, both shaped by the resonances of rail and carriage;
- the frame: knocks at the end stops;
- the room: reverberation, and factory noise at a set signal-to-noise ratio.

Faults add to these: rail damage strikes wherever the carriage passes a damaged
place, a loose belt makes the speed wobble and slaps, lack of grease raises
high-frequency friction and squeals by stick-slip. Any fault may make the machine as a
whole louder or quieter too, and its rail rub harder, all the while it moves; the
intervals in which a fault sounds count its own sounds only.
"""

import numpy as np
from jaxtyping import Bool, Int16

from mimii_jax.slide_rail.acoustics import (
    LEAD,
    LENGTH,
    SAMPLE_RATE,
    Spectrum,
    Wave,
    amplitude,
    frame_response,
    passings,
    rail_response,
    rms,
    room,
    spectrum,
    spread,
    strike,
    to_wave,
)
from mimii_jax.slide_rail.factory import factory, gusts
from mimii_jax.slide_rail.faults import FAULT_SOUNDS, Fault, at
from mimii_jax.slide_rail.machines import BELT, FRICTION_SD_DB, Mechanics
from mimii_jax.slide_rail.motion import Motion, carriage


def render(
    rail: Mechanics, fault: Fault | None, rng: np.random.Generator
) -> tuple[Int16[np.ndarray, " time"], list[tuple[float, float]]]:
    """Sound of one clip, and when its fault sounds.

    Returns
    -------
    audio : i16 [shape=(160000,)], 10 s at 16 kHz
    intervals : start and end in s, in order and apart, within [0, 10]; none if no fault
    """
    wobble = fault.severity if fault and fault.kind == BELT else 0.0
    motion = carriage(rail, wobble, rng)
    rubbing, rest = _machine(rail, motion, rng)
    machine = (rubbing + rest) * room()
    background, background_rms = factory(rng)
    snr_db = rail.snr_db + rng.normal(0, 0.7)
    gain = background_rms * amplitude(snr_db) / rms(machine)
    intervals = []
    if fault:
        sound, sounding = FAULT_SOUNDS[fault.kind](rail, fault, motion, rng)
        rubbing *= np.float32(amplitude(at(fault.severity, rail.wear_db)))
        machine = (rubbing + rest) * room()
        machine *= np.float32(amplitude(at(fault.severity, rail.load_db)))
        machine += sound * room()
        intervals = _intervals(sounding[LEAD:])
    machine *= np.float32(gain)
    machine += background
    wave = (to_wave(machine) + gusts(background_rms, rng))[LEAD:]
    audio = np.clip(np.rint(wave * 32768), -32768, 32767).astype(np.int16)
    return audio, intervals


def _machine(
    rail: Mechanics, motion: Motion, rng: np.random.Generator
) -> tuple[Spectrum, Spectrum]:
    """Spectra of the faultless machine without the room: the rail, and the rest."""
    excitation = rng.standard_normal(LENGTH, dtype=np.float32)
    friction_db = rail.friction_db + rng.normal(0, FRICTION_SD_DB)
    excitation *= motion.speed * np.float32(amplitude(friction_db))
    ticks = passings(motion.travel, rail.tick_pitch_m, rng.uniform(0, 1))
    per_second = rail.speed_m_s / rail.tick_pitch_m
    strength = amplitude(rail.tick_db) * np.sqrt(SAMPLE_RATE / per_second)
    excitation[ticks] += strength * motion.speed[ticks] * spread(ticks, 0.3, rng)
    knocks = np.zeros(LENGTH, np.float32)
    knocks[motion.stops] = strike(rail.knock_db) * spread(motion.stops, 0.15, rng)
    rest = spectrum(knocks) * frame_response(rail)
    rest += spectrum(_motor(rail, motion, rng))
    return spectrum(excitation) * rail_response(rail), rest


def _motor(rail: Mechanics, motion: Motion, rng: np.random.Generator) -> Wave:
    """Harmonics of a frequency that follows the speed, silent at rest."""
    hertz = rail.motor_hz * (1 + 0.004 * rng.standard_normal())
    cycles = np.cumsum(motion.speed, dtype=np.float64) * (hertz / SAMPLE_RATE)
    turn = np.exp(2j * np.pi * (cycles % 1)).astype(np.complex64)
    wave = np.zeros(LENGTH, np.float32)
    harmonic = np.ones(LENGTH, np.complex64)
    for level_db in rail.motor_db:
        harmonic *= turn
        phase = np.exp(2j * np.pi * rng.uniform())
        level = 2**0.5 * amplitude(level_db + rng.normal(0, 0.5))
        wave += (harmonic * np.complex64(level * phase)).real
    return wave * np.minimum(1, 4 * motion.speed)


def _intervals(sounding: Bool[np.ndarray, " time"]) -> list[tuple[float, float]]:
    """Runs of True as (start, end) in seconds."""
    edges = np.flatnonzero(np.diff(sounding, prepend=False, append=False))
    return [
        (float(start) / SAMPLE_RATE, float(end) / SAMPLE_RATE)
        for start, end in edges.reshape(-1, 2)
    ]
