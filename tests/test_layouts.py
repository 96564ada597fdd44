"""Every layout is recognised and read; what fits none says so."""

import csv
from collections import Counter

import numpy as np
import pytest
from small_clips import small_clips
from small_runs import small, trained
from wav_files import LENGTH, noise, put, put_slider

from configs import controls
from mimii_jax.data import dcase
from mimii_jax.data.clips import ANOMALOUS, NORMAL, UNKNOWN
from mimii_jax.data.layouts import LAYOUTS, parse_name
from mimii_jax.errors import DataError


def read(root, machine_type="slider", *args, **options):
    return dcase.read(root, machine_type, *args, progress=False, **options)


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
    clips = read(tmp_path, test_normals=2)
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
    again = read(tmp_path / "converted")
    np.testing.assert_array_equal(again.audio, clips.audio)
    np.testing.assert_array_equal(again.name, clips.name)


def test_the_split_is_that_of_its_seed_whatever_is_read(tmp_path):
    put_mimii(tmp_path / "slider", normal=30)

    def held_out(**options):
        clips = read(tmp_path, **{"test_normals": 10, **options})
        return clips.test.name[clips.test.label == NORMAL].tolist()

    first = held_out()
    assert held_out(splits=("test",)) == first
    assert held_out(ids=("02",)) == first[10:]
    assert held_out(split_seed=1) != first
    assert [len(held_out(split_seed=seed)) for seed in range(5)] == [20] * 5
    other = tmp_path / "moved"
    put_mimii(other / "slider", normal=30)
    assert read(other, test_normals=10).test.name[2:12].tolist() == first[:10]


def test_as_many_test_normals_as_anomalies(tmp_path):
    put_mimii(tmp_path / "slider", abnormal=3)
    clips = read(tmp_path, test_normals=0)
    assert clips.count("test", "02", NORMAL) == clips.count("test", "02", ANOMALOUS)
    assert clips.count("train", "02", NORMAL) == 3


def test_too_few_normal_clips_to_split_are_an_error(tmp_path):
    put_mimii(tmp_path / "slider")
    with pytest.raises(DataError, match=r"test_normals=100: id 00 has 6 normal clips"):
        read(tmp_path)
    put_mimii(tmp_path / "slider", ids=("04",), normal=9)
    assert len(read(tmp_path, "slider", ["04"], test_normals=8)) == 11
    with pytest.raises(DataError, match="no clips of id 06; present: 00, 02, 04"):
        read(tmp_path, "slider", ["06"], test_normals=8)


def test_levels_of_noise_are_found_and_told_apart(tmp_path):
    put_mimii(tmp_path / "-6_dB_slider")
    assert len(read(tmp_path, test_normals=2)) == 16
    put_mimii(tmp_path / "0_dB_slider", normal=4)
    with pytest.raises(DataError, match=r"several times.*: -6_dB_slider, 0_dB_slider$"):
        read(tmp_path, test_normals=2)
    clips = read(tmp_path, "0_dB_slider", test_normals=2)
    assert (len(clips), clips.machine_type) == (12, "0_dB_slider")


def test_what_is_wrong_in_mimii_is_named(tmp_path):
    put_mimii(tmp_path / "slider")
    put(tmp_path / "slider/id_00/normal", "copy of 00000000.wav")
    (tmp_path / "slider/id_02/abnormal/00000000.wav").write_bytes(b"")
    with pytest.raises(DataError, match="2 of 17 files") as error:
        read(tmp_path, test_normals=2)
    message = str(error.value)
    assert "id_00/normal/copy of 00000000.wav: wrong name, expected NNNNN" in message
    assert "id_02/abnormal/00000000.wav: empty" in message


# DCASE 2021 to 2025


def test_sections_are_ids_and_the_domain_is_kept(tmp_path):
    put_sections(tmp_path)
    clips = read(tmp_path)
    assert clips.ids == ["00", "01"]
    files = [f"{s}/{n}" for s, n in zip(clips.split, clips.name, strict=True)]
    order = [0, 1, 2, 3, 4, 5]
    assert files == [SECTIONS[i] for i in order]
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
    clips = read(tmp_path)
    assert clips.test.label.tolist() == [UNKNOWN] * 4
    assert clips.test.machine_id.tolist() == ["00", "00", "03", "03"]
    assert clips.test.domain.tolist() == ["source", "target", "", ""]
    assert len(read(tmp_path, splits=("test",))) == 4


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("train/section_00_source_test_normal_0001_A.wav", "of the test set in the fo"),
        ("test/section_00_source_train_normal_0001_A.wav", "of the train set in the "),
        ("train/section_00_source_train_anomaly_0001_A.wav", "an anomalous clip in th"),
        ("train/section_00_source_train_normal_0000_B.wav", "same id and number as se"),
        ("train/section_0_source_train_normal_0001.wav", "wrong name, expected secti"),
        ("test/section_00_middle_test_normal_0001.wav", "wrong name, expected section"),
        ("test/normal_id_00_00000000.wav", "wrong name, expected section"),
    ],
)
def test_what_is_wrong_in_sections_is_named(tmp_path, file, reason):
    put_sections(tmp_path, (*SECTIONS, file))
    with pytest.raises(DataError, match="1 of 7 files") as error:
        read(tmp_path)
    line = str(error.value).splitlines()[1]
    assert reason in line
    assert line.strip().startswith(file) or "same id" in reason


