import threading
import time
from types import SimpleNamespace

import pytest

from mimii_jax.data import threads


def test_results_keep_the_order_of_the_items():
    def work(item: int) -> int:
        time.sleep(0.02 if item == 0 else 0)
        return item * item

    items = list(range(50))
    expected = [item * item for item in items]
    assert threads.in_parallel(work, items, 3, "working", False) == expected
    assert threads.in_parallel(work, [], 0, "working", True) == []


def test_the_work_is_shared_by_as_many_threads_as_asked():
    meeting = threading.Barrier(3, timeout=10)  # breaks unless three come together

    def work(item: int) -> None:
        if item % 16 == 0:
            meeting.wait()

    threads.in_parallel(work, range(48), 3, "working", False)


def test_an_error_ends_the_work():
    done = []

    def work(item: int) -> None:
        done.append(item)
        if item == 20:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        threads.in_parallel(work, range(10_000), 1, "working", False)
    assert len(done) < 10_000


def test_a_plain_line_tells_of_long_work_without_a_terminal(capsys, monkeypatch):
    clock = iter([0.0, 3.0, 0.0, 1.0])
    fake = SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr(threads, "time", fake)
    for _ in range(2):  # of three seconds, and of one
        threads.in_parallel(str, range(5), 1, "reading", True)
    captured = capsys.readouterr()
    assert captured.err == "reading: 5 files in 3 s\n"
    assert captured.out == ""
