"""Detectors that are Flax models, trained for all seeds as one program."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32

from mimii_jax.data.clips import Clips
from mimii_jax.detectors.backends import (
    MAHALANOBIS,
    Normals,
    Scoring,
    load_normals,
    save_normals,
)
from mimii_jax.detectors.shards import extract_for_runs
from mimii_jax.detectors.summaries import Program, summarise
from mimii_jax.features.front_ends import FrontEnd
from mimii_jax.features.windows import Standardiser, Windows
from mimii_jax.train.checkpoints import CheckpointError, Checkpoints
from mimii_jax.train.loop import abstract_runs, train_runs
from mimii_jax.train.mesh import (
    Layout,
    everywhere,
    make_mesh,
    share_of_process,
)
from mimii_jax.train.runs import Run, Start
from mimii_jax.train.settings import Settings
from mimii_jax.train.step import TrainState
from mimii_jax.watch import Watch

NORMALS = "normals.npz"  # beside the checkpoints


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
    windows : what the model is trained on as one example
    scoring_windows : those whose errors count
    scoring : from the errors of a clip to its score
    settings : how to train
    saving : when to save
    mesh : devices along the axes "run" and "data", 0 for a sensible number
    group : int >= 0, runs that a device steps at once; 0: all that it has
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
        scoring_windows: Windows,
        scoring: Scoring,
        settings: Settings,
        saving: Saving,
        mesh: tuple[int, int],
        group: int,
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
        self.scoring_windows = scoring_windows
        self.scoring = scoring
        self.settings = settings
        self.saving = saving
        self.mesh = mesh
        self.group = group
        self.validation_fraction = validation_fraction
        self.graph: nnx.GraphDef
        self.state: TrainState
        self.normals: list[Normals]

    def fit(
        self, train: Clips, runs: Sequence[Run], folder: Path | None, watch: Watch
    ) -> Self:
        """Train all runs at once, going on from the checkpoints in the folder."""
        mesh = make_mesh(len(runs), *self.mesh)
        layout = Layout.of(
            mesh,
            [self.settings.of(run).epochs * len(run.clips) for run in runs],
            self.group,
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
                self._build(*features.array.shape[2:]),
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
        if self.scoring.kind == MAHALANOBIS:
            del features  # they are made again, chunk by chunk
            self._fit_normals(train, runs, folder, watch)
        return self

    def _fit_normals(
        self, train: Clips, runs: Sequence[Run], folder: Path | None, watch: Watch
    ) -> None:
        """What is normal for each run, from the clips that it may see."""
        summaries = self._summarise(train, "normal clips", watch)
        # Of a run that diverged nothing is finite, and nothing is asked.
        finite = np.nan_to_num(summaries, posinf=0.0, neginf=0.0)
        self.normals = [
            Normals.fit(
                summary[run.clips], train.machine_id[run.clips], self.scoring.per_id
            )
            for summary, run in zip(finite, runs, strict=True)
        ]
        if folder and watch.leader:
            save_normals(self.normals, folder / NORMALS)

    def load(
        self, folder: Path, runs: Sequence[Run], n_samples: int, watch: Watch
    ) -> Self:
        """Read the latest checkpoint of a training of the same configuration."""
        wave = jax.ShapeDtypeStruct((n_samples,), np.float32)
        n_frames, n_bins = jax.eval_shape(self.front_end, wave).shape
        self.graph, like = abstract_runs(
            self._build(n_frames, n_bins), self.settings, len(runs), n_bins
        )
        checkpoints = self._checkpoints(folder, watch)
        mesh = make_mesh(1, *self.mesh)
        step, self.state = checkpoints.restore(like, everywhere(mesh))
        checkpoints.close()
        if not step:
            raise CheckpointError(f"{folder}: no checkpoint that can be read")
        if self.scoring.kind == MAHALANOBIS:
            self.normals = load_normals(folder / NORMALS, len(runs))
        return self

    def score(self, clips: Clips, watch: Watch) -> Float[np.ndarray, "run clip"]:
        """Score of every clip under every run's model; NaN if that diverged."""
        summaries = self._summarise(clips, "scoring", watch)
        alive = np.asarray(self.state.alive)
        if self.scoring.kind == MAHALANOBIS:
            scores = np.stack(
                [
                    normals.distance(summary, clips.machine_id)
                    for normals, summary in zip(self.normals, summaries, strict=True)
                ]
            )
        else:
            scores = summaries[:, :, 0]
        return np.where(alive[:, None], scores, np.nan)

    def _summarise(
        self, clips: Clips, task: str, watch: Watch
    ) -> Float32[np.ndarray, "run clip column"]:
        """What `Scoring.summary` keeps of every clip under every run's model."""
        program = Program(
            self.graph,
            self.front_end,
            self.scoring_windows,
            self.scoring,
            self.group or len(self.state.alive),
            make_mesh(1, *self.mesh),
        )
        models = (self.state.params, self.state.fixed, self.state.standardiser)
        with watch.bar(task, len(clips)) as advance:
            return summarise(program, models, clips.audio, advance)

    def predict(
        self, features: Float32[np.ndarray, "clip frame bin"]
    ) -> tuple[Float32[np.ndarray, "clip frame bin"], Float32[np.ndarray, " bin"]]:
        """What the first model that did not diverge makes of clips, for pictures.

        In windows side by side, and in the features' unit; NaN in frames that a model
        does not predict. With it the scale of each bin in which errors count.
        """
        run = int(np.argmax(self.state.alive))
        params, fixed, standardiser = jax.tree.map(
            lambda leaf: leaf[run],
            (self.state.params, self.state.fixed, self.state.standardiser),
        )
        tiles = self.windows.tiles(features.shape[1])

        @jax.jit
        def of_clip(clip: Array) -> Array:
            model = nnx.merge(self.graph, params, fixed)
            return standardiser.undo(model.predict(standardiser.apply(clip[tiles])))

        predicted = np.full(features.shape, np.nan, np.float32)
        with jax.debug_nans(False):
            for clip, found in zip(features, predicted, strict=True):
                found[tiles] = of_clip(clip)
        return predicted, np.asarray(standardiser.scale)

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

    def _build(self, n_frames: int, n_bins: int) -> Callable[..., Any]:
        return partial(self.build, (self.windows.width_in(n_frames), n_bins))

    def _checkpoints(self, folder: Path, watch: Watch) -> Checkpoints:
        return Checkpoints(folder, **vars(self.saving), watch=watch)
