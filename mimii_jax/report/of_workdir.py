"""The page of a workdir, from its files alone; no JAX."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mimii_jax import log
from mimii_jax.defaults import flatten
from mimii_jax.errors import DataError
from mimii_jax.files import replace_file
from mimii_jax.report.inputs import Fields, read_json, read_metrics, section, source
from mimii_jax.report.page import (
    PNG,
    Block,
    Callout,
    Code,
    Picture,
    Section,
    Table,
    page,
)
from mimii_jax.report.tables import (
    alarm_lines,
    by_type,
    id_lines,
    notes,
    results_lines,
    section_lines,
)
from mimii_jax.results.metrics import MAX_FPR
from mimii_jax.results.per_id import Row, evaluate
from mimii_jax.results.sections import has_sections
from mimii_jax.results.table import (
    CONTROLS,
    NO_SEED,
    SPLITS,
    Scores,
    read_scores,
    select_split,
)
from mimii_jax.results.threshold import decide, false_alarms

REPORT = "report.html"
PER_S = "_per_second"
SIMULATED = (
    "Simulated sound, not recordings. These numbers compare detectors on the built-in "
    "simulator; they are no result about machines."
)
INTERVALS = (
    "Mean ± SD over seeds; in brackets, or under 95 %, the bootstrap interval of that "
    "mean over clips."
)
NO_TEST_CLIPS = "No test clips, so no scores and no AUC."
DECISIONS = (
    "Decisions: at thresholds from the scores of normal clips that are not among the "
    "test clips"
)
SECTIONS = "Sections and domains, as in the challenge: harmonic means"
ALT = {  # figures by the first word of their file names
    "clips": "Bars: training and test clips per machine ID",
    "labels": "Bars: normal and anomalous test clips per machine ID",
    "matrix": "Heat map: training sets against the IDs tested on; the table has the "
    "same numbers",
    "predictions": "A normal and an anomalous clip of each machine ID, the features "
    "that the model expects, and the squared error",
    "roc": "ROC curves of each machine ID: the detector over the controls",
    "scores": "Histograms of the anomaly scores of normal and of anomalous clips",
    "spectrograms": "Spectrograms of a normal and an anomalous clip of each machine ID",
    "tracks": "Curves: the error along a normal and an anomalous clip of each machine "
    "ID",
    "training": "Curves: training and validation loss over epochs",
}


def write_report(
    workdir: Path,
    rows: Sequence[Row] | None = None,
    extra_blocks: Sequence[Block] = (),
) -> Path:
    """Write report.html into a workdir that has scores.csv; returns its path.

    config.json, run.json, metrics.jsonl and figures/ are shown if they exist. `rows`
    are the results, if they are known already; `extra_blocks` precede them.
    """
    config = read_json(workdir / "config.json")
    file = workdir / "scores.csv"
    if not file.is_file():
        inside = [path.parent.name for path in sorted(workdir.glob("*/scores.csv"))]
        hint = f"; it holds workdirs, choose one: {', '.join(inside)}" if inside else ""
        raise DataError(f"{workdir}: no scores.csv of a finished run{hint}")
    scores = read_scores(file)
    split = str(section(config, "eval").get("split", "all"))
    if rows is None:
        rows = _evaluate(config, scores, split)
    seeds = ", ".join(str(seed) for seed in scores.seeds if seed != NO_SEED)
    about = f"Seeds: {seeds or 'none, no detector is random'}. {INTERVALS}"
    results = [*extra_blocks, *_results(rows, split)]
    file, part = workdir / "normals.csv", select_split(scores, split)
    normals = read_scores(file) if file.is_file() else scores[:0]
    if has_sections(part):
        results.append(Table(SECTIONS, *section_lines(part, decide(part, normals))))
    if alarms := false_alarms(part, normals):
        results.append(Table(DECISIONS, *alarm_lines(alarms)))
    sections = [Section("Results", results)] if results else []
    if found := pictures(workdir / "figures"):
        sections.append(Section("Figures", found))
    sections.append(Section("How it was made", list(_made(workdir, config))))
    name = section(config, "detector").get("name", workdir.resolve().name)
    title = ": ".join(filter(None, [name, ", ".join(scores.machine_types)]))
    lead = [source_block(config), about if len(scores) else NO_TEST_CLIPS]
    html = page(title, lead, sections)
    replace_file(workdir / REPORT, html)
    return workdir / REPORT


def source_block(config: Fields) -> Block:
    """Name the source of the numbers; a warning if they are from the simulator."""
    data = section(config, "data")
    if not source(config):
        return "The source of these scores is unknown (no config.json)."
    if data["root"]:
        return f"Recordings: {data['root']}."
    scale = data.get("scale", 1)
    return Callout(f"{SIMULATED} Scale: {scale} of the official number of clips.")


def _evaluate(config: Fields, scores: Scores, split: str) -> list[Row]:
    """Evaluate as the config says."""
    c = {"bootstrap": 1000, "max_fpr": MAX_FPR} | section(config, "eval")
    if split not in SPLITS:
        raise DataError(f"config.json: eval.split={split!r} is not {', '.join(SPLITS)}")
    try:
        how = {"bootstrap": int(c["bootstrap"]), "max_fpr": float(c["max_fpr"])}
    except (TypeError, ValueError) as error:
        raise DataError(f"config.json: eval: {error}") from None
    return evaluate(select_split(scores, split), **how)


def _results(rows: Sequence[Row], split: str) -> Iterator[Block]:
    """All detectors in one table per machine type; then each by machine ID."""
    for machine_type, of_type in by_type(rows).items():
        caption = f"{machine_type}: {SPLITS[split]}"
        yield Table(caption, *results_lines(of_type), notes(of_type))
        for detector in dict.fromkeys(row.detector for row in of_type):
            if detector not in CONTROLS:
                own = [row for row in of_type if row.detector == detector]
                caption = f"{machine_type}, {detector}, by machine ID"
                yield Table(caption, *id_lines(own))


def pictures(folder: Path) -> list[Picture]:
    """PNG files of a folder; links and other files are left out with a warning."""
    found = []
    here = folder.parent.resolve() / folder.name
    for path in sorted(folder.glob("*.png")):
        regular = path.resolve() == here / path.name and path.is_file()
        content = path.read_bytes() if regular else b""
        if not content.startswith(PNG) or len(content) < 24:
            log.warning(f"{path}: not a regular PNG file, so the page leaves it out")
            continue
        kind, _, of = path.stem.partition("_")
        alt = ALT.get(kind, path.stem.replace("_", " "))
        of = f" ({of.replace('_', ', ')})" if of else ""
        found.append(Picture(path, f"{alt}.", f"{alt}{of}."))
    return found


def _made(workdir: Path, config: Fields) -> Iterator[Block]:
    """Command, machine, training and settings."""
    run = read_json(workdir / "run.json")
    if "command" in run:
        yield Code(str(run.pop("command")))
    if lines := list(_times(run.pop("seconds_of", None))):
        head = ["", "training all runs, s", "scoring a clip, ms"]
        yield Table("Time, compiling included", head, lines)
    if run:
        rows = [[key, str(value)] for key, value in run.items()]
        yield Table("Run (run.json)", ["", "value"], rows)
    if stages := read_metrics(workdir / "metrics.jsonl"):
        last = {stage: rows[-1] for stage, rows in stages.items()}
        speeds = {key for row in last.values() for key in row if key.endswith(PER_S)}
        keys = ["epoch", "step", "seconds", *sorted(speeds)]
        head = ["", *(key.replace("_", " ") for key in keys)]
        lines = []
        for stage, row in last.items():
            numbers = (row.get(key) for key in keys)
            cells = [f"{n:,.0f}" if isinstance(n, int | float) else "" for n in numbers]
            lines.append([stage, *cells])
        yield Table("Training, at its end", head, lines)
    if fields := flatten(config):
        lines = [[name, json.dumps(value)] for name, value in fields.items()]
        yield Table("Settings (config.json)", ["field", "value"], lines)


def _times(seconds_of: Any) -> Iterator[list[str]]:
    """Yield a line per detector whose times are numbers."""
    for name, of in seconds_of.items() if isinstance(seconds_of, dict) else ():
        match of:
            case {"train": int() | float() as train, "score_clip": float() as clip}:
                yield [name, f"{train:,.1f}", f"{1000 * clip:,.1f}"]
