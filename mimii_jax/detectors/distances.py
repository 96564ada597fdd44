"""Distances from the vectors of normal clips, as pure functions of arrays.

Bank and query are arguments, so that they can be exported. A bank is padded: all of
about the same size share one compiled program. Queries come in chunks: no matrix of all
pairs exists. On a CPU a chunk is worked through in blocks: what a clip is scored beside
changes no bit, and a single clip takes no longer than a block.
"""

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

CHUNK = 128  # queries per call
BLOCK = 8  # of them at once on a CPU, where a call may have a single block
PADDING = 256  # the rows of a bank are a multiple of it
LIMIT = 8.0  # of standardised columns, in SD: no single one decides
NOBODY = -1  # leaves no row of the bank out
HIGHEST = lax.Precision.HIGHEST


class Columns(NamedTuple):
    """Standardisation of columns, then a linear map."""

    mean: Float[Array, " column"]
    scale: Float[Array, " column"]  # 0 for a constant column
    limit: Float[Array, ""]  # of standardised columns
    matrix: Float[Array, "column dimension"] | None  # None: as they are
    offset: Float[Array, " dimension"]  # the bank's mean after the map


class Bank(NamedTuple):
    """Vectors of normal clips, and the distances among them."""

    vectors: Float[Array, "row dimension"]
    n: Int[Array, ""]  # rows in use
    near: Float[Array, "row k"]  # distances to the nearest others; inf: fewer exist
    near_row: Int[Array, "row k"]
    floor: Float[Array, ""]  # of a mean distance, so that duplicates divide by no 0


class Mixture(NamedTuple):
    """Gaussians, with the Cholesky factors of their inverse covariances."""

    log_weight: Float[Array, " component"]
    mean: Float[Array, "component dimension"]
    cholesky: Float[Array, "component dimension dimension"]


def fit_columns(
    vectors: np.ndarray, standardise: bool, max_columns: int | None, whiten: bool
) -> Columns:
    """Standardise; then PCA, where columns exceed clips; then whiten if wanted.

    The covariance is shrunk as by Ledoit and Wolf (2004), in units of each column's
    spread, so that shrinking treats all columns alike.
    """
    x = vectors.astype(np.float64)
    mean, spread = x.mean(0), x.std(0)
    varies = spread > np.finfo(np.float32).eps * np.abs(mean)
    scale = varies / np.where(varies & standardise, spread, 1.0)
    limit = LIMIT if standardise else np.inf
    x = np.clip((x - mean) * scale, -limit, limit)
    matrix = None
    if max_columns and len(x) < x.shape[1]:
        _, _, right = np.linalg.svd(x - x.mean(0), full_matrices=False)
        # Whitening would blow up columns that hardly vary among few clips.
        size = min(max_columns, len(x) // 2) if whiten else max_columns
        matrix = right[: max(size, 1)].T
    if whiten:
        matrix = np.eye(x.shape[1]) if matrix is None else matrix
        spread = (x @ matrix).std(0)
        matrix = matrix / np.where(spread > 0, spread, 1.0)
        values, basis = np.linalg.eigh(ledoit_wolf(x @ matrix))
        kept = values > len(values) * np.finfo(float).eps * values.max()
        matrix = matrix @ basis * (kept / np.sqrt(np.where(kept, values, 1.0)))
    offset = (x if matrix is None else x @ matrix).mean(0)
    f32 = partial(jnp.asarray, dtype=np.float32)
    matrix = None if matrix is None else f32(matrix)
    return Columns(f32(mean), f32(scale), f32(limit), matrix, f32(offset))


def ledoit_wolf(
    x: Float[np.ndarray, "clip dimension"],
) -> Float[np.ndarray, "dimension dimension"]:
    """Covariance, shrunk as by Ledoit and Wolf (2004); of one clip the identity."""
    n_clips, n = x.shape
    if n_clips == 1:
        return np.eye(n)
    x = x - x.mean(0)
    covariance = x.T @ x / n_clips
    mean = np.trace(covariance) / n
    squares = np.sum(covariance**2)
    away = squares - n * mean**2
    noise = (np.mean(np.sum(x**2, axis=1) ** 2) - squares) / n_clips
    # A single dimension has nothing to shrink.
    share = min(noise / away, 1.0) if n > 1 and away > 0 else 0.0
    return (1 - share) * covariance + share * mean * np.eye(n)


def _in_blocks(function: Callable[..., Any]) -> Callable[..., Any]:
    """Map a function of fitted arrays and rows over blocks of rows, on a CPU."""

    @wraps(function)
    def mapped(fitted: Any, *rows: Array, **options: int) -> Any:
        n = len(rows[0])
        if jax.default_backend() != "cpu" or n == 1:  # one: of an exported function
            return function(fitted, *rows, **options)

        def of_block(block: tuple[Array, ...]) -> Any:
            return function(fitted, *block, **options)

        padded = [jnp.pad(x, ((0, -n % BLOCK), *[(0, 0)] * (x.ndim - 1))) for x in rows]
        blocks = [x.reshape(-1, BLOCK, *x.shape[1:]) for x in padded]
        found = lax.map(of_block, tuple(blocks))
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], found)

    return mapped


