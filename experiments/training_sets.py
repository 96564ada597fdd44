"""The rows of the cross-ID matrix: which clips a detector is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from mimii_jax.data.clips import Clips

ALL, DOWNSAMPLED, EXTRA = "all", "downsampled", "all + simulated"
ID, WITHOUT, TUNED = "id", "without", "all, then id"
MATRIX = (ALL, ID, DOWNSAMPLED, WITHOUT, TUNED)
"""The kinds of rows of the whole matrix; three of them are a row per machine ID."""


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """One row.

    Attributes
    ----------
    name : such as "all", "id 00", "without 00" or "all, then id 00"
    clips : int [shape=(clip,)], rows of the training clips
    tuned : whether it begins with the model that was trained on all
    """

    name: str
    clips: Int[np.ndarray, " clip"]
    tuned: bool = False


def training_sets(
    train: Clips, kinds: Sequence[str], n_own: int = 0
) -> list[TrainingSet]:
    """The rows of these kinds, in their order.

    Parameters
    ----------
    train : training clips
    kinds : of `MATRIX`, or `EXTRA`
    n_own : how many of the clips are the data set's own; those after them are
        simulated ones, which only `EXTRA` has. 0: all

    A matrix of one machine ID has the rows of its clips alone, without those of a
    single ID.
    """
    n_own = n_own or len(train)
    machine_id = train.machine_id[:n_own]
    ids = sorted(set(machine_id.tolist()))
    of_id = {i: np.flatnonzero(machine_id == i) for i in ids}
    fewest = min(map(len, of_id.values()))
    # One draw for all seeds: another one for each would add noise to the comparison.
    draw = np.random.default_rng(0).permutation
    downsampled = np.concatenate([draw(rows)[:fewest] for rows in of_id.values()])
    found = {
        ALL: [TrainingSet(ALL, np.arange(n_own))],
        DOWNSAMPLED: [TrainingSet(DOWNSAMPLED, np.sort(downsampled))],
        EXTRA: [TrainingSet(EXTRA, np.arange(len(train)))],
        ID: [TrainingSet(f"{ID} {i}", of_id[i]) for i in ids],
        WITHOUT: [
            TrainingSet(f"{WITHOUT} {i}", np.flatnonzero(machine_id != i)) for i in ids
        ],
        TUNED: [TrainingSet(f"{TUNED} {i}", of_id[i], tuned=True) for i in ids],
    }
    if len(ids) == 1:
        found |= {kind: [] for kind in (DOWNSAMPLED, ID, WITHOUT, TUNED)}
    return [row for kind in kinds for row in found[kind]]
