"""The download, from a server that misbehaves."""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from records_server import (
    ADDITIONAL,
    DEV,
    EVAL,
    LABELS,
    LENGTH,
    NAME,
    failure,
    get,
    require_whole,
    zipped,
)
from wav_files import noise

from mimii_jax.data import dcase, fetch, records
from mimii_jax.data.layouts import read_labels

ROOT = Path(__file__).parents[1]


# what goes well


def test_a_new_user_gets_clips_that_can_be_read(server, dev, fan, tmp_path, capsys):
    out = tmp_path / "new" / "data"
    get(server, out)
    require_whole(out, fan, "dev")
    said = capsys.readouterr().out
    assert "MD5 as in the record; 8 clips, id (train + test): 00 (4 + 4)" in said
    assert f"python -m mimii_jax.data.dcase {out}" in said
    assert f"--config.data.root={out} --config.data.machine_types=\"('fan',)\"" in said
    assert len(dcase.read(out, "fan")) == 8


def test_other_files_in_an_archive_do_no_harm(server, fan, tmp_path):
    more = {"readme.txt": b"x", "__MACOSX/fan/train/._normal_id_00_00000000.wav": b"x"}
    server.publish(DEV, NAME, zipped({**more, **fan["dev"]}))
    get(server, tmp_path)
    assert len(dcase.read(tmp_path, "fan")) == 8


def test_what_is_there_is_not_asked_for_again(server, dev, fan, tmp_path, capsys):
    get(server, tmp_path)
    server.asked.clear()
    get(server, tmp_path)
    assert server.asked == []
    assert "there already" in capsys.readouterr().out
    (tmp_path / "fan/train/normal_id_00_00000000.wav").unlink()
    get(server, tmp_path)
    require_whole(tmp_path, fan, "dev")


def test_several_splits_come_into_one_folder_with_the_labels(
    server, dev, fan, tmp_path, monkeypatch
):
    small = {"eval_data_test_fan.zip": {"01": (0, 0, 0, 4)}}
    monkeypatch.setattr(records, "COUNTS", small)
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


def test_every_machine_and_split_has_a_file_once():
    files = records.wanted(records.MACHINES, tuple(records.RECORDS))
    assert len(files) == 3 * 6 + 1
    assert {file.record for file in files} == {DEV, ADDITIONAL, EVAL, LABELS}
    assert "eval_data_test_ToyConveyor.zip" in {file.name for file in files}
    for name in (*records.COUNTS, *records.SIZES):
        assert name in {file.name for file in files}


def test_how_much_will_come_is_said_beforehand(server, dev, tmp_path, capsys):
    get(server, tmp_path)
    assert capsys.readouterr().out.startswith("1 files: 1.35 GB\n")
    sources = records.wanted(("slider",), ("dev", "eval"))
    assert records.amount(sources) == (
        "3 files: 1.00 GB and eval_data_test_slider.zip of a size that the record says"
    )


def test_the_evaluation_has_the_clips_of_its_list_of_labels(published_labels):
    assert published_labels.stat().st_size == records.SIZES["eval_data_list.csv"]
    clips = Counter(
        (machine, name.split("_")[1]) for machine, name in read_labels(published_labels)
    )
    known = {
        (machine, i): counts
        for machine in records.MACHINES
        for i, counts in records.COUNTS[f"eval_data_test_{machine}.zip"].items()
    }
    assert known == {key: (0, 0, 0, n) for key, n in clips.items()}


# servers that misbehave


def test_a_broken_connection_is_resumed(server, dev, fan, tmp_path, waits):
    server.plan[dev] = ["drop", "drop"]
    get(server, tmp_path)
    require_whole(tmp_path, fan, "dev")
    first, *rest = (asked.strip("bytes=-") for asked in server.ranges(dev))
    size = len(server.content[dev])
    assert first == ""
    assert size / 3 < int(rest[0]) <= size / 2 < int(rest[1]) <= size * 3 / 4
    assert waits == [1, 2]


def test_a_partial_file_of_an_earlier_call_is_resumed(
    server, dev, fan, tmp_path, waits
):
    server.plan[dev] = ["drop"] * 5
    message = failure(server, tmp_path)
    assert "the connection broke off; tried 5 times" in message
    assert "start the same command again" in message
    assert len(waits) == 4
    part = tmp_path / "archives" / f"{NAME}.part"
    have = part.stat().st_size
    assert part.read_bytes() == server.content[dev][:have]
    server.asked.clear()
    get(server, tmp_path)
    assert server.ranges(dev) == [f"bytes={have}-"]
    require_whole(tmp_path, fan, "dev")


def test_a_server_that_ignores_ranges_sends_all_again(
    server, dev, fan, tmp_path, waits
):
    server.plan[dev] = ["drop", "no range"]
    get(server, tmp_path)
    require_whole(tmp_path, fan, "dev")


def test_another_range_than_was_asked_for_is_not_used(
    server, dev, fan, tmp_path, waits
):
    server.plan[dev] = ["drop", "elsewhere"]
    get(server, tmp_path)
    require_whole(tmp_path, fan, "dev")
    assert server.ranges(dev)[-1] == ""  # all of it, after the one that did not fit


