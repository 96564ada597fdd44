"""Sound of one clip of a simulated solenoid valve: sparse clicks. Not calibrated.

The valve opens and closes again and again. Either way its armature strikes, which
rings, and the opened valve lets air pass for a moment. Faults:

- leak: air hisses while the valve is closed;
- contaminated: some strokes stick, and end late and softly;
- worn: the armature bounces when the valve closes.

The numbers are plausible for a pneumatic valve; none is compared with recordings.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int16

from mimii_jax.simulated.acoustics import (
    LEAD,
    LENGTH,
    SAMPLE_RATE,
    Fault,
    Rng,
    Spectrum,
    amplitude,
    factory,
    frequency,
    intervals_of,
    level_at,
    modes,
    record,
    ring,
    rms,
    room,
    shaped_noise,
    spectrum,
    spread,
    to_wave,
    unit_power,
)

LEAK, CONTAMINATED, WORN = FAULT_KINDS = ("leak", "contaminated", "worn")


@dataclass(frozen=True)
class Valve:
    """One valve; pairs of numbers are those at severity 0 and 1 of a fault."""

    period_s: float  # from opening to opening
    open_s: float
    rings_hz: tuple[float, ...]  # resonances of the struck seat
    q: float  # of these
    air_hz: tuple[float, float]  # band of passing air
    air_db: float  # of the burst against the strikes
    snr_db: float  # level of the faultless valve against the factory
    leak_db: tuple[float, float] = (-20.0, 0.0)  # against the strikes
    late_s: tuple[float, float] = (0.03, 0.2)  # of a stroke that sticks
    stuck: tuple[float, float] = (0.15, 0.7)  # share of such strokes
    bounce_db: tuple[float, float] = (-16.0, -1.0)  # against the strike


VALVES = {
    "00": Valve(0.80, 0.25, (1150, 2600, 4300), 30, (1500, 6000), -12, -3),
    "02": Valve(1.15, 0.50, (820, 1900, 3300), 40, (900, 4000), -8, -3),
    "04": Valve(0.62, 0.20, (1600, 3100, 5600), 22, (2500, 7000), -16, -3),
    "06": Valve(0.95, 0.40, (980, 2250, 4700), 35, (1200, 5000), -10, -3),
}


def render(
    valve: Valve, fault: Fault | None, rng: Rng
) -> tuple[Int16[np.ndarray, " time"], list[tuple[float, float]]]:
    """Synthesise one clip, and the intervals in s in which its fault sounds."""
    kind, severity = (fault.kind, fault.severity) if fault else ("", 0.0)
    count = int(LENGTH / SAMPLE_RATE / valve.period_s) + 3
    period = valve.period_s * (1 + 0.02 * rng.standard_normal(count))
    opens = np.cumsum(period) - period[0] * (1 + rng.uniform())
    closes = opens + valve.open_s * (1 + 0.03 * rng.standard_normal(count))
    strength = spread(opens, 0.1, rng), 0.8 * spread(closes, 0.1, rng)
    sounding = np.zeros(LENGTH, bool)
    if kind == CONTAMINATED:
        sticks = rng.random(count) < level_at(severity, valve.stuck)
        late = level_at(severity, valve.late_s) * spread(opens, 0.3, rng)
        for opened, by in zip(opens[sticks], late[sticks], strict=True):
            sounding |= _between(opened, opened + by + 0.1)
        opens = np.where(sticks, opens + late, opens)
        strength[0][sticks] *= amplitude(-8)
    air = _noise(valve, rng) * _envelope(opens, valve.open_s / 3)
    force = _strikes(opens, strength[0]) + _strikes(closes, strength[1])
    seat = unit_power(modes(valve.rings_hz, valve.q))
    background, background_rms = factory(rng)
    level = amplitude(valve.snr_db + rng.normal(0, 0.7)) * background_rms
    sound = ring(force, seat)
    struck = np.sqrt(np.mean(sound**2))
    air *= struck * amplitude(valve.air_db) / np.sqrt(np.mean(air**2))
    gain = level / rms(spectrum((sound + air).astype(np.float32)) * room())
    if kind == LEAK:
        shut = ~_any(opens, closes)
        hiss = _noise(valve, rng) * shut
        hiss *= struck * amplitude(level_at(severity, valve.leak_db))
        air, sounding = air + hiss, shut
    if kind == WORN:
        bounces = np.zeros(LENGTH, np.float32)
        fall = level_at(severity, valve.bounce_db)
        for number in range(1, 5):
            after = 0.022 * number * (1 + 0.1 * rng.standard_normal(count))
            level_db = fall - 3 * (number - 1)
            bounces += _strikes(closes + after, amplitude(level_db) * strength[1])
        sound = sound + ring(bounces, seat)
        sounding = _any(closes, closes + 0.15)
    wave = ((sound + air) * gain).astype(np.float32)
    audio = record(spectrum(wave) * room(), background, background_rms, rng)
    return audio, intervals_of(sounding[LEAD:]) if fault else []


def _strikes(times: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Impulses at these times in s; those outside are left out."""
    at = np.rint(times * SAMPLE_RATE).astype(int)
    inside = (at >= 0) & (at < LENGTH)
    force = np.zeros(LENGTH, np.float32)
    force[at[inside]] = strength[inside]
    return force


def _noise(valve: Valve, rng: Rng) -> np.ndarray:
    """Noise of passing air, of unit power."""
    hertz, (low, high) = frequency(), valve.air_hz
    band = hertz**2 / (hertz**2 + low**2) / (1 + (hertz / high) ** 4)
    noise: Spectrum = shaped_noise(band, rng)
    return to_wave(noise) / rms(noise)


def _envelope(starts: np.ndarray, decay_s: float) -> np.ndarray:
    """A burst after each start, which dies away."""
    at = np.arange(LENGTH) / SAMPLE_RATE
    last = np.searchsorted(starts, at, side="right") - 1
    since = at - starts[np.maximum(last, 0)]
    return np.where(last < 0, 0, np.exp(-np.maximum(since, 0) / decay_s))


def _between(start: float, end: float) -> Bool[np.ndarray, " time"]:
    at = np.arange(LENGTH) / SAMPLE_RATE
    return (at >= start) & (at < end)


def _any(starts: np.ndarray, ends: np.ndarray) -> Bool[np.ndarray, " time"]:
    """Samples within any of these intervals."""
    pairs = zip(starts, ends, strict=True)
    return np.any([_between(start, end) for start, end in pairs], axis=0)
