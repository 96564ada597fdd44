"""Do the knobs of the Isolation Forest matter?

The report tuned them on the validation part and saw no improvement. Contamination only
moves scikit-learn's threshold: its row has to be the same as the default's.
"""

from experiments.cell import Cell
from experiments.study import Study


def _cell(name: str, **knobs: float) -> Cell:
    changes = {f"detector.{knob}": value for knob, value in knobs.items()}
    return Cell(name, "isolation_forest", changes)


STUDY = Study(
    title="Knobs of the Isolation Forest",
    source="first report, section 6.1",
    cells=[
        _cell("default"),
        _cell("30 trees", n_estimators=30),
        _cell("300 trees", n_estimators=300),
        _cell("32 samples per tree", max_samples=32),
        _cell("contamination .1", contamination=0.1),
        _cell("bootstrap", bootstrap=True),
        _cell("half of the features", max_features=0.5),
    ],
    base="default",
    tunes=True,
)
