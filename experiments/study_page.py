"""The section of a study on a page: question, tables, figures, sentences, cells."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments import study_figures
from experiments.cell import Cell, Options, read_cell
from experiments.cross_id import write_matrices
from experiments.matrix import Matrix, compare, matrices, outside_matrices
from experiments.matrix_tables import legend, mark, matrix_blocks, signed
from experiments.reported import FIRST_REPORT
from experiments.run_cells import Outcome
from experiments.studies import STUDIES, Study
from experiments.summary_text import about_matrix, about_rows, about_tuning
from mimii_jax.files import make_folder
from mimii_jax.report.inputs import read_json
from mimii_jax.report.of_workdir import pictures
from mimii_jax.report.page import Block, Code, Picture, Section, Table
from mimii_jax.report.tables import mean_interval, mean_sd
from mimii_jax.results.per_id import MEAN
from mimii_jax.results.table import CONTROLS, SPLITS, Scores, select_split

SHOWN = {  # figures of a report that cells draw, by study and cell
    "data/controls": ("clips", "labels", "spectrograms"),
    "cross_id/conv_vae": ("predictions",),
    "cross_id/transformer": ("predictions", "tracks"),
}


@dataclass(frozen=True, eq=False)
class Findings:
    """The numbers of a study on one machine type."""

    matrices: list[Matrix]  # of the training sets of a model
    rows: Matrix | None  # all other rows; of a study that tunes, on the test split
    tuned: Matrix | None  # those rows on the validation split, if it tunes


def find(study: Study, workdirs: Mapping[str, Path], **how: Any) -> Iterator[Findings]:
    """Evaluate cells, given by name and workdir, for each machine type."""
    tables = []
    for name, workdir in workdirs.items():
        table = read_cell(name, workdir)
        learned = table[~np.isin(table.detector, CONTROLS)]
        tables.append(learned if len(learned) else table)
    scores = Scores.concatenate(tables)
    for machine_type in scores.machine_types:
        of_type = scores[scores.machine_type == machine_type]
        others = outside_matrices(of_type)
        shown, tuned = ("test", "validation") if study.tunes else ("all", "")
        rows = [
            compare(select_split(others, split), machine_type, study.base, **how)
            if split and len(others)
            else None
            for split in (shown, tuned)
        ]
        yield Findings(matrices(of_type, **how), *rows)


def study_section(
    name: str,
    out: Path,
    cells: Mapping[str, Cell],
    outcomes: Mapping[str, Outcome],
    options: Options,
) -> Section:
    """The section of a study; without any result, its question and the errors."""
    study = STUDIES[name]
    blocks: list[Block] = [study.question, *filter(None, [study.note])]
    blocks.append(f"About: {study.source}.")
    done = {key: o.workdir for key, o in outcomes.items() if not o.error}
    missing = [cells[key].name for key in outcomes if key not in done]
    if missing:
        blocks.append(f"No numbers (see the errors above): {', '.join(missing)}.")
    if done:
        c = cells[next(iter(done))].build(options).eval
        workdirs = {cells[key].name: workdir for key, workdir in done.items()}
        for found in find(study, workdirs, bootstrap=c.bootstrap, max_fpr=c.max_fpr):
            blocks += _findings(study, found)
            if found.rows:
                folder = out / name
                make_folder(folder)
                blocks += study_figures.blocks(name, found.rows, workdirs, folder)
        for key, workdir in done.items():
            blocks += _figures(key, cells[key].name, workdir)
        blocks.append(_cells([(cells[k], path) for k, path in done.items()], options))
        blocks.append(Code(_command(name, out, options)))
    return Section(study.title, blocks)


def _command(name: str, out: Path, options: Options) -> str:
    """The command that makes this section alone, from the same cells."""
    fields = [f"--config.{k}={text}" for k, text in dict(options.overrides).items()]
    flags = ["--only", name, "--scale", f"{options.train_share:g}", "--out", str(out)]
    return shlex.join(["python", "-m", "experiments.reproduce", *flags, *fields])


def _findings(study: Study, found: Findings) -> Iterator[Block]:
    """Tables and sentences of one machine type."""
    for matrix in found.matrices:
        yield about_matrix(matrix)
        yield from matrix_blocks(matrix, _reported(matrix))
    if found.rows:
        if found.tuned:
            yield about_tuning(found.tuned, found.rows)
            yield _table(found.tuned, SPLITS["validation"], {})
        else:
            yield about_rows(found.rows)
        split = SPLITS["test" if found.tuned else "all"]
        yield _table(found.rows, split, study.reported)


def _reported(matrix: Matrix) -> dict[str, str]:
    """Reported numbers of the rows of a model's matrix."""
    model = matrix.name.split(",")[0]
    names = {"one_class_svm:linear": "sgd_one_class_svm"}  # the report's is linear
    family = names.get(model, model.split(":")[0])
    return {row: str(value) for row, value in FIRST_REPORT.get(family, {}).items()}


def _table(matrix: Matrix, split: str, reported: Mapping[str, str]) -> Table:
    """Rows of a study: AUC per ID, means with intervals, and the paired change."""
    compared = matrix.base in matrix.rows
    head = ["", *(f"AUC {i}" for i in matrix.ids), "AUC mean (95 %)", "pAUC mean"]
    head += [f"change from “{matrix.base}” (95 %)"] * compared
    head += ["seeds"] + ["reported AUC"] * bool(reported)
    rows = []
    for row in matrix.rows:
        change = matrix.change(row, MEAN)
        cells = [mean_sd(matrix.estimate(row, i)) for i in matrix.ids]
        cells.append(mean_interval(matrix.estimate(row, MEAN)))
        cells.append(mean_sd(matrix.estimate(row, MEAN, "pauc")))
        cells += [signed(change) + mark(change) if change else ""] * compared
        cells += [str(matrix.seeds[row])] + [reported.get(row, "")] * bool(reported)
        rows.append([row, *cells])
    return Table(f"{matrix.name}: {split}", head, rows, legend(matrix))


def _figures(key: str, name: str, workdir: Path) -> list[Picture]:
    """Figures of a cell that the reports have too, and heat maps."""
    kinds: tuple[str, ...] = SHOWN.get(key, ())
    if key.startswith("cross_id/"):
        write_matrices(workdir, name)
        kinds = (*kinds, "matrix")
    found = pictures(workdir / "figures")
    return [picture for picture in found if picture.path.stem.startswith(kinds)]


def _cells(made: list[tuple[Cell, Path]], options: Options) -> Table:
    """Config and run of each cell."""
    rows = []
    for cell, workdir in made:
        config, run = (read_json(workdir / f"{n}.json") for n in ("config", "run"))
        changes = ", ".join(f"{k}={v}" for k, v in cell.changes.items())
        seeds = ", ".join(map(str, config.get("seeds", ())))
        seconds = f"{run['seconds']:.0f}" if "seconds" in run else ""
        about = [seeds, seconds, str(run.get("commit", ""))]
        rows.append([cell.name, cell.spec(options), changes, *about])
    head = ["cell", "config", "changes", "seeds", "seconds", "commit"]
    return Table("Cells", head, rows)
