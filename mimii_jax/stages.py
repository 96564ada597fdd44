"""The fitted detectors of an experiment, one stage of training after the other."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mimii_jax import log
from mimii_jax.config import Experiment, build
from mimii_jax.data.clips import NORMAL, Clips, hold_out
from mimii_jax.detectors.detector import Fitted
from mimii_jax.errors import ConfigError, DataError, require
from mimii_jax.files import make_folder, read_json, replace_file
from mimii_jax.results.fusion import fuse
from mimii_jax.results.table import NO_SEED, Scores, write_scores
from mimii_jax.train.loop import Diverged
from mimii_jax.train.runs import ALL, Run, TrainingSet, training_sets
from mimii_jax.workdir import Workdir

FINE_TUNED = "fine_tuned"
SEPARATOR, FUSED = ": ", " & "  # between the parts of a row's name
RUNS = "runs.json"  # beside the models: training set and seed of each


class Scored(NamedTuple):
    """Scores of the test clips, and of normal clips by the same detector."""

    test: Scores
    normal: Scores | None
    seconds: tuple[float, float] | None = None  # of training all runs; per run and clip


@dataclass(frozen=True, eq=False)
class Stage:
    """Runs that are trained together: all random ones, or all fine-tuned ones."""

    fitted: Mapping[tuple[str, str], Fitted]  # by detector and name of the scoring
    sets: Sequence[str]  # name of each run's training set; "": the only one
    seeds: Sequence[int]  # of each run
    seconds: Mapping[tuple[str, str], float]  # until each of `fitted` was

    def score(self, test: Clips, with_normal: bool = True) -> Iterator[Scored]:
        """Yield the scores of every scoring, training set and seed."""
        for (detector, label), model in self.fitted.items():
            normals = model.normal_scores() if with_normal else ()
            scores, alive = np.empty((len(self.seeds), 0)), model.alive
            start = time.perf_counter()
            if len(test):
                scores = model.score(test)
                alive = [not np.isnan(one).all() for one in scores]
            of_clip = (time.perf_counter() - start) / max(1, scores.size)
            for i, (one, seed) in enumerate(zip(self.sets, self.seeds, strict=True)):
                name = SEPARATOR.join(filter(None, (detector, one, label)))
                if not alive[i]:
                    log.warning(f"{name}, seed {seed}: diverged, so no scores")
                    continue
                normal = None
                if normals:
                    names, ids, score = normals[i]
                    columns = (name, seed, test.machine_type, NORMAL)
                    normal = Scores.of_detector(*columns, ids, names, score)
                found = Scores.of_clips(name, seed, test, scores[i])
                yield Scored(found, normal, (self.seconds[detector, label], of_clip))


def fused(experiment: Experiment, tables: Sequence[Scored]) -> Iterator[Scored]:
    """Yield each row of the detector fused with each companion, and with all."""
    if not experiment.companions:
        return
    test = Scores.concatenate(table.test for table in tables)
    normal = Scores.concatenate(table.normal for table in tables if table.normal)
    for name in (test if len(test) else normal).detectors:
        if name not in experiment.companions and name in normal.detectors:
            parts = (name, *experiment.companions)
            label = FUSED.join(parts)
            common = normal[np.isin(normal.name, _common_names(normal, parts))]
            of_normal = fuse(common, normal, parts, label) if len(common) else None
            of_test = fuse(test, normal, parts, label) if len(test) else test
            yield Scored(of_test, of_normal)


def _common_names(normal: Scores, parts: Sequence[str]) -> list[str]:
    """Names of the clips that all detectors have normal scores of."""
    names = [set(normal.name[normal.detector == part].tolist()) for part in parts]
    return sorted(set.intersection(*names))


def load_pretrained(experiment: Experiment, machine_type: str) -> dict[int, Any]:
    """Load the models of `init_from`: for each seed its own, or the only one."""
    if not experiment.init_from:
        return {}
    path = Path(experiment.init_from).expanduser()
    saved = build(Workdir(path).read_config())
    require(
        saved.front_end == experiment.front_end,
        f"init_from={path}: trained with {saved.front_end}, not {experiment.front_end}",
    )
    folder = Workdir(path).checkpoints(machine_type)
    if not saved.detector or not folder.is_dir():
        raise ConfigError(f"init_from={path}: holds no model of {machine_type}")
    runs = [Run(seed, np.arange(0), np.arange(0)) for seed in saved.seeds]
    models = saved.detector.load(folder, runs).pretrained()
    require(bool(models), f"init_from={path}: {saved.name} can't be fine-tuned")
    by_seed = dict(zip(saved.seeds, models, strict=True))
    missing = [seed for seed in experiment.seeds if seed not in by_seed]
    require(
        not missing or len(models) == 1,
        f"init_from={path}: has models of seeds {saved.seeds}, not of {missing}",
    )
    return {seed: by_seed.get(seed, models[0]) for seed in experiment.seeds}


def fit(
    experiment: Experiment,
    clips: Clips,
    workdir: Workdir,
    pretrained: Mapping[int, Any],
) -> Iterator[Stage]:
    """Train the first runs, then those fine-tuned from them; yield each stage."""
    if not experiment.detector:
        return
    own = clips.train
    held = hold_out(own.machine_id, experiment.data.validation_fraction)
    rows = np.flatnonzero(clips.split == "train")[~held]
    train = clips[np.append(rows, np.flatnonzero(clips.split == "extra"))]
    held_out = own[held]
    sets = training_sets(
        train.machine_id,
        held_out.machine_id,
        experiment.training_sets,
        n_own=len(rows),
    )

    def fit_runs(
        stage: str, sets: Sequence[TrainingSet], pretrained: Mapping[int, Any]
    ) -> Stage:
        pairs = [(one, seed) for one in sets for seed in experiment.seeds]
        named = [(one.name, seed) for one, seed in pairs]
        folder = workdir.checkpoints(clips.machine_type, stage)
        runs = [
            Run(seed, one.clips, one.validation, pretrained=pretrained.get(seed))
            for one, seed in pairs
        ]
        if workdir.writes:
            _write_runs(folder, named)
        start, fitted, seconds = time.perf_counter(), {}, {}
        for name, detector in _detectors(experiment):
            fitted[name] = detector.fit(train, held_out, runs, folder)
            seconds[name] = time.perf_counter() - start
        return _stage(experiment, fitted, named, seconds)

    random = fit_runs("", [one for one in sets if not one.tuned], pretrained)
    yield random
    for name, detector in experiment.companions.items():
        run = Run(0, np.arange(len(train)), np.arange(len(held_out)))
        folder = workdir.checkpoints(clips.machine_type, name)
        start = time.perf_counter()
        found = detector.fit(train, held_out, [run], folder)
        seconds = time.perf_counter() - start
        yield Stage({(name, ""): found}, [""], [NO_SEED], {(name, ""): seconds})
    tuned = [one for one in sets if one.tuned]
    models = next(iter(random.fitted.values())).pretrained()
    if not tuned or not models:
        return
    names = [one.name for one in sets if not one.tuned for _ in experiment.seeds]
    triples = zip(names, random.seeds, models, strict=True)
    of_all = {seed: model for name, seed, model in triples if name == ALL}
    name = workdir.checkpoints(clips.machine_type, FINE_TUNED).name
    open_metrics(experiment, clips.machine_type, workdir, stage=name)
    try:
        yield fit_runs(FINE_TUNED, tuned, of_all)
    except Diverged as error:
        log.warning(f"fine-tuning diverged: {error}")


def load(
    experiment: Experiment, machine_type: str, trained: Workdir
) -> Iterator[Stage]:
    """Load every stage from a workdir, in which nothing is changed."""
    if not experiment.detector:
        return
    for stage in ("", FINE_TUNED):
        folder = trained.checkpoints(machine_type, stage)
        if folder.is_dir():
            pairs = _read_runs(folder, experiment.seeds)
            runs = [Run(seed, np.arange(0), np.arange(0)) for _, seed in pairs]
            fitted = {
                name: detector.load(folder, runs)
                for name, detector in _detectors(experiment)
            }
            yield _stage(experiment, fitted, pairs, dict.fromkeys(fitted, 0.0))
    for name, detector in experiment.companions.items():
        run = Run(0, np.arange(0), np.arange(0))
        found = detector.load(trained.checkpoints(machine_type, name), [run])
        yield Stage({(name, ""): found}, [""], [NO_SEED], {(name, ""): 0.0})


def require_fit(experiment: Experiment, clips: Clips) -> None:
    """Refuse clips that the front end or the model doesn't fit."""
    rate = getattr(experiment.front_end, "sample_rate", clips.sample_rate)
    require(
        rate == clips.sample_rate,
        f"features.sample_rate={rate}: the clips have {clips.sample_rate} Hz",
    )
    n_samples = clips.audio.shape[1]
    wave = jax.ShapeDtypeStruct((n_samples,), np.float32)
    jax.eval_shape(experiment.front_end, wave)
    for detector in (*experiment.scorings.values(), *experiment.companions.values()):
        detector.check(n_samples)
        fits = jax.process_count() == 1 or not detector.one_process
        require(fits, f"detector.name='{experiment.name}': needs one process")


