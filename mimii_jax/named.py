"""Configs by name, also as --config: of a checkout or of an installed package."""

import ast
import sys
import traceback
from collections.abc import Iterator, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from absl import flags

from mimii_jax.command import FAILED
from mimii_jax.defaults import flatten
from mimii_jax.errors import ConfigError
from mimii_jax.files import printable

_PACKAGE = Path(__file__).parent
# A wheel carries them inside the package; in a checkout they lie beside it.
_INSIDE = _PACKAGE / "configs"
FOLDER = _INSIDE if _INSIDE.is_dir() else _PACKAGE.parent / "configs"


def find_config(spec: str) -> str:
    """Path of a config, with its variant: of a file, or of a name in `configs`.

    "configs/mlp_vae.py:quick", "mlp_vae:quick"; a file that exists comes first.
    """
    file, colon, variant = spec.partition(":")
    own = FOLDER / f"{file.removeprefix('configs/').removesuffix('.py')}.py"
    named = own.is_file() and not own.name.startswith("_")
    found = own if named and not Path(file).is_file() else Path(file)
    return f"{found}{colon}{variant}"


def load_config(spec: str) -> Any:
    """Load a ConfigDict by name or file, and variant."""
    file, _, variant = find_config(spec).partition(":")
    path = Path(file)
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in FOLDER.glob("[!_]*.py")))
        raise ConfigError(f"{spec}: no such config; there are {known}")
    found = spec_from_file_location(f"_config_{path.stem}", path)
    assert found
    assert found.loader
    module = module_from_spec(found)
    try:
        found.loader.exec_module(module)
        return module.get_config(variant or "default")
    except ValueError as error:
        raise ConfigError(f"{path.name}: {error}") from error
    except Exception as error:  # a config is a program: it can fail in any way
        raise ConfigError(f"{path}: {type(error).__name__}: {error}") from error


def set_fields(config: Any, fields: Mapping[str, Any]) -> None:
    """Set fields by their full names, from values or a command line's text."""
    known = flatten(config)
    for name, value in fields.items():
        if name not in known:
            raise ConfigError(f"{name}: no such field in this config")
        try:
            word = isinstance(known[name], tuple) and str(value).isidentifier()
            if isinstance(value, str) and not isinstance(known[name], str) and not word:
                value = ast.literal_eval(value)  # a word is a tuple's only item
            if isinstance(known[name], tuple) and not isinstance(value, tuple):
                value = (value,)
            config.update_from_flattened_dict({name: value})
        except (SyntaxError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"{name}={value}: {reason}") from error


def parse_flags(config: flags.FlagHolder, argv: list[str]) -> list[str]:
    """Parse the flags of a command with a config; print a mistake as one line."""
    argv, file = list(argv), "\0"  # what no path ends with
    try:
        for i, before in _config_places(argv):  # so that any folder will do
            found = find_config(argv[i].removeprefix(before))
            argv[i], file = before + found, found.split(".py")[0] + ".py"
        rest = flags.FLAGS(argv)
        if config.value is not None:
            config.value.keys()  # raises what went wrong when its file was loaded
        return rest
    except SystemExit:  # by --help, for absl with 1
        sys.exit(0)
    except flags.Error as error:
        text = str(error)
    except Exception as error:  # a config is a program: it can fail in any way
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if f.filename.endswith(file)]
        place = f"{own[-1].filename}:{own[-1].lineno}: " if own else ""
        if isinstance(error, SyntaxError) and error.filename:
            place = f"{error.filename}:{error.lineno}: "
        text = f"--config: {place}{type(error).__name__}: {error}"
        if "'get_config'" in str(error):
            text = f"--config: {file}: defines no get_config()"
        elif not own and isinstance(error, AttributeError | LookupError):
            text = f"--config: unknown field: {' '.join(map(str, error.args))}"
        elif not own and isinstance(error, OSError):
            text = f"--config: {str(error).strip().splitlines()[-1].strip()}"
    print(f"error: {printable(' '.join(text.split()))}", file=sys.stderr)
    sys.exit(FAILED)


def _config_places(argv: list[str]) -> Iterator[tuple[int, str]]:
    """Yield the places of --config's value, and the text before it there."""
    for i, text in enumerate(argv):
        flag, equals, _ = text.partition("=")
        if text.startswith("-") and flag.lstrip("-") == "config":
            if equals:
                yield i, f"{flag}="
            elif i + 1 < len(argv):
                yield i + 1, ""
