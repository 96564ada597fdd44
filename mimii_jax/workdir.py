"""The files of a workdir: config.json, run.json, clips.csv, examples.npz."""

import csv
import json
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np

from mimii_jax import log
from mimii_jax.data.clips import ANOMALOUS, COLUMNS, NORMAL, Clips, split_types
from mimii_jax.defaults import ConfigDict, fill
from mimii_jax.errors import ConfigError, DataError
from mimii_jax.files import (
    in_file_name,
    make_folder,
    owned,
    read_arrays,
    read_json,
    replace_file,
)
from mimii_jax.results.table import csv_lines

LOCK = ".lock"  # names the process that trains


@dataclass(frozen=True)
class Workdir:
    """A folder with everything that a run writes."""

    path: Path
    writes: bool = True  # whether this process, of several, writes small files

    @property
    def scores(self) -> Path:
        """The score table."""
        return self.path / "scores.csv"

    @property
    def normals(self) -> Path:
        """Scores of normal clips that no model was fitted to."""
        return self.path / "normals.csv"

    @property
    def finished(self) -> bool:
        """Whether a training is finished."""
        return self.scores.is_file()

    def checkpoints(self, machine_type: str, stage: str = "") -> Path:
        """Folder of the fitted models of a machine type."""
        name = f"{machine_type}_{stage}" if stage else machine_type
        return self.path / "checkpoints" / name

    def read_config(self) -> ConfigDict:
        """Read config.json; fields that it lacks get today's defaults, and a line."""
        path = self.path / "config.json"
        try:
            saved = _tuples(read_json(path))
            config, assumed = fill(saved)
        except (DataError, ValueError, AttributeError, TypeError) as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise ConfigError(
                f"{path}: not readable as a workdir's config ({reason}); restore it, "
                "or choose another folder"
            ) from error
        if assumed:
            log.info(f"{path}: assumed {', '.join(assumed)}")
        return config

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Let no other process write; one that doesn't become a workdir stays as is."""
        if not self.writes:
            yield
            return
        new, lock = not self.path.exists(), self.path / LOCK
        make_folder(self.path)
        with owned(lock, self.path):
            try:
                yield
            finally:
                if not (self.path / "config.json").exists():
                    with suppress(OSError):
                        lock.unlink()
                        if new:
                            self.path.rmdir()

    def start(self, config: ConfigDict) -> None:
        """Create the folder; write config.json."""
        if self.writes:
            make_folder(self.path)
            text = json.dumps(config.to_dict(), indent=2) + "\n"
            replace_file(self.path / "config.json", text.encode())

    def write_about(self, seconds: float, **more: Any) -> None:
        """Write run.json: command, duration, versions."""
        about = {
            "command": shlex.join(["python", *sys.orig_argv[1:]]),
            "seconds": round(seconds, 1),
            "commit": _commit(),
            "python": platform.python_version(),
            **more,
        }
        if self.writes:
            text = json.dumps(about, indent=2) + "\n"
            replace_file(self.path / "run.json", text.encode())

    def add_clips(self, clips: Clips) -> None:
        """Write a row per clip into clips.csv, beside those of other machine types."""
        if not self.writes:
            return
        path, text = self.path / "clips.csv", StringIO()
        columns = {column: getattr(clips, column) for column in COLUMNS}
        found = split_types(clips.machine_type, clips.machine_id, clips.name)
        types, columns["machine_id"], columns["name"] = found
        write = csv.writer(text, lineterminator="\n").writerow
        write(("machine_type", *COLUMNS))
        with suppress(DataError):  # none yet, or damaged: each start writes all types
            _, *known = (line for _, line in csv_lines(path))
            for line in known:
                if line[0] not in types:
                    write(line)
        rows = (columns[column].tolist() for column in COLUMNS)
        for row in zip(types, *rows, strict=True):
            write(row)
        replace_file(path, text.getvalue().encode())

    def add_examples(self, machine_type: str, arrays: dict[str, Any]) -> None:
        """Write arrays into examples.npz, beside those of other machine types."""
        if not self.writes:
            return
        path, file = self.path / "examples.npz", BytesIO()
        known: dict[str, Any] = {}
        with suppress(DataError):
            known = read_arrays(path)
        own = f"{machine_type}/"
        kept = {name: x for name, x in known.items() if not name.startswith(own)}
        np.savez_compressed(file, **kept | arrays)
        replace_file(path, file.getvalue())


def example_rows(clips: Clips) -> list[int]:
    """Rows of the first normal and the first anomalous test clip of each ID."""
    rows = []
    for machine_id in clips.ids:
        for label in (NORMAL, ANOMALOUS):
            of = (clips.machine_id == machine_id) & (clips.label == label)
            rows += np.flatnonzero(of & (clips.split == "test"))[:1].tolist()
    return rows


def example_name(clips: Clips, row: int) -> str:
    """Name in examples.npz: "<machine type>/<ID>/<normal or anomalous>"."""
    kind = "anomalous" if clips.label[row] == ANOMALOUS else "normal"
    one = clips.machine_id[row : row + 1]
    (machine_type,), (machine_id,) = split_types(clips.machine_type, one)
    return f"{machine_type}/{in_file_name(machine_id)}/{kind}"


def _commit() -> str:
    """Commit of this source, with a + if files were changed since; "" if unknown."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+"]
    folder = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()


def _tuples(value: Any) -> Any:
    """Turn JSON's lists into tuples, at every depth."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
