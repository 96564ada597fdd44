"""Tables and figures of results."""

import csv
import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from example_scores import some_scores
from matplotlib.figure import Figure
from matplotlib.text import Text
from rich.console import Console
from rich.measure import Measurement

from mimii_jax.report.figures import write_figures
from mimii_jax.report.score_figures import score_figures
from mimii_jax.report.tables import markdown_table, results_table
from mimii_jax.results.metrics import Estimate, auc
from mimii_jax.results.per_id import AVERAGE, POOLED, Row, evaluate
from mimii_jax.results.table import CONTROLS, NO_SEED, Scores, write_scores

IDS = {"00": (30, 40), "02": (30, 20), "04": (30, 9), "06": (0, 4, 2)}


def scores_of_a_run(machine_type, ids):
    runs = [some_scores(ids, seed=s, machine_type=machine_type) for s in (0, 1, 2)]
    for number, name in enumerate(CONTROLS):
        control = {"detector": name, "seed": NO_SEED, "machine_type": machine_type}
        runs.append(some_scores(ids, **control, rng=number))
    return Scores.concatenate(runs)


@pytest.fixture
def workdir(tmp_path):
    """What a run leaves behind, of two machine types."""
    kinds = {"slider": IDS, "ToyConveyor": {f"{i:02d}": (9, 9) for i in range(1, 7)}}
    table = Scores.concatenate([scores_of_a_run(*kind) for kind in kinds.items()])
    write_scores(table, tmp_path / "scores.csv")
    with (tmp_path / "clips.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("machine_type", "split", "machine_id", "label", "name"))
        one = table[(table.detector == "level")]
        for row in zip(
            one.machine_type, one.machine_id, one.label, one.name, strict=True
        ):
            writer.writerow((row[0], "test", *row[1:]))
            writer.writerow((row[0], "train", row[1], 0, f"train_{row[3]}"))
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for kind, epoch in itertools.product(kinds, range(1, 8)):
            line = {"machine_type": kind, "epoch": epoch, "seeds": [0, 1, 2]}
            line["train_loss"] = [100.0 / epoch**2, 101.0 / epoch**2, 99.0 / epoch**2]
            line["validation_loss"] = [1 + loss for loss in line["train_loss"]]
            file.write(json.dumps(line) + "\n")
    pictures = {
        f"{kind}/{machine_id}/{label}": np.random.default_rng(0)
        .normal(size=(313, 128))
        .astype(np.float32)
        for kind, ids in kinds.items()
        for machine_id in ids
        for label in ("normal", "anomalous")
        if (machine_id, label) != ("06", "normal")
    }
    tracks = {
        key: np.stack([np.linspace(0, 10, 50), np.exp(picture[:50, 0])])
        for key, picture in pictures.items()
    }
    np.savez(tmp_path / "tracks.npz", **tracks)
    frequency = np.linspace(30, 7900, 128)
    np.savez(
        tmp_path / "examples.npz",
        seconds_per_frame=0.032,
        frequency=frequency,
        **pictures,
    )
    predicted = {name: 0.9 * picture for name, picture in pictures.items()}
    for picture in predicted.values():
        picture[:40] = np.nan  # frames that are not predicted
    scales = {f"{kind}/scale": np.full(128, 2.0, np.float32) for kind in kinds}
    np.savez(tmp_path / "predictions.npz", **predicted, **scales)
    return tmp_path


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, by the name of their file."""
    figures = {}

    def remember(figure, path, **options):
        figures[path.stem] = figure
        figure.draw_without_rendering()
        path.touch()

    monkeypatch.setattr(Figure, "savefig", remember)
    return figures


FIGURES = (
    "clips",
    "labels",
    "spectrograms",
    "tracks",
    "predictions",
    "roc",
    "scores",
    "training",
)


def test_every_figure_is_there_and_none_of_its_texts_overlap(workdir, drawn):
    written = write_figures(workdir)
    names = {
        f"{figure}_{kind}" for figure in FIGURES for kind in ("slider", "ToyConveyor")
    }
    assert {path.stem for path in written} == set(drawn) == names
    assert all(path.parent == workdir / "figures" for path in written)
    for name, figure in drawn.items():
        boxes = [
            (text.get_text(), text.get_window_extent())
            for text in figure.findobj(Text)
            if text.get_text().strip() and text.get_visible() and shown(text)
        ]
        assert len(boxes) > 8
        width, height = figure.canvas.get_width_height()
        for text, box in boxes:
            inside = (
                box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
            )
            assert inside, f"{name}: {text!r} is cut off"
        for (one, a), (other, b) in itertools.combinations(boxes, 2):
            overlap = (
                min(a.x1, b.x1) - max(a.x0, b.x0) > 1
                and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
            )
            assert not overlap, f"{name}: {one!r} and {other!r} overlap"


def test_the_error_is_of_the_frames_that_are_predicted(workdir, drawn):
    """In units of the scale, squared: by hand from the files."""
    write_figures(workdir)
    figure = drawn["predictions_slider"]
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels[:2]] == ["id 00, normal", "model"]
    with np.load(workdir / "examples.npz") as file:
        original = file["slider/00/normal"]
    away = (0.1 * original[40:] / 2) ** 2
    assert panels[2].get_title() == f"error, mean {away.mean():.3g}"
    image = np.ma.filled(panels[2].images[0].get_array(), np.nan)
    np.testing.assert_allclose(image[:, 40:], away.T, rtol=1e-4)
    assert np.all(np.isnan(image[:, :40]))


def shown(text):
    """Whether the text is drawn: matplotlib keeps tick labels beyond the limits."""
    for axes in text.figure.axes if text.figure else []:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if text in (tick.label1, tick.label2):
                    slack = 1e-9 * (high - low)
                    return low - slack <= tick.get_loc() <= high + slack
    return True


def test_figures_without_a_source_are_left_out(workdir):
    for name in (
        "metrics.jsonl",
        "predictions.npz",
        "examples.npz",
        "tracks.npz",
        "clips.csv",
    ):
        (workdir / name).unlink()
    written = write_figures(workdir)
    names = {
        f"{f}_{kind}.png"
        for f in ("roc", "scores")
        for kind in ("slider", "ToyConveyor")
    }
    assert {path.name for path in written} == names
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_roc_shows_the_table_of_the_main_detector_and_the_part():
    scores = scores_of_a_run("slider", IDS)
    figures = dict(score_figures(scores, "test part"))
    assert set(figures) == {"roc_slider", "scores_slider"}
    roc = figures["roc_slider"]
    assert roc.get_suptitle() == "slider: mlp_vae, test part"
    assert (
        figures["scores_slider"].get_suptitle() == "slider: mlp_vae, seed 0, test part"
    )
    rows = {
        (row.detector, row.machine_id): row for row in evaluate(scores, bootstrap=0)
    }
    panels = [axes for axes in roc.axes if axes.get_title()]
    assert len(panels) == 3  # Not id 06, which has no normal clips.
    for axes, machine_id in zip(panels, IDS, strict=False):
        row = rows["mlp_vae", machine_id]
        assert row.auc
        assert row.pauc
        title = f"id {machine_id}: AUC {row.auc.mean:.3f}, pAUC {row.pauc.mean:.3f}"
        assert axes.get_title() == title
        curves = {line.get_label(): line for line in axes.lines}
        assert {*CONTROLS, "mlp_vae, mean", "each seed"} <= set(curves)
        x, y = curves["mlp_vae, mean"].get_data()
        assert np.trapezoid(y, x) == pytest.approx(row.auc.mean, abs=2e-3)
        level = rows["level", machine_id].auc
        assert level
        x, y = curves["level"].get_data()
        assert np.trapezoid(y, x) == pytest.approx(level.mean)


def test_bars_of_a_histogram_hold_every_clip_even_wild_ones():
    scores = some_scores({"00": (30, 40)})
    scores.score[-1], scores.score[0] = 1e9, -1e9
    figure = dict(score_figures(scores, ""))["scores_slider"]
    for patch in figure.axes[0].patches:
        values, edges, _ = patch.get_data()
        assert values.sum() == pytest.approx(100)
        assert edges[-1] - edges[0] < 100


def test_figures_of_controls_alone_and_of_equal_scores(tmp_path, drawn):
    scores = some_scores({"00": (3, 3)}, detector="level", seed=NO_SEED)
    scores.score[:] = 2.5
    write_scores(scores, tmp_path / "scores.csv")
    write_figures(tmp_path)
    assert drawn["roc_slider"].get_suptitle() == "slider: level, all test clips"
    assert "AUC 0.500" in drawn["roc_slider"].axes[0].get_title()


def test_part_shows_fewer_clips(tmp_path, drawn):
    scores = some_scores({"00": (50, 50)}, seed=4)
    write_scores(scores, tmp_path / "scores.csv")
    write_figures(tmp_path, part="validation", seed=1)
    title = drawn["roc_slider"].axes[0].get_title()
    assert f"AUC {auc(scores.label, scores.score):.3f}" not in title
    assert "validation part, 40 %" in drawn["roc_slider"].get_suptitle()


def test_evaluation_and_figures_load_no_jax_and_use_no_global_state(workdir):
    script = (
        "import sys; from pathlib import Path; import mimii_jax.evaluate; "
        "from mimii_jax.report.figures import write_figures; "
        "assert write_figures(Path(sys.argv[1])); "
        "print({m.split('.')[0] for m in sys.modules} "
        "& {'jax', 'jaxlib', 'flax', 'ml_collections', 'orbax', 'librosa'}, "
        "'matplotlib.pyplot' in sys.modules)"
    )
    for name in ("predictions.npz", "examples.npz", "scores.csv"):
        (workdir / name).unlink()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, workdir],
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("set() False\n", "")


# Tables


def row(machine_id, mean=0.95375, sd=0.0123, detector="mlp_vae", note=""):
    estimate = None if note else Estimate(mean, sd, mean - 0.02, mean + 0.03)
    return Row(
        detector, "slider", machine_id, estimate, estimate, 100, 356, (0, 1), note
    )


def printed(table):
    console = Console(width=80, record=True, quiet=True)
    console.quiet = False
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def test_terminal_table_shows_mean_sd_interval_and_notes():
    rows = [
        row("00"),
        row("06", note="anomalous clips only: no AUC"),
        row(AVERAGE, 1.0, 0.0),
        row("00", sd=None, detector="[bold]level"),
    ]
    text = printed(results_table(rows, "slider: all [clips]"))
    assert "slider: all [clips]" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "00 .954 ±.012 .934-.984 .954 ±.012 .934-.984 100+356" in lines
    assert "06 - - 100+356" in lines
    assert "average 1.000 ±.000 .980-1.030 1.000 ±.000 .980-1.030 100+356" in lines
    assert "00 .954 .934-.984 .954 .934-.984 100+356" in lines
    assert "[bold]level 2 seeds" in lines
    assert "06: anomalous clips only: no AUC" in lines


def test_terminal_table_fits_80_columns_at_its_widest():
    estimate = Estimate(1.0, 0.0, 1.0, 1.0)
    rows = [
        Row(name, "slider", place, estimate, estimate, 1000, 1000, (0, 1, 2), "")
        for name in ("zero_crossings", "isolation_forest")
        for place in ("00", AVERAGE, POOLED)
    ]
    console = Console(width=200)
    table = results_table(rows, "slider: validation part, 40 % of the test clips")
    assert Measurement.get(console, console.options, table).maximum <= 80


def test_markdown_table_has_a_line_per_detector():
    rows = [row("00"), row("02", note="normal clips only: no AUC"), row(AVERAGE, 0.7)]
    rows += [row(POOLED, 0.66)]
    controls = [row(name, 0.5, None, "level") for name in ("00", AVERAGE, POOLED)]
    assert markdown_table(rows + controls) == (
        "| detector | AUC 00 | AUC 02 | AUC average (95 %) | pAUC average (95 %) "
        "| AUC pooled |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| mlp_vae | .954 ±.012 | - | .700 ±.012 (.680-.730) "
        "| .700 ±.012 (.680-.730) | .660 ±.012 |\n"
        "| level | .500 |  | .500 (.480-.530) | .500 (.480-.530) | .500 |\n"
    )
