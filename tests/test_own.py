"""Plain folders of recordings, and csv manifests."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from wav_files import RATE, noise, put, put_slider

from configs import controls
from mimii_jax.config import build
from mimii_jax.data import dcase, own
from mimii_jax.data.clips import ANOMALOUS, NORMAL, UNKNOWN, Clips
from mimii_jax.errors import ConfigError, DataError

DATA = build(controls.get_config()).data


def load(root: Path, **changes) -> Clips:
    """The clips of the only machine of a root, as an experiment loads them."""
    data = replace(DATA, root=str(root), **changes)
    (machine,) = data.machines()
    return data.load(machine)


def rows(clips: Clips) -> list[tuple]:
    columns = (clips.machine_id, clips.split, clips.label, clips.name)
    return list(zip(*(column.tolist() for column in columns), strict=True))


# plain folders


def test_a_folder_of_recordings_is_one_normal_machine(tmp_path):
    for seed, name in enumerate(("b.wav", "a 2.wav", "ü, new.WAV")):
        put(tmp_path / "pump 3", name, noise(seed) // 2)
    clips = load(tmp_path / "pump 3")
    assert clips.machine_type == "pump 3"
    assert rows(clips) == [
        ("00", "train", NORMAL, name) for name in ("a 2.wav", "b.wav", "ü, new.WAV")
    ]
    np.testing.assert_array_equal(clips.audio[1], noise(0) // 2)
    assert len(clips.test) == 0


def test_subfolders_are_machine_ids(tmp_path):
    for seed, name in enumerate(("7/x.wav", "line A/2026/x.wav", "7/y.flac", "z.wav")):
        kind = {"format": "FLAC"} if name.endswith("flac") else {}
        path = tmp_path / "pump" / name
        put(path.parent, path.name, noise(seed) // 2, **kind)
    put(tmp_path / "pump/.trash", "old.wav")
    (tmp_path / "pump/notes.txt").touch()
    clips = load(tmp_path / "pump")
    assert rows(clips) == [
        ("00", "train", NORMAL, "z.wav"),
        ("7", "train", NORMAL, "7/x.wav"),
        ("7", "train", NORMAL, "7/y.flac"),
        ("line A", "train", NORMAL, "line A/2026/x.wav"),
    ]
    assert load(tmp_path / "pump", ids=("7",)).ids == ["7"]
    with pytest.raises(DataError, match=r"no clips of id 8; present: 00, 7, line A"):
        load(tmp_path / "pump", ids=("8",))


def test_what_is_called_abnormal_is_not_taken_for_normal(tmp_path):
    put(tmp_path / "pump/good", "x.wav")
    put(tmp_path / "pump/Abnormal", "x.wav")
    put(tmp_path / "pump", "anomaly_id_00_00000000.wav")
    with pytest.raises(DataError, match="2 of 3 files") as error:
        load(tmp_path / "pump")
    assert "lies in Abnormal; list files and labels in manifest.csv" in str(error.value)
    assert "anomaly_id_00_00000000.wav: an anomalous clip" in str(error.value)


def test_names_that_no_terminal_should_print_become_their_codes(tmp_path):
    put(tmp_path / "pump", "x.wav")
    put(tmp_path / "pump", "\x1b[31m.wav")
    put(tmp_path / "pump", "y.wav")
    (tmp_path / "pump" / "y.wav").rename(tmp_path / "pump" / os.fsdecode(b"\xff.wav"))
    names = load(tmp_path / "pump").name.tolist()
    assert names == [r"\udcff.wav", r"\x1b[31m.wav", "x.wav"]


def test_a_folder_of_a_known_layout_is_not_plain(recordings):
    assert not own.is_plain(recordings)
    assert own.find(recordings, "slider") is None
    with pytest.raises(DataError, match="the data root is the folder above it"):
        load(recordings / "slider")


def test_44_khz_flac_of_plain_names_gives_nearly_the_clips_of_the_wavs(tmp_path):
    """Band-limited, as sound is: at 8 kHz the two filters of resampling differ."""
    rng = np.random.default_rng(0)
    spectrum = rng.normal(size=(4, RATE // 2)) + 1j * rng.normal(size=(4, RATE // 2))
    spectrum[:, 7000:] = 0
    for number, half in enumerate(spectrum):
        name = f"normal_id_00_{number:08d}.wav"
        wave = np.fft.irfft(half, RATE)
        put(tmp_path / "root/slider/train", name, 0.1 * wave / np.std(wave))
        finer = np.fft.irfft(half, 44100)
        path = tmp_path / "mine" / f"Monday {number}.flac"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, 0.1 * finer / np.std(finer), 44100)
    first, second = load(tmp_path / "root"), load(tmp_path / "mine")
    assert first.audio.shape == second.audio.shape
    middle = slice(100, -100)
    error = (first.audio - second.audio.astype(float))[:, middle]
    assert np.abs(error).max() <= 4  # of 32768


def test_real_recordings_as_44_khz_flac_are_nearly_the_same(real_sample, tmp_path):
    for path in sorted((real_sample / "slider/test").iterdir()):
        wave, rate = soundfile.read(path)
        wave = soxr.resample(wave, rate, 44100)
        name = f"{'ab'[path.name[0] == 'a']}{path.stem[-1]}.flac"  # in their order
        soundfile.write(tmp_path / name, wave, 44100)
    other = load(tmp_path)
    found = dcase.read(real_sample, "slider", splits=("test",))
    order = np.argsort(found.label, kind="stable")
    first, second = (np.fft.rfft(c.audio.astype(float)) for c in (found[order], other))
    below = np.fft.rfftfreq(found.audio.shape[1], 1 / 16000) < 7000  # kept by soxr
    away = np.linalg.norm((first - second)[:, below], axis=1)
    assert np.all(away < 0.02 * np.linalg.norm(first[:, below], axis=1))


# manifests


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_only_files_are_needed(tmp_path):
    put(tmp_path / "pump", "a.wav", noise(1) // 2)
    put(tmp_path / "pump/deep", "b.wav", noise(2) // 2)
    put(tmp_path / "pump", "not listed.wav")
    path = write(tmp_path / "pump/manifest.csv", "file\ndeep/b.wav\na.wav\n")
    for root in (path, path.parent):
        clips = load(root)
        assert clips.machine_type == "pump"
        assert rows(clips) == [
            ("00", "train", NORMAL, "a.wav"),
            ("00", "train", NORMAL, "deep/b.wav"),
        ]
        np.testing.assert_array_equal(clips.audio[1], noise(2) // 2)


def test_every_column_is_used(tmp_path, capsys):
    for number in range(6):
        put(tmp_path / "wavs", f"{number}.wav", noise(number) // 2)
    other = put(tmp_path / "other", "x.wav", noise(9) // 2)
    path = write(
        tmp_path / "clips.csv",
        "\ufefflabel,file,ID,split,machine,date\n"
        "normal,wavs/0.wav,7 a,train,pump,Monday\n"
        ",wavs/1.wav,Ω/2,,pump\n"
        "anomalous,wavs/2.wav,Ω/2,test,pump\n"
        '0,"wavs/3.wav",7 a,test,pump\n'
        "1,wavs/4.wav,7 a,TEST,pump\n"
        "unknown,wavs/5.wav,7 a,test,pump\n"
        f"Normal,{other},,,fan\n",
    )
    data = replace(DATA, root=str(path))
    assert data.machines() == ["fan", "pump"]  # the default type is no choice
    assert replace(data, machine_types=("pump",)).machines() == ["pump"]
    assert rows(data.load("pump")) == [
        ("7 a", "train", NORMAL, "wavs/0.wav"),
        ("Ω/2", "train", NORMAL, "wavs/1.wav"),
        ("7 a", "test", NORMAL, "wavs/3.wav"),
        ("7 a", "test", ANOMALOUS, "wavs/4.wav"),
        ("7 a", "test", UNKNOWN, "wavs/5.wav"),
        ("Ω/2", "test", ANOMALOUS, "wavs/2.wav"),
    ]
    assert "columns that are ignored: date" in capsys.readouterr().err
    assert len(data.load("pump", ("test",))) == 4
    assert rows(data.load("fan")) == [("00", "train", NORMAL, str(other))]
    with pytest.raises(DataError, match="no machine type valve; present: fan, pump"):
        data.load("valve")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r":1: no column `file`; expected file,machine,id,split,label"),
        ("file;id\na.wav;7\n", ":1: no column `file`"),
        ("file\n", ": lists no recordings"),
        ("file,split\na.wav,dev\n", r":2: split 'dev': must be one of train, test"),
        ("file,label\n\na.wav,bad\n", r":3: label 'bad': must be one of normal, 0"),
        ("file,id\n,7\n", ":2: no file"),
        ("file,machine\na.wav,../x\n", r":2: machine '../x'"),
        ("file,id\na.wav,\x1b[2J\n", ":2: id '.x1b.2J' can't be printed"),
        ("file\na.wav,7\n", ":2: 2 fields in 1 columns"),
        ("file,label\na.wav,1\n", "an anomalous clip in the training set"),
        ("file\na.wav\n./a.wav\n", "listed twice in manifest.csv"),
        ("file\na.wav\nb.wav\n", r"b\.wav: unreadable: No such file"),
    ],
)
def test_what_is_wrong_in_a_manifest_is_named(tmp_path, text, message):
    put(tmp_path / "pump", "a.wav")
    write(tmp_path / "pump/manifest.csv", text)
    with pytest.raises(DataError, match=message):
        load(tmp_path / "pump")
    with pytest.raises(DataError, match=r"nowhere\.csv: No such file"):
        load(tmp_path / "nowhere.csv")


def test_a_test_set_with_the_audio_of_the_training_set_is_named(tmp_path, capsys):
    put(tmp_path / "pump", "a.wav", noise(1) // 2)
    put(tmp_path / "pump", "b.wav", noise(1) // 2)
    text = "file,split\na.wav,train\nb.wav,test\n"
    load(write(tmp_path / "pump/manifest.csv", text))
    warning = capsys.readouterr().err
    assert "the audio of another file (1 across training and test) in 1 of" in warning
    assert "b.wav and " in warning


# fields


def test_rate_channel_and_length_are_fields(tmp_path):
    near, far = noise(1, 1600) // 2, noise(2, 1600) // 2
    put(tmp_path / "pump", "a.wav", np.stack([near, far], axis=1), samplerate=8000)
    clips = load(tmp_path / "pump", channel=1, sample_rate=8000, seconds=0.1)
    np.testing.assert_array_equal(clips.audio, [far[:800]])
    assert clips.sample_rate == 8000
    c = controls.get_config()
    c.features.sample_rate = 8000
    assert build(c).data.sample_rate == 8000
    for field, value in (("channel", -1), ("channel", "left"), ("seconds", 0.0)):
        with pytest.raises(ConfigError, match=rf"data\.{field}="):
            replace(DATA, **{field: value})


def test_clips_without_a_test_split_can_be_read_of_any_layout(tmp_path):
    put(tmp_path / "slider/train", "normal_id_00_00000000.wav")
    clips = dcase.read(tmp_path, "slider")
    assert (len(clips.train), len(clips.test)) == (1, 0)


def test_a_root_that_is_one_folder_too_high_is_named(tmp_path):
    put_slider(tmp_path / "dev_data")
    with pytest.raises(DataError, match=r"lie in dev_data; use .*/dev_data$"):
        own.machines(tmp_path)
