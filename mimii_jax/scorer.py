"""A row of a workdir as one pure function of waves, for `jax.export` and ONNX.

Models, banks, z-scores and thresholds are constants of it. It is cut where the package
has several programs, and takes one clip after the other as they do: XLA then compiles
its parts alike, and scores differ by roundings alone.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from mimii_jax.detectors.backends import Backend, Banks, Fused
from mimii_jax.detectors.distances import NOBODY, project
from mimii_jax.detectors.functionals import FittedFunctionals
from mimii_jax.detectors.neural import FittedNeural
from mimii_jax.errors import ConfigError
from mimii_jax.features.functionals import functionals
from mimii_jax.judge import Judge
from mimii_jax.results.metrics import median_and_spread
from mimii_jax.results.table import NO_SEED
from mimii_jax.stages import FUSED, SEPARATOR

HOST_ONLY = {"isolation_forest", "one_class_svm"}  # back-ends that are no array code
OfIds = Float[Array, " id"]  # the score of a clip if it were of each ID
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
    stage: Any,
    names: tuple[str, str],
    model: Any,
    ids: Sequence[str],
) -> dict[tuple[str, int], Callable[[Array], OfIds]]:
    """Functions of a wave, by row and seed."""
    found = {}
    for run, (one, seed) in enumerate(zip(stage.sets, stage.seeds, strict=True)):
        key = (SEPARATOR.join(filter(None, (names[0], one, names[1]))), seed)
        if isinstance(model, FittedFunctionals):
            found[key] = _of_functionals(model, run, ids)
        elif not isinstance(model, FittedNeural):
            raise ConfigError(
                f"{names[0]}: scikit-learn's models can't be exported; choose a row of "
                "functionals or of a neural detector by --detector"
            )
        elif model.alive[run]:
            found[key] = _of_neural(model, run, ids)
    return found


def _of_neural(
    fitted: FittedNeural, run: int, ids: Sequence[str]
) -> Callable[[Array], OfIds]:
    detector, windows = fitted.detector, fitted.detector.scoring_windows
    models = jax.tree.map(lambda leaf: np.asarray(leaf[run]), fitted.models)
    banks = fitted.banks[run] if fitted.banks else None
    _require_arrays(detector.scoring.names)
    for bank in [_bank(banks, one) for one in ids] if banks else ():
        bank.normal_scores()  # fits what is missing: in a trace it couldn't

    def of_clip(wave: Array) -> OfIds:
        features = lax.optimization_barrier(detector.front_end(wave))
        n_frames = len(features)
        starts = windows.hop * np.arange(windows.per_clip(n_frames))
        x = features[starts[:, None] + np.arange(windows.width_in(n_frames))]
        model = nnx.merge(fitted.graph, models.params, models.fixed)
        method = getattr(model, detector.scoring.representation)
        vectors = method(models.standardiser.apply(x))
        summary = detector.scoring.summary(vectors.reshape(-1, vectors.shape[-1]))
        summary = lax.optimization_barrier(summary)
        if banks:
            return _of_banks(banks, summary[1:], ids)
        return jnp.broadcast_to(summary[0], len(ids))

    return of_clip


def _of_functionals(
    fitted: FittedFunctionals, run: int, ids: Sequence[str]
) -> Callable[[Array], OfIds]:
    detector = fitted.detector
    _require_arrays(detector.scoring.names)
    scales = {}
    for group, banks in fitted.banks.items():
        normal = [_bank(banks[run], one).normal_scores() for one in ids]
        scales[group] = np.array([median_and_spread(n) for n in normal], np.float32).T

    def of_clip(wave: Array) -> OfIds:
        vectors = functionals(detector.front_end, detector.groups, wave)
        vectors = lax.optimization_barrier(vectors)
        z = [
            (_of_banks(banks[run], vectors[group], ids) - scales[group][0])
            / scales[group][1]
            for group, banks in fitted.banks.items()
        ]
        return jnp.mean(jnp.stack(z), axis=0)

    return of_clip


def _bank(banks: Banks, machine_id: str) -> Fused:
    return banks.by_id.get(machine_id) or banks.of_all


def _of_banks(banks: Banks, x: Float[Array, " column"], ids: Sequence[str]) -> OfIds:
    """Score against the bank of each ID."""
    fits = {id(bank): bank for bank in (_bank(banks, one) for one in ids)}
    scores = {key: _of_bank(bank, x) for key, bank in fits.items()}
    return jnp.stack([scores[id(_bank(banks, one))] for one in ids])


def _of_bank(bank: Fused, x: Float[Array, " column"]) -> Float[Array, ""]:
    scores = [_distance(backend, x[None]) for backend in bank.backends]
    if len(scores) == 1:
        return scores[0]
    scales = [median_and_spread(normal) for normal in bank.normal]
    pairs = zip(scores, scales, strict=True)
    z = [(score - middle) / spread for score, (middle, spread) in pairs]
    return jnp.mean(jnp.stack(z))


def _distance(backend: Backend, x: Float[Array, "1 column"]) -> Float[Array, ""]:
    if backend.columns:
        x = lax.optimization_barrier(project(backend.columns, x))
    if backend.bank:
        return backend.distance(x, np.full(1, NOBODY, np.int32))[0]
    return backend.distance(x)[0]


def _require_arrays(names: Sequence[str]) -> None:
    for name in names:
        if name in HOST_ONLY:
            raise ConfigError(
                f"scoring.backend='{name}': scikit-learn's models can't be exported; "
                "choose another back-end, such as ldn"
            )
