"""Choose a recipe by the loss of held-out normal clips, never by a label.

python -m experiments.select mlp_vae         # KL weight, latent size, learning rate
python -m experiments.select transformer     # learning rate, batch size

MLP VAE: by the evidence lower bound (ELBO). A squared error with a KL weight b is, up
to a constant, b times the negative ELBO of a Gaussian decoder of variance b; so models
of different weights compare by val_loss / b + n_features / 2 * log(2 pi b), in nats per
window. Transformer: by the mean squared error of predicted patches, standardised.
"""

import json
import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from rich.table import Table

from experiments.cell import Cell, Config, Options
from experiments.run_cells import command_parser, parse, run_cells
from mimii_jax import log
from mimii_jax.command import one_line_errors
from mimii_jax.errors import DataError
from mimii_jax.workdir import Workdir

FIELDS = {
    "mlp_vae": ("detector.kl_weight", "detector.latent", "train.learning_rate"),
    "transformer": ("train.learning_rate", "train.batch_size"),
}
EPOCHS = {"mlp_vae": 5, "transformer": 8}
Candidate = tuple[float, ...]  # values of the fields


def first_round(name: str) -> list[Candidate]:
    """List the candidates to start with."""
    if name == "mlp_vae":
        return [*product((1.0, 0.5, 0.25, 0.1), (8, 20, 40), (1e-3,))]
    return [(rate, 4) for rate in (1e-3, 2e-3, 4e-3, 8e-3)]


def second_round(name: str, best: Candidate) -> list[Candidate]:
    """List variations of the best candidate, in the fields not varied before."""
    if name == "mlp_vae":
        return [(*best[:2], rate) for rate in (3e-4, 3e-3)]
    return [(best[0], batch) for batch in (2, 8)]


def measure(workdir: Path, name: str) -> float:
    """Measure of a trained candidate on held-out clips; less is better."""
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    if None in last["val_loss"]:
        raise DataError(f"{workdir}: too few clips to hold any out; raise --scale")
    loss = float(np.mean(last["val_loss"]))
    if name != "mlp_vae":
        return loss
    config: Config = Workdir(workdir).read_config()
    weight = config.detector.kl_weight
    n_features = config.windows.width * config.features.n_mels
    return loss / weight + n_features / 2 * math.log(2 * math.pi * weight)


def try_all(args: Namespace, options: Options, found: list[Candidate]) -> dict:
    """Train candidates on the same clips; return their measures."""
    cells = {}
    for candidate in found:
        changes = dict(zip(FIELDS[args.name], candidate, strict=True))
        name = ", ".join(f"{k.split('.')[1]} {v:g}" for k, v in changes.items())
        cell = Cell(name, args.name, {**changes, "train.epochs": args.epochs})
        cells[f"{args.name}/{cell.folder}"] = cell
    outcomes = run_cells(cells, options, args)
    return {
        candidate: measure(outcome.workdir, args.name)
        for candidate, outcome in zip(found, outcomes.values(), strict=True)
        if not outcome.error
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Train the candidates, and list them, the best first."""
    parser = command_parser("select", __doc__, "runs/select")
    add = parser.add_argument
    add("name", choices=FIELDS)
    add("--root", default="", help="folder of recordings; default: simulated sound")
    add("--scale", default="0.1", help="of the simulation (default 0.1)")
    add("--epochs", type=int, help=f"of each (default {EPOCHS})")
    args, overrides = parse(parser, argv)
    args.epochs = args.epochs or EPOCHS[args.name]
    fixed = ("seeds", "0"), ("data.root", args.root), ("data.scale", args.scale)
    with one_line_errors():
        options = Options((*fixed, *overrides))
        found = try_all(args, options, first_round(args.name))
        if not found:
            sys.exit(1)
        best = min(found, key=found.__getitem__)
        found |= try_all(args, options, second_round(args.name, best))
    source = args.root or f"simulated sound, scale {args.scale}"
    table = Table(title=f"{source}; {args.epochs} epochs; best first")
    for heading in (*FIELDS[args.name], "measure"):
        table.add_column(heading, justify="right")
    for candidate, value in sorted(found.items(), key=lambda item: item[1]):
        table.add_row(*(f"{number:g}" for number in candidate), f"{value:.6g}")
    log.console.print(table)


if __name__ == "__main__":
    main()
