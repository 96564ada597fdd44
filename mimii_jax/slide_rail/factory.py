"""The factory in which the simulated slide rails stand: its noise."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float32

from mimii_jax.slide_rail.acoustics import (
    Spectrum,
    Wave,
    amplitude,
    frequency,
    rms,
    slow,
    to_wave,
)
from mimii_jax.slide_rail.machines import (
    BEND_SD_DB,
    FACTORY_DBFS,
    FACTORY_SD_DB,
    GUST_DB,
    GUST_SD_DB,
    OCTAVES_HZ,
    SCENE_WEIGHTS,
    SCENES,
    TILT_SD_DB,
)


def factory(rng: np.random.Generator) -> tuple[Spectrum, float]:
    """Spectrum of the factory noise of one clip, and its RMS."""
    scene = rng.choice(len(SCENES), p=SCENE_WEIGHTS)
    octaves = np.log2(np.maximum(frequency(), 20.0))
    bend = rng.normal(0, BEND_SD_DB)
    bend += rng.normal(0, TILT_SD_DB) * np.log2(np.divide(OCTAVES_HZ, 500))
    psd_db = _scene_db(scene) + np.interp(octaves, np.log2(OCTAVES_HZ), bend)
    shape = (10 ** (psd_db / 20)).astype(np.float32)
    noise = rng.standard_normal(2 * len(shape), dtype=np.float32).view(np.complex64)
    noise *= shape
    noise[0] = noise[-1] = 0
    level = amplitude(rng.normal(FACTORY_DBFS, FACTORY_SD_DB))
    noise *= np.float32(level / rms(noise))
    return noise, level


def gusts(factory_rms: float, rng: np.random.Generator) -> Wave:
    """Hiss and whistles that swell now and then: leaking air, tools, vehicles."""
    level = factory_rms * amplitude(rng.normal(GUST_DB, GUST_SD_DB))
    hertz = frequency()
    centre, octaves = 2 ** rng.uniform([9.5, -6.0], [12.5, 0.3])  # 700 Hz to 6 kHz
    shape = np.exp(-0.5 * (np.log2(np.maximum(hertz, 20) / centre) / octaves) ** 2)
    noise = rng.standard_normal(2 * len(shape), dtype=np.float32).view(np.complex64)
    noise *= shape.astype(np.float32)
    noise[0] = noise[-1] = 0
    swell = np.exp(1.2 * slow(rng, 0.7)) * np.float32(level / rms(noise))
    return to_wave(noise) * swell


@lru_cache
def _scene_db(index: int) -> Float32[np.ndarray, " frequency"]:
    """Power density of a factory scene, in dB."""
    hertz = np.maximum(frequency(), 20.0)
    psd_db = np.interp(np.log2(hertz), np.log2(OCTAVES_HZ), SCENES[index].octaves_db)
    psd_db -= 12 * np.maximum(0, np.log2(31.5 / hertz))
    power = np.ones_like(psd_db)
    for centre, width, level_db in SCENES[index].lines:
        power += 10 ** (level_db / 10) / (1 + ((hertz - centre) / width) ** 2) ** 2
    return (psd_db + 10 * np.log10(power)).astype(np.float32)
