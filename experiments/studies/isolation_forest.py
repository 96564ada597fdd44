"""Do the hyper-parameters of the Isolation Forest matter?

The report tuned them on the validation split and saw no improvement. Its contamination
moves scikit-learn's threshold only, never a score, so it's no row here.
"""

from experiments.cell import Cell
from experiments.study import Study

CHANGES = {
    "default": {},
    "30 trees": {"detector.n_estimators": 30},
    "300 trees": {"detector.n_estimators": 300},
    "32 samples per tree": {"detector.max_samples": 32},
}

STUDY = Study(
    title="Hyper-parameters of the Isolation Forest",
    source="first report, section 6.1",
    cells=[
        Cell(name, "isolation_forest", changes) for name, changes in CHANGES.items()
    ],
    base="default",
    tunes=True,
)
