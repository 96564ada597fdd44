"""Spectra and mel filters of librosa's conventions, on the device.

Centred frames with reflect padding, periodic Hann window, no normalisation of the FFT,
Slaney mel scale with Slaney area norm, decibels over the float64 epsilon: those of the
DCASE 2020 Task 2 baseline.
"""

from functools import cache

import jax
import jax.numpy as jnp
import librosa
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32

from mimii_jax.errors import require

# Decibels of a power of zero: the float64 epsilon, as in the official baseline.
FLOOR = float(np.finfo(np.float64).eps)
# The mel filter bank is multiplied in this many bands.
MEL_BANDS = 4
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
    filters = librosa.filters.mel(
        sr=sample_rate,
        n_fft=n_fft,
        n_mels=n_mels,
        fmin=fmin,
        fmax=fmax,
        htk=htk,
        norm=None if htk else "slaney",
        dtype=np.float64,
    )
    filters = np.ascontiguousarray(filters.T, np.float32)
    bands = []
    for part in np.array_split(filters, min(MEL_BANDS, n_mels), axis=1):
        used = np.flatnonzero(part.any(axis=1))
        first, last = (used[0], used[-1] + 1) if len(used) else (0, 0)
        bands.append((int(first), part[first:last]))
    return bands
