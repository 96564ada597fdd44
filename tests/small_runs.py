"""Experiments that are over in seconds."""

from small_clips import quiet_watch, said

from configs import mlp_vae
from mimii_jax import run


def small(module=mlp_vae, variant="quick", root="", **sections):
    """A config with a network of a few units and one seed."""
    c = module.get_config(variant)
    c.seeds = (0,)
    c.data.root = str(root)
    c.features.n_mels = 16
    c.eval.bootstrap = 20
    if "train" in c:
        c.detector.hidden, c.detector.latent = (16,), 2
    for section, fields in sections.items():
        c[section].update(fields)
    return c


def trained(config, workdir):
    """Train, and what was said meanwhile."""
    watch = quiet_watch()
    run.train(config, workdir, watch)
    return said(watch)


def again(config, workdir):
    """Score again, and what was said meanwhile and where it is."""
    watch = quiet_watch()
    run.evaluate_again(config, workdir, workdir / "again", watch)
    return said(watch), workdir / "again"
