"""No augmentation, SpecAugment, or the warps of images?

The second report could use one masked copy per clip; here each step draws new masks.
"""

from experiments.cell import Cell
from experiments.study import Study

STUDY = Study(
    title="Augmentation",
    source="first report, section 4.5; second report, section 2.1",
    cells=[Cell("none", "conv_vae")],
    base="none",
)
