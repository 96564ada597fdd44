"""Which back-end finds the faults of real machines? One table, own bank and pooled.

python -m experiments.backends PATH/*.npz [--backends ldn ...] [--scoring FIELD=VALUE]

Each file holds the vectors of one machine type: `vectors` [clip, column], `id` and
`label` (0 normal, 1 anomalous). Of each ID, normal clips are held out to test on.
"""

import argparse
import ast
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mimii_jax import log
from mimii_jax.command import path_of
from mimii_jax.detectors.backends import BACKENDS, Banks, Scoring
from mimii_jax.files import read_arrays
from mimii_jax.report.tables import markdown
from mimii_jax.results.metrics import MAX_FPR, auc

NAMES = (*(name for name in BACKENDS if name != "mean"), "ldn+whitened_ldn")
ALARM = 95  # percentile of the leave-one-out scores


class Split(NamedTuple):
    """Vectors of a machine type; banks of normal clips, the others to test on."""

    vectors: np.ndarray
    machine_id: np.ndarray
    label: np.ndarray
    in_bank: np.ndarray


class Result(NamedTuple):
    """AUC, pAUC, and share of normal test clips above `ALARM` of the bank."""

    auc: float
    pauc: float
    alarms: float


def read(path: Path, seed: int, held_out: int) -> Split:
    """Hold out normal clips of each ID at random."""
    file = read_arrays(path)
    vectors, machine_id, label = file["vectors"], file["id"], file["label"]
    in_bank = np.zeros(len(label), bool)
    rng = np.random.default_rng(seed)
    for one in np.unique(machine_id):
        normal = np.flatnonzero((machine_id == one) & (label == 0))
        in_bank[rng.permutation(normal)[held_out:]] = True
    return Split(vectors, machine_id, label, in_bank)


def results(split: Split, scoring: Scoring) -> Iterator[Result]:
    """Result of each ID."""
    bank, test = split.in_bank, ~split.in_bank
    banks = Banks.fit(scoring, split.vectors[bank], split.machine_id[bank])
    scores = banks.score(split.vectors[test], split.machine_id[test])
    normal = banks.normal_scores()
    for one in np.unique(split.machine_id):
        of_id = split.machine_id[test] == one
        label, score = split.label[test][of_id], scores[of_id]
        bound = np.percentile(normal[split.machine_id[bank] == one], ALARM)
        alarms = float(np.mean(score[label == 0] > bound))
        yield Result(auc(label, score), auc(label, score, MAX_FPR), alarms)


def row(splits: Sequence[Sequence[Split]], scoring: Scoring) -> np.ndarray:
    """Mean over seeds and IDs [machine type, result]."""
    found = [[list(results(split, scoring)) for split in seeds] for seeds in splits]
    return np.array([np.mean(of_type, axis=(0, 1)) for of_type in found])


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, each row when it is done, then as Markdown."""
    parser = argparse.ArgumentParser("experiments.backends", description=__doc__)
    add = parser.add_argument
    add("paths", nargs="+", type=path_of, help="one .npz per machine type")
    add("--backends", nargs="+", default=NAMES, metavar="NAME[+NAME]")
    add("--scoring", nargs="*", default=[], metavar="FIELD=VALUE")
    add("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of the splits")
    add("--held-out", type=int, default=100, help="normal test clips per ID")
    args = parser.parse_args(argv)
    fields = dict(text.split("=", 1) for text in args.scoring)
    base = Scoring(**{key: ast.literal_eval(value) for key, value in fields.items()})
    splits = [
        [read(path, seed, args.held_out) for seed in args.seeds] for path in args.paths
    ]
    types = [path.stem for path in args.paths]
    banks = {"own": True, "pooled": False}
    head = ["back-end"] + [f"{bank}: {t}" for bank in banks for t in (*types, "mean")]
    lines = []
    for name in args.backends:
        cells = []
        for per_id in banks.values():
            of_types = row(splits, replace(base, backend=name, per_id=per_id))
            found = [*of_types, of_types.mean(0)]
            cells += ["/".join(f"{v:.3f}".lstrip("0") for v in r) for r in found]
        lines.append([name, *cells])
        log.info(" ".join([f"{name:17}", *cells]))
    head[0] += " (AUC/pAUC/alarms)"
    log.info(markdown(head, lines))


if __name__ == "__main__":
    main()
