"""The DCASE csv files: scores per machine ID, and result.csv.

`anomaly_score_<type>_id_<NN>.csv` has no header, and a line `name,score` per clip;
`decision_result_<type>_id_<NN>.csv` a line `name,1` (anomaly) or `name,0`;
`result.csv` has for each machine type its name, `id,AUC,pAUC`, a line per ID, a line
`Average` and an empty line.
"""

import re
from collections import defaultdict
from itertools import zip_longest
from math import isnan
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mimii_jax.data.layouts import NAMED, Labels, parse_name
from mimii_jax.errors import DataError
from mimii_jax.files import in_file_name, replace_file
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
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    files, top = ([path], path.parent) if path.is_file() else (score_files(path), path)
    if not files or not _FILE.fullmatch(files[0].name):
        raise DataError(
            f"{path}: not scores; expected scores.csv or "
            "anomaly_score_<type>_id_<NN>.csv"
        )
    return Scores.concatenate([_read_file(file, top) for file in files])


def score_files(folder: Path, pattern: str = "**/*.csv") -> list[Path]:
    """DCASE csv score files in a folder and, by default, below it; sorted."""
    return [file for file in sorted(folder.glob(pattern)) if _FILE.fullmatch(file.name)]


def _read_file(path: Path, top: Path) -> Scores:
    """Read one file; `top` is the folder where the search started."""
    file = _FILE.fullmatch(path.name)
    assert file
    machine_type, machine_id = file.groups()
    folder, top, seed = path.resolve().parent, top.resolve(), NO_SEED
    if found := _SEED.fullmatch(folder.name):
        folder, seed = folder.parent, int(found[1])
    inside = folder != top and folder.is_relative_to(top)
    detector = folder.relative_to(top).as_posix() if inside else folder.name
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
        value = finite(score, where)
        rows.append((detector, seed, machine_type, machine_id, label, name, value))
    if not rows:
        raise DataError(f"{path}: no scores")
    return Scores.from_rows(rows)


def write_official(
    scores: Scores, folder: Path, limits: Float[np.ndarray, " row"] | None = None
) -> list[Path]:
    """Write `<detector>/seed_<S>/` with score files and result.csv for each seed.

    A detector without seeds gets `<detector>/` itself; one with thresholds in `limits`
    (not NaN), decisions too. Returns the files written.
    """
    if limits is None:
        limits = np.full(len(scores), np.nan)
    written = []
    for detector in scores.detectors:
        own = scores.detector == detector
        for seed in scores[own].seeds:
            rows = own & (scores.seed == seed)
            run, texts = scores[rows], defaultdict[str, str](str)
            pairs = zip(run.rows(), limits[rows].tolist(), strict=True)
            for (*_, machine_type, machine_id, _, name, score), limit in pairs:
                file = in_file_name(f"{machine_type}_id_{machine_id}.csv")
                texts[f"anomaly_score_{file}"] += f"{name},{score!r}\n"
                if not isnan(limit):
                    texts[f"decision_result_{file}"] += f"{name},{int(score > limit)}\n"
            here = folder / detector / ("" if seed == NO_SEED else f"seed_{seed}")
            here.mkdir(parents=True, exist_ok=True)
            for file, text in (*texts.items(), (RESULT, result_text(run))):
                replace_file(here / file, text.encode())
                written.append(here / file)
    return written


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


def compare_result(folder: Path, labels: Labels) -> list[str]:
    """List the differing lines of a folder's result.csv; [] if equal byte for byte."""
    scores = [_read_file(file, folder) for file in score_files(folder, "*.csv")]
    ours = result_text(Scores.concatenate(scores).labelled(labels))
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
