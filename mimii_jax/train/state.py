"""State and plan of runs: initialised on the host, spread over the devices."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Float32, Int, UInt32

from mimii_jax.errors import ConfigError, require
from mimii_jax.features.windows import Standardiser
from mimii_jax.train.checkpoints import Checkpoints
from mimii_jax.train.mesh import RUN, put, replicated
from mimii_jax.train.runs import Labels, Pretrained, Run, Settings

OPTIMIZER = optax.scale_by_adam()
Leaf = Any  # an array of JAX or NumPy


class TrainState(NamedTuple):
    """State of one run; of several, if every leaf has the run as first axis."""

    step: Int[Leaf, "..."]
    alive: Bool[Leaf, "..."]  # every loss was finite
    loss_sum: Float32[Leaf, "..."]  # over this epoch's examples so far
    epoch_loss: Float32[Leaf, "..."]  # mean of the last whole epoch
    params: Any  # trained
    fixed: Any  # not trained: frozen parameters, run variables
    opt_state: Any
    key: UInt32[Leaf, "... 2"]
    standardiser: Standardiser


class Plan(NamedTuple):
    """Training plan of one run, or of several."""

    clips: Int[Leaf, "... clip"]  # rows of the training features, padded
    n_examples: Int[Leaf, "..."]
    n_steps: Int[Leaf, "..."]  # per epoch
    total: Int[Leaf, "..."]  # steps of all epochs
    peak_lr: Float32[Leaf, "..."]
    validation: Int[Leaf, "... clip"]  # rows of the held-out features, padded
    n_validation: Int[Leaf, "..."]
    augment: dict[str, Float32[Leaf, "..."]]  # numbers of its augmentations
    # classes of all rows of the features; None: the loss needs none
    labels: Int[Leaf, "... row"] | None = None
    held_out_labels: Int[Leaf, "... row"] | None = None
    # groups of all rows, of whose standardisers each has one; None: one for all
    groups: Int[Leaf, "... row"] | None = None
    held_out_groups: Int[Leaf, "... row"] | None = None
    # windows of the next step; None: it gathers them from the features
    batch: Float[Leaf, "... batch width bin"] | None = None


def init_runs(
    build: Callable[..., Any],
    settings: Settings,
    runs: Sequence[Run],
    standardisers: Sequence[Standardiser],
) -> tuple[nnx.GraphDef, TrainState]:
    """Graph of the models, and the initial state of all runs, on the host."""
    graph, init = _initialiser(build, settings)
    init = jax.jit(init)
    states = []
    for run, standardiser in zip(runs, standardisers, strict=True):
        if run.pretrained:
            standardiser = run.pretrained.standardiser.fitting(standardiser)
        state = init(np.uint32(run.seed), standardiser)
        for name in run.changes.keys() - settings.per_run:
            if name not in state.fixed or isinstance(state.fixed[name], nnx.Param):
                raise ConfigError(f"{name}: runs can't differ in it; train separately")
            state.fixed[name][...] = jnp.float32(run.changes[name])
        if run.pretrained:
            _set_params(state.params, run.pretrained)
            _set_params(state.fixed, run.pretrained)
        states.append(state)
    return graph, jax.tree.map(lambda *leaves: np.stack(leaves), *states)


def abstract_runs(
    build: Callable[..., Any],
    settings: Settings,
    n_runs: int,
    standardiser: Standardiser,
) -> tuple[nnx.GraphDef, TrainState]:
    """As `init_runs`, but shapes and types only."""
    graph, init = _initialiser(build, settings)
    one = jax.eval_shape(init, np.uint32(0), standardiser)
    return graph, jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((n_runs, *x.shape), x.dtype), one
    )


def _initialiser(
    build: Callable[..., Any], settings: Settings
) -> tuple[nnx.GraphDef, Callable[..., TrainState]]:
    """Graph, and a function (seed, standardiser) -> initial state."""
    graph, *_ = settings.split(nnx.eval_shape(lambda: build(rngs=nnx.Rngs(0))))

    def init(seed: Array, standardiser: Standardiser) -> TrainState:
        model_key, train_key = jax.random.split(jax.random.key(seed))
        _, params, fixed = settings.split(build(rngs=nnx.Rngs(model_key)))
        return TrainState(
            step=jnp.int32(0),
            alive=jnp.bool(True),
            loss_sum=jnp.float32(0),
            epoch_loss=jnp.float32(np.inf),
            params=params,
            fixed=fixed,
            opt_state=OPTIMIZER.init(params),
            key=jax.random.key_data(train_key),
            standardiser=standardiser,
        )

    return graph, init


def _set_params(variables: Any, pretrained: Pretrained) -> None:
    """Replace parameters by pretrained ones."""
    for path, variable in nnx.to_flat_state(variables):
        if isinstance(variable, nnx.Param):
            value = pretrained.params.get(path)
            require(
                value is not None and value.shape == variable.shape,
                f"init_from: {'.'.join(map(str, path))} has the shape {variable.shape} "
                f"here, {getattr(value, 'shape', None)} in the pretrained model; give "
                "both the same detector fields",
            )
            variable[...] = jnp.asarray(value)


def make_plan(
    settings: Settings,
    runs: Sequence[Run],
    per_clip: int,
    labels: Labels | None = None,
    groups: Labels | None = None,
) -> Plan:
    """Plan of all runs, on the host; rows of clips are padded to the same length."""
    n_clips = max(len(run.clips) for run in runs)
    n_validation = max(len(run.validation) for run in runs)

    def of(run: Run) -> Plan:
        own = settings.of(run)
        n_examples = len(run.clips) * per_clip
        n_steps = -(-n_examples // own.batch_size)
        values = own.augment.values if own.augment else {}
        return Plan(
            clips=np.resize(run.clips, n_clips).astype(np.int32),
            n_examples=np.int32(n_examples),
            n_steps=np.int32(n_steps),
            total=np.int32(own.epochs * n_steps),
            peak_lr=np.float32(own.learning_rate),
            validation=np.resize(run.validation, n_validation).astype(np.int32),
            n_validation=np.int32(len(run.validation)),
            augment={name: np.float32(value) for name, value in values.items()},
            labels=labels and labels.train.astype(np.int32),
            held_out_labels=labels and labels.held_out.astype(np.int32),
            groups=groups and groups.train,
            held_out_groups=groups and groups.held_out,
        )

    return jax.tree.map(lambda *leaves: np.stack(leaves), *map(of, runs))


def spread(
    mesh: Mesh, group: int, state: TrainState, plan: Plan
) -> tuple[TrainState, Plan]:
    """Host arrays [run, ...] on the rows of the mesh, padded with runs of no steps."""
    n_runs, multiple = len(plan.total), mesh.shape[RUN] * group
    rows = np.arange(-(-n_runs // multiple) * multiple)
    real = rows < n_runs
    rows = np.where(real, rows, 0)
    state, plan = jax.tree.map(lambda leaf: np.asarray(leaf)[rows], (state, plan))
    plan = plan._replace(total=np.where(real, plan.total, 0))
    return put((state, plan), NamedSharding(mesh, P(RUN)))


def restore_runs(
    checkpoints: Checkpoints, like: TrainState, mesh: Mesh
) -> tuple[int, TrainState]:
    """Step and state of the latest readable checkpoint, or 0 and `like`."""
    step, fields = checkpoints.restore(like._asdict(), replicated(mesh))
    return step, TrainState(**fields)
