"""Controls: one number per clip, with no learning.

A detector that does not beat them has learned nothing. Definitions are those of
librosa 0.11 with its defaults (n_fft 2048, hop 512, zero padding), at the clip's own
sample rate. Each number is expected to grow with a fault.
"""

import librosa
import numpy as np
from jaxtyping import Float, Int16

from mimii_jax import log
from mimii_jax.data.clips import Clips
from mimii_jax.results.table import CONTROLS, NO_SEED, Scores


def measure(
    audio: Int16[np.ndarray, " time"], sample_rate: int
) -> Float[np.ndarray, " control"]:
    """The controls of one clip, in the order of `CONTROLS`.

    In dB of full scale (-156.5: digital silence), Hz, 1, and sign changes per sample.
    """
    wave = audio.astype(np.float32) / 32768
    magnitude = np.abs(librosa.stft(wave))
    bandwidth = librosa.feature.spectral_bandwidth(S=magnitude, sr=sample_rate)
    energy = np.mean(np.square(wave, dtype=np.float64))
    return np.array(
        [
            10 * np.log10(energy + np.finfo(np.float64).eps),
            np.std(bandwidth),
            np.mean(librosa.feature.spectral_flatness(S=magnitude)),
            np.mean(np.diff(np.signbit(audio))),
        ],
        np.float64,
    )


def score_controls(clips: Clips) -> Scores:
    """Rows of the score table: every clip by every control."""

    def of_clip(row: int) -> np.ndarray:
        return measure(clips.audio[row], clips.sample_rate)

    measured = log.in_threads("controls", of_clip, range(len(clips)))
    columns = np.reshape(measured, (len(clips), len(CONTROLS))).T
    return Scores.concatenate(
        Scores.of_clips(name, NO_SEED, clips, score)
        for name, score in zip(CONTROLS, columns, strict=True)
    )
