"""A recipe is chosen by what held-out normal clips say, never by a label."""

import argparse
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from mimii_jax import run
from mimii_jax.config import Config
from mimii_jax.watch import Watch


def parse(name: str, about: str | None, epochs: int) -> argparse.Namespace:
    """The options of the command `python -m experiments.<name>`."""
    parser = argparse.ArgumentParser(
        prog=f"python -m experiments.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--root", default="", help="folder of recordings; simulated sound without")
    add("--scale", type=float, default=0.1, help="of the simulation (default 0.1)")
    add("--epochs", type=int, default=epochs, help=f"of each (default {epochs})")
    add("--out", type=Path, default=Path("runs") / name)
    return parser.parse_args()


def held_out_loss(config: Config, args: argparse.Namespace, name: str) -> float:
    """Loss of held-out normal clips after training; goes on from an earlier start.

    Parameters
    ----------
    config : of the candidate; its seed, data and epochs are set here
    args : of `parse`
    name : of the candidate's workdir below `args.out`
    """
    config.seeds = (0,)
    config.data.root = args.root
    config.data.scale = args.scale
    config.train.epochs = args.epochs
    workdir = args.out / name
    run.train(config, workdir, Watch())  # refuses a workdir of other settings
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    return float(np.mean(last["validation_loss"]))


def show(
    args: argparse.Namespace,
    headings: Sequence[str],
    rows: Iterable[tuple[float, tuple[float, ...]]],
) -> None:
    """Print the candidates, each with what it is chosen by, the least one first."""
    source = args.root or f"simulated sound, scale {args.scale:g}"
    table = Table(title=f"{source}; {args.epochs} epochs, seed 0; best first")
    for heading in headings:
        table.add_column(heading, justify="right")
    for measure, candidate in sorted(rows):
        table.add_row(*(f"{value:g}" for value in candidate), f"{measure:.6g}")
    Console().print(table)
