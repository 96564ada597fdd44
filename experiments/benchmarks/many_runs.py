"""Speed of many MLP VAE runs as one program: five training sets times five seeds.

python -m experiments.benchmarks.many_runs

The training sets are those of the cross-ID study, at a scale: ids 00, 02 and 04 alone,
all of them, and all of them cut down to the smallest. Every run is trained for the same
number of epochs of its own set, on the network of 858,280 parameters, batch 512, Adam.

- ours, one program: all runs at once, those that are done cut off
- ours, one by one: the same compiled step, one run after the other
- torch, one by one: the same network, eager, with its fastest Adam

Compiling is not timed (once per program, kept on disk for the next start). Without
PyTorch ours are measured alone.
"""

import argparse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.benchmarks.mlp_vae import (
    FRAMES,
    Task,
    torch,
    torch_adam,
    torch_layers,
    torch_loss,
    torch_windows,
)
from experiments.benchmarks.rounds import add_options, report, take_turns
from mimii_jax.features.windows import Standardiser
from mimii_jax.train.loop import init_runs, make_plan, spread
from mimii_jax.train.mesh import make_mesh, replicate
from mimii_jax.train.runs import Run
from mimii_jax.train.step import compile_steps, group_size

OFFICIAL = {"00": 968, "02": 968, "04": 434}  # training clips


def training_sets(scale: float) -> list[np.ndarray]:
    """Rows of clips of each training set; the clips of one ID stand together."""
    counts = [max(1, round(scale * n)) for n in OFFICIAL.values()]
    single = np.split(np.arange(sum(counts)), np.cumsum(counts)[:-1])
    smallest = min(counts)
    return [
        np.arange(sum(counts)),
        *single,
        np.concatenate([rows[:smallest] for rows in single]),
    ]


class Runs:
    """All runs, and what trains them."""

    def __init__(self, task: Task, sets: list[np.ndarray], seeds: int, epochs: int):
        self.task = task
        self.epochs = epochs
        self.runs = [Run(seed, rows) for rows in sets for seed in range(seeds)]
        per_clip = task.windows.per_clip(FRAMES)
        settings = replace(task.settings, epochs=epochs)
        self.plan = make_plan(settings, self.runs, per_clip)
        same = [Standardiser.identity(task.bins)] * len(self.runs)
        self.graph, self.state = init_runs(task.build, settings, self.runs, same)

    def windows(self) -> float:
        """How many windows all runs train on."""
        return float(np.sum(self.plan.n_examples) * self.epochs)

    def program(self, at_once: int, group: int | None) -> Callable[[], None]:
        """So many runs in one program, which steps them in groups."""
        mesh = make_mesh(at_once)
        group = group or group_size(mesh, at_once)
        task = self.task
        advance = compile_steps(self.graph, task.windows, task.settings, mesh, group)
        features = replicate(jnp.asarray(task.features), mesh)

        def turn() -> None:
            for first in range(0, len(self.runs), at_once):
                state, plan = _rows((self.state, self.plan), first, at_once)
                n = int(plan.total.max())
                state, plan = spread(mesh, group, state, plan)
                jax.block_until_ready(advance(state, plan, features, n))

        return turn

    def by_torch(self, adam: dict[str, Any]) -> Callable[[], None]:
        """One run after the other."""
        task = self.task
        per_clip = task.windows.per_clip(FRAMES)
        view = torch_windows(task)

        def turn() -> None:
            for run in self.runs:
                torch.manual_seed(run.seed)
                layers = torch_layers(task.build(nnx.Rngs(run.seed)))
                optimizer = torch_adam(layers, task, adam)
                of_clip = torch.arange(per_clip)
                clips = torch.from_numpy(run.clips)
                starts = (clips[:, None] * FRAMES + of_clip).ravel()
                for _ in range(self.epochs):
                    order = starts[torch.randperm(len(starts))]
                    for batch in order.split(task.batch):
                        optimizer.zero_grad()
                        torch_loss(layers, view[batch], task.kl_weight).backward()
                        optimizer.step()

        return turn


def _rows(tree: Any, first: int, number: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[first : first + number], tree)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.many_runs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--scale", type=float, default=0.02, help="of the official numbers of clips")
    add("--seeds", type=int, default=5)
    add("--epochs", type=int, default=1)
    add("--group", type=int, help="runs that are stepped at once (default: automatic)")
    add_options(parser)
    args = parser.parse_args(arguments)
    sets = training_sets(args.scale)
    runs = Runs(Task(len(sets[0]), 1), sets, args.seeds, args.epochs)
    together = f"ours, {len(runs.runs)} runs as one program"
    alone = "ours, one by one"
    turns = {
        together: runs.program(len(runs.runs), args.group),
        alone: runs.program(1, 1),
    }
    if torch:
        turns["torch, one by one"] = runs.by_torch({"fused": True})
    rounds = take_turns(turns, args)
    amounts = dict.fromkeys(turns, runs.windows())
    report("Many runs of the MLP VAE", "windows", amounts, rounds, [together, alone])


if __name__ == "__main__":
    main()
