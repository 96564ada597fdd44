"""The published records of DCASE 2020 Task 2, and what has to be in their files."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mimii_jax.data.clips import ANOMALOUS, NORMAL, UNKNOWN
from mimii_jax.data.fetch import DownloadError, Say, read
from mimii_jax.data.layouts import DCASE_2020, LABELS

MACHINES = ("ToyCar", "ToyConveyor", "fan", "pump", "slider", "valve")

# Split -> Zenodo records and their files.
RECORDS = {
    "dev": ((3678171, "dev_data_{machine}.zip"),),
    "additional": ((3727685, "eval_data_train_{machine}.zip"),),
    "eval": (
        (3841772, "eval_data_test_{machine}.zip"),
        (3951620, "eval_data_list.csv"),  # the labels of all machine types
    ),
}

# Bytes, to say beforehand how much will come; the archives of evaluation clips are not
# among them. What a file is held against is the size and the MD5 sum that its record
# answers with. (Source: keys of the DataLad data set datasets--dcase2020, whose MD5
# sums are those of soundata; three of them also the answer of Zenodo's API, 2026.)
SIZES = {
    "dev_data_ToyCar.zip": 1_816_443_231,
    "dev_data_ToyConveyor.zip": 1_868_564_070,
    "dev_data_fan.zip": 1_354_774_772,
    "dev_data_pump.zip": 1_031_279_015,
    "dev_data_slider.zip": 1_002_998_966,
    "dev_data_valve.zip": 1_013_925_627,
    "eval_data_train_ToyCar.zip": 861_354_584,
    "eval_data_train_ToyConveyor.zip": 887_026_878,
    "eval_data_train_fan.zip": 697_147_242,
    "eval_data_train_pump.zip": 590_897_096,
    "eval_data_train_slider.zip": 577_515_541,
    "eval_data_train_valve.zip": 615_645_426,
    "eval_data_list.csv": 338_426,
}

# Clips per ID where they are published: to train on; to test on: normal, anomalous,
# without a label. Those of the evaluation are the lines of its list of labels.
COUNTS = {
    "dev_data_slider.zip": {
        "00": (968, 100, 356, 0),
        "02": (968, 100, 267, 0),
        "04": (434, 100, 178, 0),
        "06": (434, 100, 89, 0),
    },
    "eval_data_train_slider.zip": {
        "01": (968, 0, 0, 0),
        "03": (968, 0, 0, 0),
        "05": (434, 0, 0, 0),
    },
    "eval_data_test_ToyCar.zip": {
        "05": (0, 0, 0, 515),
        "06": (0, 0, 0, 515),
        "07": (0, 0, 0, 515),
    },
    "eval_data_test_ToyConveyor.zip": {
        "04": (0, 0, 0, 555),
        "05": (0, 0, 0, 555),
        "06": (0, 0, 0, 555),
    },
    "eval_data_test_fan.zip": {
        "01": (0, 0, 0, 426),
        "03": (0, 0, 0, 458),
        "05": (0, 0, 0, 458),
    },
    "eval_data_test_pump.zip": {
        "01": (0, 0, 0, 216),
        "03": (0, 0, 0, 213),
        "05": (0, 0, 0, 348),
    },
    "eval_data_test_slider.zip": {
        "01": (0, 0, 0, 278),
        "03": (0, 0, 0, 278),
        "05": (0, 0, 0, 278),
    },
    "eval_data_test_valve.zip": {
        "01": (0, 0, 0, 220),
        "03": (0, 0, 0, 220),
        "05": (0, 0, 0, 500),
    },
}
NO_CLIPS = (0, 0, 0, 0)


@dataclass(frozen=True)
class Source:
    """A file of a record, and the split that it is of."""

    split: str
    record: int
    name: str


@dataclass(frozen=True)
class Remote:
    """A file of a record: where it is, its size in bytes, its MD5 sum."""

    url: str
    size: int
    md5: str


def wanted(machines: Sequence[str], splits: Sequence[str]) -> list[Source]:
    """The files of these machine types and splits, each once."""
    files = [
        Source(split, record, name.format(machine=machine))
        for machine in machines
        for split in splits
        for record, name in RECORDS[split]
    ]
    return list(dict.fromkeys(files))


def amount(sources: Sequence[Source]) -> str:
    """How much these files are, in words."""
    known = [SIZES[source.name] for source in sources if source.name in SIZES]
    others = [source.name for source in sources if source.name not in SIZES]
    parts = [f"{sum(known) / 1e9:.2f} GB"] if known else []
    parts += [f"{', '.join(others)} of a size that the record says"] if others else []
    return f"{len(sources)} files: {' and '.join(parts)}"


def look_up(base_url: str, source: Source, say: Say) -> Remote:
    """What its record says of a file.

    Raises
    ------
    DownloadError : there is no such record, or no such file in it
    """
    record, name = source.record, source.name
    url = f"{base_url}/api/records/{record}"
    try:
        listed = {
            file["key"]: (int(file["size"]), str(file["checksum"]))
            for file in json.loads(read(url, say))["files"]
        }
    except (KeyError, TypeError, ValueError) as error:
        raise DownloadError(
            f"{url}: is not the description of a record; look at --base-url"
        ) from error
    if name not in listed:
        raise DownloadError(
            f"{url}: has no file {name}, but {', '.join(sorted(listed)) or 'none'}"
        )
    size, checksum = listed[name]
    kind, _, md5 = checksum.partition(":")
    if kind != "md5":
        raise DownloadError(f"{url}: no MD5 sum of {name}, but {checksum!r}")
    return Remote(f"{base_url}/records/{record}/files/{name}?download=1", size, md5)


def require_published(source: Source, members: Iterable[str]) -> None:
    """Refuse an archive whose clips are not those that were published.

    For machine types without a row in `COUNTS` what is certain is looked at: every
    recording is well named, and there are some of each split.

    Raises
    ------
    DownloadError : says what is there and what should be
    """
    counts = count_clips(members)
    for machine_id, expected in COUNTS.get(source.name, {}).items():
        found = counts.get(machine_id, NO_CLIPS)
        if found != expected:
            raise DownloadError(
                f"{source.name}: id {machine_id} has {_words(found)}, published are "
                f"{_words(expected)}; look at --base-url"
            )
    train = sum(of[0] for of in counts.values())
    test = sum(sum(of[1:]) for of in counts.values())
    if (source.split != "eval" and not train) or (
        source.split != "additional" and not test
    ):
        raise DownloadError(
            f"{source.name}: {train} clips to train on and {test} to test on are not "
            "what was published; look at --base-url"
        )


def count_clips(members: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Clips per ID among files called <type>/<split>/<name>; order as in `COUNTS`.

    Raises
    ------
    DownloadError : a recording has a name that cannot be
    """
    kinds = (("train", NORMAL), *(("test", k) for k in (NORMAL, ANOMALOUS, UNKNOWN)))
    counts: dict[str, Counter] = {}
    for member in members:
        place, _, name = member.partition("/")[2].rpartition("/")
        if not name.lower().endswith(".wav") or name.startswith("."):
            continue  # no recording, as when reading
        said = DCASE_2020.match(place, name)
        kind = said and (said["split"], LABELS[said["label"]])
        if not said or kind not in kinds:
            raise DownloadError(
                f"{member}: no recording of DCASE 2020 Task 2, such as "
                f"slider/{DCASE_2020.example}; look at --base-url"
            )
        counts.setdefault(str(said["id"]), Counter())[kind] += 1
    return {
        key: tuple(of[kind] for kind in kinds) for key, of in sorted(counts.items())
    }


def summary(members: Iterable[str]) -> str:
    """The clips per ID as the end of a line; "" if there are none."""
    counts = count_clips(members)
    ids = [f"{key} ({of[0]} + {sum(of[1:])})" for key, of in counts.items()]
    clips = sum(sum(of) for of in counts.values())
    return f"; {clips} clips, id (train + test): {', '.join(ids)}" if ids else ""


def _words(counts: Sequence[int]) -> str:
    """The clips of an ID in words."""
    kinds = ("training", "normal test", "anomalous test", "unlabelled test")
    said = [f"{n} {kind}" for n, kind in zip(counts, kinds, strict=True) if n]
    return f"{' + '.join(said) or 'no'} clips"
