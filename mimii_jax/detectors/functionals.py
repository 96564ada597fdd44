"""A detector without training: functionals of a clip against those of normal clips."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Float32, Int, Shaped

from mimii_jax import log
from mimii_jax.data.clips import Clips
from mimii_jax.detectors.backends import Banks, Scoring, z_scores
from mimii_jax.errors import ConfigError, DataError
from mimii_jax.features.front_ends import Linear
from mimii_jax.features.functionals import GROUPS, extract_functionals, functionals
from mimii_jax.files import file_errors, replace_file
from mimii_jax.train.runs import Run

VECTORS = "functionals.npz"  # in a fit's folder: those of all its normal clips
Vectors = Mapping[str, Float32[np.ndarray, "clip column"]]


@dataclass(frozen=True)
class Functionals:
    """Groups of functionals, each compared with a bank per ID; scores are fused.

    Nothing is drawn at random: the scores are the same for every seed.
    """

    front_end: Linear
    groups: tuple[str, ...]  # that are computed, of `GROUPS`
    scoring: Scoring
    fused: tuple[str, ...] = ()  # whose scores count; (): all groups

    one_process = True

    def __post_init__(self) -> None:
        if not isinstance(self.front_end, Linear):
            raise ConfigError(
                "features.name: functionals need a spectrum; choose log_mel or linear"
            )
        _require_names("detector.groups", self.groups, tuple(GROUPS))
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
        if folder and (folder / VECTORS).exists():
            return self.load(folder, runs)
        normal = [clips for clips in (train, held_out) if len(clips)]
        found = [self.extract(clips) for clips in normal]
        vectors = {k: np.concatenate([v[k] for v in found]) for k in self.groups}
        machine_id = np.concatenate([clips.machine_id for clips in normal])
        rows = [np.append(run.clips, len(train) + run.validation) for run in runs]
        if folder:
            _save(folder, vectors, machine_id, rows)
        return self._fit(vectors, machine_id, rows)

    def load(self, folder: Path, runs: Sequence[Run]) -> "FittedFunctionals":
        """Fit the banks again to the vectors that `fit` saved, in seconds."""
        vectors, machine_id, rows = _load(folder / VECTORS, self.groups)
        if len(rows) != len(runs):
            raise DataError(
                f"{folder / VECTORS}: {len(rows)} banks for {len(runs)} runs"
            )
        return self._fit(vectors, machine_id, rows)

    def _fit(
        self,
        vectors: Vectors,
        machine_id: Shaped[np.ndarray, " clip"],
        rows: Sequence[Int[np.ndarray, " row"]],
    ) -> "FittedFunctionals":
        banks = [
            {
                name: Banks.fit(self.scoring, vectors[name][clips], machine_id[clips])
                for name in self.counted
            }
            for clips in rows
        ]
        return FittedFunctionals(self, banks)


@dataclass(frozen=True, eq=False)
class FittedFunctionals:
    """The banks of every run."""

    detector: Functionals
    banks: Sequence[Mapping[str, Banks]]  # of each run and group

    def represent(self, clips: Clips) -> Float[np.ndarray, "run clip segment column"]:
        """Functionals of the clip, its only segment; the groups side by side."""
        vectors = self.detector.extract(clips)
        joined = np.concatenate([vectors[k] for k in self.detector.groups], axis=1)
        shape = (len(self.banks), len(clips), 1, joined.shape[1])
        return np.broadcast_to(joined[None, :, None], shape)

    def score(self, clips: Clips) -> Float[np.ndarray, "run clip"]:
        """Mean of the groups' z-scores."""
        return self.score_vectors(self.detector.extract(clips), clips.machine_id)

    def score_vectors(
        self, vectors: Vectors, machine_id: Shaped[np.ndarray, " clip"]
    ) -> Float[np.ndarray, "run clip"]:
        """`score` of clips whose functionals are known."""
        scores = [
            [_z_scores(banks, vectors[name], machine_id) for name, banks in run.items()]
            for run in self.banks
        ]
        return np.mean(scores, axis=1)

    def explain(self, clips: Clips) -> None:
        """Explain nothing."""

    def pretrained(self) -> Sequence[Any]:
        """Return nothing: there are no parameters."""
        return ()


def _z_scores(
    banks: Banks,
    vectors: Float32[np.ndarray, "clip column"],
    machine_id: Shaped[np.ndarray, " clip"],
) -> Float[np.ndarray, " clip"]:
    """Scores in units of the normal clips of the bank that each is compared with."""
    scores = banks.score(vectors, machine_id)
    for one in np.unique(machine_id).tolist():
        rows, bank = machine_id == one, banks.by_id.get(one) or banks.of_all
        scores[rows] = z_scores(scores[rows], bank.normal_scores())
    return scores


def _require_names(field: str, names: tuple[str, ...], known: tuple[str, ...]) -> None:
    if not names or set(names) - set(known) or len(set(names)) < len(names):
        raise ConfigError(f"{field}={names}: must be different ones of {known}")


def _save(
    folder: Path, vectors: Vectors, machine_id: np.ndarray, rows: Sequence[np.ndarray]
) -> None:
    file = BytesIO()
    of_runs: dict[str, Any] = {f"run_{i}": r for i, r in enumerate(rows)}
    np.savez(file, allow_pickle=False, machine_id=machine_id, **vectors, **of_runs)
    with file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    replace_file(folder / VECTORS, file.getvalue())


def _load(
    path: Path, groups: Sequence[str]
) -> tuple[dict[str, np.ndarray], np.ndarray, list[np.ndarray]]:
    try:
        with file_errors(path), path.open("rb") as file, np.load(file) as arrays:
            n_runs = sum(name.startswith("run_") for name in arrays)
            vectors = {name: arrays[name] for name in groups}
            rows = [arrays[f"run_{i}"] for i in range(n_runs)]
            return vectors, arrays["machine_id"], rows
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: damaged ({error}); remove it to fit again") from error
