"""Which knowledge transfers from one machine to another?

Rows are training sets, columns the machines tested on. Fine-tuning starts from the
model of all machines with the clips of one, for as many epochs as before. The conv VAE
and the transformer are trained on all only, as in the report;
`python -m experiments.cross_id --config configs/conv_vae.py` has their whole matrix.
"""

from experiments.cell import MATRIX, Cell
from experiments.reported import FIRST_REPORT
from experiments.study import Study

STUDY = Study(
    title="Cross-ID generalisation",
    source="first report, sections 6.1, 7, 7.1, 7.2 and 7.3.4; figures 5 and 6",
    cells=[
        Cell("isolation_forest", "isolation_forest", training_sets=MATRIX),
        Cell("one_class_svm:linear", "one_class_svm:linear", training_sets=MATRIX),
        Cell("mlp_vae", "mlp_vae:reference", training_sets=MATRIX, small="mlp_vae"),
        Cell("conv_vae", "conv_vae:reference", small="conv_vae"),
        Cell("transformer", "transformer:reference", small="transformer"),
    ],
    reported={
        "conv_vae": str(FIRST_REPORT["conv_vae"]["all"]),
        "transformer": str(FIRST_REPORT["transformer"]["all"]),
    },
)