def write_tables(
    tables: Sequence[Scored], workdir: Workdir, seconds: float
) -> tuple[Scores, Scores]:
    """Write run.json and the tables of a finished run; test and normal scores."""
    scores = Scores.concatenate(table.test for table in tables)
    normal = [table.normal for table in tables if table.normal]
    normals = Scores.concatenate(normal) if normal else scores[:0]
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    workdir.write_about(
        seconds, jax=jax.__version__, devices=devices, seconds_of=_seconds_of(tables)
    )
    if workdir.writes:
        if normal:
            write_scores(normals, workdir.normals)
        write_scores(scores, workdir.scores)
    return scores, normals


def _seconds_of(tables: Sequence[Scored]) -> dict[str, dict[str, float]]:
    """Seconds by machine type and detector: to train all runs, to score a clip."""
    return {
        f"{table.test.machine_type[0]}, {table.test.detector[0]}": {
            "train": round(table.seconds[0], 3),
            "score_clip": round(table.seconds[1], 6),
        }
        for table in tables
        if table.seconds and len(table.test)
    }


def open_metrics(
    experiment: Experiment, machine_type: str, workdir: Workdir, **more: str
) -> None:
    """Record the metrics of a machine type's training."""
    board = workdir.path / "tensorboard" / machine_type
    log.open_metrics(
        workdir.path / "metrics.jsonl",
        {"machine_type": machine_type, **more},
        board if experiment.tensorboard else None,
    )


