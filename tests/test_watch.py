"""What a user sees while a run works, and what is kept of it."""

import io
import json

from rich.console import Console

from mimii_jax.watch import Watch


def test_a_bar_on_a_terminal_ends_with_its_rate():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Watch(console=console).bar("scoring", 8) as advance:
        advance(3)
        advance(5, "loss 2, ")
    text = console.file.getvalue()
    assert "8/8" in text
    assert "loss 2, " in text
    assert "clips/s" in text


def test_records_are_json_lines_with_their_context(tmp_path):
    watch = Watch(tmp_path / "metrics.jsonl", Console(file=io.StringIO()))
    watch.context = {"machine_type": "fan"}
    watch.record(epoch=1, loss=[0.5])
    watch.record(epoch=2)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"machine_type": "fan", "epoch": 1, "loss": [0.5]}
    assert json.loads(lines[1]) == {"machine_type": "fan", "epoch": 2}
