"""Mel, linear or raw; which hop; which frequencies?

The first report suspects that the mel scale, made for human ears, loses what a machine
tells, and used a smaller hop for the transformer. Raw waveforms are patches of the
transformer.
"""

from experiments.cell import Cell
from experiments.study import Study

STUDY = Study(
    title="Front ends, hops and bands",
    source="first report, sections 4.2 to 4.4 and 10",
    cells=[
        Cell("log-mel, hop 512", "mlp_vae"),
        Cell("linear", "mlp_vae", {"features.name": "linear"}),
        Cell("hop 256", "mlp_vae", {"features.hop": 256}),
        Cell("hop 1024", "mlp_vae", {"features.hop": 1024}),
        Cell("64 mels", "mlp_vae", {"features.n_mels": 64}),
        Cell("below 4 kHz", "mlp_vae", {"features.fmax": 4000.0}),
        Cell("above 1 kHz", "mlp_vae", {"features.fmin": 1000.0}),
        Cell("transformer, log-mel", "transformer"),
        Cell("transformer, raw", "transformer", {"features.name": "raw"}),
    ],
    base="log-mel, hop 512",
)
