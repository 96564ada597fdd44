"""Recordings against the fitted detector of a workdir."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int16

from mimii_jax import log
from mimii_jax.config import Experiment, build
from mimii_jax.data.audio import Content, of_length, read_checked, read_wave
from mimii_jax.data.clips import ALL_TYPES, UNKNOWN, Clips, join_types
from mimii_jax.data.layouts import named_id
from mimii_jax.detectors.detector import Fitted
from mimii_jax.detectors.vectors import read_clip_length
from mimii_jax.errors import require
from mimii_jax.features.front_ends import CLIPS_PER_TRANSFER, extract
from mimii_jax.files import printable
from mimii_jax.report.figures import Scale
from mimii_jax.report.why import write_picture
from mimii_jax.results.fusion import mean_of_seeds
from mimii_jax.results.table import CONTROLS, Scores, read_scores
from mimii_jax.results.threshold import Normals
from mimii_jax.stages import FUSED, SEPARATOR, Stage, fused, load
from mimii_jax.workdir import Workdir

NORMAL, ANOMALY, UNREADABLE, UNDECIDED = "normal", "anomaly", "unreadable", "undecided"
AT_ONCE = 32  # files that are judged together
Wave = Int16[np.ndarray, " time"]
Arrays = Mapping[str, np.ndarray]  # of `Explanation.of`; {}: unknown
NEARBY_S = 0.25  # around the strongest second: frames in which its band is found


class Verdict(NamedTuple):
    """Score, decision and reason of a file; None: unknown."""

    file: str
    decision: str
    score: float | None = None  # of the piece with the highest
    percentile: float | None = None  # among normal clips
    threshold: float | None = None
    second: float | None = None  # of the largest error
    hertz: float | None = None  # where it is largest then
    machine_id: str = ""
    note: str = ""


class _Piece(NamedTuple):
    """The piece of a file that has its score, and the scores of all pieces."""

    clip: Clips
    machine_id: str
    start: float  # in seconds
    score: float
    track: Sequence[tuple[float, float]]  # start and score of each piece


@dataclass(frozen=True, eq=False)
class Judge:
    """A row of a workdir's score table, and how it decides."""

    experiment: Experiment
    stages: Sequence[Stage]
    detector: str  # name of the row
    normal: Scores | None  # normal clips of all rows
    machine_type: str
    ids: Sequence[str]  # that the detector was fitted to
    n_samples: int  # of a training clip
    false_alarms: float  # wanted share
    method: str  # of the threshold
    machine_id: str = ""  # of all files; "": that of their names or folders
    pictures: Path | None = None

    @classmethod
    def load(
        cls, path: Path, *, detector: str = "", machine_type: str = "", **more: Any
    ) -> "Judge":
        """Load the models of a finished workdir."""
        workdir = Workdir(path)
        experiment = build(workdir.read_config())
        require(workdir.finished, f"--workdir={path}: isn't finished; resume it first")
        scores = read_scores(workdir.scores)
        normal = read_scores(workdir.normals) if workdir.normals.is_file() else None
        tables = [scores, normal] if normal else [scores]  # one may have no rows
        names = dict.fromkeys(name for table in tables for name in table.detectors)
        rows = [name for name in names if name not in CONTROLS]
        require(bool(rows), f"--workdir={path}: holds controls, no fitted detector")
        row = _choose("--detector", detector or rows[0], rows)
        types = sorted({kind for table in tables for kind in table.machine_types})
        several = len(types) > 1 and not machine_type
        kind = _choose("--machine", "" if several else machine_type or types[0], types)
        if normal:
            normal = normal[normal.machine_type == kind]
        table = normal or scores[scores.machine_type == kind]
        clips = {*zip(table.machine_id.tolist(), table.name.tolist(), strict=True)}
        ids, counts = np.unique([one for one, _ in clips], return_counts=True)
        known = ids[counts > 1].tolist()  # an ID with a single clip has no bank
        folder = ALL_TYPES if experiment.data.together else kind
        loaded = load(experiment, folder, workdir)
        stages = [part for stage in loaded if (part := _part(stage, row)).fitted]
        n_samples = read_clip_length(workdir.checkpoints(folder))
        return cls(experiment, stages, row, normal, kind, known, n_samples, **more)

    def __call__(self, files: Sequence[Path]) -> Iterator[Verdict]:
        """Judge files."""
        return chain.from_iterable(self.in_parts(files))

    def in_parts(self, files: Sequence[Path]) -> Iterator[list[Verdict]]:
        """Judge a few files at once; the next ones are read meanwhile."""
        parts = [files[i : i + AT_ONCE] for i in range(0, len(files), AT_ONCE)]
        for part, waves in zip(parts, log.ahead(self._read, parts), strict=True):
            yield list(self._judge(part, waves))

    def _judge(
        self, files: Sequence[Path], read: Sequence[tuple[Wave, Content] | str]
    ) -> Iterator[Verdict]:
        """Judge a few waves at once; a text is why one can't be read."""
        good = {i: one[0] for i, one in enumerate(read) if not isinstance(one, str)}
        ids = {i: self.id_of(files[i]) for i in good}
        best = self._score(good, ids) if good else {}
        reasons = self._explain(best) if best else {}
        for i, (path, one) in enumerate(zip(files, read, strict=True)):
            if isinstance(one, str):
                yield Verdict(str(path), UNREADABLE, note=one)
                continue
            wave, content = one
            why = self._inside(reasons.get(i, {}), len(wave))
            verdict = self._decide(path, ids[i], best[i], why)
            notes = [content.fault, *self._notes(ids[i], len(wave))]
            yield verdict._replace(note="; ".join(filter(None, notes)))

    @property
    def sample_rate(self) -> int:
        """Sampling rate of the front end, in Hz."""
        front_end: Any = self.experiment.front_end
        return front_end.sample_rate

    @cached_property
    def normals(self) -> Normals | None:
        """Normal clips; with several seeds, means of z-scores."""
        if self.normal is None or self.detector not in self.normal.detectors:
            return None
        own = self.normal[self.normal.detector == self.detector]
        mean = mean_of_seeds(own, own)
        return Normals(mean.machine_id, mean.score)

    def threshold(self, machine_id: str) -> float | None:
        """The score that the wanted share of an ID's normal clips exceeds."""
        if not self.normals:
            return None
        return self.normals.threshold(machine_id, self.false_alarms, self.method)

    def score(
        self, waves: Sequence[Int16[np.ndarray, " time"]], ids: Sequence[str]
    ) -> Float[np.ndarray, " wave"]:
        """Scores of waves in memory, each that of its highest piece."""
        best = self._score(dict(enumerate(waves)), dict(enumerate(ids)))
        return np.array([best[i].score for i in range(len(waves))])

    def read(self, path: Path) -> Int16[np.ndarray, " time"]:
        """Read a recording as those that were learned from."""
        return read_wave(path, self.sample_rate, self.experiment.data.channel)

    def _read(self, path: Path) -> tuple[Wave, Content] | str:
        return read_checked(str(path), self.sample_rate, self.experiment.data.channel)

    def id_of(self, path: Path) -> str:
        """The ID that is given, or of the file's name or a folder, or the only one."""
        if self.machine_id or len(self.ids) == 1:
            return self.machine_id or self.ids[0]
        if named := named_id(path.name):
            return named
        parts = map(printable, path.absolute().parts[:-1])
        folders = [part.removeprefix("id_") for part in parts]
        return next((part for part in folders[::-1] if part in self.ids), "")

    def _score(
        self, waves: Mapping[int, np.ndarray], ids: Mapping[int, str]
    ) -> dict[int, _Piece]:
        """The piece of each file with the highest score."""
        found = [
            (i, start, piece)
            for i, wave in waves.items()
            for start, piece in pieces(wave, self.n_samples)
        ]
        rows = range(_bucket(len(found)))  # few shapes: each is compiled once
        filled = [found[min(row, len(found) - 1)] for row in rows]
        clips = self._clips(
            [piece for *_, piece in filled], [ids[i] for i, *_ in filled]
        )
        tables = [one for stage in self.stages for one in stage.score(clips, False)]
        if FUSED in self.detector:
            tables[0] = tables[0]._replace(normal=self.normal)
            tables += fused(self.experiment, tables)
        every = Scores.concatenate(one.test for one in tables)
        own = every[every.detector == self.detector]
        if self.normal is not None:
            of_row = self.normal[self.normal.detector == self.detector]
            own = mean_of_seeds(own, of_row) if len(of_row) else own
        sums, seeds = np.zeros(len(clips)), len(own.seeds)
        np.add.at(sums, own.name.astype(int), own.score)
        best: dict[int, _Piece] = {}
        tracks: dict[int, list[tuple[float, float]]] = {i: [] for i in waves}
        for row, (i, first, _) in enumerate(found):
            start, score = first / self.sample_rate, float(sums[row] / seeds)
            tracks[i].append((start, score))
            if i not in best or score > best[i].score:
                clip = clips[row : row + 1]
                best[i] = _Piece(clip, ids[i], start, score, tracks[i])
        return best

    def bank_id(self, machine_id: str) -> str:
        """The ID under which the models know a machine."""
        together = self.experiment.data.together
        return f"{self.machine_type}/{machine_id}" if together else machine_id

    def _clips(self, waves: Sequence[np.ndarray], ids: Sequence[str]) -> Clips:
        n = len(waves)
        clips = Clips(
            audio=np.stack(waves),
            machine_id=np.array(ids),
            split=np.full(n, "test"),
            label=np.full(n, UNKNOWN, np.int8),
            name=np.array([f"{row:08d}" for row in range(n)]),
            machine_type=self.machine_type,
            sample_rate=self.sample_rate,
        )
        return join_types([clips]) if self.experiment.data.together else clips

    def _explain(self, best: Mapping[int, _Piece]) -> dict[int, Arrays]:
        """Explain the score of each piece, by the first model that can."""
        clips = self._clips(
            [piece.clip.audio[0] for piece in best.values()],
            [piece.machine_id for piece in best.values()],
        )
        why = next(filter(None, (m.explain(clips) for m in self._models)), None)
        return {i: why.of(row) for row, i in enumerate(best)} if why else {}

    def _inside(self, why: Arrays, n_samples: int) -> Arrays:
        """Arrays of a file without those of its padding."""
        if not why or n_samples >= self.n_samples:
            return why
        end = n_samples / self.sample_rate
        n_frames = 1 + int(end / self._scale.seconds_per_frame)
        n_segments = max(1, int(np.sum(why["seconds"] <= end)))
        seconds = np.minimum(why["seconds"][:n_segments], end)
        by_frame = {k: why[k][:n_frames] for k in ("features", "expected", "error")}
        return {
            **why,
            **by_frame,
            "seconds": seconds,
            "track": why["track"][:n_segments],
        }

    def _decide(
        self, path: Path, machine_id: str, piece: _Piece, why: Arrays
    ) -> Verdict:
        score, limit = piece.score, self.threshold(machine_id)
        verdict = Verdict(str(path), UNDECIDED, score, machine_id=machine_id)
        if self.normals and limit is not None:
            verdict = verdict._replace(
                decision=ANOMALY if score > limit else NORMAL,
                percentile=self.normals.percentile(machine_id, score),
                threshold=limit,
            )
        if why:
            at = why["seconds"][np.argmax(why["track"])]
            verdict = verdict._replace(
                second=float(piece.start + at), hertz=self._hertz(why, at)
            )
        if self.pictures:
            self._draw(path, verdict, piece, why)
        return verdict

    @property
    def _models(self) -> list[Fitted]:
        """Fitted models of the row, or of its parts."""
        return [model for stage in self.stages for model in stage.fitted.values()]

    @property
    def _scale(self) -> Scale:
        front_end = self.experiment.front_end
        return Scale(front_end.hop / self.sample_rate, front_end.frequencies)

    def _hertz(self, why: Arrays, at: float) -> float | None:
        scale, error = self._scale, why["error"]
        if scale.frequency is None:
            return None
        away = np.abs(np.arange(len(error)) * scale.seconds_per_frame - at)
        near = np.nan_to_num(error[away <= max(NEARBY_S, away.min())])
        return float(scale.frequency[np.argmax(near.sum(axis=0))])

    def _draw(self, path: Path, verdict: Verdict, piece: _Piece, why: Arrays) -> None:
        """Write the picture of a file's piece."""
        assert self.pictures
        if len(piece.track) > 1:
            why = {**why, "pieces": np.transpose(piece.track)}
        if "features" not in why:
            front_end, rows = self.experiment.front_end, np.arange(1)
            found = extract(front_end, piece.clip.audio, rows, lambda n: None)
            why = {**why, "features": np.asarray(found)[0]}
        groups: dict[str, float] = {}
        for model in self._models:
            for name, z in model.group_scores(piece.clip).items():
                groups[name] = float(np.mean(z[:, 0]))
        place = None
        if self.normals and verdict.threshold is not None:
            normal = self.normals.of(verdict.machine_id)
            place = (normal, piece.score, verdict.threshold)
        title = f"{path.name}, from {piece.start:.1f} s: {verdict.decision}"
        inside = path.absolute().relative_to(path.absolute().anchor).with_suffix("")
        name = "_".join([*inside.parts[-2:], path.suffix[1:]]) + ".png"
        write_picture(self.pictures / name, title, why, groups, self._scale, place)

    def _notes(self, machine_id: str, n_samples: int) -> list[str]:
        """Remarks on a file's ID and length."""
        notes = []
        if machine_id not in self.ids:
            name = f"id {machine_id} is unknown" if machine_id else "no known id"
            notes.append(f"{name}: compared with all ids")
        rate, length = self.sample_rate, self.n_samples
        if n_samples < length:
            notes.append(f"{n_samples / rate:.3g} s, padded by reflection")
        if n_samples > length:
            count = -(-n_samples // length)
            notes.append(f"{count} pieces of {length / rate:.3g} s, the highest counts")
        return notes


def pieces(
    wave: Int16[np.ndarray, " time"], length: int
) -> list[tuple[int, Int16[np.ndarray, " piece"]]]:
    """Start and samples of pieces that cover a wave; the last ends with it."""
    if len(wave) <= length:
        return [(0, of_length(wave, length))]
    starts = list(range(0, len(wave) - length + 1, length))
    if starts[-1] + length < len(wave):
        starts.append(len(wave) - length)
    return [(start, wave[start : start + length]) for start in starts]


def _bucket(n: int) -> int:
    """The next power of two up to `CLIPS_PER_TRANSFER`, then multiples of that."""
    if n > CLIPS_PER_TRANSFER:
        return -(-n // CLIPS_PER_TRANSFER) * CLIPS_PER_TRANSFER
    return 1 << (n - 1).bit_length()


def _part(stage: Stage, row: str) -> Stage:
    """The models of a stage that a row needs, or its parts."""
    parts, sets = row.split(FUSED), dict.fromkeys(stage.sets)

    def needed(name: str, label: str) -> bool:
        rows = (SEPARATOR.join(filter(None, (name, one, label))) for one in sets)
        return any(row in parts for row in rows)

    fitted = {k: x.without_folder() for k, x in stage.fitted.items() if needed(*k)}
    return replace(stage, fitted=fitted)


def _choose(flag: str, name: str, known: Sequence[str]) -> str:
    require(name in known, f"{flag}: must be one of {', '.join(known)}")
    return name
