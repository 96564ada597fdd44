"""Fit an experiment to recordings from memory or files, into a workdir."""

import time
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from mimii_jax.config import Config, Experiment
from mimii_jax.data import reading
from mimii_jax.data.arrays import as_waves, of_one_length
from mimii_jax.data.clips import NORMAL, Clips
from mimii_jax.data.layouts import named_id
from mimii_jax.data.own import ONLY_ID
from mimii_jax.errors import ConfigError, DataError, require
from mimii_jax.stages import (
    Scored,
    fit,
    fused,
    load_pretrained,
    require_fit,
    write_tables,
)
from mimii_jax.train.runs import EXTRA
from mimii_jax.workdir import Workdir

IN_MEMORY = "(recordings given to Detector.fit)"  # in place of data.root
MACHINE = "machine"  # type of recordings that lie in no folder of one


def is_root(x: Any) -> bool:
    """Whether recordings are given as a folder or a manifest."""
    if not isinstance(x, str | PathLike):
        return False
    path = Path(x).expanduser()
    return path.is_dir() or path.suffix.lower() == ".csv"


def as_paths(x: Any) -> list[Path] | None:
    """Files and folders; None: recordings in memory."""
    if isinstance(x, str | PathLike):
        return [Path(x).expanduser()]
    if isinstance(x, list | tuple) and x and isinstance(x[0], str | PathLike):
        return [Path(path).expanduser() for path in x]
    return None


def as_ids(ids: Any, count: int) -> list[str]:
    """Machine IDs as text, one for all or one for each recording."""
    found = [str(one) for one in np.ravel(ids)]
    if len(found) == 1:
        found *= count
    if len(found) != count:
        raise ValueError(f"{len(found)} ids for {count} recordings")
    return found


def read_clips(x: Any, ids: Any, sample_rate: int, experiment: Experiment) -> Clips:
    """Normal clips of one machine, all to train on: those of `Detector.fit`."""
    data = experiment.data
    if is_root(x):
        machines = data.machines()
        if len(machines) > 1:
            raise ConfigError(
                f"{x}: holds several machine types; choose one, such as "
                f"data__machine_types=('{machines[0]}',)"
            )
        extra = EXTRA in experiment.training_sets
        return data.load(machines[0], ("train",), extra=extra)
    paths = as_paths(x)
    if paths is None:
        waves = as_waves(x, sample_rate, data.sample_rate, at_least=2)
        seconds = data.seconds
        length = None if seconds is None else round(seconds * data.sample_rate)
        samples = of_one_length(waves, length)
        names = [f"{row:08d}" for row in range(len(samples))]
        found = [ONLY_ID] * len(samples)
    else:
        names = [str(path) for path in paths]
        samples, _, bad = reading.load(
            names, data.sample_rate, channel=data.channel, seconds=data.seconds
        )
        for path, reason in bad.items():
            raise DataError(f"{path}: {reason}")
        found = [named_id(path.name) or ONLY_ID for path in paths]
    n = len(samples)
    return Clips(
        audio=samples,
        machine_id=np.array(found if ids is None else as_ids(ids, n)),
        split=np.full(n, "train"),
        label=np.full(n, NORMAL, np.int8),
        name=np.array(names),
        machine_type=MACHINE,
        sample_rate=data.sample_rate,
    )


def learn(
    experiment: Experiment, config: Config, clips: Clips, workdir: Workdir
) -> None:
    """Fit every detector; write a finished workdir without test clips and report."""
    start = time.perf_counter()
    require_fit(experiment, clips)
    pretrained = load_pretrained(experiment, clips.machine_type)
    workdir.start(config)
    workdir.add_clips(clips)
    tables: list[Scored] = []
    for stage in fit(experiment, clips, workdir, pretrained):
        tables += stage.score(clips.test)
    require(bool(tables), f"config: '{experiment.name}' learns nothing")
    tables += fused(experiment, tables)
    write_tables(tables, workdir, time.perf_counter() - start)


def files_of(workdir: Path) -> Sequence[Path]:
    """Files that loading a workdir needs: no report, no vectors of scored clips."""
    inside = (path for path in sorted(workdir.rglob("*")) if path.is_file())
    small = ("config.json", "run.json", "clips.csv", "scores.csv", "normals.csv")
    return [
        path
        for path in inside
        if path.relative_to(workdir).as_posix() in small
        or (
            (path.relative_to(workdir).parts[0] == "checkpoints")
            and path.suffix != ".npy"
        )
    ]
