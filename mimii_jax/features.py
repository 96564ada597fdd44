"""Front ends: int16 recordings in, time-frequency features out, on the device.

The conventions are those of the DCASE 2020 Task 2 baseline (librosa's defaults with
reflect padding): centred frames, periodic Hann window, no normalisation of the FFT,
Slaney mel scale with Slaney area norm, decibels over a floor of the float64 epsilon.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import librosa
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int, Int16

# Decibels of a power of zero: the float64 epsilon, as in the official baseline.
FLOOR = float(np.finfo(np.float64).eps)
# Parts of the mel filter bank that are multiplied apart from each other.
MEL_BANDS = 4
# Clips per step of the mapped front end: few enough that spectra stay in the cache.
CLIPS_IN_CACHE = 4
# Clips sent to the device at once: 20 MB of audio.
CLIPS_PER_TRANSFER = 64


@runtime_checkable
class FrontEnd(Protocol):
    """A frozen dataclass that maps one waveform to frames of features."""

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        ...

    @property
    def frequencies(self) -> Float[np.ndarray, " bin"]:
        """Centre of each bin, in Hz."""
        ...

    def __call__(self, wave: Float32[Array, " time"]) -> Float32[Array, "frame bin"]:
        """Features of one clip."""
        ...


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


@dataclass(frozen=True)
class LogMel:
    """Log-mel spectrogram in dB.

    Attributes
    ----------
    sample_rate : int > 0, in Hz
    n_fft, hop : int > 0, in samples
    n_mels : int > 0
    fmin, fmax : float, band limits in Hz; fmax 0 is half the sample rate
    power : float > 0, exponent of the magnitude before the mel filters
    pad_mode : "reflect" or "constant"
    """

    sample_rate: int
    n_fft: int
    hop: int
    n_mels: int
    fmin: float
    fmax: float
    power: float
    pad_mode: str

    def __post_init__(self) -> None:
        _check_front_end(self)
        if self.n_mels < 1:
            raise ValueError(f"features.n_mels={self.n_mels}: must be at least 1")

    @property
    def frequencies(self) -> Float[np.ndarray, " mel"]:
        """Centre of each mel filter, in Hz."""
        top = self.fmax or self.sample_rate / 2
        edges = librosa.mel_frequencies(self.n_mels + 2, fmin=self.fmin, fmax=top)
        return edges[1:-1]

    def __call__(self, wave: Float32[Array, " time"]) -> Float32[Array, "frame mel"]:
        """Log-mel spectrogram of one clip, in dB."""
        spectrum = power_spectrogram(
            wave,
            n_fft=self.n_fft,
            hop=self.hop,
            pad_mode=self.pad_mode,
            power=self.power,
        )
        bands = _mel_bands(
            self.sample_rate, self.n_fft, self.n_mels, self.fmin, self.fmax
        )
        mel = [
            # highest: a GPU would otherwise round the inputs to 10 bits (TF32).
            jnp.dot(spectrum[:, first : first + len(part)], part, precision="highest")
            for first, part in bands
        ]
        return decibels(jnp.concatenate(mel, axis=1), self.power)


@dataclass(frozen=True)
class Linear:
    """Spectrogram in dB on the FFT's own bins: what log-mel has before the mel filters.

    Attributes
    ----------
    sample_rate : int > 0, in Hz
    n_fft, hop : int > 0, in samples
    fmin, fmax : float, band limits in Hz, both included; fmax 0 is half the sample rate
    power : float > 0, exponent of the magnitude
    pad_mode : "reflect" or "constant"
    """

    sample_rate: int
    n_fft: int
    hop: int
    fmin: float
    fmax: float
    power: float
    pad_mode: str

    def __post_init__(self) -> None:
        _check_front_end(self)
        if not self._band.any():
            raise ValueError(
                f"features.fmin={self.fmin}, features.fmax={self.fmax}: no FFT bin "
                "lies in this band; widen it or raise features.n_fft"
            )

    @property
    def frequencies(self) -> Float[np.ndarray, " bin"]:
        """Frequency of each FFT bin in the band, in Hz."""
        return self._bins[self._band]

    @property
    def _bins(self) -> np.ndarray:
        return np.fft.rfftfreq(self.n_fft, 1 / self.sample_rate)

    @property
    def _band(self) -> np.ndarray:
        top = self.fmax or self.sample_rate / 2
        return (self._bins >= self.fmin) & (self._bins <= top)

    def __call__(self, wave: Float32[Array, " time"]) -> Float32[Array, "frame bin"]:
        """Spectrogram of one clip, in dB."""
        spectrum = power_spectrogram(
            wave,
            n_fft=self.n_fft,
            hop=self.hop,
            pad_mode=self.pad_mode,
            power=self.power,
        )
        first, last = np.flatnonzero(self._band)[[0, -1]]
        return decibels(spectrum[:, first : last + 1], self.power)


FRONT_ENDS = {"log_mel": LogMel, "linear": Linear}


def extract(
    front_end: FrontEnd,
    audio: Int16[np.ndarray, "clip time"],
    rows: Int[np.ndarray, " row"],
    advance: Callable[[int], None],
) -> Float32[Array, "row frame bin"]:
    """Features of the chosen clips, as one array on the device.

    Audio crosses to the device as int16, in chunks; only the features are ever whole.

    Parameters
    ----------
    front_end : one of `FRONT_ENDS`
    audio : i16 [shape=(clip, time)], full scale is 32768
    rows : int [shape=(row,)], which clips, at least one
    advance : told after each chunk how many more clips are done

    Returns
    -------
    features : f32 [shape=(row, frame, bin)]
    """
    chunk = min(CLIPS_PER_TRANSFER, len(rows))
    wave = jax.ShapeDtypeStruct(audio.shape[1:], np.float32)
    shape = jax.eval_shape(front_end, wave).shape
    features = jnp.zeros((len(rows), *shape), np.float32)
    for start in range(0, len(rows), chunk):
        # The last chunk overlaps the one before it: one shape, one compilation.
        first = min(start, len(rows) - chunk)
        waves = audio[rows[first : first + chunk]]
        # Two chunks at most: queued ones would hold as much audio as there is.
        features.block_until_ready()
        features = _extract_chunk(front_end, features, waves, first)
        advance(first + chunk - start)
    return features


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _extract_chunk(
    front_end: FrontEnd, features: Array, audio: Array, first: Array
) -> Array:
    chunk = lax.map(
        lambda clip: front_end(clip.astype(np.float32) / 32768),
        audio,
        batch_size=CLIPS_IN_CACHE,
    )
    return lax.dynamic_update_slice(features, chunk, (first, 0, 0))


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


def _check_front_end(front_end: LogMel | Linear) -> None:
    for field in ("sample_rate", "n_fft", "hop", "power"):
        value = getattr(front_end, field)
        if value <= 0:
            raise ValueError(f"features.{field}={value}: must be positive")
    nyquist = front_end.sample_rate / 2
    if not 0 <= front_end.fmin < (front_end.fmax or nyquist) <= nyquist:
        raise ValueError(
            f"features.fmin={front_end.fmin}, features.fmax={front_end.fmax}: "
            f"must be 0 <= fmin < fmax <= {nyquist:g} Hz (fmax 0 means {nyquist:g})"
        )
    if front_end.pad_mode not in ("reflect", "constant"):
        raise ValueError(
            f"features.pad_mode='{front_end.pad_mode}': must be 'reflect' or 'constant'"
        )
