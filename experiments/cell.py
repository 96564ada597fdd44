"""One cell of a study: a config with changes, trained on one or more sets of clips."""

import ast
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import jax

import configs
from experiments.training_sets import ALL
from mimii_jax.config import Config
from mimii_jax.errors import ConfigError

RESULT = "cell.json"
BEGUN = "begun.json"
SIMULATED = "simulated"


class NotAvailable(Exception):
    """A config file that is not there: the cell is reported, and is no failure."""


@dataclass(frozen=True)
class Cell:
    """What one cell runs.

    Attributes
    ----------
    name : of its row in the table; its folder is named after it
    config : file and variant below configs/, such as "mlp_vae:reference"
    small : another one, for less than the whole data set; "": the same
    changes : values of fields of the config, such as {"train.epochs": 5}
    sets : kinds of training sets, as in `experiments.training_sets`
    scorings : names, and changes that apply when the trained model scores; one
        training serves all. Empty: as the config says
    """

    name: str
    config: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    sets: Sequence[str] = (ALL,)
    scorings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    small: str = ""

    @property
    def folder(self) -> str:
        """A name for its workdir."""
        return re.sub(r"[^\w.+-]+", "_", self.name).strip("_")

    def spec(self, options: "Options") -> str:
        """Which of its configs is meant."""
        whole = (options.train_share or 1) >= 1
        return self.config if whole or not self.small else self.small

    def build(self, options: "Options") -> Config:
        """Its config.

        Raises
        ------
        NotAvailable : there is no such config file
        ConfigError : it has no such variant, or no field of that name
        """
        file, _, variant = self.spec(options).partition(":")
        if not find_spec(f"configs.{file}"):
            raise NotAvailable(f"configs/{file}.py is not there")
        try:
            config = import_module(f"configs.{file}").get_config(variant or "default")
        except ValueError as error:
            raise ConfigError(f"configs/{file}.py: {error}") from error
        for name, text in options.overrides:
            if has_field(config, name):
                set_field(config, name, text)
        for name, value in self.changes.items():  # what the cell is about
            set_field(config, name, value)
        return config


@dataclass(frozen=True)
class Options:
    """What is the same for all cells of a command.

    Attributes
    ----------
    command : as it was typed
    overrides : (field, text) of each --config.field=text, for the configs that have it
    evaluation : folder of test clips of further machine IDs, or `SIMULATED`; "": none
    train_share, test_share : of the official number of clips, per ID and label; None
        for what the config says: all recordings, or data.scale of the simulation
    """

    command: str = ""
    overrides: tuple[tuple[str, str], ...] = ()
    evaluation: str = ""
    train_share: float | None = None
    test_share: float | None = None


def require_known(options: Options) -> None:
    """Refuse a field on the command line that no config of this repository has.

    One that only some of them have is set in those.

    Raises
    ------
    ConfigError : names it
    """
    modules = [
        import_module(f"configs.{m.name}") for m in iter_modules(configs.__path__)
    ]
    known = [m.get_config() for m in modules if hasattr(m, "get_config")]
    for name, _ in options.overrides:
        if not any(has_field(config, name) for config in known):
            raise ConfigError(f"--config.{name}: there is no such field in configs/")


def has_field(config: Config, name: str) -> bool:
    """Whether there is a field of this full name."""
    *sections, last = name.split(".")
    for section in sections:
        config = config.get(section)
        if not hasattr(config, "keys"):
            return False
    return last in config


