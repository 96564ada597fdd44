"""Dense autoencoder of the official baseline's widths, one model for all IDs.

python -m mimii_jax.main --config configs/mlp_ae.py --config.data.scale=0.2
Average AUC .883, pAUC .714 on two simulated rails (README).
Variants: `:quick` (seconds)
"""

from ml_collections import ConfigDict

from mimii_jax.defaults import add_training, base_config, require_variant


def get_config(variant: str = "default") -> ConfigDict:
    """The experiment; `:variant` after the file name chooses another one."""
    require_variant(variant, ("default", "quick"))
    c = base_config()
    c.windows = ConfigDict()
    c.windows.width = 5  # frames
    c.windows.hop = 1  # frames
    c.windows.scoring_hop = 1  # frames

    c.detector = ConfigDict()
    c.detector.name = "mlp_ae"
    c.detector.hidden = (128, 128, 128, 128)
    c.detector.latent = 8
    c.detector.likelihood = "squared"  # or "gaussian", with learned variances
    c.detector.offset = -35.0  # dB; about the mean of the log-mel of a machine
    c.detector.scale = 12.0  # dB; about its standard deviation

    add_training(c)
    c.train.epochs = 20  # the baseline has 100; on 75 clips 8 are too few steps

    if variant == "quick":
        c.data.scale = 0.02
        c.train.epochs = 2
        c.eval.bootstrap = 100
    return c
