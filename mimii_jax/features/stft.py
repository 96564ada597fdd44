"""Spectra and mel filters of librosa's conventions, on the device.

Centred frames, periodic Hann window, no normalisation of the FFT, Slaney mel scale with
Slaney area norm, decibels over a floor of the float64 epsilon.
"""

from functools import cache

import jax
import jax.numpy as jnp
import librosa
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32

# Decibels of a power of zero: the float64 epsilon, as in the official baseline.
FLOOR = float(np.finfo(np.float64).eps)
# Parts of the mel filter bank that are multiplied apart from each other.
MEL_BANDS = 4


def power_spectrogram(
    wave: Float32[Array, " time"],
    *,
    n_fft: int,
    hop: int,
    pad_mode: str = "reflect",
    power: float = 2.0,
) -> Float32[Array, "frame frequency"]:
    """Magnitude to the `power` of centred frames under a periodic Hann window.

    Frame t is centred on sample t * hop: the wave is padded by n_fft // 2 samples on
    both sides. Equal to `abs(librosa.stft(...).T) ** power` of librosa 0.11.

    Parameters
    ----------
    wave : f32 [shape=(time,)], in [-1, 1]; time > n_fft // 2 with reflect padding
    n_fft, hop : int > 0, in samples
    pad_mode : "reflect" or "constant" (zeros), as in `numpy.pad`
    power : float > 0; 2 for power, 1 for magnitude

    Returns
    -------
    spectrum : f32 [shape=(1 + time // hop, 1 + n_fft // 2)]

    Raises
    ------
    ValueError
        If the wave is too short to be padded by reflection.
    """
    if pad_mode == "reflect" and wave.shape[0] <= n_fft // 2:
        raise ValueError(
            f"a clip of {wave.shape[0]} samples is too short for reflect padding at "
            f"n_fft={n_fft}: it needs more than {n_fft // 2}"
        )
    padded = jnp.pad(wave, n_fft // 2, mode=pad_mode)
    n_frames = 1 + (padded.shape[0] - n_fft) // hop
    # Slices rather than a gather of samples: a third of its time on a CPU.
    frame = jax.vmap(lambda start: lax.dynamic_slice(padded, (start,), (n_fft,)))
    frames = frame(hop * np.arange(n_frames))
    spectrum = jnp.fft.rfft(frames * _hann(n_fft)[None])
    energy = spectrum.real**2 + spectrum.imag**2
    return energy if power == 2.0 else energy ** (power / 2)


def decibels(x: Float[Array, "..."], power: float = 2.0) -> Float[Array, "..."]:
    """Level in dB of a spectrum that is a magnitude to the `power`: 20 / power * log10.

    A spectrum of zeros gives 20 / power * log10(2.2e-16), which is -156.5 dB for
    power 2 and finite for every power.
    """
    return np.float32(20 / power / np.log(10)) * jnp.log(x + np.float32(FLOOR))


def mel_spectrogram(
    spectrum: Float32[Array, "frame frequency"],
    *,
    sample_rate: int,
    n_fft: int,
    n_mels: int,
    fmin: float,
    fmax: float,
) -> Float32[Array, "frame mel"]:
    """A spectrogram through Slaney's mel filters; fmax 0 is half the sample rate."""
    mel = [
        # highest: a GPU would otherwise round the inputs to 10 bits (TF32).
        jnp.dot(spectrum[:, first : first + len(part)], part, precision="highest")
        for first, part in _mel_bands(sample_rate, n_fft, n_mels, fmin, fmax)
    ]
    return jnp.concatenate(mel, axis=1)


@cache
def _hann(n_fft: int) -> np.ndarray:
    """Periodic Hann window, built in float64."""
    phase = 2 * np.pi * np.arange(n_fft) / n_fft
    return (0.5 - 0.5 * np.cos(phase)).astype(np.float32)


@cache
def _mel_filters(
    sample_rate: int, n_fft: int, n_mels: int, fmin: float, fmax: float
) -> np.ndarray:
    """Slaney mel filter bank, f32 [shape=(1 + n_fft // 2, n_mels)]."""
    filters = librosa.filters.mel(
        sr=sample_rate,
        n_fft=n_fft,
        n_mels=n_mels,
        fmin=fmin,
        fmax=fmax or sample_rate / 2,
        dtype=np.float64,
    )
    return np.ascontiguousarray(filters.T, np.float32)


@cache
def _mel_bands(
    sample_rate: int, n_fft: int, n_mels: int, fmin: float, fmax: float
) -> list[tuple[int, np.ndarray]]:
    """The filter bank in bands of neighbouring filters: first FFT bin, filters.

    A filter is zero outside its triangle: in four bands of the default filters, only a
    quarter of the products remains.
    """
    filters = _mel_filters(sample_rate, n_fft, n_mels, fmin, fmax)
    bands = []
    for part in np.array_split(filters, min(MEL_BANDS, n_mels), axis=1):
        used = np.flatnonzero(part.any(axis=1))
        first, last = (used[0], used[-1] + 1) if len(used) else (0, 0)
        bands.append((int(first), part[first:last]))
    return bands
