"""The recipe of configs/transformer.py: learning rate and batch size.

python -m experiments.select_transformer

Chosen without any label: by the mean squared error of predicted patches of held-out
normal clips after training, in units of the standardised features; less is better.
"""

import argparse

from configs import transformer
from experiments.selection import held_out_loss, parse, show
from mimii_jax.config import Config

LEARNING_RATES = (1e-3, 2e-3, 4e-3, 8e-3)
BATCHES = (4, 2, 8)  # the rates at the first one


def main() -> None:
    """Train each candidate on the same clips and list them by their loss."""
    args = parse("select_transformer", __doc__, epochs=8)
    first, *others = BATCHES
    rows = [(loss_of(args, rate, first), (rate, first)) for rate in LEARNING_RATES]
    _, (best, _) = min(rows)
    rows += [(loss_of(args, best, batch), (best, batch)) for batch in others]
    show(args, ("learning rate", "batch", "held-out loss"), rows)


def loss_of(args: argparse.Namespace, rate: float, batch: int) -> float:
    """Mean squared error of held-out normal clips after training."""
    config: Config = transformer.get_config()
    config.train.learning_rate = rate
    config.train.batch_size = batch
    return held_out_loss(config, args, f"rate{rate:g}_batch{batch}")


if __name__ == "__main__":
    main()
