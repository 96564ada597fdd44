"""STgram-MFN, a classifier of machine IDs that also hears the waveform.

python -m mimii_jax.main --config configs/stgram.py --config.data.scale=0.2
Rows: `ldn` on embeddings; `margin_nll`, the published score, -log p of the clip's own
ID; `nll`, the same without the margin. `--config.features.wave_samples=0`: no Tgram.
Variants: `:reference` (the published network and recipe), `:quick` (seconds)
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from mimii_jax.defaults import add_training, base_config, require_variant


def get_config(variant: str = "default") -> ConfigDict:
    """The experiment; `:variant` after the file name chooses another one."""
    require_variant(variant, ("default", "reference", "quick"))
    c = base_config()
    c.features.name = "log_mel_wave"
    # of a frame, for the Tgram; 0: none
    c.features.wave_samples = c.features.get_oneway_ref("hop")
    c.features.standardise = True
    c.windows = ConfigDict()
    c.windows.width = placeholder(int)  # frames; None: the whole clip is one example
    c.windows.hop = 1  # frames
    c.windows.scoring_hop = 1  # frames

    c.scoring.representation = "embedding"
    c.scoring.backend = "ldn"
    c.scoring.standardise = False  # angles of unit vectors
    c.scoring.max_columns = None
    c.scorings.default = ConfigDict()
    for name in ("margin_nll", "nll"):
        own = {"representation": name, "backend": "own_class"}
        c.scorings[name] = ConfigDict(own)

    c.detector = ConfigDict()
    c.detector.name = "stgram"
    c.detector.channels = 16  # of the first two layers
    # expansion, channels, blocks, stride of the first block
    c.detector.bottlenecks = ((2, 32, 1, 2), (2, 32, 1, 2), (2, 32, 1, 2))
    c.detector.top = 128  # channels that are weighted over the whole image
    c.detector.embedding = 128
    c.detector.wave_samples = c.features.get_oneway_ref("wave_samples")
    c.detector.scale = 30.0
    c.detector.margin = 0.7  # radians

    add_training(c)
    c.train.epochs = 30
    c.train.batch_size = 32

    if variant == "reference":
        c.features.standardise = False
        c.detector.channels = 64
        c.detector.bottlenecks = ((2, 128, 2, 2), (4, 128, 2, 2), (4, 128, 2, 2))
        c.detector.top = 512
        c.train.epochs = 300
        c.train.batch_size = 128
        c.train.learning_rate = 1e-4
    if variant == "quick":
        c.data.scale = 0.02
        c.detector.channels = 8
        c.detector.bottlenecks = ((1, 8, 1, 4), (1, 8, 1, 4))
        c.detector.top, c.detector.embedding = 16, 16
        c.train.epochs = 2
        c.eval.bootstrap = 100
    return c
