"""A run: one training of a detector, of which many go on at once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int

from mimii_jax.features.windows import Standardiser


@dataclass(frozen=True, eq=False)
class Start:
    """A trained model to begin with.

    Attributes
    ----------
    params : its parameters by their path in the model
    standardiser : shift and scale per bin that it was trained with
    """

    params: Mapping[tuple, np.ndarray]
    standardiser: Standardiser


@dataclass(frozen=True, eq=False)
class Run:
    """What one run has of its own; everything else it shares with the others.

    Attributes
    ----------
    seed : of its initialisation, its order of examples and its noise
    clips : int [shape=(clip,)], rows of the training clips that it may see
    changes : settings in which it differs from the config, by name: "epochs",
        "learning_rate", or a number of its model such as "kl_weight"
    start : the trained model that it begins with; None: at random
    """

    seed: int
    clips: Int[np.ndarray, " clip"]
    changes: Mapping[str, float] = field(default_factory=dict)
    start: Start | None = None


def runs_on_all(n_clips: int, seeds: Sequence[int]) -> list[Run]:
    """A run per seed, each on all clips."""
    return [Run(seed, np.arange(n_clips)) for seed in seeds]
