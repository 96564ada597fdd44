"""What pictures show of single clips: features, predictions, errors along time."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Int16

from mimii_jax.data.clips import Clips
from mimii_jax.detectors.detector import Detector
from mimii_jax.detectors.neural import NeuralDetector
from mimii_jax.features.front_ends import FrontEnd
from mimii_jax.workdir import add_arrays, add_examples, picture_name, pictured


def add_pictures(
    front_end: FrontEnd, detector: Detector | None, clips: Clips, workdir: Path
) -> None:
    """Add each ID's first normal and first anomalous test clip to a workdir.

    Its features, and if the detector is neural what its model makes of them.
    """
    neural = detector if isinstance(detector, NeuralDetector) else None
    add_examples(front_end, clips, workdir, neural.predict if neural else None)
    if neural:
        _add_tracks(neural, clips, workdir / "tracks.npz")


def _add_tracks(detector: NeuralDetector, clips: Clips, path: Path) -> None:
    """Add the error along clips, under the first seed.

    Under "<machine type>/<ID>/<normal or anomalous>": f32 [shape=(2, step)], the middle
    of each step in seconds, and the mean of its squared errors per bin. Nothing is
    added where the training of every seed diverged.
    """
    rows = pictured(clips)
    alive = np.flatnonzero(np.asarray(detector.state.alive))
    if not len(alive) or not rows:
        return
    run = jax.tree.map(lambda leaf: np.asarray(leaf[alive[0]]), detector.state)
    frames, errors = _errors_along(detector, run, clips.audio[rows])
    seconds = frames * detector.front_end.hop / clips.sample_rate
    tracks = {
        picture_name(clips, row): np.stack([seconds, error]).astype(np.float32)
        for row, error in zip(rows, errors, strict=True)
    }
    add_arrays(path, tracks)


def _errors_along(
    detector: NeuralDetector, run: Any, audio: Int16[np.ndarray, "clip time"]
) -> tuple[Float[np.ndarray, " step"], Float32[np.ndarray, "clip step"]]:
    """Middle of each step, in frames from the clip's begin, and its error."""
    windows = detector.scoring_windows
    model = nnx.merge(detector.graph, run.params, run.fixed)
    wave = jax.ShapeDtypeStruct(audio.shape[1:], np.float32)
    n_frames = jax.eval_shape(detector.front_end, wave).shape[0]
    index = np.arange(windows.per_clip(n_frames))

    def along(run: Any, clip: Array) -> Array:
        model = nnx.merge(detector.graph, run.params, run.fixed)
        features = detector.front_end(clip.astype(np.float32) / 32768)
        x = windows.gather(features[None], jnp.asarray(index))
        return jnp.mean(model.error(run.standardiser.apply(x)), axis=-1).ravel()

    compiled = jax.jit(along)
    errors = np.stack([np.asarray(compiled(run, clip)) for clip in audio])
    middle = np.array([windows.width_in(n_frames) / 2])  # of a window judged at once
    if hasattr(model, "step_centres"):
        middle = model.step_centres()
    return (windows.hop * index[:, None] + middle[None]).ravel(), errors
