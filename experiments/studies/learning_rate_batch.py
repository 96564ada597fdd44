"""Which learning rate and batch size, after 5 epochs?

The report tried three of each and kept .001 and 200, since 100 was slightly better at
about twice the time. Picked on the validation part.
"""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from experiments.cell import Cell
from experiments.matrix import Matrix
from experiments.reported import BATCH_SIZES, LEARNING_RATES, SECOND_REPORT
from experiments.study import Study, Workdirs
from mimii_jax.report.figures import BLUE, DOTS_PER_INCH, GREEN, VERMILION
from mimii_jax.report.page import Block, Picture
from mimii_jax.results.per_id import MEAN


def _name(rate: float, batch: int) -> str:
    return f"rate {rate:g}, batch {batch}"


def curve(matrix: Matrix, workdirs: Workdirs, folder: Path) -> Sequence[Block]:
    """Mean AUC as a function of the batch size: the report's figure 7."""
    del workdirs
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    looks = zip(LEARNING_RATES, (VERMILION, GREEN, BLUE), "s^o", strict=True)
    for rate, colour, marker in looks:
        rows = {b: matrix.estimate(_name(rate, b), MEAN) for b in sorted(BATCH_SIZES)}
        sizes = [b for b, estimate in rows.items() if estimate]
        found = [estimate for estimate in rows.values() if estimate]
        if found:
            spans = [e.interval or (e.mean, e.mean) for e in found]
            below = [e.mean - low for e, (low, _) in zip(found, spans, strict=True)]
            above = [high - e.mean for e, (_, high) in zip(found, spans, strict=True)]
            axes.errorbar(
                [size * (1 + 0.03 * ("s^o".index(marker) - 1)) for size in sizes],
                [e.mean for e in found],
                yerr=(below, above),
                marker=marker,
                color=colour,
                capsize=3,
                label=f"learning rate {rate:g}",
            )
    axes.set_xscale("log")
    axes.set_xticks(sorted(BATCH_SIZES), [str(b) for b in sorted(BATCH_SIZES)])
    axes.minorticks_off()
    axes.set(xlabel="batch size", ylabel="mean AUC, 95 %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    path = folder / "batch_size.png"
    figure.savefig(path, dpi=DOTS_PER_INCH)
    text = "Mean AUC against batch size, a line per learning rate (test split)"
    return [Picture(path, f"{text}; the table has the numbers.", f"{text}.")]


STUDY = Study(
    title="Learning rate and batch size",
    source="second report, figures 5 to 7",
    cells=[
        Cell(
            _name(rate, batch),
            "mlp_vae:reference",
            SECOND_REPORT
            | {
                "train.epochs": 5,
                "train.batch_size": batch,
                "train.learning_rate": rate,
            },
        )
        for rate in LEARNING_RATES
        for batch in BATCH_SIZES
    ],
    base=_name(0.001, 200),
    tunes=True,
    extra=curve,
)
