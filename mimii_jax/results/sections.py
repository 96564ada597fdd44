"""Results as in the challenges since 2021: by section and domain; no JAX.

Since 2022 the AUC of a domain is that of its normal clips against the anomalies of both
domains, and pAUC is over the clips of both; in 2021 each domain was by itself.
Precision, recall and F1 are of a domain's own clips. Averages are harmonic, with the
arithmetic one beside them in result.csv.
"""

import csv
import io
import re
import sys
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats

from mimii_jax.data.clips import ANOMALOUS, NORMAL, UNKNOWN
from mimii_jax.data.labels import DOMAINS
from mimii_jax.data.layouts import AUDIO, DCASE_LATER
from mimii_jax.results.metrics import MAX_FPR, auc
from mimii_jax.results.table import Scores

METRICS = ("AUC", "pAUC", "precision", "recall", "F1 score")
HEAD = ["", "", *METRICS]
ALL_TYPES = "over all machine types, sections, and domains"
# In 2021 alone the names of test clips have a domain and no attributes.
_APART = r"section_\d\d_(source|target)(_test)?(_normal|_anomaly)?_\d{4,8}" + AUDIO

Key = tuple[str, str, str]  # machine type, section, domain
Values = Float[np.ndarray, "row metric"]
Decisions = Float[np.ndarray, " row"]  # 1: anomaly, 0: normal, NaN: none


def has_sections(scores: Scores) -> bool:
    """Whether the clips are those of a challenge since 2021."""
    return _named(scores, DCASE_LATER.name + AUDIO)


def by_domain(scores: Scores) -> bool:
    """Whether each domain is by itself, as in 2021."""
    return _named(scores, _APART)


def _named(scores: Scores, pattern: str) -> bool:
    names = scores.name.tolist()
    return bool(names) and all(re.fullmatch(pattern, name) for name in names)


@dataclass(frozen=True, eq=False)
class Sections:
    """Metrics of one detector; NaN where clips of a class or decisions are missing."""

    values: dict[Key, Float[np.ndarray, " metric"]]
    of_both: dict[tuple[str, str], float]  # AUC of a section, of both domains
    apart: bool  # as in 2021

    @property
    def machine_types(self) -> list[str]:
        """Machine types, sorted."""
        return sorted({machine_type for machine_type, *_ in self.values})

    def rows(self, machine_type: str = "", domain: str = "") -> Values:
        """Metrics of the sections of a type or all, and of a domain or both."""
        found = [
            value
            for one in ((domain,) if domain else DOMAINS)
            for key, value in self.values.items()
            if key[2] == one and machine_type in ("", key[0])
        ]
        return np.array(found).reshape(-1, len(METRICS))

    def official(self, machine_type: str = "") -> float:
        """Harmonic mean of AUC source, AUC target and pAUC over sections."""
        aucs = self.rows(machine_type)[:, 0]
        rows = self.rows(machine_type, "" if self.apart else DOMAINS[0])
        return float(harmonic(np.append(aucs, rows[:, 1])[:, None])[0])


def measure(scores: Scores, decisions: Decisions, max_fpr: float = MAX_FPR) -> Sections:
    """Metrics of one detector; means over its seeds."""
    seeds = [scores.seed == seed for seed in scores.seeds]
    tables = [_measure(scores[of], decisions[of], max_fpr) for of in seeds]
    first = tables[0]
    return Sections(
        {k: np.mean([t.values[k] for t in tables], axis=0) for k in first.values},
        {k: float(np.mean([t.of_both[k] for t in tables])) for k in first.of_both},
        first.apart,
    )


def _measure(scores: Scores, decisions: Decisions, max_fpr: float) -> Sections:
    """Metrics of one seed."""
    table = Sections({}, {}, by_domain(scores))
    known = scores.label != UNKNOWN
    pairs = zip(scores.machine_type.tolist(), scores.machine_id.tolist(), strict=True)
    for machine_type, section in sorted(set(pairs)):
        of = (scores.machine_type == machine_type) & (scores.machine_id == section)
        of &= known
        table.of_both[machine_type, section] = _auc(scores[of])
        for domain in DOMAINS:
            own = of & (scores.domain == domain)
            anomalous = scores.label == ANOMALOUS
            compared = own if table.apart else own | of & anomalous
            table.values[machine_type, section, domain] = np.array(
                [
                    _auc(scores[compared]),
                    _auc(scores[own if table.apart else of], max_fpr),
                    *_decided(scores.label[own], decisions[own]),
                ]
            )
    return table


