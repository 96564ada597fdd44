"""Tables of `accelerator.json`, in Markdown."""

from collections.abc import Mapping
from typing import Any

from mimii_jax.report.tables import markdown

Column = tuple[str, str, float, str]  # head, field, factor, format
COLUMNS: dict[str, list[Column]] = {
    "training": [
        ("examples/s per run", "examples_per_second_per_run", 1, ",.0f"),
        ("examples/s", "examples_per_second", 1, ",.0f"),
        ("x one by one", "speed_up", 1, ".2f"),
        ("step, ms", "step_seconds", 1e3, ",.2f"),
        ("epoch, s", "epoch_seconds", 1, ",.2f"),
        ("training, s", "training_seconds", 1, ",.1f"),
        ("of peak, %", "share_of_peak", 100, ".1f"),
        ("TFLOP/s", "flop_per_second", 1e-12, ",.3f"),
        ("program, GB", "program_bytes", 1e-9, ",.2f"),
        ("peak, GB", "peak_bytes", 1e-9, ",.2f"),
        ("same bits", "same_bits", 1, ""),
        ("compiling, s", "compile_seconds", 1, ".1f"),
    ],
    "scoring": [
        ("clips/s", "clips_per_second", 1, ",.0f"),
        ("1,101 clips, s", "slider_seconds", 1, ",.2f"),
        ("peak, GB", "peak_bytes", 1e-9, ",.2f"),
        ("compiling, s", "compile_seconds", 1, ".1f"),
    ],
    "front_ends": [
        ("clips/s", "clips_per_second", 1, ",.0f"),
        ("clips/s on the device", "on_device_clips_per_second", 1, ",.0f"),
        ("compiling, s", "compile_seconds", 1, ".1f"),
    ],
    "backends": [
        ("bank", "clips", 1, ","),
        ("columns", "columns", 1, ","),
        ("fit, s", "fit_seconds", 1, ",.2f"),
        ("clips/s", "clips_per_second", 1, ",.0f"),
        ("compiling, s", "compile_seconds", 1, ".1f"),
    ],
}
KEYS = ("model", "precision", "runs", "front_end", "backend")


def tables(found: Mapping[str, Any]) -> str:
    """Everything in Markdown."""
    parts = []
    one_by_one = {
        (row["model"], row["precision"]): row["examples_per_second"]
        for row in found["training"]
        if row["runs"] == 1 and "error" not in row
    }
    for part, columns in COLUMNS.items():
        heads = [head for head, *_ in columns]
        lines = []
        for row in found[part]:
            about = " ".join(str(row[key]) for key in KEYS if key in row)
            alone = one_by_one.get((row.get("model"), row.get("precision")))
            if row.get("runs", 1) > 1 and alone and "error" not in row:
                row = row | {"speed_up": row["examples_per_second"] / alone}
            cells = [_cell(row, *column[1:]) for column in columns]
            if "error" in row:
                cells = [row["error"], *[""] * (len(columns) - 1)]
            lines.append([about, *cells])
        title = part.replace("_", " ").replace("backends", "back-ends")
        parts.append(markdown([title, *heads], lines))
    about = f"`{found['command']}`\n\n{_where(found)}\n"
    return "\n".join([about, *parts])


def _where(found: Mapping[str, Any]) -> str:
    device, host = found["device"], found["host"]
    packages = ", ".join(f"{k} {v}" for k, v in found["versions"].items() if v)
    return (
        f"{device['kind']} ({device['platform']}); {host['processor']}, "
        f"{host['cores']} cores, load {host['load']:.1f}; size {found['size']}; "
        f"{packages}"
    )


def _cell(row: Mapping[str, Any], field: str, factor: float, form: str) -> str:
    value = row.get(field)
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return "-" if value is None else format(factor * value, form)
