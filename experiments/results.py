"""How well do the detectors do? The README's table of results.

python -m experiments.results                     # simulated sound
python -m experiments.results --root PATH         # recordings, DCASE 2020 layout
"""

import sys
from collections.abc import Sequence

import numpy as np

from experiments.cell import Cell, Options, read_cell
from experiments.run_cells import command_parser, one_line_errors, parse, run_cells
from mimii_jax import log
from mimii_jax.report.inputs import read_json
from mimii_jax.report.tables import by_type, markdown, results_lines
from mimii_jax.results.per_id import evaluate
from mimii_jax.results.table import CONTROLS, Scores

CONFIGS = (
    "mlp_vae",
    "mlp_ae",
    "conv_vae",
    "transformer",
    "isolation_forest",
    "one_class_svm",
    "one_class_svm:linear",
)


def main(argv: Sequence[str] | None = None) -> None:
    """Run each config, once, and print one table of all of them."""
    parser = command_parser("results", __doc__, "runs/results")
    add = parser.add_argument
    add("--root", default="", help="folder of recordings; default: simulated sound")
    add("--scale", default="0.3", help="of the simulation (default 0.3)")
    add("--configs", nargs="+", default=CONFIGS, metavar="NAME[:VARIANT]")
    args, overrides = parse(parser, argv)
    data = (("data.root", args.root), ("data.scale", args.scale))
    with one_line_errors():
        cells = {cell.folder: cell for cell in (Cell(n, n) for n in args.configs)}
        outcomes = run_cells(cells, Options((*data, *overrides)), args)
        done = {key: o.workdir for key, o in outcomes.items() if not o.error}
        tables = [read_cell(cells[key].name, path) for key, path in done.items()]
        learned = [table[~np.isin(table.detector, CONTROLS)] for table in tables]
        controls = [table[np.isin(table.detector, CONTROLS)] for table in tables[:1]]
        if tables:
            rows = evaluate(Scores.concatenate([*learned, *controls]))
            for of_type in by_type(rows).values():
                log.info(markdown(*results_lines(of_type)))
    seconds = {
        key: read_json(path / "run.json")["seconds"] for key, path in done.items()
    }
    minutes = (f"{cells[key].name} {s / 60:.1f}" for key, s in seconds.items())
    log.info(f"minutes: {', '.join(minutes)}")
    sys.exit(any(outcome.failed for outcome in outcomes.values()))


if __name__ == "__main__":
    main()
