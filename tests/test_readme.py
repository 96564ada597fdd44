"""The README's example of a model runs as shown."""

import re
from pathlib import Path

from small_runs import small, trained

from configs import mlp_ae
from mimii_jax import config
from mimii_jax.files import read_arrays
from mimii_jax.results.metrics import auc
from mimii_jax.results.table import read_scores

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_readmes_model_trains_and_finds_faults(
    recordings, tmp_path, no_figures, monkeypatch
):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    monkeypatch.setattr(config, "MODELS", dict(config.MODELS))
    exec(compile(example, "README.md", "exec"), {})
    c = small(mlp_ae, root=recordings, features={"standardise": True})
    with c.unlocked():
        c.detector = {"name": "linear_ae", "latent": 4}
    c.train.epochs, c.train.batch_size, c.train.learning_rate = 8, 32, 0.02
    trained(c, tmp_path / "run")
    table = read_scores(tmp_path / "run" / "scores.csv")
    own = table[table.detector == "linear_ae"]
    assert auc(own.label, own.score) > 0.9
    assert read_arrays(tmp_path / "run" / "examples.npz")["slider/00/normal/track"].size
