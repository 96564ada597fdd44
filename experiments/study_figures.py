"""Tables and figures that only one study has."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.matrix import Matrix
from experiments.reported import BATCH_SIZES, FIVE_INITIALISATIONS, LEARNING_RATES
from experiments.studies import FIVE_EPOCHS, NOT_AUGMENTED, rate_and_batch
from mimii_jax.features.augment import SpecAugment
from mimii_jax.files import read_arrays
from mimii_jax.report.figures import BLUE, GREEN, VERMILION, write_figure
from mimii_jax.report.page import Block, Picture, Table
from mimii_jax.report.tables import digits
from mimii_jax.results.per_id import MEAN


def blocks(
    study: str, matrix: Matrix, workdirs: Mapping[str, Path], folder: Path
) -> Sequence[Block]:
    """Further blocks of a study; pictures are files in `folder`."""
    if study == "initialisations":
        return initialisations(matrix)
    if study == "learning_rate_batch":
        return [batch_sizes(matrix, folder / "batch_size.png")]
    if study == "augmentation" and NOT_AUGMENTED in workdirs:
        return [masked(workdirs[NOT_AUGMENTED], folder / "masked.png")]
    return []


def initialisations(matrix: Matrix) -> Sequence[Block]:
    """Mean AUC of each initialisation, ours and reported."""
    estimate = matrix.estimate(FIVE_EPOCHS, MEAN)
    if not estimate:
        return []
    ours = estimate.by_seed.tolist()
    found = {"ours": ours, "reported": FIVE_INITIALISATIONS}
    ranges = {name: digits(max(x) - min(x)) for name, x in found.items()}
    head = ["mean AUC", *map(str, range(1, len(ours) + 1)), "range"]
    rows = [[name, *map(digits, x), ranges[name]] for name, x in found.items()]
    return [
        Table("Five initialisations, 5 epochs", head, rows),
        f"Over five initialisations our mean AUC differs by {ranges['ours']}; the "
        f"reported ones by {ranges['reported']}.",
    ]


def batch_sizes(matrix: Matrix, path: Path) -> Picture:
    """Mean AUC as a function of the batch size: the second report's figure 7."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes, sizes = figure.subplots(), sorted(BATCH_SIZES)
    looks = zip(LEARNING_RATES, (VERMILION, GREEN, BLUE), "s^o", strict=True)
    for number, (rate, colour, marker) in enumerate(looks):
        rows = {b: matrix.estimate(rate_and_batch(rate, b), MEAN) for b in sizes}
        points = []
        for size, e in rows.items():
            if e:
                low, high = e.interval or (e.mean, e.mean)
                x = size * (0.97 + 0.03 * number)  # beside each other
                points.append((x, e.mean, e.mean - low, high - e.mean))
        if points:
            x, y, *errors = zip(*points, strict=True)
            look = {"marker": marker, "color": colour, "capsize": 3}
            axes.errorbar(x, y, errors, label=f"learning rate {rate:g}", **look)
    axes.set_xscale("log")
    axes.set_xticks(sizes, list(map(str, sizes)))
    axes.minorticks_off()
    axes.set(xlabel="batch size", ylabel="mean AUC, 95 %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    write_figure(figure, path)
    text = "Mean AUC against batch size, a line per learning rate (test split)"
    return Picture(path, f"{text}; the table has the numbers.", f"{text}.")


def masked(workdir: Path, path: Path) -> Picture:
    """A clip and its masked copy: the second report's figure 3."""
    arrays = read_arrays(workdir / "examples.npz")
    clip = next(x for name, x in arrays.items() if name.endswith("/normal/features"))
    shown = SpecAugment(time_width=60.0, frequency_width=25.0)(jax.random.key(2), clip)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    pictures = {"a normal clip": clip, "the same, masked": np.asarray(shown)}
    for axes, (title, x) in zip(figure.subplots(1, 2), pictures.items(), strict=True):
        axes.imshow(x.T, origin="lower", aspect="auto")
        axes.set(title=title, xlabel="frame", ylabel="frequency bin")
    write_figure(figure, path)
    text = "Log-mel spectrogram of a normal clip, and with two masks along either axis."
    return Picture(path, text, text)