def _detectors(experiment: Experiment) -> Iterator[tuple[tuple[str, str], Any]]:
    """Yield every scoring of the detector, by its names."""
    for (suffix, label), detector in experiment.scorings.items():
        yield (experiment.name + suffix, label), detector


def _stage(
    experiment: Experiment,
    fitted: Mapping[tuple[str, str], Fitted],
    pairs: Sequence[tuple[str, int]],
    seconds: Mapping[tuple[str, str], float],
) -> Stage:
    several = len(experiment.training_sets) > 1
    sets = [name if several else "" for name, _ in pairs]
    return Stage(fitted, sets, [seed for _, seed in pairs], seconds)


def _write_runs(folder: Path, pairs: Sequence[tuple[str, int]]) -> None:
    """List training set and seed of each run beside the models."""
    make_folder(folder)
    replace_file(folder / RUNS, (json.dumps(pairs) + "\n").encode())


def _read_runs(folder: Path, seeds: Sequence[int]) -> list[tuple[str, int]]:
    """Read what `_write_runs` wrote; without it, one run per seed on all clips."""
    path = folder / RUNS
    if not path.exists():
        return [(ALL, seed) for seed in seeds]
    try:
        return [(str(name), int(seed)) for name, seed in read_json(path)]
    except (TypeError, ValueError):
        raise DataError(f"{path}: damaged; train with this config again") from None
