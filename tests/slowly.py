"""Parameters of a test that `pytest -m slow` runs, beside the quick ones."""

import pytest


def slow(*values, **options):
    """A row of `parametrize` that the default suite leaves out."""
    return pytest.param(*values, marks=pytest.mark.slow, **options)
