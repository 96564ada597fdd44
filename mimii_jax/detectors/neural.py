"""Detectors that are Flax models, trained for all runs as one program."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int, Shaped

from mimii_jax import log
from mimii_jax.data.clips import Clips
from mimii_jax.detectors.backends import Scoring
from mimii_jax.detectors.fitted_neural import FittedNeural
from mimii_jax.detectors.vectors import (
    FOLDER,
    NormalVectors,
    read_clip_length,
    read_ids,
    write_clip_length,
)
from mimii_jax.errors import DataError, require, require_memory
from mimii_jax.features.front_ends import CLIPS_PER_TRANSFER, FrontEnd, extract
from mimii_jax.features.windows import (
    Moment,
    Standardiser,
    Windows,
    clip_moments,
    group_rows,
)
from mimii_jax.models.model import ModelSpec
from mimii_jax.train.checkpoints import Checkpoints
from mimii_jax.train.loop import Features, train_runs
from mimii_jax.train.mesh import make_mesh, replicate
from mimii_jax.train.records import Records, require_packages, write
from mimii_jax.train.runs import CheckpointPolicy, Labels, Run, Settings
from mimii_jax.train.state import TrainState, abstract_runs, make_plan, restore_runs

SCORING_FIELDS = ("horizon",)  # of a model, that change no training
# Fields of a front end and a model: bins of a frame that aren't frequencies.
FURTHER_BINS = ("spectrum_bins", "wave_samples")


@dataclass(frozen=True)
class NeuralDetector:
    """Errors of a model on windows of a front end's frames."""

    front_end: FrontEnd
    model: ModelSpec
    windows: Windows  # examples of the training
    standardise: bool  # bins, by the statistics of a run's clips
    settings: Settings
    scoring: Scoring  # from the errors of a clip to its score
    features_dtype: Any = jnp.float32  # of the training features
    # where the training features are: in a file, or on the device
    on_disk: bool = field(default=False, compare=False)
    scoring_hop: int = 1  # frames from one scored window to the next
    # by the statistics of a run's clips of the same machine ID, where it has any
    standardise_ids: bool = False
    # devices along "run" and "data"; None: automatic
    mesh: tuple[int | None, int | None] = field(default=(None, None), compare=False)
    checkpoint: CheckpointPolicy = field(default=CheckpointPolicy(), compare=False)
    profile: bool = field(default=False, compare=False)  # the training, by JAX
    # of the training clips, where the model or the standardiser depends on them
    ids: tuple[str, ...] = field(default=(), compare=False)

    one_process = False

    def training(self) -> object:
        """Everything but the scoring."""
        spec = self.model
        fields = {k: v for k, v in spec.fields.items() if k not in SCORING_FIELDS}
        model = (spec.model, fields, spec.dtype)
        standardise = (self.standardise, self.standardise_ids)
        features = (self.front_end, self.features_dtype, self.windows, *standardise)
        return (*features, model, self.settings)

    def check(self, n_samples: int) -> None:
        """Raise ConfigError if the settings don't fit clips of this length."""
        name, model = self.scoring.representation, self.model.model
        for bins in FURTHER_BINS:
            n, own = getattr(self.front_end, bins, 0), self.model.fields.get(bins, 0)
            require(
                own in (n, None), f"detector.{bins}={own}: must be the front end's, {n}"
            )
        require(
            not getattr(self.front_end, "spectrum_bins", 0)
            or self.windows.width is None,
            f"windows.width={self.windows.width}: must be None, the whole clip, with "
            "features.spectrum_bins",
        )
        require(
            hasattr(model, name),
            f"scoring.representation='{name}': {model.__name__} has no such method",
        )
        _, state = self._abstract(n_samples, 1)
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
        require_memory(2.0 * size, "detector: the state of its training")
        n_frames, n_bins = self.shape(n_samples)
        example = jnp.zeros((1, self.windows.width_in(n_frames), n_bins))
        build = self._build(n_samples)
        jax.eval_shape(lambda: getattr(build(rngs=nnx.Rngs(0)), name)(example))
        make_mesh(1, *self.mesh)
        if self.on_disk:
            require_packages()
            processes = jax.process_count()
            require(
                processes == 1,
                f"train.features_on='disk': of one process, not {processes}",
            )

    def fit(
        self, train: Clips, held_out: Clips, runs: Sequence[Run], folder: Path | None
    ) -> FittedNeural:
        """Train all runs at once, then fit their back-ends.

        With a folder it resumes from the latest checkpoint; a finished training is
        restored.
        """
        n_samples = train.audio.shape[1]
        own = self._of_ids(train.ids if self._needs_ids else ())
        if folder:
            write_clip_length(folder, n_samples, own.ids)
        checkpoints = Checkpoints(folder, self.checkpoint) if folder else None
        try:
            fitted = own._restore_finished(n_samples, runs, checkpoints) or (
                own._train(train, held_out, runs, checkpoints)
            )
        finally:
            if checkpoints:
                checkpoints.close()
        fitted = replace(fitted, folder=folder)
        path = folder and folder / FOLDER / f"{self.vectors_name}.npz"
        if path and path.exists() and jax.process_count() == 1:
            return fitted.fit_backend(NormalVectors.load(path, len(runs)))
        vectors = [
            fitted.summarise(clips, self.scoring, "normal clips")
            for clips in (train, held_out)
        ]
        joined = np.concatenate(vectors, axis=1)
        normal = NormalVectors.of(joined, train, held_out, runs)
        if path:
            normal.save(path)
        return fitted.fit_backend(normal)

    def load(self, folder: Path, runs: Sequence[Run]) -> FittedNeural:
        """Read the latest checkpoint of the same runs."""
        n_samples = read_clip_length(folder)
        own = self._of_ids(read_ids(folder) if self._needs_ids else ())
        checkpoints = Checkpoints(folder, self.checkpoint, writes=False)
        try:
            fitted = own._restore(n_samples, len(runs), checkpoints)
        finally:
            checkpoints.close()
        if not fitted:
            raise DataError(f"{folder}: no readable checkpoint; train again")
        fitted = replace(fitted, folder=folder, writes=False)
        path = folder / FOLDER / f"{self.vectors_name}.npz"
        if path.exists():
            return fitted.fit_backend(NormalVectors.load(path, len(runs)))
        require(
            not self.scoring.needs_fit,
            f"scoring.backend='{self.scoring.backend}': {path} is missing; train in "
            "this workdir with this scoring (no model is trained again)",
        )
        return fitted

    @property
    def scoring_windows(self) -> Windows:
        """Windows whose errors are scored."""
        return replace(self.windows, hop=self.scoring_hop)

    @property
    def vectors_name(self) -> str:
        """Name of what a clip's vectors depend on, besides model and audio."""
        pooling = self.scoring.pooling
        numbers = {"top_k": pooling.top_k, "gwrp": pooling.gwrp_r}
        parts = (
            self.scoring.representation,
            pooling.name,
            numbers.get(pooling.name, ""),
            f"hop_{self.scoring_hop}",
            *(self.model.fields.get(name, "") for name in SCORING_FIELDS),
        )
        return "_".join(filter(None, map(str, parts)))

    def groups(
        self, machine_id: Shaped[np.ndarray, " clip"]
    ) -> Int[np.ndarray, " clip"]:
        """Row of each clip in a standardiser; 0 for an unknown ID."""
        return group_rows(self._group_ids, machine_id)

    @property
    def _group_ids(self) -> tuple[str, ...]:
        return self.ids if self.standardise_ids else ()

    @property
    def _needs_ids(self) -> bool:
        return self.model.classifies or self.standardise_ids

    def _of_ids(self, ids: Sequence[str]) -> "NeuralDetector":
        """For clips of these IDs, the classes of a model that classifies."""
        model = replace(self.model, n_classes=len(ids) or 1)
        return replace(self, model=model, ids=tuple(ids))

    def shape(self, n_samples: int) -> tuple[int, int]:
        """Frames and bins of a clip."""
        wave = jax.ShapeDtypeStruct((n_samples,), np.float32)
        return jax.eval_shape(self.front_end, wave).shape

    def _build(self, n_samples: int) -> Callable[..., Any]:
        """A function of `rngs` that makes the model for clips of this length."""
        n_frames, n_bins = self.shape(n_samples)
        return partial(self.model, (self.windows.width_in(n_frames), n_bins))

    def _abstract(self, n_samples: int, n_runs: int) -> tuple[Any, TrainState]:
        """Graph, and shapes and types of the state of all runs."""
        _, n_bins = self.shape(n_samples)
        like = Standardiser.identity(n_bins, len(self._group_ids))
        return abstract_runs(self._build(n_samples), self.settings, n_runs, like)

    def _restore(
        self, n_samples: int, n_runs: int, checkpoints: Checkpoints
    ) -> FittedNeural | None:
        """Models of the latest readable checkpoint, if any."""
        graph, like = self._abstract(n_samples, n_runs)
        step, state = restore_runs(checkpoints, like, make_mesh(1, *self.mesh))
        return FittedNeural.of(self, graph, state) if step else None

    def _restore_finished(
        self, n_samples: int, runs: Sequence[Run], checkpoints: Checkpoints | None
    ) -> FittedNeural | None:
        """Models of a finished training; None: it isn't finished."""
        n_frames, _ = self.shape(n_samples)
        plan = make_plan(self.settings, runs, self.windows.per_clip(n_frames))
        if not checkpoints or checkpoints.latest < plan.total.max():
            return None
        fitted = self._restore(n_samples, len(runs), checkpoints)
        if checkpoints.latest < plan.total.max():  # that one was damaged
            return None
        log.info(f"Trained already: {checkpoints.folder / str(checkpoints.latest)}")
        return fitted

    def _train(
        self,
        train: Clips,
        held_out: Clips,
        runs: Sequence[Run],
        checkpoints: Checkpoints | None,
    ) -> FittedNeural:
        """Extract features and train."""
        mesh = make_mesh(len(runs), *self.mesh)
        with log.bar("features", len(train) + len(held_out)) as advance:
            own, moments = self._training_features(
                train, advance, checkpoints and checkpoints.folder
            )
            others = self._extract(held_out, advance)
        standardisers = [Standardiser.identity(own.shape[2])] * len(runs)
        groups = Labels(*(self.groups(c.machine_id) for c in (train, held_out)))
        if self.standardise:
            mean, variance = map(np.concatenate, zip(*moments, strict=True))
            standardisers = [
                Standardiser.of_groups(
                    mean[run.clips],
                    variance[run.clips],
                    groups.train[run.clips],
                    len(self._group_ids),
                )
                for run in runs
            ]
        build, labels = self._build(train.audio.shape[1]), None
        if self.model.classifies:
            ids = [clips.machine_id for clips in (train, held_out)]
            labels = Labels(*(np.searchsorted(train.ids, one) for one in ids))
            known = np.arange(self.model.n_classes)
            runs = [
                replace(run, changes={**run.changes, "present": present})
                for run in runs
                for present in [np.isin(known, labels.train[run.clips])]
            ]
            kinds = nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))).n_transforms
            fewest = kinds * min(run.changes["present"].sum() for run in runs)
            require(
                fewest > 1,
                "data.ids: clips of a single ID have nothing to tell apart; add others "
                "(or use id_classifier with detector.transforms=True)",
            )
        profile = checkpoints.folder / "profile" if checkpoints else None
        graph, state = train_runs(
            build,
            self.windows,
            Features(
                own if isinstance(own, Records) else replicate(own, mesh),
                replicate(others, mesh),
                standardisers,
                labels,
                groups if self._group_ids else None,
            ),
            self.settings,
            runs,
            mesh,
            checkpoints,
            profile=profile if self.profile else None,
        )
        return FittedNeural.of(self, graph, state)

    def _training_features(
        self, clips: Clips, advance: Callable[[int], None], folder: Path | None
    ) -> tuple[Array | Records, list[tuple[Moment, Moment]]]:
        """Features on a device or in a file; parts of their moments."""
        shape = (len(clips), *self.shape(clips.audio.shape[1]))
        if not self.on_disk:
            size = math.prod(shape) * jnp.dtype(self.features_dtype).itemsize
            have = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0)
            remedy = "use --config.train.features_on=disk"
            require_memory(size, "features", remedy, have)
            found = self._extract(clips, advance)
            return found, [clip_moments(found)] if self.standardise else []
        moments: list[tuple[Moment, Moment]] = []

        def chunks() -> Iterator[np.ndarray]:
            n = CLIPS_PER_TRANSFER
            parts = (clips[i : i + n] for i in range(0, len(clips), n))
            found = chain((self._extract(part, advance) for part in parts), [None])
            for chunk, _ in pairwise(found):  # the next is read while this is computed
                assert chunk is not None
                if self.standardise:
                    moments.append(clip_moments(chunk))
                yield np.asarray(chunk)

        own = write(folder, shape, self.features_dtype, self.windows, chunks())
        return own, moments

    def _extract(self, clips: Clips, advance: Callable[[int], None]) -> Array:
        """Features [clip frame bin] on a local device."""
        if not len(clips):
            return jnp.zeros(
                (0, *self.shape(clips.audio.shape[1])), self.features_dtype
            )
        with jax.default_device(jax.local_devices()[0]):
            rows, dtype = np.arange(len(clips)), self.features_dtype
            return extract(self.front_end, clips.audio, rows, advance, dtype)
