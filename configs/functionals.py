"""Functionals of a clip against those of normal clips, without training.

python -m mimii_jax.main --config configs/functionals.py
Average AUC .935, pAUC .877 on two simulated rails (README); seconds on two CPU cores.
Variants: `:groups` (a row for each group, and one for all), `:quick` (seconds)
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from mimii_jax.defaults import base_config, require_variant


def get_config(variant: str = "default") -> ConfigDict:
    """The experiment; `:variant` after the file name chooses another one."""
    require_variant(variant, ("default", "groups", "quick"))
    c = base_config()
    c.seeds = (0,)  # nothing is random

    c.detector = ConfigDict()
    c.detector.name = "functionals"
    c.detector.groups = ("bands", "descriptors", "modulation")

    # Of each group. Chosen on real sound, labels of fans, pumps and valves included:
    # python -m experiments.backends
    c.scoring.backend = "ldn"
    c.scoring.neighbours = 3
    c.scoring.max_columns = placeholder(int)  # no PCA: it loses what a bank lacks
    c.scoring.groups = ()  # whose mean z-score counts; (): all

    if variant == "groups":
        c.scorings.fused = ConfigDict()
        for group in c.detector.groups:
            c.scorings[group] = ConfigDict({"groups": (group,)})
    if variant == "quick":
        c.data.scale = 0.02
        c.eval.bootstrap = 100
    return c
