"""Front ends: int16 recordings in, features of frames out, on the device."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Float32, Int, Int16

from mimii_jax.errors import require, require_positive
from mimii_jax.features.stft import (
    clip_spectrum,
    decibels,
    mel_filters,
    mel_frequencies,
    mel_spectrogram,
    power_spectrogram,
)

# Clips per step of the mapped front end: few enough that spectra stay in the cache.
CLIPS_IN_CACHE = 4
# Clips sent to the device at once: 20 MB of audio.
CLIPS_PER_TRANSFER = 64
TORCHAUDIO_FLOOR = -100.0  # dB


@runtime_checkable
class Audio(Protocol):
    """Clips of equal length [clip, time], int16; `np.asarray` of rows reads them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Clips, samples."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


@runtime_checkable
class FrontEnd(Protocol):
    """A frozen dataclass that maps one waveform to frames of features."""

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""
        ...

    @property
    def frequencies(self) -> Float[np.ndarray, " bin"] | None:
        """Centre of each bin, in Hz; None where bins are no frequencies.

        Further bins hold what isn't part of the frame.
        """
        ...

    def __call__(self, wave: Float32[Array, " time"]) -> Float32[Array, "frame bin"]:
        """Features of one clip."""
        ...


@dataclass(frozen=True)
class Linear:
    """Power spectrogram in dB on the FFT's bins from fmin to fmax, both included."""

    sample_rate: int  # in Hz
    n_fft: int  # in samples
    hop: int
    fmin: float  # in Hz
    fmax: float | None  # None: half the sample rate

    def __post_init__(self) -> None:
        require_positive(
            "features", sample_rate=self.sample_rate, n_fft=self.n_fft, hop=self.hop
        )
        band = f"features.fmin={self.fmin}, features.fmax={self.fmax}"
        require(
            0 <= self.fmin < self.top <= self.sample_rate / 2,
            f"{band}: must be 0 <= fmin < fmax <= {self.sample_rate / 2:g} Hz",
        )
        require(
            len(self.frequencies) > 0,
            f"{band}: no bin in this band; widen it or raise features.n_fft",
        )

    @property
    def top(self) -> float:
        """Upper limit of the band, in Hz."""
        return self.sample_rate / 2 if self.fmax is None else self.fmax

    @property
    def frequencies(self) -> Float[np.ndarray, " bin"]:
        """Centre of each bin, in Hz."""
        return np.fft.rfftfreq(self.n_fft, 1 / self.sample_rate)[self._band]

    @property
    def _band(self) -> slice:
        bins = np.fft.rfftfreq(self.n_fft, 1 / self.sample_rate)
        first = np.searchsorted(bins, self.fmin, "left")
        return slice(int(first), int(np.searchsorted(bins, self.top, "right")))

    def power(self, wave: Float32[Array, " time"]) -> Float32[Array, "frame frequency"]:
        """Power spectrogram of one clip, on all bins of the FFT."""
        return power_spectrogram(wave, n_fft=self.n_fft, hop=self.hop)

    def __call__(self, wave: Float32[Array, " time"]) -> Float32[Array, "frame bin"]:
        """Features of one clip."""
        return self.of_power(self.power(wave), wave)

    def of_power(
        self, power: Float32[Array, "frame frequency"], wave: Float32[Array, " time"]
    ) -> Float32[Array, "frame bin"]:
        """Spectrogram of one clip, in dB."""
        return decibels(power[:, self._band])


@dataclass(frozen=True)
class LogMel(Linear):
    """Log-mel spectrogram in dB: as `Linear`, through mel filters."""

    n_mels: int  # between the band limits
    htk: ClassVar[bool] = False  # HTK's mels without norm

    def __post_init__(self) -> None:
        require_positive("features", n_mels=self.n_mels)
        super().__post_init__()

    @property
    def frequencies(self) -> Float[np.ndarray, " mel"]:
        """Centre of each mel filter, in Hz."""
        n = self.n_mels + 2
        return mel_frequencies(n, self.fmin, self.top, self.htk)[1:-1]

    def of_power(
        self, power: Float32[Array, "frame frequency"], wave: Float32[Array, " time"]
    ) -> Float32[Array, "frame mel"]:
        """Log-mel spectrogram of one clip, in dB."""
        filters = mel_filters(
            self.sample_rate, self.n_fft, self.n_mels, self.fmin, self.top, self.htk
        )
        return decibels(mel_spectrogram(power, filters))