def _auc(scores: Scores, max_fpr: float = 1.0) -> float:
    classes = set(scores.label.tolist())
    both = {NORMAL, ANOMALOUS} <= classes
    return auc(scores.label, scores.score, max_fpr) if both else np.nan


def _decided(label: np.ndarray, decision: Decisions) -> tuple[float, float, float]:
    """Precision, recall and F1; 0 where nothing is found."""
    if not len(label) or np.isnan(decision).any():
        return np.nan, np.nan, np.nan
    found = np.sum((decision == 1) & (label == ANOMALOUS))
    precision = found / max(np.sum(decision == 1), 1)
    recall = found / max(np.sum(label == ANOMALOUS), 1)
    f1 = 2 * precision * recall / max(precision + recall, sys.float_info.epsilon)
    return float(precision), float(recall), float(f1)


def arithmetic(values: Values) -> Float[np.ndarray, " metric"]:
    """Mean of the rows that are known."""
    known = ~np.isnan(values)
    total = np.sum(np.where(known, values, 0), axis=0)
    counts = known.sum(axis=0)
    return np.divide(total, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def harmonic(values: Values) -> Float[np.ndarray, " metric"]:
    """Harmonic mean of the rows that are known."""
    columns = (column[~np.isnan(column)] for column in values.T)
    least = sys.float_info.epsilon
    means = [stats.hmean(np.maximum(c, least)) if len(c) else np.nan for c in columns]
    return np.array(means)


def result_text(scores: Scores, decisions: Decisions, max_fpr: float = MAX_FPR) -> str:
    """Contents of result.csv for one detector, as of the year's evaluator.

    Without the jackknife's "official score ci95". Unknown metrics are empty. (That of
    2022 averages a third of the sections in the source and target lines of a type.)
    """
    table = measure(scores, decisions, max_fpr)
    of_type = _of_type_2021 if table.apart else _of_type
    lines = [line for one in table.machine_types for line in of_type(table, one)]
    lines.append(HEAD)
    lines += _means(table, "", f" {ALL_TYPES}")
    lines.append([])
    if not table.apart:
        lines += [["official score", "", table.official()], []]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_cell(value) for value in line] for line in lines)
    return text.getvalue()


def _of_type(table: Sections, machine_type: str) -> list[list]:
    """Lines of a machine type: a section each, both domains in it; means."""
    names = ("AUC", *METRICS[2:])
    head = [f"{name} ({domain})" for name in names for domain in DOMAINS]
    lines: list[list] = [
        [machine_type],
        ["section", "AUC (all)", *head[:2], "pAUC", *head[2:]],
    ]
    for (of, section), both in table.of_both.items():
        if of == machine_type:
            source, target = (table.values[of, section, one] for one in DOMAINS)
            pairs = np.stack([source, target], axis=1)  # [metric domain]
            cells = [*pairs[0], pairs[1, 0], *pairs[2:].ravel()]
            lines.append([section, both, *cells])
    return [*lines, HEAD, *_means(table, machine_type), []]


def _of_type_2021(table: Sections, machine_type: str) -> list[list]:
    """Lines of a machine type: a section of one domain each; means."""
    lines: list[list] = [[machine_type], ["section", "domain", *METRICS]]
    for domain in DOMAINS:
        for (of, section, one), values in table.values.items():
            if (of, one) == (machine_type, domain):
                lines.append([section, domain, *values])
    return [*lines, *_means(table, machine_type), []]


def _means(table: Sections, machine_type: str, what: str = "") -> list[list]:
    rows = table.rows(machine_type)
    lines = [
        [f"arithmetic mean{what}", "", *arithmetic(rows)],
        [f"harmonic mean{what}", "", *harmonic(rows)],
    ]
    if not table.apart:
        for one in DOMAINS:
            mean = harmonic(table.rows(machine_type, one))
            lines.append([f"{one} harmonic mean{what}", "", *mean])
    return lines


def _cell(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return "" if np.isnan(value) else repr(float(value))
