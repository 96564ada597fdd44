"""From a ConfigDict to typed objects, and the registry of what can be built."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import Parameter, signature
from typing import Any

import jax
import jax.numpy as jnp

from mimii_jax.dataset import Dataset
from mimii_jax.defaults import flatten
from mimii_jax.detectors.backends import Pooling, Scoring
from mimii_jax.detectors.classical import ESTIMATORS, ClassicalDetector
from mimii_jax.detectors.detector import Detector
from mimii_jax.detectors.functionals import Functionals
from mimii_jax.detectors.neural import ModelSpec, NeuralDetector
from mimii_jax.errors import ConfigError
from mimii_jax.features.augment import build_augment
from mimii_jax.features.front_ends import FRONT_ENDS, FrontEnd
from mimii_jax.features.windows import Windows
from mimii_jax.models.conv_vae import ConvVAE
from mimii_jax.models.mlp import MLPAE, MLPVAE
from mimii_jax.models.transformer import Transformer
from mimii_jax.results.table import SPLITS
from mimii_jax.train.runs import EXTRA, MATRIX, CheckpointPolicy, Settings

MODELS: dict[str, Any] = {
    "mlp_vae": MLPVAE,
    "mlp_ae": MLPAE,
    "conv_vae": ConvVAE,
    "transformer": Transformer,
}
CONTROLS_ONLY, FUNCTIONALS = "controls", "functionals"
PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
Config = Any  # a ConfigDict, of whose fields a type checker knows nothing


@dataclass(frozen=True)
class Evaluation:
    """Which test clips count, and how AUC and pAUC are measured."""

    split: str
    bootstrap: int  # replicates of the 95 % intervals
    max_fpr: float  # where pAUC ends

    def __post_init__(self) -> None:
        _choice("eval.split", self.split, SPLITS)
        if self.bootstrap < 0:
            raise ConfigError(f"eval.bootstrap={self.bootstrap}: must be 0 or more")
        if not 0 < self.max_fpr <= 1:
            raise ConfigError(f"eval.max_fpr={self.max_fpr}: must be above 0, up to 1")


@dataclass(frozen=True)
class Experiment:
    """A config's typed objects. Equal experiments give equal numbers."""

    name: str  # of the detector, as in the score table
    data: Dataset
    front_end: FrontEnd
    detector: Detector | None  # None: the controls alone
    scorings: Mapping[str, Detector]  # with each of `scorings`; "": with `scoring`
    seeds: tuple[int, ...]
    training_sets: tuple[str, ...]
    init_from: str
    eval: Evaluation = field(compare=False)
    tensorboard: bool = field(compare=False)

    def training(self) -> object:
        """Everything that the fitted models depend on, but the recordings."""
        detector = self.detector and self.detector.training()
        data = (self.data.test_normals, self.data.validation_fraction)
        return (self.name, detector, self.seeds, self.training_sets, data)


def build(config: Config) -> Experiment:
    """Build the typed objects of a config.

    Raises
    ------
    ConfigError : names the field
    """
    name = config.detector.name
    _choice("detector.name", name, {CONTROLS_ONLY, FUNCTIONALS, *ESTIMATORS, *MODELS})
    front_end = _build_front_end(config)
    scorings: dict[str, Detector] = {}
    detector = None
    if name != CONTROLS_ONLY:
        scoring = config.scoring.to_dict()
        detector = _build_detector(config, front_end, scoring)
        for label, changes in config.get("scorings", {}).items():
            changed = scoring | dict(changes)
            if unknown := sorted(changed.keys() - scoring.keys()):
                raise ConfigError(f"scorings.{label}.{unknown[0]}: unknown field")
            scorings[label] = _build_detector(config, front_end, changed)
    return Experiment(
        name=name,
        data=_construct("data", Dataset, config.data),
        front_end=front_end,
        detector=detector,
        scorings=scorings or ({"": detector} if detector else {}),
        seeds=_seeds(config.seeds),
        training_sets=_training_sets(config.get("training_sets", ("all",))),
        init_from=config.get("init_from", ""),
        eval=_construct("eval", Evaluation, config.eval),
        tensorboard=config.get("tensorboard", False),
    )


