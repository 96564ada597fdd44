"""Decisions from the scores of normal clips alone; no JAX.

A threshold is a quantile of normal scores: of a gamma distribution fitted to them, or
of the scores themselves. It is that of the clip's machine ID where that has enough
clips; else that of all IDs, each counted from its own median in its own spread.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Shaped
from scipy import stats

from mimii_jax.results.metrics import median_and_spread, z_scores
from mimii_jax.results.table import CONTROLS, Scores

FALSE_ALARMS = 0.05  # share of normal clips over the threshold
METHODS = ("gamma", "empirical")
OWN_CLIPS = 50  # of an ID, for a threshold from them alone
SCALED_CLIPS = 10  # of an ID, for a median and spread of its own
LIMIT = 8.0  # spreads from the median: a fit counts nothing beyond


def quantile(
    normal: Float[np.ndarray, " clip"], share: float, method: str = METHODS[0]
) -> float:
    """Score that a share of normal clips exceeds.

    Parameters
    ----------
    normal : f64 [shape=(clip,)], at least one score
    share : float in (0, 1)
    method : "empirical": the order statistic of rank (n + 1)(1 - share), which a share
        of new clips exceeds on average, whatever the distribution; at most the largest.
        "gamma": of a shifted gamma with their mean, SD and skewness, at least that of a
        Gaussian; it goes beyond the largest. Where the share of `normal` over it
        contradicts `share` (95 % interval), the tail is no gamma's: "empirical"

    Returns
    -------
    threshold : float
    """
    empirical = float(np.quantile(normal, 1 - share, method="weibull"))
    z = np.clip(z_scores(normal, normal), -LIMIT, LIMIT)
    if method == "empirical" or np.ptp(z) == 0 or len(normal) < 3:
        return empirical
    skew = max(float(stats.skew(z, bias=False)), 0.0)
    at = stats.pearson3.isf(share, skew, z.mean(), z.std(ddof=1))
    middle, spread = median_and_spread(normal)
    limit = float(middle + at * spread)
    low, high = interval(int(np.sum(normal > limit)), len(normal))
    return limit if low <= share <= high else empirical


def interval(count: float, n: int) -> tuple[float, float]:
    """Clopper-Pearson 95 % interval of a share, from a count out of n."""
    low = stats.beta.ppf(0.025, count, n - count + 1) if count > 0 else 0.0
    high = stats.beta.ppf(0.975, count + 1, n - count) if count < n else 1.0
    return float(low), float(high)


@dataclass(frozen=True, eq=False)
class Normals:
    """Scores of normal clips by one detector: what new scores are compared with."""

    machine_id: Shaped[np.ndarray, " clip"]
    score: Float[np.ndarray, " clip"]

    def threshold(
        self, machine_id: str, share: float = FALSE_ALARMS, method: str = METHODS[0]
    ) -> float:
        """Score that a share of the ID's normal clips exceeds; fitted once."""
        key = (machine_id, share, method)
        if key not in self._limits:
            self._limits[key] = quantile(self.of(machine_id), share, method)
        return self._limits[key]

    def percentile(self, machine_id: str, score: float) -> float:
        """Percentage of normal clips with a lower score; half of those with this."""
        normal = self.of(machine_id)
        return float(50 * (np.mean(normal < score) + np.mean(normal <= score)))

    def of(self, machine_id: str) -> Float[np.ndarray, " normal_clip"]:
        """Scores to compare an ID with: its own; or those of all, in its units."""
        if machine_id not in self._samples:
            self._samples[machine_id] = self._sample(machine_id)
        return self._samples[machine_id]

    @cached_property
    def _limits(self) -> dict[tuple[str, float, str], float]:
        return {}

    @cached_property
    def _samples(self) -> dict[str, np.ndarray]:
        return {}

    def _sample(self, machine_id: str) -> Float[np.ndarray, " normal_clip"]:
        own = self.score[self.machine_id == machine_id]
        if len(own) >= OWN_CLIPS:
            return own
        if len(own) < SCALED_CLIPS:
            return self.score
        middle, spread = median_and_spread(own)
        # Each clip in units of the others of its ID, as a new clip will be.
        ids = np.unique(self.machine_id).tolist()
        pooled = [_left_out(self.score[self.machine_id == one]) for one in ids]
        return middle + spread * np.concatenate(pooled)


def _left_out(score: Float[np.ndarray, " clip"]) -> Float[np.ndarray, " clip"]:
    """z-score of each clip among the others of its ID; none where these are too few."""
    if len(score) < SCALED_CLIPS:
        return score[:0]
    if len(score) >= OWN_CLIPS:  # one clip moves the scale by little
        return z_scores(score, score)
    rows = range(len(score))
    left = [z_scores(score[i : i + 1], np.delete(score, i)) for i in rows]
    return np.concatenate(left)


def thresholds(
    scores: Scores,
    normals: Scores,
    share: float = FALSE_ALARMS,
    method: str = METHODS[0],
) -> Float[np.ndarray, " row"]:
    """Threshold of every row of a table; NaN for detectors without normal scores."""
    found = np.full(len(scores), np.nan)
    columns = ("machine_type", "detector", "seed")
    for key in {tuple(row) for row in zip(*_columns(scores, columns), strict=True)}:
        rows, of = (
            np.logical_and.reduce(
                [getattr(table, c) == k for c, k in zip(columns, key, strict=True)]
            )
            for table in (scores, normals)
        )
        if of.any():
            own = Normals(normals.machine_id[of], normals.score[of])
            for one in np.unique(scores.machine_id[rows]).tolist():
                where = rows & (scores.machine_id == one)
                found[where] = own.threshold(one, share, method)
    return found


def decide(
    scores: Scores, normals: Scores, share: float = FALSE_ALARMS
) -> Float[np.ndarray, " row"]:
    """Decision on every row: 1 anomaly, 0 normal, NaN without normal scores."""
    limits = thresholds(scores, normals, share)
    return np.where(np.isnan(limits), np.nan, scores.score > limits)


def _columns(scores: Scores, columns: Sequence[str]) -> list[list]:
    return [getattr(scores, column).tolist() for column in columns]


@dataclass(frozen=True)
class FalseAlarms:
    """Normal and anomalous test clips over the threshold; means over seeds."""

    machine_type: str
    detector: str
    wanted: float
    rate: float
    n_normal: int
    found: float | None  # share of the anomalous clips; None without any

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the rate over clips, without the threshold's own noise."""
        return interval(self.rate * self.n_normal, self.n_normal)

    @property
    def as_wanted(self) -> bool:
        """Whether the wanted share is within the interval."""
        return self.interval[0] <= self.wanted <= self.interval[1]


def false_alarms(
    scores: Scores, normals: Scores, share: float = FALSE_ALARMS
) -> list[FalseAlarms]:
    """Measure the share of false alarms on normal test clips, per detector."""
    alarm = decide(scores, normals, share)
    rows = []
    for machine_type in scores.machine_types:
        for detector in scores.detectors:
            own = (scores.machine_type == machine_type) & (scores.detector == detector)
            own &= ~np.isnan(alarm)
            of_normal = alarm[own & (scores.label == 0)]
            of_anomalous = alarm[own & (scores.label == 1)]
            if not len(of_normal) or detector in CONTROLS:
                continue
            n = len(of_normal) // len(np.unique(scores.seed[own]))
            rate = float(np.mean(of_normal))
            found = float(np.mean(of_anomalous)) if len(of_anomalous) else None
            rows.append(FalseAlarms(machine_type, detector, share, rate, n, found))
    return rows
