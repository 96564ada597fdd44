"""One experiment: build once, load, fit, score, report."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mimii_jax import log
from mimii_jax.config import Config, Experiment, build, differences
from mimii_jax.data.clips import Clips
from mimii_jax.detectors.controls import score_controls
from mimii_jax.detectors.detector import Fitted
from mimii_jax.errors import ConfigError
from mimii_jax.features.front_ends import extract
from mimii_jax.files import file_errors
from mimii_jax.report.figures import write_figures
from mimii_jax.report.of_workdir import write_report
from mimii_jax.report.tables import alarms_text, results_report, sections_text
from mimii_jax.results.official import write_official
from mimii_jax.results.per_id import evaluate as evaluate_scores
from mimii_jax.results.sections import has_sections
from mimii_jax.results.table import Scores, read_scores, select_split
from mimii_jax.results.threshold import decide, false_alarms
from mimii_jax.stages import (
    Scored,
    Stage,
    fit,
    fused,
    load,
    load_pretrained,
    open_metrics,
    require_fit,
    write_tables,
)
from mimii_jax.train.mesh import wait_for_processes
from mimii_jax.train.runs import EXTRA
from mimii_jax.workdir import LOCK, Workdir, example_name, example_rows


def train(config: Config, path: Path) -> Scores:
    """Fit the config's detector, score the test clips, write workdir and report.

    An interrupted training in the workdir is resumed. Settings and files that can't be
    used raise `ConfigError` or `DataError` before anything is written.
    """
    start = time.perf_counter()
    experiment = build(config)
    workdir = Workdir(path, writes=jax.process_index() == 0)
    with workdir.owned():
        return _train(experiment, config, workdir, start)


def _train(
    experiment: Experiment, config: Config, workdir: Workdir, start: float
) -> Scores:
    """Train in a workdir that no other process writes to."""
    _require_same(workdir.path, experiment, config)
    machines = experiment.data.machines()
    for machine_type in machines[1:]:
        experiment.data.check(machine_type)  # before the first is trained on
    wait_for_processes("checked")
    tables: list[Scored] = []
    for number, machine_type in enumerate(machines):
        clips = experiment.data.load(
            machine_type, extra=EXTRA in experiment.training_sets
        )
        require_fit(experiment, clips)
        pretrained = load_pretrained(experiment, machine_type)
        if not number:
            workdir.start(config)
            wait_for_processes("started")
        tables += _train_machine(experiment, clips, workdir, pretrained)
    return _report(experiment, tables, workdir, time.perf_counter() - start)


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
    tables: list[Scored] = []
    for number, machine_type in enumerate(experiment.data.machines()):
        if experiment.detector and not trained.checkpoints(machine_type).is_dir():
            raise ConfigError(f"{path}: holds no trained model of {machine_type}")
        clips = experiment.data.load(machine_type, ("test",))
        require_fit(experiment, clips)
        if not number:
            workdir.start(saved if config is None else config)
        tables += _score_machine(experiment, clips, trained, workdir)
    table = _report(experiment, tables, workdir, time.perf_counter() - start)
    if same_scores(table, read_scores(trained.scores)):
        log.info(f"Scores are identical to {trained.scores}")
    return table


def _require_same(path: Path, experiment: Experiment, config: Config) -> None:
    """Refuse a folder with anything but an earlier start of this experiment."""
    with file_errors(path):
        if not path.exists() or all(one.name == LOCK for one in path.iterdir()):
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


def _train_machine(
    experiment: Experiment, clips: Clips, workdir: Workdir, pretrained: dict[int, Any]
) -> list[Scored]:
    """Fit and score one machine type."""
    workdir.add_clips(clips)
    open_metrics(experiment, clips.machine_type, workdir)
    try:
        stages = fit(experiment, clips, workdir, pretrained)
        return _score(experiment, stages, clips.test, workdir)
    finally:
        log.close_metrics()


def _score_machine(
    experiment: Experiment, clips: Clips, trained: Workdir, workdir: Workdir
) -> list[Scored]:
    """Score one machine type with the fitted models of a workdir."""
    workdir.add_clips(clips.test)
    stages = load(experiment, clips.machine_type, trained)
    return _score(experiment, stages, clips.test, workdir)


def _score(
    experiment: Experiment, stages: Iterable[Stage], test: Clips, workdir: Workdir
) -> list[Scored]:
    """Score the test clips by every stage, their fusions and the controls."""
    if not len(test):
        log.info(
            f"{test.machine_type}: no test clips, so no AUC; judge recordings by "
            f"python -m mimii_jax.score --workdir {workdir.path} FILE"
        )
    tables: list[Scored] = []
    first = None
    for stage in stages:
        first = first or next(iter(stage.fitted.values()))
        tables += stage.score(test)
    _add_examples(experiment, first, test, workdir)
    return [*tables, *fused(experiment, tables), Scored(score_controls(test), None)]


def _add_examples(
    experiment: Experiment, fitted: Fitted | None, test: Clips, workdir: Workdir
) -> None:
    """Add each ID's first normal and first anomalous test clip, for figures."""
    rows = example_rows(test)
    if not rows:
        return
    front_end = experiment.front_end
    arrays: dict[str, Any] = {"seconds_per_frame": front_end.hop / test.sample_rate}
    n_bins = None
    if front_end.frequencies is not None:
        arrays["frequency"] = front_end.frequencies
        n_bins = len(front_end.frequencies)  # further ones are no part of a frame
    why = fitted.explain(test[np.array(rows)]) if fitted else None
    chosen = np.array(rows)
    features: Any = ()
    if not why:
        features = extract(front_end, test.audio, chosen, lambda n: None)
        features = features[:, :, :n_bins]
    for i, row in enumerate(rows):
        own = why.of(i) if why else {"features": np.asarray(features[i])}
        name = example_name(test, row)
        arrays |= {f"{name}/{field}": values for field, values in own.items()}
    workdir.add_examples(test.machine_type, arrays)


def _report(
    experiment: Experiment, tables: list[Scored], workdir: Workdir, seconds: float
) -> Scores:
    """Write tables, figures and the page; print the results."""
    scores, normals = write_tables(tables, workdir, seconds)
    if not workdir.writes:
        return scores
    e = experiment.eval
    part = select_split(scores, e.split)
    write_official(scores, workdir.path / "official", decide(scores, normals))
    rows = evaluate_scores(part, bootstrap=e.bootstrap, max_fpr=e.max_fpr)
    log.info(results_report(rows, experiment.data.source, e.split))
    if has_sections(part):
        log.info(sections_text(part, decide(part, normals), e.max_fpr))
    if alarms := false_alarms(part, normals):
        log.info(alarms_text(alarms))
    write_figures(workdir.path, e.split)
    log.info(f"Report: {write_report(workdir.path, rows)}")
    return scores


def same_scores(a: Scores, b: Scores) -> bool:
    """Whether two tables hold the same clips and the same numbers."""
    columns = ("detector", "seed", "machine_type", "name", "score")
    return len(a) == len(b) and all(
        np.array_equal(getattr(a, column), getattr(b, column)) for column in columns
    )
