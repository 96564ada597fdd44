"""What a page shows of a study: question, tables, figures, sentences, cells."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote

from experiments import studies
from experiments.cell import RESULT, Cell, Options
from experiments.cross_id import write_matrices
from experiments.reported import FIRST_REPORT
from experiments.runner import Outcome
from experiments.says import about_matrix, about_rows, about_tuning
from experiments.study import Findings, Study, find
from mimii_jax.report.figures import write_figures
from mimii_jax.report.matrix import (
    METRICS,
    forgetting_grid,
    grid,
    interval_of,
    legend,
    mark,
    signed,
)
from mimii_jax.report.of_workdir import pictures
from mimii_jax.report.page import Block, Code, Picture, Section, Table
from mimii_jax.report.tables import mean
from mimii_jax.results.matrix import AUC, PAUC, Matrix
from mimii_jax.results.per_id import AVERAGE, POOLED
from mimii_jax.results.splits import part_title

SHOWN = {  # figures of a cell's workdir that belong to a report, by study and cell
    "data/controls": ("clips", "labels", "spectrograms"),
    "cross_id/conv_vae": ("predictions",),
    "cross_id/transformer": ("predictions", "tracks"),
}


def study_section(
    name: str,
    out: Path,
    cells: Mapping[str, Cell],
    outcomes: Mapping[str, Outcome],
    options: Options,
) -> Section:
    """The section of a study; of one without any result only the question and why."""
    study = studies.load(name)
    blocks: list[Block] = [*studies.question(name).split("\n\n")]
    blocks.append(f"About: {study.source}.")
    done = [key for key, outcome in outcomes.items() if not outcome.error]
    missing = [o.key.partition("/")[2] for o in outcomes.values() if o.error]
    if missing:
        blocks.append(f"Without numbers, for the reasons above: {', '.join(missing)}.")
    if done:
        c = cells[done[0]].build(options).eval
        folders = [out / key for key in done]
        for found in find(study, folders, bootstrap=c.bootstrap, max_fpr=c.max_fpr):
            blocks += _findings(study, found, out / name)
        for key in done:
            blocks += _figures(key, out / key)
        blocks.append(_cells(cells, done, out, options))
        blocks.append(Code(_command(name, out, options)))
    return Section(study.title, blocks)


def _command(name: str, out: Path, options: Options) -> str:
    """What makes this section alone, of the same cells."""
    last = dict(options.overrides)
    fields = [f"--config.{field}={text}" for field, text in last.items()]
    scale = f"{options.train_share:g}"
    flags = ["--only", name, "--scale", scale, "--out", str(out), *fields]
    return " ".join(["python -m experiments.reproduce", *map(_quoted, flags)])


def _quoted(text: str) -> str:
    """As a shell needs it; a tuple of words stays readable."""
    return f'"{text}"' if "'" in text and not set('"$`\\!') & set(text) else quote(text)


def _findings(study: Study, found: Findings, folder: Path) -> Iterator[Block]:
    """Tables and sentences of one machine type."""
    for matrix in found.matrices:
        reported = _reported(matrix)
        yield about_matrix(matrix)
        for metric, metric_name in METRICS.items():
            caption = f"{matrix.name}: {metric_name} by training set and test ID"
            notes = [f"{legend(matrix)}."] if metric == AUC else []
            yield Table(caption, *grid(matrix, metric, reported), notes)
        head, rows = forgetting_grid(matrix)
        if rows:
            yield Table(f"{matrix.name}: forgetting, change of AUC", head, rows)
    if found.rows:
        if found.tuned:
            yield about_tuning(found.tuned, found.rows)
            yield _table(found.tuned, part_title("validation"), {})
            yield _table(found.rows, part_title("test"), study.reported)
        else:
            yield about_rows(found.rows)
            yield _table(found.rows, part_title("all"), study.reported)
        if study.extra:
            folder.mkdir(parents=True, exist_ok=True)
            yield from study.extra(found.rows, folder)


def _reported(matrix: Matrix) -> dict[str, str]:
    """What a report says about the rows of a model's matrix."""
    model = matrix.name.split(",")[0]
    names = {"one_class_svm:linear": "sgd_one_class_svm"}  # the report's is linear
    family = names.get(model, model.split(":")[0])
    return {row: str(value) for row, value in FIRST_REPORT.get(family, {}).items()}


def _table(matrix: Matrix, part: str, reported: Mapping[str, str]) -> Table:
    """Rows of a study: AUC per ID, averages with intervals, and the paired change."""
    ids = [column for column in matrix.columns if column not in (AVERAGE, POOLED)]
    head = ["", *(f"AUC {i}" for i in ids), "AUC average (95 %)", "pAUC average"]
    compared = matrix.base in matrix.rows
    head += [f"change from “{matrix.base}” (95 %)"] if compared else []
    head += ["seeds"] + (["reported AUC"] if reported else [])
    rows = []
    for row in matrix.rows:
        span = interval_of(matrix, row, AVERAGE)
        cells = [_mean(matrix, row, column, AUC) for column in (*ids, AVERAGE)]
        cells[-1] += f" ({span})" if span else ""
        cells.append(_mean(matrix, row, AVERAGE, PAUC))
        if compared:
            change = matrix.change(row, AVERAGE)
            cells.append(signed(change) + mark(change) if change else "")
        cells.append(str(matrix.seeds[row]))
        rows.append([row, *cells, *([reported.get(row, "")] if reported else [])])
    notes = [f"{legend(matrix)}."] if compared else []
    return Table(f"{matrix.name}: {part}", head, rows, notes)


def _mean(matrix: Matrix, row: str, column: str, metric: int) -> str:
    measured = matrix.measured[row].get(column)
    return mean(measured and measured.estimate(metric))


def _figures(key: str, workdir: Path) -> list[Picture]:
    """Figures of a cell that the reports have, too, and heat maps."""
    kinds: tuple[str, ...] = SHOWN.get(key, ())
    if kinds:
        write_figures(workdir)
    if key.startswith("cross_id/"):
        write_matrices(workdir)
        kinds = (*kinds, "matrix")
    found = pictures(workdir / "figures")
    return [picture for picture in found if picture.path.stem.startswith(kinds)]


def _cells(
    cells: Mapping[str, Cell], done: list[str], out: Path, options: Options
) -> Table:
    """How each cell was made."""
    rows = []
    for key in done:
        cell, result = cells[key], json.loads((out / key / RESULT).read_text())
        changes = ", ".join(f"{k}={v}" for k, v in cell.changes.items())
        seeds = ", ".join(map(str, result["config"]["seeds"]))
        rows.append(
            [
                cell.name,
                cell.spec(options),
                changes,
                seeds,
                f"{result['seconds']:.0f}",
                result["commit"],
            ]
        )
    head = ["cell", "config", "changes", "seeds", "seconds", "commit"]
    return Table("Cells", head, rows)
