"""Whether the strongest second lies in a fault whose time the simulator knows."""

import numpy as np
import pytest
from small_runs import small, trained

from configs import functionals
from experiments import where
from mimii_jax import log
from mimii_jax.simulated.simulate import FaultLabel


def test_seconds_are_inside_the_faults_of_their_clip():
    faults = [FaultLabel("x", "loose_belt", 1.0, *span) for span in ((1, 2), (4, 5))]
    found = where.inside(np.array([0.5, 1.0, 1.9, 2.0, 4.5, 9.0]), faults)
    assert found.tolist() == [False, True, True, False, True, False]
    assert not where.inside(np.arange(3.0), []).any()


@pytest.mark.slow
def test_functionals_find_when_a_fault_sounds(tmp_path, monkeypatch):
    for name in ("write_figures", "write_report"):
        monkeypatch.setattr(f"mimii_jax.run.{name}", lambda *_, **__: None)
    config = small(functionals, data={"scale": 0.02, "ids": ("00", "04")})
    trained(config, tmp_path / "run")
    with log.console.capture() as printed:
        where.main([str(tmp_path / "run")])
    _, _, line = printed.get().strip().splitlines()[-3:]
    name, found, chance, *_ = (cell.strip() for cell in line.strip("|").split("|"))
    assert name == "functionals"
    assert float(found.split("%")[0]) > float(chance.rstrip("%")) + 10


def test_recordings_have_no_known_faults(tmp_path):
    config = small(functionals, root="somewhere")
    (tmp_path / "config.json").write_text(config.to_json_best_effort())
    with pytest.raises(SystemExit):
        where.main([str(tmp_path)])
