from mimii_jax.estimator import Detector as Detector
from mimii_jax.estimator import load as load
