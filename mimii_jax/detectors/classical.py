"""scikit-learn detectors on the project's front end.

skops and scikit-learn are imported where they are needed: skops takes seconds and
imports PyTorch where that is installed.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from mimii_jax import log
from mimii_jax.data.clips import Clips
from mimii_jax.detectors.backends import FOLDS, Pooling
from mimii_jax.detectors.detector import NormalScores
from mimii_jax.detectors.vectors import (
    FOLDER,
    NormalVectors,
    read_ids,
    write_clip_length,
)
from mimii_jax.errors import ConfigError, DataError, require, require_memory
from mimii_jax.features.front_ends import CLIPS_PER_TRANSFER, FrontEnd, extract
from mimii_jax.features.windows import (
    Moment,
    Standardiser,
    Windows,
    clip_moments,
    group_rows,
)
from mimii_jax.files import file_errors, make_folder, replace_file
from mimii_jax.results.metrics import median_and_spread, z_scores
from mimii_jax.train.runs import Run

MODEL = "models.skops"  # no pickle: reading it executes nothing
TRUSTED = ["sklearn.tree._tree.Tree"]  # beside those that skops trusts
Model = tuple[Any, Standardiser]  # scikit-learn's, and of its bins
UNSEEN = Path(FOLDER) / "unseen.npz"  # scores of normal clips, not fitted to
ALIGNED = 256  # clips, at most, that align the scores of two models
MAX_EXAMPLES = 100_000  # more are subsampled, with the run's seed


class Estimator(Protocol):
    """Settings of a scikit-learn model: a frozen dataclass."""

    def build(self, seed: int) -> Any:
        """Create an unfitted model."""
        ...


@dataclass(frozen=True)
class Forest:
    """Isolation Forest; `max_samples` per tree, None: 256, or all if fewer."""

    n_estimators: int = 100
    max_samples: int | None = None

    def __post_init__(self) -> None:
        _require_positive("n_estimators", self.n_estimators)
        _require_positive("max_samples", self.max_samples)
        of_trees = f"detector.n_estimators={self.n_estimators}"
        require_memory(20_000.0 * self.n_estimators, of_trees)

    def build(self, seed: int) -> Any:
        """Create an unfitted forest."""
        from sklearn.ensemble import IsolationForest

        # Any: scikit-learn documents numbers here, but its types are those of "auto".
        samples: Any = "auto" if self.max_samples is None else self.max_samples
        return IsolationForest(
            n_estimators=self.n_estimators,
            max_samples=samples,
            random_state=seed,
            n_jobs=-1,
        )


@dataclass(frozen=True)
class SVM:
    """One-class SVM by stochastic gradient descent."""

    nu: float = 0.5  # bound on the share of training examples left outside, in (0, 1]
    kernel: str = "rbf"  # "linear", or "rbf" through a Nystroem map
    gamma: float | None = None  # of exp(-gamma |x - y|^2); None: 1 / number of features
    n_components: int = 200  # landmarks of the map, at most one per example

    def __post_init__(self) -> None:
        _require_share(self.nu)
        _require_positive("gamma", self.gamma)
        _require_positive("n_components", self.n_components)
        message = f"detector.kernel='{self.kernel}': must be 'linear' or 'rbf'"
        require(self.kernel in ("linear", "rbf"), message)

    def build(self, seed: int) -> Any:
        """Create an unfitted SVM."""
        from sklearn.kernel_approximation import Nystroem
        from sklearn.linear_model import SGDOneClassSVM
        from sklearn.pipeline import make_pipeline

        svm = SGDOneClassSVM(nu=self.nu, random_state=seed)
        if self.kernel == "linear":
            return svm
        rbf = Nystroem(
            gamma=self.gamma, n_components=self.n_components, random_state=seed
        )
        return make_pipeline(rbf, svm)


@dataclass(frozen=True)
class ExactSVM:
    """One-class SVM with the exact RBF kernel, by libsvm; the same for every seed."""

    nu: float = 0.5
    gamma: float | None = None

    def __post_init__(self) -> None:
        _require_share(self.nu)
        _require_positive("gamma", self.gamma)

    def build(self, seed: int) -> Any:
        """Create an unfitted SVM."""
        from sklearn.svm import OneClassSVM

        del seed
        width: Any = "auto" if self.gamma is None else self.gamma
        return OneClassSVM(nu=self.nu, gamma=width, cache_size=1000)


class Features(NamedTuple):
    """Features of clips, and the row of each in a standardiser."""

    frames: Float32[Array, "clip frame bin"]
    groups: Int[np.ndarray, " clip"]

    def of(self, rows: Int[np.ndarray, " row"]) -> "Features":
        """Those of some clips."""
        return Features(self.frames[rows], self.groups[rows])


@dataclass(frozen=True)
class ClassicalDetector:
    """Flattened windows of frames, scored by a scikit-learn model."""

    estimator: Estimator
    front_end: FrontEnd
    windows: Windows
    standardise: bool  # bins, by the statistics of a run's clips
    pooling: Pooling  # from the scores of a clip's windows to its score
    # by the statistics of a run's clips of the same machine ID, where it has any
    standardise_ids: bool = False
    ids: tuple[str, ...] = field(default=(), compare=False)  # of the training clips

    one_process = True

    def training(self) -> object:
        """Everything but the pooling."""
        standardise = (self.standardise, self.standardise_ids)
        return (self.estimator, self.front_end, self.windows, *standardise)

    def check(self, n_samples: int) -> None:
        """Raise `ConfigError` unless a window fits into clips of this length."""
        wave = jax.ShapeDtypeStruct((n_samples,), np.float32)
        self.windows.per_clip(jax.eval_shape(self.front_end, wave).shape[0])

    def fit(
        self, train: Clips, held_out: Clips, runs: Sequence[Run], folder: Path | None
    ) -> "FittedClassical":
        """Fit a model per run, and score normal clips by models not fitted to them."""
        own = replace(self, ids=tuple(train.ids) if self.standardise_ids else ())
        if folder:
            write_clip_length(folder, train.audio.shape[1], own.ids)
        if folder and (folder / MODEL).exists():
            return self.load(folder, runs)
        features, others = own._extract(train), own._extract(held_out)
        moments = clip_moments(features.frames) if self.standardise else None
        models, standardisers, unseen = [], [], []
        per_clip = self.windows.per_clip(features.frames.shape[1])
        with log.bar("fitting", len(runs), "models") as advance:
            for run in runs:
                if (count := len(run.clips) * per_clip) > MAX_EXAMPLES:
                    log.info(
                        f"seed {run.seed}: fitted to {MAX_EXAMPLES:,} of {count:,} "
                        "windows, drawn at random"
                    )
                model = own._fit_one(features, moments, run)
                unseen.append(own._unseen(features, others, moments, run, model))
                models.append(model[0])
                standardisers.append(model[1])
                advance(1)
        normal = NormalVectors.of(np.stack(unseen), train, held_out, runs)
        fitted = FittedClassical(own, models, standardisers, normal)
        if folder:
            normal.save(folder / UNSEEN)
            fitted.save(folder)
        return fitted

    def load(self, folder: Path, runs: Sequence[Run]) -> "FittedClassical":
        """Load the models of as many runs; types that aren't expected are refused."""
        import skops.io
        from skops.io.exceptions import UntrustedTypesFoundException

        path = folder / MODEL
        with file_errors(path):
            content = path.read_bytes()
        try:
            models, standardisers = skops.io.loads(content, trusted=TRUSTED)
            for model in models:
                _require_sound(model)
            kinds = {_kinds(model) for model in models}
        except UntrustedTypesFoundException as error:
            names = set(skops.io.get_untrusted_types(data=content)) - {*TRUSTED}
            raise DataError(
                f"{path}: holds {', '.join(sorted(names))}, which no model here needs; "
                "don't trust this folder"
            ) from error
        except MemoryError:
            raise
        except Exception as error:  # a damaged file breaks in many ways
            raise DataError(
                f"{path}: damaged ({type(error).__name__}); remove it to fit again"
            ) from error
        if len(models) != len(runs) or kinds != {_kinds(self.estimator.build(0))}:
            raise DataError(f"{path}: not the models of these runs; train again")
        standard = [Standardiser(*map(jnp.asarray, s)) for s in standardisers]
        unseen = folder / UNSEEN  # which older workdirs lack
        normal = NormalVectors.load(unseen, len(runs)) if unseen.exists() else None
        ids = read_ids(folder) if self.standardise_ids else ()
        return FittedClassical(replace(self, ids=tuple(ids)), models, standard, normal)

    def _extract(self, clips: Clips) -> Features:
        groups = group_rows(self.ids, clips.machine_id)
        if not len(clips):
            wave = jax.ShapeDtypeStruct((clips.audio.shape[1],), np.float32)
            shape = jax.eval_shape(self.front_end, wave).shape
            return Features(jnp.zeros((0, *shape)), groups)
        rows = np.arange(len(clips))
        with log.bar("features", len(clips)) as advance:
            frames = extract(self.front_end, clips.audio, rows, advance)
        return Features(frames, groups)

    def _fit_one(
        self, features: Features, moments: tuple[Moment, Moment] | None, run: Run
    ) -> Model:
        """Fit a model to the clips of a run."""
        standardiser = Standardiser.identity(features.frames.shape[2])
        if moments:
            mean, variance = (one[run.clips] for one in moments)
            groups = features.groups[run.clips]
            standardiser = Standardiser.of_groups(mean, variance, groups, len(self.ids))
        examples = self._examples(features, run, standardiser)
        with warnings.catch_warnings():
            # Nystroem takes every example where there are fewer: as intended.
            warnings.filterwarnings("ignore", "n_components > n_samples")
            return self.estimator.build(run.seed).fit(examples), standardiser

    def _unseen(
        self,
        features: Features,
        others: Features,
        moments: tuple[Moment, Moment] | None,
        run: Run,
        model: Model,
    ) -> Float32[np.ndarray, "clip segment"]:
        """Score held-out clips, or each tenth by a model of the rest; 0 for others."""
        per_clip = self.windows.per_clip(features.frames.shape[1])
        n, n_others = len(features.frames), len(others.frames)
        scores = np.zeros((n + n_others, per_clip), np.float32)
        if len(run.validation):
            rows = run.validation
            scores[n + rows] = self._outlyingness(others.of(rows), *model)
            return scores
        require(len(run.clips) > 1, "a single normal clip; must be at least 2")
        fold = np.arange(len(run.clips)) % FOLDS
        for one in np.unique(fold):
            rest = replace(run, clips=run.clips[fold != one])
            of_rest = self._fit_one(features, moments, rest)
            # Models have scales of their own; clips known to both align them.
            known = features.of(rest.clips[:: -(-len(rest.clips) // ALIGNED)])
            middle, spread = median_and_spread(self._outlyingness(known, *model))
            rows = run.clips[fold == one]
            z = z_scores(
                self._outlyingness(features.of(rows), *of_rest),
                self._outlyingness(known, *of_rest),
            )
            scores[rows] = middle + spread * z
        return scores

    def _outlyingness(
        self, features: Features, model: Any, standardiser: Standardiser
    ) -> Float[np.ndarray, "clip segment"]:
        """Outlyingness of every window under a model."""
        n_clips, n_frames, _ = features.frames.shape
        index = np.arange(n_clips * self.windows.per_clip(n_frames))
        x = self._flat_windows(features, index, standardiser)
        # scikit-learn's score is higher for more normal examples.
        return -np.reshape(model.score_samples(x), (n_clips, -1))

    def _examples(
        self, features: Features, run: Run, standardiser: Standardiser
    ) -> np.ndarray:
        per_clip = self.windows.per_clip(features.frames.shape[1])
        index = (run.clips[:, None] * per_clip + np.arange(per_clip)).ravel()
        if len(index) > MAX_EXAMPLES:
            rng = np.random.default_rng(run.seed)
            index = np.sort(rng.choice(index, MAX_EXAMPLES, replace=False))
        return self._flat_windows(features, index, standardiser)

    def _flat_windows(
        self,
        features: Features,
        index: Int[np.ndarray, " window"],
        standardiser: Standardiser,
    ) -> Float32[np.ndarray, "window column"]:
        """Standardised windows, on the host."""
        clip = index // self.windows.per_clip(features.frames.shape[1])
        x = self.windows.gather(features.frames, jnp.asarray(index))
        x = standardiser.of(features.groups[clip]).apply(x)
        return np.asarray(x).reshape(len(x), -1)


@dataclass(frozen=True, eq=False)
class FittedClassical:
    """A scikit-learn model per run."""

    detector: ClassicalDetector
    models: list[Any]
    standardisers: list[Standardiser]
    normal: NormalVectors | None = None  # windows' scores of clips not fitted to

    def represent(self, clips: Clips) -> Float[np.ndarray, "run clip segment column"]:
        """Outlyingness of every window under every run's model."""
        detector = self.detector

        groups = group_rows(detector.ids, clips.machine_id)

        def of_chunk(rows: np.ndarray) -> np.ndarray:
            frames = extract(detector.front_end, clips.audio, rows, advance)
            features = Features(frames, groups[rows])
            pairs = zip(self.models, self.standardisers, strict=True)
            scores = [detector._outlyingness(features, *pair) for pair in pairs]
            return np.stack(scores)[..., None]

        starts = range(CLIPS_PER_TRANSFER, len(clips), CLIPS_PER_TRANSFER)
        with log.bar("scoring", len(clips)) as advance:
            chunks = np.split(np.arange(len(clips)), starts)
            return np.concatenate([of_chunk(rows) for rows in chunks], axis=1)

    def score(self, clips: Clips) -> Float[np.ndarray, "run clip"]:
        """Pooled outlyingness of every clip under every run's model."""
        return np.asarray(self.detector.pooling(self.represent(clips)[..., 0]))

    def explain(self, clips: Clips) -> None:
        """Explain nothing."""

    @property
    def alive(self) -> list[bool]:
        """True for each run: no fit diverges."""
        return [True] * len(self.models)

    def group_scores(self, clips: Clips) -> dict[str, Float[np.ndarray, "run clip"]]:
        """Return nothing: a score has no parts."""
        return {}

    def without_folder(self) -> "FittedClassical":
        """Itself: it keeps no vectors."""
        return self

    def of_wave(self, run: int, ids: Sequence[str]) -> NoReturn:
        """Raise ConfigError."""
        raise ConfigError(
            "scikit-learn's models can't be exported; choose a row of functionals or "
            "of a neural detector by --detector"
        )

    def normal_scores(self) -> list[NormalScores]:
        """Scores of each run's normal clips by a model that wasn't fitted to them."""
        if not self.normal:
            return []
        runs, pool = range(len(self.models)), self.detector.pooling
        return [self.normal.held_out_scores(run, pool) for run in runs]

    def pretrained(self) -> Sequence[Any]:
        """Return nothing: these models can't be fine-tuned."""
        return ()

    def save(self, folder: Path) -> None:
        """Save models and standardisers, whole or not at all."""
        import skops.io

        standardisers = [tuple(map(np.asarray, s)) for s in self.standardisers]
        make_folder(folder)
        replace_file(folder / MODEL, skops.io.dumps((self.models, standardisers)))


ESTIMATORS: dict[str, Any] = {
    "isolation_forest": Forest,
    "sgd_one_class_svm": SVM,
    "exact_one_class_svm": ExactSVM,
}


def _kinds(model: Any) -> tuple[type, ...]:
    """Class of a model, and of the steps of a pipeline."""
    return (type(model), *(type(step) for _, step in getattr(model, "steps", ())))


def _require_sound(model: Any) -> None:
    """Raise ValueError for numbers by which scikit-learn would read other memory."""
    from sklearn.svm import OneClassSVM

    for tree in (one.tree_ for one in getattr(model, "estimators_", ())):
        node = np.arange(tree.node_count)
        left, right, feature = tree.children_left, tree.children_right, tree.feature
        inner = (left != -1) | (right != -1)
        for child in (left[inner], right[inner]):
            if not np.all((node[inner] < child) & (child < tree.node_count)):
                raise ValueError("a tree has no such node")
        if not np.all((feature[inner] >= 0) & (feature[inner] < tree.n_features)):
            raise ValueError("a tree has no such feature")
        if tree.n_features != model.n_features_in_ or not tree.node_count:
            raise ValueError("a tree for other examples")
    if isinstance(model, OneClassSVM):
        n, vectors = int(model._n_support[0]), model.support_vectors_
        shapes = model.support_.shape, model._dual_coef_.shape, vectors.shape[:1]
        if shapes != ((n,), (1, n), (n,)) or vectors.ndim != 2:
            raise ValueError("support vectors of another shape")


def _require_share(nu: float) -> None:
    require(0 < nu <= 1, f"detector.nu={nu}: must be above 0, up to 1")


def _require_positive(field: str, value: float | None) -> None:
    positive = value is None or value > 0
    require(positive, f"detector.{field}={value}: must be positive")
