"""Numbers of the simulated slide rails; `slide_rail` has the physics.

Levels are in dB, relative to each other; `Mechanics.snr_db` sets the machine as a
whole against the factory.
"""

from dataclasses import dataclass, replace
from typing import Any

DAMAGE, BELT, GREASE = FAULT_KINDS = ("rail_damage", "loose_belt", "no_grease")


@dataclass(frozen=True, eq=False)  # its responses are cached by identity
class Mechanics:
    """One slide rail; pairs of levels are those at severity 0 and 1 of a fault."""

    stroke_m: float
    speed_m_s: float  # full speed
    ramp_s: float  # time to reach full speed
    dwell_s: tuple[float, float]  # pause at each of the two end stops
    motor_hz: float  # fundamental of the motor at full speed
    motor_db: tuple[float, ...]  # levels of its harmonics, from the first
    friction_db: float  # level of the friction at full speed
    friction_tilt_db: float  # slope of its excitation per octave above 1 kHz
    modes: tuple[tuple[float, float, float], ...]  # resonances of rail and carriage:
    # (Hz, Q, dB above the direct sound)
    tick_pitch_m: float  # travel between two ball ticks
    tick_db: float  # their level at full speed
    knock_db: float  # energy of an end-stop knock, of one second at 0 dB
    frame_hz: tuple[float, ...]  # resonances of the frame, excited by knocks and slaps
    belt_hz: float  # slap rate of a loose belt, and the wobble of its speed
    squeal_hz: float  # stick-slip frequency of a rail without grease
    rings_hz: tuple[float, ...]  # sharp resonances that only a faulty contact excites
    ringing: float  # share in [0, 1] of a fault's energy that rings or squeals
    rough_hz: tuple[float, float]  # band of the rest of that energy
    snr_db: float  # level of the faultless machine against the factory
    fault_db: dict[str, tuple[float, float]]  # level of the sound of each kind of fault
    load_db: tuple[float, float]  # gain of the whole machine under any fault
    wear_db: tuple[float, float]  # further gain of the rail, its friction and ticks


FRICTION_SD_DB = 3.0  # over clips: grease, load, temperature

# Each row has the values of IDs 00, 02, 04 and 06.
_TABLE: dict[str, tuple[Any, ...]] = {
    "stroke_m": (0.5, 0.4, 0.7, 0.6),
    "speed_m_s": (0.45, 0.6, 0.5, 0.55),
    "ramp_s": (0.12, 0.08, 0.2, 0.18),
    "dwell_s": ((0.45, 0.7), (0.08, 0.08), (0.6, 0.9), (0.7, 0.7)),
    "motor_hz": (118.0, 96.0, 140.0, 131.0),
    "motor_db": (
        (-10, -4, -7, -3, -4, -3, -6, -6),
        (-4, 0, -6, -10, -8, -16, -14, -20),
        (-2, 0, -8, -6, -12, -10, -16, -18),
        (-4, 0, -5, -8, -10, -14, -12, -18),
    ),
    "friction_db": (-20, -14, -9, -9),
    "friction_tilt_db": (-2, -2, 0, 0),
    "modes": (
        ((480, 14, 12), (1750, 20, 8), (3000, 15, 8), (4600, 12, 6), (6600, 8, 4)),
        ((620, 12, 10), (1320, 18, 8), (2400, 15, 8), (4100, 12, 6), (5900, 8, 4)),
        ((820, 12, 8), (1900, 16, 8), (3500, 12, 8), (5200, 10, 8), (6900, 8, 6)),
        ((740, 12, 8), (2100, 16, 8), (3200, 12, 8), (4900, 10, 8), (6400, 8, 6)),
    ),
    "tick_pitch_m": (0.012, 0.015, 0.01, 0.011),
    "tick_db": (-26, -25, -16, -15),
    "knock_db": (-12, -14, -14, -14),
    "frame_hz": ((140, 310, 520), (115, 260, 610), (165, 350, 700), (150, 330, 640)),
    "belt_hz": (6.0, 8.0, 5.0, 5.5),
    "squeal_hz": (2600, 3300, 1400, 1250),
    "rings_hz": (
        (840, 1240, 1900, 2900),
        (860, 2300, 4700),
        (800, 1500, 2400, 3300),
        (610, 1020, 1800, 2500),
    ),
    "ringing": (0.6, 0.05, 0.998, 0.99),
    "rough_hz": ((900, 7000), (800, 1800), (1200, 8000), (1200, 8000)),
    "snr_db": (-6, -6, -6, -6),
    "fault_db": (
        {DAMAGE: (-12, -2), BELT: (-16.5, -2.5), GREASE: (-7, 4.5)},
        {DAMAGE: (-43, -17.5), BELT: (-39, -15.5), GREASE: (-22, -3)},
        {DAMAGE: (-15, -9.5), BELT: (-18, -11), GREASE: (-7.5, -2.5)},
        {DAMAGE: (-24, -14), BELT: (-30, -20), GREASE: (-22, -12)},
    ),
    "load_db": ((4.0, 6.4), (-0.5, -0.9), (-0.3, -0.5), (0, 2)),
    "wear_db": ((0, 0), (6, 8), (0, 0), (0, 0)),
}
MECHANICS = {
    machine_id: Mechanics(**{name: row[i] for name, row in _TABLE.items()})
    for i, machine_id in enumerate(("00", "02", "04", "06"))
}
_00, _02, _04 = (MECHANICS[machine_id] for machine_id in ("00", "02", "04"))
# The evaluation IDs, of which no measured values are published: sisters of 00, 02, 04.
MECHANICS |= {
    "01": replace(
        _00, stroke_m=0.55, motor_hz=109.0, dwell_s=(0.55, 0.60), squeal_hz=2900
    ),
    "03": replace(
        _02, stroke_m=0.36, motor_hz=104.0, dwell_s=(0.25, 0.40), squeal_hz=3000
    ),
    "05": replace(
        _04, stroke_m=0.64, motor_hz=127.0, dwell_s=(0.75, 0.75), squeal_hz=2350
    ),
}
