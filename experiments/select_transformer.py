"""The recipe of configs/transformer.py: learning rate and batch size.

python -m experiments.select_transformer

Chosen without any label: by the mean squared error of predicted patches of held-out
normal clips after training, in units of the standardised features; less is better.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from configs import transformer
from mimii_jax import run
from mimii_jax.build import Config
from mimii_jax.watch import Watch

LEARNING_RATES = (5e-4, 1e-3, 2e-3, 4e-3)
BATCHES = (4, 8, 16)


def main() -> None:
    """Train each candidate on the same clips and list them by their loss."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.select_transformer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--root", default="", help="folder of recordings; simulated sound without")
    add("--scale", type=float, default=0.1, help="of the simulation (default 0.1)")
    add("--epochs", type=int, default=8)
    add("--out", type=Path, default=Path("runs/select_transformer"))
    args = parser.parse_args()
    rows = [(held_out_loss(args, rate, 8), rate, 8) for rate in LEARNING_RATES]
    _, best, _ = min(rows)
    for batch in BATCHES:
        if batch != 8:
            rows.append((held_out_loss(args, best, batch), best, batch))
    source = args.root or f"simulated sound, scale {args.scale:g}"
    table = Table(title=f"{source}; {args.epochs} epochs, seed 0; best first")
    for heading in ("learning rate", "batch", "held-out loss"):
        table.add_column(heading, justify="right")
    for loss, rate, batch in sorted(rows):
        table.add_row(f"{rate:g}", f"{batch}", f"{loss:.4f}")
    Console().print(table)


def held_out_loss(args: argparse.Namespace, rate: float, batch: int) -> float:
    """Mean squared error of held-out normal clips after training."""
    config: Config = transformer.get_config()
    config.seeds = (0,)
    config.data.root = args.root
    config.data.scale = args.scale
    config.train.epochs = args.epochs
    config.train.learning_rate = rate
    config.train.batch_size = batch
    workdir = args.out / f"rate{rate:g}_batch{batch}"
    if not (workdir / "scores.csv").is_file():
        run.train(config, workdir, Watch())
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    return float(np.mean(last["validation_loss"]))


if __name__ == "__main__":
    main()
