"""What does the data set look like, and what does one number per clip already do?

The controls learn nothing: a detector that does not beat them has learned nothing.
"""

from experiments.cell import Cell
from experiments.study import Study

STUDY = Study(
    title="The data set, and controls without learning",
    source="first report, figures 1 to 4; second report, figures 1 and 2",
    cells=[Cell("controls", "controls")],
)
