"""Run a cell: clips, one training of all its rows and seeds, scores."""

import json
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from rich.console import Console

from experiments.cell import Cell, Options, is_done, set_field, write_result
from experiments.training_sets import EXTRA, TrainingSet, training_sets
from mimii_jax.build import (
    Config,
    build_detector,
    build_front_end,
    check,
    load_clips,
    machine_types,
)
from mimii_jax.data import slide_rail
from mimii_jax.data.clips import Clips
from mimii_jax.detectors.controls import score_controls
from mimii_jax.detectors.neural import NeuralDetector
from mimii_jax.runs import Run
from mimii_jax.scores import Scores, write_scores
from mimii_jax.watch import Watch
from mimii_jax.workdir import add_examples, append_clips


@dataclass(frozen=True, eq=False)
class Material:
    """Clips of a cell; those of `train` from `n_own` on are simulated additions."""

    train: Clips
    test: Clips
    n_own: int


def run_cell(cell: Cell, workdir: Path, options: Options) -> bool:
    """Run a cell, unless it is done; goes on from what an earlier start has left.

    Returns whether there was anything to do. What a run tells stands in log.txt.
    """
    config = cell.build(options)
    check(config)
    if is_done(workdir, config, options):
        return False
    since = time.time()
    workdir.mkdir(parents=True, exist_ok=True)
    for name in ("clips.csv", "examples.npz"):  # of an earlier start; made anew
        (workdir / name).unlink(missing_ok=True)
    text = json.dumps(config.to_dict(), indent=2)
    (workdir / "config.json").write_text(text + "\n")
    (workdir / "command.txt").write_text(options.command + "\n")
    with (workdir / "log.txt").open("a") as log:
        watch = Watch(console=Console(file=log, width=100))
        tables = [
            _of_type(cell, config, machine_type, workdir, options, watch)
            for machine_type in machine_types(config)
        ]
    write_scores(Scores.concatenate(tables), workdir / "scores.csv")
    write_result(workdir, config, options, since)
    return True


def _of_type(
    cell: Cell,
    config: Config,
    machine_type: str,
    workdir: Path,
    options: Options,
    watch: Watch,
) -> Scores:
    """Scores of one machine type under every row, seed and scoring."""
    material = load(config, machine_type, options, EXTRA in cell.sets, watch)
    append_clips(material.train, workdir / "clips.csv")
    append_clips(material.test, workdir / "clips.csv")
    add_examples(build_front_end(config), material.test, workdir / "examples.npz")
    watch.begin(workdir, machine_type)
    if not build_detector(config):
        mine = np.ones(len(material.test), bool)
        return score_controls(material.test, mine, watch)
    rows = training_sets(material.train, cell.sets, material.n_own)
    folder = workdir / "checkpoints" / machine_type
    tables = []
    for stage, runs in _stages(config, rows, material.train, folder, watch):
        for label, changes in (cell.scorings or {"": {}}).items():
            changed = deepcopy(config)
            for name, value in changes.items():
                set_field(changed, name, value)
            detector = build_detector(changed)
            assert detector
            detector.load(stage, [run for _, run in runs], watch)
            scores = detector.score(material.test, watch)
            several = len(cell.sets) > 1
            for (row, run), score in zip(runs, scores, strict=True):
                name = ": ".join(
                    part
                    for part in (cell.name, row.name if several else "", label)
                    if part
                )
                if np.isnan(score).all():
                    watch.say(f"{name}, seed {run.seed}: diverged, so no scores")
                    continue
                tables.append(Scores.of_clips(name, run.seed, material.test, score))
    return Scores.concatenate(tables)


