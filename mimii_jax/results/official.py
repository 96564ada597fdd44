"""The csv files of DCASE 2020 Task 2: scores per machine ID, and result.csv.

`anomaly_score_<type>_id_<NN>.csv` has no header, and a line `name,score` per clip;
`result.csv` has for each machine type its name, `id,AUC,pAUC`, a line per ID, a line
`Average` and an empty line.
"""

import re
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path

import numpy as np

from mimii_jax.data.layouts import NAMED, parse_name
from mimii_jax.results.metrics import auc
from mimii_jax.results.table import (
    NO_SEED,
    ScoreError,
    Scores,
    csv_lines,
    finite,
    table,
)

RESULT = "result.csv"
MAX_FPR = 0.1

_FILE = re.compile(r"anomaly_score_(.+)_id_(\d+)\.csv")
_SEED = re.compile(r"seed_(\d+)")


def read_official(path: Path) -> Scores:
    """Read one official score file, or all in a folder and the folders below it.

    The folder names the detector; `<detector>/seed_<S>` names the seed too. Labels
    come from the names of the clips: -1 where a name has none.

    Raises
    ------
    ScoreError
        When there is no such file, a line is malformed or a clip occurs twice.
    """
    if path.is_file():
        if not _FILE.fullmatch(path.name):
            raise ScoreError(
                f"{path}: a score file is called anomaly_score_<type>_id_<NN>.csv"
            )
        files, top = [path], path.parent
    elif path.is_dir():
        files, top = score_files(path), path
        if not files:
            raise ScoreError(f"{path}: no anomaly_score_<type>_id_<NN>.csv in it")
    else:
        raise ScoreError(f"{path}: no such file or folder")
    return Scores.concatenate([_read_file(file, top.resolve()) for file in files])


def score_files(folder: Path, pattern: str = "**/*.csv") -> list[Path]:
    """The official score files in a folder, and by default below it, sorted."""
    return [file for file in sorted(folder.glob(pattern)) if _FILE.fullmatch(file.name)]


def _read_file(path: Path, top: Path) -> Scores:
    """The scores of one file; `top` is where the reading began."""
    file = _FILE.fullmatch(path.name)
    assert file is not None
    machine_type, machine_id = file.groups()
    detector, seed = _origin(path.resolve().parent, top)
    names, labels, scores = [], [], []
    for number, line in csv_lines(path):
        where = f"{path}:{number}"
        if len(line) != 2:
            raise ScoreError(f"{where}: {len(line)} fields instead of name,score")
        try:
            label, clip_id, _ = parse_name(line[0], NAMED)
        except ValueError:
            raise ScoreError(
                f"{where}: {line[0]!r} is not a clip name such as "
                f"normal_id_{machine_id}_00000000.wav"
            ) from None
        if clip_id != machine_id:
            raise ScoreError(f"{where}: {line[0]} in the file of id {machine_id}")
        names.append(line[0])
        labels.append(label)
        scores.append(finite(line[1], where))
    if not scores:
        raise ScoreError(f"{path}: no scores")
    rows = len(scores)
    return table(
        {
            "detector": [detector] * rows,
            "seed": [seed] * rows,
            "machine_type": [machine_type] * rows,
            "machine_id": [machine_id] * rows,
            "name": names,
            "label": labels,
            "score": scores,
        }
    )


def _origin(folder: Path, top: Path) -> tuple[str, int]:
    """Detector and seed that a folder of score files stands for."""
    seed = NO_SEED
    if found := _SEED.fullmatch(folder.name):
        folder, seed = folder.parent, int(found[1])
    below = folder.relative_to(top) if folder.is_relative_to(top) else Path()
    return below.as_posix() if below.parts else folder.name, seed


def write_official(scores: Scores, folder: Path) -> list[Path]:
    """Write `<detector>/seed_<S>/` with score files and result.csv for each seed.

    A detector without seeds gets `<detector>/` itself. Returns the files written.
    """
    written = []
    for detector in scores.detectors:
        of = scores[scores.detector == detector]
        for seed in of.seeds:
            run = of[of.seed == seed]
            here = folder / detector
            here = here if seed == NO_SEED else here / f"seed_{seed}"
            here.mkdir(parents=True, exist_ok=True)
            texts = {**_score_texts(run), RESULT: result_text(run)}
            for name, text in texts.items():
                (here / name).write_text(text, encoding="utf-8", newline="\n")
                written.append(here / name)
    return written


def _score_texts(run: Scores) -> dict[str, str]:
    """Names and contents of the score files of one detector and seed."""
    texts: dict[str, str] = {}
    columns = (run.machine_type, run.machine_id, run.name, run.score)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    for machine_type, machine_id, name, score in rows:
        file = f"anomaly_score_{machine_type}_id_{machine_id}.csv"
        texts[file] = texts.get(file, "") + f"{name},{score!r}\n"
    return texts


def result_text(scores: Scores, max_fpr: float = MAX_FPR) -> str:
    """The result.csv of one detector: means over its seeds, where it has several.

    An ID with clips of one class only has empty fields and is not in the average.
    """
    lines = []
    for machine_type in scores.machine_types:
        of = scores[scores.machine_type == machine_type]
        lines += [machine_type, "id,AUC,pAUC"]
        measured = []
        for machine_id in of.ids:
            pair = _auc_pair(of[of.machine_id == machine_id], max_fpr)
            lines.append(_result_line(machine_id, pair))
            measured += [] if pair is None else [pair]
        mean = np.mean(measured, axis=0) if measured else None
        lines += [_result_line("Average", mean), ""]
    return "\n".join(lines) + "\n"


def _auc_pair(of_id: Scores, max_fpr: float) -> np.ndarray | None:
    """AUC and pAUC of one ID, the mean over seeds; None without both classes."""
    of_id = of_id[of_id.label >= 0]
    if len(set(of_id.label.tolist())) < 2:
        return None
    runs = [of_id[of_id.seed == seed] for seed in of_id.seeds]
    pairs = [[auc(r.label, r.score), auc(r.label, r.score, max_fpr)] for r in runs]
    return np.mean(pairs, axis=0)


def _result_line(name: str, pair: np.ndarray | None) -> str:
    return f"{name},," if pair is None else ",".join([name, *map(repr, pair.tolist())])


def compare_result(
    folder: Path, labels: Mapping[tuple[str, str], int] | None = None
) -> list[str]:
    """Differences of a folder's result.csv from its scores; [] if byte for byte equal.

    Each difference is a line that names the file and its line. `labels`, (machine type,
    name) -> label, are of clips whose name has none.
    """
    scores = [
        _read_file(file, folder.resolve()) for file in score_files(folder, "*.csv")
    ]
    ours = result_text(Scores.concatenate(scores).labelled(labels or {}))
    path = folder / RESULT
    theirs = path.read_bytes().decode("utf-8", errors="replace")
    if theirs == ours:
        return []
    pairs = zip_longest(theirs.splitlines(), ours.splitlines(), fillvalue="(no line)")
    differences = [
        f"{path}:{number}: {there} in the file, {here} from the scores"
        for number, (there, here) in enumerate(pairs, start=1)
        if there != here
    ]
    return differences or [f"{path}: other line endings, same numbers"]