@dataclass(frozen=True)
class LogMelSpectrum(LogMel):
    """Log-mel spectrogram, and the spectrum of the whole clip in dB.

    Each frame has `spectrum_bins` further bins, which hold the next part of the clip's
    spectrum; so the frames' bins are standardised as those of `LogMel`, and the
    spectrum by about one mean and SD over all of its frequencies.
    """

    spectrum_bins: int = 32  # of a frame; 0: none

    def __post_init__(self) -> None:
        n = self.spectrum_bins
        super().__post_init__()
        require(
            n >= 0 and (n == 0 or self.hop % (2 * n) == 0),
            f"features.spectrum_bins={n}: twice as many must divide "
            f"features.hop={self.hop}",
        )

    def of_power(
        self, power: Float32[Array, "frame frequency"], wave: Float32[Array, " time"]
    ) -> Float32[Array, "frame bin"]:
        """Features of one clip, in dB."""
        mel = super().of_power(power, wave)
        if not self.spectrum_bins:
            return mel
        # Frames cover half the sample rate, and less than one of them remains.
        spectrum = decibels(clip_spectrum(wave, self.hop // (2 * self.spectrum_bins)))
        missing = len(mel) * self.spectrum_bins - len(spectrum)
        spectrum = jnp.pad(spectrum, (0, missing), mode="edge")
        return jnp.concatenate([mel, spectrum.reshape(len(mel), -1)], axis=1)


@dataclass(frozen=True)
class LogMelWave(LogMel):
    """Log-mel spectrogram of torchaudio's conventions, and the waveform.

    HTK's mels without norm, decibels over 1e-10. Each frame has `wave_samples` further
    bins: the hop of the wave that starts at the frame's centre, zeros beyond its end.
    """

    wave_samples: int  # of a frame: the hop; 0: none
    htk: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        n = self.wave_samples
        require(
            n in (0, self.hop),
            f"features.wave_samples={n}: must be features.hop={self.hop}, or 0",
        )

    def of_power(
        self, power: Float32[Array, "frame frequency"], wave: Float32[Array, " time"]
    ) -> Float32[Array, "frame bin"]:
        """Levels in dB, then samples in [-1, 1]."""
        mel = jnp.maximum(super().of_power(power, wave), TORCHAUDIO_FLOOR)
        if not self.wave_samples:
            return mel
        wave = jnp.pad(wave, (0, len(mel) * self.hop - len(wave)))
        return jnp.concatenate([mel, wave.reshape(len(mel), -1)], axis=1)


@dataclass(frozen=True)
class Raw:
    """The waveform itself, cut into frames of `hop` samples that don't overlap.

    A bin is a sample of the frame; samples at the end that fill no frame are left out.
    """

    sample_rate: int  # in Hz
    hop: int  # in samples

    def __post_init__(self) -> None:
        require_positive("features", sample_rate=self.sample_rate, hop=self.hop)

    @property
    def frequencies(self) -> None:
        """None: samples are no frequencies."""

    def __call__(self, wave: Float32[Array, " time"]) -> Float32[Array, "frame bin"]:
        """Frames of one clip, in [-1, 1]."""
        n_frames = wave.shape[0] // self.hop
        require(
            n_frames > 0,
            f"features.hop={self.hop}: a clip of {wave.shape[0]} samples is shorter",
        )
        return wave[: n_frames * self.hop].reshape(n_frames, self.hop)


FRONT_ENDS = {
    "log_mel": LogMel,
    "log_mel_spectrum": LogMelSpectrum,
    "log_mel_wave": LogMelWave,
    "linear": Linear,
    "raw": Raw,
}


def extract(
    front_end: FrontEnd,
    audio: Audio,
    rows: Int[np.ndarray, " row"],
    advance: Callable[[int], None],
    dtype: DTypeLike = np.float32,
) -> Float[Array, "row frame bin"]:
    """Features of the chosen clips, at least one, as one array on the device.

    Audio crosses to the device as int16, in chunks; only the features are ever whole.
    `advance` is called after each chunk with the number of its clips.
    """
    chunk = min(CLIPS_PER_TRANSFER, len(rows))
    wave = jax.ShapeDtypeStruct(audio.shape[1:], np.float32)
    shape = jax.eval_shape(front_end, wave).shape
    features = jnp.zeros((len(rows), *shape), dtype)
    for start in range(0, len(rows), chunk):
        # The last chunk overlaps the one before it: one shape, one compilation.
        first = min(start, len(rows) - chunk)
        waves = np.asarray(audio[rows[first : first + chunk]])
        # Two chunks at most: queued ones would hold as much audio as there is.
        features.block_until_ready()
        features = _extract_chunk(front_end, features, waves, first)
        advance(first + chunk - start)
    return features


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _extract_chunk(
    front_end: FrontEnd, features: Array, audio: Array, first: Array | int
) -> Array:
    chunk = map_clips(front_end, audio).astype(features.dtype)
    return lax.dynamic_update_slice(features, chunk, (first, 0, 0))


def map_clips(
    front_end: FrontEnd, audio: Int16[Array, "clip time"]
) -> Float32[Array, "clip frame bin"]:
    """Features of int16 clips; those of a clip don't depend on the others, to the bit.

    The batches of the map are full: XLA compiles a smaller one differently.
    """
    padded = jnp.pad(audio, ((0, -len(audio) % CLIPS_IN_CACHE), (0, 0)))
    features = lax.map(
        lambda clip: front_end(clip.astype(np.float32) / 32768),
        padded,
        batch_size=CLIPS_IN_CACHE,
    )
    return features[: len(audio)]
