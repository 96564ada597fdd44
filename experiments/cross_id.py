"""What does training on one machine teach about another? The cross-ID matrix.

python -m experiments.cross_id --config configs/mlp_vae.py
python -m experiments.cross_id --config configs/mlp_vae.py configs/isolation_forest.py \
    --config.data.root=PATH --config.seeds="(0,1,2,3,4)"

Rows are training sets: all IDs, each alone, all downsampled to the smallest, all but
one, and all and then fine-tuned on one (neural models; as many epochs as before).
Columns are the test clips of each ID, their average, and all clips pooled. Further
columns: --config.data.evaluation=PATH, a folder of the evaluation clips with their
published labels in it; or --config.data.evaluation=simulated.

With --banks, clips are also compared with the training clips of their own ID and of all
IDs, and `scorings_*.md` has the differences.

With --config.data.machine_types=all --sets all type, rows are one model over all
machine types, and one of each.
"""

import re
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from experiments.cell import MATRIX, TYPE, Cell, Config, Options, load_config, read_cell
from experiments.matrix import METRICS, Matrix, matrices, outside_matrices
from experiments.matrix_tables import (
    csv_text,
    heat_map,
    matrix_blocks,
    matrix_markdown,
    scoring_lines,
    terminal_table,
)
from experiments.reported import FIRST_REPORT
from experiments.run_cells import command_parser, parse, run_cells
from mimii_jax import log
from mimii_jax.command import one_line_errors
from mimii_jax.config import FUNCTIONALS, MODELS
from mimii_jax.errors import ConfigError
from mimii_jax.files import make_folder, replace_file
from mimii_jax.report.figures import write_figure
from mimii_jax.report.of_workdir import write_report
from mimii_jax.report.page import Table
from mimii_jax.report.tables import markdown
from mimii_jax.results.per_id import evaluate
from mimii_jax.results.table import select_split
from mimii_jax.workdir import Workdir


def main(argv: Sequence[str] | None = None) -> None:
    """Run the matrix of each config, print it and write it into its workdir."""
    parser = command_parser("cross_id", __doc__, "runs/cross_id")
    add = parser.add_argument
    add("--config", nargs="+", required=True, metavar="FILE[:VARIANT]")
    banks = "also scores by a bank of normal clips per ID, and by one bank for all"
    add("--banks", action="store_true", help=banks)
    sets = f"kinds of training sets (default {', '.join(MATRIX)})"
    add("--sets", nargs="+", choices=(*MATRIX, TYPE), default=MATRIX, help=sets)
    args, overrides = parse(parser, argv)
    with one_line_errors():
        found = [matrix_cell(spec, args.banks, args.sets) for spec in args.config]
        cells = {cell.folder: cell for cell in found}
        outcomes = run_cells(cells, Options(overrides), args)
        done = {key: o.workdir for key, o in outcomes.items() if not o.error}
        for key, workdir in done.items():
            for matrix, reported in write_matrices(workdir, cells[key].name):
                for metric in METRICS:
                    log.console.print(terminal_table(matrix, metric, reported))
    if done:
        log.info(f"Tables, heat maps and pages: {args.out}")
    sys.exit(any(outcome.failed for outcome in outcomes.values()))


def matrix_cell(spec: str, banks: bool = False, sets: Sequence[str] = MATRIX) -> Cell:
    """Create the cell of "configs/mlp_vae.py:reference", or of the name alone."""
    file, _, variant = spec.partition(":")
    if Path(file).parent not in (Path("."), Path("configs")):
        raise ConfigError(f"{file}: must be a file in configs/")
    name = Path(file).name.removesuffix(".py") + (f":{variant}" if variant else "")
    scorings = _banks(load_config(name).detector.name) if banks else {}
    return Cell(name, name, training_sets=tuple(sets), scorings=scorings)


def _banks(kind: str) -> dict[str, dict[str, Any]]:
    """Scorings by a bank of each ID's normal clips, and by one bank for all."""
    if kind == FUNCTIONALS:
        return {"default": {}, "one bank": {"per_id": False}}
    if kind not in MODELS:
        return {}
    own = {"backend": "ldn", "neighbours": 3}
    return {"default": {}, "ldn": own, "ldn, one bank": own | {"per_id": False}}


def write_matrices(workdir: Path, name: str) -> list[tuple[Matrix, dict[str, str]]]:
    """Write the matrices and the page of a cell; return them with reported numbers."""
    config: Config = Workdir(workdir).read_config()
    known = FIRST_REPORT.get(config.detector.name, {})
    if config.detector.get("kernel", "linear") != "linear":
        known = {}  # the report's one-class SVM is linear
    reported = {row: str(numbers) for row, numbers in known.items()}
    c = config.eval
    scores = select_split(read_cell(name, workdir), c.split)
    how = {"bootstrap": c.bootstrap, "max_fpr": c.max_fpr}
    found = matrices(scores, **how)
    for matrix in found:
        model, _, machine_type = matrix.name.rpartition(", ")
        scoring = re.sub(r"\W+", "_", model.removeprefix(name).strip(": "))
        stem = "_".join(filter(None, ("matrix", machine_type, scoring.strip("_"))))
        text = matrix_markdown(matrix, reported)
        replace_file(workdir / f"{stem}.md", text.encode())
        replace_file(workdir / f"{stem}.csv", csv_text(matrix).encode())
        make_folder(workdir / "figures")
        for metric, metric_name in METRICS.items():
            ending = "" if metric == "auc" else f"_{metric_name}"
            path = workdir / "figures" / f"{stem}{ending}.png"
            write_figure(heat_map(matrix, metric), path)
    rows = evaluate(outside_matrices(scores), **how)
    blocks = [block for matrix in found for block in matrix_blocks(matrix, reported)]
    for machine_type, group in groupby(found, lambda m: m.name.rpartition(", ")[2]):
        scored = list(group)
        for metric in METRICS if len(scored) > 1 else ():
            lines = scoring_lines(scored, metric)
            path = workdir / f"scorings_{machine_type}_{metric}.md"
            replace_file(path, markdown(*lines).encode())
            title = f"{machine_type}: means over IDs by one scoring minus by another"
            blocks.append(Table(title, *lines))
    write_report(workdir, rows, blocks)
    return [(matrix, reported) for matrix in found]


if __name__ == "__main__":
    main()
