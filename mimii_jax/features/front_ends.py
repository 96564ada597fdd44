"""Front ends: int16 recordings in, features of frames out, on the device.

Those of spectra have the conventions of the DCASE 2020 Task 2 baseline; see `stft`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import librosa
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int, Int16

from mimii_jax.features.stft import decibels, mel_spectrogram, power_spectrogram

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
    def frequencies(self) -> Float[np.ndarray, " bin"] | None:
        """Centre of each bin, in Hz; None where bins are no frequencies."""
        ...

    def __call__(self, wave: Float32[Array, " time"]) -> Float32[Array, "frame bin"]:
        """Features of one clip."""
        ...


@dataclass(frozen=True)
class Spectral:
    """What spectra need.

    Attributes
    ----------
    sample_rate : int > 0, in Hz
    n_fft, hop : int > 0, in samples
    fmin, fmax : float, band limits in Hz; fmax 0 is half the sample rate
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
        _require_positive(self, "sample_rate", "n_fft", "hop", "power")
        if not 0 <= self.fmin < self.top <= self.sample_rate / 2:
            nyquist = f"{self.sample_rate / 2:g}"
            raise ValueError(
                f"features.fmin={self.fmin}, features.fmax={self.fmax}: must be "
                f"0 <= fmin < fmax <= {nyquist} Hz (fmax 0 means {nyquist})"
            )
        if self.pad_mode not in ("reflect", "constant"):
            raise ValueError(
                f"features.pad_mode='{self.pad_mode}': must be 'reflect' or 'constant'"
            )

    @property
    def top(self) -> float:
        """Upper limit of the band, in Hz."""
        return self.fmax or self.sample_rate / 2

    def spectrum(
        self, wave: Float32[Array, " time"]
    ) -> Float32[Array, "frame frequency"]:
        """Magnitude to the `power` of one clip, on all bins of the FFT."""
        return power_spectrogram(
            wave,
            n_fft=self.n_fft,
            hop=self.hop,
            pad_mode=self.pad_mode,
            power=self.power,
        )


@dataclass(frozen=True)
class LogMel(Spectral):
    """Log-mel spectrogram in dB.

    Attributes
    ----------
    n_mels : int > 0, filters between the band limits; the others as in `Spectral`
    """

    n_mels: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_mels < 1:
            raise ValueError(f"features.n_mels={self.n_mels}: must be at least 1")

    @property
    def frequencies(self) -> Float[np.ndarray, " mel"]:
        """Centre of each mel filter, in Hz."""
        edges = librosa.mel_frequencies(self.n_mels + 2, fmin=self.fmin, fmax=self.top)
        return edges[1:-1]

    def __call__(self, wave: Float32[Array, " time"]) -> Float32[Array, "frame mel"]:
        """Log-mel spectrogram of one clip, in dB."""
        mel = mel_spectrogram(
            self.spectrum(wave),
            sample_rate=self.sample_rate,
            n_fft=self.n_fft,
            n_mels=self.n_mels,
            fmin=self.fmin,
            fmax=self.fmax,
        )
        return decibels(mel, self.power)


@dataclass(frozen=True)
class Linear(Spectral):
    """Spectrogram in dB on the FFT's own bins: what log-mel has before the mel filters.

    Both band limits are included.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
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
        return (self._bins >= self.fmin) & (self._bins <= self.top)

    def __call__(self, wave: Float32[Array, " time"]) -> Float32[Array, "frame bin"]:
        """Spectrogram of one clip, in dB."""
        first, last = np.flatnonzero(self._band)[[0, -1]]
        return decibels(self.spectrum(wave)[:, first : last + 1], self.power)


@dataclass(frozen=True)
class Raw:
    """The waveform itself, cut into frames of `hop` samples that do not overlap.

    A bin is a sample of the frame; samples at the end that fill no frame are left out.

    Attributes
    ----------
    sample_rate : int > 0, in Hz
    hop : int > 0, in samples
    """

    sample_rate: int
    hop: int

    def __post_init__(self) -> None:
        _require_positive(self, "sample_rate", "hop")

    @property
    def frequencies(self) -> None:
        """Samples are no frequencies."""
        return

    def __call__(self, wave: Float32[Array, " time"]) -> Float32[Array, "frame bin"]:
        """Frames of one clip, in [-1, 1]."""
        n_frames = wave.shape[0] // self.hop
        if not n_frames:
            raise ValueError(
                f"a clip of {wave.shape[0]} samples is shorter than "
                f"features.hop={self.hop}"
            )
        return wave[: n_frames * self.hop].reshape(n_frames, self.hop)


FRONT_ENDS = {"log_mel": LogMel, "linear": Linear, "raw": Raw}


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


def _require_positive(front_end: Spectral | Raw, *fields: str) -> None:
    for field in fields:
        value = getattr(front_end, field)
        if value <= 0:
            raise ValueError(f"features.{field}={value}: must be positive")
