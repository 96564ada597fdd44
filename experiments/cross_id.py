"""What does training on one machine teach about another? The cross-ID matrix.

python -m experiments.cross_id --config configs/mlp_vae.py
python -m experiments.cross_id --config configs/mlp_vae.py configs/isolation_forest.py \
    --config.data.root=PATH --config.seeds="(0,1,2,3,4)"

Rows are training sets: all IDs, each alone, all downsampled to the smallest, all but
one, and all and then fine-tuned on one (neural models; as many epochs as before).
Columns are the test clips of each ID, their average, and all clips pooled.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.cell import SIMULATED, Cell, Options, split_overrides
from experiments.matrix import METRICS, Matrix, matrices, outside_matrices
from experiments.matrix_tables import (
    csv_text,
    heat_map,
    matrix_blocks,
    matrix_markdown,
    terminal_table,
)
from experiments.reported import FIRST_REPORT
from experiments.runner import add_arguments, failures, parse, run_cells, share
from experiments.training_sets import MATRIX
from mimii_jax.errors import ConfigError
from mimii_jax.report.figures import DOTS_PER_INCH
from mimii_jax.report.of_workdir import write_report
from mimii_jax.results.per_id import evaluate
from mimii_jax.results.table import read_scores, select_split
from mimii_jax.run import load_config
from mimii_jax.workdir import command_line


def main(argv: Sequence[str] | None = None) -> None:
    """Run the matrix of each config, print it and write it into its workdir."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.cross_id",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--config",
        nargs="+",
        required=True,
        metavar="FILE[:VARIANT]",
        help="experiments; any field of them can be set: --config.section.field=value",
    )
    parser.add_argument(
        "--evaluation",
        default="",
        metavar="PATH",
        help="folder of the evaluation clips, with their published labels in it, as "
        f"further columns; or '{SIMULATED}', for simulated ones",
    )
    parser.add_argument(
        "--shares",
        nargs=2,
        type=share,
        default=(None, None),
        metavar=("TRAIN", "TEST"),
        help="of the official number of clips; by default all recordings, or "
        "data.scale of simulated ones",
    )
    add_arguments(parser, "runs/cross_id")
    args, rest = parse(parser, argv)
    console = Console(file=sys.stdout, highlight=False)
    try:
        overrides = split_overrides(rest)
        options = Options(command_line(), overrides, args.evaluation, *args.shares)
        cells = {cell.folder: cell for cell in map(matrix_cell, args.config)}
        outcomes = run_cells(cells, options, args, console)
        for key, outcome in outcomes.items():
            if not outcome.error:
                for matrix, reported in write_matrices(args.out / key):
                    for metric in METRICS:
                        console.print(terminal_table(matrix, metric, reported))
    except (ConfigError, ImportError) as error:
        parser.exit(1, f"error: {error}\n")
    console.print(f"tables, heat maps and pages: {args.out}", markup=False)
    sys.exit(1 if failures(list(outcomes.values())) else 0)


def matrix_cell(spec: str) -> Cell:
    """The whole matrix of "configs/mlp_vae.py:reference", or of the name alone.

    Raises
    ------
    ConfigError : the file is not of this repository's `configs`
    """
    file, _, variant = spec.partition(":")
    if Path(file).parent not in (Path("."), Path("configs")):
        raise ConfigError(f"{file}: only a file in configs/ can be a cell")
    name = Path(file).name.removesuffix(".py") + (f":{variant}" if variant else "")
    return Cell(name, name, sets=MATRIX)


def write_matrices(workdir: Path) -> list[tuple[Matrix, dict[str, str]]]:
    """Write the matrices and the page of a cell; returns them with reported numbers."""
    config = load_config(workdir)
    known = FIRST_REPORT.get(config.detector.name, {})
    if config.detector.get("kernel", "linear") != "linear":
        known = {}  # the report's one-class SVM is linear
    reported = {row: str(numbers) for row, numbers in known.items()}
    c = config.eval
    scores = select_split(read_scores(workdir / "scores.csv"), c.split)
    how = {"bootstrap": c.bootstrap, "max_fpr": c.max_fpr}
    found = matrices(scores, **how)
    for matrix in found:
        stem = f"matrix_{matrix.name.split(', ')[-1]}"
        (workdir / f"{stem}.md").write_text(matrix_markdown(matrix, reported))
        (workdir / f"{stem}.csv").write_text(csv_text(matrix))
        (workdir / "figures").mkdir(exist_ok=True)
        for metric, name in METRICS.items():
            ending = "" if metric == "auc" else f"_{name}"
            path = workdir / "figures" / f"{stem}{ending}.png"
            heat_map(matrix, metric).savefig(path, dpi=DOTS_PER_INCH)
    rows = evaluate(outside_matrices(scores), **how)
    write_report(workdir, rows, list(matrix_blocks(found, reported)))
    return [(matrix, reported) for matrix in found]


if __name__ == "__main__":
    main()
