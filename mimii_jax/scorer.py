"""A row of a workdir as one pure function of waves, for `jax.export` and ONNX.

Models, banks, z-scores and thresholds are constants of it. It is cut where the package
has several programs, and takes one clip after the other as they do: XLA then compiles
its parts alike, and scores differ by roundings alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mimii_jax.detectors.detector import Fitted
from mimii_jax.detectors.exported import OfIds
from mimii_jax.errors import ConfigError
from mimii_jax.judge import Judge
from mimii_jax.results.metrics import median_and_spread
from mimii_jax.results.table import NO_SEED
from mimii_jax.stages import FUSED, SEPARATOR, Stage

Scorer = Callable[[Array, Array], tuple[Array, Array]]


def known_ids(judge: Judge) -> list[str]:
    """IDs that a scorer knows; the last of several, "", is any other."""
    return [*judge.ids, ""] if len(judge.ids) != 1 else list(judge.ids)


def _one_after_the_other(of_clip: Callable[..., Any], *rows: Array) -> Any:
    return lax.map(lambda row: of_clip(*row), rows)


def build_scorer(
    judge: Judge, clip_by_clip: Callable[..., Any] = _one_after_the_other
) -> Scorer:
    """A function of waves and places of their IDs in `known_ids`: scores, decisions.

    waves : f32 [shape=(clip, time)], in [-1, 1], of the length learned from
    ids : i32 [shape=(clip,)]

    A score is NaN for an ID that doesn't exist, which is decided to be anomalous.
    """
    ids = known_ids(judge)
    limits = [judge.threshold(one) for one in ids]
    if any(limit is None for limit in limits):
        raise ConfigError(f"{judge.detector}: has no threshold to export")
    limit = np.array(limits, np.float32)
    own = [judge.bank_id(one) for one in ids]
    parts = {
        key: of_clip
        for stage in judge.stages
        for names, model in stage.fitted.items()
        for key, of_clip in _runs(stage, names, model, own).items()
    }

    def of_clip(wave: Array, own: Array) -> tuple[Array, Array]:
        runs = {key: function(wave) for key, function in parts.items()}
        scores = _of_row(judge, runs, ids)
        is_own = own == np.arange(len(ids))
        none = jnp.where(jnp.any(is_own), 0.0, jnp.nan)
        score = jnp.sum(jnp.where(is_own, scores, 0.0)) + none
        return score, score <= jnp.sum(jnp.where(is_own, limit, 0.0))

    def scorer(
        waves: Float[Array, "clip time"], ids: Int[Array, " clip"]
    ) -> tuple[Float[Array, " clip"], Bool[Array, " clip"]]:
        score, is_normal = clip_by_clip(of_clip, waves, ids)
        return score, ~is_normal

    return scorer


def _of_row(
    judge: Judge, runs: Mapping[tuple[str, int], OfIds], ids: Sequence[str]
) -> OfIds:
    """Score of the judge's row: of its seeds, or of its parts, the mean z-score."""
    names, row = judge.detector.split(FUSED), judge.detector
    seeds = sorted({seed for _, seed in runs if seed != NO_SEED}) or [NO_SEED]
    scores = []
    for seed in seeds:
        found = [(name, seed if (name, seed) in runs else NO_SEED) for name in names]
        z = [_standardised(judge, *key, runs[key], ids) for key in found]
        fused = len(names) > 1
        scores.append(sum(z) / len(z) if fused else runs[row, seed])
    if len(scores) == 1:
        return scores[0]
    pairs = zip(seeds, scores, strict=True)
    z = [_standardised(judge, row, seed, score, ids) for seed, score in pairs]
    return jnp.mean(jnp.stack(z), axis=0)


def _standardised(
    judge: Judge, name: str, seed: int, scores: OfIds, ids: Sequence[str]
) -> OfIds:
    """z-scores among the normal clips of each ID, as `results.fusion` has them."""
    assert judge.normal is not None
    own = (judge.normal.detector == name) & (judge.normal.seed == seed)
    table = judge.normal[own]
    if not len(table):
        raise ConfigError(f"{name}: has no normal scores to export")
    scales = []
    for one in ids:
        of_id = table.score[table.machine_id == one]
        scales.append(median_and_spread(of_id if len(of_id) else table.score))
    middle, spread = np.array(scales, np.float32).T
    return (scores - middle) / spread


def _runs(
    stage: Stage,
    names: tuple[str, str],
    model: Fitted,
    ids: Sequence[str],
) -> dict[tuple[str, int], Callable[[Array], OfIds]]:
    """Functions of a wave, by row and seed."""
    found = {}
    for run, (one, seed) in enumerate(zip(stage.sets, stage.seeds, strict=True)):
        key = (SEPARATOR.join(filter(None, (names[0], one, names[1]))), seed)
        if model.alive[run]:
            found[key] = model.of_wave(run, ids)
    return found
