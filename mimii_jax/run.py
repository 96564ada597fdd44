"""One experiment: build once, load, fit, score, report."""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mimii_jax import log
from mimii_jax.config import Config, Experiment, build, differences
from mimii_jax.data.clips import Clips, hold_out
from mimii_jax.detectors.controls import score_controls
from mimii_jax.detectors.detector import Fitted
from mimii_jax.errors import ConfigError, require
from mimii_jax.features.front_ends import extract
from mimii_jax.files import file_errors, replace_file
from mimii_jax.report.figures import write_figures
from mimii_jax.report.of_workdir import write_report
from mimii_jax.report.tables import results_report
from mimii_jax.results.official import write_official
from mimii_jax.results.per_id import evaluate as evaluate_scores
from mimii_jax.results.table import Scores, read_scores, select_split, write_scores
from mimii_jax.train.loop import Diverged
from mimii_jax.train.mesh import wait_for_processes
from mimii_jax.train.runs import ALL, EXTRA, Run, TrainingSet, training_sets
from mimii_jax.workdir import Workdir, example_name, example_rows

FINE_TUNED = "fine_tuned"
SEPARATOR = ": "  # between the parts of a row's name
RUNS = "runs.json"  # beside the models: training set and seed of each


def train(config: Config, path: Path) -> Scores:
    """Fit the config's detector, score the test clips, write workdir and report.

    An interrupted training in the workdir is resumed. Settings and files that can't be
    used raise `ConfigError` or `DataError` before anything is written.
    """
    start = time.perf_counter()
    experiment = build(config)
    workdir = Workdir(path, writes=jax.process_index() == 0)
    _require_same(workdir.path, experiment, config)
    machines = experiment.data.machines()
    for machine_type in machines[1:]:
        experiment.data.check(machine_type)  # before the first is trained on
    wait_for_processes("checked")
    tables = []
    for number, machine_type in enumerate(machines):
        clips = experiment.data.load(
            machine_type, extra=EXTRA in experiment.training_sets
        )
        _require_fit(experiment, clips)
        if not number:
            workdir.start(config)
            wait_for_processes("started")
        tables += _train_machine(experiment, clips, workdir)
    table = Scores.concatenate(tables)
    _report(experiment, table, workdir, time.perf_counter() - start)
    return table


def evaluate(config: Config | None, path: Path, out: Path) -> Scores:
    """Score with the trained models of a workdir, and report into `out`.

    The clips are those of `config`, by default the workdir's; everything that the
    models depend on must be as it was in training.
    """
    start = time.perf_counter()
    trained = Workdir(path)
    saved = trained.read_config()
    if not trained.finished:
        raise ConfigError(
            f"{path}: the training isn't finished; resume it: "
            f"python -m mimii_jax.main --workdir {path}"
        )
    experiment = build(saved if config is None else config)
    if experiment.training() != build(saved).training():
        changes = differences(saved, config)
        raise ConfigError(
            f"--config differs from the model in {path}: {'; '.join(changes)}"
        )
    workdir = Workdir(out, writes=jax.process_index() == 0)
    tables = []
    for number, machine_type in enumerate(experiment.data.machines()):
        if experiment.detector and not trained.checkpoints(machine_type).is_dir():
            raise ConfigError(f"{path}: holds no trained model of {machine_type}")
        clips = experiment.data.load(machine_type, ("test",))
        _require_fit(experiment, clips)
        if not number:
            workdir.start(saved if config is None else config)
        tables += _score_machine(experiment, clips, trained, workdir)
    table = Scores.concatenate(tables)
    _report(experiment, table, workdir, time.perf_counter() - start)
    if same_scores(table, read_scores(trained.scores)):
        log.info(f"Scores are identical to {trained.scores}")
    return table


def _require_same(path: Path, experiment: Experiment, config: Config) -> None:
    """Refuse a folder with anything but an earlier start of this experiment."""
    with file_errors(path):
        if not path.exists() or not any(path.iterdir()):
            return
    if not (path / "config.json").exists():
        raise ConfigError(
            f"--workdir={path}: exists but isn't a workdir (no config.json); "
            "choose another folder"
        )
    saved = Workdir(path).read_config()
    if build(saved) != experiment:
        raise ConfigError(
            f"--workdir={path}: its config differs: "
            f"{'; '.join(differences(saved, config))}. Choose another folder, or "
            "--resume=never for a new one"
        )


