import os
import re
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from wav_files import LENGTH, RATE, noise, put

from mimii_jax.data import audio, reading
from mimii_jax.errors import ConfigError, DataError


def load(*paths: Path) -> tuple[np.ndarray, dict[str, str]]:
    samples, _, bad = reading.load([str(path) for path in paths], RATE)
    return samples, bad


def reason(path: Path) -> str:
    """Why a file is unusable, beside one that isn't."""
    samples, bad = load(put(path.parent, "good.wav"), path)
    assert samples.shape == (1, LENGTH)
    assert list(bad) == [str(path)]
    return bad[str(path)]


def chunk(name: bytes, content: bytes) -> bytes:
    padding = b"\0" * (len(content) % 2)
    return name + struct.pack("<I", len(content)) + content + padding


def riff(*chunks: bytes) -> bytes:
    return chunk(b"RIFF", b"WAVE" + b"".join(chunks))


# encodings

WIDE = np.array([0, 127, 128, 129, 384, -128, -129, -384, 2**23 - 1, -(2**23)])
WIDE_IN_16 = [0, 0, 0, 1, 2, 0, -1, -2, 2**15 - 1, -(2**15)]
FULL = np.array([1.0, -1.0, 0.5, -0.5, 1.5, -1.5, 2.0**-15, 2.0**-16, 0.75 / 2**15])
FULL_IN_16 = [32767, -32768, 16384, -16384, 32767, -32768, 1, 0, 1]
ENCODINGS = {  # what is written, what should be read in 16 bit
    "PCM_U8": (np.array([0, 256, -32768, 32512], np.int16), [0, 256, -32768, 32512]),
    "PCM_16": (noise(5), noise(5)),
    "PCM_24": ((WIDE << 8).astype(np.int32), WIDE_IN_16),
    "PCM_32": ((WIDE << 8).astype(np.int32), WIDE_IN_16),
    "FLOAT": (FULL.astype(np.float32), FULL_IN_16),
    "DOUBLE": (FULL, FULL_IN_16),
}


@pytest.mark.parametrize("container", ["WAV", "WAVEX"])
@pytest.mark.parametrize("channels", [1, 8])
@pytest.mark.parametrize("subtype", ENCODINGS)
def test_first_channel_in_16_bit_whatever_the_encoding(
    tmp_path, subtype, channels, container
):
    samples, expected = ENCODINGS[subtype]
    samples = np.stack([samples, *[samples[::-1]] * (channels - 1)], axis=1)
    path = put(tmp_path, "x.wav", samples, subtype=subtype, format=container)
    samples, bad = load(path)
    assert not bad
    assert samples.dtype == np.int16
    np.testing.assert_array_equal(samples, [expected])


def test_24_bit_is_rounded_at_every_place(tmp_path):
    """Over numbers near the edges of rounding, written without libsndfile."""
    numbers = np.concatenate([np.arange(-1000, 1000), [-(2**23), 2**23 - 1]])
    data = numbers.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    form = struct.pack("<HHIIHH", 1, 1, RATE, 3 * RATE, 3, 24)
    path = tmp_path / "x.wav"
    path.write_bytes(riff(chunk(b"fmt ", form), chunk(b"data", data)))
    expected = [min(round(int(n) / 256), 32767) for n in numbers]  # ties to even
    np.testing.assert_array_equal(load(path)[0], [expected])


@pytest.mark.parametrize(
    ("format", "subtype"),
    [
        *(("RF64", "PCM_16"), ("FLAC", "PCM_16"), ("AIFF", "PCM_16")),
        *(("RF64", "PCM_24"), ("FLAC", "PCM_24"), ("AIFF", "FLOAT")),
    ],
)
def test_other_containers(tmp_path, format, subtype):
    path = put(tmp_path, "x", noise(0) / 2**15, format=format, subtype=subtype)
    samples, bad = load(path)
    assert not bad
    np.testing.assert_array_equal(samples, [noise(0)])


def test_big_endian(tmp_path):
    path = put(tmp_path, "x.wav", noise(0), endian="BIG")
    assert path.read_bytes()[:4] == b"RIFX"
    np.testing.assert_array_equal(load(path)[0], [noise(0)])
    path.write_bytes(path.read_bytes()[:-1])
    assert reason(path).startswith("truncated")


