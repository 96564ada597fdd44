"""Speed of training a config's model against the same network in eager PyTorch.

python -m experiments.benchmarks.train                          MLP VAE of the report
python -m experiments.benchmarks.train --config conv_vae --clips 60 --runs 3
python -m experiments.benchmarks.train --config transformer:reference --clips 16 \
    --steps 1 --runs 1

A turn is a number of Adam steps on examples of noise. Timed: choosing the batch,
gathering its examples from a feature array, loss, gradients, Adam, summing the loss,
waiting for the sum. Not timed: front end, compiling, and for PyTorch shuffling.

- ours: the compiled steps of `mimii_jax.train.step`, as in the main program: several
  steps per dispatch, shuffling, standardising and checking that losses are finite; one
  run, and several runs as one program (the examples of all runs count)
- torch: eager, from the same parameters where layers correspond; Adam by default,
  `foreach` and `fused`; the conv VAE also with channels last

Any field of the config can be set: --config.section.field=value. Without PyTorch ours
are timed alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.benchmarks.peers import CONV_VAE, PEERS
from experiments.benchmarks.rounds import benchmark_parser, report, take_turns, torch
from experiments.cell import Config
from experiments.run_cells import parse
from mimii_jax.config import build
from mimii_jax.features.windows import Standardiser
from mimii_jax.named import load_config, set_fields
from mimii_jax.train.loop import Metrics, loss_so_far
from mimii_jax.train.mesh import make_mesh, replicate
from mimii_jax.train.runs import Run
from mimii_jax.train.state import init_runs, make_plan, spread
from mimii_jax.train.step import compile_steps, group_size

SAMPLES = 160_000  # of a 10 s clip
ADAM = {"Adam": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}
Turn = Callable[[], float]  # some steps; the mean loss per example


class Task:
    """A config's model, and features of noise to train it on."""

    def __init__(self, config: Config, clips: int, steps: int) -> None:
        detector: Any = build(config).detector
        self.config, self.steps = config, steps
        wave = jax.ShapeDtypeStruct((SAMPLES,), np.float32)
        self.frames, self.bins = jax.eval_shape(detector.front_end, wave).shape
        self.windows = detector.windows
        # More epochs than any benchmark has turns.
        self.settings = replace(detector.settings, epochs=10**5, freeze=())
        self.width = self.windows.width_in(self.frames)
        self.per_clip = self.windows.per_clip(self.frames)
        self.batch = self.settings.batch_size
        self.model = detector.model
        shape = (clips, self.frames, self.bins)
        self.features = np.random.default_rng(0).standard_normal(shape, np.float32)
        if clips * self.per_clip < steps * self.batch:
            raise ValueError(f"{steps} steps need more than {clips} clips")

    def build(self, rngs: nnx.Rngs) -> Any:
        """Create the model."""
        return self.model((self.width, self.bins), rngs=rngs)


def ours(task: Task, n_runs: int, group: int | None = None) -> Turn:
    """Steps as in the main program, of all runs."""
    clips = np.arange(len(task.features))
    runs = [Run(seed, clips) for seed in range(n_runs)]
    same = [Standardiser.identity(task.bins)] * n_runs
    graph, state = init_runs(task.build, task.settings, runs, same)
    plan = make_plan(task.settings, runs, task.per_clip)
    mesh = make_mesh(n_runs)
    group = group or group_size(mesh, n_runs)
    state, plans = spread(mesh, group, state, plan)
    features = replicate(jnp.asarray(task.features), mesh)
    advance = compile_steps(graph, task.windows, task.settings, mesh, group)

    def turn() -> float:
        nonlocal state
        state = advance(state, plans, features, task.steps)
        metrics = jax.tree.map(lambda x: np.asarray(x)[:n_runs], Metrics(*state[:4]))
        return float(np.mean(loss_so_far(metrics, plan, task.batch)))

    return turn


def by_torch(task: Task, adam: dict[str, Any], layout: str = "") -> Turn:
    """The same network, loss and batches, eager."""
    network = PEERS[task.config.detector.name](task.build(nnx.Rngs(0)))
    if layout:
        network = network.to(memory_format=getattr(torch, layout))
    rate = task.settings.learning_rate
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, eps=1e-8, **adam)
    hop = task.windows.hop
    # Every window of every clip; indexing copies those of a batch.
    view = torch.from_numpy(task.features).unfold(1, task.width, hop).swapaxes(2, 3)
    order = torch.randperm(view.shape[0] * view.shape[1])

    def turn() -> float:
        total = torch.zeros(())
        for step in range(task.steps):
            index = order[step * task.batch : (step + 1) * task.batch]
            x = view[index // task.per_clip, index % task.per_clip]
            optimizer.zero_grad()
            loss = network.loss(x)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return total.item() / task.steps

    return turn


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = benchmark_parser("train", __doc__)
    add = parser.add_argument
    add("--config", default="mlp_vae:reference", metavar="NAME[:VARIANT]")
    add("--clips", type=int, default=400, help="of noise (default 400)")
    add("--steps", type=int, default=20, help="per turn (default 20)")
    add("--runs", type=int, default=5, help="as one program (default 5)")
    add("--group", type=int, help="runs that are stepped together; default: automatic")
    args, fields = parse(parser, arguments)
    config = load_config(args.config)
    if "likelihood" in config.detector:  # the loss of the peers
        config.detector.likelihood = "squared"
    set_fields(config, dict(fields))
    task = Task(config, args.clips, args.steps)
    one, several = "ours, 1 run", f"ours, {args.runs} runs"
    turns = {one: ours(task, 1), several: ours(task, args.runs, args.group)}
    name = config.detector.name
    if torch and name in PEERS:
        turns |= {f"torch, {n}": by_torch(task, adam) for n, adam in ADAM.items()}
        if name == CONV_VAE:
            last = by_torch(task, ADAM["fused"], "channels_last")
            turns["torch, channels last"] = last
    losses: dict[str, float] = {}

    def remember(name: str) -> Callable[[], None]:
        return lambda: losses.__setitem__(name, turns[name]())

    rounds = take_turns({name: remember(name) for name in turns}, args)
    amounts = {name: float(args.steps * task.batch) for name in turns}
    amounts[several] *= args.runs
    unit = "windows" if task.windows.width else "clips"
    report(f"Training {args.config}", unit, amounts, rounds, [one, several])
    text = ", ".join(f"{name}: {loss:.2f}" for name, loss in losses.items())
    print(f"loss in the last turn: {text}")


if __name__ == "__main__":
    main()
