"""The score table, all that metrics, figures and reports read; no JAX."""

import csv
import io
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Float, Int, Shaped

from mimii_jax.data.clips import UNKNOWN, Clips, shuffled, split_types
from mimii_jax.data.labels import NOTHING, Labels
from mimii_jax.data.layouts import named_domain
from mimii_jax.errors import DataError
from mimii_jax.files import file_errors, replace_file

CONTROLS = ("rms_dbfs", "bandwidth_sd", "flatness", "zero_crossings")
"""Detectors without learning; every table has them."""
NO_SEED = -1  # of a detector without randomness
SPLITS = {  # see `select_split`
    "all": "all test clips",
    "validation": "validation split, 40 % of the test clips",
    "test": "test split, 60 % of the test clips",
}


@dataclass(frozen=True, eq=False)
class Scores:
    """Anomaly scores, one row per detector, seed and clip."""

    detector: Shaped[np.ndarray, " row"]  # such as "mlp_vae"
    seed: Int[np.ndarray, " row"]  # NO_SEED for a detector without randomness
    machine_type: Shaped[np.ndarray, " row"]  # such as "slider"
    machine_id: Shaped[np.ndarray, " row"]  # such as "00"
    label: Int[np.ndarray, " row"]  # 0 normal, 1 anomalous, -1 unknown
    name: Shaped[np.ndarray, " row"]  # file name, such as "normal_id_00_00000000.wav"
    score: Float[np.ndarray, " row"]  # finite, higher is more anomalous
    # "source", "target" or ""; by default what the name says
    domain: Shaped[np.ndarray, " row"] = field(default_factory=lambda: np.array(()))

    def __post_init__(self) -> None:
        if not self.domain.size:
            object.__setattr__(self, "domain", self.named_domain)
        bad = np.flatnonzero(~np.isfinite(self.score))
        if len(bad):
            score = self.score[bad[0]]
            raise DataError(f"{self._describe(bad[0])}: score {score} is not finite")

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, index: np.ndarray | slice) -> Self:
        """Select rows by mask, indices or slice."""
        return replace(self, **{c: getattr(self, c)[index] for c in COLUMNS})

    @property
    def named_domain(self) -> Shaped[np.ndarray, " row"]:
        """Domains in the names."""
        return np.array(list(map(named_domain, self.name.tolist())), str)

    @classmethod
    def of_clips(
        cls, detector: str, seed: int, clips: Clips, score: Float[np.ndarray, " clip"]
    ) -> Self:
        """Scores of one detector with one seed on these clips."""
        clip = clips.label.astype(np.int64), clips.machine_id, clips.name
        table = cls.of_detector(detector, seed, clips.machine_type, *clip, score)
        return replace(table, domain=clips.domain)

    @classmethod
    def of_detector(
        cls,
        detector: str,
        seed: int,
        machine_type: str,
        label: int | Int[np.ndarray, " clip"],
        machine_id: Shaped[np.ndarray, " clip"],
        name: Shaped[np.ndarray, " clip"],
        score: Float[np.ndarray, " clip"],
    ) -> Self:
        """Scores of one detector with one seed."""
        machine_types, machine_id, name = split_types(machine_type, machine_id, name)
        rows = len(name)
        return cls(
            detector=np.full(rows, detector),
            seed=np.full(rows, seed),
            machine_type=machine_types,
            machine_id=machine_id,
            label=np.broadcast_to(np.asarray(label, np.int64), rows),
            name=name,
            score=np.asarray(score, np.float64),
        )

    @classmethod
    def from_rows(cls, rows: Iterable[tuple]) -> Self:
        """A table of at least one row, each in the order of `COLUMNS`."""
        return cls(*map(np.array, zip(*rows, strict=True)))

    @classmethod
    def concatenate(cls, tables: Iterable[Self]) -> Self:
        """Join tables, at least one; refuse two scores for a clip."""
        tables = list(tables)
        columns = [[getattr(table, c) for table in tables] for c in COLUMNS]
        joined = cls(*map(np.concatenate, columns))
        seen = set()
        for row, (*key, _, name, _, _) in enumerate(joined.rows()):
            if (*key, name) in seen:
                raise DataError(f"{joined._describe(row)}: two scores for this clip")
            seen.add((*key, name))
        return joined

    def rows(self) -> Iterator[tuple]:
        """Rows as tuples in the order of `COLUMNS`."""
        return zip(*(getattr(self, c).tolist() for c in COLUMNS), strict=True)

    def labelled(self, labels: Labels) -> Self:
        """Fill unknown labels and domains."""
        keys = zip(self.machine_type.tolist(), self.name.tolist(), strict=True)
        found = [labels.get(key, NOTHING) for key in keys]
        label = np.array([one.label for one in found], np.int64)
        domain = np.array([one.domain for one in found], str)
        return replace(
            self,
            label=np.where(self.label == UNKNOWN, label, self.label),
            domain=np.where(self.domain == "", domain, self.domain),
        )

    @property
    def detectors(self) -> list[str]:
        """Detectors, in the order of their first rows."""
        return list(dict.fromkeys(self.detector.tolist()))

    @property
    def machine_types(self) -> list[str]:
        """Machine types, sorted."""
        return sorted(set(self.machine_type.tolist()))

    @property
    def ids(self) -> list[str]:
        """Machine IDs, sorted."""
        return sorted(set(self.machine_id.tolist()))

    @property
    def seeds(self) -> list[int]:
        """Seeds, sorted."""
        return sorted(set(self.seed.tolist()))

    def renamed(self, name: Callable[[str], str]) -> Self:
        """Rename the detectors."""
        return replace(self, detector=np.array(list(map(name, self.detector.tolist()))))

    def _describe(self, row: int) -> str:
        seed = "" if self.seed[row] == NO_SEED else f", seed {self.seed[row]}"
        return f"{self.machine_type[row]}/{self.name[row]} ({self.detector[row]}{seed})"