def test_float_samples_beyond_full_scale_are_reported(tmp_path, capsys):
    loud = put(tmp_path, "loud.wav", np.array([300.0, 0.5, 1.0, -2]), subtype="FLOAT")
    load(put(tmp_path, "quiet.wav", FULL / 2, subtype="FLOAT"))
    assert capsys.readouterr().err == ""
    samples, _ = load(loud)
    assert samples.tolist() == [[32767, 16384, 32767, -32768]]
    warning = capsys.readouterr().err
    assert f"{loud} (75.0%)" in warning
    assert warning.startswith("warning: samples at or over full scale in 1 of 1 files")


def test_chunks_around_the_audio_are_passed_over(tmp_path):
    path = put(tmp_path, "x.wav")
    whole = path.read_bytes()
    junk = b"LIST" + (3).to_bytes(4, "little") + b"abc\0"  # odd length, padded
    path.write_bytes(whole[:12] + junk + whole[12:36] + junk + whole[36:] + junk)
    samples, bad = load(path)
    assert not bad
    np.testing.assert_array_equal(samples[0], noise(0))


# rates, channels, lengths


def tone(hertz: float, rate: int, seconds: float = 0.5, level: float = 0.25):
    return level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize(("format", "subtype"), [("FLAC", "PCM_24"), ("WAV", "PCM_16")])
def test_a_resampled_sine_keeps_level_and_frequency(tmp_path, rate, format, subtype):
    options = {"samplerate": rate, "format": format, "subtype": subtype}
    path = put(tmp_path, "x", tone(1000, rate), **options)
    wave = audio.read_wave(path, RATE) / 2**15
    assert len(wave) == RATE // 2
    middle = slice(800, -800)  # away from the edges, where the filter rings
    expected = tone(1000, RATE)[middle]
    assert np.abs(wave[middle] - expected).max() < 1e-3


def test_what_a_lower_rate_cannot_hold_is_filtered_out(tmp_path):
    wave = tone(1000, 44100) + tone(12000, 44100)
    path = put(tmp_path, "x.wav", wave, samplerate=44100)
    found = audio.read_wave(path, RATE)[800:-800] / 2**15
    assert np.abs(found - tone(1000, RATE)[800:-800]).max() < 1e-3


def test_an_ogg_file_is_read_whole_and_nearly_as_written(tmp_path):
    path = put(tmp_path, "x.ogg", tone(1000, RATE, 2), format="OGG", subtype="VORBIS")
    found = audio.read_wave(path, RATE) / 2**15
    assert len(found) == 2 * RATE
    assert np.abs(found - tone(1000, RATE, 2))[800:-800].max() < 0.02


def test_resampling_is_said_once_per_rate(tmp_path, capsys):
    audio._say_resampled.cache_clear()
    for number, rate in enumerate((16000, 44100, 8000, 44100)):
        put(tmp_path, f"{number}.wav", samplerate=rate)
    for _ in range(2):
        load(*sorted(tmp_path.iterdir()))
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("44100 Hz") == printed.count("of 8000 Hz") == 1
    assert "8000 Hz are resampled to 16000 Hz; they hold nothing above 4000" in printed


def test_threads_say_it_once(capsys):
    audio._say_resampled.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: audio.say_resampled(48000, RATE), range(64)))
    assert capsys.readouterr().out.count("48000 Hz") == 1


def test_a_channel_is_chosen_or_all_are_averaged(tmp_path):
    near, far = noise(1), noise(2)
    path = put(tmp_path, "x.wav", np.stack([near, far], axis=1))
    mono = put(tmp_path, "mono.wav", noise(3))
    np.testing.assert_array_equal(audio.read_wave(path, RATE), near)
    np.testing.assert_array_equal(audio.read_wave(path, RATE, 1), far)
    mean = np.rint((near.astype(float) + far) / 2)
    np.testing.assert_array_equal(audio.read_wave(path, RATE, "mean"), mean)
    np.testing.assert_array_equal(audio.read_wave(mono, RATE, "mean"), noise(3))
    _, _, bad = reading.load([str(path), str(mono)], RATE, channel=1)
    assert bad.keys() == {str(mono)}
    assert "no channel 1" in bad[str(mono)]
    with pytest.raises(DataError, match=r"mono\.wav: no channel 1"):
        audio.read_wave(mono, RATE, 1)


