"""The organisers' labels of evaluation clips, whose published names have none.

A list (one file) has a line with a machine type, then a line per clip: published name,
name with the label, and in 2020 also 0 (normal) or 1 (anomalous). The evaluators of
later years have files ground_truth_<type>_section_<NN>_test.csv, in 2021 one for each
domain, in folders

    ground_truth_data/          name,0 (normal) or 1 (anomalous)
    ground_truth_domain/        name,0 (source) or 1 (target)
    ground_truth_attributes/    name,name with label, domain and attributes
"""

import csv
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from mimii_jax.data.clips import UNKNOWN
from mimii_jax.data.layouts import AUDIO, NAMED, named_domain, parse_name
from mimii_jax.errors import DataError
from mimii_jax.files import file_errors

LABEL_LIST = "eval_data_list.csv"
DOMAINS = ("source", "target")
TRUTH, OF_DOMAINS = "ground_truth_*.csv", "ground_truth_domain"
_TRUTH = re.compile(r"ground_truth_(.+)_section_\d\d(?:_(source|target))?_test\.csv")


class Label(NamedTuple):
    """Label and domain of a clip, as far as known."""

    label: int  # NORMAL, ANOMALOUS or UNKNOWN
    domain: str = ""  # of `DOMAINS`; "": unknown


Labels = Mapping[tuple[str, str], Label]  # by machine type and published name
NOTHING = Label(UNKNOWN)


def read_labels(path: Path) -> Labels:
    """Read a list of labels, an evaluator's file of them, or all in its folder."""
    files = _truth_files(path) if path.is_dir() else [path]
    if path.is_dir() and (path / LABEL_LIST).is_file():
        files.append(path / LABEL_LIST)
    labels: dict[tuple[str, str], Label] = {}
    for file in files:
        for where, key, new in _lines(file):
            known = labels.get(key, NOTHING)
            found = Label(
                new.label if known.label == UNKNOWN else known.label,
                known.domain or new.domain,
            )
            if new.label not in (UNKNOWN, found.label):
                raise DataError(f"{where}: {key[1]} has another label above")
            if new.domain not in ("", found.domain):
                raise DataError(f"{where}: {key[1]} has another domain above")
            labels[key] = found
    if not labels:
        raise DataError(f"{path}: no labels in it")
    return labels


def find_labels(root: Path, path: str) -> Labels:
    """The labels in `path`; where it is "", those in or beside `root`."""
    if path:
        return read_labels(Path(path).expanduser())
    for place in (root, root.absolute().parent):
        if (place / LABEL_LIST).is_file():
            return read_labels(place / LABEL_LIST)
        if _truth_files(place):
            return read_labels(place)
    return {}


def _truth_files(folder: Path) -> list[Path]:
    """Files of an evaluator, in a folder and in its folders."""
    inside = (*folder.glob(TRUTH), *folder.glob(f"ground_truth_*/{TRUTH}"))
    return sorted(path for path in inside if _TRUTH.fullmatch(path.name))


def _lines(path: Path) -> Iterator[tuple[str, tuple[str, str], Label]]:
    """Place, machine type and name, and label of every line."""
    truth = _TRUTH.fullmatch(path.name)
    machine_type = truth[1] if truth else ""
    try:
        with file_errors(path), path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for row in filter(None, reader):
                where = f"{path}:{reader.line_num}"
                if len(row) == 1:
                    machine_type = row[0]
                    continue
                if row[1:] in (["0"], ["1"]):
                    name, value = row[0], int(row[1])
                    label = Label(value, (truth and truth[2]) or "")
                    if path.parent.name == OF_DOMAINS:
                        label = Label(UNKNOWN, DOMAINS[value])
                else:
                    name, label = _labelled_name(row, where)
                if not machine_type:
                    raise DataError(f"{where}: no machine type before the clips")
                yield where, (machine_type, name), label
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a label list: {error}") from None


def _labelled_name(row: list[str], where: str) -> tuple[str, Label]:
    """Published name and label of a line that gives the whole name."""
    if len(row) not in (2, 3) or row[2:] not in ([], ["0"], ["1"]):
        raise DataError(
            f"{where}: expected a machine type, or name,name with label[,0 or 1]"
        )
    name, full_name = row[:2]
    if not re.search(AUDIO + r"\Z", full_name) and len(row) == 2:
        full_name += ".wav"
    try:
        label, machine_id, _ = parse_name(full_name, NAMED)
        agree = machine_id == parse_name(name, NAMED)[1] and label != UNKNOWN
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
    if not agree or row[2:] not in ([], [str(label)]):
        raise DataError(f"{where}: {', '.join(row)} contradict each other")
    return name, Label(label, named_domain(full_name))
