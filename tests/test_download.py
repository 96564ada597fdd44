"""The download, from a server that misbehaves; untrusted archives; full disks."""

import errno
import io
import re
import shutil
import stat
import time
import zipfile
from hashlib import md5
from pathlib import Path

import pytest
from records_server import (
    ADDITIONAL,
    DEV,
    EVAL,
    LABELS,
    NAME,
    failure,
    get,
    require_whole,
    zipped,
)

from mimii_jax.data import dcase, download
from mimii_jax.errors import InUse
from mimii_jax.files import owned

ROOT = Path(__file__).parents[1]


# servers that behave


def test_a_new_user_gets_clips_that_can_be_read(server, dev, fan, tmp_path, capsys):
    out = tmp_path / "new" / "data"
    get(server, out)
    require_whole(out, fan, "dev")
    printed = capsys.readouterr().out
    assert "dev_data_fan.zip: MD5 verified, 8 files" in printed
    assert f"python -m mimii_jax.data.list {out}" in printed
    assert f"--config.data.root={out} " in printed
    assert "--config.data.machine_types=\"('fan',)\"" in printed
    assert len(dcase.read(out, "fan")) == 8


def test_a_second_call_fetches_nothing_that_is_complete(server, dev, fan, tmp_path):
    get(server, tmp_path)
    server.asked.clear()
    get(server, tmp_path)
    assert server.asked == []
    (tmp_path / "fan/train/normal_id_00_00000000.wav").unlink()
    get(server, tmp_path)
    require_whole(tmp_path, fan, "dev")


def test_several_splits_share_a_folder_with_the_labels(server, dev, fan, tmp_path):
    server.publish(ADDITIONAL, "eval_data_train_fan.zip", zipped(fan["additional"]))
    server.publish(EVAL, "eval_data_test_fan.zip", zipped(fan["eval"]))
    lines = [
        f"id_01_{n:08d}.wav,{k}_id_01_{n:08d}.wav,{int(k == 'anomaly')}"
        for n, k in enumerate(("normal", "anomaly", "normal", "anomaly"))
    ]
    server.publish(LABELS, "eval_data_list.csv", "\n".join(["fan", *lines]).encode())
    get(server, tmp_path, split=("all",))
    require_whole(tmp_path, fan, "dev", "additional", "eval")
    assert (tmp_path / "eval_data_list.csv").read_text().startswith("fan\nid_01")
    assert dcase.read(tmp_path, "fan").ids == ["00", "01"]
    server.asked.clear()
    get(server, tmp_path, split=("all",))
    assert server.asked == []


def test_every_file_of_every_split_has_a_pinned_sum():
    files = download.wanted(download.MACHINES, tuple(download.RECORDS))
    assert len(files) == 3 * 6 + 1
    assert files.keys() == download.REGISTRY.keys()
    sums = {md5sum for md5sum, _ in download.REGISTRY.values()}
    assert len(sums) == len(files)
    assert all(re.fullmatch("[0-9a-f]{32}", md5sum) for md5sum in sums)


def test_the_pinned_sum_of_the_labels_is_that_of_the_published_list(published_labels):
    content = published_labels.read_bytes()
    pinned = download.REGISTRY["eval_data_list.csv"]
    assert pinned == (md5(content).hexdigest(), len(content))


def test_the_amount_is_printed_first(server, dev, tmp_path, capsys):
    get(server, tmp_path)
    assert capsys.readouterr().out.startswith("1 files, 0.00 GB\n")
    files = download.wanted(("slider",), tuple(download.RECORDS))
    assert download.amount(list(files)) == (
        "4 files, 1.58 GB (size of eval_data_test_slider.zip unknown)"
    )


def test_a_file_of_unknown_size_is_fetched(server, dev, fan, tmp_path, waits):
    download.REGISTRY[NAME] = (download.REGISTRY[NAME][0], None)
    server.plan[dev] = [503, None, "drop"]  # the first answer says the size
    get(server, tmp_path)
    require_whole(tmp_path, fan, "dev")


# servers that misbehave


def test_a_broken_connection_is_resumed_where_it_broke(
    server, dev, fan, tmp_path, waits
):
    server.plan[dev] = ["drop", "drop"]
    get(server, tmp_path)
    require_whole(tmp_path, fan, "dev")
    first, *rest = (asked.strip("bytes=-") for asked in server.ranges(dev))
    size = len(server.content[dev])
    assert first == ""
    assert size / 3 < int(rest[0]) <= size / 2 < int(rest[1]) <= size * 3 / 4
    assert waits == []


