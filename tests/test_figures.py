"""Figures of a workdir."""

import csv
import itertools
import json
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from example_scores import some_scores
from matplotlib.text import Text

from mimii_jax.report import figures as module
from mimii_jax.report.figures import score_figures, write_figures
from mimii_jax.results.metrics import auc
from mimii_jax.results.per_id import evaluate
from mimii_jax.results.table import CONTROLS, NO_SEED, Scores, write_scores

IDS = {"00": (30, 40), "02": (30, 20), "04": (30, 9), "06": (0, 4, 2)}


def scores_of_a_run(machine_type, ids):
    runs = [some_scores(ids, seed=s, machine_type=machine_type) for s in (0, 1, 2)]
    for number, name in enumerate(CONTROLS):
        control = {"detector": name, "seed": NO_SEED, "machine_type": machine_type}
        runs.append(some_scores(ids, **control, rng=number))
    return Scores.concatenate(runs)


KINDS = {"slider": IDS, "ToyConveyor": {f"{i:02d}": (9, 9) for i in range(1, 7)}}


@pytest.fixture
def workdir(tmp_path):
    return make_workdir(tmp_path, KINDS)


def make_workdir(tmp_path, kinds):
    """A workdir of several machine types; the first has examples."""
    table = Scores.concatenate([scores_of_a_run(*kind) for kind in kinds.items()])
    write_scores(table, tmp_path / "scores.csv")
    with (tmp_path / "clips.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("machine_type", "split", "machine_id", "label", "name"))
        for row in table[table.detector == "rms_dbfs"].rows():
            _, _, machine_type, machine_id, label, name, *_ = row
            writer.writerow((machine_type, "test", machine_id, label, name))
            writer.writerow((machine_type, "train", machine_id, 0, f"train_{name}"))
    with (tmp_path / "metrics.jsonl").open("w") as file:
        for kind, epoch in itertools.product(kinds, range(1, 8)):
            line = {"machine_type": kind, "epoch": epoch, "seeds": [0, 1, 2]}
            line["train_loss"] = [100.0 / epoch**2, 101.0 / epoch**2, 99.0 / epoch**2]
            line["val_loss"] = [1 + loss for loss in line["train_loss"]]
            file.write(json.dumps(line) + "\n")
    clips = [
        f"{kind}/{machine_id}/{label}"
        for kind, ids in list(kinds.items())[:1]
        for machine_id in ids
        for label in ("normal", "anomalous")
        if (machine_id, label) != ("06", "normal")
    ]
    np.savez(
        tmp_path / "examples.npz",
        seconds_per_frame=0.032,
        frequency=np.linspace(30, 7900, 128),
        **{f"{clip}/{array}": x for clip in clips for array, x in example().items()},
    )
    return tmp_path


def example():
    """Arrays of an example clip; the first 40 frames aren't predicted."""
    features = np.random.default_rng(0).normal(size=(313, 128)).astype(np.float32)
    expected = np.where(np.arange(313)[:, None] < 40, np.nan, 0.9 * features)
    error = ((features - expected) / 2) ** 2
    seconds = np.linspace(1.3, 10, 50)
    track = np.exp(features[:50, 0])
    return {"features": features, "expected": expected, "error": error} | {
        "seconds": seconds,
        "track": track,
    }


@pytest.fixture
def drawn():
    """The figures that were saved, by the name of their file."""
    with remembered() as figures:
        yield figures


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """All figures of the workdir, drawn once."""
    with remembered() as figures:
        write_figures(make_workdir(tmp_path_factory.mktemp("figures"), KINDS))
        return figures


@contextmanager
def remembered():
    figures = {}

    def remember(figure, path):
        figures[path.stem] = figure
        figure.draw_without_rendering()
        path.touch()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "write_figure", remember)
        yield figures


OF_SCORES = ("clips", "labels", "roc", "scores", "training")
OF_EXAMPLES = ("spectrograms", "tracks", "predictions")


def test_every_figure_is_there_and_none_of_its_texts_overlap(figures):
    names = {f"{figure}_{kind}" for figure in OF_SCORES for kind in KINDS}
    assert set(figures) == names | {f"{figure}_slider" for figure in OF_EXAMPLES}
    for name, figure in figures.items():
        boxes = [
            (text.get_text(), text.get_window_extent())
            for text in figure.findobj(Text)
            if text.get_text().strip() and text.get_visible() and shown(text)
        ]
        assert len(boxes) > 8
        width, height = figure.canvas.get_width_height()
        for text, box in boxes:
            inside = min(box.x0, box.y0, width - box.x1, height - box.y1) >= 0
            assert inside, f"{name}: {text!r} is cut off"
        for (one, a), (other, b) in itertools.combinations(boxes, 2):
            wide = min(a.x1, b.x1) - max(a.x0, b.x0)
            high = min(a.y1, b.y1) - max(a.y0, b.y0)
            assert min(wide, high) <= 1, f"{name}: {one!r} and {other!r} overlap"


