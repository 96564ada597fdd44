"""Build typed objects from a ConfigDict; the registry of their classes."""

from collections.abc import Iterator, Mapping
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
from mimii_jax.detectors.functionals import Functionals, default_functionals
from mimii_jax.detectors.neural import NeuralDetector
from mimii_jax.errors import require
from mimii_jax.features.augment import build_augment
from mimii_jax.features.front_ends import FRONT_ENDS, FrontEnd
from mimii_jax.features.windows import Windows
from mimii_jax.models.conv_vae import ConvVAE
from mimii_jax.models.id_classifier import IDClassifier
from mimii_jax.models.mlp import MLPAE, MLPVAE
from mimii_jax.models.model import ModelSpec
from mimii_jax.models.stgram import STgramMFN
from mimii_jax.models.transformer import Transformer
from mimii_jax.results.table import SPLITS
from mimii_jax.train.runs import EXTRA, MATRIX, TYPE, CheckpointPolicy, Settings

MODELS: dict[str, Any] = {
    "mlp_vae": MLPVAE,
    "mlp_ae": MLPAE,
    "conv_vae": ConvVAE,
    "transformer": Transformer,
    "id_classifier": IDClassifier,
    "stgram": STgramMFN,
}
CONTROLS_ONLY, FUNCTIONALS = "controls", "functionals"
VECTORS = (FUNCTIONALS, "yamnet")  # names of the detector of groups of vectors
DEFAULT = "default"  # the scoring that adds nothing to the detector's name
PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
PLACES = ("device", "disk")  # of the training features
Config = Any  # a ConfigDict, of whose fields a type checker knows nothing


@dataclass(frozen=True)
class Evaluation:
    """Choice of test clips, and settings of AUC and pAUC."""

    split: str
    bootstrap: int  # replicates of the 95 % intervals
    max_fpr: float  # where pAUC ends

    def __post_init__(self) -> None:
        _choice("eval.split", self.split, SPLITS)
        n, rate = self.bootstrap, self.max_fpr
        require(n >= 0, f"eval.bootstrap={n}: must be 0 or more")
        require(0 < rate <= 1, f"eval.max_fpr={rate}: must be above 0, up to 1")


@dataclass(frozen=True)
class Experiment:
    """A config's typed objects. Equal experiments give equal numbers."""

    name: str  # of the detector, as in the score table
    data: Dataset
    front_end: FrontEnd
    detector: Detector | None  # None: the controls alone
    # with every back-end and each of `scorings`, by what that adds to the name
    scorings: Mapping[tuple[str, str], Detector]
    companions: Mapping[str, Detector]  # to fuse with
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
    """Build the typed objects of a config; a `ConfigError` names the bad field."""
    sets = tuple(config.training_sets)
    require(bool(sets), "training_sets=(): name at least one, such as 'all'")
    for kind in sets:
        _choice("training_sets", kind, (*MATRIX, TYPE, EXTRA))
    name = config.detector.name
    _choice("detector.name", name, {CONTROLS_ONLY, *VECTORS, *ESTIMATORS, *MODELS})
    front_end, rate = _build_front_end(config), config.features.sample_rate
    data = _construct("data", Dataset, dict(config.data) | {"sample_rate": rate})
    scorings = {}
    if name != CONTROLS_ONLY:
        for suffix, label, scoring in _scorings(config):
            scorings[suffix, label] = _build_detector(
                config, front_end, scoring, data.together
            )
    for companion in config.fuse_with:
        _choice("fuse_with", companion, (FUNCTIONALS,))
        require(sets == ("all",), f"training_sets={sets}: must be all with fuse_with")
    return Experiment(
        name=name,
        data=data,
        front_end=front_end,
        detector=next(iter(scorings.values()), None),
        scorings=scorings,
        companions={one: default_functionals(rate) for one in config.fuse_with},
        seeds=_seeds(config.seeds),
        training_sets=sets,
        init_from=config.get("init_from", ""),
        eval=_construct("eval", Evaluation, config.eval),
        tensorboard=config.get("tensorboard", False),
    )


