"""What `dcase.read` says when files, folders or choices are not in order."""

import os
from pathlib import Path

import numpy as np
import pytest
from wav_files import LENGTH, noise, put, put_slider, read

from mimii_jax.data import dcase
from mimii_jax.errors import DataError


@pytest.fixture
def slider(tmp_path: Path) -> Path:
    return put_slider(tmp_path)


def reasons(slider: Path, **options) -> dict[str, str]:
    """The lines of the error message, by file."""
    with pytest.raises(DataError) as error:
        read(slider, **options)
    lines = str(error.value).splitlines()[1:]
    return dict(line.strip().split(": ", 1) for line in lines)


# files that cannot be used


def spoil(slider: Path) -> dict[str, str]:
    """Add one file of each bad kind; name -> what its reason must say."""
    train, test = slider / "train", slider / "test"
    good = (train / "normal_id_00_00000000.wav").read_bytes()
    (train / "normal_id_00_00000010.wav").write_bytes(b"")
    (train / "normal_id_00_00000011.wav").write_bytes(good[:-2])
    (train / "normal_id_00_00000012.wav").write_bytes(good[:20])
    (train / "normal_id_00_00000013.wav").write_bytes(b"fLaC" + bytes(2000))
    (train / "normal_id_00_00000014.wav").write_bytes(good[:8] + b"AVI " + good[12:])
    put(train, "normal_00_15.wav")
    put(train, "normal_id_00_00000016.wav", noise(0, LENGTH + 1))
    put(train, "normal_id_00_00000017.wav", samplerate=44100)
    put(train, "normal_id_00_00000018.wav", noise(0, 0))
    (train / "normal_id_00_00000019.wav").mkdir()
    (train / "normal_id_00_00000020.wav").symlink_to(train / "nowhere.wav")
    put(train, "normal_id_00_00000001.WAV")
    nan = np.full(LENGTH, np.nan, np.float32)
    put(test, "normal_id_00_00000021.wav", nan, subtype="FLOAT")
    put(train, "anomaly_id_00_00000022.wav")
    os.mkfifo(test / "normal_id_00_00000023.wav")
    return {
        "train/normal_id_00_00000010.wav": "empty: 0 bytes",
        "train/normal_id_00_00000011.wav": "promises 1600 bytes of audio, the file "
        "holds 1598",
        "train/normal_id_00_00000012.wav": "truncated: its 20 bytes end before",
        "train/normal_id_00_00000013.wav": "not a wav",
        "train/normal_id_00_00000014.wav": "not a wav",
        "train/normal_00_15.wav": "wrong name, expected",
        "train/normal_id_00_00000016.wav": "wrong length: 801 samples (0.0500625 s), "
        "but 7 files have 800 (0.05 s)",
        "train/normal_id_00_00000017.wav": "sampling rate 44100 Hz, expected 16000 Hz",
        "train/normal_id_00_00000018.wav": "zero samples",
        "train/normal_id_00_00000019.wav": "unreadable",
        "train/normal_id_00_00000020.wav": "unreadable",
        "train/normal_id_00_00000001.WAV": "same id and number as normal_id_00_00000001"
        ".wav",
        "test/normal_id_00_00000021.wav": "not finite",
        "train/anomaly_id_00_00000022.wav": "anomalous clip in the training set",
        "test/normal_id_00_00000023.wav": "unreadable",
    }


def test_every_bad_file_is_named_with_its_reason(slider):
    expected = spoil(slider)
    said = reasons(slider)
    assert said.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in said[name]


def test_the_count_leads_the_message(slider):
    expected = spoil(slider)
    with pytest.raises(
        DataError, match=rf"{len(expected)} of {6 + len(expected)} files"
    ):
        read(slider)


def test_skipping_goes_on_with_the_others_and_says_so(slider, capsys):
    good = read(slider)
    capsys.readouterr()
    expected = spoil(slider)
    clips = read(slider, on_bad_file="skip")
    assert clips.name.tolist() == good.name.tolist()
    np.testing.assert_array_equal(clips.audio, good.audio)
    warning = capsys.readouterr().err
    assert warning.count("\n") == 1
    assert f"without {len(expected)} of {6 + len(expected)} files" in warning
    assert "test/normal_id_00_00000021.wav: samples that are not finite" in warning


def test_beyond_twenty_bad_files_are_counted(slider):
    for number in range(100, 123):
        (slider / "train" / f"normal_id_00_{number:08d}.wav").write_bytes(b"")
    with pytest.raises(DataError) as error:
        read(slider)
    lines = str(error.value).splitlines()
    assert "23 of 29 files" in lines[0]
    assert len(lines) == 22
    assert lines[20].strip() == "train/normal_id_00_00000119.wav: empty: 0 bytes"
    assert lines[21].strip() == "and 3 more"


def test_nothing_left_is_an_error_when_skipping_too(slider):
    for path in (slider / "train").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="the train set has no clips"):
        read(slider, on_bad_file="skip")


def test_an_id_lost_by_skipping_is_an_error_when_it_is_asked_for(slider):
    for path in slider.glob("*/*_id_02_*"):
        path.write_bytes(b"")
    assert read(slider, on_bad_file="skip").ids == ["00"]
    with pytest.raises(DataError, match="no clips of id 02; present: 00"):
        read(slider, ["00", "02"], on_bad_file="skip")


# folders and choices


def test_missing_folders_are_named(slider):
    root = slider.parent
    (root / "fan").mkdir()
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        dcase.read(root / "nowhere", "slider")
    with pytest.raises(DataError, match=r"no machine type valve; present: fan, slider"):
        dcase.read(root, "valve")
    with pytest.raises(DataError, match=r"the data root is the folder above it"):
        dcase.read(slider, "slider")
    with pytest.raises(
        DataError, match=r"fan: fits none of the layouts.*found nothing"
    ):
        dcase.read(root, "fan")


def test_missing_ids_are_named(slider):
    with pytest.raises(
        DataError, match=r"slider: no clips of id 04, 06; present: 00, 02"
    ):
        read(slider, ["00", "06", "04"])


def test_an_empty_training_set_is_an_error(slider):
    put(slider / "test", "normal_id_04_00000000.wav")
    with pytest.raises(DataError, match=r"the train set has no clips of id 04"):
        read(slider, ["04"])
    for path in (slider / "train").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"slider: the train set has no clips$"):
        read(slider)


def test_wrong_choices_are_refused(slider):
    with pytest.raises(ValueError, match="on_bad_file is 'ignore'"):
        read(slider, on_bad_file="ignore")
    with pytest.raises(ValueError, match="splits are"):
        read(slider, splits=("training",))
