"""Does the AUC after 5 epochs depend on the initialisation?

If it does by as much as hyper-parameters change it, these cannot be compared after so
few epochs from one initialisation each.
"""

from collections.abc import Sequence
from pathlib import Path

from experiments.cell import Cell
from experiments.matrix import Matrix
from experiments.reported import FIVE_INITIALISATIONS, SECOND_REPORT
from experiments.study import Study, Workdirs
from mimii_jax.report.page import Block, Table
from mimii_jax.report.tables import digits
from mimii_jax.results.per_id import MEAN

ROW = "mlp_vae, 5 epochs"


def each(matrix: Matrix, workdirs: Workdirs, folder: Path) -> Sequence[Block]:
    """Mean AUC of each initialisation, ours and reported."""
    del workdirs, folder
    estimate = matrix.estimate(ROW, MEAN)
    if not estimate:
        return []
    ours = estimate.by_seed.tolist()
    head = ["mean AUC", *map(str, range(1, len(ours) + 1)), "range"]
    rows = [
        [name, *map(digits, values), digits(max(values) - min(values))]
        for name, values in (("ours", ours), ("reported", FIVE_INITIALISATIONS))
    ]
    return [
        Table("Five initialisations, 5 epochs", head, rows),
        f"Over five initialisations our mean AUC differs by "
        f"{digits(max(ours) - min(ours))}; the reported ones by "
        f"{digits(max(FIVE_INITIALISATIONS) - min(FIVE_INITIALISATIONS))}.",
    ]


STUDY = Study(
    title="Five initialisations",
    source="second report, figure 4",
    cells=[
        Cell(
            ROW,
            "mlp_vae:reference",
            SECOND_REPORT
            | {
                "seeds": (0, 1, 2, 3, 4),
                "train.epochs": 5,
            },
        )
    ],
    extra=each,
)
