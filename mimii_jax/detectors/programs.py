"""Compiled programs of trained models: vectors of clips, and what explains them."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float32, Int, Int16

from mimii_jax.detectors.backends import Scoring
from mimii_jax.features.front_ends import FrontEnd, map_clips
from mimii_jax.features.windows import Standardiser, Windows
from mimii_jax.train.mesh import DATA, RUN, replicated

# Whole clips that a model works through at once.
CLIPS_AT_ONCE, CLIPS_AT_ONCE_ON_CPU = 64, 8


class Models(NamedTuple):
    """Models of all runs; every leaf has the run as first axis."""

    params: Any
    fixed: Any
    standardiser: Standardiser


def clips_at_once(windows: Windows) -> int:
    """Clips whose errors a device computes at once; the windows of one are a batch."""
    if windows.width:
        return 1
    return CLIPS_AT_ONCE_ON_CPU if jax.default_backend() == "cpu" else CLIPS_AT_ONCE


@cache
def compile_explanation(
    graph: nnx.GraphDef, front_end: FrontEnd, windows: Windows
) -> Callable[[Models, Array, Array], tuple[Array, Array, Array]]:
    """A function of a run's models, a clip and its row: features, expected, track."""

    @jax.jit
    def of_clip(models: Models, audio: Array, row: Array) -> tuple[Array, Array, Array]:
        model = nnx.merge(graph, models.params, models.fixed)
        standardiser = models.standardiser.of(row)
        features = front_end(audio.astype(np.float32) / 32768)
        expected = model.predict(
            standardiser.apply(features[windows.tiles(len(features))])
        )
        index = jnp.arange(windows.per_clip(len(features)))
        x = windows.gather(features[None], index)
        track = jnp.mean(model.error(standardiser.apply(x)), axis=-1).ravel()
        return features, standardiser.undo(expected), track

    return of_clip


@cache
def compile_summaries(
    graph: nnx.GraphDef,
    front_end: FrontEnd,
    windows: Windows,
    representation: str,
    scoring: Scoring | None,
    group: int,
    mesh: Mesh,
) -> Callable[..., Float32[Array, "clip run ..."]]:
    """A function of models, audio and groups; devices share the clips."""

    @partial(jax.jit, out_shardings=replicated(mesh))
    @partial(
        jax.shard_map,
        mesh=mesh,
        in_specs=(P(), P((RUN, DATA)), P((RUN, DATA))),
        out_specs=P((RUN, DATA)),
    )
    def score_chunk(
        models: Models, audio: Int16[Array, "clip time"], groups: Int[Array, " clip"]
    ) -> Array:
        def of_clip(clip: tuple[Array, Array]) -> Array:
            features, row = clip
            index = jnp.arange(windows.per_clip(len(features)))
            x = windows.gather(features[None], index)

            def of_run(run: Models) -> Array:
                model = nnx.merge(graph, run.params, run.fixed)
                standard = run.standardiser.of(row).apply(x)
                vectors = getattr(model, representation)(standard)
                vectors = vectors.reshape(-1, vectors.shape[-1])  # [segment column]
                return scoring.summary(vectors) if scoring else vectors

            return lax.map(of_run, models, batch_size=group if group > 1 else None)

        pairs = map_clips(front_end, audio), groups
        at_once = clips_at_once(windows)
        # Few clips at a time, so that only their windows exist.
        return lax.map(of_clip, pairs, batch_size=at_once if at_once > 1 else None)

    return score_chunk
