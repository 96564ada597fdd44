"""Vectors of clips, kept beside a fitted model: another back-end needs no model."""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
from jaxtyping import Bool, Float, Float32, Shaped

from mimii_jax.data.clips import Clips
from mimii_jax.data.recordings import Recordings
from mimii_jax.detectors.backends import Banks, Scoring
from mimii_jax.detectors.detector import NormalScores
from mimii_jax.errors import DataError
from mimii_jax.files import make_folder, read_arrays, read_json, replace_file
from mimii_jax.train.runs import Run

FOLDER = "vectors"  # in a fit's folder
SHAPE = "shape.json"  # in a fit's folder: the length of its clips


@dataclass(frozen=True, eq=False)
class NormalVectors:
    """Vectors of all normal clips under every run."""

    vectors: Float32[np.ndarray, "run clip column"]  # or of one "run" for all
    machine_id: Shaped[np.ndarray, " clip"]
    name: Shaped[np.ndarray, " clip"]
    held_out: Bool[np.ndarray, " clip"]  # from every training
    used: Bool[np.ndarray, "run clip"]  # by the run, to train or to validate

    @classmethod
    def of(
        cls,
        vectors: Float32[np.ndarray, "run clip column"],
        train: Clips,
        held_out: Clips,
        runs: Sequence[Run],
    ) -> Self:
        """Vectors of the training clips, then of those held out."""
        n, used = len(train), np.zeros((len(runs), len(train) + len(held_out)), bool)
        for row, run in zip(used, runs, strict=True):
            row[run.clips] = True
            row[n + run.validation] = True
        return cls(
            # Those of a run that diverged are of no use, but must be finite.
            np.nan_to_num(vectors, posinf=0.0, neginf=0.0),
            np.concatenate([train.machine_id, held_out.machine_id]),
            np.concatenate([train.name, held_out.name]),
            np.arange(used.shape[1]) >= n,
            used,
        )

    @classmethod
    def load(cls, path: Path, n_runs: int) -> Self:
        """Read what `save` wrote for as many runs."""
        try:
            found = cls(**read_arrays(path))
        except TypeError as error:
            raise DataError(f"{path}: damaged ({error}); remove it and rerun") from None
        if len(found.used) != n_runs:
            raise DataError(f"{path}: {len(found.used)} runs instead of {n_runs}")
        return found

    def save(self, path: Path) -> None:
        """Write an npz file."""
        file = BytesIO()
        np.savez(file, **asdict(self))
        _write(path, file)

    def banks(self, scoring: Scoring) -> list[Banks]:
        """Fit the back-end of each run to all its normal clips."""
        vectors = np.broadcast_to(
            self.vectors, (len(self.used), *self.vectors.shape[1:])
        )
        return [
            Banks.fit(scoring, of_run[used], self.machine_id[used])
            for of_run, used in zip(vectors, self.used, strict=True)
        ]

    def scores(self, run: int, score: Float[np.ndarray, " clip"]) -> NormalScores:
        """Label the scores of the clips that a run used."""
        used = self.used[run]
        return NormalScores(self.name[used], self.machine_id[used], score)

    def held_out_scores(self, run: int, score: Callable[..., Any]) -> NormalScores:
        """Score the vectors of the clips held out; of all where none were."""
        used = self.used[run]
        rows = used & self.held_out if (used & self.held_out).any() else used
        scores = np.asarray(score(self.vectors[run, rows]), np.float64)
        return NormalScores(self.name[rows], self.machine_id[rows], scores)


def write_clip_length(folder: Path, n_samples: int, ids: Sequence[str] = ()) -> None:
    """Keep the length of the clips of a fit, and IDs that its models depend on."""
    about = {"n_samples": n_samples} | ({"classes": list(ids)} if ids else {})
    _write(folder / SHAPE, BytesIO(json.dumps(about).encode()))


def read_clip_length(folder: Path) -> int:
    """Samples of the clips that the models in a folder were fitted to."""
    return _read_shape(folder, lambda about: int(about["n_samples"]))


def read_ids(folder: Path) -> list[str]:
    """IDs that the models in a folder depend on."""
    return _read_shape(folder, lambda about: list(map(str, about["classes"])))


def _read_shape(folder: Path, read: Callable[[Any], Any]) -> Any:
    path = folder / SHAPE
    try:
        return read(read_json(path))
    except (ValueError, LookupError, TypeError, OverflowError):
        raise DataError(f"{path}: damaged; train with this config again") from None


def kept(
    folder: Path | None,
    key: str,
    clips: Clips,
    compute: Callable[[], np.ndarray],
    writes: bool = True,
) -> np.ndarray:
    """Array of these clips: read if it was computed before, for the same audio."""
    if not folder:
        return compute()
    path = folder / FOLDER / f"{key}_{_digest(clips)}.npy"
    alone = jax.process_count() == 1  # several must agree on what they compute
    if alone and path.exists():
        with suppress(DataError):  # a damaged one is replaced
            return read_arrays(path)
    array, file = compute(), BytesIO()
    if writes:
        np.save(file, array)
        _write(path, file)
    return array


def _digest(clips: Clips) -> str:
    """Hash of audio and sample rate."""
    digest = hashlib.blake2b(str((clips.audio.shape, clips.sample_rate)).encode())
    if isinstance(clips.audio, Recordings):
        digest.update(b"".join(clips.audio.digest))
    else:
        digest.update(clips.audio.tobytes())
    return digest.hexdigest()[:16]


def _write(path: Path, file: BytesIO) -> None:
    if jax.process_index() == 0:
        make_folder(path.parent)
        replace_file(path, file.getvalue())