def test_a_partial_file_of_an_earlier_call_is_resumed(
    server, dev, fan, tmp_path, waits
):
    server.plan[dev] = ["drop"] * 99
    message = failure(server, tmp_path)
    assert NAME in message
    assert "the connection broke" in message
    assert "rerun to resume" in message
    assert waits == [1, 2, 4, 8]  # between five tries that brought nothing
    part = tmp_path / "archives" / f"{NAME}.part"
    have = part.stat().st_size
    assert part.read_bytes() == server.content[dev][:have]
    server.plan.clear()
    server.asked.clear()
    get(server, tmp_path)
    assert server.ranges(dev) == [f"bytes={have}-"]
    require_whole(tmp_path, fan, "dev")


@pytest.mark.parametrize(
    "plan", [["drop", "no range"], ["drop", "elsewhere"], ["short"]]
)
def test_only_bytes_that_fit_are_appended(server, dev, fan, tmp_path, waits, plan):
    server.plan[dev] = plan
    get(server, tmp_path)
    require_whole(tmp_path, fan, "dev")


def test_no_more_than_the_known_size_is_kept(server, dev, tmp_path):
    size = len(server.content[dev]) - 1000
    download.REGISTRY[NAME] = (download.REGISTRY[NAME][0], size)
    assert "MD5" in failure(server, tmp_path)
    assert (tmp_path / "archives" / f"{NAME}.bad").stat().st_size == size


def test_bytes_other_than_the_published_are_kept_aside(server, dev, fan, tmp_path):
    server.plan[dev] = ["wrong"]
    message = failure(server, tmp_path)
    assert f"{NAME}: MD5" in message
    assert "rerun" in message
    bad, part = (tmp_path / "archives" / f"{NAME}.{end}" for end in ("bad", "part"))
    assert list(bad.parent.glob("[!.]*")) == [bad]
    part.write_bytes(bytes(100))
    assert "MD5" in failure(server, tmp_path)
    assert not (tmp_path / "fan").exists()
    part.write_bytes(bytes(len(server.content[dev]) + 1))  # longer than the file
    get(server, tmp_path)
    bad.unlink()
    require_whole(tmp_path, fan, "dev")


@pytest.mark.parametrize(
    ("answers", "waited"),
    [([(429, "7")], [7]), ([503, (503, "1"), 500, 502], [1, 4, 8])],
)
def test_a_busy_server_is_asked_again_after_the_time_it_asks_for(
    server, dev, fan, tmp_path, waits, answers, waited
):
    server.plan[dev] = answers
    get(server, tmp_path)
    assert waits == waited
    require_whole(tmp_path, fan, "dev")


def test_a_server_that_stays_busy_is_given_up(server, dev, tmp_path, waits):
    server.plan[dev] = [503] * 9
    message = failure(server, tmp_path)
    assert NAME in message
    assert "503" in message
    assert "rerun to resume" in message
    assert len(server.ranges(dev)) == 5
    waits.clear()
    in_an_hour = time.gmtime(time.time() + 3600)
    for wait in ("3600", time.strftime("%a, %d %b %Y %H:%M:%S GMT", in_an_hour)):
        server.plan[dev] = [(429, wait)]
        assert "is busy; rerun in 3" in failure(server, tmp_path)
    assert waits == []


def test_redirects_are_followed_when_resuming_too(server, dev, fan, tmp_path, waits):
    server.plan[dev] = ["redirect", "drop", "redirect"]
    get(server, tmp_path)
    require_whole(tmp_path, fan, "dev")
    assert server.ranges(dev)[-1].startswith("bytes=")


@pytest.mark.parametrize("status", [404, 403])
def test_a_refusal_is_one_line(server, dev, tmp_path, waits, status):
    server.plan[dev] = [status]
    message = failure(server, tmp_path)
    assert f"{NAME}: {status}" in message
    assert "--base-url" in message
    assert waits == []


def test_no_network_is_one_line(server, tmp_path, waits):
    server.url = "http://127.0.0.1:9"  # where nobody listens
    message = failure(server, tmp_path)
    assert NAME in message
    assert "check the network" in message
    assert len(waits) == 3  # before the third, fourth and fifth try
    server.url = "nonsense"
    assert "Invalid URL" in failure(server, tmp_path)


