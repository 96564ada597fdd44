import re
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from small_clips import small_clips
from wav_files import LENGTH, RATE, noise, put, put_slider, read

from mimii_jax.data import dcase, layouts
from mimii_jax.data.clips import ANOMALOUS, NORMAL, UNKNOWN, Clips
from mimii_jax.errors import DataError


@pytest.fixture
def slider(tmp_path: Path) -> Path:
    return put_slider(tmp_path)


# names


@given(
    st.sampled_from([("normal_", NORMAL), ("anomaly_", ANOMALOUS), ("", UNKNOWN)]),
    st.integers(0, 99),
    st.integers(0, 10**8 - 1),
    st.sampled_from(["wav", "WAV", "Wav"]),
)
def test_every_name_of_the_grammar_is_parsed(label, machine_id, number, ending):
    name = f"{label[0]}id_{machine_id:02d}_{number:08d}.{ending}"
    expected = (label[1], f"{machine_id:02d}", f"{number:08d}")
    assert layouts.parse_name(name) == expected


@given(st.integers(0, 26), st.characters())
def test_a_name_changed_in_one_place_is_refused_or_says_just_that(place, character):
    name = "anomaly_id_04_00000123.wav"
    changed = name[:place] + character + name[place + 1 :]
    if re.fullmatch("anomaly_id_[0-9]{2}_[0-9]{8}[.][wW][aA][vV]", changed):
        expected = (ANOMALOUS, changed[11:13], changed[14:22])
        assert layouts.parse_name(changed) == expected
    else:
        with pytest.raises(ValueError, match="wrong name"):
            layouts.parse_name(changed)


@given(st.text())
def test_other_text_is_refused_with_a_reason(text):
    with pytest.raises(ValueError, match="wrong name, expected"):
        layouts.parse_name(text + ".mp3")


@pytest.mark.parametrize(
    "name",
    [
        "normal_id_0_00000000.wav",
        "normal_id_00_0000000.wav",
        "normal_id_00_000000000.wav",
        "normal_id_\N{ARABIC-INDIC DIGIT ZERO}0_00000000.wav",
        "Normal_id_00_00000000.wav",
        "abnormal_id_00_00000000.wav",
        "normal_id_00_00000000 (1).wav",
        "normal_id_00_00000000.wav\n",
        "../normal_id_00_00000000.wav",
    ],
)
def test_near_misses_are_refused(name):
    with pytest.raises(ValueError, match="wrong name"):
        layouts.parse_name(name)


# reading what is in order


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
    with pytest.raises(DataError, match=r"slider/train: no such folder"):
        read(tmp_path / "slider")


def test_stray_and_hidden_files_are_passed_over(slider):
    expected = read(slider)
    for name in (
        "readme.txt",
        ".DS_Store",
        "._normal_id_00_00000000.wav",
        "x.wav.part",
    ):
        (slider / "train" / name).write_bytes(b"stray")
    (slider / "train" / "folder").mkdir()
    assert read(slider).name.tolist() == expected.name.tolist()


def test_digital_silence_is_a_clip(slider):
    put(slider / "train", "normal_id_00_00000009.wav", np.zeros(LENGTH, np.int16))
    assert not read(slider).train.audio[2].any()


def test_machine_types_of_a_root(tmp_path):
    for name in ("valve/train", "ToyCar/test", "other", "-6_dB_slider/id_00/normal"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "fan").write_text("no folder")
    assert layouts.machine_types(tmp_path) == ["-6_dB_slider", "ToyCar", "valve"]
    with pytest.raises(DataError, match="nowhere: No such file"):
        layouts.machine_types(tmp_path / "nowhere")


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


def test_names_that_would_be_read_otherwise_are_not_written(tmp_path):
    clips = some_clips()
    clips.label[2] = NORMAL
    with pytest.raises(ValueError, match="is no name for label 0, ID 00"):
        dcase.write(clips, tmp_path)
    twice = some_clips()[np.array([0, 0])]
    with pytest.raises(ValueError, match="same name"):
        dcase.write(twice, tmp_path)
    assert not list(tmp_path.iterdir())


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


def test_audio_that_is_not_needed_is_not_read(tmp_path):
    clips = small_clips()
    dcase.write(clips, tmp_path)
    found = dcase.read(tmp_path, "slider", needed=lambda c: c.split == "train")
    train = found.split == "train"
    whole = dcase.read(tmp_path, "slider")
    np.testing.assert_array_equal(found.name, whole.name)
    np.testing.assert_array_equal(found.audio[train], whole.audio[train])
    assert not found.audio[~train].any()
    (tmp_path / "slider" / "test" / whole.name[-1]).write_bytes(b"")
    with pytest.raises(DataError, match="empty"):  # its header is looked at
        dcase.read(tmp_path, "slider", needed=lambda c: c.split == "train")
