"""AUC, partial AUC and bootstrap intervals of labels and scores; no JAX."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

MAX_FPR = 0.1  # where the challenge ends pAUC


def auc(
    label: Int[np.ndarray, " clip"],
    score: Float[np.ndarray, " clip"],
    max_fpr: float = 1.0,
) -> float:
    """Area under the ROC curve, by scikit-learn as in the official evaluator.

    Labels are 0 (normal) and 1 (anomalous), both present. With `max_fpr` below 1 it is
    the partial area up to this false positive rate, standardised (McClish 1989): 0.5
    for a useless score, 1 for a perfect one.
    """
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(label, score, max_fpr=max_fpr))


def z_scores(
    score: Float[np.ndarray, "..."], normal: Float[np.ndarray, "..."]
) -> Float[np.ndarray, "..."]:
    """Scores in units of the spread of normal clips; one clip or equal ones: of 1."""
    middle, spread = median_and_spread(normal)
    return (score - middle) / spread


def median_and_spread(normal: Float[np.ndarray, "..."]) -> tuple[float, float]:
    """Median, and half of the 16-84 % range; 1 where that is 0."""
    low, middle, high = np.quantile(normal, (0.16, 0.5, 0.84))
    return float(middle), float((high - low) / 2 or 1.0)


def resample(
    stratum: Shaped[np.ndarray, " clip"], replicates: int, seed: int = 0
) -> Float[np.ndarray, "replicate clip"]:
    """Draw counts of each clip in bootstrap samples that keep each stratum's size."""
    rng = np.random.default_rng(seed)
    count = np.empty((replicates, len(stratum)))
    for value in np.unique(stratum):
        rows = np.flatnonzero(stratum == value)
        drawn = rng.integers(len(rows), size=(replicates, len(rows)))
        drawn += len(rows) * np.arange(replicates)[:, None]
        flat = np.bincount(drawn.ravel(), minlength=drawn.size)
        count[:, rows] = flat.reshape(drawn.shape)
    return count


def weighted_auc(
    label: Int[np.ndarray, " clip"],
    score: Float[np.ndarray, " clip"],
    weight: Float[np.ndarray, "replicate clip"],
    max_fpr: float = 1.0,
) -> Float[np.ndarray, " replicate"]:
    """Compute `auc` of weighted clips, for many sets of weights at once.

    The curve is walked over the distinct scores of normal clips, from the highest: each
    adds a trapezoid as wide as its normal weight, with the anomalous weight above it on
    the left and the anomalous weight at or above it on the right. Two sorts serve all
    replicates.

    Parameters
    ----------
    label : int [shape=(clip,)], 0 normal, 1 anomalous; other clips are ignored
    score : float [shape=(clip,)], finite
    weight : f64 [shape=(replicate, clip)], >= 0, a positive sum over either label
    max_fpr : float in (0, 1], as in `auc`

    Returns
    -------
    auc : f64 [shape=(replicate,)]
    """
    normal, anomalous = (
        rows[np.argsort(-score[rows], kind="stable")]
        for rows in (np.flatnonzero(label == 0), np.flatnonzero(label == 1))
    )
    step, first = np.unique(-score[normal], return_index=True)
    width = np.add.reduceat(weight[:, normal], first, axis=1)  # [replicate, step]
    height = np.zeros((len(weight), len(anomalous) + 1))
    np.cumsum(weight[:, anomalous], axis=1, out=height[:, 1:])
    left = height[:, np.searchsorted(-score[anomalous], step, "left")]
    right = height[:, np.searchsorted(-score[anomalous], step, "right")]

    until = np.cumsum(width, axis=1)
    total = until[:, -1]
    # The last trapezoid is cut where the false positive rate reaches its limit.
    used = np.clip(max_fpr * total[:, None] - (until - width), 0, width)
    cut = np.divide(used, width, out=np.zeros_like(width), where=width > 0)
    area = np.sum(used * (left + 0.5 * cut * (right - left)), axis=1)
    area /= total * height[:, -1]
    useless = 0.5 * max_fpr**2
    return 0.5 * (1 + (area - useless) / (max_fpr - useless))


@dataclass(frozen=True, eq=False)
class Estimate:
    """A metric, or the difference of one between two detectors on the same clips."""

    by_seed: Float[np.ndarray, " seed"]
    replicates: Float[np.ndarray, " replicate"]  # bootstrap, of the mean over seeds

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.by_seed))

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over seeds; None for a single seed."""
        return float(np.std(self.by_seed, ddof=1)) if len(self.by_seed) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Percentile 95 % interval of the mean; None without bootstrap."""
        if not len(self.replicates):
            return None
        low, high = np.quantile(self.replicates, [0.025, 0.975])
        return float(low), float(high)

    @property
    def beyond_noise(self) -> bool:
        """Whether a difference has one sign in its interval and under every seed."""
        low, high = self.interval or (0.0, 0.0)
        return (low > 0 or high < 0) and len(set(np.sign(self.by_seed).tolist())) == 1

    def minus(self, base: "Estimate") -> "Estimate":
        """Paired difference; unpaired over seeds if their numbers differ."""
        one, other = self.by_seed, base.by_seed
        if one.shape != other.shape:
            one, other = np.mean(one, keepdims=True), np.mean(other, keepdims=True)
        return Estimate(one - other, self.replicates - base.replicates)


def average(estimates: Sequence[Estimate]) -> Estimate:
    """Unweighted mean, as over machine IDs."""
    return Estimate(
        np.mean([one.by_seed for one in estimates], axis=0),
        np.mean([one.replicates for one in estimates], axis=0),
    )


def measure(
    label: Int[np.ndarray, " clip"],
    score: Float[np.ndarray, "seed clip"],
    weight: Float[np.ndarray, "replicate clip"],
    max_fpr: float = 1.0,
) -> Estimate:
    """Estimate (p)AUC from clips of both classes, with weights from `resample`."""
    known = label >= 0
    return Estimate(
        np.array([auc(label[known], one[known], max_fpr) for one in score]),
        np.mean([weighted_auc(label, one, weight, max_fpr) for one in score], axis=0),
    )
