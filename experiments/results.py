"""How well do the detectors do? The README's table of results.

python -m experiments.results --train_share 0.2   # simulated sound, all test clips
python -m experiments.results --root PATH         # recordings, DCASE 2020 layout

A seed of a row is one of the simulation and one of the detector. Differences are to
`mlp_vae`, on the same clips.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np

from experiments.cell import FREE_GENERATION, Cell, Options, read_cell
from experiments.matrix import METRICS, compare
from experiments.matrix_tables import mark, signed
from experiments.run_cells import command_parser, parse, run_cells
from mimii_jax import log
from mimii_jax.command import one_line_errors
from mimii_jax.errors import DataError
from mimii_jax.report.inputs import read_json
from mimii_jax.report.tables import Lines, alarm_lines, by_type, markdown, results_lines
from mimii_jax.results.per_id import MEAN, evaluate
from mimii_jax.results.table import CONTROLS, Scores
from mimii_jax.results.threshold import FalseAlarms, false_alarms

CONFIGS = (
    "functionals",
    "mlp_vae",
    "mlp_ae",
    "conv_vae",
    "transformer",
    "isolation_forest",
    "one_class_svm",
    "one_class_svm:linear",
)
TRAINED = ("mlp_vae", "mlp_ae", "conv_vae", "transformer")  # fused with functionals
BASE = "mlp_vae"
Times = dict[str, tuple[float, float]]  # of detectors: training, scoring a clip; s


def main(argv: Sequence[str] | None = None) -> None:
    """Run each config, once, and print one table of all of them."""
    parser = command_parser("results", __doc__, "runs/results")
    add = parser.add_argument
    add("--root", default="", help="folder of recordings; default: simulated sound")
    add("--train_share", type=float, default=1.0, help="of the training clips")
    add("--scale", default="1.0", help="of the simulation (default 1.0)")
    add("--simulation_seeds", nargs="+", type=int, default=[0], metavar="SEED")
    add("--configs", nargs="+", default=CONFIGS, metavar="NAME[:VARIANT]")
    args, overrides = parse(parser, argv)
    shares = (("data.train_share", str(args.train_share)), ("data.scale", args.scale))
    with one_line_errors():
        cells = {
            cell.folder: cell for cell in _cells(args.configs, args.simulation_seeds)
        }
        options = Options((("data.root", args.root), *shares, *overrides))
        outcomes = run_cells(cells, options, args)
        done = {key: o.workdir for key, o in outcomes.items() if not o.error}
        if done:
            _print_tables([_read(cells[key], path) for key, path in done.items()])
            if alarms := list(
                _alarms([(cells[key], path) for key, path in done.items()])
            ):
                log.info(markdown(*alarm_lines(alarms)))
            times = {key: _times(path) for key, path in done.items()}
            log.info(markdown(*_time_lines([of for _, of in times.values()])))
            minutes = (
                f"{key} {seconds / 60:.1f}" for key, (seconds, _) in times.items()
            )
            log.info(f"minutes: {', '.join(minutes)}")
    sys.exit(any(outcome.failed for outcome in outcomes.values()))


def _cells(names: Sequence[str], simulation_seeds: Sequence[int]) -> Iterator[Cell]:
    """Yield every config with every seed of the simulation."""
    for name in names:
        kind = name.split(":")[0]
        scorings = {"default": {}}
        if kind == "transformer":
            scorings["free generation"] = FREE_GENERATION
        fuse_with = ("functionals",) if kind in TRAINED else ()
        for seed in simulation_seeds:
            folder = name if seed == 0 else f"{name}, simulation {seed}"
            changes = {"data.simulation_seed": seed}
            yield Cell(folder, name, changes, ("all",), scorings, fuse_with)


def _read(cell: Cell, workdir: Path) -> Scores:
    """Read a cell's scores; their seeds hold simulation and detector."""
    simulation = cell.changes["data.simulation_seed"]
    scores = read_cell(cell.config, workdir)
    return replace(scores, seed=1000 * simulation + np.maximum(scores.seed, 0))


def _alarms(cells: Sequence[tuple[Cell, Path]]) -> Iterator[FalseAlarms]:
    """Yield each detector's false alarms over all simulations, from its first cell."""
    found: dict[tuple[str, str], dict[int, FalseAlarms]] = {}
    for cell, path in cells:
        if (path / "normals.csv").is_file():
            normals = read_cell(cell.config, path, "normals.csv")
            for row in false_alarms(read_cell(cell.config, path), normals):
                of_detector = found.setdefault((row.machine_type, row.detector), {})
                of_detector.setdefault(cell.changes["data.simulation_seed"], row)
    for rows in map(list, map(dict.values, found.values())):
        clips = [row.n_normal for row in rows]
        yield replace(
            rows[0],
            rate=float(np.average([row.rate for row in rows], weights=clips)),
            n_normal=sum(clips),
            found=float(np.mean([row.found or 0.0 for row in rows])),
        )


def _times(workdir: Path) -> tuple[float, Times]:
    """Seconds of a run; to train each detector and to score a clip."""
    file = workdir / "run.json"
    about = read_json(file)
    try:
        of_detector = {
            name: (float(of["train"]), float(of["score_clip"]))
            for name, of in about.get("seconds_of", {}).items()
        }
        return float(about["seconds"]), of_detector
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{file}: damaged ({type(error).__name__}: {error}); remove {workdir} to "
            "run it again"
        ) from None


def _time_lines(cells: Iterable[Times]) -> Lines:
    """A line per detector: seconds to train all seeds, to score a clip; medians."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name, seconds in chain.from_iterable(of.items() for of in cells):
        found.setdefault(name, []).append(seconds)
    head = ["", "training all seeds, s", "scoring a clip, ms"]
    medians = {name: np.median(times, axis=0) for name, times in found.items()}
    return head, [
        [name, f"{train:.1f}", f"{1000 * of_clip:.1f}"]
        for name, (train, of_clip) in medians.items()
    ]


def _print_tables(tables: Sequence[Scores]) -> None:
    """Print a table per machine type, the best detectors first, and differences."""
    known: set[tuple] = set()
    parts = []
    for table in tables:  # controls and functionals are in several cells
        keys = list(zip(table.detector.tolist(), table.seed.tolist(), strict=True))
        new = set(keys) - known
        parts.append(table[np.array([key in new for key in keys])])
        known |= new
    scores = Scores.concatenate(part for part in parts if len(part))
    for of_type in by_type(evaluate(scores)).values():
        means = [row for row in of_type if row.machine_id == MEAN and row.auc]
        mean = {row.detector: row.auc.mean for row in means if row.auc}
        best_first = sorted(
            of_type, key=lambda row: (row.detector in CONTROLS, -mean[row.detector])
        )
        head, lines = results_lines(best_first)
        changes = compare(scores, "", BASE)
        for line in lines:
            found = [changes.change(line[0], MEAN, metric) for metric in METRICS]
            line.append(" / ".join(signed(one) + mark(one) for one in found if one))
        log.info(markdown([*head, f"AUC / pAUC minus {BASE}'s"], lines))


if __name__ == "__main__":
    main()
