"""How to train: what all runs share, and in which numbers they may differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array

from mimii_jax.train.runs import Run

OF_SETTINGS = frozenset({"epochs", "learning_rate"})  # in which runs may differ
SCHEDULES = ("constant", "cosine")


class Augment(Protocol):
    """How examples are changed before a model is trained on them."""

    @property
    def values(self) -> Mapping[str, float]:
        """Numbers in which runs may differ, by name."""
        ...

    def changed(self, changes: Mapping[str, float]) -> "Augment":
        """With the numbers of a run that differs in some."""
        ...

    def __call__(
        self, values: Mapping[str, Array], key: Array, x: Array, n: Array
    ) -> Array:
        """Examples [batch, frame, bin], of which the first n count, changed."""
        ...


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes
    ----------
    epochs : int > 0; each visits every example once, in a fresh order
    batch_size : int > 0; the last batch of an epoch may be smaller
    learning_rate : float > 0, the peak, for Adam
    schedule : "constant" or "cosine" (to zero at the end)
    warmup : float in [0, 1), share of all steps with a linear rise from zero
    freeze : parts of the model that are not trained, such as "encoder" or "encoder.0"
    augment : of the standardised examples, for the training loss alone; None: nothing
    """

    epochs: int
    batch_size: int
    learning_rate: float
    schedule: str
    warmup: float
    freeze: tuple[str, ...] = ()
    augment: Augment | None = None

    def __post_init__(self) -> None:
        for field in ("epochs", "batch_size", "learning_rate"):
            if not getattr(self, field) > 0:
                raise ValueError(
                    f"train.{field}={getattr(self, field)}: must be positive"
                )
        if self.schedule not in SCHEDULES:
            raise ValueError(
                f"train.schedule='{self.schedule}': must be one of "
                f"{', '.join(SCHEDULES)}"
            )
        if not 0 <= self.warmup < 1:
            raise ValueError(f"train.warmup={self.warmup}: must be in [0, 1)")

    def of(self, run: Run) -> "Settings":
        """The settings of one run; what else it changes belongs to its model."""
        own: Any = {k: v for k, v in run.changes.items() if k in OF_SETTINGS}
        if self.augment:
            own["augment"] = self.augment.changed(run.changes)
        return replace(self, **own)

    @property
    def may_differ(self) -> frozenset[str]:
        """Names of the settings in which runs may differ."""
        return OF_SETTINGS.union(self.augment.values if self.augment else ())

    def rate(self, step: Array, total: Array, peak: Array) -> Array:
        """Learning rate at a step of so many."""
        rise = jnp.round(self.warmup * total)
        share = jnp.minimum((step - rise) / jnp.maximum(total - rise, 1), 1)
        rate = 0.5 * (1 + jnp.cos(jnp.pi * share)) if self.schedule == "cosine" else 1.0
        return peak * jnp.where(step < rise, step / jnp.maximum(rise, 1), rate)

    def split(self, model: Any) -> tuple[nnx.GraphDef, Any, Any]:
        """Structure of a model, its variables that are trained, and the others.

        Raises
        ------
        ValueError : `freeze` names no part of the model, or all of it
        """

        def within(path: Sequence[Any], part: str) -> bool:
            return f"{'.'.join(map(str, path))}.".startswith(f"{part}.")

        paths = [path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))]
        for part in self.freeze:
            if not any(within(path, part) for path in paths):
                raise ValueError(f"train.freeze={self.freeze}: no part is named {part}")

        def trained(path: Sequence[Any], value: Any) -> bool:
            frozen = any(within(path, part) for part in self.freeze)
            return isinstance(value, nnx.Param) and not frozen

        graph, params, fixed = nnx.split(model, trained, ...)
        if not jax.tree.leaves(params):
            raise ValueError(f"train.freeze={self.freeze}: leaves nothing to train")
        return graph, params, fixed
