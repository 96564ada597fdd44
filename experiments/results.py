"""How well do the detectors do? The README's table of results.

python -m experiments.results                     # simulated sound
python -m experiments.results --root PATH         # recordings, DCASE 2020 layout
"""

import argparse
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np

from mimii_jax import run
from mimii_jax.report.tables import markdown_table
from mimii_jax.results import evaluate
from mimii_jax.scores import CONTROLS, Scores, read_scores
from mimii_jax.watch import Watch

CONFIGS = (
    "mlp_vae",
    "mlp_ae",
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
    tables = []
    for name in args.configs:
        workdir = args.out / name.replace(":", "_")
        if not (workdir / "scores.csv").is_file():
            file, _, variant = name.partition(":")
            config = import_module(f"configs.{file}").get_config(variant or "default")
            config.data.root = args.root
            config.data.scale = args.scale
            run.train(config, workdir, Watch())
        scores = read_scores(workdir / "scores.csv")
        learned = scores[[d not in CONTROLS for d in scores.detector.tolist()]]
        tables.append(replace(learned, detector=np.full(len(learned), name)))
        controls = scores[[d in CONTROLS for d in scores.detector.tolist()]]
    print(markdown_table(evaluate(Scores.concatenate([*tables, controls]))))


if __name__ == "__main__":
    main()
