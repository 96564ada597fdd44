"""The controls alone: four numbers per clip, with no learning.

python -m mimii_jax.main --config configs/controls.py
Variants: `:quick` (seconds)
"""

from ml_collections import ConfigDict

from mimii_jax.defaults import base_config, require_variant


def get_config(variant: str = "default") -> ConfigDict:
    """The experiment; `:variant` after the file name chooses another one."""
    require_variant(variant, ("default", "quick"))
    c = base_config()
    c.detector = ConfigDict()
    c.detector.name = "controls"
    if variant == "quick":
        c.data.scale = 0.02
        c.eval.bootstrap = 100
    return c
