"""How much do more epochs bring: 5, 20 or 100?

The report tuned at 5, confirmed at 20 and submitted after 100.
"""

from experiments.cell import Cell
from experiments.reported import AFTER_100_EPOCHS, SECOND_REPORT, digits
from experiments.study import Study

STUDY = Study(
    title="Epochs",
    source="second report, figure 8",
    cells=[
        Cell(
            f"{epochs} epochs",
            "mlp_vae:reference",
            SECOND_REPORT
            | {
                "train.epochs": epochs,
            },
        )
        for epochs in (5, 20, 100)
    ],
    base="5 epochs",
    reported={"100 epochs": f"average {digits(AFTER_100_EPOCHS)}"},
)
