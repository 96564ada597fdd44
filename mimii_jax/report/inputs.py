"""Read a workdir's config.json, run.json and metrics.jsonl; no JAX."""

import json
from pathlib import Path
from typing import Any

from mimii_jax import files
from mimii_jax.errors import DataError

Fields = dict[str, Any]


def read_json(path: Path) -> Fields:
    """An object from a JSON file; empty without the file."""
    if not path.is_file():
        return {}
    content = files.read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object")
    return content


def section(config: Fields, name: str) -> Fields:
    """A section of a config.json; empty without it."""
    fields = config.get(name, {})
    if not isinstance(fields, dict):
        raise DataError(f"config.json: {name}: expected a section of fields")
    return fields


def source(config: Fields) -> str:
    """Either "recordings" or "simulated"; empty if a config.json doesn't say."""
    root = section(config, "data").get("root")
    return "" if root is None else "recordings" if root else "simulated"


def read_metrics(path: Path) -> dict[str, list[Fields]]:
    """Rows of a metrics.jsonl by stage of the training; empty without the file."""
    if not path.is_file():
        return {}
    stages: dict[str, list[Fields]] = {}
    with files.file_errors(path):
        lines = path.read_bytes().split(b"\n")[:-1]  # the last may lack its end
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            stage, _ = str(row.get("stage", row["machine_type"])), int(row["epoch"])
        except (ValueError, LookupError, TypeError, AttributeError):
            raise DataError(
                f"{path}:{number}: expected a JSON object with machine_type and epoch"
            ) from None
        stages.setdefault(stage, []).append(row)
    return stages
