"""Training examples augmented anew in every step, on the device."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import jax
from jaxtyping import Array, Float, Int

from mimii_jax.features.augmentations import (
    FILLS,
    MEAN,
    cutout,
    gain,
    mixup,
    noise,
    spec_augment,
    warp,
)

OF_EXAMPLES: dict[str, Callable[..., Array]] = {
    "spec_augment": spec_augment,
    "cutout": cutout,
    "warp": warp,
    "gain": gain,
    "noise": noise,
}
OF_BATCHES: dict[str, Callable[..., Array]] = {"mixup": mixup}
LARGEST = 1e6  # so that nothing overflows
COUNTS = ("time_masks", "frequency_masks", "holes")  # compiled in, as is the fill


@dataclass(frozen=True, eq=False)
class Augment:
    """Augmentations one after the other.

    Attributes
    ----------
    names : which, in their order
    fixed : for each, the fields that are compiled in
    values : strengths and probabilities, in which runs may differ, by full names such
        as "spec_augment.time_width"
    """

    names: Sequence[str]
    fixed: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, float]

    @classmethod
    def of(cls, names: Sequence[str], fields: Mapping[str, Mapping[str, Any]]) -> Self:
        """Of the fields of every augmentation; ValueError names a bad one."""
        fixed, values = {}, {}
        for name in names:
            if name not in OF_EXAMPLES | OF_BATCHES:
                raise ValueError(
                    f"augment.names={tuple(names)}: must be of "
                    f"{', '.join(OF_EXAMPLES | OF_BATCHES)}"
                )
            fixed[name] = {
                k: v for k, v in fields[name].items() if k == "fill" or k in COUNTS
            }
            for field in sorted(fields[name].keys() - fixed[name].keys()):
                values[f"{name}.{field}"] = float(fields[name][field])
        return cls(tuple(names), fixed, values)

    def __post_init__(self) -> None:
        for name, value in self.values.items():
            share = name.endswith("probability") or name == "mixup.strength"
            if not 0 <= value <= (1 if share else LARGEST):
                bound = "from 0 to 1" if share else "0 or more"
                raise ValueError(f"augment.{name}={value:g}: must be {bound}")
        for name, fields in self.fixed.items():
            for field in fields.keys() & COUNTS:
                if not fields[field] >= 0:
                    raise ValueError(
                        f"augment.{name}.{field}={fields[field]}: must be 0 or more"
                    )
            if fields.get("fill", MEAN) not in FILLS:
                raise ValueError(
                    f"augment.{name}.fill='{fields['fill']}': must be one of "
                    f"{', '.join(FILLS)}"
                )

    def changed(self, changes: Mapping[str, float]) -> Self:
        """With other values, as far as they are of augmentations."""
        values = {name: changes.get(name, old) for name, old in self.values.items()}
        return replace(self, values=values)

    def __call__(
        self,
        values: Mapping[str, Array],
        key: Array,
        x: Float[Array, "batch frame bin"],
        n: Int[Array, ""],
    ) -> Float[Array, "batch frame bin"]:
        """Augmented examples, of which the first n count."""
        for number, name in enumerate(self.names):
            own = jax.random.fold_in(key, number)
            fields = {
                full.partition(".")[2]: value
                for full, value in values.items()
                if full.startswith(f"{name}.")
            }
            if name in OF_BATCHES:
                x = OF_BATCHES[name](own, x, n, **fields)
                continue
            one = partial(OF_EXAMPLES[name], **fields, **self.fixed[name])
            x = jax.vmap(one)(jax.random.split(own, len(x)), x)
        return x
