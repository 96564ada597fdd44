"""Features in a file, for sets that exceed a device's memory, read by Grain.

A record is a block of as many consecutive frames as a window has, so that any window is
read from two records at most and nothing is stored twice.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from shutil import disk_usage, rmtree
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jaxtyping import DTypeLike, Float, Int

from mimii_jax.errors import require
from mimii_jax.features.windows import Windows

AHEAD, THREADS = 8, 4  # batches that are read before they are needed, by threads


def require_packages() -> None:
    """Raise ConfigError unless Grain and ArrayRecord are installed."""
    require(
        all(map(find_spec, ("grain", "array_record"))),
        "train.features_on='disk' needs Grain and ArrayRecord: "
        "pip install 'mimii_jax[large]'",
    )


@dataclass(frozen=True, eq=False)
class Records:
    """Features [clip, frame, bin] in a file."""

    shape: tuple[int, int, int]
    dtype: DTypeLike
    windows: Windows
    source: Any  # of bytes, by number

    def gather(self, index: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n width bin"]:
        """Windows by index, as `Windows.gather`."""
        _, n_frames, n_bins = self.shape
        width = self.windows.width_in(n_frames)
        blocks = -(-n_frames // width)
        clip, window = np.divmod(index, self.windows.per_clip(n_frames))
        block, start = np.divmod(window * self.windows.hop, width)
        pair = np.minimum(block[:, None] + np.arange(min(2, blocks)), blocks - 1)
        numbers = clip[:, None] * blocks + pair
        found = self.source.__getitems__(numbers.ravel().tolist())
        frames = np.frombuffer(b"".join(found), self.dtype)
        frames = frames.reshape(len(index), -1, n_bins)
        rows = start[:, None] + np.arange(width)
        return frames[np.arange(len(index))[:, None], rows]

    def batches(
        self,
        order: Callable[[int], Int[np.ndarray, "run batch"]],
        first: int,
        last: int,
    ) -> Iterator[Float[np.ndarray, "run batch width bin"]]:
        """Batches of the steps from `first` to `last`, read ahead in threads."""
        import grain

        def read(step: int) -> np.ndarray:
            index = order(step)
            found = self.gather(index.ravel())
            return found.reshape(*index.shape, *found.shape[1:])

        steps = grain.MapDataset.range(first, last).map(read)
        return iter(steps.to_iter_dataset(grain.ReadOptions(THREADS, AHEAD)))


def write(
    folder: Path | None,
    shape: tuple[int, int, int],
    dtype: DTypeLike,
    windows: Windows,
    chunks: Iterable[Float[np.ndarray, "chunk frame bin"]],
) -> Records:
    """Write features into a file without a name: no end of the process leaves it."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from grain.sources import ArrayRecordDataSource

    n_clips, n_frames, n_bins = shape
    width = windows.width_in(n_frames)
    padding = (0, -n_frames % width)
    for left in folder.glob("features_*") if folder else ():  # by a kill
        rmtree(left, ignore_errors=True)
    with TemporaryDirectory(prefix="features_", dir=folder) as scratch:
        size = n_clips * sum((n_frames, *padding)) * n_bins * np.dtype(dtype).itemsize
        free = disk_usage(scratch).free
        require(
            1.1 * size < free,
            f"{scratch}: features need {1.1 * size / 1e9:,.1f} GB of disk, "
            f"{free / 1e9:,.1f} GB are free; choose another workdir",
        )
        path = f"{scratch}/features.array_record"
        writer = ArrayRecordWriter(path, "group_size:1,uncompressed")
        for chunk in chunks:
            padded = np.pad(chunk, ((0, 0), padding, (0, 0)))
            for block in padded.reshape(-1, width, n_bins):
                writer.write(block.tobytes())
        writer.close()
        source = ArrayRecordDataSource(path)
        source[0]  # opens the file: it stays until the reader is gone, whatever happens
        return Records(shape, dtype, windows, source)
