"""Configs by name: the files in `configs`, of a checkout or of an installed package."""

import ast
from collections.abc import Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from mimii_jax.defaults import flatten
from mimii_jax.errors import ConfigError

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
