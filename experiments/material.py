"""The clips of a cell: a share of a data set, with others added to it if asked for."""

from copy import deepcopy
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np

from experiments.cell import SIMULATED, Options
from mimii_jax.config import Config, load_clips
from mimii_jax.data.clips import Clips
from mimii_jax.errors import DataError
from mimii_jax.slide_rail import simulate as slide_rail
from mimii_jax.watch import Watch

EVALUATION_IDS = ("01", "03", "05")


@dataclass(frozen=True, eq=False)
class Material:
    """Clips of a cell; those of `train` from `n_own` on are simulated additions."""

    train: Clips
    test: Clips
    n_own: int


def load(
    config: Config, machine_type: str, options: Options, extra: bool, watch: Watch
) -> Material:
    """The clips that a cell is trained and tested on.

    With `extra`, simulated clips of the machine ID with the fewest are added to the
    training set, as many as make it as large as the largest.
    """
    config = deepcopy(config)
    train_share, test_share = options.train_share, options.test_share
    if not config.data.root and train_share and test_share:
        config.data.scale = max(train_share, test_share)
        train_share /= config.data.scale
        test_share /= config.data.scale
    clips = _load(config, machine_type, watch)
    train, test = _share(clips.train, train_share), _share(clips.test, test_share)
    if options.evaluation:
        test = _append(
            test, _evaluation(config, machine_type, options, test.ids, watch)
        )
    n_own = len(train)
    if extra:
        _require_slider(machine_type)
        counts = {i: int(np.sum(train.machine_id == i)) for i in train.ids}
        smallest = min(counts, key=counts.__getitem__)
        missing = max(counts.values()) - counts[smallest]
        (_, official), *_ = slide_rail.COUNTS[smallest]["train"]
        c = config.data
        more = _simulate(smallest, (missing + 1) / official, c.simulation_seed)
        train = _append(train, more[slice(0, missing)])
    return Material(train, test, n_own)


def _evaluation(
    config: Config, machine_type: str, options: Options, known: list[str], watch: Watch
) -> Clips:
    """Test clips of machine IDs that are not known yet: the challenge's evaluation."""
    config = deepcopy(config)
    simulated = options.evaluation == SIMULATED
    config.data.root = "" if simulated else options.evaluation
    config.data.ids = EVALUATION_IDS if simulated else ()
    if simulated:
        _require_slider(machine_type)
    clips = load_clips(config, machine_type, watch, splits=("test",))
    clips = clips[~np.isin(clips.machine_id, known)]
    if not len(clips):
        raise DataError(f"{options.evaluation}: no ids but {', '.join(known)}")
    return _share(clips, None if simulated else options.test_share)


def _require_slider(machine_type: str) -> None:
    if machine_type != "slider":
        raise DataError(f"{machine_type}: only slide rails can be simulated")


_last: dict[tuple[str, str], Clips] = {}


def _load(config: Config, machine_type: str, watch: Watch) -> Clips:
    """`load_clips`, keeping the last ones: most cells of a study have the same."""
    key = config.data.to_json(), machine_type
    if key not in _last:
        _last.clear()
        _last[key] = load_clips(config, machine_type, watch)
    return _last[key]


def _share(clips: Clips, share: float | None) -> Clips:
    """So many clips of each ID and label, at least one, at even distances."""
    if share is None or share >= 1:
        return clips
    kept = np.zeros(len(clips), bool)
    kinds = np.char.add(clips.machine_id, np.char.mod("/%d", clips.label))
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        count = max(1, round(share * len(rows)))
        kept[rows[np.arange(count) * len(rows) // count]] = True
    return clips[kept]


@lru_cache(maxsize=1)
def _simulate(machine_id: str, scale: float, seed: int) -> Clips:
    """Training clips of a simulated machine; the seed is not that of the data set."""
    return slide_rail.simulate((machine_id,), scale=scale, seed=seed + 1).clips.train


def _append(clips: Clips, more: Clips) -> Clips:
    """Clips, and others of equal length behind them."""
    columns = [f.name for f in fields(clips)]
    arrays = [c for c in columns if isinstance(getattr(clips, c), np.ndarray)]
    joined = {c: np.concatenate([getattr(clips, c), getattr(more, c)]) for c in arrays}
    return replace(clips, **joined)
