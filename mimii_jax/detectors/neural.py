"""Detectors that are Flax models, trained for all seeds as one program."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Float32, Int16

from mimii_jax.checkpoints import CheckpointError, Checkpoints
from mimii_jax.data.clips import Clips
from mimii_jax.detectors.shards import extract_for_runs
from mimii_jax.examples import Standardiser, Windows
from mimii_jax.features import CLIPS_PER_TRANSFER, FrontEnd
from mimii_jax.runs import Run, Start
from mimii_jax.scoring import Pooling
from mimii_jax.sharding import (
    DATA,
    RUN,
    Layout,
    everywhere,
    make_mesh,
    replicate,
    share_of_process,
)
from mimii_jax.step import Settings, TrainState
from mimii_jax.train import abstract_runs, train_runs
from mimii_jax.watch import Watch


@dataclass(frozen=True)
class Saving:
    """When a training is saved, and how much of it stays.

    Attributes
    ----------
    every_steps : int >= 0, steps from one checkpoint to the next; 0: do not count
    every_minutes : float >= 0; 0: do not look at the clock
    keep : int > 0, latest checkpoints that stay beside the best
    """

    every_steps: int
    every_minutes: float
    keep: int

    def __post_init__(self) -> None:
        for field, least in (("every_steps", 0), ("every_minutes", 0), ("keep", 1)):
            value = getattr(self, field)
            if not value >= least:
                raise ValueError(f"checkpoint.{field}={value}: must be {least} or more")


class NeuralDetector:
    """Windows of a front end's frames, scored by a model's error.

    Parameters
    ----------
    build : makes the model from the shape of a window, random number streams `rngs`
        and the numbers in which a run differs
    front_end : features of one clip
    standardise : whether each bin is shifted and scaled by its statistics over the
        clips that a run is trained on
    windows : what the model sees as one example
    pooling : from the errors of a clip's windows to its score
    settings : how to train
    saving : when to save
    mesh : devices along the axes "run" and "data", 0 for a sensible number
    validation_fraction : share of the training clips, per machine ID, that is held
        out for the validation loss; nothing is chosen by it during a training
    """

    def __init__(
        self,
        build: Callable[..., Any],
        front_end: FrontEnd,
        *,
        standardise: bool,
        windows: Windows,
        pooling: Pooling,
        settings: Settings,
        saving: Saving,
        mesh: tuple[int, int],
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
        self.saving = saving
        self.mesh = mesh
        self.validation_fraction = validation_fraction
        self.graph: nnx.GraphDef
        self.state: TrainState

    def fit(
        self, train: Clips, runs: Sequence[Run], folder: Path | None, watch: Watch
    ) -> Self:
        """Train all runs at once, going on from the checkpoints in the folder."""
        mesh = make_mesh(len(runs), *self.mesh)
        layout = Layout.of(
            mesh, [self.settings.of(run).epochs * len(run.clips) for run in runs]
        )
        features = extract_for_runs(
            self.front_end,
            train,
            runs,
            layout,
            standardise=self.standardise,
            validation_fraction=self.validation_fraction,
            watch=watch,
        )
        checkpoints = folder and self._checkpoints(folder, watch)
        try:
            self.graph, self.state = train_runs(
                self._build(features.array.shape[3]),
                self.windows,
                features,
                self.settings,
                runs,
                layout,
                checkpoints,
                watch,
            )
        finally:
            if checkpoints:
                checkpoints.close()
        return self

    def load(self, folder: Path, runs: Sequence[Run], watch: Watch) -> Self:
        """Read the latest checkpoint of a training of the same configuration."""
        n_bins = len(self.front_end.frequencies)
        self.graph, like = abstract_runs(
            self._build(n_bins), self.settings, len(runs), n_bins
        )
        checkpoints = self._checkpoints(folder, watch)
        mesh = make_mesh(1, *self.mesh)
        step, self.state = checkpoints.restore(like, everywhere(mesh))
        checkpoints.close()
        if not step:
            raise CheckpointError(f"{folder}: no checkpoint that can be read")
        return self

    def score(self, clips: Clips, watch: Watch) -> Float[np.ndarray, "run clip"]:
        """Pooled error of every clip under every run's model; NaN if that diverged."""
        mesh = make_mesh(1, *self.mesh)
        by_clip = NamedSharding(mesh, P((RUN, DATA)))
        models = replicate(
            (self.state.params, self.state.fixed, self.state.standardiser), mesh
        )
        score_chunk = _compile_scoring(
            self.graph, self.front_end, self.windows, self.pooling, mesh
        )
        # Every device has a block of the clips, and takes it in chunks of one shape.
        block = -(-len(clips) // mesh.size)
        n_chunk = min(CLIPS_PER_TRANSFER, block)
        shape = (mesh.size * n_chunk, *clips.audio.shape[1:])
        scores = np.empty((len(self.state.alive), len(clips)), np.float32)

        def rows(device: int, start: int) -> slice:
            end = min(start + n_chunk, block)
            return slice(device * block + start, min(device * block + end, len(clips)))

        def audio_of(start: int, index: Any) -> np.ndarray:
            found = clips.audio[rows((index[0].start or 0) // n_chunk, start)]
            return np.pad(found, ((0, n_chunk - len(found)), (0, 0)))  # with silence

        with watch.bar("scoring", len(clips)) as advance:
            for start in range(0, block, n_chunk):
                audio = jax.make_array_from_callback(
                    shape, by_clip, partial(audio_of, start)
                )
                chunk = np.asarray(score_chunk(models, audio))
                for device in range(mesh.size):
                    of = rows(device, start)
                    first, n = device * n_chunk, max(0, of.stop - of.start)
                    scores[:, of] = chunk[first : first + n].T
                    advance(n)
        alive = np.asarray(self.state.alive)
        return np.where(alive[:, None], scores, np.nan)

    def rows_needed(self, clips: Clips) -> Bool[np.ndarray, " clip"]:
        """Clips whose audio this process needs, to train runs on all and to score."""
        needed = clips.split == "train"
        test = np.flatnonzero(~needed)
        mesh = make_mesh(1, *self.mesh)
        needed[test] = share_of_process(len(test), mesh)
        return needed

    def starts(self) -> list[Start]:
        """The trained models of all runs, for others to begin with."""
        params = {
            path: np.asarray(variable[...])
            for part in (self.state.params, self.state.fixed)
            for path, variable in nnx.to_flat_state(part)
            if isinstance(variable, nnx.Param)
        }
        return [
            Start(
                {path: value[i] for path, value in params.items()},
                Standardiser(*(leaf[i] for leaf in self.state.standardiser)),
            )
            for i in range(len(self.state.alive))
        ]

    def _build(self, n_bins: int) -> Callable[..., Any]:
        return partial(self.build, (self.windows.width, n_bins))

    def _checkpoints(self, folder: Path, watch: Watch) -> Checkpoints:
        return Checkpoints(folder, **vars(self.saving), watch=watch)


@cache
def _compile_scoring(
    graph: nnx.GraphDef,
    front_end: FrontEnd,
    windows: Windows,
    pooling: Pooling,
    mesh: Mesh,
) -> Callable[..., Float32[Array, "clip run"]]:
    """A function of models and audio; every device scores its share of the clips."""

    @partial(jax.jit, out_shardings=everywhere(mesh))
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(), P((RUN, DATA))),
        out_specs=P((RUN, DATA)),
    )
    def score_chunk(
        models: tuple[Any, Any, Standardiser], audio: Int16[Array, "clip time"]
    ) -> Array:
        def of_clip(clip: Array) -> Array:
            """Clip by clip, so that the windows of one at a time exist."""
            features = front_end(clip.astype(np.float32) / 32768)
            index = jnp.arange(windows.per_clip(len(features)))
            x = windows.gather(features[None], index)

            def of_run(params: Any, fixed: Any, standardiser: Standardiser) -> Array:
                model = nnx.merge(graph, params, fixed)
                return pooling(model.error(standardiser.apply(x)))

            return jax.vmap(of_run)(*models)

        return lax.map(of_clip, audio)

    return score_chunk
