"""The recipe of configs/mlp_vae.py: KL weight, latent size and learning rate.

python -m experiments.select_mlp_vae

Chosen without any label: by the held-out evidence lower bound (ELBO) of normal
training clips. A squared error with a KL weight b is, up to a constant, b times the
negative ELBO of a Gaussian decoder of variance b; so models of different weights
compare by validation_loss / b + n_features / 2 * log(2 pi b), in nats per window; less
is better.
"""

import argparse
import json
import math
from itertools import product
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from configs import mlp_vae
from mimii_jax import run
from mimii_jax.build import Config
from mimii_jax.watch import Watch

KL_WEIGHTS = (1.0, 0.5, 0.25, 0.1)
LATENTS = (8, 20, 40)
LEARNING_RATES = (3e-4, 1e-3, 3e-3)


def main() -> None:
    """Train each candidate on the same clips and list them by their bound."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.select_mlp_vae",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--root", default="", help="folder of recordings; simulated sound without")
    add("--scale", type=float, default=0.1, help="of the simulation (default 0.1)")
    add("--epochs", type=int, default=5)
    add("--out", type=Path, default=Path("runs/select_mlp_vae"))
    args = parser.parse_args()
    candidates = [*product(KL_WEIGHTS, LATENTS, (1e-3,))]
    rows = [(held_out_bound(args, *candidate), candidate) for candidate in candidates]
    _, (kl_weight, latent, _) = min(rows)
    for rate in LEARNING_RATES:
        candidate = (kl_weight, latent, rate)
        if candidate not in candidates:
            rows.append((held_out_bound(args, *candidate), candidate))
    source = args.root or f"simulated sound, scale {args.scale:g}"
    table = Table(title=f"{source}; {args.epochs} epochs, seed 0; best first")
    for heading in ("KL weight", "latent", "learning rate", "nats per window"):
        table.add_column(heading, justify="right")
    for bound, candidate in sorted(rows):
        table.add_row(*(f"{value:g}" for value in candidate), f"{bound:.1f}")
    Console().print(table)


def held_out_bound(
    args: argparse.Namespace, kl_weight: float, latent: int, rate: float
) -> float:
    """Negative ELBO of held-out normal windows after training, in nats per window."""
    config: Config = mlp_vae.get_config()
    config.seeds = (0,)
    config.data.root = args.root
    config.data.scale = args.scale
    config.train.epochs = args.epochs
    config.detector.kl_weight = kl_weight
    config.detector.latent = latent
    config.train.learning_rate = rate
    workdir = args.out / f"kl{kl_weight:g}_latent{latent}_rate{rate:g}"
    if not (workdir / "scores.csv").is_file():
        run.train(config, workdir, Watch())
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    n_features = config.windows.width * config.features.n_mels
    constant = n_features / 2 * math.log(2 * math.pi * kl_weight)
    return float(np.mean(last["validation_loss"])) / kl_weight + constant


if __name__ == "__main__":
    main()
