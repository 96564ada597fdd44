"""Spectra and mel filters of librosa's conventions, on the device.

Centred frames with reflect padding, periodic Hann window, no normalisation of the FFT,
Slaney mel scale with Slaney area norm, decibels over the float64 epsilon: those of the
DCASE 2020 Task 2 baseline.
"""

import warnings
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32

from mimii_jax.errors import require

# Decibels of a power of zero: the float64 epsilon, as in the official baseline.
FLOOR = float(np.finfo(np.float64).eps)
# The mel filter bank is multiplied in this many bands.
MEL_BANDS = 4
# Slaney's mel scale: linear up to 1 kHz, then logarithmic.
LINEAR_HZ, HZ_PER_MEL, LOG_STEP = 1000.0, 200.0 / 3, np.log(6.4) / 27.0
Filters = list[tuple[int, np.ndarray]]  # first FFT bin, filters [frequency mel]


def power_spectrogram(
    wave: Float32[Array, " time"], *, n_fft: int, hop: int
) -> Float32[Array, "frame frequency"]:
    """Power spectrogram of centred frames under a periodic Hann window.

    Frame t is centred on sample t * hop: the wave is padded by reflection, with
    n_fft // 2 samples on both sides. Equal to `abs(librosa.stft(...).T) ** 2` of
    librosa 0.11 with `pad_mode="reflect"`.

    Parameters
    ----------
    wave : f32 [shape=(time,)], in [-1, 1]; time > n_fft // 2
    n_fft, hop : int > 0, in samples

    Returns
    -------
    power : f32 [shape=(1 + time // hop, 1 + n_fft // 2)]
    """
    require(
        wave.shape[0] > n_fft // 2,
        f"features.n_fft={n_fft}: a clip of {wave.shape[0]} samples is too short for "
        f"reflect padding, which needs more than {n_fft // 2}",
    )
    padded = jnp.pad(wave, n_fft // 2, mode="reflect")
    n_frames = 1 + (padded.shape[0] - n_fft) // hop
    # Slices rather than a gather of samples: a third of its time on a CPU.
    frame = jax.vmap(lambda start: lax.dynamic_slice(padded, (start,), (n_fft,)))
    frames = frame(hop * np.arange(n_frames))
    spectrum = jnp.fft.rfft(frames * hann(n_fft)[None])
    return spectrum.real**2 + spectrum.imag**2


def clip_spectrum(wave: Float32[Array, " time"], size: int) -> Float32[Array, " bin"]:
    """Power spectrum of a whole clip, mean over each `size` bins of its FFT.

    The last ones are continued by the power at half the sample rate.
    """
    spectrum = jnp.fft.rfft(wave * hann(len(wave)))
    power = spectrum.real**2 + spectrum.imag**2
    power = jnp.pad(power, (0, -len(power) % size), mode="edge")
    return jnp.mean(power.reshape(-1, size), axis=1)


def decibels(power: Float[Array, "..."]) -> Float[Array, "..."]:
    """Level of a power in dB; -156.5 dB for zero."""
    return np.float32(10 / np.log(10)) * jnp.log(power + np.float32(FLOOR))


def mel_spectrogram(
    power: Float32[Array, "frame frequency"], filters: Filters
) -> Float32[Array, "frame mel"]:
    """Power spectrogram through mel filters."""
    mel = [
        # highest: a GPU would otherwise round the inputs to 10 bits (TF32).
        jnp.dot(power[:, first : first + len(part)], part, precision="highest")
        for first, part in filters
    ]
    return jnp.concatenate(mel, axis=1)


@cache
def hann(n_fft: int) -> np.ndarray:
    """Periodic Hann window, built in float64."""
    phase = 2 * np.pi * np.arange(n_fft) / n_fft
    return (0.5 - 0.5 * np.cos(phase)).astype(np.float32)


def mel_frequencies(
    n: int, fmin: float, fmax: float, htk: bool = False
) -> Float[np.ndarray, " n"]:
    """Frequencies at even distances on Slaney's mel scale, or HTK's, in Hz."""
    linear_mel = LINEAR_HZ / HZ_PER_MEL

    def to_mel(hz: float) -> float:
        if htk:
            return 2595.0 * np.log10(1.0 + hz / 700.0)
        above = linear_mel + np.log(max(hz / LINEAR_HZ, 1.0)) / LOG_STEP
        return hz / HZ_PER_MEL if hz < LINEAR_HZ else above

    mel = np.linspace(to_mel(fmin), to_mel(fmax), n)
    if htk:
        return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
    above = LINEAR_HZ * np.exp(LOG_STEP * np.maximum(mel - linear_mel, 0.0))
    return np.where(mel < linear_mel, HZ_PER_MEL * mel, above)


@cache
def mel_filters(
    sample_rate: int,
    n_fft: int,
    n_mels: int,
    fmin: float,
    fmax: float,
    htk: bool = False,
) -> Filters:
    """Slaney's filter bank, or HTK's without norm, in bands of neighbouring filters.

    A filter is zero outside its triangle: in four bands of the default filters, only a
    quarter of the products remains.
    """
    edges = mel_frequencies(n_mels + 2, fmin, fmax, htk)
    away = edges[:, None] - np.fft.rfftfreq(n_fft, 1 / sample_rate)[None]
    width = np.diff(edges)[:, None]
    triangles = np.minimum(-away[:-2] / width[:-1], away[2:] / width[1:])
    area = 1.0 if htk else (edges[2:] - edges[:-2])[:, None] / 2
    filters = np.maximum(0, triangles) / area
    if not filters[edges[:-2] > 0].any(axis=1).all():
        warnings.warn(
            f"features.n_mels={n_mels}: some filters lie between two frequencies of "
            f"the FFT and give silence; use fewer, or a larger features.n_fft={n_fft}",
            stacklevel=2,
        )
    filters = np.ascontiguousarray(filters.T, np.float32)
    bands = []
    for part in np.array_split(filters, min(MEL_BANDS, n_mels), axis=1):
        used = np.flatnonzero(part.any(axis=1))
        first, last = (used[0], used[-1] + 1) if len(used) else (0, 0)
        bands.append((int(first), part[first:last]))
    return bands
