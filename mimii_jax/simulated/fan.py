"""Sound of one clip of a simulated fan: rotation, blades, turbulence. Not calibrated.

Harmonics of the blades' passing rise above turbulence that the duct's resonances shape;
speed and turbulence drift slowly. Faults:

- unbalance: harmonics of the rotation, and everything swells once per turn;
- bearing: impacts at the rate of rollers that pass a pit, strongest under load;
- clogged: the fan slows down, and its turbulence rises.

The numbers are plausible for an industrial fan; none is compared with recordings.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Int16

from mimii_jax.simulated.acoustics import (
    LENGTH,
    SAMPLE_RATE,
    SAMPLES,
    Fault,
    Rng,
    Wave,
    amplitude,
    factory,
    frequency,
    level_at,
    modes,
    passings,
    record,
    ring,
    rms,
    room,
    shaped_noise,
    slow,
    spectrum,
    spread,
    to_wave,
    unit_power,
)

UNBALANCE, BEARING, CLOGGED = FAULT_KINDS = ("unbalance", "bearing", "clogged")


@dataclass(frozen=True)
class Fan:
    """One fan; levels against its turbulence in dB, at severity 0 and 1 of a fault."""

    rotation_hz: float
    blades: int
    tones_db: tuple[float, ...]  # harmonics of the blades' passing, from the first
    corner_hz: float  # above it, turbulence falls by 12 dB per octave
    duct_hz: tuple[float, ...]  # resonances of the duct
    rollers: float  # impacts of a pitted bearing per turn
    struck_hz: tuple[float, ...]  # resonances that these excite
    snr_db: float  # level of the faultless fan against the factory
    unbalance_db: tuple[float, float] = (-26.0, -8.0)  # of the rotation's harmonics
    bearing_db: tuple[float, float] = (-24.0, -6.0)
    clogged: tuple[float, float] = (0.01, 0.08)  # share of the speed that is lost
    clogged_db: tuple[float, float] = (0.5, 4.0)  # gain of the turbulence


_00 = Fan(24.5, 7, (-4, -8, -12, -15), 700, (180, 420, 910), 3.6, (2700, 4100), -3)
FANS = {
    "00": _00,
    "02": Fan(29.0, 5, (-2, -5, -8, -14), 1100, (140, 610), 4.4, (3300, 5200), -3),
    "04": Fan(16.2, 9, (-9, -11, -14, -18), 500, (230, 350), 5.2, (1900, 3600), -3),
    "06": replace(_00, rotation_hz=21.3, blades=8, corner_hz=900, duct_hz=(210, 520)),
}


def render(
    fan: Fan, fault: Fault | None, rng: Rng
) -> tuple[Int16[np.ndarray, " time"], list[tuple[float, float]]]:
    """Synthesise one clip, and the intervals in s in which its fault sounds: all."""
    kind, severity = (fault.kind, fault.severity) if fault else ("", 0.0)
    lost = level_at(severity, fan.clogged) if kind == CLOGGED else 0.0
    pace = (1 + 0.004 * rng.standard_normal()) * (1 + 0.002 * slow(rng, 0.5))
    turns = np.cumsum((1 - lost) * pace, dtype=np.float64)
    turns = turns * (fan.rotation_hz / SAMPLE_RATE) + rng.uniform()
    air = to_wave(shaped_noise(_turbulence(fan), rng))
    air *= 1 / np.sqrt(np.mean(air**2)) * np.exp(0.06 * slow(rng, 1.0))
    air *= 1 + 0.2 * np.cos(2 * np.pi * fan.blades * turns)
    tones = _harmonics(fan.blades * turns, fan.tones_db, rng)
    background, background_rms = factory(rng)
    level = amplitude(fan.snr_db + rng.normal(0, 0.7)) * background_rms
    gain = level / rms(spectrum((air + tones).astype(np.float32)) * room())
    if kind == CLOGGED:
        air *= amplitude(level_at(severity, fan.clogged_db))
    wave = air + tones
    if kind == UNBALANCE:
        strength = amplitude(level_at(severity, fan.unbalance_db))
        wave *= 1 + strength * np.cos(2 * np.pi * turns)
        wave += strength * _harmonics(turns, (0, -4, -8, -12), rng)
    if kind == BEARING:
        wave += amplitude(level_at(severity, fan.bearing_db)) * _impacts(
            fan, turns, rng
        )
    machine = spectrum((wave * gain).astype(np.float32)) * room()
    audio = record(machine, background, background_rms, rng)
    return audio, [(0.0, SAMPLES / SAMPLE_RATE)] if fault else []


def _harmonics(
    cycles: Float[np.ndarray, " time"], levels_db: tuple[float, ...], rng: Rng
) -> Float[np.ndarray, " time"]:
    """Sum of harmonics, each with a phase of its own."""
    wave = np.zeros(LENGTH)
    for number, level_db in enumerate(levels_db, 1):
        level = 2**0.5 * amplitude(level_db + rng.normal(0, 0.5))
        wave += level * np.cos(2 * np.pi * (number * cycles % 1 + rng.uniform()))
    return wave


def _impacts(fan: Fan, turns: np.ndarray, rng: Rng) -> Wave:
    """Impacts of a pitted bearing with unit power; a load turns with the shaft."""
    hits = passings(turns * fan.rollers, 1.0, rng.uniform())
    force = np.zeros(LENGTH, np.float32)
    load = 0.6 + 0.4 * np.cos(2 * np.pi * turns[hits])
    force[hits] = load * spread(hits, 0.3, rng)
    rings = ring(force, modes(fan.struck_hz, 25))
    return rings / np.sqrt(np.mean(rings**2))


@lru_cache
def _turbulence(fan: Fan) -> Float[np.ndarray, " frequency"]:
    """Amplitude of the air's noise over frequency, with the duct's resonances."""
    hertz = np.maximum(frequency(), 20.0).astype(np.float64)
    fall = 1 / (1 + (hertz / fan.corner_hz) ** 2)
    duct = 1 + 2 * np.abs(modes(fan.duct_hz, 10))
    return unit_power(fall * duct)
