"""The DCASE csv files: scores and decisions per machine ID or section, and result.csv.

A score file has no header, and a line `name,score` per clip; a file of decisions a line
`name,1` (anomaly) or `name,0`. They are called `anomaly_score_` or `decision_result_`
and then `<type>_id_<NN>.csv` in 2020, `<type>_section_<NN>_<domain>_test.csv` in 2021,
and `<type>_section_<NN>_test.csv` since. `result.csv` of 2020 has for each machine type
its name, `id,AUC,pAUC`, a line per ID, a line `Average` and an empty line; that of
later years is described in `sections`.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from itertools import zip_longest
from math import isnan
from pathlib import Path

import numpy as np

from mimii_jax.data.labels import Labels
from mimii_jax.data.layouts import NAMED, named_domain, parse_name
from mimii_jax.errors import DataError
from mimii_jax.files import in_file_name, make_folder, replace_file
from mimii_jax.results import sections
from mimii_jax.results.metrics import MAX_FPR
from mimii_jax.results.per_id import MEAN, POOLED, evaluate
from mimii_jax.results.table import NO_SEED, Scores, csv_lines, finite

RESULT = "result.csv"

SCORE, DECISION = "anomaly_score", "decision_result"
# The baseline since 2023 adds the year in front of the type, and its seed.
_FILE = re.compile(
    r"(?P<kind>anomaly_score|decision_result)_(?:DCASE\d{4}T2)?(?P<type>.+?)_"
    r"(?:id_(?P<id>\d+)|section_(?P<section>\d+)(?:_(?P<domain>source|target))?_test"
    r"(?:_seed(?P<seed>\d{1,18}).*)?)\.csv"
)
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
            "anomaly_score_<type>_id_<NN>.csv or "
            "anomaly_score_<type>_section_<NN>_test.csv"
        )
    return Scores.concatenate([_read_file(file, top) for file in files])


def read_decisions(path: Path, scores: Scores) -> sections.Decisions:
    """Read the decisions on the clips of scores from the same place; NaN: none."""
    top, found = path, {}
    if path.is_file():
        top, files = path.parent, [path.with_name(path.name.replace(SCORE, DECISION))]
    else:
        files = score_files(path, kind=DECISION)
    for file in filter(Path.is_file, files):
        decided = _read_file(file, top)
        found |= dict(zip(_keys(decided), decided.score.tolist(), strict=True))
    return np.array([found.get(key, np.nan) for key in _keys(scores)])


def _keys(scores: Scores) -> Iterator[tuple]:
    return ((*key, name) for *key, _, _, name, _, _ in scores.rows())


def score_files(
    folder: Path, pattern: str = "**/*.csv", kind: str = SCORE
) -> list[Path]:
    """DCASE csv files in a folder and, by default, below it; sorted."""
    files = sorted(folder.glob(pattern))
    return [file for file in files if is_official(file) and file.name.startswith(kind)]


def is_official(file: Path) -> bool:
    """Whether a file has a name of the challenge's."""
    return bool(_FILE.fullmatch(file.name))


def _read_file(path: Path, top: Path) -> Scores:
    """Read one file; `top` is the folder where the search started."""
    file = _FILE.fullmatch(path.name)
    assert file
    machine_type, machine_id = file["type"], file["id"] or file["section"]
    form = "section" if file["section"] else "normal_id"
    folder, top = path.resolve().parent, top.resolve()
    seed = int(file["seed"] or NO_SEED)
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
                f"{form}_{machine_id}_00000000.wav"
            ) from None
        if clip_id != machine_id:
            raise DataError(f"{where}: {name} in the file of id {machine_id}")
        value = finite(score, where)
        if file["kind"] == DECISION and value not in (0, 1):
            raise DataError(f"{where}: decision {score} is neither 0 nor 1")
        domain = named_domain(name) or file["domain"] or ""
        key = (detector, seed, machine_type, machine_id)
        rows.append((*key, label, name, value, domain))
    if not rows:
        raise DataError(f"{path}: no scores")
    return Scores.from_rows(rows)


def write_official(
    scores: Scores, folder: Path, decisions: sections.Decisions | None = None
) -> list[Path]:
    """Write `<detector>/seed_<S>/` with score files and result.csv for each seed.

    A detector without seeds gets `<detector>/` itself; one with decisions (not NaN),
    these too. Returns the files written.
    """
    if decisions is None:
        decisions = np.full(len(scores), np.nan)
    written = []
    for detector in scores.detectors:
        own = scores.detector == detector
        for seed in scores[own].seeds:
            rows = own & (scores.seed == seed)
            run, texts = scores[rows], defaultdict[str, str](str)
            later, apart = sections.has_sections(run), sections.by_domain(run)
            pairs = zip(run.rows(), decisions[rows].tolist(), strict=True)
            for (*_, machine_type, machine_id, _, name, score, domain), found in pairs:
                file = f"{machine_type}_id_{machine_id}.csv"
                if later:
                    part = f"_{domain}" if apart else ""
                    file = f"{machine_type}_section_{machine_id}{part}_test.csv"
                file = in_file_name(file)
                texts[f"{SCORE}_{file}"] += _line(name, repr(score))
                if not isnan(found):
                    texts[f"{DECISION}_{file}"] += _line(name, str(int(found)))
            here = folder / detector / ("" if seed == NO_SEED else f"seed_{seed}")
            make_folder(here)
            texts[RESULT] = result_text(run, decisions[rows])
            for file, text in texts.items():
                replace_file(here / file, text.encode())
                written.append(here / file)
    return written


def _line(name: str, value: str) -> str:
    """A line of a csv file; a name with a comma is quoted."""
    if re.search('[,"]', name):
        name = '"' + name.replace('"', '""') + '"'
    return f"{name},{value}\n"


def result_text(
    scores: Scores,
    decisions: sections.Decisions | None = None,
    max_fpr: float = MAX_FPR,
) -> str:
    """Contents of result.csv for one detector: means over its seeds.

    An ID without clips of both classes has empty fields and isn't averaged.
    """
    if sections.has_sections(scores):
        if decisions is None:
            decisions = np.full(len(scores), np.nan)
        return sections.result_text(scores, decisions, max_fpr)
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
    files = score_files(folder, "*.csv")
    scores = Scores.concatenate(_read_file(file, folder) for file in files)
    ours = result_text(scores.labelled(labels), read_decisions(folder, scores))
    path = folder / RESULT
    theirs = path.read_bytes().decode("utf-8", errors="replace")
    theirs = re.sub(r"official score ci95,.*\n", "", theirs)  # which we don't have
    if theirs == ours:
        return []
    pairs = zip_longest(theirs.splitlines(), ours.splitlines(), fillvalue="(no line)")
    differences = [
        f"{path}:{number}: {there} in the file, {here} from the scores"
        for number, (there, here) in enumerate(pairs, start=1)
        if there != here
    ]
    return differences or [f"{path}: other line endings, same numbers"]