def test_dcase_2020_has_no_domain(tmp_path):
    assert read(put_slider(tmp_path).parent).domain.tolist() == [""] * 6


# none, and what is there


def test_a_folder_that_fits_no_layout_shows_what_was_expected_and_found(tmp_path):
    for number in range(5):
        put(tmp_path / "slider/train", f"clip {number}.wav")
    with pytest.raises(DataError) as error:
        read(tmp_path)
    message = str(error.value)
    assert "\n" not in message
    for layout in LAYOUTS:
        assert f"{layout.example} ({layout.title})" in message
    found = ", ".join(f"train/clip {number}.wav" for number in range(3))
    assert message.endswith(f"found {found}, ...")


def test_every_example_of_the_table_fits_its_own_layout_alone():
    for layout in LAYOUTS:
        fitting = [other for other in LAYOUTS if other.match(*_split(layout.example))]
        assert fitting == [layout]


def _split(example):
    place, _, name = example.rpartition("/")
    return place, name


def listing(capsys, root):
    dcase.main([str(root)])
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


def test_the_listing_counts_clips_lengths_and_rates(tmp_path, capsys):
    put_slider(tmp_path)
    put(tmp_path / "slider/test", "id_03_00000000.wav", noise(0, LENGTH + 80))
    put(tmp_path / "slider/test", "id_03_00000001.wav", samplerate=8000)
    put(tmp_path / "slider/test", "new.wav")
    put_mimii(tmp_path / "0_dB_fan", ids=("04",))
    lines = listing(capsys, tmp_path)
    for line in (
        "0_dB_fan, layout of MIMII",
        "04 to be drawn normal 6 0.05 16000 8",
        "04 to be drawn anomalous 2 0.05 16000 8",
        "8 files, all in order",
        "slider, layout of DCASE 2020",
        "00 train normal 2 0.05 16000 1",
        "00 test anomalous 1 0.05 16000 1",
        "03 test unknown 2 0.055 to 0.1 8000 to 16000 1",
        "9 files, 3 of them bad",
        "test/id_03_00000001.wav: sampling rate 8000 Hz, expected 16000 Hz",
    ):
        assert line in lines
    assert any(line.startswith("test/new.wav: wrong name") for line in lines)
    assert any(line.startswith("test/id_03_00000000.wav: wrong len") for line in lines)


def test_the_listing_of_no_recordings_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    for root, message in (("empty", "no machine type"), ("nowhere", "No such file")):
        with pytest.raises(SystemExit, match=message) as stop:
            dcase.main([str(tmp_path / root)])
        assert "\n" not in str(stop.value)


# a whole run


def rows_of(workdir):
    with (workdir / "clips.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("layout", ["MIMII", "DCASE 2021 to 2025"])
def test_a_run_on_another_layout(tmp_path, layout, no_figures):
    clips = small_clips(ids=("00",), train=6, test=4)
    root, workdir = tmp_path / "root", tmp_path / "run"
    for row, name in enumerate(clips.name.tolist()):
        label, machine_id, number = parse_name(name)
        split = clips.split[row]
        if layout == "MIMII":
            kind = "normal" if label == NORMAL else "abnormal"
            number = int(number) + 100 * (split == "test")
            place = root / "0_dB_slider" / f"id_{machine_id}" / kind
            put(place, f"{number:08d}.wav", clips.audio[row])
        else:
            kind = "normal" if label == NORMAL else "anomaly"
            domain = "target" if int(number) % 2 else "source"
            name = f"section_{machine_id}_{domain}_{split}_{kind}_{number[4:]}_A.wav"
            put(root / "slider" / split, name, clips.audio[row])
    config = small(controls, "quick", root, data={"test_normals": 4})
    assert "no AUC" not in trained(config, workdir)
    rows = rows_of(workdir)
    kinds = Counter((r["split"], r["label"], r["domain"]) for r in rows)
    domains = ("",) if layout == "MIMII" else ("source", "target")
    each = {("train", "0"): 6, ("test", "0"): 4, ("test", "1"): 4}
    assert kinds == {
        (*kind, domain): n // len(domains)
        for kind, n in each.items()
        for domain in domains
    }
