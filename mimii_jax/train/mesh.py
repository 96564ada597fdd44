"""A mesh of devices over (run, data), arrays on it, several processes; JAX's cache.

Runs are spread over the rows of the mesh and need no communication; the devices of a
row share the batches of its runs. Features are on every device.
"""

import os
import socket
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from mimii_jax.errors import require, require_positive

RUN, DATA = "run", "data"
PATIENCE_S = 60  # until all processes of a job are there


def make_mesh(n_runs: int, run: int | None = None, data: int | None = None) -> Mesh:
    """A mesh of `run` rows with `data` devices each; None: automatic.

    By default it has every accelerator: as many rows as there are runs, if that divides
    the devices. The virtual devices of a CPU are the same cores: by default one of each
    process is used.
    """
    require_positive("mesh", run=run, data=data)
    devices = jax.devices()
    if devices[0].platform == "cpu" and not (run or data):
        first = {device.process_index: device for device in reversed(devices)}
        devices = [first[process] for process in sorted(first)]
    limit = len(devices) // data if data else min(n_runs, len(devices))
    divisors = (n for n in range(1, limit + 1) if not len(devices) % n)
    rows = run or max(divisors, default=0)
    columns = data or len(devices) // rows
    require(
        0 < rows * columns <= len(devices),
        f"mesh.run={run}, mesh.data={data}: JAX has {len(devices)} devices; leave one "
        "of the two at its default",
    )
    grid = np.array(devices[: rows * columns]).reshape(rows, columns)
    return Mesh(grid, (RUN, DATA), axis_types=(AxisType.Auto,) * 2)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds."""
    return NamedSharding(mesh, P())


def put(tree: Any, sharding: NamedSharding) -> Any:
    """Host arrays, the same in every process, with the given sharding."""

    def put_leaf(leaf: Any) -> Array:
        value = np.asarray(leaf)
        return jax.make_array_from_callback(value.shape, sharding, lambda i: value[i])

    return jax.tree.map(put_leaf, tree)


def replicate(array: Array, mesh: Mesh) -> Array:
    """An array on one local device, the same in every process, on all devices."""
    local = [d for d in mesh.devices.flat if d.process_index == jax.process_index()]
    return jax.make_array_from_single_device_arrays(
        array.shape, replicated(mesh), [jax.device_put(array, d) for d in local]
    )


def keep_compiled_programs() -> None:
    """Let JAX keep compiled programs for the next start."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        import pooch

        folder = pooch.os_cache("mimii_jax") / "compiled"
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def join_processes(coordinator: str, count: int, index: int) -> None:
    """Join the other processes of this job, if it has any.

    Under SLURM, Open MPI or Kubernetes JAX finds them; elsewhere all three are given.
    """
    if coordinator or count or index >= 0:
        require(
            bool(coordinator) and 0 <= index < count,
            f"--coordinator_address='{coordinator}', --num_processes={count}, "
            f"--process_id={index}: give all three, with process_id from 0 to "
            "num_processes - 1",
        )
        if index:
            _wait_for(coordinator)
        jax.distributed.initialize(
            coordinator, count, index, initialization_timeout=PATIENCE_S
        )
    elif started_by_scheduler():
        jax.distributed.initialize()


def _wait_for(coordinator: str) -> None:
    """Wait until process 0 listens: JAX would abort this process after its patience."""
    host, _, port = coordinator.rpartition(":")
    limit = time.monotonic() + PATIENCE_S
    while True:
        try:
            return socket.create_connection((host, int(port)), timeout=1).close()
        except (OSError, ValueError, OverflowError) as error:
            require(
                isinstance(error, OSError) and time.monotonic() < limit,
                f"--coordinator_address={coordinator}: {error}; start process 0 there",
            )
            time.sleep(0.2)


def started_by_scheduler() -> bool:
    """Whether the environment says that a scheduler started several processes."""
    several = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
    if any(int(os.environ.get(name, 1)) > 1 for name in several):
        return True
    return {"KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX"} <= os.environ.keys()


def wait_for_processes(where: str) -> None:
    """Barrier over all processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def agree(*values: int) -> tuple[int, ...]:
    """The maximum of each value over all processes."""
    if jax.process_count() == 1:
        return values
    gathered = multihost_utils.process_allgather(np.array(values))
    return tuple(int(value) for value in np.max(gathered, axis=0))