def test_files_are_cut_or_padded_to_one_length(tmp_path, capsys):
    lengths = (LENGTH, 300, LENGTH, 1, 3 * LENGTH)
    paths = [
        str(put(tmp_path, f"{n}.wav", noise(n, length)))
        for n, length in enumerate(lengths)
    ]
    samples, _, bad = reading.load(paths, RATE)
    assert not bad
    assert samples.shape == (5, LENGTH)  # the most frequent length
    said = " ".join(capsys.readouterr().out.split())
    assert "of 5 files 1 are cut and 2 padded (mirrored) to 0.05 s" in said
    np.testing.assert_array_equal(samples[4], noise(4, 3 * LENGTH)[:LENGTH])
    # The end of a short one is its own sound again, without a jump.
    mirrored = np.r_[noise(1, 300), noise(1, 300)[::-1], noise(1, 300)][:LENGTH]
    np.testing.assert_array_equal(samples[1], mirrored)
    assert set(samples[3].tolist()) == set(noise(3, 1).tolist())
    samples, _, _ = reading.load(paths, RATE, seconds=0.1)
    assert samples.shape == (5, 1600)
    assert len(audio.read_wave(paths[4], RATE)) == 3 * LENGTH  # whole, for scoring


# what is odd is named


def test_silence_constants_and_repeats_are_named(tmp_path, capsys):
    sounds = {
        "a": noise(1) // 2,
        "b": noise(2) // 2,
        "silent": np.zeros(LENGTH, np.int16),
        "silent too": np.zeros(LENGTH, np.int16),
        "stuck": np.full(LENGTH, 7, np.int16),
        "a again": noise(1) // 2,
        "b again": noise(2) // 2,
    }
    paths = {k: str(put(tmp_path, f"{k}.wav", x)) for k, x in sounds.items()}
    splits = dict.fromkeys(paths.values(), "train") | {paths["b again"]: "test"}
    reading.load(list(paths.values()), RATE, splits=splits)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("warning: digital silence in 2 of 7 files")
    assert lines[1].startswith("warning: one constant value in 1 of 7 files")
    assert lines[1].endswith(paths["stuck"])
    assert "(1 across training and test) in 2 of 7 files" in lines[2]
    assert lines[2].endswith(f"{paths['b again']} and {paths['b']}")