@jax.jit
@_in_blocks
def project(
    columns: Columns, x: Float[Array, "clip column"]
) -> Float[Array, "clip dimension"]:
    """Apply fitted columns."""
    x = (x - columns.mean[None]) * columns.scale[None]
    x = jnp.clip(x, -columns.limit, columns.limit)
    if columns.matrix is not None:
        x = jnp.matmul(x, columns.matrix, precision=HIGHEST)
    return x - columns.offset[None]


def in_chunks(
    function: Callable[..., Array | tuple[Array, ...]], *rows: np.ndarray
) -> list[np.ndarray]:
    """Call a function of rows in chunks of few shapes; arrays of its results."""
    n_rows, found = max(len(rows[0]), 1), []
    few = n_rows <= BLOCK and jax.default_backend() == "cpu"
    size = BLOCK if few else CHUNK
    for start in range(0, n_rows, size):
        chunk = [array[start : start + size] for array in rows]
        n = len(chunk[0])
        padding = [((0, size - n), *[(0, 0)] * (a.ndim - 1)) for a in chunk]
        padded = [np.pad(a, p) for a, p in zip(chunk, padding, strict=True)]
        found.append([np.asarray(a)[:n] for a in jax.tree.leaves(function(*padded))])
    return [np.concatenate(arrays) for arrays in zip(*found, strict=True)]


