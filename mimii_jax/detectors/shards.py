"""Features for a training: on every shard of the mesh those of its runs' clips."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mimii_jax.data.clips import Clips, hold_out
from mimii_jax.features.front_ends import FrontEnd, extract
from mimii_jax.features.windows import Standardiser, clip_moments
from mimii_jax.train.loop import Features
from mimii_jax.train.mesh import EMPTY, Layout
from mimii_jax.train.runs import Run
from mimii_jax.watch import Watch


def extract_for_runs(
    front_end: FrontEnd,
    train: Clips,
    runs: Sequence[Run],
    layout: Layout,
    *,
    standardise: bool,
    validation_fraction: float,
    watch: Watch,
) -> Features:
    """Features of the clips that the runs need, each on the shards that need it.

    Parameters
    ----------
    front_end : features of one clip
    train : training clips, in which the runs' rows count
    runs, layout : which run is where
    standardise : whether a run's features are to be standardised by its own statistics
    validation_fraction : of a run's clips of each machine ID, not to be trained on
    watch : shows a bar
    """
    of_shard = [slots[slots != EMPTY] for slots in layout.slots]
    needed = [
        np.unique(np.concatenate([runs[i].clips for i in members]))
        for members in of_shard
    ]
    clips, held_out = [np.empty(0, int)] * len(runs), [np.empty(0, int)] * len(runs)
    for rows, members in zip(needed, of_shard, strict=True):
        for i in members:
            out = hold_out(train.machine_id[runs[i].clips], validation_fraction)
            row = np.searchsorted(rows, runs[i].clips)
            clips[i], held_out[i] = row[~out], row[out]
    wave = jax.ShapeDtypeStruct(train.audio.shape[1:], np.float32)
    n_bins = jax.eval_shape(front_end, wave).shape[1]
    standardiser = [Standardiser.identity(n_bins)] * len(runs)
    most, arrays = max(map(len, needed)), {}
    local = layout.local_shards
    with watch.bar("features", sum(len(needed[shard]) for shard in local)) as advance:
        for shard in local:
            with jax.default_device(layout.local_device(shard)):
                array = extract(front_end, train.audio, needed[shard], advance)
                if standardise:
                    mean, variance = clip_moments(array)
                    for i in of_shard[shard]:
                        standardiser[i] = Standardiser.of_moments(
                            mean[clips[i]], variance[clips[i]]
                        )
                if len(array) < most:  # shards have one shape
                    array = jnp.pad(array, ((0, most - len(array)), (0, 0), (0, 0)))
            arrays[shard] = array
    return Features(layout.share(arrays), clips, held_out, standardiser)
