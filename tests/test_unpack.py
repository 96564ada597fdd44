"""Archives that are not to be trusted, and disks that are full."""

import errno
import io
import shutil
import stat
import zipfile

import pytest
from records_server import DEV, NAME, failure, get, require_whole, zipped

from mimii_jax.data import fetch, unpack

# archives that are not to be trusted


@pytest.mark.parametrize(
    "name",
    [
        "../outside.wav",
        "fan/train/../../../outside.wav",
        "/outside.wav",
        "C:\\outside.wav",
        "fan\\..\\..\\outside.wav",
    ],
)
def test_no_path_leaves_the_folder(server, fan, tmp_path, name):
    server.publish(DEV, NAME, zipped({**fan["dev"], name: b"x"}))
    message = failure(server, tmp_path / "out")
    assert "would lie outside" in message
    assert repr(name) in message
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["archives"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_links_in_an_archive_are_refused(server, fan, tmp_path):
    data = io.BytesIO(zipped(fan["dev"]))
    with zipfile.ZipFile(data, "a") as archive:
        link = zipfile.ZipInfo("fan/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc")
    server.publish(DEV, NAME, data.getvalue())
    assert "would lie outside" in failure(server, tmp_path)


def test_a_link_in_the_folder_is_not_followed_out_of_it(server, dev, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/fan").symlink_to(tmp_path / "elsewhere")
    assert "would lie outside" in failure(server, tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_an_interrupted_unpacking_is_finished_and_good_files_are_kept(
    server, dev, fan, tmp_path, monkeypatch
):
    put_file = unpack._put
    names = sorted(fan["dev"])

    def interrupted(opened, info, out):
        if info.filename == names[2]:
            raise KeyboardInterrupt
        put_file(opened, info, out)

    with monkeypatch.context() as patch:
        patch.setattr(unpack, "_put", interrupted)
        with pytest.raises(SystemExit) as stop:
            get(server, tmp_path)
    assert stop.value.code == 130
    kept = list(tmp_path.glob("fan/*/*.wav"))
    assert 0 < len(kept) < len(names)
    times = {path: path.stat().st_mtime_ns for path in kept[1:]}
    kept[0].write_bytes(bytes(kept[0].stat().st_size))  # as long, and not the same
    server.asked.clear()
    get(server, tmp_path)
    assert server.ranges(dev) == []  # the archive was there
    require_whole(tmp_path, fan, "dev")
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_an_archive_with_a_damaged_file_is_named(server, fan, tmp_path):
    data = bytearray(zipped(fan["dev"]))
    data[200] ^= 255  # within the first file
    server.publish(DEV, NAME, bytes(data))
    assert f"{NAME}: damaged" in failure(server, tmp_path)
    server.listed.clear()
    server.publish(DEV, NAME, b"no zip at all")
    (tmp_path / "archives" / NAME).unlink()
    assert f"{NAME}: damaged" in failure(server, tmp_path)


def test_clips_that_were_not_published_are_refused(server, fan, tmp_path):
    server.publish(DEV, NAME, zipped({"fan/train/new.wav": b"x"}))
    message = failure(server, tmp_path)
    assert "fan/train/new.wav: no recording of DCASE 2020 Task 2" in message
    few = {f"slider/{k[4:]}": v for k, v in fan["dev"].items()}
    server.publish(DEV, "dev_data_slider.zip", zipped(few))
    message = failure(server, tmp_path, machine="slider")
    assert "id 00 has 4 training + 2 normal test + 2 anomalous test clips" in message
    assert "published are 968 training + 100 normal test + 356 anomalous" in message
    train = {k: v for k, v in fan["dev"].items() if "train" in k}
    server.publish(DEV, "dev_data_pump.zip", zipped(train))
    message = failure(server, tmp_path, machine="pump")
    assert "4 clips to train on and 0 to test on are not what was published" in message
    assert [path.name for path in tmp_path.iterdir()] == ["archives"]


# disks that misbehave


def test_no_space_is_said_before_fetching(server, dev, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert "no space: 0.00 GB are needed" in failure(server, tmp_path)
    assert server.ranges(dev) == []


def test_a_disk_that_fills_up_is_one_line(server, dev, fan, tmp_path, monkeypatch):
    append = fetch._append

    def full(*arguments):
        server.plan[dev] = ["drop"]
        with pytest.raises(fetch.requests.RequestException):
            append(*arguments)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(fetch, "_append", full)
        message = failure(server, tmp_path)
    assert "no space left on the disk; make room and start the same" in message
    get(server, tmp_path)
    assert server.ranges(dev)[-1].startswith("bytes=")
    require_whole(tmp_path, fan, "dev")


def test_a_folder_that_cannot_be_written_is_one_line(server, dev, tmp_path):
    (tmp_path / "file").touch()
    message = failure(server, tmp_path / "file")
    assert "file: cannot be written: " in message
    assert "choose another --out" in message
