"""The DCASE csv files: scores per machine ID, and result.csv.

`anomaly_score_<type>_id_<NN>.csv` has no header, and a line `name,score` per clip;
`result.csv` has for each machine type its name, `id,AUC,pAUC`, a line per ID, a line
`Average` and an empty line.
"""

import re
from collections.abc import Mapping
from itertools import zip_longest
from pathlib import Path

from mimii_jax.data.layouts import NAMED, parse_name
from mimii_jax.errors import DataError
from mimii_jax.files import replace_file
from mimii_jax.results.metrics import MAX_FPR
from mimii_jax.results.per_id import MEAN, POOLED, evaluate
from mimii_jax.results.table import NO_SEED, Scores, csv_lines, finite

RESULT = "result.csv"

_FILE = re.compile(r"anomaly_score_(.+)_id_(\d+)\.csv")
_SEED = re.compile(r"seed_(\d{1,18})")


def read_official(path: Path) -> Scores:
    """Read one DCASE csv score file, or all in a folder and the folders below it.

    The folder names the detector; `<detector>/seed_<S>` names the seed too. Labels
    come from the names of the clips: -1 where a name has none.

    Raises
    ------
    DataError
        When there is no such file, a line is malformed or a clip occurs twice.
    """
    if path.is_dir():
        files, top = score_files(path), path
        if not files:
            raise DataError(
                f"{path}: no scores.csv and no anomaly_score_<type>_id_<NN>.csv in it"
            )
    elif not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    elif not _FILE.fullmatch(path.name):
        raise DataError(
            f"{path}: not a score file; expected the name scores.csv or "
            "anomaly_score_<type>_id_<NN>.csv"
        )
    else:
        files, top = [path], path.parent
    return Scores.concatenate([_read_file(file, top.resolve()) for file in files])


def score_files(folder: Path, pattern: str = "**/*.csv") -> list[Path]:
    """DCASE csv score files in a folder and, by default, below it; sorted."""
    return [file for file in sorted(folder.glob(pattern)) if _FILE.fullmatch(file.name)]


def _read_file(path: Path, top: Path) -> Scores:
    """Read one file; `top` is the folder where the search started."""
    file = _FILE.fullmatch(path.name)
    assert file is not None
    machine_type, machine_id = file.groups()
    head = (*_origin(path.resolve().parent, top), machine_type, machine_id)
    rows = []
    for where, line in csv_lines(path):
        if len(line) != 2:
            raise DataError(f"{where}: {len(line)} fields instead of name,score")
        name, score = line
        try:
            label, clip_id, _ = parse_name(name, NAMED)
        except ValueError:
            raise DataError(
                f"{where}: {name!r} is not a clip name such as "
                f"normal_id_{machine_id}_00000000.wav"
            ) from None
        if clip_id != machine_id:
            raise DataError(f"{where}: {name} in the file of id {machine_id}")
        rows.append((*head, label, name, finite(score, where)))
    if not rows:
        raise DataError(f"{path}: no scores")
    return Scores.from_rows(rows)


def _origin(folder: Path, top: Path) -> tuple[str, int]:
    """Detector and seed of a folder of score files."""
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
            for name, text in (_score_texts(run) | {RESULT: result_text(run)}).items():
                replace_file(here / name, text.encode())
                written.append(here / name)
    return written


def _score_texts(run: Scores) -> dict[str, str]:
    """Names and contents of the score files of one detector and seed."""
    lines: dict[str, list[str]] = {}
    for _, _, machine_type, machine_id, _, name, score in run.rows():
        file = f"anomaly_score_{machine_type}_id_{machine_id}.csv"
        lines.setdefault(file, []).append(f"{name},{score!r}\n")
    return {file: "".join(own) for file, own in lines.items()}


def result_text(scores: Scores, max_fpr: float = MAX_FPR) -> str:
    """Contents of result.csv for one detector: means over its seeds.

    An ID without clips of both classes has empty fields and isn't averaged.
    """
    lines = []
    for machine_type in scores.machine_types:
        of_type = scores[scores.machine_type == machine_type]
        lines += [machine_type, "id,AUC,pAUC"]
        for row in evaluate(of_type, bootstrap=0, max_fpr=max_fpr):
            if row.machine_id != POOLED:
                name = "Average" if row.machine_id == MEAN else row.machine_id
                metrics = (repr(m.mean) if m else "" for m in (row.auc, row.pauc))
                lines.append(",".join([name, *metrics]))
        lines.append("")
    return "\n".join(lines) + "\n"


def compare_result(
    folder: Path, labels: Mapping[tuple[str, str], int] | None = None
) -> list[str]:
    """Differences of a folder's result.csv from its scores; [] if equal byte for byte.

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
