"""Do simulated clips of the smallest machine ID help?

The first report's future work: synthetic data for the under-represented machine. The
training set gets simulated normal clips of it until it is as large as the largest. On
simulated sound these are simply more of the same; on recordings it is a real question.
"""

from experiments.cell import ALL, EXTRA, Cell
from experiments.study import Study

STUDY = Study(
    title="Extra simulated data for the smallest ID",
    source="first report, sections 7.3.5 and 10",
    cells=[
        Cell("mlp_vae", "mlp_vae", training_sets=(ALL, EXTRA)),
        Cell("isolation_forest", "isolation_forest", training_sets=(ALL, EXTRA)),
    ],
)
