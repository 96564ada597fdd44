"""Progress bars, metrics.jsonl, and the request to stop."""

import io
import json

import pytest
from rich.console import Console

from mimii_jax import log


def test_a_bar_on_a_terminal_ends_with_its_rate(monkeypatch):
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(log, "console", console)
    with log.bar("scoring", 8) as advance:
        advance(3)
        advance(5, "loss 2, ")
    text = console.file.getvalue()
    assert "8/8" in text
    assert "loss 2, " in text
    assert "clips/s" in text


def test_results_of_threads_are_in_order():
    assert log.in_threads("squaring", lambda x: x * x, range(50)) == [
        x * x for x in range(50)
    ]


def test_threads_of_a_silent_one_are_silent(capsys):
    with log.silent():
        log.in_threads("saying", log.info, ["a", "b"])
    assert capsys.readouterr().out == ""


def test_an_error_in_a_thread_is_raised():
    with pytest.raises(ZeroDivisionError):
        log.in_threads("dividing", lambda x: 1 / x, range(3))


def test_records_are_json_lines_and_rewinding_drops_later_steps(tmp_path):
    path = tmp_path / "metrics.jsonl"
    log.open_metrics(path, {"machine_type": "valve"})
    log.record(epoch=9, step=9)
    log.open_metrics(path, {"machine_type": "fan"})
    for step in (1, 2, 3):
        log.record(step=step, loss=[0.5])
    log.rewind(2)
    log.close_metrics()
    log.record(step=5)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows == [
        {"machine_type": "valve", "epoch": 9, "step": 9},
        {"machine_type": "fan", "step": 1, "loss": [0.5]},
        {"machine_type": "fan", "step": 2, "loss": [0.5]},
    ]


def test_a_stop_waits_for_a_training_but_not_the_second_time():
    def training():
        with log.deferred_stop():
            assert not log.stop_requested()
            log.request_stop()
            assert log.stop_requested()
            log.request_stop()

    for work in (log.request_stop, training):
        with pytest.raises(log.Interrupted):
            work()


def test_a_stop_at_the_end_of_an_epoch_is_seen_in_the_next():
    def next_epoch():
        with log.deferred_stop():
            assert log.stop_requested()
            raise log.Interrupted

    with log.deferred_stop():
        log.request_stop()
    with pytest.raises(log.Interrupted):
        next_epoch()
    with log.deferred_stop():
        assert not log.stop_requested()
