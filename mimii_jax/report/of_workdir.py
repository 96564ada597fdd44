"""The page of a workdir, from its files alone; no JAX."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mimii_jax.report.matrix import METRICS, forgetting_grid, grid, legend
from mimii_jax.report.page import (
    Block,
    Code,
    Picture,
    Section,
    Table,
    Warned,
    page,
    write_page,
)
from mimii_jax.report.tables import result_cells, results_grid
from mimii_jax.results.matrix import AUC, SEPARATOR, matrices, models
from mimii_jax.results.official import MAX_FPR
from mimii_jax.results.per_id import Row, evaluate
from mimii_jax.results.splits import part_title, split_part
from mimii_jax.results.table import CONTROLS, NO_SEED, ScoreError, Scores, read_scores

REPORT = "report.html"
EVAL = {"bootstrap": 1000, "split": "all", "split_seed": 0, "max_fpr": MAX_FPR}
SIMULATED = (
    "Simulated sound, not recordings. These numbers say how detectors compare on the "
    "built-in simulator; they are no result about machines."
)
INTERVALS = (
    "Mean ± SD over seeds; in brackets, or under 95 %, the bootstrap interval over "
    "clips of that mean."
)
PICTURES = {
    "clips": "Bars: training and test clips of each machine ID",
    "labels": "Bars: normal and anomalous test clips of each machine ID",
    "matrix": "Heat map: rows are training sets, columns are the IDs tested on; the "
    "table has the same numbers",
    "predictions": "A normal and an anomalous clip of each machine ID, what the model "
    "makes of them, and the error between",
    "roc": "ROC curves of each machine ID: the detector over the controls",
    "scores": "Histograms of the anomaly scores of normal and of anomalous clips",
    "spectrograms": "Spectrograms of a normal and an anomalous clip of each machine ID",
    "tracks": "Curves: the error along a normal and an anomalous clip of each machine "
    "ID",
    "training": "Curves: training and validation loss over epochs",
}
"""What a figure shows, by the beginning of its file's name."""


def write_report(workdir: Path, rows: Sequence[Row] | None = None) -> Path:
    """Write report.html into a workdir; returns its path.

    `rows` are its results if they are known already.

    Raises
    ------
    ScoreError : there are no scores in it
    """
    config = _config(workdir)
    scores = _scores(workdir)
    data = config.get("data", {})
    lead = [data_block(data), _seeds(scores)]
    sections = [Section("Results", list(_results(workdir, config, scores, rows)))]
    if found := pictures(workdir / "figures"):
        sections.append(Section("Figures", found))
    sections.append(Section("How it was made", list(_made(workdir, config))))
    name = config.get("detector", {}).get("name", workdir.name)
    path = workdir / REPORT
    write_page(path, page(f"{name}: {', '.join(scores.machine_types)}", lead, sections))
    return path


def _scores(workdir: Path) -> Scores:
    if not (workdir / "scores.csv").is_file():
        inside = [path.parent.name for path in sorted(workdir.glob("*/scores.csv"))]
        hint = f"; there are workdirs in it: {', '.join(inside)}" if inside else ""
        raise ScoreError(f"{workdir}: no scores.csv of a finished run{hint}")
    return read_scores(workdir / "scores.csv")


def _config(workdir: Path) -> dict[str, Any]:
    path = workdir / "config.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def data_block(data: dict[str, Any]) -> Block:
    """Says what the numbers are from."""
    if not data:
        return "Of these scores it is not known which recordings they are of."
    if data["root"]:
        return f"Recordings: {data['root']}."
    return Warned(f"{SIMULATED} {data['scale']:g} times the official number of clips.")


def _seeds(scores: Scores) -> str:
    seeds = [str(seed) for seed in scores.seeds if seed != NO_SEED]
    return f"Seeds: {', '.join(seeds) or 'none, no detector is random'}. {INTERVALS}"


def _results(
    workdir: Path, config: dict[str, Any], scores: Scores, rows: Sequence[Row] | None
) -> Iterator[Block]:
    """Matrices where there are some, and a table of everything else."""
    c = EVAL | config.get("eval", {})
    part = split_part(scores, c["split"], c["split_seed"])
    how = {key: c[key] for key in ("bootstrap", "max_fpr")}
    yield from matrix_blocks(workdir, part, **how)
    of_matrix = tuple(model + SEPARATOR for model in models(scores.detectors))
    if rows is None:
        others = [not name.startswith(of_matrix) for name in part.detector.tolist()]
        part = part[np.array(others)]
        rows = evaluate(part, **how) if len(part) else []
    for machine_type in dict.fromkeys(row.machine_type for row in rows):
        of_type = [row for row in rows if row.machine_type == machine_type]
        caption = f"{machine_type}: {part_title(c['split'])}"
        yield Table(caption, *results_grid(of_type), _notes(of_type))
        for detector in dict.fromkeys(row.detector for row in of_type):
            if detector not in CONTROLS:
                lines = [
                    [row.machine_id, *result_cells(row)]
                    for row in of_type
                    if row.detector == detector
                ]
                head = ["", "AUC", "95 %", "pAUC", "95 %", "clips: normal + anomalous"]
                yield Table(f"{machine_type}, {detector}, by machine ID", head, lines)


def _notes(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(f"{r.machine_id}: {r.note}" for r in rows if r.note))


def matrix_blocks(
    workdir: Path, scores: Scores, *, bootstrap: int, max_fpr: float
) -> Iterator[Block]:
    """Tables of the cross-ID matrices in a score table."""
    path = workdir / "reported.json"
    reported = json.loads(path.read_text()) if path.is_file() else {}
    for matrix in matrices(scores, bootstrap=bootstrap, max_fpr=max_fpr):
        for metric, name in METRICS.items():
            notes = [f"{legend(matrix)}."] if metric == AUC else []
            caption = f"{matrix.name}: {name} by training set and test ID"
            yield Table(caption, *grid(matrix, metric, reported), notes)
        head, rows = forgetting_grid(matrix)
        if rows:
            caption = f"{matrix.name}: change of AUC by fine-tuning on one ID"
            yield Table(caption, head, rows)


def pictures(folder: Path) -> list[Picture]:
    """All figures in a folder."""
    found = []
    for path in sorted(folder.glob("*.png")):
        kind, _, of = path.stem.partition("_")
        alt = PICTURES.get(kind, path.stem.replace("_", " "))
        found.append(Picture(path, f"{alt}.", f"{alt} ({of.replace('_', ', ')})."))
    return found


def _made(workdir: Path, config: dict[str, Any]) -> Iterator[Block]:
    """Command, training and settings."""
    if (workdir / "command.txt").is_file():
        yield Code((workdir / "command.txt").read_text().strip())
    if (workdir / "metrics.jsonl").is_file():
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        rows = map(json.loads, lines)
        last = {row.get("stage", row["machine_type"]): row for row in rows}
        head = ["", "epochs", "steps", "seconds", "examples per second"]
        keys = ("epoch", "step", "seconds", "windows_per_second")
        rows = [[k, *(f"{row[key]:,.0f}" for key in keys)] for k, row in last.items()]
        yield Table("Training, at its end", head, rows)
    rows = [[name, text] for name, text in _fields("", config)]
    if rows:
        yield Table("Settings (config.json)", ["field", "value"], rows)


def _fields(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _fields(f"{prefix}.{key}" if prefix else key, item)
    else:
        yield prefix, json.dumps(value)
