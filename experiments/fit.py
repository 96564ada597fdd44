"""Run a cell: one training of all its rows and seeds, then their scores."""

import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from experiments.cell import (
    RESULT,
    Cell,
    Options,
    begin,
    copy_result,
    is_done,
    same_result,
    set_field,
    write_result,
)
from experiments.material import Material, load
from experiments.training_sets import ALL, EXTRA, TrainingSet, training_sets
from mimii_jax.config import (
    Config,
    build_detector,
    build_front_end,
    check,
    machine_types,
)
from mimii_jax.detectors.controls import score_controls
from mimii_jax.detectors.detector import Detector
from mimii_jax.detectors.neural import NeuralDetector
from mimii_jax.detectors.pictures import add_pictures
from mimii_jax.results.table import Scores, read_scores, write_scores
from mimii_jax.train.progress import NonFiniteLoss
from mimii_jax.train.runs import Run, Start
from mimii_jax.watch import Watch
from mimii_jax.workdir import PICTURED, append_clips


@dataclass(frozen=True, eq=False)
class Stage:
    """One training: all rows that begin at random, or all that are fine-tuned."""

    folder: Path
    rows: Sequence[TrainingSet]  # of each run
    runs: Sequence[Run]

    def fit(self, config: Config, material: Material, watch: Watch) -> Detector:
        """Train, or read what is trained already."""
        detector = build_detector(config)
        assert detector
        watch.context["stage"] = self.folder.name
        return detector.fit(material.train, self.runs, self.folder, watch)


TAKEN_OVER = (*PICTURED, "command.txt", "config.json", "metrics.jsonl")


def run_cell(cell: Cell, workdir: Path, options: Options, out: Path) -> bool:
    """Run a cell, unless it is done; goes on from what an earlier start has left.

    Where a cell of another study below `out` has done the same, its numbers are taken.
    Returns whether there was anything to do. What a run tells stands in log.txt.
    """
    config = cell.build(options)
    check(config)
    if is_done(workdir, cell, config, options):
        return False
    since = time.time()
    workdir.mkdir(parents=True, exist_ok=True)
    if found := same_result(cell, config, options, out):
        _take_over(found, workdir, cell)
        return True
    begin(workdir, cell, config, options)
    for name in PICTURED:  # of an earlier start; made anew
        (workdir / name).unlink(missing_ok=True)
    text = json.dumps(config.to_dict(), indent=2)
    (workdir / "config.json").write_text(text + "\n")
    (workdir / "command.txt").write_text(options.command + "\n")
    with (
        (workdir / "log.txt").open("a", buffering=1) as log,
        redirect_stdout(log),
        redirect_stderr(log),  # of warnings, such as scikit-learn's
    ):
        watch = Watch(console=Console(file=log, width=100))
        tables = []
        with _saving_first(watch):
            for machine_type in machine_types(config):
                extra = EXTRA in cell.sets
                material = load(config, machine_type, options, extra, watch)
                tables += _of_type(cell, config, material, workdir, watch)
    write_scores(Scores.concatenate(tables), workdir / "scores.csv")
    write_result(workdir, cell, config, options, since)
    return True


@contextmanager
def _saving_first(watch: Watch) -> Iterator[None]:
    """Within, a training that is asked to stop saves first, as one of `main` does."""
    if threading.current_thread() is not threading.main_thread():
        yield  # a thread of a cluster's worker, which gets no signals
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, watch.stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _take_over(found: Path, workdir: Path, cell: Cell) -> None:
    """The tables of a cell that did the same under another name."""
    for name in TAKEN_OVER:
        if (found / name).exists():
            shutil.copyfile(found / name, workdir / name)
    scores = read_scores(found / "scores.csv")
    name = json.loads((found / RESULT).read_text())["name"]
    own = [old for old in scores.detectors if old.startswith(name)]  # not the controls
    names = {old: cell.name + old.removeprefix(name) for old in own}
    renamed = scores.renamed(lambda old: names.get(old, old))
    write_scores(renamed, workdir / "scores.csv")
    copy_result(found, workdir, cell)


def _of_type(
    cell: Cell, config: Config, material: Material, workdir: Path, watch: Watch
) -> list[Scores]:
    """Scores of one machine type under every row, seed and scoring."""
    watch.begin(workdir, material.test.machine_type)
    if not build_detector(config):
        _keep_pictures(config, None, material, workdir)
        mine = np.ones(len(material.test), bool)
        return [score_controls(material.test, mine, watch)]
    rows = training_sets(material.train, cell.sets, material.n_own)
    folder = workdir / "checkpoints" / material.test.machine_type
    first = _stage(config, rows, folder, {})
    detector = first.fit(config, material, watch)
    _keep_pictures(config, detector, material, workdir)
    tables = _score(cell, config, first, detector, material, watch)
    # Only neural models can be trained on; of others there are no fine-tuned rows.
    if isinstance(detector, NeuralDetector) and any(row.tuned for row in rows):
        of_all = (
            (run.seed, start)
            for row, run, start in zip(
                first.rows, first.runs, detector.starts(), strict=True
            )
            if row.name == ALL
        )
        second = folder.with_name(f"{folder.name}_fine_tuned")
        tuned = _stage(config, rows, second, dict(of_all))
        try:
            detector = tuned.fit(config, material, watch)
        except NonFiniteLoss as error:
            watch.say(f"fine-tuning diverged: {error}")
            return tables
        tables += _score(cell, config, tuned, detector, material, watch)
    return tables


def _keep_pictures(
    config: Config, detector: Detector | None, material: Material, workdir: Path
) -> None:
    """Which clips there were, what some look like, and what a model makes of them."""
    for clips in (material.train, material.test):
        append_clips(clips, workdir / "clips.csv")
    add_pictures(build_front_end(config), detector, material.test, workdir)


def _stage(
    config: Config,
    rows: Sequence[TrainingSet],
    folder: Path,
    starts: dict[int, Start],
) -> Stage:
    """The rows that begin at random; or, with a start per seed, those that do not."""
    pairs = [
        (row, Run(seed, row.clips, start=starts.get(seed)))
        for row in rows
        if row.tuned == bool(starts)
        for seed in config.seeds
    ]
    return Stage(folder, [row for row, _ in pairs], [run for _, run in pairs])


def _score(
    cell: Cell,
    config: Config,
    stage: Stage,
    detector: Detector,
    material: Material,
    watch: Watch,
) -> list[Scores]:
    """Scores of a training in every way that the cell asks for."""
    tables = []
    for label, changes in (cell.scorings or {"": {}}).items():
        if changes:
            changed = deepcopy(config)
            for name, value in changes.items():
                set_field(changed, name, value)
            detector = stage.fit(changed, material, watch)  # is trained already
        scores = detector.score(material.test, watch)
        for row, run, score in zip(stage.rows, stage.runs, scores, strict=True):
            parts = [cell.name, row.name if len(cell.sets) > 1 else "", label]
            name = ": ".join(part for part in parts if part)
            if np.isnan(score).all():
                watch.say(f"{name}, seed {run.seed}: diverged, so no scores")
                continue
            tables.append(Scores.of_clips(name, run.seed, material.test, score))
    return tables
