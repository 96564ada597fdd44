"""How well do the detectors do? The README's table of results.

python -m experiments.results                     # simulated sound
python -m experiments.results --root PATH         # recordings, DCASE 2020 layout
"""

import argparse
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np

from mimii_jax import run
from mimii_jax.report.tables import by_type, markdown, results_lines
from mimii_jax.results.per_id import evaluate
from mimii_jax.results.table import CONTROLS, Scores, read_scores
from mimii_jax.watch import Watch

CONFIGS = (
    "mlp_vae",
    "mlp_ae",
    "conv_vae",
    "transformer",
    "isolation_forest",
    "one_class_svm",
    "one_class_svm:linear",
)


def main() -> None:
    """Run each config, once, and print one table of all of them."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.results",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--root", default="", help="folder of recordings; simulated sound without")
    add("--scale", type=float, default=0.3, help="of the simulation (default 0.3)")
    add("--out", type=Path, default=Path("runs/results"), help="folder of workdirs")
    add("--configs", nargs="+", default=CONFIGS, metavar="NAME[:VARIANT]")
    args = parser.parse_args()
    watch = Watch()
    tables, minutes = [], []
    for name in args.configs:
        workdir = args.out / name.replace(":", "_")
        file, _, variant = name.partition(":")
        config = import_module(f"configs.{file}").get_config(variant or "default")
        config.data.root = args.root
        config.data.scale = args.scale
        since = time.time()
        run.train(config, workdir, watch)  # refuses a workdir of other settings
        minutes.append(f"{name} {(time.time() - since) / 60:.1f}")
        tables.append(read_scores(workdir / "scores.csv"))
    controls = tables[0][np.isin(tables[0].detector, CONTROLS)]
    learned = [
        replace(rows, detector=np.full(len(rows), name))
        for name, table in zip(args.configs, tables, strict=True)
        for rows in [table[~np.isin(table.detector, CONTROLS)]]
    ]
    rows = evaluate(Scores.concatenate([*learned, controls]))
    for of_type in by_type(rows).values():
        print(markdown(*results_lines(of_type)))
    print(f"minutes, now: {', '.join(minutes)}")


if __name__ == "__main__":
    main()