def test_no_more_is_kept_than_was_announced(server, dev, tmp_path):
    size = len(server.content[dev]) - 1000
    server.listed[DEV][0]["size"] = size
    server.publish(DEV, "other.zip", b"")  # writes the list anew
    assert "wrong checksum" in failure(server, tmp_path)
    assert (tmp_path / "archives" / f"{NAME}.bad").stat().st_size == size


def test_an_answer_that_ends_early_is_gone_on_with(server, dev, fan, tmp_path, waits):
    server.plan[dev] = ["short"]
    get(server, tmp_path)
    require_whole(tmp_path, fan, "dev")
    assert len(server.ranges(dev)) == 2


def test_wrong_bytes_are_kept_aside_and_not_unpacked(server, dev, fan, tmp_path):
    server.plan[dev] = ["wrong"]
    message = failure(server, tmp_path)
    assert f"{NAME}: wrong checksum" in message
    assert "start the same command again" in message
    assert [path.name for path in (tmp_path / "archives").iterdir()] == [f"{NAME}.bad"]
    assert not (tmp_path / "fan").exists()
    get(server, tmp_path)
    (tmp_path / "archives" / f"{NAME}.bad").unlink()
    require_whole(tmp_path, fan, "dev")


def test_a_wrong_beginning_is_found_out(server, dev, fan, tmp_path):
    part = tmp_path / "archives" / f"{NAME}.part"
    part.parent.mkdir()
    part.write_bytes(bytes(100))
    assert "wrong checksum" in failure(server, tmp_path)
    part.write_bytes(bytes(len(server.content[dev]) + 1))  # longer than it can be
    get(server, tmp_path)


@pytest.mark.parametrize(("status", "wait", "waited"), [(429, "7", 7), (503, None, 1)])
def test_a_busy_server_is_asked_again_after_the_time_it_says(
    server, dev, fan, tmp_path, waits, status, wait, waited
):
    server.plan[dev] = [(status, wait)]
    server.plan[f"/api/records/{DEV}"] = [(status, wait)]
    get(server, tmp_path)
    assert waits == [waited, waited]
    require_whole(tmp_path, fan, "dev")


def test_a_server_that_stays_busy_is_given_up(server, dev, tmp_path, waits):
    server.plan[dev] = [503] * 9
    assert "the server is busy (503); tried 5 times" in failure(server, tmp_path)
    assert len(server.ranges(dev)) == 5
    server.plan[dev] = [(429, "3600")]
    assert "asks to come back in 3600 s" in failure(server, tmp_path)
    in_an_hour = time.strftime(
        "%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3600)
    )
    server.plan[dev] = [(429, in_an_hour)]
    assert "asks to come back in 3" in failure(server, tmp_path)
    assert len(waits) == 4


def test_redirects_are_followed_when_resuming_too(server, dev, fan, tmp_path, waits):
    server.plan[dev] = ["redirect", "drop", "redirect"]
    get(server, tmp_path)
    require_whole(tmp_path, fan, "dev")
    assert server.ranges(dev)[-1].startswith("bytes=")


def test_what_is_not_there_is_one_line(server, dev, tmp_path, waits):
    message = failure(server, tmp_path, machine="valve")
    assert f"records/{DEV}: has no file dev_data_valve.zip, but {NAME}" in message
    message = failure(server, tmp_path, split=("additional",))
    assert f"records/{ADDITIONAL}: not there (404); look at --base-url" in message
    server.plan[dev] = [404]
    assert f"{NAME}?download=1: not there (404)" in failure(server, tmp_path)
    server.plan[dev] = [403]
    assert "the server answers 403" in failure(server, tmp_path)
    server.content[f"/api/records/{DEV}"] = b"<html>"
    assert "is not the description of a record" in failure(server, tmp_path)
    assert waits == []


def test_no_network_is_one_line(server, tmp_path, waits):
    server.url = "http://127.0.0.1:9"  # where nobody listens
    assert "no connection; tried 5 times" in failure(server, tmp_path)
    server.url = "nonsense"
    assert "Invalid URL" in failure(server, tmp_path)


def test_interrupted_while_fetching_says_how_to_go_on(
    server, dev, fan, tmp_path, monkeypatch, capsys
):
    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetch, "_append", interrupted)
        with pytest.raises(SystemExit) as stop:
            get(server, tmp_path)
    assert stop.value.code == 130
    assert "the same command goes on" in capsys.readouterr().err


def test_the_command_in_a_process_of_its_own(server, dev, fan, tmp_path):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mimii_jax.data.download"),
            *("--machine", "fan", "--split", "dev", "--out", tmp_path),
            *("--base-url", server.url),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "dev_data_fan.zip: MD5 as in the record; 8 clips" in done.stdout
    assert done.stderr == ""
    audio = dcase.read(tmp_path, "fan").audio
    np.testing.assert_array_equal(audio[0], noise(0, LENGTH))
