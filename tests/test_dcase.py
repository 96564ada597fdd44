"""Clips are found, read, written and listed; every bad file is named."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from wav_files import LENGTH, RATE, noise, put, put_slider, read

from configs import controls
from mimii_jax.config import build
from mimii_jax.data import dcase, layouts
from mimii_jax.data.clips import ANOMALOUS, NORMAL, UNKNOWN, Clips
from mimii_jax.data.labels import Label
from mimii_jax.data.layouts import LAYOUTS, parse_name
from mimii_jax.errors import DataError


@pytest.fixture
def slider(tmp_path: Path) -> Path:
    return put_slider(tmp_path)


# reading DCASE 2020


def test_order_is_train_first_then_by_id_and_name(slider):
    put(slider / "test", "anomaly_id_02_00000000.wav")
    clips = read(slider)
    assert clips.split.tolist() == ["train"] * 3 + ["test"] * 4
    assert clips.machine_id.tolist() == ["00", "00", "02", "00", "00", "02", "02"]
    assert clips.test.name.tolist() == [
        "anomaly_id_00_00000000.wav",
        "normal_id_00_00000000.wav",
        "anomaly_id_02_00000000.wav",
        "normal_id_02_00000007.wav",
    ]
    assert clips.test.label.tolist() == [ANOMALOUS, NORMAL, ANOMALOUS, NORMAL]
    assert clips.audio.dtype == np.int16
    assert clips.audio.shape == (7, LENGTH)
    assert (clips.machine_type, clips.sample_rate) == ("slider", RATE)
    assert np.shares_memory(clips.train.audio, clips.audio)


def test_ids_are_chosen_and_others_not_looked_at(slider):
    (slider / "train" / "normal_id_02_00000001.wav").write_bytes(b"")
    (slider / "train" / "normal_id_02_00000002.wav").mkdir()
    clips = read(slider, ["00"])
    assert clips.ids == ["00"]
    assert len(clips) == 4


def test_evaluation_layout_without_labels_and_without_train(tmp_path):
    for number in (1, 0):
        put(tmp_path / "slider/test", f"id_01_{number:08d}.wav", noise(number))
    clips = read(tmp_path / "slider", splits=("test",))
    assert clips.label.tolist() == [UNKNOWN, UNKNOWN]
    assert clips.name.tolist() == ["id_01_00000000.wav", "id_01_00000001.wav"]
    assert clips.ids == ["01"]
    np.testing.assert_array_equal(clips.audio[1], noise(1))
    with pytest.raises(DataError, match=r"slider: no train clips"):
        read(tmp_path / "slider")


def test_stray_and_hidden_files_are_passed_over(slider):
    expected = read(slider)
    for name in ("readme.txt", "._normal_id_00_00000000.wav", "x.wav.part"):
        (slider / "train" / name).write_bytes(b"stray")
    (slider / "train" / "folder").mkdir()
    assert read(slider).name.tolist() == expected.name.tolist()


def test_labels_are_of_their_machine_type_and_of_unlabelled_names_alone(tmp_path):
    put(tmp_path / "fan" / "test", "id_01_00000000.wav", noise(0))
    put(tmp_path / "fan" / "test", "anomaly_id_00_00000000.wav", noise(1))
    name = "id_01_00000000.wav"
    labels = {("fan", name): Label(ANOMALOUS), ("pump", name): Label(NORMAL)}
    labels["fan", "anomaly_id_00_00000000.wav"] = Label(NORMAL)
    clips = dcase.read(tmp_path, "fan", splits=("test",), labels=labels)
    assert clips.label.tolist() == [ANOMALOUS, ANOMALOUS]


GOLDEN = [1, 2, 7, 9, 13, 18, 21, 22, 24, 28]  # of 30, for good


def put_mimii(folder, ids=("00", "02"), normal=6, abnormal=2):
    """Files with 8 channels, of which the first tells them apart."""
    for machine_id in ids:
        for kind, count in (("normal", normal), ("abnormal", abnormal)):
            for number in range(count):
                wide = np.stack([noise(8 * number + c) for c in range(8)], axis=1)
                put(folder / f"id_{machine_id}" / kind, f"{number:08d}.wav", wide)


SECTIONS = (
    "train/section_00_source_train_normal_0000_m-n_W.wav",
    "train/section_00_target_train_normal_0000_vel_6.wav",
    "train/section_01_source_train_normal_0001_A1Spd28VMic1.wav",
    "test/section_00_source_test_anomaly_0000_m-n_X.wav",
    "test/section_00_source_test_normal_0000_m-n_X.wav",
    "test/section_00_target_test_normal_0000_noAttribute.wav",
)


def put_sections(root, files=SECTIONS):
    for seed, file in enumerate(files):
        place, name = file.split("/")
        put(root / "slider" / place, name, noise(seed))


# MIMII


def test_mimii_gets_a_split_and_the_names_of_dcase(tmp_path):
    put_mimii(tmp_path / "slider")
    clips = read(tmp_path / "slider", test_normals=2)
    assert clips.ids == ["00", "02"]
    for machine_id in clips.ids:
        assert clips.count("train", machine_id, NORMAL) == 4
        assert clips.count("test", machine_id, NORMAL) == 2
        assert clips.count("test", machine_id, ANOMALOUS) == 2
    assert len(set(clips.name.tolist())) == len(clips)
    for row, name in enumerate(clips.name.tolist()):
        label, machine_id, number = parse_name(name)
        assert (label, machine_id) == (clips.label[row], clips.machine_id[row])
        np.testing.assert_array_equal(clips.audio[row], noise(8 * int(number)))
    dcase.write(clips, tmp_path / "converted")
    again = read(tmp_path / "converted" / "slider")
    np.testing.assert_array_equal(again.audio, clips.audio)
    np.testing.assert_array_equal(again.name, clips.name)


def test_the_split_is_the_same_whatever_is_read(tmp_path):
    put_mimii(tmp_path / "slider", normal=30)

    def held_out(**options):
        clips = read(tmp_path / "slider", **{"test_normals": 10, **options})
        return clips.test.name[clips.test.label == NORMAL].tolist()

    first = held_out()
    assert [int(name[-12:-4]) for name in first[:10]] == GOLDEN
    assert held_out(splits=("test",)) == first
    assert held_out(ids=("02",)) == first[10:]
    assert len(held_out(test_normals=None)) == 4  # as many as anomalous ones
    other = tmp_path / "moved"
    put_mimii(other / "slider", normal=30)
    assert (
        read(other / "slider", test_normals=10).test.name[2:12].tolist() == first[:10]
    )


def test_too_few_normal_clips_to_split_are_an_error(tmp_path):
    put_mimii(tmp_path / "slider")
    with pytest.raises(
        DataError, match=r"id 00 has only 6 normal.*lower .*test_normals=100"
    ):
        read(tmp_path / "slider")
    put_mimii(tmp_path / "slider", ids=("04",), normal=9)
    assert len(read(tmp_path / "slider", ["04"], test_normals=8)) == 11
    with pytest.raises(DataError, match="no clips of id 06; present: 00, 02, 04"):
        read(tmp_path / "slider", ["06"], test_normals=8)


def test_what_is_wrong_in_mimii_is_named(tmp_path):
    put_mimii(tmp_path / "slider")
    put(tmp_path / "slider/id_00/normal", "copy of 00000000.wav")
    (tmp_path / "slider/id_02/abnormal/00000000.wav").write_bytes(b"")
    with pytest.raises(DataError, match="2 of 17 files") as error:
        read(tmp_path / "slider", test_normals=2)
    message = str(error.value)
    assert (
        "id_00/normal/copy of 00000000.wav: wrong name, expected one like id_00"
        in message
    )
    assert "id_02/abnormal/00000000.wav: empty" in message


# DCASE 2021 to 2026


def test_sections_are_ids_and_the_domain_is_kept(tmp_path):
    put_sections(tmp_path)
    clips = read(tmp_path / "slider")
    assert clips.ids == ["00", "01"]
    files = [f"{s}/{n}" for s, n in zip(clips.split, clips.name, strict=True)]
    assert files == list(SECTIONS)
    assert clips.domain.tolist() == [
        *("source", "target", "source"),
        *("source", "source", "target"),
    ]
    assert clips.test.label.tolist() == [ANOMALOUS, NORMAL, NORMAL]
    assert clips.test.domain.tolist() == ["source", "source", "target"]
    np.testing.assert_array_equal(clips.audio[1], noise(1))


def test_folders_of_2021_and_names_without_labels(tmp_path):
    files = (
        "train/section_00_source_train_normal_0000_A.wav",
        "source_test/section_00_source_test_0000.wav",
        "target_test/section_00_target_test_0000.wav",
        "test/section_03_test_0199.wav",
        "test/section_03_0000.wav",
    )
    put_sections(tmp_path, files)
    clips = read(tmp_path / "slider")
    assert clips.test.label.tolist() == [UNKNOWN] * 4
    assert clips.test.machine_id.tolist() == ["00", "00", "03", "03"]
    assert clips.test.domain.tolist() == ["source", "target", "", ""]
    assert len(read(tmp_path / "slider", splits=("test",))) == 4


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("train/section_00_source_test_normal_0001_A.wav", "of the test set in the fo"),
        ("test/section_00_source_train_normal_0001_A.wav", "of the train set in the "),
        ("train/section_00_source_train_anomaly_0001_A.wav", "an anomalous clip in th"),
        ("train/section_00_source_train_normal_0000_B.wav", "same id and number as se"),
        ("train/section_0_source_train_normal_0001.wav", "wrong name, expected one l"),
        ("test/section_00_middle_test_normal_0001.wav", "wrong name, expected one lik"),
        ("test/normal_id_00_00000000.wav", "wrong name, expected one lik"),
    ],
)
def test_what_is_wrong_in_sections_is_named(tmp_path, file, reason):
    put_sections(tmp_path, (*SECTIONS, file))
    with pytest.raises(DataError, match="1 of 7 files") as error:
        read(tmp_path / "slider")
    line = str(error.value).splitlines()[1]
    assert reason in line
    assert line.strip().startswith(file) or "same id" in reason


# other formats


@pytest.mark.parametrize("ending", ["flac", "aiff"])
def test_a_set_of_another_format_has_the_clips_of_wav(slider, ending):
    expected = read(slider)
    for path in slider.rglob("*.wav"):
        soundfile.write(path.with_suffix(f".{ending}"), *soundfile.read(path))
        path.unlink()
    clips = read(slider)
    for field in ("audio", "machine_id", "split", "label", "name"):
        np.testing.assert_array_equal(getattr(clips, field), getattr(expected, field))


# no layout


def test_a_folder_that_fits_no_layout_shows_what_was_expected_and_found(tmp_path):
    for number in range(5):
        put(tmp_path / "slider/train", f"clip {number}.wav")
    with pytest.raises(DataError) as error:
        read(tmp_path / "slider")
    message = str(error.value)
    assert "\n" not in message
    for layout in LAYOUTS:
        assert f"{layout.example} ({layout.title})" in message
    found = ", ".join(f"train/clip {number}.wav" for number in range(3))
    assert message.endswith(f"found {found}")


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
    put(train, "normal_id_00_00000018.wav", noise(0, 0))
    (train / "normal_id_00_00000019.wav").mkdir()
    (train / "normal_id_00_00000020.wav").symlink_to(train / "nowhere.wav")
    put(train, "normal_id_00_00000001.WAV")
    nan = np.full(LENGTH, np.nan, np.float32)
    put(test, "normal_id_00_00000021.wav", nan, subtype="FLOAT")
    put(train, "anomaly_id_00_00000022.wav")
    return {
        "train/normal_id_00_00000010.wav": "empty: 0 bytes",
        "train/normal_id_00_00000011.wav": "1642 of the 1644 bytes",
        "train/normal_id_00_00000012.wav": "truncated: it ends before the audio",
        "train/normal_id_00_00000013.wav": "no audio",
        "train/normal_id_00_00000014.wav": "no audio",
        "train/normal_00_15.wav": "wrong name, expected",
        "train/normal_id_00_00000018.wav": "zero samples",
        "train/normal_id_00_00000019.wav": "unreadable",
        "train/normal_id_00_00000020.wav": "unreadable",
        "train/normal_id_00_00000001.WAV": "same id and number as normal_id_00_00000001"
        ".wav",
        "test/normal_id_00_00000021.wav": "not finite",
        "train/anomaly_id_00_00000022.wav": "anomalous clip in the training set",
    }


def test_every_bad_file_is_named_with_its_reason(slider):
    expected = spoil(slider)
    with pytest.raises(DataError) as error:
        read(slider)
    first, *lines = str(error.value).splitlines()
    assert f"{len(expected)} of {6 + len(expected)} files" in first
    said = dict(line.strip().split(": ", 1) for line in lines)
    assert said.keys() == expected.keys()
    for name, reason in expected.items():
        assert reason in said[name]


def test_skipping_reads_the_others_and_says_so(slider, capsys):
    good = read(slider)
    capsys.readouterr()
    expected = spoil(slider)
    clips = read(slider, on_bad_file="skip")
    assert clips.name.tolist() == good.name.tolist()
    np.testing.assert_array_equal(clips.audio, good.audio)
    lines = capsys.readouterr().err.splitlines()
    (warning,) = (line for line in lines if "unusable" in line)
    assert (
        f"{len(expected)} of {6 + len(expected)} files are unusable and skipped"
        in warning
    )
    assert "test/normal_id_00_00000021.wav: samples that are not finite" in warning


# folders and choices


def test_an_id_or_split_without_usable_files_is_an_error(slider):
    with pytest.raises(DataError, match=r"no clips of id 04, 06; present: 00, 02"):
        read(slider, ["00", "06", "04"])
    put(slider / "test", "normal_id_04_00000000.wav")
    with pytest.raises(DataError, match=r"slider: no train clips of id 04"):
        read(slider, ["04"])
    for path in slider.glob("*/*_id_02_*"):
        path.write_bytes(b"")
    assert read(slider, on_bad_file="skip").ids == ["00", "04"]
    with pytest.raises(DataError, match="no clips of id 02; present: 00"):
        read(slider, ["00", "02"], on_bad_file="skip")
    for path in (slider / "train").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DataError, match="no train clips"):
        read(slider, on_bad_file="skip")


def test_missing_folders_are_named(slider):
    root = slider.parent
    (root / "fan").mkdir()
    with pytest.raises(DataError, match=r"nowhere: no such folder"):
        dcase.read(root / "nowhere", "slider")
    with pytest.raises(DataError, match=r"no machine type valve; present: fan, slider"):
        dcase.read(root, "valve")
    with pytest.raises(DataError, match=r"the data root is the folder above it"):
        dcase.read(slider, "slider")
    with pytest.raises(DataError, match=r"fan: fits no known layout.*found nothing"):
        dcase.read(root, "fan")


# writing


def some_clips(length: int = 2049) -> Clips:
    return Clips(
        audio=np.stack([noise(seed, length) for seed in range(4)]),
        machine_id=np.array(["00", "02", "00", "02"]),
        split=np.array(["train", "train", "test", "test"]),
        label=np.array([NORMAL, NORMAL, ANOMALOUS, UNKNOWN], np.int8),
        name=np.array(
            [
                "normal_id_00_00000000.wav",
                "normal_id_02_00000000.wav",
                "anomaly_id_00_00000003.wav",
                "id_02_00000000.wav",
            ]
        ),
        machine_type="slider",
        sample_rate=RATE,
    )


def test_what_is_written_is_read_bit_for_bit(tmp_path):
    clips = some_clips()
    dcase.write(clips, tmp_path)
    dcase.write(clips, tmp_path)  # over files that exist
    again = dcase.read(tmp_path, "slider")
    for field in ("audio", "machine_id", "split", "label", "name"):
        np.testing.assert_array_equal(getattr(again, field), getattr(clips, field))
    assert len(list(tmp_path.rglob("*.*"))) == 4  # and nothing left beside


# real recordings


def test_the_real_sample(real_sample, tmp_path):
    clips = dcase.read(real_sample, "slider")
    assert clips.audio.shape == (81, 160000)
    assert clips.ids == ["00"]
    assert clips.count("train", "00", NORMAL) == 75
    assert clips.count("test", "00", NORMAL) == 3
    assert clips.count("test", "00", ANOMALOUS) == 3
    assert layouts.machine_types(real_sample) == ["slider"]
    for clip in (0, 74, 80):
        path = real_sample / "slider" / clips.split[clip] / clips.name[clip]
        expected, _ = soundfile.read(path, dtype="int16")
        np.testing.assert_array_equal(clips.audio[clip], expected)
    dcase.write(clips.test, tmp_path)
    again = dcase.read(tmp_path, "slider", splits=("test",))
    np.testing.assert_array_equal(again.audio, clips.test.audio)


@pytest.mark.parametrize("odd", [b"\xff", b"\x1b[31m"])
def test_names_that_cannot_be_printed_become_codes(odd, tmp_path):
    name = b"section_00_source_train_normal_0000_" + odd + b".wav"
    put(tmp_path / "fan" / "train", "x.wav").rename(
        tmp_path / "fan" / "train" / os.fsdecode(name)
    )
    clips = dcase.read(tmp_path, "fan", splits=("train",))
    assert clips.name[0].isprintable()
    assert clips.name[0].startswith("section_00_source_train_normal_0000_\\")
    odd_type = tmp_path / os.fsdecode(b"fan" + odd)
    (tmp_path / "fan").rename(odd_type)
    data = replace(build(controls.get_config()).data, root=str(tmp_path))
    with pytest.raises(DataError, match="can't be printed; rename"):
        replace(data, machine_types=(odd_type.name,)).machines()
