"""What is kept of clips when they are scored, on all devices at once."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float32, Int16

from mimii_jax.detectors.backends import Scoring
from mimii_jax.features.front_ends import CLIPS_IN_CACHE, CLIPS_PER_TRANSFER, FrontEnd
from mimii_jax.features.windows import Standardiser, Windows
from mimii_jax.train.mesh import DATA, RUN, everywhere, replicate
from mimii_jax.train.step import in_groups

# Sequences that a model works through at once, when whole clips are its examples.
CLIPS_AT_ONCE = {"cpu": 16}
CLIPS_AT_ONCE_ELSEWHERE = 64


class Program(NamedTuple):
    """What is compiled into the scoring of clips.

    Attributes
    ----------
    graph : structure that the models of all runs share
    front_end, windows, scoring : from a clip to what is kept of it
    group : runs that a device works through at once
    mesh : over whose devices the clips are divided
    """

    graph: nnx.GraphDef
    front_end: FrontEnd
    windows: Windows
    scoring: Scoring
    group: int
    mesh: Mesh


def summarise(
    program: Program,
    models: tuple[Any, Any, Standardiser],
    audio: Int16[np.ndarray, "clip time"],
    advance: Callable[[int], None],
) -> Float32[np.ndarray, "run clip column"]:
    """What `Scoring.summary` keeps of every clip under every run's model.

    Parameters
    ----------
    program : how
    models : parameters, what is not trained, and standardiser of all runs
    audio : i16 [shape=(clip, time)], full scale is 32768
    advance : told after each chunk how many more clips are done
    """
    mesh = program.mesh
    by_clip = NamedSharding(mesh, P((RUN, DATA)))
    models = replicate(models, mesh)
    # Every device has a block of the clips, and takes it in chunks of one shape.
    block = -(-len(audio) // mesh.size)
    at_once = clips_at_once(program.scoring, program.windows)
    n_chunk = -(-min(CLIPS_PER_TRANSFER, block) // at_once) * at_once
    shape = (mesh.size * n_chunk, *audio.shape[1:])
    summaries: list[np.ndarray] = [np.empty(0)] * len(audio)

    def rows(device: int, start: int) -> slice:
        end = min(start + n_chunk, block)
        return slice(device * block + start, min(device * block + end, len(audio)))

    def audio_of(start: int, index: Any) -> np.ndarray:
        found = audio[rows((index[0].start or 0) // n_chunk, start)]
        return np.pad(found, ((0, n_chunk - len(found)), (0, 0)))  # with silence

    for start in range(0, block, n_chunk):
        waves = jax.make_array_from_callback(shape, by_clip, partial(audio_of, start))
        chunk = np.asarray(_compile(program)(models, waves))
        for device in range(mesh.size):
            of = rows(device, start)
            first, n = device * n_chunk, max(0, of.stop - of.start)
            summaries[of] = chunk[first : first + n]
            advance(n)
    return np.stack(summaries, axis=1)


def clips_at_once(scoring: Scoring, windows: Windows) -> int:
    """Clips whose errors a device works out at once.

    The windows of one clip are a batch by themselves; a whole clip is one example.
    """
    if scoring.batch_size or windows.width:
        return scoring.batch_size or 1
    return CLIPS_AT_ONCE.get(jax.default_backend(), CLIPS_AT_ONCE_ELSEWHERE)


@cache
def _compile(program: Program) -> Callable[..., Float32[Array, "clip run column"]]:
    """A function of models and audio; every device scores its share of the clips."""
    graph, front_end, windows, scoring, group, mesh = program

    @partial(jax.jit, out_shardings=everywhere(mesh))
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(), P((RUN, DATA))),
        out_specs=P((RUN, DATA)),
    )
    def score_chunk(
        models: tuple[Any, Any, Standardiser], audio: Int16[Array, "clip time"]
    ) -> Array:
        def features_of(clip: Array) -> Array:
            return front_end(clip.astype(np.float32) / 32768)

        def of_clip(features: Array) -> Array:
            index = jnp.arange(windows.per_clip(len(features)))
            x = windows.gather(features[None], index)

            def of_run(run: tuple[Any, Any, Standardiser]) -> Array:
                params, fixed, standardiser = run
                model = nnx.merge(graph, params, fixed)
                error = model.error(standardiser.apply(x))
                return scoring.summary(error.reshape(-1, error.shape[-1]))

            return in_groups(of_run, models, group)

        features = lax.map(features_of, audio, batch_size=CLIPS_IN_CACHE)
        at_once = clips_at_once(scoring, windows)
        # Few clips at a time, so that their windows alone exist.
        return lax.map(of_clip, features, batch_size=at_once if at_once > 1 else None)

    return score_chunk
