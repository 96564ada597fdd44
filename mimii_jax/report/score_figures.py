"""ROC curves and histograms of anomaly scores, a panel per machine ID; no JAX."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import roc_curve

from mimii_jax.results.metrics import auc
from mimii_jax.results.official import MAX_FPR
from mimii_jax.results.table import CONTROLS, NO_SEED, Scores

# Okabe and Ito's colours, which the colour-blind can tell apart.
BLUE, VERMILION, GREEN, YELLOW = "#0072B2", "#D55E00", "#009E73", "#F0E442"
GREY = "#888888"
BINS = 30


def score_figures(scores: Scores, part: str) -> Iterator[tuple[str, Figure]]:
    """Names and figures per machine type, of the IDs that have clips of both classes.

    `part` says in the titles which clips these are.
    """
    for machine_type in scores.machine_types:
        of_type = scores[(scores.machine_type == machine_type) & (scores.label >= 0)]
        per_id = [
            of_type[of_type.machine_id == machine_id] for machine_id in of_type.ids
        ]
        per_id = [of_id for of_id in per_id if len(set(of_id.label.tolist())) == 2]
        if per_id:
            main = _main_detector(of_type)
            roc, histogram = _panels(per_id, _roc), _panels(per_id, _histogram)
            roc.suptitle(f"{machine_type}: {main}, {part}")
            yield f"roc_{machine_type}", roc
            seed = min(of_type.seed[of_type.detector == main])
            shown = main if seed == NO_SEED else f"{main}, seed {seed}"
            histogram.suptitle(f"{machine_type}: {shown}, {part}")
            yield f"scores_{machine_type}", histogram


def _main_detector(scores: Scores) -> str:
    """The first detector that is not a control, if there is one."""
    learned = [name for name in scores.detectors if name not in CONTROLS]
    return (learned or scores.detectors)[0]


def _panels(per_id: list[Scores], draw: Callable[[Axes, Scores], None]) -> Figure:
    """A panel per ID, with one legend below."""
    columns = 2 if len(per_id) == 4 else min(3, len(per_id))
    rows = -(-len(per_id) // columns)
    size = (max(5.6, 3.5 * columns), 3.6 * rows + 0.9)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.1))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, of_id in zip(panels, per_id, strict=False):
        draw(axes, of_id)
    for axes in panels[len(per_id) :]:
        axes.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=2 if columns == 1 else 3,
        frameon=False,
    )
    return figure


def _runs(
    of_id: Scores, detector: str
) -> list[tuple[Int[np.ndarray, " clip"], Float[np.ndarray, " clip"]]]:
    """Label and score of this detector's clips, for each seed."""
    of = of_id[of_id.detector == detector]
    return [(of.label[of.seed == seed], of.score[of.seed == seed]) for seed in of.seeds]


def _roc(axes: Axes, of_id: Scores) -> None:
    """ROC of the main detector, its mean and each seed, over those of the controls."""
    main = _main_detector(of_id)
    axes.axvspan(0, MAX_FPR, color=YELLOW, alpha=0.35, lw=0, label="region of pAUC")
    axes.plot([0, 1], [0, 1], color=GREY, lw=0.6)
    others = [name for name in CONTROLS if name in of_id.detectors and name != main]
    for detector, style in zip(others, ("-", "--", "-.", ":"), strict=False):
        fpr, tpr, _ = roc_curve(*_runs(of_id, detector)[0])
        axes.plot(fpr, tpr, style, color=GREY, lw=1, label=detector)

    runs = _runs(of_id, main)
    grid = np.linspace(0, 1, 1001)
    curves = []
    for run in runs:
        fpr, tpr, _ = roc_curve(*run)
        curves.append(np.interp(grid, fpr, tpr))
        if len(runs) > 1:
            (line,) = axes.plot(fpr, tpr, color=BLUE, lw=0.8, alpha=0.45)
            line.set_label("each seed" if len(curves) == 1 else "")
    name = f"{main}, mean" if len(runs) > 1 else main
    # From the corner: the interpolation starts at the top of a first vertical step.
    mean = np.r_[0, np.mean(curves, axis=0)]
    axes.plot(np.r_[0, grid], mean, color=BLUE, lw=2, label=name)
    whole, part = (
        np.mean([auc(*run, limit) for run in runs]) for limit in (1.0, MAX_FPR)
    )
    axes.set_title(f"id {of_id.ids[0]}: AUC {whole:.3f}, pAUC {part:.3f}", fontsize=10)
    axes.set(xlabel="false positive rate", ylabel="true positive rate")
    axes.set(xlim=(-0.01, 1), ylim=(0, 1.01), aspect="equal")


def _histogram(axes: Axes, of_id: Scores) -> None:
    """Scores of normal and of anomalous clips, of the main detector's first seed."""
    label, score = _runs(of_id, _main_detector(of_id))[0]
    # A few wild clips would otherwise squeeze all others into one bar.
    lower, upper = np.percentile(score, [25, 75])
    low = max(score.min(), lower - 3 * (upper - lower))
    high = min(score.max(), upper + 3 * (upper - lower))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    for name, value, colour in (("normal", 0, BLUE), ("anomalous", 1, VERMILION)):
        counts, _ = np.histogram(np.clip(score[label == value], low, high), edges)
        share = 100 * counts / counts.sum()
        axes.stairs(share, edges, fill=True, color=colour, alpha=0.3)
        axes.stairs(share, edges, color=colour, lw=1.4, label=name)
    axes.set_title(f"id {of_id.ids[0]}", fontsize=10)
    axes.set_xlabel("anomaly score (end bars: and beyond)", fontsize=9)
    axes.set_ylabel("% of the clips of each kind", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.spines[["top", "right"]].set_visible(False)
