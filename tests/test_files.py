"""Files are written whole or not at all."""

import errno

import pytest

from mimii_jax import files
from mimii_jax.errors import DataError


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.replace_file(path, b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(DataError, match=r"a\.json: the disk is full; free"):
        files.replace_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no/a\.json: No such file or directory"):
        files.replace_file(tmp_path / "no" / "a.json", b"")
