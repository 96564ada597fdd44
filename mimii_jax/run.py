"""One experiment: build from the config, load, fit, score, evaluate, report."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mimii_jax.config import (
    Config,
    build_detector,
    build_front_end,
    check,
    load_clips,
    machine_types,
)
from mimii_jax.data.clips import Clips
from mimii_jax.detectors.backends import MAHALANOBIS
from mimii_jax.detectors.controls import score_controls
from mimii_jax.detectors.detector import Detector
from mimii_jax.detectors.neural import NeuralDetector
from mimii_jax.detectors.pictures import add_pictures
from mimii_jax.errors import ConfigError
from mimii_jax.report.figures import write_figures
from mimii_jax.report.of_workdir import write_report
from mimii_jax.report.tables import print_results
from mimii_jax.results.official import write_official
from mimii_jax.results.per_id import evaluate
from mimii_jax.results.table import (
    Scores,
    read_scores,
    select_split,
    write_scores,
)
from mimii_jax.train.mesh import wait_for_processes
from mimii_jax.train.runs import Start, runs_on_all
from mimii_jax.watch import Watch
from mimii_jax.workdir import PICTURED, append_clips, command_line, pictured

# What may differ from an earlier start of the same training: it moves no number.
FREE_TO_CHANGE = (
    *("mesh.", "checkpoint.", "data.workers", "data.cache"),
    *("profile", "tensorboard"),
)
# What a trained model depends on, when it scores again.
OF_THE_MODEL = (
    "features.",
    "windows.width",
    "detector.",
    "scoring.kind",
    "scoring.per_id",
    "seeds",
    # Which normal clips it was trained on, where they are drawn.
    "data.split_seed",
    "data.test_normals",
)
# And where what is normal was learned from scored training clips.
OF_THE_NORMALS = (
    *("scoring.pooling", "scoring.top_k", "scoring.gwrp_r"),
    *("scoring.decoding", "scoring.given", "windows.scoring_hop"),
)


def train(config: Config, workdir: Path, watch: Watch) -> None:
    """Fit the config's detector, score the test clips and write the workdir.

    With the workdir of an earlier start that was stopped, it goes on from there.

    Raises
    ------
    ConfigError, DataError
        Before anything is trained or written.
    """
    check(config)
    _require_same_training(config, workdir)
    types = machine_types(config)
    wait_for_processes("checked")
    if watch.leader:
        # Of an earlier start; they are made anew.
        for name in PICTURED:
            (workdir / name).unlink(missing_ok=True)
    if len(types) > 1:
        # A bad file of the last type is found before the first is trained on.
        for machine_type in types:
            load_clips(config, machine_type, watch)
    tables = [_train_one(config, name, workdir, watch) for name in types]
    _report(config, Scores.concatenate(tables), workdir, watch)


def _require_same_training(config: Config, workdir: Path) -> None:
    """Refuse a workdir with anything in it but an earlier start of this training."""
    if not workdir.exists() or not any(workdir.iterdir()):
        return
    if not (workdir / "config.json").exists():
        raise ConfigError(
            f"--workdir={workdir}: is not empty and holds no config.json of an earlier "
            "start; choose another folder"
        )
    changes = [
        f"{name} was {known}, is {asked}"
        for name, known, asked in _differences(load_config(workdir), config)
        if not name.startswith(FREE_TO_CHANGE)
    ]
    if changes:
        raise ConfigError(
            f"--workdir={workdir}: was begun with another config: "
            f"{'; '.join(changes)}; --resume=never begins a new workdir"
        )


def _train_one(
    config: Config, machine_type: str, workdir: Path, watch: Watch
) -> Scores:
    """Train and score one machine type; its audio is gone when this returns."""
    detector = build_detector(config)
    if jax.process_count() > 1 and not isinstance(detector, NeuralDetector):
        name = config.detector.name
        raise ConfigError(f"detector.name='{name}': needs one process, no more")
    clips = load_clips(config, machine_type, watch, needed=_needed(detector))
    if watch.leader:
        _begin(config, workdir)
    wait_for_processes("workdir")
    watch.begin(workdir, machine_type)
    if config.get("tensorboard"):
        watch.open_tensorboard(workdir / "tensorboard" / machine_type)
    if config.get("profile"):
        watch.profile = workdir / "profile"
    if detector:
        runs = runs_on_all(len(clips.train), config.seeds)
        if config.get("init_from"):
            n_samples = clips.audio.shape[1]
            starts = _starts(config, machine_type, n_samples, watch)
            runs = [replace(r, start=s) for r, s in zip(runs, starts, strict=True)]
        folder = workdir / "checkpoints" / machine_type
        detector = detector.fit(clips.train, runs, folder, watch)
    return _score(config, detector, clips, workdir, watch)


def _begin(config: Config, folder: Path) -> None:
    """Make a folder, with what its page tells of how it was made."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config.to_dict(), indent=2)
    (folder / "config.json").write_text(text + "\n")
    (folder / "command.txt").write_text(command_line() + "\n")


def _starts(
    config: Config, machine_type: str, n_samples: int, watch: Watch
) -> list[Start]:
    """For each seed the model of the same seed in `init_from`, or its only one."""
    workdir = Path(config.init_from)
    saved = load_config(workdir)
    for name, known, asked in _differences(saved, config):
        if name.startswith(("features.", "windows.")):
            raise ConfigError(
                f"init_from={workdir}: was trained with {name}={known}, not {asked}"
            )
    detector = build_detector(saved)
    folder = workdir / "checkpoints" / machine_type
    if not isinstance(detector, NeuralDetector) or not folder.is_dir():
        raise ConfigError(f"init_from={workdir}: no neural model of {machine_type}")
    saved_runs = runs_on_all(0, saved.seeds)
    starts = detector.load(folder, saved_runs, n_samples, watch).starts()
    by_seed = dict(zip(saved.seeds, starts, strict=True))
    missing = [seed for seed in config.seeds if seed not in by_seed]
    if missing and len(starts) > 1:
        raise ConfigError(
            f"init_from={workdir}: has no model of seed {missing[0]}, but of "
            f"{', '.join(map(str, saved.seeds))}"
        )
    return [by_seed.get(seed, starts[0]) for seed in config.seeds]


