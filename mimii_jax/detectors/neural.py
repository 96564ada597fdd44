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
from jaxtyping import Array, Float, Float32, Int16

from mimii_jax.checkpoints import CheckpointError, Checkpoints
from mimii_jax.data.clips import Clips
from mimii_jax.detectors.shards import extract_for_runs
from mimii_jax.examples import Standardiser, Windows
from mimii_jax.features import CLIPS_PER_TRANSFER, FrontEnd
from mimii_jax.runs import Run, Start
from mimii_jax.scoring import Pooling
from mimii_jax.sharding import DATA, RUN, Layout, make_mesh
from mimii_jax.step import Settings, TrainState
from mimii_jax.train import init_runs, train_runs
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
        standardiser = [Standardiser.identity(n_bins)] * len(runs)
        self.graph, like = init_runs(
            self._build(n_bins), self.settings, runs, standardiser
        )
        checkpoints = self._checkpoints(folder, watch)
        whole = NamedSharding(make_mesh(1, *self.mesh), P())
        step, self.state = checkpoints.restore(like, whole)
        checkpoints.close()
        if not step:
            raise CheckpointError(f"{folder}: no checkpoint that can be read")
        return self

    def score(self, clips: Clips, watch: Watch) -> Float[np.ndarray, "run clip"]:
        """Pooled error of every clip under every run's model; NaN if that diverged."""
        mesh = make_mesh(1, *self.mesh)
        whole, by_clip = NamedSharding(mesh, P()), NamedSharding(mesh, P((RUN, DATA)))
        models = jax.device_put(
            (self.state.params, self.state.fixed, self.state.standardiser), whole
        )
        score_chunk = _compile_scoring(
            self.graph, self.front_end, self.windows, self.pooling, mesh
        )
        n_chunk = min(CLIPS_PER_TRANSFER, -(-len(clips) // mesh.size)) * mesh.size
        scores = []
        with watch.bar("scoring", len(clips)) as advance:
            for start in range(0, len(clips), n_chunk):
                audio = clips.audio[start : start + n_chunk]
                # Silence fills the last chunk: one shape, one compilation.
                padded = np.pad(audio, ((0, n_chunk - len(audio)), (0, 0)))
                on_devices = jax.make_array_from_callback(
                    padded.shape, by_clip, lambda index, whole=padded: whole[index]
                )
                chunk = score_chunk(models, on_devices)
                scores.append(np.asarray(chunk)[: len(audio)].T)
                advance(len(audio))
        alive = np.asarray(self.state.alive)
        return np.where(alive[:, None], np.concatenate(scores, axis=1), np.nan)

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

    @partial(jax.jit, out_shardings=NamedSharding(mesh, P()))
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
