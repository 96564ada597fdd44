import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
from wav_files import LENGTH, RATE, noise, put

from mimii_jax.data import wav


def load(*paths: Path, workers: int = 0) -> tuple[np.ndarray, dict[str, str]]:
    return wav.load([str(path) for path in paths], RATE, workers, progress=False)


def reason(path: Path) -> str:
    """Why a file cannot be used, beside one that can."""
    audio, bad = load(put(path.parent, "good.wav"), path)
    assert audio.shape == (1, LENGTH)
    assert list(bad) == [str(path)]
    return bad[str(path)]


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
    audio, bad = load(path)
    assert not bad
    assert audio.dtype == np.int16
    np.testing.assert_array_equal(audio, [expected])


def test_24_bit_is_rounded_at_every_place():
    """Over all 24-bit numbers near the edges of rounding, without libsndfile."""
    numbers = np.concatenate([np.arange(-1000, 1000), [-(2**23), 2**23 - 1]])
    little_endian = numbers.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3]
    on_disk = np.ascontiguousarray(little_endian).view("V3")[:, 0]
    np.testing.assert_array_equal(wav._numbers(on_disk), numbers)
    expected = [min(round(int(n) / 256), 32767) for n in numbers]  # ties to even
    np.testing.assert_array_equal(wav._to_int16(numbers, 2.0**23), expected)


def test_chunks_around_the_audio_are_passed_over(tmp_path):
    path = put(tmp_path, "x.wav")
    whole = path.read_bytes()
    junk = b"LIST" + (3).to_bytes(4, "little") + b"abc\0"  # odd length, padded
    path.write_bytes(whole[:12] + junk + whole[12:36] + junk + whole[36:] + junk)
    audio, bad = load(path)
    assert not bad
    np.testing.assert_array_equal(audio[0], noise(0))


# many files


@pytest.mark.parametrize("workers", [0, 1, 7])
def test_each_row_holds_its_own_file(tmp_path, workers):
    paths = [put(tmp_path, f"{number}.wav", noise(number)) for number in range(40)]
    audio, _ = load(*paths, workers=workers)
    np.testing.assert_array_equal(audio, [noise(number) for number in range(40)])


def test_a_length_that_the_first_looks_miss_is_still_the_usual_one(tmp_path):
    paths = []
    for number in range(90):
        odd = number % (90 // 8 + 1) == 0  # where the reader looks first
        length = 400 if odd else LENGTH
        paths.append(put(tmp_path, f"{number}.wav", noise(number, length)))
    audio, bad = load(*paths)
    assert list(bad) == [str(path) for path in paths[::12]]
    right = [number for number in range(90) if number % 12]
    np.testing.assert_array_equal(audio, [noise(number) for number in right])


def test_rows_close_up_where_files_are_left_out(tmp_path):
    paths = [put(tmp_path, f"{number}.wav", noise(number)) for number in range(9)]
    for number in (0, 3, 4, 8):
        paths[number].write_bytes(b"RIFF")
    audio, bad = load(*paths)
    assert len(bad) == 4
    np.testing.assert_array_equal(audio, [noise(n) for n in (1, 2, 5, 6, 7)])


def test_no_files_and_none_that_can_be_used(tmp_path):
    assert load()[0].shape == (0, 0)
    (tmp_path / "x.wav").write_bytes(b"")
    audio, bad = load(tmp_path / "x.wav")
    assert len(audio) == 0
    assert len(bad) == 1


# files that cannot be used


def test_a_file_cut_off_anywhere_is_refused(tmp_path):
    path = put(tmp_path, "x.wav", subtype="PCM_24")
    whole = path.read_bytes()
    for size in [*range(1, 120), len(whole) - 1]:
        path.write_bytes(whole[:size])
        assert reason(path).startswith("truncated")


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (0, b"RIFX", "not a wav: no RIFF/WAVE header"),
        (8, b"AVI ", "not a wav: no RIFF/WAVE header"),
        (12, b"tmf ", "not a wav: no format before the audio"),
        (20, b"\7\0", "encoding not supported: format 7 of 16 bit; use PCM"),
        (22, b"\0\0", "not a wav: 0 channels in frames of 2 bytes"),
        (32, b"\3\0", "not a wav: 1 channels in frames of 3 bytes"),
        (34, b"\x0c\0", "encoding not supported: format 1 of 12 bit"),
        (40, b"\0\0\0\0", "zero samples"),
        (40, b"\1\0\0\0", "zero samples"),
        (40, b"\xff\xff\xff\xff", "promises 4294967295 bytes of audio, the file holds"),
    ],
)
def test_a_header_that_is_wrong_in_one_field(tmp_path, place, value, said):
    path = put(tmp_path, "x.wav")
    whole = path.read_bytes()
    path.write_bytes(whole[:place] + value + whole[place + len(value) :])
    assert said in reason(path)


def test_samples_that_are_not_finite_are_refused(tmp_path):
    for value in (np.nan, np.inf, -np.inf):
        samples = np.append(np.zeros(LENGTH - 1), value)
        path = put(tmp_path, "x.wav", samples, subtype="DOUBLE")
        assert reason(path) == "samples that are not finite"


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path, monkeypatch):
    decode = wav.decode

    def shrink_then_decode(file, header, out):
        if file.name.endswith("shrinks.wav"):
            os.truncate(file.name, 10000)
        decode(file, header, out)

    monkeypatch.setattr(wav, "decode", shrink_then_decode)
    good = put(tmp_path, "good.wav", noise(0, 9000))
    bad = put(tmp_path, "shrinks.wav", noise(0, 9000))
    expected = "truncated: only 9956 of 18000 bytes could be read"
    assert load(good, bad)[1] == {str(bad): expected}


def test_an_error_of_the_disk_is_a_reason(tmp_path, monkeypatch):
    def refuse(file):
        raise PermissionError(13, "Permission denied")

    path = put(tmp_path, "x.wav")
    monkeypatch.setattr(wav, "inspect", refuse)
    assert load(path)[1] == {str(path): "unreadable: Permission denied"}


# writing


@pytest.mark.parametrize("length", [1, 2049])
def test_written_as_libsndfile_would(tmp_path, length):
    wav.write(tmp_path / "ours.wav", noise(3, length), RATE)
    put(tmp_path, "theirs.wav", noise(3, length))
    theirs = (tmp_path / "theirs.wav").read_bytes()
    assert (tmp_path / "ours.wav").read_bytes() == theirs
    audio, rate = soundfile.read(tmp_path / "ours.wav", dtype="int16")
    np.testing.assert_array_equal(audio, noise(3, length))
    assert rate == RATE


def test_samples_that_lie_apart_are_written(tmp_path):
    wav.write(tmp_path / "x.wav", noise(3)[::2], RATE)
    np.testing.assert_array_equal(load(tmp_path / "x.wav")[0], [noise(3)[::2]])


def test_a_failed_write_leaves_the_old_file_and_no_new_one(tmp_path, monkeypatch):
    wav.write(tmp_path / "x.wav", noise(1), RATE)
    before = (tmp_path / "x.wav").read_bytes()

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        wav.write(tmp_path / "x.wav", noise(2), RATE)
    assert [path.name for path in tmp_path.iterdir()] == ["x.wav"]
    assert (tmp_path / "x.wav").read_bytes() == before
