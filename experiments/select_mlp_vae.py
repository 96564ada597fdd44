"""The recipe of configs/mlp_vae.py: KL weight, latent size and learning rate.

python -m experiments.select_mlp_vae

Chosen without any label: by the held-out evidence lower bound (ELBO) of normal
training clips. A squared error with a KL weight b is, up to a constant, b times the
negative ELBO of a Gaussian decoder of variance b; so models of different weights
compare by validation_loss / b + n_features / 2 * log(2 pi b), in nats per window; less
is better.
"""

import argparse
import math
from itertools import product

from configs import mlp_vae
from experiments.selection import held_out_loss, parse, show
from mimii_jax.config import Config

KL_WEIGHTS = (1.0, 0.5, 0.25, 0.1)
LATENTS = (8, 20, 40)
LEARNING_RATES = (3e-4, 1e-3, 3e-3)


def main() -> None:
    """Train each candidate on the same clips and list them by their bound."""
    args = parse("select_mlp_vae", __doc__, epochs=5)
    candidates = [*product(KL_WEIGHTS, LATENTS, (1e-3,))]
    rows = [(held_out_bound(args, *candidate), candidate) for candidate in candidates]
    _, (kl_weight, latent, _) = min(rows)
    for rate in LEARNING_RATES:
        candidate = (kl_weight, latent, rate)
        if candidate not in candidates:
            rows.append((held_out_bound(args, *candidate), candidate))
    show(args, ("KL weight", "latent", "learning rate", "nats per window"), rows)


def held_out_bound(
    args: argparse.Namespace, kl_weight: float, latent: int, rate: float
) -> float:
    """Negative ELBO of held-out normal windows after training, in nats per window."""
    config: Config = mlp_vae.get_config()
    config.detector.kl_weight = kl_weight
    config.detector.latent = latent
    config.train.learning_rate = rate
    name = f"kl{kl_weight:g}_latent{latent}_rate{rate:g}"
    loss = held_out_loss(config, args, name)
    n_features = config.windows.width * config.features.n_mels
    return loss / kl_weight + n_features / 2 * math.log(2 * math.pi * kl_weight)


if __name__ == "__main__":
    main()
