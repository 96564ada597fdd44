"""Cells for the tests of the runner; worker processes import this."""

import os
from dataclasses import dataclass

from experiments.cell import Cell


@dataclass(frozen=True)
class Dies(Cell):
    """Ends its process at once, as one does that has used up the memory."""

    def build(self, options):
        os._exit(1)


@dataclass(frozen=True)
class Breaks(Cell):
    """Has an error that nobody thought of."""

    def build(self, options):
        raise ZeroDivisionError("a\nb")


def controls(name, **changes):
    """A cell that is over in a second."""
    small = {"features.n_mels": 16, "eval.bootstrap": 20}
    return Cell(name, "controls", small | changes)
