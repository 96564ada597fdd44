"""Stand-in for the back-ends to come, in NumPy: nearest neighbours and LDN."""

from dataclasses import dataclass

import numpy as np

from mimii_jax.detectors.backends import Pooling


@dataclass(frozen=True)
class Scoring:
    """Settings."""

    backend: str = "knn"
    per_id: bool = True
    neighbours: int = 1
    density_neighbours: int = 8
    standardise: bool = True
    max_columns: int | None = None
    pooling: Pooling = Pooling()


@dataclass(frozen=True)
class Banks:
    """A bank per ID."""

    scoring: Scoring
    banks: dict
    machine_id: np.ndarray

    @classmethod
    def fit(cls, scoring, vectors, machine_id):
        """Keep the vectors."""
        banks = {"": np.float64(vectors)}
        for one in np.unique(machine_id) if scoring.per_id else ():
            banks[one] = np.float64(vectors[machine_id == one])
        return cls(scoring, banks, machine_id)

    def _score(self, one, x, leave_out=False):
        bank = self.banks.get(one, self.banks[""])
        mean, sd = bank.mean(0), bank.std(0)
        sd = np.where(sd > 1e-6 * (1 + abs(mean)), sd, np.inf)
        bank, x = (bank - mean) / sd, (np.float64(x) - mean) / sd

        def distances(a):
            squared = (a**2).sum(1)[:, None] + (bank**2).sum(1) - 2 * a @ bank.T
            return np.sqrt(np.maximum(squared, 0))

        own = distances(bank)
        np.fill_diagonal(own, np.inf)
        found = own if leave_out else distances(x)
        scores = []
        for name in self.scoring.backend.split("+"):
            k = max(min(self.scoring.density_neighbours, len(bank) - 1), 1)
            density = np.sort(own, 1)[:, :k].mean(1) if name == "ldn" else 1
            used = found / (density + 1e-9)
            score = used.min(1)
            if "+" in self.scoring.backend:
                score = z_scores(score, (own / (density + 1e-9)).min(1))
            scores.append(score)
        return np.mean(scores, axis=0)

    def score(self, vectors, machine_id):
        """Score each clip against its ID's bank."""
        scores = np.empty(len(vectors))
        for one in np.unique(machine_id):
            rows = machine_id == one
            scores[rows] = self._score(one, vectors[rows])
        return scores

    def normal_scores(self):
        """Leave-one-out scores of the clips of the banks."""
        scores = np.empty(len(self.machine_id))
        for one in np.unique(self.machine_id) if self.scoring.per_id else ("",):
            rows = (self.machine_id == one) | (one == "")
            scores[rows] = self._score(one, None, leave_out=True)
        return scores


def z_scores(scores, normal):
    """By the median and half the 16-84 % range of `normal`."""
    low, high = np.percentile(normal, [16, 84])
    return (scores - np.median(normal)) / max((high - low) / 2, 1e-9)
