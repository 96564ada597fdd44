"""Classifier of machine IDs, scored by its embedding's distance from normal clips.

python -m mimii_jax.main --config configs/id_classifier.py --config.data.scale=0.2
The row `nll`, -log p of the clip's own ID, is a control: with few IDs it is no score of
anomalies. With `--config.data.ids="('00','02',...)"` it learns from all IDs named.
Variants: `:reference` (the literature's width and depth), `:quick` (seconds)
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from mimii_jax.defaults import add_training, base_config, require_variant


def get_config(variant: str = "default") -> ConfigDict:
    """The experiment; `:variant` after the file name chooses another one."""
    require_variant(variant, ("default", "reference", "quick"))
    c = base_config()
    c.features.name = "log_mel_spectrum"
    c.features.spectrum_bins = 32  # of a frame, with the clip's spectrum; 0: none
    c.features.standardise = True
    c.windows = ConfigDict()
    c.windows.width = placeholder(int)  # frames; None: the whole clip is one example
    c.windows.hop = 1  # frames
    c.windows.scoring_hop = 1  # frames

    c.scoring.representation = "embedding"
    c.scoring.backend = "ldn,mahalanobis"
    c.scoring.standardise = False  # angles of unit vectors
    c.scoring.max_columns = None
    c.scorings.default = ConfigDict()
    own = {"representation": "nll", "backend": "own_class"}
    c.scorings["nll"] = ConfigDict(own)

    c.detector = ConfigDict()
    c.detector.name = "id_classifier"
    c.detector.channels = (8, 16, 32, 64)  # of the stages, each after the first at 1/2
    c.detector.blocks = 1  # residual blocks of a stage
    c.detector.spectrum_bins = c.features.get_oneway_ref("spectrum_bins")
    c.detector.spectrum_channels = 32
    c.detector.embedding = 128  # of each branch
    # fixed scale; or "adacos", adapted to each batch; "arcface"; "adaproj"
    c.detector.loss = "sub_adacos"
    c.detector.centres = 16  # of a class; of adaproj, the dimension of its subspace
    c.detector.scale = placeholder(float)  # None: by the number of centres
    c.detector.margin = 0.5  # of arcface, radians
    c.detector.mixup = 0.5  # probability of an example
    c.detector.transforms = placeholder(bool)  # as classes; None: with < 6 IDs

    add_training(c)
    c.train.epochs = 40  # 1,360 steps on the ids 00, 02 and 04 of the slide rail
    c.train.batch_size = 64
    c.train.weight_decay = 0.01

    if variant == "reference":
        c.detector.channels = (16, 32, 64, 128)
        c.detector.blocks = 2
        c.detector.spectrum_channels = 128
    if variant == "quick":
        c.data.scale = 0.02
        c.detector.channels = (8, 8)
        c.detector.spectrum_channels = 8
        c.detector.embedding = 16
        c.detector.centres = 4
        c.train.epochs = 2
        c.eval.bootstrap = 100
    return c
