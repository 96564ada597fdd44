"""The two parts of the test clips: to tune on labels, and to report; no JAX."""

import hashlib

import numpy as np
from jaxtyping import Bool, Int, Shaped

from mimii_jax.results.table import Scores

PARTS = {
    "all": "all test clips",
    "validation": "validation part, 40 % of the test clips",
    "test": "test part, 60 % of the test clips",
}
"""What numbers can be from, and what a title says about it; see `part_mask`."""


def part_title(part: str) -> str:
    """What a title says about the part of the test clips that its numbers are from."""
    return PARTS[part]


def part_mask(
    machine_type: Shaped[np.ndarray, " row"],
    machine_id: Shaped[np.ndarray, " row"],
    label: Int[np.ndarray, " row"],
    name: Shaped[np.ndarray, " row"],
    *,
    part: str,
    seed: int,
) -> Bool[np.ndarray, " row"]:
    """Which rows belong to this part of the test set.

    The validation part is 40 % of the clips of every machine type, ID and label,
    rounded; the test part is the rest. A clip's part depends only on the seed and on
    the set of clips, not on their order: rows of one clip (of several detectors and
    seeds) stay together.
    """
    if part not in PARTS:
        raise ValueError(f"part {part!r} is not one of {', '.join(PARTS)}")
    if part == "all":
        return np.ones(len(name), bool)
    columns = (machine_type, machine_id, label, name)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    strata: dict[tuple, list[str]] = {}
    for *stratum, clip in set(rows):
        strata.setdefault(tuple(stratum), []).append(clip)
    chosen = set()
    for stratum, clips in strata.items():
        # A hash shuffles alike on every machine and with every version of NumPy.
        clips.sort(key=lambda clip: hashlib.sha256(f"{seed}/{clip}".encode()).digest())
        chosen |= {(*stratum, clip) for clip in clips[: round(0.4 * len(clips))]}
    validation = np.array([row in chosen for row in rows], bool)
    return validation if part == "validation" else ~validation


def split_part(scores: Scores, part: str, seed: int) -> Scores:
    """The rows of this part of the test set; see `part_mask`."""
    return scores[
        part_mask(
            scores.machine_type,
            scores.machine_id,
            scores.label,
            scores.name,
            part=part,
            seed=seed,
        )
    ]