def test_ctrl_c_says_how_to_resume(server, dev, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "_append", interrupted)
    with pytest.raises(SystemExit) as stop:
        get(server, tmp_path)
    assert stop.value.code == 75
    assert "rerun the same command to resume" in capsys.readouterr().err


# archives that can't be trusted


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


def test_what_is_no_recording_stays_packed(server, fan, tmp_path):
    """Hidden files, receipts of other archives, programs."""
    others = (".bashrc", "archives/dev_data_pump.zip.json", "fan/train/.x.wav", "a.wav")
    content = fan["dev"] | dict.fromkeys(others, b"x")
    server.publish(DEV, NAME, zipped(content))
    get(server, tmp_path)
    require_whole(tmp_path, fan, "dev")
    assert not any((tmp_path / name).exists() for name in others)


def test_an_archive_that_grows_too_much_is_refused(server, tmp_path):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("fan/train/normal_id_00_00000000.wav", bytes(10**6))
    server.publish(DEV, NAME, data.getvalue())
    assert "claims 1,000,000 bytes of recordings" in failure(server, tmp_path)


def test_bytes_that_drip_are_a_stall(server, dev, tmp_path, waits, monkeypatch):
    monkeypatch.setattr(download, "STALL", 0.0)
    monkeypatch.setattr(download, "SLOWEST", 1e12)
    monkeypatch.setattr(download, "CHUNK", 100)
    assert "5 times" in failure(server, tmp_path)


def test_two_downloads_into_one_folder(server, dev, tmp_path):
    (tmp_path / "archives").mkdir()
    with owned(tmp_path / "archives" / ".lock", tmp_path):
        with pytest.raises(SystemExit) as stop:
            get(server, tmp_path)
        assert stop.value.code == InUse.exit_code


def test_links_are_not_followed_out_of_the_folder(server, dev, fan, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/fan").symlink_to(tmp_path / "elsewhere")
    assert "would lie outside" in failure(server, tmp_path / "out")
    assert not list((tmp_path / "elsewhere").iterdir())
    data = io.BytesIO(zipped(fan["dev"]))
    with zipfile.ZipFile(data, "a") as archive:
        link = zipfile.ZipInfo("fan/link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc")
    server.publish(DEV, NAME, data.getvalue())
    assert "would lie outside" in failure(server, tmp_path / "another")


def test_an_interrupted_unpacking_is_finished_and_good_files_are_kept(
    server, dev, fan, tmp_path, monkeypatch
):
    extract = download._extract
    names = sorted(fan["dev"])

    def interrupted(opened, info, out):
        if info.filename == names[2]:
            raise KeyboardInterrupt
        extract(opened, info, out)

    with monkeypatch.context() as patch:
        patch.setattr(download, "_extract", interrupted)
        with pytest.raises(SystemExit) as stop:
            get(server, tmp_path)
    assert stop.value.code == 75
    kept = list(tmp_path.glob("fan/*/*.wav"))
    assert 0 < len(kept) < len(names)
    times = {path: path.stat().st_mtime_ns for path in kept[1:]}
    kept[0].write_bytes(b"short")
    server.asked.clear()
    get(server, tmp_path)
    assert server.ranges(dev) == []  # the archive was kept
    require_whole(tmp_path, fan, "dev")
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_an_archive_with_a_damaged_file_is_named(server, fan, tmp_path):
    data = bytearray(zipped(fan["dev"]))
    data[200] ^= 255  # within the first file
    for content in (bytes(data), b"no zip at all"):
        server.publish(DEV, NAME, content)
        assert f"{NAME}: damaged" in failure(server, tmp_path)
        (tmp_path / "archives" / NAME).unlink()


# disks that misbehave


def test_lack_of_space_is_found_before_fetching(server, dev, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert "0.00 GB are free" in failure(server, tmp_path)
    assert server.ranges(dev) == []


def test_a_disk_that_fills_up_is_one_line(server, dev, fan, tmp_path, monkeypatch):
    append = download._append

    def full(*arguments):
        server.plan[dev] = ["drop"]
        append(*arguments)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(download, "_append", full)
        message = failure(server, tmp_path)
    assert "the disk is full; free some space" in message
    get(server, tmp_path)
    assert server.ranges(dev)[-1].startswith("bytes=")
    require_whole(tmp_path, fan, "dev")
