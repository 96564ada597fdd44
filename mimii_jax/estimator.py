"""`mimii_jax.Detector` and `mimii_jax.load`: a detector as of scikit-learn and PyOD."""

import io
import tempfile
import zipfile
from collections.abc import Sequence
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from threading import RLock
from typing import Any, Self

import numpy as np
from jaxtyping import Float, Int
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from mimii_jax import log
from mimii_jax.config import Config, build
from mimii_jax.data.arrays import as_waves
from mimii_jax.data.clips import Clips
from mimii_jax.errors import ConfigError, DataError, require
from mimii_jax.files import file_errors
from mimii_jax.judge import Judge
from mimii_jax.learn import (
    IN_MEMORY,
    as_ids,
    as_paths,
    files_of,
    is_root,
    learn,
    read_clips,
)
from mimii_jax.named import load_config, set_fields
from mimii_jax.results.fusion import mean_of_seeds
from mimii_jax.results.threshold import FALSE_ALARMS, METHODS
from mimii_jax.score import recordings
from mimii_jax.workdir import Workdir

ClipScores = Float[np.ndarray, " clip"]


class Detector(BaseEstimator):
    """A detector of anomalous sound, learned from normal recordings alone.

    Recordings are floats in [-1, 1] or int16, [clip, time], or a list of waves of any
    lengths; or a folder, or a list of files. Methods may be called from many threads.

    Parameters
    ----------
    config : name of a config, such as "functionals" or "mlp_vae:reference", a file, or
        the workdir of a training, whose settings count
    row : of the score table, such as "transformer & functionals"; "": the first
    false_alarms : wanted share of normal recordings that `predict` calls anomalous
    method : of the threshold, "gamma" or "empirical"
    verbose : whether progress is shown
    fields : of the config, with __ for the dot: train__epochs=5

    Attributes
    ----------
    decision_scores_ : f64 [shape=(clip,)], of the recordings it was fitted to, each as
        if it weren't one of them where the detector can tell; after `load`, of these
    labels_ : 0 or 1 for each of them
    threshold_ : score above which a recording is anomalous; of one ID, if there are
        several see `thresholds_`
    """

    def __init__(
        self,
        config: str = "functionals",
        *,
        row: str = "",
        false_alarms: float = FALSE_ALARMS,
        method: str = METHODS[0],
        verbose: bool = False,
        **fields: Any,
    ) -> None:
        self.config = config
        self.row = row
        self.false_alarms = false_alarms
        self.method = method
        self.verbose = verbose
        self.fields = fields

    def fit(
        self, X: Any, y: Any = None, ids: Any = None, sample_rate: int = 16000
    ) -> Self:
        """Learn from normal recordings.

        Parameters
        ----------
        X : waves or files. A folder is read as `data.root` of a config: subfolders are
            machine IDs, and of a known layout the training clips are used
        y : ignored
        ids : machine ID of each recording; None: those of the files' names or the
            folder, or the same for all
        sample_rate : of waves, in Hz; files have their own
        """
        del y
        config = self._config()
        config.data.root = (
            str(Path(X).expanduser().absolute()) if is_root(X) else IN_MEMORY
        )
        if "data__machine_types" not in self.fields:
            config.data.machine_types = ()
        require(
            ids is None or not is_root(X), "ids: those of a folder are its subfolders"
        )
        experiment = build(config)
        with self._said(), tempfile.TemporaryDirectory() as folder:
            clips = read_clips(X, ids, sample_rate, experiment)
            config.data.machine_types = (clips.machine_type,)
            workdir = Workdir(Path(folder) / "workdir")
            learn(experiment, config, clips, workdir)
            self._open(workdir, sample_rate)
            self.decision_scores_ = self._normal_scores(clips.train)
        return self

    def decision_function(
        self, X: Any, ids: Any = None, sample_rate: int | None = None
    ) -> ClipScores:
        """Score recordings, of any lengths; higher is more anomalous.

        A long one is scored in pieces of the length learned from; the highest counts.

        Parameters
        ----------
        X : waves or files; a folder: all recordings in it, in the order of their names
        ids : machine ID of each; None: those of the files' names and folders, or the
            only one. One that is unknown is compared with all
        sample_rate : of waves, in Hz; None: as in `fit`
        """
        return self._scored(X, ids, sample_rate)[0]

    def predict(
        self, X: Any, ids: Any = None, sample_rate: int | None = None
    ) -> Int[np.ndarray, " clip"]:
        """Decide: 0 for a normal recording, 1 for an anomalous one."""
        scores, of = self._scored(X, ids, sample_rate)
        return self._decide(scores, of)

    @property
    def labels_(self) -> Int[np.ndarray, " clip"]:
        """Decisions about the recordings it was fitted to."""
        check_is_fitted(self)
        return self._decide(self.decision_scores_, self._ids)

    @property
    def threshold_(self) -> float:
        """Score above which a recording is anomalous; of unknown IDs if they vary."""
        check_is_fitted(self)
        ids = self._judge.ids
        return self._threshold(ids[0] if len(ids) == 1 else "")

    @property
    def thresholds_(self) -> dict[str, float]:
        """Threshold of each machine ID."""
        check_is_fitted(self)
        return {one: self._threshold(one) for one in self._judge.ids}

    def save(self, path: str | PathLike) -> None:
        """Write a workdir, for `mimii_jax.load` and `python -m mimii_jax.score`."""
        check_is_fitted(self)
        folder = Path(path).expanduser()
        with file_errors(folder):
            if folder.exists() and any(folder.iterdir()):
                raise DataError(f"{folder}: isn't empty; choose another folder")
            with zipfile.ZipFile(io.BytesIO(self._files)) as files:
                files.extractall(folder)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters and config fields."""
        return super().get_params(deep) | self.fields

    def set_params(self, **params: Any) -> Self:
        """Set parameters and config fields."""
        for name, value in params.items():
            if name in self._get_param_names():
                setattr(self, name, value)
            else:
                self.fields[name] = value
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "_judge")

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the workdir in place of compiled programs."""
        hidden = ("_judge", "_lock")
        state: Any = super().__getstate__()
        return {key: value for key, value in state.items() if key not in hidden}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "_files" in state:
            with tempfile.TemporaryDirectory() as folder:
                with zipfile.ZipFile(io.BytesIO(self._files)) as files:
                    files.extractall(folder)
                self._load(Path(folder))

    def _config(self) -> Config:
        """The config with its fields set."""
        path = Path(self.config).expanduser()
        if (path / "config.json").is_file():
            config = Workdir(path).read_config()
        else:
            config = load_config(self.config)
        names = {name.replace("__", "."): v for name, v in self.fields.items()}
        set_fields(config, names)
        return config

    def _said(self) -> Any:
        return nullcontext() if self.verbose else log.silent()

    def _open(self, workdir: Workdir, sample_rate: int | None, **more: Any) -> None:
        """Load the models of a workdir, and keep its files."""
        file = io.BytesIO()
        with file_errors(workdir.path), zipfile.ZipFile(file, "w") as files:
            for path in files_of(workdir.path):
                files.write(path, path.relative_to(workdir.path))
        self._files = file.getvalue()
        self._load(workdir.path, **more)
        self.sample_rate_ = sample_rate or self._judge.sample_rate

    def _load(self, path: Path, **more: Any) -> None:
        options = {"detector": self.row, "false_alarms": self.false_alarms}
        self._lock = RLock()
        self._judge = Judge.load(path, **options, method=self.method, **more)

    def _normal_scores(self, train: Clips | None = None) -> ClipScores:
        """Scores of clips that it was fitted to; None: of those that have them."""
        normal = self._judge.normal
        known: dict[str, tuple[str, float]] = {}
        if normal is not None:
            own = normal[normal.detector == self._judge.detector]
            mean = mean_of_seeds(own, own)
            columns = (mean.machine_id.tolist(), mean.score.tolist())
            known = dict(
                zip(mean.name.tolist(), zip(*columns, strict=True), strict=True)
            )
        if train is None:
            self._ids = [one for one, _ in known.values()]
            return np.array([score for _, score in known.values()])
        self._ids = train.machine_id.tolist()
        scores = np.array([known.get(n, ("", np.nan))[1] for n in train.name.tolist()])
        unknown = np.isnan(scores)
        if unknown.any():
            some = train[unknown]
            scores[unknown] = self._judge.score(
                list(some.audio), some.machine_id.tolist()
            )
        return scores

    def _scored(
        self, x: Any, ids: Any, sample_rate: int | None
    ) -> tuple[ClipScores, Sequence[str]]:
        """Scores, and the IDs that they are compared with."""
        check_is_fitted(self)
        judge, rate = self._judge, sample_rate or self.sample_rate_
        paths = as_paths(x)
        with self._said():
            if paths is None:
                waves = as_waves(x, rate, judge.sample_rate)
                of = [judge.ids[0] if len(judge.ids) == 1 else ""] * len(waves)
            else:
                files = recordings(paths)
                waves = log.in_threads("reading", judge.read, files, "files")
                of = [judge.id_of(path) for path in files]
            of = of if ids is None else as_ids(ids, len(waves))
            with self._lock:
                return judge.score(waves, of), of

    def _threshold(self, machine_id: str) -> float:
        normals = self._judge.normals
        if not normals:
            raise ConfigError(
                f"config={self.config}: has no scores of unseen normal recordings, and "
                "so no threshold"
            )
        return normals.threshold(machine_id, self.false_alarms, self.method)

    def _decide(
        self, scores: ClipScores, ids: Sequence[str]
    ) -> Int[np.ndarray, " clip"]:
        limits = {one: self._threshold(one) for one in set(ids)}
        return (scores > np.array([limits[one] for one in ids])).astype(int)


def load(
    path: str | PathLike,
    *,
    machine: str = "",
    row: str = "",
    false_alarms: float = FALSE_ALARMS,
    method: str = METHODS[0],
) -> Detector:
    """Load a detector that `Detector.save` or `python -m mimii_jax.main` wrote.

    Parameters
    ----------
    path : workdir of a finished training
    machine : machine type, where there are several
    row, false_alarms, method : as of `Detector`
    """
    workdir = Workdir(Path(path).expanduser())
    detector = Detector(
        str(workdir.path), row=row, false_alarms=false_alarms, method=method
    )
    with log.silent():
        detector._open(workdir, None, machine_type=machine)
        detector.decision_scores_ = detector._normal_scores()
    return detector