def make_bank(vectors: Float[np.ndarray, "clip dimension"], k: int) -> Bank:
    """Pad vectors and find the k + 1 nearest others of each."""
    n = len(vectors)
    rows = -(-n // PADDING) * PADDING
    padded = jnp.asarray(np.pad(vectors, ((0, rows - n), (0, 0))))
    bare = jnp.zeros((rows, 0))
    bank = Bank(padded, jnp.int32(n), bare, bare.astype(int), jnp.float32(1))
    find = partial(nearest, bank, k=min(k + 1, n))
    near, index = in_chunks(find, vectors, np.arange(n, dtype=np.int32))
    finite = near[np.isfinite(near)]
    typical = finite.mean() if finite.size else 0.0
    below = ((0, rows - n), (0, 0))
    return bank._replace(
        near=jnp.asarray(np.pad(near, below)),
        near_row=jnp.asarray(np.pad(index, below)),
        floor=jnp.float32(1e-6 * typical if typical > 0 else 1.0),
    )


def _distances(bank: Bank, x: Array, exclude: Array) -> Float[Array, "clip row"]:
    """Distances to all rows by one product, inexact when small; inf: not in use."""
    product = jnp.matmul(x, bank.vectors.T, precision=HIGHEST)
    squares = jnp.sum(x**2, 1)[:, None] + jnp.sum(bank.vectors**2, 1)[None]
    row = jnp.arange(len(bank.vectors))[None]
    used = (row < bank.n) & (row != exclude[:, None])
    return jnp.where(used, jnp.sqrt(jnp.maximum(squares - 2 * product, 0)), jnp.inf)


def _exact(bank: Bank, x: Array, row: Array, about: Array) -> Float[Array, "clip k"]:
    """Distances to a few rows by differences; inf where `about` is."""
    away = x[:, None] - bank.vectors[row]
    return jnp.where(jnp.isfinite(about), jnp.sqrt(jnp.sum(away**2, -1)), jnp.inf)


def _mean(values: Float[Array, "... k"], used: Array) -> Float[Array, "..."]:
    total = jnp.sum(jnp.where(used, values, 0), -1)
    return total / jnp.maximum(jnp.sum(used, -1), 1)


def _nearest(
    bank: Bank, x: Float[Array, "clip dimension"], exclude: Int[Array, " clip"], k: int
) -> tuple[Float[Array, "clip k"], Int[Array, "clip k"]]:
    """Distances and rows of the k nearest but the excluded; inf where fewer exist."""
    about, row = lax.top_k(-_distances(bank, x, exclude), k)
    distance = _exact(bank, x, row, about)
    order = jnp.argsort(distance, axis=1)
    sort = partial(jnp.take_along_axis, indices=order, axis=1)
    return sort(distance), sort(row)


nearest = partial(jax.jit, static_argnames="k")(_in_blocks(_nearest))


@partial(jax.jit, static_argnames=("k", "density_k"))
@_in_blocks
def knn(bank: Bank, x: Array, exclude: Array, k: int, density_k: int) -> Array:
    """Mean distance to the k nearest."""
    del density_k
    distance, _ = _nearest(bank, x, exclude, k)
    return _mean(distance, jnp.isfinite(distance))


@partial(jax.jit, static_argnames=("k", "density_k"))
@_in_blocks
def ldn(bank: Bank, x: Array, exclude: Array, k: int, density_k: int) -> Array:
    """Mean of the k smallest d(x, y) / r(y): local density normalisation.

    r(y) is the mean distance from y to its `density_k` nearest in the bank (Wilkinghoff
    et al. 2025). Without row i, y loses its distance from i if that is among these, and
    gains the next; so r is the sum of k + 1 distances less the smaller of d(i, y) and
    the last of them.
    """
    finite = jnp.isfinite(bank.near)
    near = jnp.where(finite, bank.near, 0.0)
    total, last, n_near = near.sum(1), near.max(1), jnp.minimum(bank.n - 1, density_k)
    spare = near[:, density_k] if near.shape[1] > density_k else jnp.zeros_like(last)

    def ratio(distance: Array, total: Array, last: Array, spare: Array) -> Array:
        left_out = (exclude != NOBODY)[:, None]
        lost = jnp.where(left_out, jnp.minimum(distance, last), spare)
        n_left = jnp.minimum(n_near, bank.n - 1 - left_out)
        r = (total - lost) / jnp.maximum(n_left, 1)
        return distance / jnp.maximum(r, bank.floor)

    about = ratio(_distances(bank, x, exclude), total[None], last[None], spare[None])
    about, row = lax.top_k(-about, k)
    exact = ratio(_exact(bank, x, row, about), total[row], last[row], spare[row])
    return _mean(exact, jnp.isfinite(exact))


@partial(jax.jit, static_argnames=("k", "density_k"))
@_in_blocks
def lof(bank: Bank, x: Array, exclude: Array, k: int, density_k: int) -> Array:
    """Local outlier factor (Breunig et al. 2000), as scikit-learn's for novelties."""
    del k

    def neighbours(row: Array) -> tuple[Array, Array, Array]:
        """Distances, rows and use of the `density_k` nearest without the excluded."""
        distance, index = bank.near[row], bank.near_row[row]
        out = exclude.reshape(-1, *[1] * (index.ndim - 1))
        used = jnp.isfinite(distance) & (index != out)
        return distance, index, used & (jnp.cumsum(used, -1) <= density_k)

    def reach(row: Array) -> Array:
        distance, _, used = neighbours(row)
        return jnp.max(jnp.where(used, distance, 0), -1)

    def density(distance: Array, row: Array, used: Array) -> Array:
        return 1 / (_mean(jnp.maximum(distance, reach(row)), used) + 1e-10)

    distance, row = _nearest(bank, x, exclude, density_k)
    # At most as many as a clip of the bank has, when the excluded is gone.
    others_left = jnp.maximum(bank.n - 1 - (exclude != NOBODY), 1)
    used = jnp.isfinite(distance) & (jnp.arange(density_k)[None] < others_left[:, None])
    others = density(*neighbours(row))
    return _mean(others, used) / density(distance, row, used)


@jax.jit
def norm(x: Float[Array, "clip dimension"]) -> Float[Array, " clip"]:
    """Distance from the mean of the bank."""
    return jnp.sqrt(jnp.sum(x**2, 1))


@jax.jit
@_in_blocks
def gaussian(
    variance: Float[Array, " column"], squares: Float[Array, "clip column"]
) -> Float[Array, " clip"]:
    """Negative log-likelihood of squared errors, without log(2 pi) / 2; the mean."""
    log = jnp.log(variance)[None]
    return 0.5 * jnp.mean(squares * jnp.exp(-log) + log, axis=1)


@jax.jit
@_in_blocks
def surprise(
    mixture: Mixture, x: Float[Array, "clip dimension"]
) -> Float[Array, " clip"]:
    """Negative log-likelihood under a mixture of Gaussians."""
    away = x[:, None] - mixture.mean[None]
    away = jnp.einsum("cki,kij->ckj", away, mixture.cholesky, precision=HIGHEST)
    diagonal = jnp.diagonal(mixture.cholesky, axis1=1, axis2=2)
    log_scale = jnp.sum(jnp.log(diagonal), 1) - x.shape[1] / 2 * np.log(2 * np.pi)
    log_density = log_scale[None] - jnp.sum(away**2, 2) / 2
    return -jax.nn.logsumexp(log_density + mixture.log_weight[None], axis=1)


def k_centre(
    vectors: Float[np.ndarray, "clip dimension"], size: int
) -> Int[np.ndarray, " row"]:
    """Rows that cover the bank: each the farthest from those before (Gonzalez 1985).

    The first is the nearest to the mean.
    """
    x = jnp.asarray(vectors)
    first = jnp.argmin(norm(x - x.mean(0)[None]))

    def add(i: Array, found: tuple[Array, Array]) -> tuple[Array, Array]:
        rows, distance = found
        distance = jnp.minimum(distance, norm(x - x[rows[i - 1]][None]))
        return rows.at[i].set(jnp.argmax(distance)), distance

    start = (jnp.zeros(size, int).at[0].set(first), jnp.full(len(x), jnp.inf))
    return np.asarray(lax.fori_loop(1, size, add, start)[0])