def _require_fit(experiment: Experiment, clips: Clips) -> None:
    """Refuse clips that the front end or the model doesn't fit."""
    rate = getattr(experiment.front_end, "sample_rate", clips.sample_rate)
    require(
        rate == clips.sample_rate,
        f"features.sample_rate={rate}: the clips have {clips.sample_rate} Hz",
    )
    n_samples = clips.audio.shape[1]
    wave = jax.ShapeDtypeStruct((n_samples,), np.float32)
    jax.eval_shape(experiment.front_end, wave)
    for detector in experiment.scorings.values():
        detector.check(n_samples)
        fits = jax.process_count() == 1 or not detector.one_process
        require(fits, f"detector.name='{experiment.name}': needs one process")


@dataclass(frozen=True, eq=False)
class _Stage:
    """Runs that are trained together: all random ones, or all fine-tuned ones."""

    folder: Path
    sets: Sequence[str]  # name of each run's training set
    runs: Sequence[Run]

    @classmethod
    def read(cls, folder: Path, seeds: Sequence[int]) -> "_Stage":
        """Read the runs of a training; without a list of them, one per seed on all."""
        path, none = folder / RUNS, np.arange(0)
        known = [[ALL, seed] for seed in seeds]
        if path.exists():
            with file_errors(path):
                known = json.loads(path.read_text())
        runs = [Run(seed, none, none) for _, seed in known]
        return cls(folder, [name for name, _ in known], runs)

    def write(self) -> None:
        """List the runs beside their models."""
        with file_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        rows = [[n, run.seed] for n, run in zip(self.sets, self.runs, strict=True)]
        replace_file(self.folder / RUNS, (json.dumps(rows) + "\n").encode())


def _fit(
    experiment: Experiment, clips: Clips, workdir: Workdir
) -> Iterator[tuple[_Stage, list[Fitted]]]:
    """Train the random runs, then those fine-tuned from them; yield each stage."""
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

    def fit(
        name: str, sets: Sequence[TrainingSet], pretrained: dict[int, Any]
    ) -> tuple[_Stage, list[Fitted]]:
        pairs = [(one, seed) for one in sets for seed in experiment.seeds]
        stage = _Stage(
            workdir.checkpoints(clips.machine_type, name),
            [one.name for one, _ in pairs],
            [
                Run(seed, one.clips, one.validation, pretrained=pretrained.get(seed))
                for one, seed in pairs
            ],
        )
        if workdir.writes:
            stage.write()
        return stage, [
            detector.fit(train, held_out, stage.runs, stage.folder)
            for detector in experiment.scorings.values()
        ]

    pretrained = _pretrained(experiment, clips.machine_type)
    first = [one for one in sets if not one.tuned]
    stage, fitted = fit("", first, pretrained)
    yield stage, fitted
    tuned = [one for one in sets if one.tuned]
    models = fitted[0].pretrained()
    if not tuned or not models:
        return
    triples = zip(stage.sets, stage.runs, models, strict=True)
    of_all = {run.seed: model for name, run, model in triples if name == ALL}
    name = workdir.checkpoints(clips.machine_type, FINE_TUNED).name
    _open_metrics(experiment, clips.machine_type, workdir, stage=name)
    try:
        yield fit(FINE_TUNED, tuned, of_all)
    except Diverged as error:
        log.warning(f"fine-tuning diverged: {error}")


def _open_metrics(
    experiment: Experiment, machine_type: str, workdir: Workdir, **more: str
) -> None:
    board = workdir.path / "tensorboard" / machine_type
    log.open_metrics(
        workdir.path / "metrics.jsonl",
        {"machine_type": machine_type, **more},
        board if experiment.tensorboard else None,
    )


def _train_machine(
    experiment: Experiment, clips: Clips, workdir: Workdir
) -> list[Scores]:
    """Fit and score one machine type."""
    workdir.add_clips(clips)
    _open_metrics(experiment, clips.machine_type, workdir)
    stages = _fit(experiment, clips, workdir) if experiment.detector else ()
    try:
        return _score_stages(experiment, stages, clips.test, workdir)
    finally:
        log.close_metrics()