def set_field(config: Config, name: str, value: Any) -> None:
    """Set a field, from its value or from text on a command line.

    Raises
    ------
    ConfigError : there is no such field, or the value is of another type
    """
    if not has_field(config, name):
        raise ConfigError(f"{name}: no such field in this config")
    *sections, last = name.split(".")
    for section in sections:
        config = config[section]
    try:
        config[last] = _of_type(config[last], value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{name}={value}: {' '.join(str(error).split())}") from error


def _of_type(known: Any, value: Any) -> Any:
    """The value that a text spells, of the type of the known one."""
    if not isinstance(value, str) or isinstance(known, str):
        return value
    try:
        value = ast.literal_eval(value)
    except SyntaxError as error:
        raise ValueError("not a value; text in a tuple needs quotes") from error
    if isinstance(known, tuple):
        return value if isinstance(value, tuple) else (value,)
    return float(value) if isinstance(known, float) else value


def split_overrides(rest: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Each --config.field=text of a command line as (field, text).

    Raises
    ------
    ConfigError : an argument is something else
    """
    found = [re.fullmatch(r"--config\.([\w.]+)=(.*)", text) for text in rest]
    for text, match in zip(rest, found, strict=True):
        if not match:
            raise ConfigError(f"{text}: not known; see --help")
    return tuple((m[1], m[2]) for m in found if m)


def write_result(
    workdir: Path, cell: Cell, config: Config, options: Options, since: float
) -> None:
    """Write the file that says that a cell is done, and how it was made."""
    result = _asked(cell, config, options) | {
        "name": cell.name,
        "command": options.command,
        "seconds": round(time.time() - since, 1),
        "commit": commit(),
        "python": sys.version.split()[0],
        "jax": jax.__version__,
        "process": f"{socket.gethostname()} {os.getpid()}",
        "devices": f"{len(jax.devices())} x {jax.devices()[0].device_kind}",
    }
    _write(workdir, result)


def _write(workdir: Path, result: dict[str, Any]) -> None:
    temporary = workdir / f".{RESULT}"
    temporary.write_text(json.dumps(result, indent=2) + "\n")
    temporary.replace(workdir / RESULT)


def is_done(workdir: Path, cell: Cell, config: Config, options: Options) -> bool:
    """Whether a cell has its result.

    Raises
    ------
    ConfigError : it has one, but of another config
    """
    try:
        known = json.loads((workdir / RESULT).read_text())
    except FileNotFoundError:
        return False
    if not _answers(known, _asked(cell, config, options)):
        raise ConfigError(f"{workdir}: is of other settings; choose another --out")
    return True


def begin(workdir: Path, cell: Cell, config: Config, options: Options) -> None:
    """Note what a cell is about before it trains.

    Raises
    ------
    ConfigError : it was begun with other settings, whose checkpoints are there
    """
    asked, path = _asked(cell, config, options), workdir / BEGUN
    if path.exists() and json.loads(path.read_text()) != asked:
        raise ConfigError(
            f"{workdir}: was begun with other settings; choose another --out, or "
            "remove it"
        )
    path.write_text(json.dumps(asked, indent=2) + "\n")


def same_result(cell: Cell, config: Config, options: Options, out: Path) -> Path | None:
    """The workdir below `out` of a cell of another study that is done and the same."""
    asked = _asked(cell, config, options)
    for path in (*out.glob(f"*/{RESULT}"), *out.glob(f"*/*/{RESULT}")):
        if _answers(json.loads(path.read_text()), asked):
            return path.parent
    return None


def copy_result(found: Path, workdir: Path, cell: Cell) -> None:
    """Take over how another cell was made."""
    result = json.loads((found / RESULT).read_text())
    _write(workdir, result | {"name": cell.name, "same_as": found.name})


def _asked(cell: Cell, config: Config, options: Options) -> dict[str, Any]:
    """All that the numbers of a cell depend on, as JSON has it."""
    own = {k: v for k, v in vars(options).items() if k not in ("command", "overrides")}
    asked = {
        "config": config.to_dict(),
        "sets": cell.sets,
        "scorings": cell.scorings,
        "options": own,
    }
    return json.loads(json.dumps(asked))


def _answers(result: dict[str, Any], asked: dict[str, Any]) -> bool:
    return all(result.get(key) == value for key, value in asked.items())


def commit() -> str:
    """The commit of this source, with a + if it was changed since; "" if unknown."""
    command = ["git", "describe", "--always", "--abbrev=12", "--dirty=+"]
    folder = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()