def differences(old: Config, new: Config) -> list[str]:
    """List the fields in which two configs differ, for a message."""
    first, second = flatten(old), flatten(new)
    return [
        f"{name}: {first.get(name, 'missing')} → {second.get(name, 'missing')}"
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    ]


def _build_front_end(config: Config) -> FrontEnd:
    values = config.features.to_dict()
    name = values.pop("name")
    kind = FRONT_ENDS[_choice("features.name", name, FRONT_ENDS)]
    # Each takes what it knows: a waveform has no n_fft, a linear spectrum no n_mels.
    known = signature(kind).parameters
    return kind(**{key: value for key, value in values.items() if key in known})


def _build_detector(
    config: Config, front_end: FrontEnd, scoring: dict[str, Any]
) -> Detector:
    own = config.detector.to_dict()
    name = own.pop("name")
    scoring = dict(scoring)
    pooling = Pooling(
        scoring.pop("pooling"), scoring.pop("top_k"), scoring.pop("gwrp_r")
    )
    if name == FUNCTIONALS:
        own["fused"] = tuple(scoring.pop("groups"))
        banks = _construct("scoring", Scoring, scoring | {"pooling": pooling})
        return _construct(
            "detector", Functionals, own | {"front_end": front_end, "scoring": banks}
        )
    windows = Windows(config.windows.width, config.windows.hop)
    standardise = config.features.standardise
    if name in ESTIMATORS:
        _choice("scoring.backend", scoring["backend"], ("mean",))
        estimator = _construct("detector", ESTIMATORS[name], own)
        return ClassicalDetector(estimator, front_end, windows, standardise, pooling)
    if "train" not in config:
        raise ConfigError(
            f"detector.name='{name}': this config has no `train` section; start from a "
            f"config of a neural detector"
        )
    training = config.train.to_dict()
    precision = training.pop("precision")
    training["augment"] = build_augment(config.augment.to_dict())
    _choice("train.precision", precision, PRECISIONS)
    on_cpu = jax.default_backend() == "cpu"
    dtype = jnp.float32 if on_cpu else PRECISIONS[precision]
    of_scoring = {k: scoring.pop(k) for k in ("backend", "per_id")}
    # What else a scoring has belongs to the model, such as a transformer's decoding.
    return NeuralDetector(
        front_end=front_end,
        model=ModelSpec(MODELS[name], own | scoring, dtype),
        windows=windows,
        scoring_hop=config.windows.scoring_hop,
        standardise=standardise,
        settings=_construct("train", Settings, training),
        scoring=Scoring(**of_scoring, pooling=pooling),
        checkpoint=_construct("checkpoint", CheckpointPolicy, config.checkpoint),
        mesh=(config.mesh.run, config.mesh.data),
        profile=bool(config.get("profile")),
    )


def _construct(section: str, kind: Any, values: Mapping[str, Any] | Config) -> Any:
    """Construct from a section; an unknown or missing field is a `ConfigError`."""
    values = dict(values)
    known = signature(kind).parameters
    if unknown := sorted(values.keys() - known.keys()):
        raise ConfigError(
            f"{section}.{unknown[0]}: unknown field; expected {', '.join(known)}"
        )
    missing = [
        name
        for name, parameter in known.items()
        if parameter.default is Parameter.empty and name not in values
    ]
    if missing:
        raise ConfigError(f"{section}.{missing[0]}: missing in this config")
    return kind(**values)


def _seeds(seeds: Any) -> tuple[int, ...]:
    values = tuple(seeds)
    known = all(isinstance(seed, int) and 0 <= seed < 2**32 for seed in values)
    if not known or not 0 < len(set(values)) == len(values):
        raise ConfigError(
            f"seeds={values}: must be one or more different integers >= 0"
        )
    return values


def _training_sets(kinds: Any) -> tuple[str, ...]:
    for kind in kinds:
        _choice("training_sets", kind, (*MATRIX, EXTRA))
    if not kinds:
        raise ConfigError("training_sets=(): name at least one, such as 'all'")
    return tuple(kinds)


def _choice(field: str, name: Any, known: Any) -> Any:
    if name not in known:
        raise ConfigError(
            f"{field}='{name}': must be one of {', '.join(sorted(known))}"
        )
    return name
