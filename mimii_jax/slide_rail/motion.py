"""How the carriage of a simulated slide rail moves."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from mimii_jax.slide_rail.acoustics import LENGTH, SAMPLE_RATE, Wave
from mimii_jax.slide_rail.machines import Mechanics


@dataclass(frozen=True, eq=False)
class Motion:
    """Where the carriage is and how fast, at every sample of lead-in and clip.

    Attributes
    ----------
    speed : f32 [shape=(time,)], relative to full speed, >= 0
    travel : f64 [shape=(time,)], distance run so far, in m, never decreasing
    stops : i64 [shape=(stroke,)], the samples at which the carriage meets an end stop
    """

    speed: Wave
    travel: Float[np.ndarray, " time"]
    stops: np.ndarray


def carriage(rail: Mechanics, wobble: float, rng: np.random.Generator) -> Motion:
    """Strokes with a trapezoid speed profile and a pause at each end stop.

    `wobble` in [0, 1] is how loose the belt is: it makes speed swing at its slap rate.
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
    lead = len(time) - LENGTH
    return Motion(
        speed[lead:].astype(np.float32),
        travel[lead:],
        stops[(stops >= 0) & (stops < LENGTH)],
    )
