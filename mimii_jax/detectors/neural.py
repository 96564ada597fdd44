"""Detectors that are Flax models, trained for all runs as one program."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Float32

from mimii_jax import log
from mimii_jax.data.clips import Clips
from mimii_jax.detectors.backends import Banks, Scoring
from mimii_jax.detectors.detector import Explanation, NormalScores
from mimii_jax.detectors.exported import OfIds, normal_scores, of_banks
from mimii_jax.detectors.programs import (
    Models,
    clips_at_once,
    compile_explanation,
    compile_summaries,
)
from mimii_jax.detectors.vectors import (
    FOLDER,
    NormalVectors,
    kept,
    read_classes,
    read_clip_length,
    write_clip_length,
)
from mimii_jax.errors import DataError, require, require_memory
from mimii_jax.features.front_ends import CLIPS_PER_TRANSFER, FrontEnd, extract
from mimii_jax.features.windows import Moment, Standardiser, Windows, clip_moments
from mimii_jax.models.model import ModelSpec
from mimii_jax.train.checkpoints import Checkpoints
from mimii_jax.train.loop import Features, train_runs
from mimii_jax.train.mesh import DATA, RUN, make_mesh, put, replicate, replicated
from mimii_jax.train.records import Records, require_packages, write
from mimii_jax.train.runs import CheckpointPolicy, Labels, Pretrained, Run, Settings
from mimii_jax.train.state import TrainState, abstract_runs, make_plan, restore_runs
from mimii_jax.train.step import group_size

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
    # devices along "run" and "data"; None: automatic
    mesh: tuple[int | None, int | None] = field(default=(None, None), compare=False)
    checkpoint: CheckpointPolicy = field(default=CheckpointPolicy(), compare=False)
    profile: bool = field(default=False, compare=False)  # the training, by JAX

    one_process = False

    def training(self) -> object:
        """Everything but the scoring."""
        spec = self.model
        fields = {k: v for k, v in spec.fields.items() if k not in SCORING_FIELDS}
        model = (spec.model, fields, spec.dtype)
        features = (self.front_end, self.features_dtype, self.windows, self.standardise)
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
        n_frames, n_bins = self._shape(n_samples)
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
    ) -> "FittedNeural":
        """Train all runs at once, then fit their back-ends.

        With a folder it resumes from the latest checkpoint; a finished training is
        restored.
        """
        n_samples = train.audio.shape[1]
        classes = train.ids if self.model.classifies else []
        if folder:
            write_clip_length(folder, n_samples, classes)
        own = self._of_classes(classes)
        checkpoints = Checkpoints(folder, self.checkpoint) if folder else None
        try:
            fitted = own._restore_finished(n_samples, runs, checkpoints) or (
                own._train(train, held_out, runs, checkpoints)
            )
        finally:
            if checkpoints:
                checkpoints.close()
        fitted = replace(fitted, folder=folder)
        path = folder and folder / FOLDER / f"{self._vectors}.npz"
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

    def load(self, folder: Path, runs: Sequence[Run]) -> "FittedNeural":
        """Read the latest checkpoint of the same runs."""
        n_samples = read_clip_length(folder)
        own = self._of_classes(read_classes(folder) if self.model.classifies else [])
        checkpoints = Checkpoints(folder, self.checkpoint, writes=False)
        try:
            fitted = own._restore(n_samples, len(runs), checkpoints)
        finally:
            checkpoints.close()
        if not fitted:
            raise DataError(f"{folder}: no readable checkpoint; train again")
        fitted = replace(fitted, folder=folder, writes=False)
        path = folder / FOLDER / f"{self._vectors}.npz"
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
    def _vectors(self) -> str:
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

    def _of_classes(self, classes: Sequence[str]) -> "NeuralDetector":
        """With a model for as many classes."""
        return replace(self, model=replace(self.model, n_classes=len(classes) or 1))

    def _shape(self, n_samples: int) -> tuple[int, int]:
        """Frames and bins of a clip."""
        wave = jax.ShapeDtypeStruct((n_samples,), np.float32)
        return jax.eval_shape(self.front_end, wave).shape

    def _build(self, n_samples: int) -> Callable[..., Any]:
        """A function of `rngs` that makes the model for clips of this length."""
        n_frames, n_bins = self._shape(n_samples)
        return partial(self.model, (self.windows.width_in(n_frames), n_bins))

    def _abstract(self, n_samples: int, n_runs: int) -> tuple[Any, TrainState]:
        """Graph, and shapes and types of the state of all runs."""
        _, n_bins = self._shape(n_samples)
        return abstract_runs(self._build(n_samples), self.settings, n_runs, n_bins)

    def _restore(
        self, n_samples: int, n_runs: int, checkpoints: Checkpoints
    ) -> "FittedNeural | None":
        """Models of the latest readable checkpoint, if any."""
        graph, like = self._abstract(n_samples, n_runs)
        step, state = restore_runs(checkpoints, like, make_mesh(1, *self.mesh))
        return FittedNeural.of(self, graph, state) if step else None

    def _restore_finished(
        self, n_samples: int, runs: Sequence[Run], checkpoints: Checkpoints | None
    ) -> "FittedNeural | None":
        """Models of a finished training; None: it isn't finished."""
        n_frames, _ = self._shape(n_samples)
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
    ) -> "FittedNeural":
        """Extract features and train."""
        mesh = make_mesh(len(runs), *self.mesh)
        with log.bar("features", len(train) + len(held_out)) as advance:
            own, moments = self._training_features(
                train, advance, checkpoints and checkpoints.folder
            )
            others = self._extract(held_out, advance)
        standardisers = [Standardiser.identity(own.shape[2])] * len(runs)
        if self.standardise:
            mean, variance = map(np.concatenate, zip(*moments, strict=True))
            standardisers = [
                Standardiser.of_moments(mean[run.clips], variance[run.clips])
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
        shape = (len(clips), *self._shape(clips.audio.shape[1]))
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
                (0, *self._shape(clips.audio.shape[1])), self.features_dtype
            )
        with jax.default_device(jax.local_devices()[0]):
            rows, dtype = np.arange(len(clips)), self.features_dtype
            return extract(self.front_end, clips.audio, rows, advance, dtype)


