"""The score table, the border of the project: one row per detector, seed and clip.

Every detector ends in such a table; metrics, figures and reports read nothing else.
Needs no JAX.
"""

import csv
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Self

import numpy as np
from jaxtyping import Float, Int, Shaped

from mimii_jax.data.clips import UNKNOWN, Clips

CONTROLS = ("level", "bandwidth_sd", "flatness", "zero_crossings")
"""Detectors without learning, which stand in every table."""

NO_SEED = -1
"""The seed of a detector that has no randomness."""

COLUMNS = (
    "detector",
    "seed",
    "machine_type",
    "machine_id",
    "label",
    "name",
    "score",
)


class ScoreError(Exception):
    """Scores that cannot be used; the message is one line that a user can act on."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Anomaly scores, one row per detector, seed and clip.

    Attributes
    ----------
    detector : str [shape=(row,)], such as "mlp_vae"
    seed : int [shape=(row,)], `NO_SEED` for a detector without randomness
    machine_type : str [shape=(row,)], such as "slider"
    machine_id : str [shape=(row,)], such as "00"
    name : str [shape=(row,)], file name, such as "normal_id_00_00000000.wav"
    label : int [shape=(row,)], 0 normal, 1 anomalous, -1 unknown
    score : float [shape=(row,)], finite, higher is more anomalous

    Raises
    ------
    ScoreError
        When a score is not finite; the message names its clip and detector.
    """

    detector: Shaped[np.ndarray, " row"]
    seed: Int[np.ndarray, " row"]
    machine_type: Shaped[np.ndarray, " row"]
    machine_id: Shaped[np.ndarray, " row"]
    name: Shaped[np.ndarray, " row"]
    label: Int[np.ndarray, " row"]
    score: Float[np.ndarray, " row"]

    def __post_init__(self) -> None:
        for field in fields(self):
            if len(getattr(self, field.name)) != len(self.score):
                raise ValueError(
                    f"Scores.{field.name} and Scores.score differ in length"
                )
        bad = np.flatnonzero(~np.isfinite(self.score))
        if len(bad):
            raise ScoreError(
                f"{self._row(bad[0])}: score {self.score[bad[0]]} is not finite"
                + (f", and {len(bad) - 1} more" if len(bad) > 1 else "")
            )

    def __len__(self) -> int:
        return len(self.score)

    def __getitem__(self, index: np.ndarray | slice) -> Self:
        """Select rows by mask, indices or slice."""
        return replace(
            self, **{f.name: getattr(self, f.name)[index] for f in fields(self)}
        )

    @classmethod
    def of_clips(
        cls, detector: str, seed: int, clips: Clips, score: Float[np.ndarray, " clip"]
    ) -> Self:
        """The table of one detector with one seed on these clips."""
        rows = len(clips)
        return cls(
            detector=np.full(rows, detector),
            seed=np.full(rows, seed),
            machine_type=np.full(rows, clips.machine_type),
            machine_id=clips.machine_id,
            name=clips.name,
            label=clips.label.astype(np.int64),
            score=np.asarray(score, np.float64),
        )

    @classmethod
    def concatenate(cls, tables: Iterable[Self]) -> Self:
        """One table below the other; at least one.

        Raises
        ------
        ScoreError
            When two rows are of the same detector, seed and clip.
        """
        tables = list(tables)
        joined = cls(
            **{
                f.name: np.concatenate([getattr(table, f.name) for table in tables])
                for f in fields(cls)
            }
        )
        seen = set()
        for row, key in enumerate(joined._keys()):
            if key in seen:
                raise ScoreError(f"{joined._row(row)}: two scores for this clip")
            seen.add(key)
        return joined

    def labelled(self, labels: Mapping[tuple[str, str], int]) -> Self:
        """With labels, (machine type, name) -> label, for the rows that have none."""
        rows = zip(
            *(c.tolist() for c in (self.label, self.machine_type, self.name)),
            strict=True,
        )
        label = [
            labels.get((machine_type, name), UNKNOWN) if label == UNKNOWN else label
            for label, machine_type, name in rows
        ]
        return replace(self, label=np.array(label, np.int64))

    @property
    def detectors(self) -> list[str]:
        """The detectors, in the order of their first rows."""
        return list(dict.fromkeys(self.detector.tolist()))

    @property
    def machine_types(self) -> list[str]:
        """The machine types, sorted."""
        return sorted(set(self.machine_type.tolist()))

    @property
    def ids(self) -> list[str]:
        """The machine IDs, sorted."""
        return sorted(set(self.machine_id.tolist()))

    @property
    def seeds(self) -> list[int]:
        """The seeds, sorted."""
        return sorted(set(self.seed.tolist()))

    def renamed(self, name: Callable[[str], str]) -> Self:
        """The same rows, each detector under another name."""
        names = {old: name(old) for old in self.detectors}
        return replace(
            self, detector=np.array([names[old] for old in self.detector.tolist()])
        )

    def _keys(self) -> Iterator[tuple]:
        """What has to be unique in a table."""
        columns = (
            self.detector,
            self.seed,
            self.machine_type,
            self.machine_id,
            self.name,
        )
        return zip(*(column.tolist() for column in columns), strict=True)

    def _row(self, row: int) -> str:
        """Name a row in a message."""
        seed = "" if self.seed[row] == NO_SEED else f", seed {self.seed[row]}"
        return f"{self.machine_type[row]}/{self.name[row]} ({self.detector[row]}{seed})"