def _scorings(config: Config) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield what each scoring adds to the detector's name, and its fields."""
    scoring = config.scoring.to_dict()
    scorings = config.scorings.to_dict() or {DEFAULT: {}}
    for label, changes in sorted(scorings.items(), key=lambda pair: pair[0] != DEFAULT):
        for key in changes:
            require(key in scoring, f"scorings.{label}.{key}: unknown field")
        changed = scoring | dict(changes)
        backends = changed["backend"].split(",")
        plain = "mean" if config.detector.name in MODELS else backends[0]
        if label != DEFAULT and len(backends) == 1:
            plain = backends[0]  # the label says it
        for backend in backends:
            suffix = "" if backend == plain else f"+{backend}"
            yield (
                suffix,
                "" if label == DEFAULT else label,
                changed | {"backend": backend},
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
    config: Config, front_end: FrontEnd, scoring: dict[str, Any], together: bool
) -> Detector:
    own = config.detector.to_dict()
    name = own.pop("name")
    scoring = dict(scoring)
    pooling = Pooling(
        scoring.pop("pooling"), scoring.pop("top_k"), scoring.pop("gwrp_r")
    )
    if name in VECTORS:
        own["fused"] = tuple(scoring.pop("groups"))
        banks = _construct("scoring", Scoring, scoring | {"pooling": pooling})
        return _construct(
            "detector", Functionals, own | {"front_end": front_end, "scoring": banks}
        )
    windows = Windows(config.windows.width, config.windows.hop)
    standardise = config.features.standardise
    of_ids = standardise and together
    if name in ESTIMATORS:
        _choice("scoring.backend", scoring["backend"], ("mean",))
        estimator = _construct("detector", ESTIMATORS[name], own)
        return ClassicalDetector(
            estimator, front_end, windows, standardise, pooling, of_ids
        )
    require(
        "train" in config,
        f"detector.name='{name}': this config has no `train` section; start from a "
        "config of a neural detector",
    )
    training = config.train.to_dict()
    precision = training.pop("precision")
    training["augment"] = build_augment(config.augment.to_dict())
    _choice("train.precision", precision, PRECISIONS)
    kept_as = training.pop("features")
    _choice("train.features", kept_as, PRECISIONS)
    on_cpu = jax.default_backend() == "cpu"
    dtype = jnp.float32 if on_cpu else PRECISIONS[precision]
    place = _choice("train.features_on", training.pop("features_on"), PLACES)
    names = [k for k in signature(Scoring).parameters if k in scoring]
    of_scoring = {k: scoring.pop(k) for k in names}
    # What else a scoring has belongs to the model, such as a transformer's horizon.
    return NeuralDetector(
        front_end=front_end,
        model=ModelSpec(MODELS[name], own | scoring, dtype),
        windows=windows,
        scoring_hop=config.windows.scoring_hop,
        standardise=standardise,
        standardise_ids=of_ids,
        features_dtype=PRECISIONS[kept_as],
        on_disk=place == "disk",
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
    for name in values:
        expected = ", ".join(known)
        require(name in known, f"{section}.{name}: unknown field; expected {expected}")
    for name, parameter in known.items():
        given = name in values or parameter.default is not Parameter.empty
        require(given, f"{section}.{name}: missing in this config")
    return kind(**values)


def _seeds(seeds: Any) -> tuple[int, ...]:
    values = tuple(seeds)
    known = all(type(seed) is int and 0 <= seed < 2**32 for seed in values)
    require(
        known and 0 < len(set(values)) == len(values),
        f"seeds={values}: must be one or more different integers >= 0",
    )
    return values


def _choice(field: str, name: Any, known: Any) -> Any:
    choices = ", ".join(sorted(known))
    require(name in known, f"{field}='{name}': must be one of {choices}")
    return name
