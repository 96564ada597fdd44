"""From the config to typed objects; with `run`, all that reads a ConfigDict."""

from collections.abc import Callable
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pooch
from flax import nnx

from mimii_jax.data import dcase, layouts
from mimii_jax.data.clips import Clips
from mimii_jax.data.labels import labels_of
from mimii_jax.detectors.backends import MSE, Pooling, Scoring
from mimii_jax.detectors.classical import (
    ClassicalDetector,
    exact_one_class_svm,
    isolation_forest,
    sgd_one_class_svm,
)
from mimii_jax.detectors.detector import Detector
from mimii_jax.detectors.neural import NeuralDetector, Saving
from mimii_jax.errors import ConfigError, DataError
from mimii_jax.features.augment import Augment
from mimii_jax.features.front_ends import FRONT_ENDS, FrontEnd
from mimii_jax.features.windows import Windows
from mimii_jax.models.conv_vae import ConvVAE
from mimii_jax.models.mlp_ae import MLPAE
from mimii_jax.models.mlp_vae import MLPVAE
from mimii_jax.models.transformer import Transformer
from mimii_jax.results.table import SPLITS
from mimii_jax.slide_rail import simulate as slide_rail
from mimii_jax.train.mesh import make_mesh
from mimii_jax.train.settings import Settings
from mimii_jax.watch import Watch

MODELS = {
    "mlp_vae": MLPVAE,
    "mlp_ae": MLPAE,
    "conv_vae": ConvVAE,
    "transformer": Transformer,
}
CLASSICAL = {
    "isolation_forest": isolation_forest,
    "sgd_one_class_svm": sgd_one_class_svm,
    "exact_one_class_svm": exact_one_class_svm,
}
NO_DETECTOR = "controls"
# How a sequence model scores; a trained one can do it in each way.
OF_DECODING = ("decoding", "given")
# Frames of the clips while a config is checked: enough for any windows and patches.
MANY_FRAMES = 10_000
PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
Config = Any  # a ConfigDict, of whose fields a type checker knows nothing


def check(config: Config) -> None:
    """Build everything once, so that a bad value is refused before any work."""
    try:
        detector = build_detector(config)
        build_front_end(config)
        if isinstance(detector, ClassicalDetector):
            detector.build(0)
        if isinstance(detector, NeuralDetector):
            model = _abstract_model(detector, MANY_FRAMES, 1)
            detector.settings.split(model)
            make_mesh(1, *detector.mesh)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    except (AttributeError, LookupError, TypeError) as error:
        raise ConfigError(
            f"detector.name='{config.detector.name}': does not fit the other settings "
            f"of this config ({' '.join(str(error).split())})"
        ) from error
    try:
        _check_values(config)
    except (AttributeError, KeyError) as error:
        raise ConfigError(
            f"a field is missing in this config ({' '.join(str(error).split())}): it "
            "is of another version of mimii_jax; name the experiment with --config"
        ) from error


def _check_values(config: Config) -> None:
    """Refuse a bad value of what is not built."""
    c = config.eval
    _choice("eval.split", c.split, SPLITS)
    _choice("data.on_bad_file", config.data.on_bad_file, ("error", "skip"))
    for field in ("test_normals", "split_seed"):
        value = config.data[field]
        _require(value >= 0, f"data.{field}", value, "0 or more")
    if "mesh" in config:
        group = config.mesh.group
        _require(group >= 0, "mesh.group", group, "0 or more")
    _require(c.bootstrap >= 0, "eval.bootstrap", c.bootstrap, "0 or more")
    _require(0 < c.max_fpr <= 1, "eval.max_fpr", c.max_fpr, "above 0, up to 1")
    for field in ("ids", "machine_types"):
        value = tuple(config.data[field])
        texts = all(isinstance(item, str) for item in value)
        _require(texts, f"data.{field}", value, "strings, such as \"('00', '02')\"")
    seeds = tuple(config.seeds)
    known = all(isinstance(seed, int) and 0 <= seed < 2**32 for seed in seeds)
    several = "one or more different integers from 0 on"
    _require(known and 0 < len(set(seeds)) == len(seeds), "seeds", seeds, several)


def machine_types(config: Config) -> list[str]:
    """The machine types that `config.data` asks for."""
    c = config.data
    if c.root:
        types = list(c.machine_types) or layouts.machine_types(Path(c.root))
        if not types:
            raise DataError(f"{c.root}: no folder of a machine type is in it")
        return types
    if tuple(c.machine_types) != ("slider",):
        raise ConfigError(
            f"data.machine_types={tuple(c.machine_types)}: only 'slider' can be "
            "simulated; give data.root for recordings"
        )
    return ["slider"]


