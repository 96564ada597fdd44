"""Functionals: a clip's sound in a few hundred numbers, without training.

Three groups, each a representation by itself: `bands` and `descriptors` summarise
spectra over time by `STATISTICS`, `modulation` keeps their rhythm.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float32, Int

from mimii_jax import log
from mimii_jax.errors import require
from mimii_jax.features.front_ends import (
    CLIPS_IN_CACHE,
    CLIPS_PER_TRANSFER,
    Audio,
    Linear,
)
from mimii_jax.features.stft import decibels, mel_filters, mel_spectrogram
from mimii_jax.features.yamnet import SAMPLE_RATE, yamnet

STATISTICS = ("mean", "sd", "p20", "p80", "mean_abs_difference")
LEVEL_BANDS = 8
# The series that `descriptors` summarises, before those of the eight bands' levels.
SERIES = (
    "level",
    "centroid",
    "bandwidth",
    "skewness",
    "flatness",
    "rolloff",
    "flux",
    "crest",
)
ROLLOFF = 0.85  # share of the magnitude below the roll-off
SUMMED = 27  # bins of a block of the roll-off
CHUNKS = 2  # that are computed at the same time
TINY = 1e-10  # least power in a flatness or crest, as in librosa
MODULATED_BANDS = 32
HALF_OCTAVES_HZ = 0.25 * 2 ** (np.arange(13) / 2)  # of the modulation, to 16 Hz
MODULATION_FLOOR = 0.1  # dB^2: well below the modulation of noise


def statistics(
    series: Float32[Array, "frame column"],
) -> Float32[Array, " statistic"]:
    """Statistics over time, by name in `STATISTICS`; all columns of a statistic.

    The 20th and 80th percentiles are interpolated linearly, as NumPy's. The mean
    absolute difference is that of neighbouring frames, 0 for a single frame.
    """
    p20, p80 = _percentiles(series, np.array([0.2, 0.8]))
    steps = jnp.abs(jnp.diff(series, axis=0, prepend=series[:1]))
    moved = jnp.sum(steps, axis=0) / max(len(series) - 1, 1)
    parts = [jnp.mean(series, axis=0), jnp.std(series, axis=0), p20, p80, moved]
    return jnp.concatenate(parts)


def _percentiles(
    x: Float32[Array, "frame column"], shares: np.ndarray
) -> Float32[Array, "share column"]:
    """Percentiles of each column, of finite numbers, as NumPy's.

    Order statistics are found by bisection of the floats' bits, which a CPU does 10
    times as fast as XLA sorts.
    """
    at = shares * (len(x) - 1)
    rank = at.astype(np.int32)
    weight = (at - rank).astype(np.float32)[:, None]
    least, most = np.int32(-(2**31)), np.int32(2**31 - 1)

    def ordered(bits: Array) -> Array:
        """Integers in the order of the floats with these bits; its own inverse."""
        return jnp.where(bits < 0, bits ^ most, bits)

    keys = ordered(lax.bitcast_convert_type(x, np.int32))

    def count(limits: Array) -> Array:
        return jnp.sum(keys[:, None] <= limits[None], axis=0, dtype=np.int32)

    def halve(_: Array | int, interval: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = interval
        middle = (low & high) + ((low ^ high) >> 1)  # a sum could overflow
        enough = count(middle) > rank[:, None]
        return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

    start = jnp.zeros((len(shares), x.shape[1]), np.int32)
    found, _ = lax.fori_loop(0, 32, halve, (start + least, start + most))
    above = [jnp.min(jnp.where(keys > k[None], keys, most), axis=0) for k in found]
    again = count(found) > rank[:, None] + 1  # the next one is equal
    pair = (found, jnp.where(again | (weight == 0), found, jnp.stack(above)))
    low, high = (lax.bitcast_convert_type(ordered(k), np.float32) for k in pair)
    return low * (1 - weight) + high * weight


def bands(log_mel: Float32[Array, "frame band"]) -> Float32[Array, " column"]:
    """Statistics over time of every band.

    Parameters
    ----------
    log_mel : f32 [shape=(frame, band)], in dB

    Returns
    -------
    columns : f32 [shape=(5 * band,)], in dB; mean of each band, then SD of each, ...
    """
    return statistics(log_mel)


def describe(
    power: Float32[Array, "frame frequency"], *, sample_rate: int
) -> Float32[Array, "frame series"]:
    """Describe the spectrum of every frame by the series of `SERIES` and band levels.

    With m the magnitude on the bins f of the FFT, and p its share m / sum(m):

    level : of the frame, 10 log10(sum of power), in dB
    centroid : c = sum(p f), in Hz; 0 for silence
    bandwidth : b = sqrt(sum(p (f - c)^2)), in Hz
    skewness : sum(p (f - c)^3) / b^3; 0 where b is 0
    flatness : geometric over arithmetic mean of the power, in dB; 0 dB for silence
    rolloff : f with sum(m up to f) = 0.85 sum(m), in Hz; m is spread evenly from the
        bin before to its own, so that no rounding error moves it by a bin
    flux : |u(t) - u(t - 1)|, of spectra m scaled to unit length; 0 for the first frame
    crest : largest over mean power, in dB; 0 dB for silence
    levels : of eight Slaney mel filters from 0 Hz to half the sample rate, in dB

    Centroid, bandwidth and flatness are those of `librosa.feature`, whose roll-off is
    the next bin from here on.

    Parameters
    ----------
    power : f32 [shape=(frame, 1 + n_fft // 2)], as of `power_spectrogram`
    sample_rate : int > 0, in Hz

    Returns
    -------
    series : f32 [shape=(frame, 16)]
    """
    n_fft = 2 * (power.shape[1] - 1)
    hz = np.fft.rfftfreq(n_fft, 1 / sample_rate).astype(np.float32)[None]
    magnitude = jnp.sqrt(power)
    share = _over(magnitude, jnp.sum(magnitude, axis=1, keepdims=True))
    centroid = jnp.sum(share * hz, axis=1, keepdims=True)
    away = hz - centroid
    bandwidth = jnp.sqrt(jnp.sum(share * away**2, axis=1))
    skewness = _over(jnp.sum(share * away**3, axis=1), bandwidth**3)
    power = jnp.maximum(power, TINY)
    mean = decibels(jnp.mean(power, axis=1))
    flatness = jnp.mean(decibels(power), axis=1) - mean
    crest = decibels(jnp.max(power, axis=1)) - mean
    rolloff = _rolloff(magnitude) * np.float32(sample_rate / n_fft)
    length = jnp.sqrt(jnp.sum(magnitude**2, axis=1, keepdims=True))
    unit = _over(magnitude, length)
    flux = jnp.sqrt(jnp.sum(jnp.diff(unit, axis=0, prepend=unit[:1]) ** 2, axis=1))
    level = decibels(length[:, 0] ** 2)
    filters = mel_filters(sample_rate, n_fft, LEVEL_BANDS, 0.0, sample_rate / 2)
    mel = mel_spectrogram(magnitude**2, filters)
    series = [level, centroid[:, 0], bandwidth, skewness, flatness, rolloff, flux]
    return jnp.concatenate([jnp.stack([*series, crest], axis=1), decibels(mel)], axis=1)


def _rolloff(magnitude: Float32[Array, "frame frequency"]) -> Float32[Array, " frame"]:
    """Bin, with its fraction, up to which 85 % of the magnitude lie; 0 for silence.

    Blocks of bins are summed first: only that of the roll-off needs cumulated sums.
    """
    n_frames, n_bins = magnitude.shape
    padded = jnp.pad(magnitude, ((0, 0), (0, -n_bins % SUMMED)))
    blocks = padded.reshape(n_frames, -1, SUMMED)
    total = _cumulated(jnp.sum(blocks, axis=2))
    wanted = ROLLOFF * total[:, -1:]
    low, high, block = _around(total, wanted)
    inside = low[:, None] + _cumulated(_chosen(blocks, block)[:, :-1])
    inside = jnp.concatenate([inside, high[:, None]], axis=1)
    within, high, bins = _around(inside, wanted)
    low = jnp.maximum(low, within)
    at = SUMMED * block + bins - 1 + _over(wanted[:, 0] - low, high - low)
    return jnp.maximum(at, 0)


def _chosen(
    rows: Float32[Array, "frame row bin"], index: Int[Array, " frame"]
) -> Float32[Array, "frame bin"]:
    """One row of each frame."""
    return jax.vmap(partial(lax.dynamic_index_in_dim, keepdims=False))(rows, index)


def _around(
    total: Float32[Array, "frame sum"], wanted: Float32[Array, "frame 1"]
) -> tuple[Array, Array, Array]:
    """Rising sums next to the wanted one, and how many are less; none less: 0."""
    under = total < wanted
    low = jnp.max(jnp.where(under, total, 0), axis=1)
    high = jnp.min(jnp.where(under, jnp.inf, total), axis=1)
    return low, high, jnp.sum(under, axis=1)


def _cumulated(x: Float32[Array, "frame bin"]) -> Float32[Array, "frame bin"]:
    """Cumulated sums by a product, which a CPU does faster than `jnp.cumsum`."""
    up_to = np.triu(np.ones((x.shape[1], x.shape[1]), np.float32))
    return jnp.dot(x, up_to, precision="highest")


def descriptors(
    power: Float32[Array, "frame frequency"], *, sample_rate: int
) -> Float32[Array, " column"]:
    """Statistics over time of what `describe` says of every frame.

    Returns
    -------
    columns : f32 [shape=(5 * 16,)], in the units of `describe`
    """
    return statistics(describe(power, sample_rate=sample_rate))


def modulation(
    log_mel: Float32[Array, "frame band"], *, frame_rate: float
) -> Float32[Array, " column"]:
    """Log spectrum over time of 32 bands, without their mean: the rhythm of a machine.

    Neighbouring bands are averaged to 32, or fewer where there are fewer. The spectrum
    over the whole clip, under a Hann window, is averaged within half octaves from 0.25
    to 16 Hz: a line of a single bin of noise varies by 5.6 dB, and strokes are not that
    regular. A half octave without a bin takes the nearest one, so that every length of
    clip has the same columns; a single frame has no rhythm.

    Parameters
    ----------
    log_mel : f32 [shape=(frame, band)], in dB
    frame_rate : float > 0, frames per second

    Returns
    -------
    columns : f32 [shape=(12 * min(32, band),)], 10 log10 of dB^2 per bin; all bands of
        the lowest half octave first. -10 for a constant
    """
    n_frames, n_bands = log_mel.shape
    level = jnp.dot(log_mel, _neighbours(n_bands), precision="highest")
    level = level - jnp.mean(level, axis=0, keepdims=True)
    octaves = _half_octaves(n_frames, frame_rate)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_frames) / n_frames)
    spectrum = jnp.fft.rfft(level * hann.astype(np.float32)[:, None], axis=0)
    power = (spectrum.real**2 + spectrum.imag**2) / n_frames
    power = jnp.dot(octaves, power, precision="highest") + MODULATION_FLOOR
    return np.float32(10 / np.log(10)) * jnp.log(power).ravel()


def _neighbours(n_bands: int) -> Float32[np.ndarray, "band pooled"]:
    """Weights that average neighbouring bands, to 32 at most."""
    n_pooled = min(MODULATED_BANDS, n_bands)
    weights = np.zeros((n_bands, n_pooled), np.float32)
    for k, part in enumerate(np.array_split(np.arange(n_bands), n_pooled)):
        weights[part, k] = 1 / len(part)
    return weights


def _half_octaves(
    n_frames: int, frame_rate: float
) -> Float32[np.ndarray, "octave frequency"]:
    """Weights that average the bins of a spectrum over time; no bin twice in one."""
    hz = np.fft.rfftfreq(n_frames, 1 / frame_rate)
    weights = np.zeros((len(HALF_OCTAVES_HZ) - 1, len(hz)), np.float32)
    if n_frames == 1:
        return weights
    for k, (low, high) in enumerate(itertools.pairwise(HALF_OCTAVES_HZ)):
        used = np.flatnonzero((hz >= low) & (hz < high))
        if not len(used):
            away = np.abs(np.log(hz[1:] / np.sqrt(low * high)))
            used = np.array([1 + np.argmin(away)])
        weights[k, used] = 1 / len(used)
    return weights


def _over(top: Array, bottom: Array) -> Array:
    """Quotient; 0 where the divisor is 0."""
    return jnp.where(bottom > 0, top / jnp.where(bottom > 0, bottom, 1), 0)


class Spectra(NamedTuple):
    """Wave, spectrogram and features of a clip, from which groups are computed."""

    wave: Float32[Array, " time"]
    power: Float32[Array, "frame frequency"]
    features: Float32[Array, "frame bin"]  # of the front end


def _bands(front_end: Linear, of: Spectra) -> Array:
    return bands(of.features)


def _descriptors(front_end: Linear, of: Spectra) -> Array:
    return descriptors(of.power, sample_rate=front_end.sample_rate)


def _modulation(front_end: Linear, of: Spectra) -> Array:
    frame_rate = front_end.sample_rate / front_end.hop
    return modulation(of.features, frame_rate=frame_rate)


def _yamnet(front_end: Linear, of: Spectra) -> Array:
    rate = front_end.sample_rate
    require(
        rate == SAMPLE_RATE,
        f"features.sample_rate={rate}: must be {SAMPLE_RATE} for yamnet",
    )
    return yamnet(of.wave)


GROUPS: dict[str, Callable[[Linear, Spectra], Array]] = {
    "bands": _bands,
    "descriptors": _descriptors,
    "modulation": _modulation,
}
# Groups that are no functionals, but are compared as they are.
PRETRAINED: dict[str, Callable[[Linear, Spectra], Array]] = {"yamnet": _yamnet}


def functionals(
    front_end: Linear, groups: Sequence[str], wave: Float32[Array, " time"]
) -> dict[str, Float32[Array, " column"]]:
    """The chosen groups of one clip."""
    known = GROUPS | PRETRAINED
    # Barriers: XLA would compute the spectra again for every group.
    power = lax.optimization_barrier(front_end.power(wave))
    features = lax.optimization_barrier(front_end.of_power(power, wave))
    spectra = Spectra(wave, power, features)
    return {name: known[name](front_end, spectra) for name in groups}


def extract_functionals(
    front_end: Linear,
    groups: tuple[str, ...],
    audio: Audio,
    advance: Callable[[int], None],
) -> dict[str, Float32[np.ndarray, "clip column"]]:
    """Functionals of clips; those of a clip don't depend on the others, to the bit.

    Parameters
    ----------
    front_end : `LogMel` or `Linear`
    groups : names in `GROUPS` or `PRETRAINED`
    audio : i16 [shape=(clip, time)], full scale is 32768; at least one clip
    advance : called after each chunk with the number of its clips
    """
    n, at_once = len(audio), _clips_at_once()
    size = min(CLIPS_PER_TRANSFER, -(-n // (CHUNKS * at_once)) * at_once)

    def of_chunk(start: int) -> dict[str, np.ndarray]:
        part = np.asarray(audio[start : start + size])
        padded = np.pad(part, ((0, size - len(part)), (0, 0)))
        return jax.device_get(_extract_chunk(front_end, groups, padded))

    chunks: list[dict[str, np.ndarray]] = []
    starts = range(0, n, size)
    # A program of few clips keeps one core busy.
    for start, found in zip(
        starts, log.ahead(of_chunk, [[s] for s in starts]), strict=True
    ):
        chunks += found
        advance(min(size, n - start))
    return {name: np.concatenate([c[name] for c in chunks])[:n] for name in groups}


@partial(jax.jit, static_argnums=(0, 1))
def _extract_chunk(
    front_end: Linear, groups: tuple[str, ...], audio: Array
) -> dict[str, Array]:
    def of_clip(clip: Array) -> dict[str, Array]:
        return functionals(front_end, groups, clip.astype(np.float32) / 32768)

    at_once = _clips_at_once()
    return lax.map(of_clip, audio, batch_size=at_once if at_once > 1 else None)


def _clips_at_once() -> int:
    """Clips per step: on a CPU one, of which several are no faster."""
    return 1 if jax.default_backend() == "cpu" else CLIPS_IN_CACHE