def write_scores(scores: Scores, path: Path) -> None:
    """Write scores.csv, whole or not at all; `read_scores` gets identical numbers."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    columns = [getattr(scores, column).tolist() for column in COLUMNS]
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        # repr is the shortest text that reads back as the same float.
        writer.writerows(
            (*row, repr(score)) for *row, score in zip(*columns, strict=True)
        )
    temporary.replace(path)


def read_scores(path: Path) -> Scores:
    """Read a scores.csv.

    Raises
    ------
    ScoreError
        When a line is malformed, a score is not finite or a clip occurs twice.
    """
    lines = csv_lines(path)
    header = next(lines, (1, []))[1]
    if tuple(header) != COLUMNS:
        raise ScoreError(f"{path}:1: the columns have to be {','.join(COLUMNS)}")
    rows: dict[str, list] = {column: [] for column in COLUMNS}
    for number, line in lines:
        where = f"{path}:{number}"
        if len(line) != len(COLUMNS):
            raise ScoreError(f"{where}: {len(line)} fields instead of {len(COLUMNS)}")
        row: dict = dict(zip(COLUMNS, line, strict=True))
        row["score"] = finite(row["score"], where)
        if not row["seed"].removeprefix("-").isdecimal():
            raise ScoreError(f"{where}: seed {row['seed']!r} is not a whole number")
        if row["label"] not in ("0", "1", "-1"):
            raise ScoreError(f"{where}: label {row['label']!r} is not 0, 1 or -1")
        row["seed"], row["label"] = int(row["seed"]), int(row["label"])
        for column, value in row.items():
            rows[column].append(value)
    if not rows["score"]:
        raise ScoreError(f"{path}: no scores")
    return Scores.concatenate([table(rows)])


def table(columns: dict[str, list]) -> Scores:
    """A table from lists, at least one row."""
    return Scores(**{name: np.array(values) for name, values in columns.items()})


def csv_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The non-empty lines of a csv file, each with its number, from 1."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for line in reader:
                if line:
                    yield reader.line_num, line
    except OSError as error:
        raise ScoreError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ScoreError(f"{path}: not a csv file: {error}") from None


def finite(text: str, where: str) -> float:
    """The score that `text` spells."""
    try:
        score = float(text)
    except ValueError:
        raise ScoreError(f"{where}: score {text!r} is not a number") from None
    if not math.isfinite(score):
        raise ScoreError(f"{where}: score {text!r} is not finite")
    return score
