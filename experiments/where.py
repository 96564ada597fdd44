"""How often does the strongest second lie in a fault? The simulator knows their times.

python -m experiments.where runs/results/functionals runs/results/mlp_vae

WORKDIRs are those of trainings on simulated sound, such as the cells of
`experiments.results`. The strongest second of a faulty test clip is that which
`mimii_jax.score` reports; it is compared with a second drawn at random.
"""

import argparse
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from mimii_jax import log
from mimii_jax.command import one_line_errors, path_of
from mimii_jax.config import Experiment, build
from mimii_jax.data.clips import ANOMALOUS
from mimii_jax.dataset import SIMULATED_IDS
from mimii_jax.detectors.detector import Fitted
from mimii_jax.errors import require
from mimii_jax.report.tables import markdown
from mimii_jax.results.threshold import interval
from mimii_jax.simulated.rails import FAULT_KINDS
from mimii_jax.simulated.simulate import FaultLabel, Simulation, simulate
from mimii_jax.stages import SEPARATOR, load
from mimii_jax.workdir import Workdir

AT_ONCE = 32  # clips whose explanations are in memory
KINDS = [f"{kind.replace('_', ' ')} / at random" for kind in FAULT_KINDS]
HEAD = ["", "in a fault (95 %)", "at random", *KINDS]


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line per detector, and what of it is chance."""
    parser = argparse.ArgumentParser(prog="python -m experiments.where")
    parser.add_argument("workdirs", nargs="+", type=path_of, metavar="WORKDIR")
    with one_line_errors():
        workdirs = parser.parse_args(argv).workdirs
        log.info(markdown(HEAD, [line for path in workdirs for line in _lines(path)]))


def _lines(path: Path) -> Iterator[list[str]]:
    """A line per detector of a workdir."""
    experiment = build(Workdir(path).read_config())
    require(
        not experiment.data.root, f"{path}: recordings; no time of a fault is known"
    )
    simulation = _test_clips(experiment)
    for stage in load(experiment, "slider", Workdir(path)):
        for names, model in stage.fitted.items():
            if found := _strongest(model, simulation):
                yield [SEPARATOR.join(filter(None, names)), *_cells(*found, simulation)]


def _test_clips(experiment: Experiment) -> Simulation:
    """Simulate the faulty test clips again."""
    data = experiment.data
    ids = data.ids or SIMULATED_IDS
    found = _simulate(ids, data.scale, data.test_share, data.simulation_seed)
    clips = found.clips.test
    return Simulation(clips[clips.label == ANOMALOUS], found.faults)


@lru_cache(maxsize=1)
def _simulate(
    ids: tuple[str, ...], scale: float, test_share: float, seed: int
) -> Simulation:
    return simulate(ids, scale=scale, train_share=0, test_share=test_share, seed=seed)


def _strongest(
    model: Fitted, simulation: Simulation
) -> tuple[Bool[np.ndarray, " clip"], Float[np.ndarray, " clip"]] | None:
    """Whether each clip's strongest second is in a fault, and the share that is."""
    of_clip: dict[str, list[FaultLabel]] = {}
    for fault in simulation.faults:
        of_clip.setdefault(fault.name, []).append(fault)
    hits, shares = [], []
    for start in range(0, len(simulation.clips), AT_ONCE):
        clips = simulation.clips[start : start + AT_ONCE]
        why = model.explain(clips)
        if not why:
            return None
        for name, track in zip(clips.name.tolist(), why.track, strict=True):
            within = inside(why.seconds, of_clip.get(name, []))
            hits.append(within[np.argmax(track)])
            shares.append(within.mean())
    return np.array(hits), np.array(shares)


def inside(
    seconds: Float[np.ndarray, " segment"], faults: Sequence[FaultLabel]
) -> Bool[np.ndarray, " segment"]:
    """Whether each second is in one of the faults."""
    spans = [(seconds >= f.start_s) & (seconds < f.end_s) for f in faults]
    return np.any(spans, axis=0) if spans else np.zeros(len(seconds), bool)


def _cells(
    hits: Bool[np.ndarray, " clip"],
    shares: Float[np.ndarray, " clip"],
    simulation: Simulation,
) -> list[str]:
    """All clips, then those of each kind of fault with the share at random."""
    low, high = interval(int(hits.sum()), len(hits))
    cells = [f"{hits.mean():.1%} ({low:.1%}-{high:.1%})", f"{shares.mean():.1%}"]
    kind_of = {fault.name: fault.kind for fault in simulation.faults}
    kinds = np.array([kind_of.get(name, "") for name in simulation.clips.name.tolist()])
    for kind in FAULT_KINDS:
        of = kinds == kind
        known = f"{hits[of].mean():.1%} / {shares[of].mean():.1%}" if of.any() else "-"
        cells.append(known)
    return cells


if __name__ == "__main__":
    main()
