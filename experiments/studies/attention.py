"""What does an encoder do that sees what is to be predicted?

The report's encoder attends to the whole sequence, so that every target but the last
leaks. Causal everywhere is the default here.
"""

from experiments.cell import Cell
from experiments.study import Study

STUDY = Study(
    title="Causal against leaky attention",
    source="first report, section 7.3.2",
    cells=[
        Cell(
            attention,
            "transformer",
            {"detector.attention": attention},
            scorings={
                "free generation": {"horizon": None},
                "one step ahead": {},
            },
        )
        for attention in ("causal", "leaky")
    ],
    base="causal: free generation",
)
