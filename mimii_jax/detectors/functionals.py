"""A detector without training: functionals of a clip against those of normal clips."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Shaped

from mimii_jax import log
from mimii_jax.data.clips import Clips
from mimii_jax.detectors.backends import Banks, Scoring
from mimii_jax.detectors.detector import Explanation, NormalScores
from mimii_jax.detectors.exported import OfIds, normal_scores, of_banks
from mimii_jax.detectors.vectors import FOLDER, NormalVectors, kept, write_clip_length
from mimii_jax.errors import ConfigError
from mimii_jax.features.front_ends import Linear, LogMel, extract
from mimii_jax.features.functionals import (
    GROUPS,
    PRETRAINED,
    TINY,
    extract_functionals,
    functionals,
)
from mimii_jax.results.metrics import median_and_spread, z_scores
from mimii_jax.train.runs import Run

BANDS = "bands"  # whose first statistics are level and SD over time
LIMIT = 8.0  # SD: nothing counts beyond, as in a bank
LEAST_DB = 0.1  # SD over time of what never changes
Vectors = Mapping[str, Float32[np.ndarray, "clip column"]]


@dataclass(frozen=True)
class Functionals:
    """Groups of functionals, each compared with a bank per ID; scores are fused.

    Nothing is drawn at random: the scores are the same for every seed.
    """

    front_end: Linear
    groups: tuple[str, ...]  # that are computed, of `GROUPS` and `PRETRAINED`
    scoring: Scoring
    fused: tuple[str, ...] = ()  # whose scores count; (): all groups

    one_process = False

    def __post_init__(self) -> None:
        if not isinstance(self.front_end, Linear):
            raise ConfigError(
                "features.name: functionals need a spectrum; choose log_mel or linear"
            )
        _require_names("detector.groups", self.groups, (*GROUPS, *PRETRAINED))
        _require_names("scoring.groups", self.counted, self.groups)

    @property
    def counted(self) -> tuple[str, ...]:
        """The groups whose scores are fused."""
        return self.fused or self.groups

    def training(self) -> object:
        """Front end and groups."""
        return (self.front_end, self.groups)

    def check(self, n_samples: int) -> None:
        """Raise `ConfigError` if clips of this length are too short for a frame."""
        wave = jax.ShapeDtypeStruct((n_samples,), np.float32)
        jax.eval_shape(lambda x: functionals(self.front_end, self.groups, x), wave)

    def extract(self, clips: Clips) -> dict[str, Float32[np.ndarray, "clip column"]]:
        """Vectors of every group."""
        with log.bar("functionals", len(clips)) as advance:
            return extract_functionals(
                self.front_end, self.groups, clips.audio, advance
            )

    def fit(
        self, train: Clips, held_out: Clips, runs: Sequence[Run], folder: Path | None
    ) -> "FittedFunctionals":
        """Fit one bank per group and run, to its training and validation clips."""
        if folder:
            write_clip_length(folder, train.audio.shape[1])
        if folder and all(path.exists() for path in self._paths(folder).values()):
            return replace(self.load(folder, runs), writes=True)
        found = [self.extract(clips) for clips in (train, held_out) if len(clips)]
        normal = {}
        for group in self.groups:
            vectors = np.concatenate([of_clips[group] for of_clips in found])[None]
            normal[group] = NormalVectors.of(vectors, train, held_out, runs)
            if folder:
                normal[group].save(self._paths(folder)[group])
        return FittedFunctionals.of(self, normal, folder)

    def load(self, folder: Path, runs: Sequence[Run]) -> "FittedFunctionals":
        """Fit the banks again to the vectors that `fit` saved, in seconds."""
        paths = self._paths(folder)
        normal = {k: NormalVectors.load(path, len(runs)) for k, path in paths.items()}
        return replace(FittedFunctionals.of(self, normal, folder), writes=False)

    def _paths(self, folder: Path) -> dict[str, Path]:
        return {group: folder / FOLDER / f"{group}.npz" for group in self.groups}


@dataclass(frozen=True, eq=False)
class FittedFunctionals:
    """The banks of every run."""

    detector: Functionals
    normal: Mapping[str, NormalVectors]  # of each group
    banks: Mapping[str, Sequence[Banks]]  # of each group that counts, one per run
    folder: Path | None
    writes: bool = True  # False: vectors that are kept in the folder are read alone

    @classmethod
    def of(
        cls,
        detector: Functionals,
        normal: Mapping[str, NormalVectors],
        folder: Path | None,
    ) -> "FittedFunctionals":
        """Fit the banks."""
        banks = {k: normal[k].banks(detector.scoring) for k in detector.counted}
        return cls(detector, normal, banks, folder)

    @property
    def alive(self) -> list[bool]:
        """True for each run: nothing is trained."""
        return [True] * len(next(iter(self.banks.values())))

    def represent(self, clips: Clips) -> Float[np.ndarray, "run clip segment column"]:
        """Functionals of the clip, its only segment; the groups side by side."""
        vectors = self._vectors(clips)
        joined = np.concatenate([vectors[k] for k in self.detector.groups], axis=1)
        shape = (len(self.alive), len(clips), 1, joined.shape[1])
        return np.broadcast_to(joined[None, :, None], shape)

    def score(self, clips: Clips) -> Float[np.ndarray, "run clip"]:
        """Mean of the groups' z-scores."""
        return np.mean(list(self.group_scores(clips).values()), axis=0)

    def group_scores(self, clips: Clips) -> dict[str, Float[np.ndarray, "run clip"]]:
        """z-scores of each group that counts."""
        vectors, ids = self._vectors(clips), clips.machine_id
        return {
            group: np.stack(
                [_z_scores(one, one.score(vectors[group], ids), ids) for one in banks]
            )
            for group, banks in self.banks.items()
        }

    def normal_scores(self) -> list[NormalScores]:
        """Scores of each run's normal clips, each left out of its bank."""
        scores = [
            [_z_scores(b, b.held_out_scores(), b.machine_id) for b in banks]
            for banks in self.banks.values()
        ]
        normal = next(iter(self.normal.values()))
        of_runs = [np.mean(of_run, axis=0) for of_run in zip(*scores, strict=True)]
        return [normal.scores(run, score) for run, score in enumerate(of_runs)]

    def _vectors(self, clips: Clips) -> Vectors:
        """Vectors of every group, extracted unless they are kept."""
        extract = cache(lambda: self.detector.extract(clips))
        return {
            group: kept(
                self.folder,
                group,
                clips,
                lambda group=group: extract()[group],
                self.writes,
            )
            for group in self.detector.groups
        }

    def explain(self, clips: Clips) -> Explanation | None:
        """Difference from the nearest normal clips, by bin and frame; None: no bands.

        In the first run, clips are nearest by each bin's level and SD over time. These
        are also expected of a frame: its error is the squared distance from the level,
        in SDs over time, each bin weighted by the square of its difference.
        """
        if BANDS not in self.normal:
            return None
        front_end, rows = self.detector.front_end, np.arange(len(clips))
        features = np.asarray(extract(front_end, clips.audio, rows, lambda n: None))
        level, spread, bins = self._nearest(features, clips.machine_id)
        weight = bins**2 / np.maximum(np.mean(bins**2, axis=1, keepdims=True), TINY)
        expected = np.broadcast_to(level[:, None], features.shape)
        error = weight[:, None] * ((features - expected) / spread[:, None]) ** 2
        seconds = np.arange(features.shape[1]) * front_end.hop / clips.sample_rate
        track = error.mean(axis=2)
        return Explanation(features, expected, error, seconds, track, bins)

    def _nearest(
        self,
        features: Float32[np.ndarray, "clip frame bin"],
        machine_id: Shaped[np.ndarray, " clip"],
    ) -> tuple[np.ndarray, ...]:
        """Level and SD over time of the nearest normal clips, and the difference.

        The difference of a bin is that of its level and its SD, root mean square, in
        units of their SD over normal clips.
        """
        normal, scoring = self.normal[BANDS], self.detector.scoring
        used, n_bins = normal.used[0], features.shape[2]
        bank, ids = normal.vectors[0][used, : 2 * n_bins], normal.machine_id[used]
        vectors = np.concatenate([features.mean(axis=1), features.std(axis=1)], axis=1)
        found = []
        for x, one in zip(vectors, machine_id, strict=True):
            own = bank[ids == one] if scoring.per_id and sum(ids == one) > 1 else bank
            scale = own.std(axis=0)
            scale = np.where(scale > 0, scale, 1)
            away = np.linalg.norm(np.clip((own - x) / scale, -LIMIT, LIMIT), axis=1)
            near = own[np.argsort(away)[: scoring.neighbours]].mean(axis=0)
            level, spread = near.reshape(2, n_bins)
            difference = ((x - near) / scale).reshape(2, n_bins)
            bins = np.sqrt(np.mean(difference**2, axis=0))
            found.append((level, np.maximum(spread, LEAST_DB), bins))
        return tuple(map(np.stack, zip(*found, strict=True)))

    def without_folder(self) -> "FittedFunctionals":
        """Itself, without the folder where it looks for vectors of known clips."""
        return replace(self, folder=None)

    def of_wave(self, run: int, ids: Sequence[str]) -> Callable[[Array], OfIds]:
        """A pure function of a wave: scores if it were of each ID."""
        banks = {group: of_runs[run] for group, of_runs in self.banks.items()}
        scales = {}
        for group, one in banks.items():
            scale = [median_and_spread(normal) for normal in normal_scores(one, ids)]
            scales[group] = np.array(scale, np.float32).T

        def of_wave(wave: Array) -> OfIds:
            vectors = functionals(self.detector.front_end, self.detector.groups, wave)
            vectors = lax.optimization_barrier(vectors)
            z = [
                (of_banks(one, vectors[group], ids) - scales[group][0])
                / scales[group][1]
                for group, one in banks.items()
            ]
            return jnp.mean(jnp.stack(z), axis=0)

        return of_wave

    def pretrained(self) -> Sequence[Any]:
        """Return nothing: there are no parameters."""
        return ()


def _z_scores(
    banks: Banks,
    scores: Float[np.ndarray, " clip"],
    machine_id: Shaped[np.ndarray, " clip"],
) -> Float[np.ndarray, " clip"]:
    """Scores in units of the normal clips of the bank that each is compared with."""
    scores = scores.copy()
    for one in np.unique(machine_id).tolist():
        rows, bank = machine_id == one, banks.of(one)
        scores[rows] = z_scores(scores[rows], bank.normal_scores())
    return scores


def default_functionals(sample_rate: int) -> Functionals:
    """The detector of configs/functionals.py."""
    front_end = LogMel(sample_rate, 1024, 512, 0.0, None, n_mels=128)
    scoring = Scoring("ldn", neighbours=3, max_columns=None)
    return Functionals(front_end, tuple(GROUPS), scoring)


def _require_names(field: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    if not names or set(names) - set(known) or len(set(names)) < len(names):
        raise ConfigError(f"{field}={names}: must be different ones of {known}")
