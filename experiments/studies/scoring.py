"""How should the errors of a clip become its score?

One training, scored in several ways: the mean squared error pooled by its mean, its
maximum, the mean of the 10 largest, or with weights that fall with rank; and the
Mahalanobis distance of the errors per bin from those of normal training clips.
"""

from experiments.cell import Cell
from experiments.study import Study

STUDY = Study(
    title="Scoring kinds and pooling",
    source="not in the reports",
    cells=[
        Cell(
            "mlp_vae",
            "mlp_vae",
            scorings={
                "mean": {},
                "max": {"pooling": "max"},
                "top 10": {"pooling": "top_k"},
                "gwrp": {"pooling": "gwrp"},
                "mahalanobis": {"backend": "mahalanobis"},
                "mahalanobis per id": {"backend": "mahalanobis", "per_id": True},
            },
        )
    ],
    base="mlp_vae: mean",
)
