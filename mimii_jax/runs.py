"""A run: one training of a detector, of which many go on at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True, eq=False)
class Run:
    """What one run has of its own; everything else it shares with the others.

    Attributes
    ----------
    seed : of its initialisation, its order of examples and its noise
    clips : int [shape=(clip,)], rows of the training clips that it may see
    changes : settings in which it differs from the config, by name: "epochs",
        "learning_rate", or a number of its model such as "kl_weight"
    """

    seed: int
    clips: Int[np.ndarray, " clip"]
    changes: Mapping[str, float] = field(default_factory=dict)


def runs_on_all(n_clips: int, seeds: Sequence[int]) -> list[Run]:
    """A run per seed, each on all clips."""
    return [Run(seed, np.arange(n_clips)) for seed in seeds]
