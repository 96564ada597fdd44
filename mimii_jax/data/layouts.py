"""The layouts of recordings on disk that are recognised, and what their names say."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mimii_jax.data.clips import ANOMALOUS, NORMAL, UNKNOWN
from mimii_jax.errors import DataError

LABELS = {
    None: UNKNOWN,
    "normal": NORMAL,
    "anomaly": ANOMALOUS,
    "abnormal": ANOMALOUS,
}


@dataclass(frozen=True)
class Layout:
    """Where the recordings of a machine lie and how they are called.

    Attributes
    ----------
    title : what the layout is called
    folder, name : regular expressions of the folder within the machine's folder, and of
        the file name without its ending; their groups are fields of a clip
    form : what a name has to be, as a message says it
    example : one such file
    """

    title: str
    folder: str
    name: str
    form: str
    example: str

    def match(self, folder: str, name: str) -> dict[str, str | None] | None:
        """Fields that the place and the name of a file say, if they fit."""
        place = re.fullmatch(self.folder, folder)
        said = re.fullmatch(self.name + r"\.(?i:wav)", name)
        return place and said and place.groupdict() | said.groupdict()


LAYOUTS = (
    Layout(
        "DCASE 2020",
        "(?P<split>train|test)",
        "(?:(?P<label>normal|anomaly)_)?id_(?P<id>[0-9]{2})_(?P<number>[0-9]{8})",
        "[normal_|anomaly_]id_NN_NNNNNNNN.wav, N a digit",
        "train/normal_id_00_00000000.wav",
    ),
    Layout(
        "DCASE 2021 to 2025",
        "(?P<split>train|test|source_test|target_test)",
        "section_(?P<id>[0-9]{2})(?:_(?P<domain>source|target))?"
        "(?:_(?P<named_split>train|test))?(?:_(?P<label>normal|anomaly))?"
        "_(?P<number>[0-9]{4,8})(?:_.*)?",
        "section_NN[_source|_target][_train|_test][_normal|_anomaly]_NNNN[_...].wav, "
        "N a digit",
        "train/section_00_source_train_normal_0000_A.wav",
    ),
    Layout(
        "MIMII",
        "id_(?P<id>[0-9]{2})/(?P<label>normal|abnormal)",
        "(?P<number>[0-9]{8})",
        "NNNNNNNN.wav, N a digit",
        "id_00/abnormal/00000000.wav",
    ),
)
DCASE_2020, DCASE_LATER, MIMII = LAYOUTS
NAMED = (DCASE_2020, DCASE_LATER)  # those whose file names are the clips' names

# MIMII comes in three levels of background noise, such as "-6_dB_slider".
_SNR = r"-?[0-9]+_dB_"


def parse_name(
    name: str, layouts: Sequence[Layout] = (DCASE_2020,)
) -> tuple[int, str, str]:
    """Label, machine ID and number of a recording from its file name.

    "normal_id_00_00000007.wav" is (NORMAL, "00", "00000007"); without "normal_" or
    "anomaly_" the label is UNKNOWN. Only the ending may be in upper case.

    Raises
    ------
    ValueError : the name has another form; the message is the reason
    """
    for layout in layouts:
        said = re.fullmatch(layout.name + r"\.(?i:wav)", name)
        if said:
            return LABELS[said["label"]], said["id"], said["number"]
    raise ValueError(
        f"wrong name, expected {' or '.join(layout.form for layout in layouts)}"
    )


def machine_types(root: Path) -> list[str]:
    """The folders in `root` that have folders of recordings in them, sorted."""
    try:
        with os.scandir(root) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError as error:
        raise DataError(f"{root}: {error.strerror}") from error
    return [name for name in names if any(places(Path(root) / name))]


def machine_folder(root: Path, machine_type: str) -> Path:
    """Folder of a machine type, with or without a level of noise before its name.

    Raises
    ------
    DataError : it is not there, or there are several
    """
    if (root / machine_type).is_dir():
        return root / machine_type
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; it should hold {machine_type}/train")
    if any(places(root)):
        raise DataError(
            f"{root}: no folder {machine_type}; this is a machine's own folder, "
            "the data root is the folder above it"
        )
    present = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    noisy = [
        name for name in present if re.fullmatch(_SNR + re.escape(machine_type), name)
    ]
    if len(noisy) == 1:
        return root / noisy[0]
    if noisy:
        raise DataError(
            f"{root}: {machine_type} is there several times; name one of them as the "
            f"machine type: {', '.join(noisy)}"
        )
    raise DataError(
        f"{root}: no machine type {machine_type}; present: "
        f"{', '.join(present) or 'none'}"
    )


def places(folder: Path) -> Iterator[str]:
    """The folders below a machine's that a layout has a use for."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}") from error
    for name in names:
        for place in (name, f"{name}/normal", f"{name}/abnormal"):
            known = any(re.fullmatch(layout.folder, place) for layout in LAYOUTS)
            if known and (folder / place).is_dir():
                yield place


def recognise(folder: Path, files: Sequence[tuple[str, str]]) -> Layout:
    """The layout that fits most of the files, each given by its place and name.

    Raises
    ------
    DataError : none fits any of them
    """
    if not files and any((folder / split).is_dir() for split in ("train", "test")):
        return DCASE_2020  # which names the folder that is empty
    fitting = [
        sum(layout.match(*file) is not None for file in files) for layout in LAYOUTS
    ]
    if any(fitting):
        return LAYOUTS[fitting.index(max(fitting))]
    expected = " or ".join(f"{layout.example} ({layout.title})" for layout in LAYOUTS)
    names = ["/".join(file) for file in files]
    names = names or sorted(path.name for path in folder.iterdir())
    more = ", ..." if len(names) > 3 else ""
    raise DataError(
        f"{folder}: fits none of the layouts that can be read; expected files such as "
        f"{expected}; found {', '.join(names[:3]) or 'nothing'}{more}"
    )
