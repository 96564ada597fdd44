"""Convolutional variational autoencoder on windows of 32 frames.

python -m mimii_jax.main --config configs/conv_vae.py --config.data.scale=0.2
Average AUC .929, pAUC .831 on two simulated rails (README).
Variants: `:literature` (wider, and windows at every frame), `:reference` (the first
report's: whole clips, 968,748 parameters, 10 epochs, augmented), `:quick`
(seconds)
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from mimii_jax.defaults import add_training, base_config, require_variant


def get_config(variant: str = "default") -> ConfigDict:
    """The experiment; `:variant` after the file name chooses another one."""
    require_variant(variant, ("default", "literature", "reference", "quick"))
    c = base_config()
    c.features.standardise = True
    c.windows = ConfigDict()
    c.windows.width = 32  # frames
    c.windows.hop = 8  # frames
    c.windows.scoring_hop = 6  # frames

    c.detector = ConfigDict()
    c.detector.name = "conv_vae"
    c.detector.channels = (16, 32, 64, 128, 256)
    c.detector.strides = ((2, 2),) * 5  # frames, bins
    c.detector.kernel_blocks = 2  # blocks of `strides` pixels that a filter covers
    c.detector.segment = placeholder(int)  # frames judged at once; None: the window
    c.detector.latent = 40
    c.detector.likelihood = "squared"  # or "gaussian", with learned variances
    c.detector.kl_weight = 0.1

    add_training(c)
    c.train.batch_size = 64
    c.train.epochs = 6  # the loss of held-out normals is flat by then

    if variant == "literature":
        c.detector.channels = (32, 64, 128, 256, 512)
        c.detector.strides = ((1, 2), (1, 2), (2, 2), (2, 2), (2, 2))
        c.detector.kernel_blocks = 3
        c.windows.hop = 1
        c.train.epochs = 10
    if variant == "reference":
        c.windows.width = placeholder(int)  # the whole clip
        c.windows.hop = 1
        c.detector.channels = (8, 16, 32, 64, 128)
        c.detector.segment = 8
        c.windows.scoring_hop = 1
        c.train.epochs = 10
        c.train.batch_size = 16
        c.train.schedule = "constant"
        c.train.warmup = 0.0
        c.data.validation_fraction = 0.0
        c.augment.names = ("cutout", "warp")
        c.augment.cutout = ConfigDict()
        c.augment.cutout.probability = 1.0
        c.augment.cutout.holes = 4
        c.augment.cutout.time_width = 8.0  # frames
        c.augment.cutout.frequency_width = 16.0  # bins
        c.augment.warp = ConfigDict()
        c.augment.warp.move_time = 8.0  # frames
        c.augment.warp.move_frequency = 2.0  # bins
        c.augment.warp.scale = 0.05
        c.augment.warp.rotate = 2.0  # degrees
    if variant == "quick":
        c.data.scale = 0.02
        c.detector.channels = (4, 8, 16, 32, 64)
        c.train.epochs = 2
        c.eval.bootstrap = 100
    return c
