"""Experiments that take seconds."""

from configs import mlp_vae
from mimii_jax import log, run


def small(module=mlp_vae, variant="quick", root="", **sections):
    """A config with a network of a few units and one seed."""
    c = module.get_config(variant)
    c.seeds = (0,)
    c.data.root = str(root)
    c.features.n_mels = 16
    c.eval.bootstrap = 20
    if "hidden" in c.detector:
        c.detector.hidden, c.detector.latent = (16,), 2
    for section, fields in sections.items():
        c[section].update(fields)
    return c


def trained(config, workdir):
    """Train; return the printed lines."""
    with log.console.capture() as printed:
        run.train(config, workdir)
    return printed.get()


def again(config, workdir, out="again"):
    """Score again; return the printed lines and the folder."""
    with log.console.capture() as printed:
        run.evaluate(config, workdir, workdir / out)
    return printed.get(), workdir / out
