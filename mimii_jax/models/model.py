"""Interface of a model."""

from typing import Protocol

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

Examples = Float[Array, "batch frame bin"]
Segments = Float[Array, "batch segment bin"]


class RunVariable(nnx.Variable):
    """Hyper-parameter that may differ between runs; never trained."""


class Model(Protocol):
    """An nnx module whose constructor takes a shape, its fields, `dtype` and `rngs`.

    One that takes `n_classes`, too, has a `RunVariable` "present" [class], and its loss
    the arguments x, key, labels [batch], and the number of rows that aren't padding.
    One without `predict` and `error` has other representations, and no explanations.
    """

    def loss(self, x: Examples, key: Array) -> Float[Array, " batch"]:
        """Training loss of each example."""
        ...

    def error(self, x: Examples) -> Segments:
        """Squared error, mean over the frames of each segment; deterministic."""
        ...

    def predict(self, x: Examples) -> Examples:
        """Expected frames; NaN where nothing is predicted."""
        ...

    def segment_centres(self) -> Float[np.ndarray, " segment"]:
        """Middle of each segment, in frames from the example's start."""
        ...