@dataclass(frozen=True, eq=False)
class FittedNeural:
    """Trained models of all runs, and their back-ends."""

    detector: NeuralDetector
    graph: nnx.GraphDef
    models: Models
    alive: Bool[np.ndarray, " run"]  # False for a run that diverged
    normal: NormalVectors | None = None
    banks: Sequence[Banks] | None = None  # of each run; None: the mean is the score
    folder: Path | None = None  # where vectors of clips are kept
    writes: bool = True  # False: those that are there are read alone

    @classmethod
    def of(
        cls, detector: NeuralDetector, graph: nnx.GraphDef, state: TrainState
    ) -> "FittedNeural":
        """The models of a training's state."""
        models = Models(state.params, state.fixed, state.standardiser)
        return cls(detector, graph, models, np.asarray(state.alive))

    def represent(self, clips: Clips) -> Float32[np.ndarray, "run clip segment column"]:
        """Vectors of every segment, such as squared errors per bin."""
        return self.summarise(clips, None, "vectors")

    def score(self, clips: Clips) -> Float[np.ndarray, "run clip"]:
        """Anomaly scores; NaN for a run that diverged."""
        scoring, key = self.detector.scoring, self.detector._vectors
        vectors = kept(
            self.folder,
            key,
            clips,
            lambda: self.summarise(clips, scoring, "scoring"),
            self.writes,
        )
        scores = vectors[:, :, 0]
        if self.banks:
            pairs = zip(self.banks, vectors[:, :, 1:], strict=True)
            scores = np.stack([bank.score(x, clips.machine_id) for bank, x in pairs])
        return np.where(self.alive[:, None], scores, np.nan)

    def fit_backend(self, normal: NormalVectors) -> "FittedNeural":
        """Fit the back-end of each run to its normal clips."""
        banks = None
        if self.detector.scoring.needs_fit:
            columns = replace(normal, vectors=normal.vectors[:, :, 1:])
            banks = columns.banks(self.detector.scoring)
        return replace(self, normal=normal, banks=banks)

    def normal_scores(self) -> list[NormalScores]:
        """Scores of each run's normal clips, left out of the bank or the training."""
        if not self.normal:
            return []
        if not self.banks:
            if not self.normal.held_out.any():
                log.warning(
                    "thresholds are those of clips that the model was fitted to, so "
                    "expect more false alarms than wanted; hold clips out by "
                    "data.validation_fraction=0.1"
                )
            runs = range(len(self.alive))
            return [self.normal.held_out_scores(r, lambda x: x[:, 0]) for r in runs]
        return [
            self.normal.scores(run, bank.held_out_scores())
            for run, bank in enumerate(self.banks)
        ]

    def summarise(
        self, clips: Clips, scoring: Scoring | None, task: str
    ) -> Float32[np.ndarray, "run clip ..."]:
        """`Scoring.summary` of every clip under every run; None: of its segments."""
        mesh, models = self._replicated
        windows = self.detector.scoring_windows
        group = group_size(mesh, len(self.alive))
        front_end, name = self.detector.front_end, self.detector.scoring.representation
        if scoring not in self._programs:  # hashing the graph takes a millisecond
            self._programs[scoring] = compile_summaries(
                self.graph, front_end, windows, name, scoring, group, mesh
            )
        program = self._programs[scoring]
        # Chunks of one shape, padded with silence; every device has the same share.
        at_once, n_clips = clips_at_once(windows), max(len(clips), 1)
        per_device = min(CLIPS_PER_TRANSFER, -(-n_clips // mesh.size))
        size = mesh.size * -(-per_device // at_once) * at_once
        found: list[Any] = []
        with log.bar(task, len(clips)) as advance:
            for start in range(0, n_clips, size):
                # Read while the last chunk is computed.
                audio = np.asarray(clips.audio[start : start + size])
                padded = np.pad(audio, ((0, size - len(audio)), (0, 0)))
                found[-1:] = map(np.asarray, found[-1:])
                chunk = put(padded, NamedSharding(mesh, P((RUN, DATA))))
                found.append(program(models, chunk))
                advance(len(audio))
        return np.concatenate(found)[: len(clips)].swapaxes(0, 1)

    @cached_property
    def _programs(self) -> dict[Scoring | None, Callable[..., Array]]:
        return {}

    @cached_property
    def _replicated(self) -> tuple[Mesh, Models]:
        """All devices, and the models on each."""
        mesh = make_mesh(1, *self.detector.mesh)
        return mesh, put(self.models, replicated(mesh))

    def explain(self, clips: Clips) -> Explanation | None:
        """Errors of clips under the first run that didn't diverge.

        None if all did, or if the model predicts no frames.
        """
        if not self.alive.any() or not hasattr(self.detector.model.model, "predict"):
            return None
        run = int(np.argmax(self.alive))
        models = jax.tree.map(lambda leaf: np.asarray(leaf[run]), self.models)
        front_end, windows = self.detector.front_end, self.detector.scoring_windows
        n_frames, n_bins = self.detector._shape(clips.audio.shape[1])
        tiles = windows.tiles(n_frames)
        index = np.arange(windows.per_clip(n_frames))
        of_clip = compile_explanation(self.graph, front_end, windows)
        features = np.empty((len(clips), n_frames, n_bins), np.float32)
        expected, tracks = np.full_like(features, np.nan), []
        with jax.debug_nans(False):
            for i, audio in enumerate(clips.audio):
                features[i], expected[i][tiles], track = of_clip(
                    models, jnp.asarray(audio)
                )
                tracks.append(np.asarray(track))
        error = ((features - expected) / models.standardiser.scale) ** 2
        centres = nnx.merge(self.graph, models.params, models.fixed).segment_centres()
        frames = (windows.hop * index[:, None] + centres[None]).ravel()
        seconds = frames * front_end.hop / clips.sample_rate
        track = np.reshape(tracks, (len(clips), len(seconds)))
        return Explanation(features, expected, error, seconds, track)

    def group_scores(self, clips: Clips) -> dict[str, Float[np.ndarray, "run clip"]]:
        """Return nothing: a score has no parts."""
        return {}

    def without_folder(self) -> "FittedNeural":
        """Itself, without the folder where it looks for vectors of known clips."""
        return replace(self, folder=None)

    def of_wave(self, run: int, ids: Sequence[str]) -> Callable[[Array], OfIds]:
        """A pure function of a wave: scores if it were of each ID."""
        detector, windows = self.detector, self.detector.scoring_windows
        models = jax.tree.map(lambda leaf: np.asarray(leaf[run]), self.models)
        banks = self.banks[run] if self.banks else None
        if banks:
            normal_scores(banks, ids)

        def of_wave(wave: Array) -> OfIds:
            features = lax.optimization_barrier(detector.front_end(wave))
            n_frames = len(features)
            starts = windows.hop * np.arange(windows.per_clip(n_frames))
            x = features[starts[:, None] + np.arange(windows.width_in(n_frames))]
            model = nnx.merge(self.graph, models.params, models.fixed)
            method = getattr(model, detector.scoring.representation)
            vectors = method(models.standardiser.apply(x))
            summary = detector.scoring.summary(vectors.reshape(-1, vectors.shape[-1]))
            summary = lax.optimization_barrier(summary)
            if banks:
                return of_banks(banks, summary[1:], ids)
            return jnp.broadcast_to(summary[0], len(ids))

        return of_wave

    def pretrained(self) -> list[Pretrained]:
        """The trained models of all runs, to initialise others with."""
        params = {
            path: np.asarray(variable[...])
            for variables in (self.models.params, self.models.fixed)
            for path, variable in nnx.to_flat_state(variables)
            if isinstance(variable, nnx.Param)
        }
        return [
            Pretrained(
                {path: value[i] for path, value in params.items()},
                Standardiser(*(leaf[i] for leaf in self.models.standardiser)),
            )
            for i in range(len(self.alive))
        ]