def evaluate_again(config: Config, workdir: Path, out: Path, watch: Watch) -> None:
    """Score with the trained model of `workdir`, and write tables into `out`.

    The clips are those that `config` names, which may be others than those of the
    training; everything that the model depends on must be as it was in training.
    """
    check(config)
    fixed = OF_THE_MODEL
    if config.get("scoring") and config.scoring.get("kind") == MAHALANOBIS:
        fixed += OF_THE_NORMALS
    for name, known, asked in _differences(load_config(workdir), config):
        if name.startswith(fixed):
            raise ConfigError(
                f"--config: {name}={asked} differs from that of the model in "
                f"{workdir}, {known}"
            )
    if not (workdir / "scores.csv").exists():
        raise ConfigError(
            f"{workdir}: its training is not finished; start the same command again"
        )
    types = machine_types(config)
    tables = [_evaluate_one(config, name, workdir, out, watch) for name in types]
    scores = Scores.concatenate(tables)
    _report(config, scores, out, watch)
    if _same(scores, read_scores(workdir / "scores.csv")):
        watch.say(f"scores: identical to those in {workdir / 'scores.csv'}")


def _evaluate_one(
    config: Config, machine_type: str, workdir: Path, out: Path, watch: Watch
) -> Scores:
    """Score one machine type with its trained model."""
    folder = workdir / "checkpoints" / machine_type
    detector = build_detector(config)
    if detector and not folder.is_dir():
        raise ConfigError(f"{folder}: no trained model of {machine_type}")
    clips = load_clips(
        config, machine_type, watch, splits=("test",), needed=_needed(detector)
    )
    if detector:
        runs = runs_on_all(0, config.seeds)
        detector = detector.load(folder, runs, clips.audio.shape[1], watch)
    if watch.leader:
        _begin(config, out)
    return _score(config, detector, clips, out, watch)


def load_config(workdir: Path) -> Config:
    """The config of a workdir."""
    path = workdir / "config.json"
    try:
        return ConfigDict(_tuples(json.loads(path.read_text())))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no config of a finished training") from error


def _score(
    config: Config, detector: Detector | None, clips: Clips, out: Path, watch: Watch
) -> Scores:
    """Scores of the test clips under every seed, and the controls'.

    Adds the clips and the pictures of some to the files of `out`.
    """
    if watch.leader:
        append_clips(clips, out / "clips.csv")
        add_pictures(build_front_end(config), detector, clips.test, out)
    tables = []
    if detector:
        scores = detector.score(clips.test, watch)
        for seed, score in zip(config.seeds, scores, strict=True):
            name = config.detector.name
            if np.isnan(score).all():
                watch.say(f"seed {seed}: no scores, since its training diverged")
                continue
            tables.append(Scores.of_clips(name, seed, clips.test, score))
    mine = np.ones(len(clips), bool)
    if isinstance(detector, NeuralDetector):
        mine = detector.rows_needed(clips)
    mine = mine[clips.split == "test"]
    return Scores.concatenate([*tables, score_controls(clips.test, mine, watch)])


def _report(config: Config, scores: Scores, workdir: Path, watch: Watch) -> None:
    """Write tables and figures into the workdir, and print the results."""
    if not watch.leader:
        return
    write_scores(scores, workdir / "scores.csv")
    write_official(scores, workdir / "official")
    c = config.eval
    selected = select_split(scores, c.split)
    rows = evaluate(selected, bootstrap=c.bootstrap, max_fpr=c.max_fpr)
    print_results(rows, "recordings" if config.data.root else "simulated", c.split)
    write_figures(workdir, c.split)
    watch.say(f"Report: {write_report(workdir, rows)}")


def _needed(detector: Detector | None) -> Callable[[Clips], np.ndarray] | None:
    """For one of several processes, the clips whose audio it needs."""
    if jax.process_count() == 1 or not isinstance(detector, NeuralDetector):
        return None

    def needed(clips: Clips) -> np.ndarray:
        rows = detector.rows_needed(clips)
        if jax.process_index() == 0:  # which draws them
            rows[pictured(clips)] = True
        return rows

    return needed


def _same(a: Scores, b: Scores) -> bool:
    """Whether two tables hold the same clips and the very same numbers."""
    return len(a) == len(b) and all(
        np.array_equal(getattr(a, column), getattr(b, column))
        for column in ("detector", "seed", "machine_type", "name", "score")
    )


def _tuples(value: Any) -> Any:
    """JSON has no tuples: its lists into tuples, at every depth."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _differences(known: Config, asked: Config) -> list[tuple[str, str, str]]:
    """Full name of every field in which two configs differ, and both values."""
    first, second = _fields(known), _fields(asked)
    return [
        (name, first.get(name, "not there"), second.get(name, "not there"))
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    ]


def _fields(config: Config) -> dict[str, str]:
    """Every field of a config as text, by its full name."""

    def walk(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from walk(f"{prefix}.{key}" if prefix else key, item)
        else:
            yield prefix, json.dumps(value)

    return dict(walk("", config.to_dict()))
