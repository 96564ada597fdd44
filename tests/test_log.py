import threading
import time

import pytest

from mimii_jax import log


def test_results_of_threads_keep_the_order_of_the_items():
    def work(item: int) -> int:
        time.sleep(0.02 if item == 0 else 0)
        return item * item

    assert log.in_threads("working", work, range(50)) == [i * i for i in range(50)]
    assert log.in_threads("working", work, []) == []


def test_threads_work_at_the_same_time():
    meeting = threading.Barrier(2, timeout=10)  # breaks unless two meet
    log.in_threads("working", lambda _: meeting.wait(), range(8))


def test_an_error_ends_the_work_of_threads():
    done = []

    def work(item: int) -> None:
        done.append(item)
        if item == 20:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        log.in_threads("working", work, range(10_000))
    assert len(done) < 10_000


def test_a_line_about_long_work_without_a_terminal(capsys, monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 0.0, 0.5, 1.0])
    monkeypatch.setattr(log.time, "perf_counter", lambda: next(clock))
    for _ in range(2):  # three seconds, and one
        with log.bar("reading", 5, "files") as advance:
            advance(5)
    captured = capsys.readouterr()
    assert captured.out == "reading: 5 files, 5 files/s, 3 s\n"
    assert captured.err == ""
