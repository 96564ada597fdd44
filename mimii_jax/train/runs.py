"""A run is one training; many runs are trained at once, with shared settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int, Shaped

from mimii_jax.errors import require, require_positive
from mimii_jax.features.windows import Standardiser

PER_RUN = frozenset({"epochs", "learning_rate"})  # settings in which runs may differ
SCHEDULES = ("constant", "cosine")

ALL, DOWNSAMPLED, EXTRA = "all", "downsampled", "all + simulated"
ID, WITHOUT, TUNED, TYPE = "id", "without", "all, then id", "type"
# Kinds of training sets; "id", "without" and "all, then id" have one per machine ID,
# "type" one per machine type where one model is trained over several.
MATRIX = (ALL, ID, DOWNSAMPLED, WITHOUT, TUNED)


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A trained model: parameters by path, and its standardiser."""

    params: Mapping[tuple, np.ndarray]
    standardiser: Standardiser


@dataclass(frozen=True, eq=False)
class Run:
    """Settings and clips of one run."""

    seed: int  # of the initialisation, the order of examples and the noise
    clips: Int[np.ndarray, " clip"]  # rows of the training clips
    # rows of the held-out clips
    validation: Int[np.ndarray, " clip"] = field(default_factory=lambda: np.arange(0))
    # settings that differ from the config's, by name: "epochs", "learning_rate", a
    # number of an augmentation such as "warp.scale", or a `RunVariable` of the model
    # such as "kl_weight"
    changes: Mapping[str, Any] = field(default_factory=dict)
    pretrained: Pretrained | None = None  # initial parameters; None: random ones


class Labels(NamedTuple):
    """Class, or group, of each clip."""

    train: Int[np.ndarray, " clip"]
    held_out: Int[np.ndarray, " clip"]


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """A row of the cross-ID matrix."""

    name: str  # such as "all", "id 00", "without 00" or "all, then id 00"
    clips: Int[np.ndarray, " clip"]  # as in `Run`
    validation: Int[np.ndarray, " clip"]  # as in `Run`
    tuned: bool = False  # whether training starts from the model trained on all


def training_sets(
    train_ids: Shaped[np.ndarray, " clip"],
    held_out_ids: Shaped[np.ndarray, " clip"],
    kinds: Sequence[str],
    n_own: int | None = None,
) -> list[TrainingSet]:
    """Training sets of these kinds; of a single machine ID only `ALL` and `EXTRA`.

    Training clips from `n_own` on are simulated; only `EXTRA` has them.
    """
    own = train_ids[:n_own]
    ids = np.unique(own).tolist()
    rows = {i: np.flatnonzero(own == i) for i in ids}
    fewest = min(map(len, rows.values()))
    # One draw for all seeds: a draw per seed would add noise to the comparison.
    draw = np.random.default_rng(0).permutation
    downsampled = np.concatenate([draw(rows[i])[:fewest] for i in ids])

    def row(name: str, clips: np.ndarray, tuned: bool = False) -> TrainingSet:
        validation = np.flatnonzero(np.isin(held_out_ids, train_ids[clips]))
        return TrainingSet(name, clips, validation, tuned)

    found = {
        ALL: [row(ALL, np.arange(len(own)))],
        EXTRA: [row(EXTRA, np.arange(len(train_ids)))],
    }
    if len(ids) > 1:
        found |= {
            DOWNSAMPLED: [row(DOWNSAMPLED, np.sort(downsampled))],
            ID: [row(f"{ID} {i}", rows[i]) for i in ids],
            WITHOUT: [row(f"{WITHOUT} {i}", np.flatnonzero(own != i)) for i in ids],
            TUNED: [row(f"{TUNED} {i}", rows[i], tuned=True) for i in ids],
        }
    types = np.array([str(one).partition("/")[0] for one in own])
    if len(kinds_of := np.unique(types)) > 1 and all("/" in str(i) for i in ids):
        of = {one: np.flatnonzero(types == one) for one in kinds_of.tolist()}
        found[TYPE] = [row(f"{TYPE} {one}", clips) for one, clips in of.items()]
    return [one for kind in kinds for one in found.get(kind, ())]


