"""Space or time: conv VAE against transformer at about equal parameters."""

from experiments.cell import Cell
from experiments.study import Study

STUDY = Study(
    title="Spatial against temporal",
    source="first report, sections 7.2 and 7.3",
    cells=[Cell("conv_vae", "conv_vae"), Cell("transformer", "transformer")],
    base="conv_vae",
)