COLUMNS = tuple(field.name for field in fields(Scores))


def write_scores(scores: Scores, path: Path) -> None:
    """Write scores.csv, whole or not at all; `read_scores` gets identical numbers."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    # Domains are a column where names don't hold them.
    named = np.array_equal(scores.domain, scores.named_domain)
    writer.writerow(COLUMNS[:-1] if named else COLUMNS)
    for *row, score, domain in scores.rows():
        # repr is the shortest text that reads back as the same float.
        writer.writerow((*row, repr(score), *([] if named else [domain])))
    replace_file(path, file.getvalue().encode())


def read_scores(path: Path) -> Scores:
    """Read a scores.csv; `DataError` names the line that is malformed.

    The table of a run without test clips has no rows.
    """
    lines = csv_lines(path)
    where, header = next(lines, (f"{path}:1", []))
    if tuple(header) not in (COLUMNS, COLUMNS[:-1]):
        raise DataError(f"{where}: expected columns {','.join(COLUMNS)}")
    rows = []
    for where, line in lines:
        if len(line) != len(header):
            raise DataError(f"{where}: {len(line)} fields instead of {len(header)}")
        detector, seed, machine_type, machine_id, label, name, score, *domain = line
        if not re.fullmatch("-?[0-9]{1,18}", seed):
            raise DataError(f"{where}: seed {seed!r} is not a whole number")
        if label not in ("0", "1", "-1"):
            raise DataError(f"{where}: label {label!r} is not 0, 1 or -1")
        head = (detector, int(seed), machine_type, machine_id, int(label), name)
        rows.append((*head, finite(score, where), *domain))
    if not rows:
        none = np.empty(0, str)
        return Scores.of_detector("", NO_SEED, "", UNKNOWN, none, none, np.empty(0))
    return Scores.concatenate([Scores.from_rows(rows)])


def csv_lines(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Non-empty lines of a csv file, each with its place "file:line"."""
    try:
        with file_errors(path), path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for line in reader:
                where = f"{path}:{reader.line_num}"
                if not "".join(line).isprintable():
                    raise DataError(f"{where}: has a control character")
                if line:
                    yield where, line
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a csv file: {error}") from None


def finite(text: str, where: str) -> float:
    """Parse a finite score."""
    try:
        score = float(text)
    except ValueError:
        raise DataError(f"{where}: score {text!r} is not a number") from None
    if not math.isfinite(score):
        raise DataError(f"{where}: score {text!r} is not finite")
    return score


def select_split(scores: Scores, split: str) -> Scores:
    """Select the rows in one of `SPLITS`: tune on "validation", report on "test".

    The validation split is 40 % of the clips of every machine type, ID and label,
    rounded; the test split is the rest. It depends on the set of clips only, not on
    their order: rows of one clip (of several detectors and seeds) stay together.
    """
    if split == "all":
        return scores
    columns = (scores.machine_type, scores.machine_id, scores.label, scores.name)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    strata: dict[tuple, list[str]] = {}
    for *stratum, clip in set(rows):
        strata.setdefault(tuple(stratum), []).append(clip)
    chosen = set()
    for stratum, clips in strata.items():
        count = round(0.4 * len(clips))
        chosen |= {(*stratum, clip) for clip in shuffled(clips)[:count]}
    validation = np.array([row in chosen for row in rows], bool)
    return scores[validation if split == "validation" else ~validation]
