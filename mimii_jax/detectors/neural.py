"""Detectors that are Flax models, trained for all seeds as one program."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, Float32, Int16
from orbax.checkpoint import v1 as ocp

from mimii_jax.data.clips import Clips, hold_out
from mimii_jax.examples import Standardiser, Windows, standardise_in_place
from mimii_jax.features import CLIPS_PER_TRANSFER, FrontEnd, extract
from mimii_jax.scoring import Pooling
from mimii_jax.train import Settings, init_runs, train_runs
from mimii_jax.watch import Watch


class NeuralDetector:
    """Windows of a front end's frames, scored by a model's error.

    Parameters
    ----------
    build : makes the model from the size of a window and random number streams
    front_end : features of one clip
    standardise : whether each bin is shifted and scaled by its training statistics
    windows : what the model sees as one example
    pooling : from the errors of a clip's windows to its score
    settings : how to train
    validation_fraction : share of the training clips, per machine ID, that is held
        out for the validation loss; nothing is chosen by it during a training
    """

    def __init__(
        self,
        build: Callable[[int, nnx.Rngs], Any],
        front_end: FrontEnd,
        *,
        standardise: bool,
        windows: Windows,
        pooling: Pooling,
        settings: Settings,
        validation_fraction: float,
    ) -> None:
        if not 0 <= validation_fraction < 1:
            raise ValueError(
                f"train.validation_fraction={validation_fraction}: must be in [0, 1)"
            )
        self.build = build
        self.front_end = front_end
        self.standardise = standardise
        self.windows = windows
        self.pooling = pooling
        self.settings = settings
        self.validation_fraction = validation_fraction
        self.graph: nnx.GraphDef
        self.params: Any
        self.standardiser: Standardiser

    def fit(self, train: Clips, seeds: tuple[int, ...], watch: Watch) -> Self:
        """Train one model per seed on the same clips."""
        held_out = hold_out(train.machine_id, self.validation_fraction)
        features, validation = (
            self._features(train.audio, np.flatnonzero(rows), watch)
            for rows in (~held_out, held_out)
        )
        assert features is not None
        n_bins = features.shape[2]
        self.standardiser = Standardiser.identity(n_bins)
        if self.standardise:
            self.standardiser = Standardiser.fit(features)
            features = standardise_in_place(self.standardiser, features)
            if validation is not None:
                validation = standardise_in_place(self.standardiser, validation)
        build = partial(self.build, self.windows.width * n_bins)
        self.graph, self.params = train_runs(
            build, self.windows, features, validation, self.settings, seeds, watch
        )
        return self

    def _features(
        self, audio: np.ndarray, rows: np.ndarray, watch: Watch
    ) -> Array | None:
        if not len(rows):
            return None
        with watch.bar("features", len(rows)) as advance:
            return extract(self.front_end, audio, rows, advance)

    def score(self, clips: Clips, watch: Watch) -> Float[np.ndarray, "seed clip"]:
        """Pooled error of every clip under every seed's model."""
        scores = []
        with watch.bar("scoring", len(clips)) as advance:
            for start in range(0, len(clips), CLIPS_PER_TRANSFER):
                audio = clips.audio[start : start + CLIPS_PER_TRANSFER]
                # Silence fills the last chunk: one shape, one compilation.
                filler = min(CLIPS_PER_TRANSFER, len(clips)) - len(audio)
                padded = np.pad(audio, ((0, filler), (0, 0)))
                chunk = _score_chunk(
                    self.graph,
                    self.front_end,
                    self.windows,
                    self.pooling,
                    self.params,
                    self.standardiser,
                    padded,
                )
                scores.append(np.asarray(chunk)[: len(audio)].T)
                advance(len(audio))
        return np.concatenate(scores, axis=1)

    def save(self, folder: Path) -> None:
        """Write parameters and standardisation as an Orbax checkpoint."""
        ocp.save(str(folder.absolute()), self._checkpoint())

    def load(self, folder: Path, seeds: tuple[int, ...]) -> Self:
        """Read a checkpoint of the same configuration."""
        saved = ocp.metadata(str(folder.absolute())).metadata
        n_bins = saved["standardiser"]["mean"].shape[0]
        build = partial(self.build, self.windows.width * n_bins)
        self.graph, self.params, _ = init_runs(build, seeds)
        self.standardiser = Standardiser.identity(n_bins)
        abstract = jax.tree.map(_abstract, self._checkpoint())
        state = ocp.load(str(folder.absolute()), abstract)
        self.params = state["params"]
        self.standardiser = Standardiser(**state["standardiser"])
        return self

    def _checkpoint(self) -> dict[str, Any]:
        return {"params": self.params, "standardiser": self.standardiser._asdict()}


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _score_chunk(
    graph: nnx.GraphDef,
    front_end: FrontEnd,
    windows: Windows,
    pooling: Pooling,
    params: Any,
    standardiser: Standardiser,
    audio: Int16[Array, "clip time"],
) -> Float32[Array, "clip run"]:
    """Score clip by clip, so that the windows of one clip at a time exist."""

    def of_clip(clip: Array) -> Array:
        features = standardiser.apply(front_end(clip.astype(np.float32) / 32768))
        index = jnp.arange(windows.per_clip(len(features)))
        x = windows.gather(features[None], index)
        return pooling(jax.vmap(lambda p: nnx.merge(graph, p).error(x))(params))

    return lax.map(of_clip, audio)


def _abstract(leaf: Array) -> jax.ShapeDtypeStruct:
    """Shape, type and place of an array, as Orbax wants it for a restore."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
