"""What a fault adds to the sound of a simulated slide rail, and when."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from mimii_jax.slide_rail.acoustics import (
    LENGTH,
    SAMPLE_RATE,
    Spectrum,
    amplitude,
    frame_response,
    passings,
    rough_response,
    slow,
    spectrum,
    spread,
    strike,
    struck_response,
)
from mimii_jax.slide_rail.machines import BELT, DAMAGE, GREASE, Mechanics
from mimii_jax.slide_rail.motion import Motion


@dataclass(frozen=True)
class Fault:
    """What is wrong with a machine: one of `FAULT_KINDS`, severity in (0, 1]."""

    kind: str
    severity: float


def _rail_damage(
    rail: Mechanics, fault: Fault, motion: Motion, rng: np.random.Generator
) -> tuple[Spectrum, Bool[np.ndarray, " time"]]:
    """Strikes at two to four damaged places of the rail, in both directions.

    Each place is a patch of four centimetres with six pits.
    """
    places = rail.stroke_m * rng.uniform(0.1, 0.9, size=rng.integers(2, 5))
    pits = (places[:, None] + rng.uniform(-0.02, 0.02, (len(places), 6))).ravel()
    there_and_back = 2 * rail.stroke_m
    struck = np.concatenate(
        [
            passings(motion.travel, there_and_back, pit / there_and_back)
            for pit in (*pits, *(there_and_back - pits))
        ]
    )
    force = np.zeros(LENGTH, np.float32)
    np.add.at(force, struck, motion.speed[struck] * spread(struck, 0.3, rng))
    sounding = np.zeros(LENGTH, bool)
    for sample in struck:
        sounding[sample : sample + SAMPLE_RATE // 8] = True
    force *= strike(at(fault.severity, rail.fault_db[fault.kind]))
    return spectrum(force) * struck_response(rail), sounding


def _loose_belt(
    rail: Mechanics, fault: Fault, motion: Motion, rng: np.random.Generator
) -> tuple[Spectrum, Bool[np.ndarray, " time"]]:
    """Slaps of the belt while the carriage runs; its speed wobbles already."""
    moving = motion.speed > 0.02
    slaps = passings(
        np.cumsum(moving) * (rail.belt_hz / SAMPLE_RATE), 1.0, rng.uniform()
    )
    force = np.zeros(LENGTH, np.float32)
    force[slaps] = strike(at(fault.severity, rail.fault_db[fault.kind])) * spread(
        slaps, 0.3, rng
    )
    response = struck_response(rail) + amplitude(-6) * frame_response(rail)
    return spectrum(force) * response, moving


def _no_grease(
    rail: Mechanics, fault: Fault, motion: Motion, rng: np.random.Generator
) -> tuple[Spectrum, Bool[np.ndarray, " time"]]:
    """High-frequency friction, and bursts of stick-slip squeal with two overtones."""
    level = amplitude(at(fault.severity, rail.fault_db[fault.kind]))
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
    return spectrum(rough) * rough_response(rail) + spectrum(saw), motion.speed > 0.02


def at(severity: float, level_db: tuple[float, float]) -> float:
    """Level at this severity, linear between those at severity 0 and 1."""
    return level_db[0] + (level_db[1] - level_db[0]) * severity


FAULT_SOUNDS = {DAMAGE: _rail_damage, BELT: _loose_belt, GREASE: _no_grease}
