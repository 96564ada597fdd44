"""Fusion of detectors: the mean of their z-scores, per clip.

A z-score counts from the median of normal clips, in halves of their 16-84 % range: for
a Gaussian, in standard deviations. The normal clips are those that the detector was
fitted to, each scored without itself; test clips set no scale.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mimii_jax.errors import DataError
from mimii_jax.results.metrics import z_scores
from mimii_jax.results.table import NO_SEED, Scores


def fuse(scores: Scores, normals: Scores, parts: Sequence[str], name: str) -> Scores:
    """Mean of the parts' z-scores, as rows of a detector `name`.

    Parameters
    ----------
    scores, normals : of the test clips, and of normal clips by the same detectors. The
        scale is that of the clip's machine ID; for an ID without normal clips, that of
        all IDs.
    parts : detectors; one without randomness is fused with every seed of the others
    """
    seeds = [seed for seed in scores.seeds if _has(scores, parts, seed)]
    if any(seed != NO_SEED for seed in seeds):
        seeds = [seed for seed in seeds if seed != NO_SEED]
    if not seeds:
        raise DataError(f"{name}: no seed has scores of all of {', '.join(parts)}")
    return Scores.concatenate(
        _fuse_seed(scores, normals, parts, seed, name) for seed in seeds
    )


def mean_of_seeds(scores: Scores, normals: Scores) -> Scores:
    """Mean over seeds of a detector's z-scores; as they are with a single seed."""
    tables = [scores[scores.seed == seed] for seed in scores.seeds]
    if len(tables) == 1:
        return scores
    names = set.intersection(*(set(table.name.tolist()) for table in tables))
    tables = [table[np.isin(table.name, sorted(names))] for table in tables]
    tables = [table[np.argsort(table.name)] for table in tables]
    pairs = zip(tables, scores.seeds, strict=True)
    z = [standardise(table, normals[normals.seed == s]).score for table, s in pairs]
    return replace(
        tables[0], seed=np.full(len(names), NO_SEED), score=np.mean(z, axis=0)
    )


def _has(scores: Scores, parts: Sequence[str], seed: int) -> bool:
    return all(_rows(scores, part, seed).any() for part in parts)


def _rows(scores: Scores, part: str, seed: int) -> np.ndarray:
    """Rows of a detector with this seed, or without any."""
    return (scores.detector == part) & np.isin(scores.seed, (seed, NO_SEED))


def _fuse_seed(
    scores: Scores, normals: Scores, parts: Sequence[str], seed: int, name: str
) -> Scores:
    """Fuse the scores of one seed."""
    tables = []
    for part in parts:
        table = scores[_rows(scores, part, seed)]
        order = np.lexsort((table.name, table.machine_type))
        tables.append(standardise(table[order], normals[_rows(normals, part, seed)]))
    first = tables[0]
    for part, table in zip(parts, tables, strict=True):
        if not np.array_equal(table.name, first.name):
            raise DataError(f"{name}: {part} and {parts[0]} scored different clips")
    return replace(
        first,
        detector=np.full(len(first), name),
        seed=np.full(len(first), seed),
        score=np.mean([table.score for table in tables], axis=0),
    )


def standardise(table: Scores, normals: Scores) -> Scores:
    """Replace scores by z-scores, per machine type and ID."""
    score = np.empty(len(table))
    for kind in table.machine_types:
        of_kind = normals.machine_type == kind
        for machine_id in sorted(set(table.machine_id[table.machine_type == kind])):
            rows = (table.machine_type == kind) & (table.machine_id == machine_id)
            own = of_kind & (normals.machine_id == machine_id)
            normal = normals.score[own if own.any() else of_kind]
            score[rows] = z_scores(table.score[rows], normal)
    return replace(table, score=score)
