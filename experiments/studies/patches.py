"""Patches that overlap, or not?

The report's patches of 30 frames move by one frame: to predict the next is nearly to
copy. The default has patches that do not overlap.
"""

from experiments.cell import Cell
from experiments.study import Study

STUDY = Study(
    title="Overlapping against separate patches",
    source="first report, section 7.3.3",
    cells=[
        Cell("separate", "transformer"),
        Cell("half overlapping", "transformer", {"detector.stride": 2}),
    ],
    base="separate",
)