def _stages(
    config: Config,
    rows: Sequence[TrainingSet],
    train: Clips,
    folder: Path,
    watch: Watch,
) -> list[tuple[Path, list[tuple[TrainingSet, Run]]]]:
    """Train all rows and seeds as one program, then those that are fine-tuned.

    Returns the folder of each of the two trainings, and its rows and runs. Only neural
    models can be trained on; of others there are no fine-tuned rows.
    """
    detector = build_detector(config)
    assert detector
    fresh = [
        (row, Run(seed, row.clips))
        for row in rows
        if not row.tuned
        for seed in config.seeds
    ]
    detector = detector.fit(train, [run for _, run in fresh], folder, watch)
    stages = [(folder, fresh)]
    if isinstance(detector, NeuralDetector) and any(row.tuned for row in rows):
        starts = dict(
            zip(
                [(row.name, run.seed) for row, run in fresh],
                detector.starts(),
                strict=True,
            )
        )
        tuned = [
            (row, Run(seed, row.clips, start=starts["all", seed]))
            for row in rows
            if row.tuned
            for seed in config.seeds
        ]
        second = folder.with_name(f"{folder.name}_fine_tuned")
        again = build_detector(config)
        assert again
        again.fit(train, [run for _, run in tuned], second, watch)
        stages.append((second, tuned))
    return stages


def load(
    config: Config, machine_type: str, options: Options, extra: bool, watch: Watch
) -> Material:
    """The clips that a cell is trained and tested on.

    With `extra`, simulated clips of the machine ID with the fewest are added to the
    training set, as many as make it as large as the largest.
    """
    config = deepcopy(config)
    train_share, test_share = options.train_share or 1.0, options.test_share or 1.0
    if not config.data.root and options.train_share and options.test_share:
        config.data.scale = max(train_share, test_share)
        train_share, test_share = (
            share / config.data.scale for share in (train_share, test_share)
        )
    clips = _load_once(config.data.to_json(), config, machine_type, watch)
    train, test = _share(clips.train, train_share), _share(clips.test, test_share)
    n_own = len(train)
    if extra:
        counts = {i: int(np.sum(train.machine_id == i)) for i in train.ids}
        smallest = min(counts, key=counts.__getitem__)
        missing = max(counts.values()) - counts[smallest]
        train = _append(train, _simulated(smallest, missing, config), missing)
    return Material(train, test, n_own)


_LAST: dict[tuple[str, str], Clips] = {}


def _load_once(key: str, config: Config, machine_type: str, watch: Watch) -> Clips:
    """`load_clips`, keeping the last ones: most cells of a study have the same."""
    if (key, machine_type) not in _LAST:
        _LAST.clear()
        _LAST[key, machine_type] = load_clips(config, machine_type, watch)
    return _LAST[key, machine_type]


def _share(clips: Clips, share: float) -> Clips:
    """So many clips of each ID and label, at least one, at even distances."""
    if share == 1:
        return clips
    kept = np.zeros(len(clips), bool)
    kinds = np.char.add(clips.machine_id, np.char.mod("/%d", clips.label))
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        count = max(1, round(share * len(rows)))
        kept[rows[np.arange(count) * len(rows) // count]] = True
    return clips[kept]


@lru_cache(maxsize=1)
def _simulate(machine_id: str, scale: float, seed: int, workers: int) -> Clips:
    """Training clips of a simulated machine; the seed is not that of the data set."""
    simulation = slide_rail.simulate(
        (machine_id,), scale=scale, seed=seed + 1, workers=workers
    )
    return simulation.clips.train


def _simulated(machine_id: str, count: int, config: Config) -> Clips:
    """At least so many simulated training clips of a machine ID."""
    (_, official), *_ = slide_rail.COUNTS[machine_id]["train"]
    scale = (count + 1) / official
    c = config.data
    return _simulate(machine_id, scale, c.simulation_seed, c.workers)


def _append(clips: Clips, more: Clips, count: int) -> Clips:
    """Clips, and so many of others of equal length behind them."""
    more = more[slice(0, count)]
    return replace(
        clips,
        **{
            column: np.concatenate([getattr(clips, column), getattr(more, column)])
            for column in ("audio", "machine_id", "split", "label", "name")
        },
    )
