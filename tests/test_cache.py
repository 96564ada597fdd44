"""What comes from the cache is what reading gives; nothing changed or broken does."""

import builtins
import errno
import os
import time

import numpy as np
import pytest
from small_clips import small_clips
from small_runs import again
from wav_files import LENGTH, noise, put, put_slider

from mimii_jax.data import cache, dcase, wav
from mimii_jax.data.clips import COLUMNS
from mimii_jax.errors import DataError
from mimii_jax.run import load_config


@pytest.fixture
def slider(tmp_path):
    return put_slider(tmp_path)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Read with a cache; gives the clips and how many recordings were opened."""
    opened = []
    inspect = wav.inspect

    def counting(file):
        opened.append(file.name)
        return inspect(file)

    monkeypatch.setattr(wav, "inspect", counting)

    def loaded(**options):
        opened.clear()
        root, kept = tmp_path, tmp_path / "cache"
        clips = dcase.read(root, "slider", progress=False, cache=kept, **options)
        return clips, len(set(opened))

    return loaded


def files(tmp_path):
    return sorted((tmp_path / "cache").rglob("*.*"))


def require_same(clips, others):
    for column in ("audio", *COLUMNS):
        np.testing.assert_array_equal(getattr(clips, column), getattr(others, column))


def test_the_second_reading_opens_no_recording(slider, load, tmp_path):
    first, opened = load()
    assert opened == 6
    second, opened = load()
    assert opened == 0
    require_same(first, second)
    require_same(first, dcase.read(tmp_path, "slider", progress=False))
    assert not second.audio.flags.writeable
    assert np.shares_memory(second.audio, second.test.audio)
    assert np.shares_memory(second.audio, second.train.audio)
    assert len(files(tmp_path)) == 1


def test_a_part_of_what_is_cached_is_served_and_not_kept_twice(slider, load, tmp_path):
    whole, _ = load()
    test, opened = load(splits=("test",))
    assert opened == 0
    require_same(test, whole.test)
    of_02, opened = load(ids=("02",))  # which does not lie in a row
    assert opened == 0
    require_same(of_02, whole[whole.machine_id == "02"])
    assert len(files(tmp_path)) == 1


def test_a_part_that_came_first_is_replaced_by_the_whole(slider, load, tmp_path):
    assert load(splits=("test",))[1] == 3
    assert load()[1] == 6
    assert load(splits=("test",))[1] == 0
    assert len(files(tmp_path)) == 1


def rewrite(slider):
    put(slider / "test", "anomaly_id_00_00000000.wav", noise(5))


def swap_one_of_the_same_size_and_time(slider):
    path = slider / "test" / "anomaly_id_00_00000000.wav"
    times = path.stat()
    other = put(slider, "other.wav", noise(5))
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)


def add(slider):
    put(slider / "train", "normal_id_00_00000005.wav", noise(6))


def remove(slider):
    (slider / "train" / "normal_id_00_00000001.wav").unlink()


def rename(slider):
    path = slider / "train" / "normal_id_00_00000001.wav"
    path.rename(path.with_name("normal_id_00_00000009.wav"))


@pytest.mark.parametrize(
    "change", [rewrite, swap_one_of_the_same_size_and_time, add, remove, rename]
)
def test_what_changed_is_noticed(slider, load, tmp_path, change):
    load()
    time.sleep(0.02)  # the clock of a file system may tick that slowly
    change(slider)
    clips, opened = load()
    assert opened == len(clips) or change is remove  # the others are still right
    require_same(clips, dcase.read(tmp_path, "slider", progress=False))
    assert load()[1] == 0
    assert len(files(tmp_path)) == 1


def flip_audio(data):
    data[LENGTH] ^= 1


def flip_table(data):
    data[-60] ^= 1


def flip_end(data):
    data[-1] ^= 1


def cut(data):
    del data[-1000:]


def empty(data):
    data.clear()


def of_another_version(data):
    data[-2:] = b"99"


@pytest.mark.parametrize(
    "damage", [flip_audio, flip_table, flip_end, cut, empty, of_another_version]
)
def test_a_broken_cache_is_rebuilt(slider, load, tmp_path, damage, capsys):
    first, _ = load()
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    damage(data)
    path.write_bytes(data)
    second, opened = load()
    assert opened == 6
    require_same(first, second)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{path}: the cache is broken; reading the recordings again" in said
    assert load()[1] == 0


def test_skipped_files_are_skipped_from_the_cache_too(slider, load, capsys):
    put(slider / "train", "normal_id_00_00000016.wav", noise(0, LENGTH + 1))
    (slider / "train" / "normal_id_00_00000017.wav").write_bytes(b"")
    first, opened = load(on_bad_file="skip")
    warning = capsys.readouterr().err
    assert opened == 8
    second, opened = load(on_bad_file="skip")
    assert opened == 0
    require_same(first, second)
    assert capsys.readouterr().err == warning
    with pytest.raises(DataError, match="2 of 8 files"):
        load()
    # Which length is the usual one depends on what else there is.
    test, opened = load(on_bad_file="skip", splits=("test",))
    assert opened == 3
    require_same(test, first.test)


def test_files_that_could_not_be_read_are_tried_again(
    slider, load, tmp_path, monkeypatch
):
    def failing(path, *args, **options):
        if str(path).endswith("normal_id_00_00000001.wav"):
            raise OSError(errno.EIO, "Input/output error")
        return open_file(path, *args, **options)

    open_file = builtins.open
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", failing)
        assert len(load(on_bad_file="skip")[0]) == 5
    assert files(tmp_path) == []
    assert len(load()[0]) == 6


def test_one_of_several_processes_reads_its_rows_alone(slider, load, tmp_path):
    def needed(clips):
        assert not clips.audio.any()
        return clips.split == "train"

    load(needed=needed)
    assert files(tmp_path) == []  # it has not seen all of it
    whole, _ = load()
    part, opened = load(needed=needed)
    assert opened == 0
    require_same(part.train, whole.train)
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    data[2 * LENGTH * 4] ^= 1  # in the second test clip, which it does not look at
    path.write_bytes(data)
    assert load(needed=needed)[1] == 0
    assert load()[1] == 6


def test_a_full_disk_is_one_line_and_leaves_nothing(
    slider, load, tmp_path, monkeypatch, capsys
):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cache.os, "replace", full)
        clips, _ = load()
    assert len(clips) == 6
    assert files(tmp_path) == []
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "cannot be cached: No space left on device; data.cache names" in said


def test_what_a_killed_process_left_is_removed(slider, load, tmp_path):
    load()
    (path,) = files(tmp_path)
    for name, age in (("old", 7200), ("new", 0)):
        part = path.with_name(f".{name}.clips.part1")
        part.touch()
        os.utime(part, (time.time() - age,) * 2)
    add(slider)
    load()
    parts = [file.name for file in files(tmp_path) if file.suffix != ".clips"]
    assert parts == [".new.clips.part1"]


def test_a_model_scores_clips_of_the_cache_to_the_same_bit(
    recordings, model, tmp_path, no_figures
):
    config = load_config(model)
    config.data.cache = str(tmp_path / "cache")
    for _ in range(2):
        printed, _ = again(config, model)
        assert "scores: identical" in printed
    (path,) = files(tmp_path)
    test = len(small_clips().test)
    assert path.stat().st_size > test * small_clips().audio[0].nbytes
