"""The section of a study on a page: question, tables, figures, sentences, cells."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shlex import quote

from experiments import studies
from experiments.cell import Cell, Options
from experiments.cross_id import write_matrices
from experiments.matrix import Matrix
from experiments.matrix_tables import legend, mark, matrix_blocks, signed
from experiments.reported import FIRST_REPORT
from experiments.run_cells import Outcome
from experiments.study import Findings, Study, Workdirs, find
from experiments.summary_text import about_matrix, about_rows, about_tuning
from mimii_jax.report.inputs import read_json
from mimii_jax.report.of_workdir import pictures
from mimii_jax.report.page import Block, Code, Picture, Section, Table
from mimii_jax.report.tables import mean_interval, mean_sd
from mimii_jax.results.per_id import MEAN
from mimii_jax.results.table import SPLITS

SHOWN = {  # figures of a report that cells draw, by study and cell
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
    """The section of a study; without any result, its question and the errors."""
    study = studies.load(name)
    blocks: list[Block] = [*studies.question(name).split("\n\n")]
    blocks.append(f"About: {study.source}.")
    done = [key for key, outcome in outcomes.items() if not outcome.error]
    missing = [o.key.partition("/")[2] for o in outcomes.values() if o.error]
    if missing:
        blocks.append(f"No numbers (see the errors above): {', '.join(missing)}.")
    if done:
        c = cells[done[0]].build(options).eval
        workdirs = {cells[key].name: outcomes[key].workdir for key in done}
        for found in find(study, workdirs, bootstrap=c.bootstrap, max_fpr=c.max_fpr):
            blocks += _findings(study, found, workdirs, out / name)
        for key in done:
            blocks += _figures(key, cells[key].name, outcomes[key].workdir)
        blocks.append(
            _cells([(cells[key], outcomes[key].workdir) for key in done], options)
        )
        blocks.append(Code(_command(name, out, options)))
    return Section(study.title, blocks)


def _command(name: str, out: Path, options: Options) -> str:
    """The command that makes this section alone, from the same cells."""
    last = dict(options.overrides)
    fields = [f"--config.{field}={text}" for field, text in last.items()]
    scale = f"{options.train_share:g}"
    flags = ["--only", name, "--scale", scale, "--out", str(out), *fields]
    return " ".join(["python -m experiments.reproduce", *map(_quoted, flags)])


def _quoted(text: str) -> str:
    """Quote for a shell, readably for a tuple of words."""
    return f'"{text}"' if "'" in text and not set('"$`\\!') & set(text) else quote(text)


def _findings(
    study: Study, found: Findings, workdirs: Workdirs, folder: Path
) -> Iterator[Block]:
    """Tables and sentences of one machine type."""
    for matrix in found.matrices:
        yield about_matrix(matrix)
        yield from matrix_blocks([matrix], _reported(matrix))
    if found.rows:
        if found.tuned:
            yield about_tuning(found.tuned, found.rows)
            yield _table(found.tuned, SPLITS["validation"], {})
            yield _table(found.rows, SPLITS["test"], study.reported)
        else:
            yield about_rows(found.rows)
            yield _table(found.rows, SPLITS["all"], study.reported)
        if study.extra:
            folder.mkdir(parents=True, exist_ok=True)
            yield from study.extra(found.rows, workdirs, folder)


def _reported(matrix: Matrix) -> dict[str, str]:
    """Reported numbers of the rows of a model's matrix."""
    model = matrix.name.split(",")[0]
    names = {"one_class_svm:linear": "sgd_one_class_svm"}  # the report's is linear
    family = names.get(model, model.split(":")[0])
    return {row: str(value) for row, value in FIRST_REPORT.get(family, {}).items()}


def _table(matrix: Matrix, split: str, reported: Mapping[str, str]) -> Table:
    """Rows of a study: AUC per ID, means with intervals, and the paired change."""
    head = ["", *(f"AUC {i}" for i in matrix.ids), "AUC mean (95 %)", "pAUC mean"]
    compared = matrix.base in matrix.rows
    head += [f"change from “{matrix.base}” (95 %)"] if compared else []
    head += ["seeds"] + (["reported AUC"] if reported else [])
    rows = []
    for row in matrix.rows:
        cells = [mean_sd(matrix.estimate(row, i)) for i in matrix.ids]
        cells.append(mean_interval(matrix.estimate(row, MEAN)))
        cells.append(mean_sd(matrix.estimate(row, MEAN, "pauc")))
        if compared:
            change = matrix.change(row, MEAN)
            cells.append(signed(change) + mark(change) if change else "")
        cells.append(str(matrix.seeds[row]))
        rows.append([row, *cells, *([reported.get(row, "")] if reported else [])])
    notes = [legend(matrix)] if compared else []
    return Table(f"{matrix.name}: {split}", head, rows, notes)


def _figures(key: str, name: str, workdir: Path) -> list[Picture]:
    """Figures of a cell that the reports have too, and heat maps."""
    kinds: tuple[str, ...] = SHOWN.get(key, ())
    if key.startswith("cross_id/"):
        write_matrices(workdir, name)
        kinds = (*kinds, "matrix")
    found = pictures(workdir / "figures")
    return [picture for picture in found if picture.path.stem.startswith(kinds)]


def _cells(made: Sequence[tuple[Cell, Path]], options: Options) -> Table:
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
