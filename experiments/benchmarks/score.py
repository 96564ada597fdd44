"""Speed of scoring autoregressively with the reported transformer.

python -m experiments.benchmarks.score

Predictions of one batch of noise, each from the model's earlier predictions, by the
network of `configs/transformer.py:reference` (283 positions of 3,840 features):

- ours: `Transformer.decode`, a scan with a cache of keys and values
- ours, decoder again: compiled, without a cache; the encoder runs once, the decoder
  for each position on the whole prefix
- ours, all again: for each position encoder and decoder run on the whole prefix
- torch: the usual loop, eager: the encoder once, the decoder on a growing prefix

Those without a cache would take minutes. They do the positions in the middle of
`--positions` equal parts of the sequence, and count as that share of the patches; the
encoder's only pass is left out, in their favour. Compiling is not timed. Any field can
be set: --config.section.field=value. Without PyTorch ours are timed alone.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from experiments.benchmarks.peers import Transformer
from experiments.benchmarks.rounds import benchmark_parser, report, take_turns, torch
from experiments.benchmarks.train import Task
from experiments.run_cells import parse
from mimii_jax.named import load_config, set_fields

OURS, TORCH = "ours", "torch"
Work = Callable[[], Any]


def contestants(model: Any, x: np.ndarray, prefixes: list[int]) -> dict[str, Work]:
    """Contestants that score a batch; those without a cache at some prefixes only."""
    patches = jax.jit(model.patches)(x)
    vectors, network = patches[:, :-1], model.network

    def encode(true: Any) -> Any:
        return network.encode(network.embed_positions(true))

    def decoder_again(own: Any, memory: Any) -> Any:
        return network.decode(network.embed_positions(own), memory)[:, -1]

    def all_again(own: Any, true: Any) -> Any:
        return decoder_again(own, encode(true))

    def at_prefixes(call: Callable[..., Any], other: Any) -> Work:
        compiled = jax.jit(call)
        inputs = [(vectors[:, :n], other[:, :n]) for n in prefixes]
        return lambda: [compiled(*x).block_until_ready() for x in inputs]

    decode, memory = jax.jit(model.decode), jax.jit(encode)(vectors)
    everyone: dict[str, Work] = {
        OURS: lambda: decode(patches).block_until_ready(),
        "ours, decoder again": at_prefixes(decoder_again, memory),
        "ours, all again": at_prefixes(all_again, vectors),
    }
    if torch:
        peer = Transformer(model)
        own, known = (torch.from_numpy(np.array(a)) for a in (vectors, memory))

        def usual_loop() -> None:
            with torch.inference_mode():
                for n in prefixes:
                    peer.next_of(own[:, :n], known)

        everyone[TORCH] = usual_loop
    return everyone


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = benchmark_parser("score", __doc__)
    parser.add_argument("--batch", type=int, default=16, help="clips (default 16)")
    parser.add_argument("--positions", type=int, default=4, help="without a cache (4)")
    parser.set_defaults(rounds=3, spare=0)
    args, fields = parse(parser, arguments)
    config = load_config("transformer:reference")
    set_fields(config, {"train.batch_size": args.batch, **dict(fields)})
    task = Task(config, clips=args.batch, steps=1)
    model = task.build(nnx.Rngs(0))
    n = model.network.n_positions
    n_parts = min(args.positions, n)
    prefixes = [1 + int((i + 0.5) * n / n_parts) for i in range(n_parts)]
    turns = contestants(model, task.features, prefixes)
    rounds = take_turns(turns, args)
    share = {name: 1.0 if name == OURS else n_parts / n for name in turns}
    amounts = {name: args.batch * n * part for name, part in share.items()}
    report("Scoring autoregressively", "patches", amounts, rounds, [OURS])
    print(
        f"{n} positions, batch {args.batch}; without a cache timed at prefixes of "
        f"{', '.join(map(str, prefixes))} and taken as {n_parts}/{n} of the work"
    )


if __name__ == "__main__":
    main()
