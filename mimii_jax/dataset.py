"""The clips of an experiment: recordings below a root, or simulated machines."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mimii_jax import log
from mimii_jax.data import dcase, labels, layouts, own
from mimii_jax.data.audio import MEAN, Channel
from mimii_jax.data.clips import ALL_TYPES, COLUMNS, Clips, join_types
from mimii_jax.data.recordings import concatenate
from mimii_jax.errors import ConfigError, DataError, require
from mimii_jax.simulated import simulate as simulator

SIMULATED = "simulated"
SIMULATED_IDS, EVALUATION_IDS = ("00", "02", "04"), ("01", "03", "05")


@dataclass(frozen=True)
class Dataset:
    """Choice of training and test clips; the fields are those of a config's `data`."""

    root: str  # "": simulated machines
    machine_types: tuple[str, ...]  # ("all",): one model over all there are
    ids: tuple[str, ...]
    labels: str
    on_bad_file: str
    channel: Channel
    seconds: float | None  # of every clip; None: the most frequent length
    sample_rate: int  # in Hz, that of the front end
    test_normals: int | None
    scale: float
    simulation_seed: int
    train_share: float
    test_share: float
    evaluation: str
    validation_fraction: float

    def __post_init__(self) -> None:
        def check(field: str, holds: bool, limit: str) -> None:
            require(holds, f"data.{field}={getattr(self, field)!r}: {limit}")

        for field in ("ids", "machine_types"):
            strings = all(isinstance(item, str) for item in getattr(self, field))
            check(field, strings, "must be strings, such as \"('00', '02')\"")
        names = all("/" not in t and not t.startswith(".") for t in self.machine_types)
        check("machine_types", names, "must be names of folders in data.root")
        known = self.on_bad_file in ("error", "skip")
        check("on_bad_file", known, "must be 'error' or 'skip'")
        number = isinstance(self.channel, int) and self.channel >= 0
        check("channel", number or self.channel == MEAN, "must be 0, 1, … or 'mean'")
        long = self.seconds is None or 0 < self.seconds < float("inf")
        check("seconds", long, "must be positive, or None: the most frequent length")
        some = self.test_normals is None or self.test_normals >= 1
        check("test_normals", some, "must be at least 1, or None")
        check("scale", self.scale > 0, "must be positive")
        for field in ("train_share", "test_share"):
            check(field, 0 < getattr(self, field) <= 1, "must be above 0, up to 1")
        fraction = self.validation_fraction
        check("validation_fraction", 0 <= fraction < 1, "must be in [0, 1)")
        known = {*simulator.MACHINES, ALL_TYPES}
        check(
            "machine_types",
            bool(self.root) or set(self.machine_types) <= known,
            f"only {', '.join(simulator.MACHINES)} can be simulated; name a folder of "
            "recordings as data.root",
        )
        for kind in () if self.root else self._types():
            simulated = simulator.MACHINES[kind].counts
            message = f"choose simulated IDs of {kind} from {', '.join(simulated)}"
            check("ids", set(self.ids) <= set(simulated), message)
        check(
            "evaluation",
            self.evaluation != SIMULATED or self.machine_types == ("slider",),
            "only slide rails of evaluation IDs can be simulated",
        )
        check(
            "machine_types",
            self.together or ALL_TYPES not in self.machine_types,
            f"'{ALL_TYPES}' is one model over all types; name it alone",
        )

    @property
    def source(self) -> str:
        """The kind of sound, for titles."""
        return "recordings" if self.root else "simulated"

    @property
    def together(self) -> bool:
        """Whether one model is trained over all machine types."""
        return self.machine_types == (ALL_TYPES,)

    def machines(self) -> list[str]:
        """The machine types to train on, each by itself; `ALL_TYPES`: as one."""
        return [ALL_TYPES] if self.together else self._types()

    def _types(self) -> list[str]:
        """The chosen machine types; all if none is chosen."""
        chosen = [one for one in self.machine_types if one != ALL_TYPES]
        if not self.root:
            return chosen or list(simulator.MACHINES)
        present = own.machines(self._root)
        if present and chosen == ["slider"] != present:  # a default, not a choice
            chosen = [one for one in chosen if one in present]
        types = chosen or present or layouts.machine_types(self._root)
        if not types:
            raise DataError(f"{self.root}: holds no folder of a machine type")
        if odd := [one for one in types if not one.isprintable()]:
            raise DataError(
                f"{self.root}: the name of {odd[0]} can't be printed; rename the folder"
            )
        if ALL_TYPES in types:
            raise DataError(
                f"{self.root}: a machine type can't be called '{ALL_TYPES}', which "
                "means all of them; rename the folder"
            )
        return types

    def load(
        self, machine_type: str, splits: Sequence[str] = ("train", "test"), extra=False
    ) -> Clips:
        """Read or simulate the clips of one machine type.

        With `extra`, simulated training clips of the ID with the fewest, as many as it
        lacks, are appended as the split "extra".
        """
        if machine_type == ALL_TYPES:
            require(not extra, "training_sets: only slide rails can be simulated")
            return join_types([self.load(one, splits) for one in self._types()])
        if self.root:
            clips = self._read(self._root, machine_type, self.ids, splits)
            shares = {"train": self.train_share, "test": self.test_share}
            clips = _share(clips, shares)
        else:
            clips = self._simulate(machine_type, self.ids or SIMULATED_IDS, splits)
        if self.evaluation:
            clips = _append(clips, self._evaluation(clips))
        if extra:
            clips = _append(clips, self._extra(clips.train))
        return clips

    def check(self, machine_type: str) -> None:
        """Raise `DataError` for files that `load` would refuse, by their headers."""
        if self.root:
            splits = ("train", "test")
            self._read(self._root, machine_type, self.ids, splits, decode=False)

    @property
    def _root(self) -> Path:
        return Path(self.root).expanduser()

    def _read(
        self,
        root: Path,
        machine_type: str,
        ids: Sequence[str],
        splits: Sequence[str],
        seconds: float | None = None,
        decode: bool = True,
    ) -> Clips:
        log.info(f"{machine_type}: {'reading' if decode else 'checking'} {root}")
        known = labels.find_labels(root, self.labels)
        clips = dcase.read(
            root,
            machine_type,
            ids,
            splits=splits,
            on_bad_file=self.on_bad_file,
            labels=known,
            test_normals=self.test_normals,
            sample_rate=self.sample_rate,
            channel=self.channel,
            seconds=seconds or self.seconds,
            decode=decode,
            sets=len(self._types()) if self.together else 1,
        )
        if count := sum((machine_type, name) in known for name in clips.name):
            log.info(f"{machine_type}: {count} evaluation clips have published labels")
        return clips

    def _simulate(
        self, machine_type: str, ids: Sequence[str], splits: Sequence[str]
    ) -> Clips:
        shares = {"train": self.train_share, "test": self.test_share}
        log.info(
            f"{machine_type}: SIMULATED sound, not recordings (data.root is empty), at "
            + " and ".join(
                f"{self.scale * shares[split]:g} times the official number of {split} "
                "clips"
                for split in splits
            )
        )
        clips = simulator.simulate(
            ids,
            machine_type=machine_type,
            scale=self.scale,
            # One clip per ID remains, and isn't used.
            train_share=self.train_share if "train" in splits else 0.0,
            test_share=self.test_share,
            seed=self.simulation_seed,
        ).clips
        return clips if "train" in splits else clips.test

    def _evaluation(self, own_clips: Clips) -> Clips:
        """Test clips of machine IDs that aren't known yet."""
        known = own_clips.ids
        if self.evaluation == SIMULATED:
            clips = self._simulate("slider", EVALUATION_IDS, ("test",))
        else:
            root = Path(self.evaluation).expanduser()
            seconds = own_clips.audio.shape[1] / own_clips.sample_rate
            clips = self._read(
                root, own_clips.machine_type, (), ("test",), seconds=seconds
            )
            clips = _share(clips, {"test": self.test_share})
        clips = clips[~np.isin(clips.machine_id, known)]
        if not len(clips):
            raise DataError(
                f"data.evaluation={self.evaluation}: holds no ids but "
                f"{', '.join(known)}"
            )
        return clips

    def _extra(self, train: Clips) -> Clips:
        """Simulated training clips; their seed isn't that of the data set."""
        if train.machine_type != "slider":
            raise ConfigError("training_sets: only slide rails can be simulated")
        counts = {i: int(np.sum(train.machine_id == i)) for i in train.ids}
        smallest = min(counts, key=counts.__getitem__)
        missing = max(counts.values()) - counts[smallest]
        official, _ = simulator.MACHINES["slider"].counts[smallest]
        more = simulator.simulate(
            (smallest,),
            scale=(missing + 1) / official,
            seed=self.simulation_seed + 1,
        ).clips.train[slice(0, missing)]
        return replace(more, split=np.full(len(more), "extra"))


