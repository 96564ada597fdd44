"""Causal encoder-decoder transformer on patches of a clip, fused with functionals.

python -m mimii_jax.main --config configs/transformer.py
Average AUC on simulated rails (README), two simulations of three seeds: .933 (SD .009)
a patch ahead, .733 (SD .029) generating whole clips, .943 (SD .005) with functionals.
Patches that do not overlap, at a smaller hop: 156 of 512 numbers; 1,122,432 parameters.

Variants: `:reference` (the first report's sizes: 284 patches of 3,840 numbers, of which
283 go in and 283 are predicted; 33,351,936 parameters, where 16 million are reported,
which fit no usual feed-forward size; here it is four times the width, as usual),
`:quick` (seconds)
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from mimii_jax.defaults import add_training, base_config, require_variant


def get_config(variant: str = "default") -> ConfigDict:
    """The experiment; `:variant` after the file name chooses another one."""
    require_variant(variant, ("default", "reference", "quick"))
    c = base_config()
    c.features.standardise = True
    c.features.hop = 256  # samples; small, since a patch of few frames says when
    c.windows = ConfigDict()
    c.windows.width = placeholder(int)  # frames; None: the whole clip is one example
    c.windows.hop = 1  # frames
    c.windows.scoring_hop = 1  # frames

    # Patches that are generated from a true prefix; 1: each from all before it; None:
    # the whole clip from its first patch. Any model can score with any.
    c.scoring.horizon = placeholder(int)
    c.scoring.horizon = 1
    c.scoring.representation = "nll"
    c.scorings.default = ConfigDict()
    free = {"horizon": placeholder(int), "representation": "error"}
    c.scorings["free generation"] = ConfigDict(free)
    c.fuse_with = ("functionals",)

    c.detector = ConfigDict()
    c.detector.name = "transformer"
    c.detector.patch = 4  # frames
    c.detector.stride = 4  # frames from one patch to the next
    c.detector.width = 128
    c.detector.encoder_layers = 2
    c.detector.decoder_layers = 2
    c.detector.heads = 4
    c.detector.feed_forward = 512
    c.detector.attention = "causal"  # or "leaky", which sees its targets
    c.detector.likelihood = "gaussian"  # with learned variances; or "squared"

    add_training(c)
    c.train.epochs = 12
    c.train.batch_size = 2
    # Batch, rate and likelihood: python -m experiments.select transformer
    c.train.learning_rate = 8e-3
    c.train.warmup = 0.1

    if variant == "reference":
        c.scoring.horizon = None
        c.scoring.representation = "error"
        c.detector.likelihood = "squared"
        c.scorings = ConfigDict()
        c.fuse_with = ()
        c.features.hop = 512
        c.detector.patch = 30
        c.detector.stride = 1
        c.detector.width = 512
        c.detector.encoder_layers = 4
        c.detector.decoder_layers = 4
        c.detector.heads = 8
        c.detector.feed_forward = 2048
        c.train.epochs = 30
        c.train.batch_size = 16
        c.train.learning_rate = 1e-4
    if variant == "quick":
        c.data.scale = 0.02
        c.detector.width = 32
        c.detector.encoder_layers = 1
        c.detector.decoder_layers = 1
        c.detector.feed_forward = 64
        c.train.epochs = 2
        c.eval.bootstrap = 100
    return c
