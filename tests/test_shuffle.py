"""The order of an epoch: a bijection, fresh for every epoch and key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimii_jax.train.shuffle import permute

FULL = 1000  # positions per call: one compilation for all sizes
at = jax.jit(permute)


def key_of(seed):
    return jax.random.key_data(jax.random.key(seed))


def order(n, epoch=0, seed=0):
    """All examples of an epoch, a thousand per call."""
    key, found = key_of(seed), []
    for start in range(0, n, FULL):
        position = jnp.minimum(start + jnp.arange(FULL), n - 1)
        found.append(np.asarray(at(key, jnp.int32(epoch), jnp.int32(n), position)))
    return np.concatenate(found)[:n]


@given(n=st.integers(1, 3000), epoch=st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_every_example_comes_once(n, epoch):
    assert sorted(order(n, epoch).tolist()) == list(range(n))


@pytest.mark.parametrize("n", [2**24 + 1, 2**31 - 1])
def test_many_examples_stay_in_range_and_apart(n):
    """Where a float32 cannot count any more."""
    position = jnp.concatenate([jnp.arange(500), n - 500 + jnp.arange(500)])
    found = np.asarray(at(key_of(0), jnp.int32(3), jnp.int32(n), position))
    assert found.min() >= 0
    assert found.max() < n
    assert len(set(found.tolist())) == FULL


def test_epochs_and_keys_have_orders_of_their_own():
    orders = [order(500), order(500, epoch=1), order(500, seed=1)]
    for one in range(3):
        for other in range(one):
            # Two shuffles agree in one place on average.
            assert np.sum(orders[one] == orders[other]) < 8
    few = at(key_of(0), jnp.int32(0), jnp.int32(500), jnp.array([499, 3]))
    np.testing.assert_array_equal(few, orders[0][[499, 3]])  # whatever else is asked


def test_every_example_is_as_likely_at_every_position():
    """Chi squared over 2,000 epochs of 12 examples, 121 degrees of freedom."""
    n, epochs = 12, 2000
    position = jnp.arange(n)
    found = jax.jit(jax.vmap(lambda e: permute(key_of(0), e, jnp.int32(n), position)))(
        jnp.arange(epochs)
    )
    counts = np.zeros((n, n))
    for row in np.asarray(found):
        counts[position, row] += 1
    expected = epochs / n
    chi_squared = np.sum((counts - expected) ** 2 / expected)
    assert 121 - 5 * 242**0.5 < chi_squared < 121 + 5 * 242**0.5


def test_neighbours_do_not_stay_together():
    """Neighbouring windows share most of their frames: they must not share a batch."""
    found = order(30_000).astype(float)
    assert abs(np.corrcoef(found[:-1], found[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(np.arange(len(found)), found)[0, 1]) < 0.03