@dataclass(frozen=True)
class CheckpointPolicy:
    """Steps or minutes from one checkpoint to the next; None: not by these."""

    every_steps: int | None = None
    every_minutes: float | None = None

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require(
                value is None or value > 0,
                f"checkpoint.{name}={value}: must be positive; None turns it off",
            )


class Augment(Protocol):
    """Augmentation of training examples."""

    @property
    def values(self) -> Mapping[str, float]:
        """Numbers in which runs may differ, by name."""
        ...

    def changed(self, changes: Mapping[str, float]) -> "Augment":
        """Copy with the numbers that a run changes."""
        ...

    def __call__(
        self, values: Mapping[str, Array], key: Array, x: Array, n: Array
    ) -> Array:
        """Augment a batch [example, frame, bin]; rows from n on are padding."""
        ...


@dataclass(frozen=True)
class Settings:
    """Settings that all runs share."""

    epochs: int  # each visits every example once, in a fresh order
    batch_size: int  # the last batch of an epoch may be smaller
    learning_rate: float  # the peak, for Adam
    schedule: str  # "constant" or "cosine" (to zero at the end)
    warmup: float  # share of all steps with a linear rise from zero
    # parts of the model that are not trained, such as "encoder" or "encoder.0"
    freeze: tuple[str, ...] = ()
    # of standardised training examples; None: no augmentation
    augment: Augment | None = None
    weight_decay: float = 0.0  # of every parameter per step, times the learning rate

    def __post_init__(self) -> None:
        require_positive(
            "train",
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
        )
        require(
            self.schedule in SCHEDULES,
            f"train.schedule='{self.schedule}': must be one of {', '.join(SCHEDULES)}",
        )
        decay = self.weight_decay
        require(decay >= 0, f"train.weight_decay={decay}: must be 0 or more")
        message = f"train.warmup={self.warmup}: must be in [0, 1)"
        require(0 <= self.warmup < 1, message)

    def of(self, run: Run) -> "Settings":
        """The settings of one run."""
        own: Any = {k: v for k, v in run.changes.items() if k in PER_RUN}
        if self.augment:
            own["augment"] = self.augment.changed(run.changes)
        return replace(self, **own)

    @property
    def per_run(self) -> frozenset[str]:
        """Names of the settings in which runs may differ."""
        return PER_RUN.union(self.augment.values if self.augment else ())

    def rate(self, step: Array, total: Array, peak_lr: Array) -> Array:
        """Learning rate at `step` of `total`."""
        rise = jnp.round(self.warmup * total)
        share = jnp.minimum((step - rise) / jnp.maximum(total - rise, 1), 1)
        rate = 0.5 * (1 + jnp.cos(jnp.pi * share)) if self.schedule == "cosine" else 1.0
        return peak_lr * jnp.where(step < rise, step / jnp.maximum(rise, 1), rate)

    def split(self, model: Any) -> tuple[nnx.GraphDef, Any, Any]:
        """Graph, trained and fixed variables; ConfigError if `freeze` doesn't fit."""

        def within(path: Sequence[Any], part: str) -> bool:
            return f"{'.'.join(map(str, path))}.".startswith(f"{part}.")

        def trained(path: Sequence[Any], value: Any) -> bool:
            frozen = any(within(path, part) for part in self.freeze)
            return isinstance(value, nnx.Param) and not frozen

        where = f"train.freeze={self.freeze}"
        paths = [path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))]
        parts = ", ".join(sorted({str(path[0]) for path in paths}))
        for part in self.freeze:
            known = any(within(path, part) for path in paths)
            require(known, f"{where}: the model has no {part}; its parts: {parts}")
        graph, params, fixed = nnx.split(model, trained, ...)
        require(bool(jax.tree.leaves(params)), f"{where}: leaves nothing to train")
        return graph, params, fixed