def load_clips(
    config: Config,
    machine_type: str,
    watch: Watch,
    splits: tuple[str, ...] = ("train", "test"),
    needed: Callable[[Clips], np.ndarray] | None = None,
) -> Clips:
    """The clips of one machine type, read or simulated; `needed` as in `dcase.read`."""
    c = config.data
    if c.root:
        watch.say(f"{machine_type}: reading {c.root}")
        labels = labels_of(Path(c.root), c.labels)
        clips = dcase.read(
            Path(c.root),
            machine_type,
            tuple(c.ids),
            splits=splits,
            on_bad_file=c.on_bad_file,
            workers=c.workers,
            needed=needed,
            labels=labels,
            test_normals=c.test_normals,
            split_seed=c.split_seed,
            cache=_cache(c.cache),
        )
        if count := sum((machine_type, name) in labels for name in clips.name):
            watch.say(f"{machine_type}: {count} evaluation clips have published labels")
        _check_clips(config, clips)
        return clips
    watch.say(
        f"{machine_type}: SIMULATED sound, not recordings (data.root is empty), at "
        f"{c.scale:g} times the official number of clips"
    )
    simulation = slide_rail.simulate(
        tuple(c.ids) or ("00", "02", "04"),
        scale=c.scale,
        seed=c.simulation_seed,
        workers=c.workers,
    )
    clips = simulation.clips
    _check_clips(config, clips)
    return clips if "train" in splits else clips.test


def _cache(folder: str) -> Path | None:
    """The folder of the cache that `data.cache` names."""
    if folder == "auto":
        return pooch.os_cache("mimii_jax") / "clips"
    return Path(folder).expanduser() if folder else None


def build_front_end(config: Config) -> FrontEnd:
    """The front end that `config.features` names."""
    c = config.features
    front_end = FRONT_ENDS[_choice("features.name", c.name, FRONT_ENDS)]
    # Each takes what it knows: a waveform has no n_fft, a linear spectrum no n_mels.
    return front_end(**{field.name: c[field.name] for field in fields(front_end)})


def build_detector(config: Config) -> Detector | None:
    """The detector that `config.detector` names; None for the controls alone."""
    own = config.detector.to_dict()
    name = _choice("detector.name", own.pop("name"), {NO_DETECTOR, *CLASSICAL, *MODELS})
    if name == NO_DETECTOR:
        return None
    shared: dict[str, Any] = {
        "front_end": build_front_end(config),
        "standardise": config.features.standardise,
    }
    scoring = _build_scoring(config)
    width, hop = config.windows.width, config.windows.hop
    if name in CLASSICAL:
        _choice("scoring.kind", scoring.kind, (MSE,))
        return ClassicalDetector(
            partial(CLASSICAL[name], **own),
            windows=Windows(width, hop),
            max_examples=config.windows.max_examples,
            pooling=scoring.pooling,
            **shared,
        )
    training = config.train.to_dict()
    precision = _choice("train.precision", training.pop("precision"), PRECISIONS)
    on_cpu = jax.default_backend() == "cpu"
    if not on_cpu:
        own["dtype"] = PRECISIONS[precision]
    own |= {k: config.scoring[k] for k in OF_DECODING if k in config.scoring}
    return NeuralDetector(
        partial(MODELS[name], **own),
        windows=Windows(width, hop),
        scoring_windows=Windows(width, config.windows.scoring_hop),
        scoring=scoring,
        validation_fraction=training.pop("validation_fraction"),
        settings=Settings(**training, augment=_build_augment(config)),
        saving=Saving(**config.checkpoint),
        mesh=(config.mesh.run, config.mesh.data),
        # The state of one run fits the cache of a CPU, and keeps its cores busy.
        group=config.mesh.group or int(on_cpu),
        **shared,
    )


def _build_augment(config: Config) -> Augment | None:
    """The augmentations that `config.augment` names."""
    fields = config.augment.to_dict()
    names = fields.pop("names")
    return Augment.of(names, fields) if names else None


def _build_scoring(config: Config) -> Scoring:
    """From errors to scores, as `config.scoring` says."""
    c = config.scoring
    pooling = Pooling(c.pooling, c.top_k, c.gwrp_r)
    return Scoring(c.kind, c.per_id, c.batch_size, pooling)


def _abstract_model(detector: NeuralDetector, n_frames: int, n_bins: int) -> Any:
    """The model for clips of these features, without any numbers."""
    shape = detector.windows.width_in(n_frames), n_bins
    return nnx.eval_shape(lambda: detector.build(shape, rngs=nnx.Rngs(0)))


def _require(holds: bool, field: str, value: Any, what: str) -> None:
    if not holds:
        raise ConfigError(f"{field}={value}: must be {what}")


def _check_clips(config: Config, clips: Clips) -> None:
    """Refuse clips that the front end or its windows do not fit, before any work."""
    c = config.features
    if c.sample_rate != clips.sample_rate:
        raise ConfigError(
            f"features.sample_rate={c.sample_rate}: the clips have {clips.sample_rate}"
        )
    try:
        wave = jax.ShapeDtypeStruct(clips.audio.shape[1:], np.float32)
        n_frames, n_bins = jax.eval_shape(build_front_end(config), wave).shape
        if "windows" in config:
            Windows(config.windows.width).width_in(n_frames)
        detector = build_detector(config)
        if isinstance(detector, NeuralDetector):
            _abstract_model(detector, n_frames, n_bins)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _choice(field: str, name: str, known: Any) -> str:
    if name not in known:
        raise ConfigError(
            f"{field}='{name}': must be one of {', '.join(sorted(known))}"
        )
    return name
