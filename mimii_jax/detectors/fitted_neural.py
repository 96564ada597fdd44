"""Trained models of all runs, and their back-ends: scores, explanations, array code."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

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
from mimii_jax.detectors.vectors import NormalVectors, kept
from mimii_jax.features.front_ends import CLIPS_PER_TRANSFER
from mimii_jax.features.windows import Standardiser
from mimii_jax.train.mesh import DATA, RUN, make_mesh, put, replicated
from mimii_jax.train.runs import Pretrained
from mimii_jax.train.state import TrainState
from mimii_jax.train.step import group_size

if TYPE_CHECKING:
    from mimii_jax.detectors.neural import NeuralDetector


@dataclass(frozen=True, eq=False)
class FittedNeural:
    """Trained models of all runs, and their back-ends."""

    detector: "NeuralDetector"
    graph: nnx.GraphDef
    models: Models
    alive: Bool[np.ndarray, " run"]  # False for a run that diverged
    normal: NormalVectors | None = None
    banks: Sequence[Banks] | None = None  # of each run; None: the mean is the score
    folder: Path | None = None  # where vectors of clips are kept
    writes: bool = True  # False: those that are there are read alone

    @classmethod
    def of(
        cls, detector: "NeuralDetector", graph: nnx.GraphDef, state: TrainState
    ) -> "FittedNeural":
        """The models of a training's state."""
        models = Models(state.params, state.fixed, state.standardiser)
        return cls(detector, graph, models, np.asarray(state.alive))

    def represent(self, clips: Clips) -> Float32[np.ndarray, "run clip segment column"]:
        """Vectors of every segment, such as squared errors per bin."""
        return self.summarise(clips, None, "vectors")

    def score(self, clips: Clips) -> Float[np.ndarray, "run clip"]:
        """Anomaly scores; NaN for a run that diverged."""
        scoring, key = self.detector.scoring, self.detector.vectors_name
        groups = self.detector.groups(clips.machine_id)
        if groups.any():  # vectors depend on the clips' IDs, too
            key += f"_{crc32(groups.tobytes()):08x}"
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
        groups = self.detector.groups(clips.machine_id)
        found: list[Any] = []
        with log.bar(task, len(clips)) as advance:
            for start in range(0, n_clips, size):
                # Read while the last chunk is computed.
                audio = np.asarray(clips.audio[start : start + size])
                padded = np.pad(audio, ((0, size - len(audio)), (0, 0)))
                found[-1:] = map(np.asarray, found[-1:])
                rows = np.resize(groups[start : start + size], size)
                chunk = put((padded, rows), NamedSharding(mesh, P((RUN, DATA))))
                found.append(program(models, *chunk))
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
        n_frames, n_bins = self.detector.shape(clips.audio.shape[1])
        tiles = windows.tiles(n_frames)
        index = np.arange(windows.per_clip(n_frames))
        of_clip = compile_explanation(self.graph, front_end, windows)
        groups = self.detector.groups(clips.machine_id)
        features = np.empty((len(clips), n_frames, n_bins), np.float32)
        expected, tracks = np.full_like(features, np.nan), []
        with jax.debug_nans(False):
            for i, audio in enumerate(clips.audio):
                features[i], expected[i][tiles], track = of_clip(
                    models, jnp.asarray(audio), groups[i]
                )
                tracks.append(np.asarray(track))
        scale = np.atleast_2d(models.standardiser.of(groups).scale)
        error = ((features - expected) / scale[:, None]) ** 2
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
        groups = detector.groups(np.array(ids)).tolist()

        def of_wave(wave: Array) -> OfIds:
            features = lax.optimization_barrier(detector.front_end(wave))
            n_frames = len(features)
            starts = windows.hop * np.arange(windows.per_clip(n_frames))
            x = features[starts[:, None] + np.arange(windows.width_in(n_frames))]
            model = nnx.merge(self.graph, models.params, models.fixed)
            method = getattr(model, detector.scoring.representation)

            def of_group(group: int) -> OfIds:
                vectors = method(models.standardiser.of(group).apply(x))
                vectors = vectors.reshape(-1, vectors.shape[-1])
                summary = lax.optimization_barrier(detector.scoring.summary(vectors))
                if banks:
                    return of_banks(banks, summary[1:], ids)
                return jnp.broadcast_to(summary[0], len(ids))

            scores = {group: of_group(group) for group in set(groups)}
            return jnp.stack([scores[group][i] for i, group in enumerate(groups)])

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