def _score_machine(
    experiment: Experiment, clips: Clips, trained: Workdir, workdir: Workdir
) -> list[Scores]:
    """Score one machine type with the fitted models of a workdir."""
    workdir.add_clips(clips.test)

    def stages() -> Iterator[tuple[_Stage, list[Fitted]]]:
        for name in ("", FINE_TUNED):
            folder = trained.checkpoints(clips.machine_type, name)
            if folder.is_dir():
                stage = _Stage.read(folder, experiment.seeds)
                detectors = experiment.scorings.values()
                yield stage, [d.load(folder, stage.runs) for d in detectors]

    return _score_stages(experiment, stages(), clips.test, workdir)


def _score_stages(
    experiment: Experiment,
    stages: Iterable[tuple[_Stage, list[Fitted]]],
    test: Clips,
    workdir: Workdir,
) -> list[Scores]:
    """Score the test clips by every stage, and by the controls."""
    tables: list[Scores] = []
    first = None
    for stage, fitted in stages:
        first = first or fitted[0]
        tables += _score(experiment, stage, fitted, test)
    _add_examples(experiment, first, test, workdir)
    return [*tables, score_controls(test)]


def _score(
    experiment: Experiment, stage: _Stage, fitted: Sequence[Fitted], test: Clips
) -> Iterator[Scores]:
    """Yield the scores of every training set, scoring and seed."""
    several = len(experiment.training_sets) > 1
    for label, model in zip(experiment.scorings, fitted, strict=True):
        scores = model.score(test)
        for one, run, score in zip(stage.sets, stage.runs, scores, strict=True):
            parts = [experiment.name, one if several else "", label]
            name = SEPARATOR.join(part for part in parts if part)
            if np.isnan(score).all():
                log.warning(f"{name}, seed {run.seed}: diverged, so no scores")
                continue
            yield Scores.of_clips(name, run.seed, test, score)


def _pretrained(experiment: Experiment, machine_type: str) -> dict[int, Any]:
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


def _add_examples(
    experiment: Experiment, fitted: Fitted | None, test: Clips, workdir: Workdir
) -> None:
    """Add each ID's first normal and first anomalous test clip, for figures."""
    rows = example_rows(test)
    if not rows:
        return
    front_end = experiment.front_end
    arrays: dict[str, Any] = {"seconds_per_frame": front_end.hop / test.sample_rate}
    if front_end.frequencies is not None:
        arrays["frequency"] = front_end.frequencies
    why = fitted.explain(test[np.array(rows)]) if fitted else None
    if why:
        per_clip = {
            f: getattr(why, f) for f in ("features", "expected", "error", "track")
        }
    else:
        features = extract(front_end, test.audio, np.array(rows), lambda n: None)
        per_clip = {"features": np.asarray(features)}
    for i, row in enumerate(rows):
        name = example_name(test, row)
        arrays |= {f"{name}/{field}": values[i] for field, values in per_clip.items()}
        if why:
            arrays[f"{name}/seconds"] = why.seconds
    workdir.add_examples(arrays)


def _report(
    experiment: Experiment, scores: Scores, workdir: Workdir, seconds: float
) -> None:
    """Write tables, figures and the page; print the results."""
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    workdir.write_about(seconds, jax=jax.__version__, devices=devices)
    if not workdir.writes:
        return
    write_scores(scores, workdir.scores)
    write_official(scores, workdir.path / "official")
    e = experiment.eval
    part = select_split(scores, e.split)
    rows = evaluate_scores(part, bootstrap=e.bootstrap, max_fpr=e.max_fpr)
    log.info(results_report(rows, experiment.data.source, e.split))
    write_figures(workdir.path, e.split)
    log.info(f"Report: {write_report(workdir.path, rows)}")


def same_scores(a: Scores, b: Scores) -> bool:
    """Whether two tables hold the same clips and the same numbers."""
    columns = ("detector", "seed", "machine_type", "name", "score")
    return len(a) == len(b) and all(
        np.array_equal(getattr(a, column), getattr(b, column)) for column in columns
    )