def _share(clips: Clips, shares: dict[str, float]) -> Clips:
    """Keep a share of each split, ID and label, at least one, at even distances."""
    if all(share >= 1 for share in shares.values()):
        return clips
    kept = np.zeros(len(clips), bool)
    labels = np.char.mod("/%d", clips.label)
    kinds = np.char.add(np.char.add(clips.split, clips.machine_id), labels)
    for kind in np.unique(kinds):
        rows = np.flatnonzero(kinds == kind)
        split = str(clips.split[rows[0]])
        count = max(1, round(shares[split] * len(rows)))
        kept[rows[np.arange(count) * len(rows) // count]] = True
    return clips[kept]


def _append(clips: Clips, more: Clips) -> Clips:
    """Append clips of the same length and rate."""
    kinds = [
        f"{one.audio.shape[1]} samples at {one.sample_rate} Hz" for one in (more, clips)
    ]
    if kinds[0] != kinds[1]:
        raise DataError(
            f"{more.machine_type}: clips of {kinds[0]} can't be added to clips of "
            f"{kinds[1]}"
        )
    columns = {
        c: np.concatenate([getattr(o, c) for o in (clips, more)]) for c in COLUMNS
    }
    audio = concatenate([clips.audio, more.audio])
    return replace(clips, audio=audio, **columns)
