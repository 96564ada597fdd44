"""Speed of the log-mel front end against librosa and PyTorch.

python -m experiments.benchmarks.front_end

Each maps the same int16 clips of 10 s in memory to log-mel in dB at the default
settings, float32, and waits for the whole result:

- ours: `front_ends.extract`, as the main program calls it
- librosa: per clip, `librosa.feature.melspectrogram` and 10 * log10, as the official
  baseline does; in one thread, and in as many threads as there are cores
- torch: `torch.stft`, squares, mel filters @ spectrum, 10 * log10, by batches of
  several sizes, in PyTorch's own threads; left out without PyTorch

The clips of librosa and PyTorch have the frame as last axis, PyTorch's fastest order;
ours have the bin.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import librosa
import numpy as np

from experiments.benchmarks import rounds
from experiments.benchmarks.machine import cores
from experiments.benchmarks.rounds import torch
from mimii_jax.config import build
from mimii_jax.features.front_ends import LogMel, extract
from mimii_jax.features.stft import FLOOR
from mimii_jax.named import load_config

SECONDS = 10
OURS = "ours"


def ours(front_end: LogMel, audio: np.ndarray) -> np.ndarray:
    """Log-mel by `extract`, [clip, frame, mel]."""
    return np.asarray(extract(front_end, audio, np.arange(len(audio)), lambda n: None))


def by_librosa(front_end: LogMel, audio: np.ndarray, threads: int) -> np.ndarray:
    """Log-mel by librosa, [clip, mel, frame]."""

    def one(clip: np.ndarray) -> np.ndarray:
        mel = librosa.feature.melspectrogram(
            y=clip.astype(np.float32) / 32768,
            sr=front_end.sample_rate,
            n_fft=front_end.n_fft,
            hop_length=front_end.hop,
            n_mels=front_end.n_mels,
            pad_mode="reflect",
        )
        return 10 * np.log10(mel + FLOOR)

    with ThreadPoolExecutor(threads) as pool:
        return np.stack(list((map if threads == 1 else pool.map)(one, audio)))


def by_torch(front_end: LogMel, audio: np.ndarray, batch: int) -> np.ndarray:
    """Log-mel by torch.stft and a matrix product, [clip, mel, frame]."""
    n_fft, n_mels = front_end.n_fft, front_end.n_mels
    sr = front_end.sample_rate
    filters = torch.from_numpy(librosa.filters.mel(sr=sr, n_fft=n_fft, n_mels=n_mels))
    window = torch.hann_window(n_fft)
    frames = 1 + audio.shape[1] // front_end.hop
    features = torch.empty(len(audio), n_mels, frames)
    with torch.inference_mode():
        for start in range(0, len(audio), batch):
            clips = torch.from_numpy(audio[start : start + batch]).float() / 32768
            spectrum = torch.stft(
                clips, n_fft, front_end.hop, window=window, return_complex=True
            )  # centred, reflect padding
            power = spectrum.real**2 + spectrum.imag**2
            mel = 10 * torch.log10(filters @ power + FLOOR)
            features[start : start + batch] = mel
    return features.numpy()


def contestants(
    front_end: LogMel, audio: np.ndarray, batches: list[int]
) -> dict[str, Callable[[], np.ndarray]]:
    """All contestants."""
    found = {
        OURS: partial(ours, front_end, audio),
        "librosa": partial(by_librosa, front_end, audio, 1),
    }
    if cores() > 1:
        several = partial(by_librosa, front_end, audio, cores())
        found[f"librosa, {cores()} threads"] = several
    for batch in batches if torch else []:
        found[f"torch, {batch} clips"] = partial(by_torch, front_end, audio, batch)
    return found


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = rounds.benchmark_parser("front_end", __doc__)
    parser.add_argument("--clips", type=int, default=256, help="per turn (default 256)")
    parser.add_argument("--torch_batch", type=int, nargs="+", default=[1, 4, 8, 16])
    args = parser.parse_args(arguments)
    front_end: Any = build(load_config("mlp_vae")).front_end
    shape = (args.clips, SECONDS * front_end.sample_rate)
    audio = np.random.default_rng(0).normal(0, 1800, shape).astype(np.int16)  # -25 dBFS
    few = contestants(front_end, audio[:8], args.torch_batch)
    reference = few.pop(OURS)().swapaxes(1, 2)
    everyone = contestants(front_end, audio, args.torch_batch)
    turns = rounds.take_turns(everyone, args)
    amounts = dict.fromkeys(everyone, float(args.clips))
    rounds.report("Log-mel of 10 s clips", "clips", amounts, turns, [OURS])
    for name, work in few.items():
        difference = np.max(np.abs(work() - reference))
        print(f"{name}: differs from ours by {difference:.1e} dB at most")
    print(f"jax backend: {jax.default_backend()}")


if __name__ == "__main__":
    main()
