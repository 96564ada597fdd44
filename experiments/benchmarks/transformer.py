"""Speed of the reported transformer: training, and scoring autoregressively.

python -m experiments.benchmarks.transformer

The network is that of `configs/transformer.py:reference`, 283 positions of 3,840
features, unless the options below make it smaller; its clips are noise. PyTorch has the
same parameters, in `torch.nn.TransformerEncoder` and `TransformerDecoder`.

Training: a turn is a number of Adam steps. Timed in all: choosing the batch, gathering
patches from the features, loss, gradients, Adam, waiting for the sum of losses. Ours
also shuffles, standardises and looks for losses that are not finite, as in the main
job. PyTorch is eager, with its fused Adam. A dispatch of our compiled steps that is
told to do no step shows what a dispatch costs beside its steps.

Scoring: predictions of one batch, each from the model's own ones before it.

- ours: `Transformer.decode`, a scan with a cache of keys and values
- ours, decoder again: the same network, compiled, without a cache; the encoder runs
  once, and for each position the decoder runs on the whole prefix
- ours, all again: for each position encoder and decoder run on the whole prefix
- torch: the usual loop, eager: the encoder once, the decoder on a growing prefix

Those without a cache would take minutes. They do only the positions in the middle of
`--positions` equal parts of the sequence, and count as that share of the patches; the
encoder's only pass is left out, in their favour. A program is compiled for each of
these positions, which is not timed.

Without PyTorch ours are measured alone.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console

from configs.transformer import get_config
from experiments.benchmarks.rounds import Turn, add_options, report, take_turns
from experiments.benchmarks.transformer_torch import Peer, torch
from mimii_jax.config import build_detector
from mimii_jax.features.windows import Standardiser
from mimii_jax.models.transformer import Transformer
from mimii_jax.train.loop import Metrics, init_runs, loss_so_far, make_plan, spread
from mimii_jax.train.mesh import make_mesh, replicate
from mimii_jax.train.runs import Run
from mimii_jax.train.step import compile_steps

FRAMES = 313  # of a 10 s clip
OURS, NO_STEP, TORCH = "ours", "ours, no step", "torch"
DECODER_AGAIN, ALL_AGAIN = "ours, decoder again", "ours, all again"
Work = Callable[[], Any]


class Task:
    """What is trained and scored on what."""

    def __init__(self, args: argparse.Namespace) -> None:
        config: Any = get_config("reference")
        config.train.batch_size = args.batch
        config.detector.width = args.width
        config.detector.feed_forward = 4 * args.width
        config.detector.encoder_layers = args.layers
        config.detector.decoder_layers = args.layers
        detector: Any = build_detector(config)
        self.windows, self.settings = detector.windows, detector.settings
        self.build_model = detector.model
        self.bins, self.frames = config.features.n_mels, args.frames
        self.steps, self.batch = args.steps, args.batch
        shape = (args.steps * args.batch, self.frames, self.bins)
        self.features = np.random.default_rng(0).standard_normal(shape, np.float32)

    def build(self, rngs: nnx.Rngs) -> Transformer:
        """The network."""
        return self.build_model((self.frames, self.bins), rngs=rngs)


def train_ours(task: Task) -> tuple[Work, Work]:
    """Steps as the main job does them, and a dispatch of none."""
    runs = [Run(0, np.arange(len(task.features)))]
    same = [Standardiser.identity(task.bins)]
    graph, state = init_runs(task.build, task.settings, runs, same)
    mesh = make_mesh(1)
    plan = make_plan(task.settings, runs, 1)
    state, plans = spread(mesh, 1, state, plan)
    features = replicate(jnp.asarray(task.features), mesh)
    advance = compile_steps(graph, task.windows, task.settings, mesh, 1)

    def turn(steps: int) -> float:
        nonlocal state
        state = advance(state, plans, features, steps)
        metrics = jax.device_get(Metrics.of(state))
        return float(loss_so_far(metrics, plan, task.batch)[0])

    return lambda: turn(task.steps), lambda: turn(0)


def train_torch(task: Task, peer: Peer, model: Transformer) -> Work:
    """The same network, parameters, loss and batches, eager."""
    optimizer = torch.optim.Adam(
        peer.parameters, lr=task.settings.learning_rate, eps=1e-8, fused=True
    )
    patches = torch_patches(task, model)
    order = torch.randperm(len(patches))

    def turn() -> float:
        total = torch.zeros(())
        for step in range(task.steps):
            x = patches[order[step * task.batch : (step + 1) * task.batch]]
            optimizer.zero_grad()
            loss = torch.mean((peer.teacher_forced(x[:, :-1]) - x[:, 1:]) ** 2)
            loss.backward()
            optimizer.step()
            total += loss.detach()
        return total.item() / task.steps

    return turn


def torch_patches(task: Task, model: Transformer) -> Any:
    """An overlapping view of the features, [clip patch feature]."""
    features = torch.from_numpy(task.features)
    shape = (len(features), model.n_patches, model.patch * task.bins)
    strides = (task.frames * task.bins, model.stride * task.bins, 1)
    return features.as_strided(shape, strides)


def score(task: Task, model: Transformer, prefixes: list[int]) -> dict[str, Work]:
    """Everyone that scores a batch; those without a cache at some prefixes only."""
    patches = jax.jit(model.patches)(task.features[: task.batch])
    vectors, network = patches[:, :-1], model.network
    memory = jax.jit(lambda v: network.encode(network.embed_positions(v)))(vectors)

    def decoder_again(own: Any, memory: Any) -> Any:
        return network.decode(network.embed_positions(own), memory)[:, -1]

    def all_again(own: Any, true: Any) -> Any:
        return decoder_again(own, network.encode(network.embed_positions(true)))

    def at_prefixes(call: Callable[..., Any], other: Any) -> Work:
        compiled = jax.jit(call)
        inputs = [(vectors[:, :n], other[:, :n]) for n in prefixes]
        return lambda: [compiled(*x).block_until_ready() for x in inputs]

    decode = jax.jit(model.decode)
    everyone: dict[str, Work] = {
        OURS: lambda: decode(patches).block_until_ready(),
        DECODER_AGAIN: at_prefixes(decoder_again, memory),
        ALL_AGAIN: at_prefixes(all_again, vectors),
    }
    if torch:
        peer = Peer(network)
        own, known = (
            torch.from_numpy(np.array(vectors)),
            torch.from_numpy(np.array(memory)),
        )

        def usual_loop() -> None:
            with torch.inference_mode():
                for n in prefixes:
                    peer.next_of(own[:, :n], known)

        everyone[TORCH] = usual_loop
    return everyone


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.benchmarks.transformer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--batch", type=int, default=16, help="clips (default 16)")
    add("--width", type=int, default=512, help="of the model (default 512)")
    add("--layers", type=int, default=4, help="of encoder and decoder (default 4)")
    add("--frames", type=int, default=FRAMES, help=f"of a clip (default {FRAMES})")
    add("--steps", type=int, default=1, help="of training per turn (default 1)")
    add("--positions", type=int, default=4, help="without a cache (default 4)")
    add("--only", choices=["train", "score"], help="one of the two")
    add_options(parser)
    parser.set_defaults(rounds=3, spare=0)
    args = parser.parse_args(arguments)
    task = Task(args)
    model = task.build(nnx.Rngs(0))
    if args.only != "score":
        report_training(task, model, args)
    if args.only != "train":
        report_scoring(task, model, args)


def report_training(task: Task, model: Transformer, args: argparse.Namespace) -> None:
    """Patches per second in training, and what a dispatch costs."""
    step, no_step = train_ours(task)
    turns = {OURS: step, NO_STEP: no_step}
    if torch:
        turns[TORCH] = train_torch(task, Peer(model.network), model)
    rounds = take_turns(turns, args)
    patches = float(task.steps * task.batch * model.network.n_positions)
    amounts = {name: patches for name in turns if name != NO_STEP}
    report("Training the transformer", "patches", amounts, rounds, [OURS])
    share = [turn[NO_STEP].seconds / turn[OURS].seconds for turn in rounds]
    Console().print(
        f"a dispatch takes {np.median(_seconds(rounds, NO_STEP)):.3f} s beside its "
        f"steps: {np.median(share):.1%} of one with {task.steps} (median)",
        highlight=False,
    )


def report_scoring(task: Task, model: Transformer, args: argparse.Namespace) -> None:
    """Patches per second in autoregressive scoring."""
    n = model.network.n_positions
    n_parts = min(args.positions, n)
    prefixes = [1 + int((i + 0.5) * n / n_parts) for i in range(n_parts)]
    turns = score(task, model, prefixes)
    rounds = take_turns(turns, args)
    share = {name: 1.0 if name == OURS else n_parts / n for name in turns}
    amounts = {name: task.batch * n * part for name, part in share.items()}
    report("Scoring autoregressively", "patches", amounts, rounds, [OURS])
    Console().print(
        f"{n} positions, batch {task.batch}; without a cache measured at prefixes of "
        f"{', '.join(map(str, prefixes))} and taken as {n_parts}/{n} of the work",
        highlight=False,
    )


def _seconds(rounds: list[dict[str, Turn]], name: str) -> list[float]:
    return [turns[name].seconds for turns in rounds]


if __name__ == "__main__":
    main()
