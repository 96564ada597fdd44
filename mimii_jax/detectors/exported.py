"""Banks as array code, for `jax.export`: the score of a clip if it were of each ID."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from mimii_jax.detectors.backends import Backend, Banks, Fused
from mimii_jax.detectors.distances import NOBODY, project
from mimii_jax.errors import require
from mimii_jax.results.metrics import median_and_spread

HOST_ONLY = {"isolation_forest", "one_class_svm"}  # back-ends that are no array code
OfIds = Float[Array, " id"]
Normal = Float[np.ndarray, " clip"]


def normal_scores(banks: Banks, ids: Sequence[str]) -> list[Normal]:
    """Normal scores of each ID's bank; fits missing ones, which no trace can."""
    for name in banks.scoring.names:
        require(
            name not in HOST_ONLY,
            f"scoring.backend='{name}': scikit-learn's models can't be exported; "
            "choose another back-end, such as ldn",
        )
    return [banks.of(one).normal_scores() for one in ids]


def of_banks(banks: Banks, x: Float[Array, " column"], ids: Sequence[str]) -> OfIds:
    """Score of a vector against the bank of each ID."""
    fits = {id(bank): bank for bank in map(banks.of, ids)}
    scores = {key: _of_bank(bank, x) for key, bank in fits.items()}
    return jnp.stack([scores[id(banks.of(one))] for one in ids])


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