def test_ordinary_files_are_read_without_a_warning(tmp_path, capsys):
    load(*(put(tmp_path, f"{n}.wav", noise(n) // 2) for n in range(4)))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT"])
def test_samples_at_full_scale_are_named_in_every_encoding(tmp_path, subtype, capsys):
    wave = np.clip(tone(200, 44100, level=1.5), -1, 1)
    load(put(tmp_path, "x.wav", wave, subtype=subtype, samplerate=44100))
    assert "at or over full scale in 1 of 1 files" in capsys.readouterr().err


# many files


def test_rows_close_up_where_files_are_left_out(tmp_path):
    paths = [put(tmp_path, f"{number}.wav", noise(number)) for number in range(40)]
    for number in (0, 3, 4, 5):
        paths[number].write_bytes(b"RIFF")
    nan = np.full(LENGTH, np.nan)  # is found out when it is decoded
    for number in (8, 39):
        put(tmp_path, f"{number}.wav", nan, subtype="FLOAT")
    samples, bad = load(*paths)
    assert set(bad) == {str(paths[number]) for number in (0, 3, 4, 5, 8, 39)}
    right = [n for n in range(40) if str(paths[n]) not in bad]
    np.testing.assert_array_equal(samples, [noise(number) for number in right])


def test_headers_alone_find_what_is_truncated(tmp_path, monkeypatch):
    paths = [put(tmp_path, f"{number}.wav") for number in range(4)]
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    put(tmp_path, "1.wav", noise(0, 400))
    monkeypatch.setattr(audio, "_decode", None)
    samples, headers, bad = reading.load(list(map(str, paths)), RATE, decode=False)
    assert samples.shape == (3, 0)
    assert [header and header.frames for header in headers] == [None, 400, 800, 800]
    assert set(bad) == {str(paths[0])}


def test_no_files_and_none_that_can_be_used(tmp_path):
    assert load()[0].shape == (0, 0)
    (tmp_path / "x.wav").write_bytes(b"")
    samples, bad = load(tmp_path / "x.wav")
    assert len(samples) == 0
    assert len(bad) == 1


# unusable files


@pytest.mark.parametrize(
    ("format", "subtype"),
    [
        *(("WAV", "PCM_24"), ("WAV", "FLOAT"), ("RF64", "PCM_16"), ("FLAC", "PCM_16")),
        *(("AIFF", "PCM_16"), ("WAV", "PCM_U8"), ("OGG", "VORBIS")),
    ],
)
def test_a_file_cut_off_anywhere_is_refused(tmp_path, format, subtype):
    path = put(tmp_path, "x.wav", noise(0, 100), format=format, subtype=subtype)
    whole = path.read_bytes()
    cut = [tmp_path / f"{size}.wav" for size in range(len(whole))]
    for size, other in enumerate(cut):
        other.write_bytes(whole[:size])
    samples, bad = load(*cut)
    assert len(samples) == 0
    assert set(bad) == {str(other) for other in cut}
    if format not in ("FLAC", "OGG"):
        assert bad.pop(str(cut[0])).startswith("empty")
        assert all(reason.startswith("truncated") for reason in bad.values())


def test_a_file_without_its_last_chunks_is_refused(tmp_path):
    """The audio is whole, the file isn't."""
    path = put(tmp_path, "x.wav")
    whole = path.read_bytes()
    whole = riff(whole[12:], chunk(b"LIST", bytes(100)))
    path.write_bytes(whole)
    assert load(path)[1] == {}
    path.write_bytes(whole[:-50])
    assert reason(path).startswith("truncated")


@pytest.mark.parametrize(
    "sizes",
    [
        *((2**32 - 1, 2**32 - 1), (0, 0), (36, 0), (2**32 - 1, 0), (0, 2**32 - 1)),
        *((0x7FFFF024, 0x7FFFF000), (0x80000024, 0x80000000)),
    ],
)
@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_header_that_was_never_completed_is_legal(tmp_path, sizes, subtype):
    """As ffmpeg, sox and arecord write into a pipe, or a program that is killed."""
    path = put(tmp_path, "x.wav", subtype=subtype)
    expected, _ = load(path)
    audio_only = path.read_bytes()
    at = audio_only.index(b"data") + 4
    form, data = audio_only[12 : at - 4], audio_only[at + 4 :]
    form = form[: form.index(b"fmt ") + 8 + 16]  # without fact and PEAK
    form = form[:4] + struct.pack("<I", 16) + form[8:]
    path.write_bytes(
        b"RIFF"
        + struct.pack("<I", sizes[0])
        + b"WAVE"
        + form
        + b"data"
        + struct.pack("<I", sizes[1])
        + data
    )
    samples, bad = load(path)
    assert not bad
    np.testing.assert_array_equal(samples, expected)


@pytest.mark.parametrize(
    ("place", "value", "expected"),
    [
        (0, b"RIFX", "truncated|no audio"),
        (8, b"AVI ", "no audio"),
        (12, b"tmf ", "no audio"),
        (22, b"\0\0", "no audio"),
        (40, b"\0\0\0\0", "zero samples"),
        (40, b"\1\0\0\0", "zero samples"),
        (40, b"\xff\xff\0\0", "1644 of the 65579 bytes"),
        (4, b"\xff\xff\0\0", "1644 of the 65543 bytes"),
    ],
)
def test_a_header_that_is_wrong_in_one_field(tmp_path, place, value, expected):
    path = put(tmp_path, "x.wav")
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + value + whole[place + len(value) :])
    assert re.search(expected, reason(path))


def test_containers_that_hide_truncation_are_refused(tmp_path):
    path = put(tmp_path, "x.wav", format="W64")
    assert "W64 isn't supported, unlike wav" in reason(path)


def test_samples_that_are_not_finite_are_refused(tmp_path):
    for value in (np.nan, np.inf, -np.inf):
        samples = np.append(np.zeros(LENGTH - 1), value)
        path = put(tmp_path, "x.wav", samples, subtype="DOUBLE")
        assert reason(path) == "samples that are not finite"


def test_an_error_of_the_disk_is_a_reason(tmp_path):
    assert load(tmp_path)[1][str(tmp_path)].startswith("unreadable: Is a directory")
    path = tmp_path / "nowhere.wav"
    assert load(path)[1] == {str(path): "unreadable: No such file or directory"}


def test_clips_that_do_not_fit_in_memory_are_one_error(tmp_path):
    path = put(tmp_path, "x.wav")
    whole = path.read_bytes()
    data = 2 * 10**9
    sizes = struct.pack("<I", data + 36), struct.pack("<I", data)
    path.write_bytes(whole[:4] + sizes[0] + whole[8:40] + sizes[1])
    os.truncate(path, data + 44)  # takes no room on the disk
    with pytest.raises(
        ConfigError, match=r"data.seconds: clips of 62500 s: needs 128 GB"
    ):
        reading.load([str(path)] * 200, RATE)


# writing


def test_samples_that_lie_apart_are_written(tmp_path):
    audio.write(tmp_path / "x.wav", noise(3)[::2], RATE)
    np.testing.assert_array_equal(load(tmp_path / "x.wav")[0], [noise(3)[::2]])
