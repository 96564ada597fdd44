"""AUC, partial AUC and bootstrap intervals on arrays of labels and scores; no JAX."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped
from sklearn.metrics import roc_auc_score


def auc(
    label: Int[np.ndarray, " clip"],
    score: Float[np.ndarray, " clip"],
    max_fpr: float = 1.0,
) -> float:
    """Area under the ROC curve, by scikit-learn, as the official evaluator computes it.

    Parameters
    ----------
    label : int [shape=(clip,)], 0 normal, 1 anomalous, both present
    score : float [shape=(clip,)], finite
    max_fpr : float in (0, 1], below 1 for the partial area up to this false positive
        rate, standardised (McClish 1989): 0.5 for a useless score, 1 for a perfect one

    Returns
    -------
    auc : float in [0, 1]
    """
    return float(roc_auc_score(label, score, max_fpr=max_fpr))


def resample(
    stratum: Shaped[np.ndarray, " clip"], replicates: int, seed: int
) -> Float[np.ndarray, "replicate clip"]:
    """How often each clip is drawn in bootstrap samples that keep each stratum's size.

    Parameters
    ----------
    stratum : any sortable [shape=(clip,)], clips are drawn from their own stratum
    replicates : int >= 0
    seed : int >= 0

    Returns
    -------
    count : f64 [shape=(replicate, clip)], whole numbers
    """
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
    """`auc` of weighted clips, for many sets of weights at once.

    The curve is walked over the distinct scores of normal clips, from the highest: each
    adds a trapezoid as wide as its normal weight, with the anomalous weight above it on
    the left and the anomalous weight at or above it on the right. Two sorts serve all
    replicates.

    Parameters
    ----------
    label : int [shape=(clip,)], 0 normal, 1 anomalous; clips of other labels count not
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


@dataclass(frozen=True)
class Estimate:
    """A metric: mean and SD over seeds, bootstrap 95 % interval of the mean.

    `sd` is None for a single seed; `low` and `high` are None without bootstrap.
    """

    mean: float
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Change:
    """How much more a metric is for one detector than for another on the same clips.

    `low` and `high` are the paired bootstrap 95 % interval of the mean over seeds, None
    without bootstrap. It is beyond noise if that interval excludes zero and, where both
    have the same number of seeds, the change has one sign under every seed.
    """

    mean: float
    low: float | None
    high: float | None
    beyond_noise: bool


@dataclass(frozen=True, eq=False)
class Measured:
    """AUC and pAUC: for each seed, and for each replicate the mean over seeds."""

    value: Float[np.ndarray, "2 seed"]
    replicate: Float[np.ndarray, "2 replicate"]

    @classmethod
    def average(cls, several: Sequence["Measured"]) -> "Measured":
        """The unweighted mean, over machine IDs."""
        return cls(
            np.mean([one.value for one in several], axis=0),
            np.mean([one.replicate for one in several], axis=0),
        )

    def change_from(self, base: "Measured", metric: int) -> Change:
        """How much more than `base` this is, on the same clips and replicates."""
        drawn = self.replicate[metric] - base.replicate[metric]
        low, high = np.quantile(drawn, [0.025, 0.975]) if len(drawn) else (None, None)
        paired = self.value.shape == base.value.shape
        by_seed = self.value[metric] - base.value[metric] if paired else np.zeros(1)
        agree = not paired or len(set(np.sign(by_seed).tolist())) == 1
        apart = low is not None and high is not None and bool(low > 0 or high < 0)
        return Change(
            mean=float(np.mean(self.value[metric]) - np.mean(base.value[metric])),
            low=None if low is None else float(low),
            high=None if high is None else float(high),
            beyond_noise=apart and agree,
        )

    def estimate(self, metric: int) -> Estimate:
        """AUC (0) or pAUC (1) with its SD and percentile interval."""
        value, replicate = self.value[metric], self.replicate[metric]
        drawn = len(replicate) > 0
        low, high = np.quantile(replicate, [0.025, 0.975]) if drawn else (None, None)
        return Estimate(
            mean=float(np.mean(value)),
            sd=float(np.std(value, ddof=1)) if len(value) > 1 else None,
            low=None if low is None else float(low),
            high=None if high is None else float(high),
        )


def measure(
    label: Int[np.ndarray, " clip"],
    score: Float[np.ndarray, "seed clip"],
    weight: Float[np.ndarray, "replicate clip"],
    max_fpr: float,
) -> Measured:
    """AUC and pAUC of clips of both classes; clips of label -1 are left out.

    Parameters
    ----------
    label : int [shape=(clip,)], 0 normal, 1 anomalous, -1 unknown
    score : float [shape=(seed, clip)], finite
    weight : f64 [shape=(replicate, clip)], from `resample`
    max_fpr : float in (0, 1], where pAUC ends
    """
    known = label >= 0
    limits = (1.0, max_fpr)
    value = [[auc(label[known], s[known], limit) for s in score] for limit in limits]
    replicate = [
        np.mean([weighted_auc(label, s, weight, limit) for s in score], axis=0)
        for limit in limits
    ]
    return Measured(np.array(value), np.array(replicate))
