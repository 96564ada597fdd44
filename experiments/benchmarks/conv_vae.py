"""Speed of training the conv VAE against the same network in eager PyTorch.

python -m experiments.benchmarks.conv_vae

A turn is a number of Adam steps of the config's network and batch size, on windows of
noise. Timed in all: choosing the batch, gathering its windows from a feature array,
loss with noise, gradients, Adam, summing the loss; then waiting for the sum. Not timed:
front end, compiling, and for PyTorch shuffling.

- ours: the compiled steps of `mimii_jax.train.step`, as in the main job; 1 run, and 3
  runs in one program, which take turns
- torch: eager, the same layers as strided convolutions of kernel 4 and their
  transposes; Adam as it comes, `foreach`, `fused`, and the last with images whose
  channels lie last

`--group 3` steps the three runs together, to see why the config says
`mesh.group` is 1 on a CPU.
Without PyTorch ours are measured alone.
"""

import argparse
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from configs.conv_vae import get_config
from experiments.benchmarks import mlp_vae
from experiments.benchmarks.mlp_vae import OPTIMIZERS, Task, Turn, torch
from experiments.benchmarks.rounds import add_options, report, take_turns

FORMATS = ("contiguous_format", "channels_last")


def by_torch(task: Task, detector: Any, layout: str, adam: dict[str, Any]) -> Turn:
    """The same architecture and loss in PyTorch, eager, on as many windows."""
    network = torch_network((task.windows.width, task.bins), detector)
    network = network.to(memory_format=getattr(torch, layout))
    optimizer = torch.optim.Adam(
        network.parameters(), lr=task.settings.learning_rate, eps=1e-8, **adam
    )
    features = torch.from_numpy(task.features)
    # Every window of every clip; indexing copies those of a batch.
    view = features.unfold(1, task.windows.width, task.windows.hop).swapaxes(2, 3)
    per_clip = view.shape[1]
    order = torch.randperm(task.n_windows)

    def turn() -> float:
        total = torch.zeros(())
        for step in range(task.steps):
            index = order[step * task.batch : (step + 1) * task.batch]
            x = view[index // per_clip, index % per_clip]
            optimizer.zero_grad()
            loss = torch_loss(network, x, detector.kl_weight)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return total.item() / task.steps

    return turn


def torch_network(shape: tuple[int, int], detector: Any) -> Any:
    """The layers of `ConvVAE`, whose strides are 2 and whose filters cover 2 blocks."""
    if detector.kernel_blocks != 2 or {*detector.strides} != {(2, 2)}:
        raise ValueError("PyTorch's network needs strides (2, 2) and kernel_blocks 2")
    channels = (1, *detector.channels)
    pairs = list(itertools.pairwise(channels))
    halvings = 2 ** len(pairs)
    top = (channels[-1], shape[0] // halvings, shape[1] // halvings)
    if any(size % halvings for size in shape):
        raise ValueError(
            f"PyTorch's network needs multiples of {halvings}, not {shape}"
        )
    nn, width = torch.nn, int(np.prod(top))
    down: list[Any] = []
    up: list[Any] = [nn.Linear(detector.latent, width), nn.Unflatten(1, top)]
    for fine, coarse in pairs:
        down += [nn.Conv2d(fine, coarse, 4, 2, 1), nn.ReLU()]
    for fine, coarse in reversed(pairs):
        up += [nn.ReLU(), nn.ConvTranspose2d(coarse, fine, 4, 2, 1)]
    parts = {
        "encoder": nn.Sequential(*down, nn.Flatten()),
        "mean": nn.Linear(width, detector.latent),
        "log_variance": nn.Linear(width, detector.latent),
        "decoder": nn.Sequential(*up),
    }
    return nn.ModuleDict(parts)


def torch_loss(network: Any, x: Any, kl_weight: float) -> Any:
    """`VAE.loss`, its mean over the batch."""
    hidden = network["encoder"](x[:, None])
    mean, log_variance = network["mean"](hidden), network["log_variance"](hidden)
    z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
    reconstruction = 0.5 * ((x - network["decoder"](z)[:, 0]) ** 2).sum((1, 2))
    divergence = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).sum(-1)
    return (reconstruction + kl_weight * divergence).mean()


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.conv_vae",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--clips", type=int, default=60, help="of noise (default 60)")
    parser.add_argument("--steps", type=int, default=20, help="per turn (default 20)")
    parser.add_argument("--runs", type=int, default=3, help="in one program")
    parser.add_argument("--variant", default="default", help="of the config")
    add_options(parser)
    args = parser.parse_args(arguments)
    config: Any = get_config(args.variant)
    task = Task(args.clips, args.steps, config)
    one, several = "ours, 1 run", f"ours, {args.runs} runs"
    turns: dict[str, Callable[[], Any]] = {
        one: mlp_vae.ours(task, [0]),
        several: mlp_vae.ours(task, range(args.runs)),
    }
    if torch:
        for name, adam in OPTIMIZERS.items():
            turns[f"torch, {name}"] = by_torch(task, config.detector, FORMATS[0], adam)
        last = by_torch(task, config.detector, FORMATS[1], OPTIMIZERS["fused"])
        turns["torch, channels last"] = last
    rounds = take_turns(turns, args)
    amounts = {name: float(args.steps * task.batch) for name in turns}
    amounts[several] *= args.runs
    report("Training the conv VAE", "windows", amounts, rounds, [one, several])


if __name__ == "__main__":
    main()
