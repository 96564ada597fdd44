"""Space or time: does an image or a sequence say more about a clip?

The conv VAE sees windows of the spectrogram as images, the transformer a sequence of
patches. Their widths are such that both have about 1.06 million parameters.
"""

from experiments.cell import Cell
from experiments.study import Study

CHANNELS = (13, 26, 53, 106, 212)  # 1,058,102 parameters; the transformer: 1,056,384

STUDY = Study(
    title="Spatial against temporal",
    source="first report, sections 7.2 and 7.3",
    cells=[
        Cell("conv_vae", "conv_vae", {"detector.channels": CHANNELS}),
        Cell("transformer", "transformer"),
    ],
    base="conv_vae",
)
