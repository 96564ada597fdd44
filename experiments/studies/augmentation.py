"""No augmentation, SpecAugment, or the warps of images?

The second report could use one masked copy per clip; here each step draws new masks.
"""

from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from matplotlib.figure import Figure

from experiments.cell import Cell
from experiments.matrix import Matrix
from experiments.study import Study, Workdirs
from mimii_jax.features.augment import SpecAugment
from mimii_jax.report.figures import DOTS_PER_INCH
from mimii_jax.report.page import Block, Picture

NONE = "none"


def masked(matrix: Matrix, workdirs: Workdirs, folder: Path) -> Sequence[Block]:
    """A clip and its masked copy: the second report's figure 3."""
    if NONE not in workdirs:
        return []
    with np.load(workdirs[NONE] / "examples.npz") as file:
        clip = file[next(n for n in file if n.endswith("/normal/features"))]
    augment = SpecAugment(time_width=60.0, frequency_width=25.0)
    shown = augment(jax.random.key(2), clip)
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    pictures = zip(("a normal clip", "the same, masked"), (clip, shown), strict=True)
    for axes, (title, x) in zip(figure.subplots(1, 2), pictures, strict=True):
        axes.imshow(np.asarray(x).T, origin="lower", aspect="auto")
        axes.set(title=title, xlabel="frame", ylabel="frequency bin")
    path = folder / "masked.png"
    figure.savefig(path, dpi=DOTS_PER_INCH)
    text = "Log-mel spectrogram of a normal clip, and with two masks along either axis"
    return [Picture(path, f"{text}.", f"{text}.")]


STUDY = Study(
    title="Augmentation",
    source="first report, section 4.5; second report, section 2.1 and figure 3",
    cells=[
        Cell(name, "conv_vae", {"augment.names": names})
        for name, names in (
            (NONE, ()),
            ("SpecAugment", ("spec_augment",)),
            ("cutout and warp", ("cutout", "warp")),
            ("mixup", ("mixup",)),
        )
    ],
    base=NONE,
    extra=masked,
)