def test_the_error_is_that_of_the_frames_that_are_predicted(figures):
    figure = figures["predictions_slider"]
    panels = [axes for axes in figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels[:2]] == ["id 00, normal", "expected"]
    error = example()["error"][40:]
    assert panels[2].get_title() == f"error, mean {error.mean():.3g}"
    image = np.ma.filled(panels[2].images[0].get_array(), np.nan)
    np.testing.assert_allclose(image[:, 40:], error.T)
    assert np.all(np.isnan(image[:, :40]))


def test_raw_features_without_an_explanation_are_drawn_alone(tmp_path, drawn):
    x = example()["features"]
    arrays = {"seconds_per_frame": 0.1, "fan/00/normal/features": x}
    np.savez(tmp_path / "examples.npz", **arrays)
    assert [path.stem for path in write_figures(tmp_path)] == ["spectrograms_fan"]


@pytest.mark.slow
def test_figures_of_many_ids_show_the_first_and_say_so(tmp_path, drawn):
    ids = {f"{i:02d}": (3, 3) for i in range(80)}
    write_scores(some_scores(ids), tmp_path / "scores.csv")
    write_figures(tmp_path)
    assert drawn["roc_slider"].get_suptitle().endswith("first 12 of 80 IDs")
    assert len([axes for axes in drawn["roc_slider"].axes if axes.get_title()]) == 12


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
    for name in ("metrics.jsonl", "examples.npz", "clips.csv"):
        (workdir / name).unlink()
    written = write_figures(workdir)
    names = {f"{f}_{kind}.png" for f in ("roc", "scores") for kind in KINDS}
    assert {path.name for path in written} == names
    assert all(path.parent == workdir / "figures" for path in written)
    for path in written:
        assert path.read_bytes().startswith(b"\x89PNG")


def test_roc_shows_the_table_of_the_main_detector_and_the_split():
    scores = scores_of_a_run("slider", IDS)
    figures = dict(score_figures(scores))
    assert set(figures) == {"roc_slider", "scores_slider"}
    roc = figures["roc_slider"]
    assert roc.get_suptitle() == "slider: mlp_vae, all test clips"
    assert "mlp_vae, seed 0, all" in figures["scores_slider"].get_suptitle()
    rows = {(r.detector, r.machine_id): r for r in evaluate(scores, bootstrap=0)}
    panels = [axes for axes in roc.axes if axes.get_title()]
    assert len(panels) == 3  # Not id 06, which has no normal clips.
    for axes, machine_id in zip(panels, IDS, strict=False):
        row, control = (rows[name, machine_id] for name in ("mlp_vae", "rms_dbfs"))
        title = f"id {machine_id}: AUC {row.auc.mean:.3f}, pAUC {row.pauc.mean:.3f}"
        assert axes.get_title() == title
        curves = {line.get_label(): line for line in axes.lines}
        assert {*CONTROLS, "mlp_vae, mean", "each seed"} <= set(curves)
        x, y = curves["mlp_vae, mean"].get_data()
        assert np.trapezoid(y, x) == pytest.approx(row.auc.mean, abs=2e-3)
        x, y = curves["rms_dbfs"].get_data()
        assert np.trapezoid(y, x) == pytest.approx(control.auc.mean)


def test_bars_of_a_histogram_hold_every_clip_even_wild_ones():
    scores = some_scores({"00": (30, 40)})
    scores.score[-1], scores.score[0] = 1e9, -1e9
    figure = dict(score_figures(scores))["scores_slider"]
    for patch in figure.axes[0].patches:
        values, edges, _ = patch.get_data()
        assert values.sum() == pytest.approx(100)
        assert edges[-1] - edges[0] < 100


def test_figures_of_controls_alone_and_of_equal_scores(tmp_path, drawn):
    scores = some_scores({"00": (3, 3)}, detector="rms_dbfs", seed=NO_SEED)
    scores.score[:] = 2.5
    write_scores(scores, tmp_path / "scores.csv")
    write_figures(tmp_path)
    assert drawn["roc_slider"].get_suptitle() == "slider: rms_dbfs, all test clips"
    assert "AUC 0.500" in drawn["roc_slider"].axes[0].get_title()


def test_figures_of_a_split_show_its_clips(tmp_path, drawn):
    scores = some_scores({"00": (50, 50)}, seed=4)
    write_scores(scores, tmp_path / "scores.csv")
    write_figures(tmp_path, "validation")
    title = drawn["roc_slider"].axes[0].get_title()
    assert f"AUC {auc(scores.label, scores.score):.3f}" not in title
    assert "validation split, 40 %" in drawn["roc_slider"].get_suptitle()


def test_evaluation_and_figures_load_no_jax_and_use_no_global_state(workdir):
    script = (
        "import sys; from pathlib import Path; import mimii_jax.evaluate; "
        "from mimii_jax.report.figures import write_figures; "
        "assert write_figures(Path(sys.argv[1])); "
        "print({m.split('.')[0] for m in sys.modules} "
        "& {'jax', 'jaxlib', 'flax', 'ml_collections', 'orbax', 'librosa'}, "
        "'matplotlib.pyplot' in sys.modules)"
    )
    for name in ("examples.npz", "scores.csv"):
        (workdir / name).unlink()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, workdir],
        capture_output=True,
        text=True,
    )
    *_, last = done.stdout.splitlines()  # a slow machine has a line of the bar first
    assert (last, done.stderr) == ("set() False", "")
