"""Speed of training the reported MLP VAE against the same network in eager PyTorch.

python -m experiments.benchmarks.mlp_vae

A turn is a number of Adam steps of batch 512 on the network of 858,280 parameters.
Timed in all: choosing the batch, gathering its windows of 5 frames from a feature
array, loss with noise, gradients, Adam, summing the loss; then waiting for the sum. Not
timed: front end, compiling, and for PyTorch shuffling.

- ours: the compiled steps of `mimii_jax.train.step`, state donated, several steps per
  dispatch, shuffling, standardising and looking for losses that are not finite, as in
  the main job; 1 run, and 5 runs at once (windows of all runs count)
- torch: eager, from the same parameters; windows are rows of an overlapping view of
  the features, which one indexing copies; Adam as it comes, `foreach`, `fused`

Without PyTorch ours are measured alone.
"""

import argparse
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from configs.mlp_vae import get_config
from experiments.benchmarks.rounds import add_options, report, take_turns
from mimii_jax.config import build_detector
from mimii_jax.features.windows import Standardiser
from mimii_jax.models.mlp import MLPVAE
from mimii_jax.train.loop import Metrics, init_runs, loss_so_far, make_plan, spread
from mimii_jax.train.mesh import make_mesh, replicate
from mimii_jax.train.runs import Run
from mimii_jax.train.step import compile_steps, group_size

# An optional peer, of which a type checker knows nothing.
torch: Any = import_module("torch") if find_spec("torch") else None
FRAMES = 313  # of a 10 s clip
OPTIMIZERS = {"Adam": {}, "foreach": {"foreach": True}, "fused": {"fused": True}}
Turn = Callable[[], float]  # some steps; the mean loss per window in them


class Task:
    """What is trained on what: a config's network and batches of noise."""

    def __init__(self, clips: int, steps: int, config: Any = None) -> None:
        config = config or get_config("reference")
        detector: Any = build_detector(config)
        self.windows, self.settings = detector.windows, detector.settings
        self.detector = detector
        self.kl_weight = config.detector.kl_weight
        self.steps = steps
        self.bins = config.features.n_mels
        shape = (clips, FRAMES, self.bins)
        self.features = np.random.default_rng(0).standard_normal(shape, np.float32)
        self.n_windows = clips * self.windows.per_clip(FRAMES)
        self.batch = self.settings.batch_size
        if self.n_windows < steps * self.batch:
            raise ValueError(f"{steps} steps need more than {clips} clips")

    def build(self, rngs: nnx.Rngs) -> Any:
        """The network."""
        return self.detector.model((self.windows.width, self.bins), rngs=rngs)


def ours(task: Task, seeds: Sequence[int]) -> Turn:
    """Steps as the main job does them, all seeds at once."""
    runs = [Run(seed, np.arange(len(task.features))) for seed in seeds]
    same = [Standardiser.identity(task.bins)] * len(runs)
    graph, state = init_runs(task.build, task.settings, runs, same)
    mesh = make_mesh(len(runs))
    group = group_size(mesh, len(runs))
    plan = make_plan(task.settings, runs, task.windows.per_clip(FRAMES))
    state, plans = spread(mesh, group, state, plan)
    features = replicate(jnp.asarray(task.features), mesh)
    advance = compile_steps(graph, task.windows, task.settings, mesh, group)

    def turn() -> float:
        nonlocal state
        state = advance(state, plans, features, task.steps)
        metrics = jax.device_get(Metrics.of(state))
        metrics = Metrics(*(leaf[: len(runs)] for leaf in metrics))
        return float(np.mean(loss_so_far(metrics, plan, task.batch)))

    return turn


def by_torch(task: Task, adam: dict[str, Any]) -> Turn:
    """The same network, parameters, loss and batches, eager."""
    layers = torch_layers(task.build(nnx.Rngs(0)))
    optimizer = torch_adam(layers, task, adam)
    per_clip, width = task.windows.per_clip(FRAMES), task.windows.width
    view = torch_windows(task)
    order = torch.randperm(task.n_windows)

    def turn() -> float:
        total = torch.zeros(())
        for step in range(task.steps):
            index = order[step * task.batch : (step + 1) * task.batch]
            start = index + index // per_clip * (width - 1)
            optimizer.zero_grad()
            loss = torch_loss(layers, view[start], task.kl_weight)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return total.item() / task.steps

    return turn


def torch_adam(layers: dict[str, Any], task: Task, kind: dict[str, Any]) -> Any:
    """An optimizer of all layers."""
    parameters = [p for layer in layers.values() for p in layer.parameters()]
    return torch.optim.Adam(
        parameters, lr=task.settings.learning_rate, eps=1e-8, **kind
    )


def torch_windows(task: Task) -> Any:
    """An overlapping view of all frames: row i is the window that begins at frame i."""
    frames = torch.from_numpy(task.features).reshape(-1, task.bins)
    width = task.windows.width
    return frames.as_strided(
        (len(frames) - width + 1, width * task.bins), (task.bins, 1)
    )


def torch_layers(model: MLPVAE) -> dict[str, Any]:
    """A Flax network's layers, with the same parameters, in PyTorch."""

    def linear(layer: nnx.Linear) -> Any:
        assert layer.bias is not None
        copy = torch.nn.Linear(layer.in_features, layer.out_features)
        with torch.no_grad():
            copy.weight.copy_(torch.from_numpy(np.array(layer.kernel[...]).T.copy()))
            copy.bias.copy_(torch.from_numpy(np.array(layer.bias[...])))
        return copy

    def stack(layers: Sequence[nnx.Linear]) -> list[Any]:
        return [part for layer in layers for part in (linear(layer), torch.nn.ReLU())]

    return {
        "encoder": torch.nn.Sequential(*stack(list(model.encoder))),
        "mean": linear(model.mean),
        "log_variance": linear(model.log_variance),
        "decoder": torch.nn.Sequential(
            *stack(list(model.decoder)), linear(model.output)
        ),
    }


def torch_loss(layers: dict[str, Any], x: Any, kl_weight: float) -> Any:
    """`MLPVAE.loss`, its mean over the batch."""
    hidden = layers["encoder"](x)
    mean, log_variance = layers["mean"](hidden), layers["log_variance"](hidden)
    z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    reconstruction = 0.5 * ((x - layers["decoder"](z)) ** 2).sum(-1)
    divergence = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).sum(-1)
    return (reconstruction + kl_weight * divergence).mean()


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.mlp_vae",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clips", type=int, default=400, help="of noise (default 400)")
    parser.add_argument("--steps", type=int, default=20, help="per turn (default 20)")
    parser.add_argument("--runs", type=int, default=5, help="at once (default 5)")
    add_options(parser)
    args = parser.parse_args(arguments)
    task = Task(args.clips, args.steps)
    one, several = "ours, 1 run", f"ours, {args.runs} runs"
    turns = {one: ours(task, [0]), several: ours(task, range(args.runs))}
    if torch:
        turns |= {f"torch, {n}": by_torch(task, adam) for n, adam in OPTIMIZERS.items()}
    losses = {}

    def remember(name: str) -> Callable[[], None]:
        return lambda: losses.__setitem__(name, turns[name]())

    rounds = take_turns({name: remember(name) for name in turns}, args)
    amounts = {name: float(args.steps * task.batch) for name in turns}
    amounts[several] *= args.runs
    report("Training the MLP VAE", "windows", amounts, rounds, [one, several])
    text = ", ".join(f"{name}: {loss:.2f}" for name, loss in losses.items())
    print(f"loss per window in the last turn: {text}")


if __name__ == "__main__":
    main()
