"""A cell of a study: a config with changes, trained into a workdir."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimii_jax.defaults import ConfigDict, flatten
from mimii_jax.errors import ConfigError
from mimii_jax.named import FOLDER, load_config, set_fields
from mimii_jax.results.table import Scores, read_scores
from mimii_jax.workdir import Workdir

Config = Any  # a ConfigDict, of whose fields a type checker knows nothing
ALL, TYPE, EXTRA = "all", "type", "all + simulated"
FREE_GENERATION = {"horizon": None, "representation": "error"}
MATRIX = (ALL, "id", "downsampled", "without", "all, then id")
"""Training sets of the cross-ID matrix; three of them are a row per machine ID."""


@dataclass(frozen=True)
class Options:
    """Settings that all cells of a command share."""

    overrides: tuple[tuple[str, str], ...] = ()  # of --config.field=text
    train_share: float | None = None  # of the official clips; None: the config's
    test_share: float | None = None


@dataclass(frozen=True)
class Cell:
    """One experiment of a study."""

    name: str  # of its row in tables, and of its folder
    config: str  # file and variant below configs/, such as "mlp_vae:reference"
    changes: Mapping[str, Any] = field(default_factory=dict)  # {"train.epochs": 5}
    training_sets: Sequence[str] = (ALL,)
    scorings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fuse_with: Sequence[str] = ()  # as in the config
    small: str = ""  # config for less than the whole data set; "": the same

    @property
    def folder(self) -> str:
        """Name of its workdir."""
        return re.sub(r"[^\w.+-]+", "_", self.name).strip("_")

    def spec(self, options: Options) -> str:
        """Choose between `config` and `small`."""
        whole = (options.train_share or 1) >= 1
        return self.config if whole or not self.small else self.small

    def build(self, options: Options) -> Config:
        """Build its config: that of the file, the command line's fields, its own."""
        config = load_config(self.spec(options))
        known = flatten(config)
        fields: dict[str, Any] = {n: t for n, t in options.overrides if n in known}
        if options.train_share and options.test_share:
            fields["data.train_share"] = options.train_share
            fields["data.test_share"] = options.test_share
            fields["data.scale"] = 1.0
        set_fields(config, {**fields, **self.changes})
        config.training_sets = tuple(self.training_sets)
        config.scorings = ConfigDict(dict(self.scorings))
        config.fuse_with = tuple(self.fuse_with)
        return config


def require_known(options: Options) -> None:
    """Refuse a field on the command line that no config in configs/ has."""
    names = [path.stem for path in FOLDER.glob("[!_]*.py")]
    known = {field for name in names for field in flatten(load_config(name))}
    for name, _ in options.overrides:
        if name not in known:
            raise ConfigError(f"--config.{name}: no such field in configs/")


def read_cell(name: str, workdir: Path, file: str = "scores.csv") -> Scores:
    """Read the scores of a cell, its rows named after it; others keep their names."""
    config: Config = Workdir(workdir).read_config()
    detector = config.detector.name
    return read_scores(workdir / file).renamed(
        lambda row: name + row[len(detector) :] if row.startswith(detector) else row
    )
