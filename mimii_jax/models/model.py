"""Interface of a model, and the settings that make one."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, DTypeLike, Float

from mimii_jax.errors import ConfigError, require

CLASSES = "n_classes"  # field of a model that learns to tell machine IDs apart

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


@dataclass(frozen=True)
class ModelSpec:
    """A model's class and constructor fields, without its shape."""

    model: type
    fields: Mapping[str, Any]
    dtype: DTypeLike = jnp.float32
    n_classes: int = 1  # machine IDs of the training, if the model classifies

    def __post_init__(self) -> None:
        # Not of the class: its metaclass takes any arguments.
        parameters = inspect.signature(self.model.__init__).parameters
        given = ("self", "shape", "dtype", "rngs", CLASSES)
        known = {name: p for name, p in parameters.items() if name not in given}
        fields = f"the fields of {self.model.__name__} are {', '.join(known)}"
        for name in sorted(self.fields.keys() - known.keys()):
            raise ConfigError(f"detector.{name}: unknown; {fields}")
        for name, parameter in known.items():
            found = name in self.fields or parameter.default is not parameter.empty
            require(found, f"detector.{name}: missing; {fields}")

    def __call__(self, shape: Sequence[int], *, rngs: nnx.Rngs) -> Any:
        """A model for examples of this shape."""
        more = {CLASSES: self.n_classes} if self.classifies else {}
        return self.model(shape, **self.fields, **more, dtype=self.dtype, rngs=rngs)

    @property
    def classifies(self) -> bool:
        """Whether the model learns to tell machine IDs apart."""
        return CLASSES in inspect.signature(self.model.__init__).parameters
