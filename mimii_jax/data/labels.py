"""The organisers' labels of the evaluation clips, whose names have none.

`eval_data_list.csv` has for each machine type a line with its name, then a line per
clip: published name, name with the label, 0 (normal) or 1 (anomalous).
"""

import csv
from collections.abc import Mapping
from pathlib import Path

from mimii_jax.data.clips import ANOMALOUS, NORMAL
from mimii_jax.data.layouts import parse_name
from mimii_jax.errors import DataError

FILE = "eval_data_list.csv"
Labels = Mapping[tuple[str, str], int]  # (machine type, published name) -> label


def read_labels(path: Path) -> Labels:
    """Read a label list: (machine type, published name) -> NORMAL or ANOMALOUS.

    Raises
    ------
    DataError : it cannot be read, or a line is malformed or contradicts itself or one
        before; the message names the line
    """
    labels: dict[tuple[str, str], int] = {}
    machine_type = ""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for line in reader:
                where = f"{path}:{reader.line_num}"
                if len(line) == 1:
                    (machine_type,) = line
                elif line:
                    name, label = _clip(line, where)
                    if not machine_type:
                        raise DataError(f"{where}: no machine type before the clips")
                    if labels.setdefault((machine_type, name), label) != label:
                        raise DataError(f"{where}: another label for {name} before")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a label list: {error}") from None
    if not labels:
        raise DataError(f"{path}: no labels in it")
    return labels


def labels_of(root: Path, path: str) -> Labels:
    """The labels in `path`; where it is "", those of a list in or beside `root`."""
    if path:
        return read_labels(Path(path).expanduser())
    for file in (root / FILE, root.absolute().parent / FILE):
        if file.is_file():
            return read_labels(file)
    return {}


def _clip(line: list[str], where: str) -> tuple[str, int]:
    """Published name and label that a line gives."""
    if len(line) != 3 or line[2] not in ("0", "1"):
        raise DataError(
            f"{where}: expected a machine type, or name,name with label,0 or 1"
        )
    name, named, label = line[0], line[1], (NORMAL, ANOMALOUS)[int(line[2])]
    try:
        said, machine_id, _ = parse_name(named)
        contradiction = said != label or parse_name(name)[1] != machine_id
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    if contradiction:
        raise DataError(f"{where}: {name}, {named} and {line[2]} contradict each other")
    return name, label
