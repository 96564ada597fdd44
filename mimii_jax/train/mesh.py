"""Where runs stand: a mesh of devices over (run, data), and slots on its rows.

A row of the mesh is a shard: it holds some of the runs and the clips that these need,
so that shards have nothing to tell each other. The devices of a row share its batches.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Int

RUN, DATA = "run", "data"
EMPTY = -1  # a slot without a run


def make_mesh(n_runs: int, run: int = 0, data: int = 0) -> Mesh:
    """A mesh for this many runs.

    Parameters
    ----------
    n_runs : > 0
    run, data : devices along each axis; 0 chooses. By default every accelerator is
        used: as many shards as there are runs, if that divides the devices, and the
        rest for the batches. The virtual devices of a CPU are the same cores, so that
        only one of each process is used unless asked for.

    Raises
    ------
    ValueError : more devices than there are
    """
    devices = jax.devices()
    if devices[0].platform == "cpu" and not (run or data):
        first = {device.process_index: device for device in reversed(devices)}
        devices = [first[process] for process in sorted(first)]
    limit = len(devices) // data if data else min(n_runs, len(devices))
    if not run:
        run = max((n for n in range(1, limit + 1) if len(devices) % n == 0), default=0)
    if not data and run:
        data = len(devices) // run
    if not 0 < run * data <= len(devices):
        raise ValueError(
            f"mesh.run={run}, mesh.data={data}: there are {len(devices)} devices"
        )
    grid = np.array(devices[: run * data]).reshape(run, data)
    return Mesh(grid, (RUN, DATA), axis_types=(AxisType.Auto,) * 2)


def everywhere(mesh: Mesh) -> NamedSharding:
    """Of arrays that every device of a mesh has."""
    return NamedSharding(mesh, P())


@dataclass(frozen=True, eq=False)
class Layout:
    """Which run stands in which slot of which shard.

    Runs stand in blocks, in the order given, so that runs on the same clips share
    them; within a shard the longest stands first, so that those which are done are the
    last.

    Attributes
    ----------
    mesh : of `make_mesh`
    slots : int [shape=(shard, slot)], the run, or `EMPTY`
    group : int > 0, slots of a shard that are stepped together; groups take turns
    """

    mesh: Mesh
    slots: Int[np.ndarray, "shard slot"]
    group: int

    @classmethod
    def of(cls, mesh: Mesh, lengths: Sequence[int], group: int = 0) -> "Layout":
        """A layout of runs that take so many steps each; group 0 is all of a shard."""
        n_shards = mesh.shape[RUN]
        n_slots = -(-len(lengths) // n_shards)
        slots = np.full((n_shards, n_slots), EMPTY)
        for shard in range(n_shards):
            block = range(len(lengths))[shard * n_slots : (shard + 1) * n_slots]
            ordered = sorted(block, key=lambda run: -lengths[run])
            slots[shard, : len(ordered)] = ordered
        return cls(mesh, slots, group or n_slots)

    @property
    def local_shards(self) -> list[int]:
        """Shards of which this process has a device."""
        process = jax.process_index()
        rows = enumerate(self.mesh.devices)
        return [i for i, row in rows if any(d.process_index == process for d in row)]

    def local_device(self, shard: int) -> Any:
        """The first device of a local shard that belongs to this process."""
        process = jax.process_index()
        return next(d for d in self.mesh.devices[shard] if d.process_index == process)

    @property
    def by_shard(self) -> NamedSharding:
        """Of arrays whose first axis is the shard."""
        return NamedSharding(self.mesh, P(RUN))

    def spread(self, tree: Any, *, empty: Any = None) -> Any:
        """Arrays [run, ...] of every process as arrays [shard, slot, ...] on devices.

        An empty slot gets the values of run 0, or `empty`.
        """

        def spread_leaf(leaf: Any) -> Array:
            leaf = np.asarray(leaf)
            whole = leaf[np.maximum(self.slots, 0)]
            if empty is not None:
                whole[self.slots == EMPTY] = empty
            return _put(whole, self.by_shard)

        return jax.tree.map(spread_leaf, tree)

    def collect(self, tree: Any) -> Any:
        """Arrays [shard, slot, ...] as arrays [run, ...], whole on every device."""
        flat = self.slots.ravel()
        rows = np.argsort(flat)[np.sum(flat == EMPTY) :]
        return _collector(everywhere(self.mesh), tuple(rows.tolist()))(tree)

    def share(self, shards: dict[int, Array]) -> Array:
        """An array of each local shard, all of one shape, as one array [shard, ...].

        The arrays are donated.
        """
        pieces, shape = [], ()
        for shard, array in shards.items():
            row = _as_row(array)
            shape = (len(self.slots), *row.shape[1:])
            for device in self.mesh.devices[shard]:
                if device.process_index == jax.process_index():
                    pieces.append(jax.device_put(row, device))
        return jax.make_array_from_single_device_arrays(shape, self.by_shard, pieces)


@partial(jax.jit, donate_argnums=0)
def _as_row(array: Array) -> Array:
    return array[None]


@cache
def _collector(sharding: NamedSharding, rows: tuple[int, ...]) -> Callable[[Any], Any]:
    """Takes rows of arrays [shard, slot, ...] whose first two axes are made one."""

    def take(leaf: Array) -> Array:
        return leaf.reshape(-1, *leaf.shape[2:])[np.array(rows)]

    return jax.jit(lambda tree: jax.tree.map(take, tree), out_shardings=sharding)


def join_processes(coordinator: str, count: int, index: int) -> None:
    """Join the other processes of this job, if there are any.

    Under SLURM, Open MPI or Kubernetes JAX finds them; elsewhere all three are given.

    Parameters
    ----------
    coordinator : "host:port" of process 0, or "" to look for a cluster
    count, index : processes, and which of them this one is

    Raises
    ------
    ValueError : only some of the three are given, or index is not below count
    """
    if coordinator or count or index >= 0:
        if not (coordinator and 0 <= index < count):
            raise ValueError(
                "--coordinator_address, --num_processes and --process_id belong "
                f"together, and the last counts from 0: '{coordinator}', {count}, "
                f"{index}"
            )
        jax.distributed.initialize(coordinator, count, index)
    elif _in_cluster():
        jax.distributed.initialize()


def _in_cluster() -> bool:
    """Whether this process is one of several that a scheduler has started."""
    several = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    if any(int(os.environ.get(name, 1)) > 1 for name in several):
        return True
    return {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= os.environ.keys()


def share_of_process(n_rows: int, mesh: Mesh) -> Bool[np.ndarray, " row"]:
    """Which rows this process works on, when all devices divide them in blocks."""
    length = -(-n_rows // mesh.size)
    mine = np.zeros(n_rows, bool)
    for block, device in enumerate(mesh.devices.flat):
        if device.process_index == jax.process_index():
            mine[block * length : (block + 1) * length] = True
    return mine


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Arrays that every process has, on every device of a mesh."""
    return jax.tree.map(lambda leaf: _put(np.asarray(leaf), everywhere(mesh)), tree)


def _put(value: np.ndarray, sharding: NamedSharding) -> Array:
    """A host array, of which every process has its part, on the devices."""
    return jax.make_array_from_callback(value.shape, sharding, lambda i: value[i])


def gather_rows(values: np.ndarray, mine: Bool[np.ndarray, " row"]) -> np.ndarray:
    """Rows of all processes, from each those that are its own."""
    if jax.process_count() == 1:
        return values
    own = np.where(mine.reshape(-1, *(1,) * (values.ndim - 1)), values, 0)
    return np.sum(multihost_utils.process_allgather(own), axis=0)


def wait_for_processes(where: str) -> None:
    """Go on when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def agree(*values: int) -> tuple[int, ...]:
    """The greatest of each value over all processes."""
    if jax.process_count() == 1:
        return values
    told = multihost_utils.process_allgather(np.array(values))
    return tuple(int(value) for value in np.max(told, axis=0))
