"""One experiment: build from the config, load, fit, score, evaluate, report.

The only module that reads a ConfigDict; below it there are typed objects.
"""

import csv
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from mimii_jax.data import dcase, slide_rail
from mimii_jax.data.clips import ANOMALOUS, NORMAL, Clips, DataError
from mimii_jax.detectors import Detector
from mimii_jax.detectors.classical import (
    ClassicalDetector,
    exact_one_class_svm,
    isolation_forest,
    sgd_one_class_svm,
)
from mimii_jax.detectors.controls import score_controls
from mimii_jax.detectors.neural import NeuralDetector
from mimii_jax.features import FRONT_ENDS, FrontEnd, Windows
from mimii_jax.models.mlp_ae import MLPAE
from mimii_jax.models.mlp_vae import MLPVAE
from mimii_jax.official import write_official
from mimii_jax.parts import PARTS, part_title, split_part
from mimii_jax.report.figures import write_figures
from mimii_jax.report.tables import results_table
from mimii_jax.results import evaluate
from mimii_jax.scores import Scores, read_scores, write_scores
from mimii_jax.scoring import Pooling
from mimii_jax.train import Settings
from mimii_jax.watch import Watch

MODELS = {"mlp_vae": MLPVAE, "mlp_ae": MLPAE}
CLASSICAL = {
    "isolation_forest": isolation_forest,
    "sgd_one_class_svm": sgd_one_class_svm,
    "exact_one_class_svm": exact_one_class_svm,
}
NO_DETECTOR = "controls"
Config = Any  # a ConfigDict, of whose fields a type checker knows nothing


class ConfigError(Exception):
    """A config that cannot be run; the message names the field."""


def train(config: Config, workdir: Path, watch: Watch) -> None:
    """Fit the config's detector, score the test clips and write the workdir.

    Raises
    ------
    ConfigError, DataError
        Before anything is trained or written.
    """
    _check(config)
    if workdir.exists() and any(workdir.iterdir()):
        raise ConfigError(
            f"--workdir={workdir}: is not empty; choose another one, or "
            "--mode=evaluate to score again with its model"
        )
    types = _machine_types(config)
    if len(types) > 1:
        # A bad file of the last type is found before the first is trained on.
        for machine_type in types:
            load_clips(config, machine_type, watch)
    tables = []
    for machine_type in types:
        clips = load_clips(config, machine_type, watch)
        if machine_type == types[0]:
            workdir.mkdir(parents=True, exist_ok=True)
            text = json.dumps(config.to_dict(), indent=2)
            (workdir / "config.json").write_text(text + "\n")
            watch.metrics = workdir / "metrics.jsonl"
        watch.context = {"machine_type": machine_type}
        detector = build_detector(config)
        if detector:
            seeds = tuple(config.seeds)
            detector = detector.fit(clips.train, seeds, watch)
            detector.save(workdir / "checkpoints" / machine_type)
        tables.append(_score(config, detector, clips.test, watch))
        _append_clips(clips, workdir / "clips.csv")
        _add_examples(config, clips.test, workdir / "examples.npz")
    _report(config, Scores.concatenate(tables), workdir, watch)


def evaluate_again(config: Config, workdir: Path, out: Path, watch: Watch) -> None:
    """Score with the trained model of `workdir`, and write tables into `out`.

    The clips are those that `config` names, which may be others than those of the
    training; everything that the model depends on must be as it was in training.
    """
    _check(config)
    saved = load_config(workdir)
    for section in ("features", "windows", "detector", "seeds"):
        asked, known = _flat(config.get(section)), _flat(saved.get(section))
        if asked != known:
            raise ConfigError(
                f"--config: '{section}' differs from that of the model in {workdir}: "
                f"{asked} against {known}"
            )
    tables = []
    for machine_type in _machine_types(config):
        clips = load_clips(config, machine_type, watch, splits=("test",))
        detector = build_detector(config)
        if detector:
            folder = workdir / "checkpoints" / machine_type
            if not folder.is_dir():
                raise ConfigError(f"{folder}: no trained model of {machine_type}")
            detector = detector.load(folder, tuple(config.seeds))
        tables.append(_score(config, detector, clips, watch))
        out.mkdir(parents=True, exist_ok=True)
        _append_clips(clips, out / "clips.csv")
        _add_examples(config, clips, out / "examples.npz")
    scores = Scores.concatenate(tables)
    _report(config, scores, out, watch)
    if _same(scores, read_scores(workdir / "scores.csv")):
        watch.say(f"scores: identical to those in {workdir / 'scores.csv'}")


def load_config(workdir: Path) -> Config:
    """The config of a workdir."""
    path = workdir / "config.json"
    try:
        return ConfigDict(_tuples(json.loads(path.read_text())))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: no config of a finished training") from error


def load_clips(
    config: Config,
    machine_type: str,
    watch: Watch,
    splits: tuple[str, ...] = ("train", "test"),
) -> Clips:
    """The clips of one machine type, read or simulated."""
    c = config.data
    if c.root:
        watch.say(f"{machine_type}: reading {c.root}")
        clips = dcase.read(
            Path(c.root),
            machine_type,
            tuple(c.ids),
            splits=splits,
            on_bad_file=c.on_bad_file,
            workers=c.workers,
        )
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


def build_front_end(config: Config) -> FrontEnd:
    """The front end that `config.features` names."""
    fields = config.features.to_dict()
    name = _choice("features.name", fields.pop("name"), FRONT_ENDS)
    fields.pop("standardise")
    if name != "log_mel":
        fields.pop("n_mels")
    return FRONT_ENDS[name](**fields)


def build_detector(config: Config) -> Detector | None:
    """The detector that `config.detector` names; None for the controls alone."""
    fields = config.detector.to_dict()
    name = _choice(
        "detector.name", fields.pop("name"), {NO_DETECTOR, *CLASSICAL, *MODELS}
    )
    if name == NO_DETECTOR:
        return None
    shared: dict[str, Any] = {
        "front_end": build_front_end(config),
        "standardise": config.features.standardise,
        "pooling": Pooling(**config.scoring),
    }
    width, hop = config.windows.width, config.windows.hop
    if name in CLASSICAL:
        return ClassicalDetector(
            partial(CLASSICAL[name], **fields),
            windows=Windows(width, hop) if width else None,
            max_examples=config.windows.max_examples,
            **shared,
        )
    training = config.train.to_dict()

    def build(n_features: int, rngs: nnx.Rngs) -> Any:
        return MODELS[name](n_features, **fields, rngs=rngs)

    return NeuralDetector(
        build,
        windows=Windows(width, hop),
        validation_fraction=training.pop("validation_fraction"),
        settings=Settings(**training),
        **shared,
    )


def _check(config: Config) -> None:
    """Build everything once, so that a bad value is refused before any work."""
    try:
        detector = build_detector(config)
        build_front_end(config)
        if isinstance(detector, ClassicalDetector):
            detector.build(0)
        if isinstance(detector, NeuralDetector):
            nnx.eval_shape(lambda: detector.build(8, nnx.Rngs(0)))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    except (AttributeError, LookupError, TypeError) as error:
        raise ConfigError(
            f"detector.name='{config.detector.name}': does not fit the other settings "
            f"of this config ({' '.join(str(error).split())})"
        ) from error
    c = config.eval
    _choice("eval.split", c.split, PARTS)
    _choice("data.on_bad_file", config.data.on_bad_file, ("error", "skip"))
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
        n_frames = jax.eval_shape(build_front_end(config), wave).shape[0]
        if "windows" in config:
            Windows(config.windows.width or n_frames).per_clip(n_frames)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _machine_types(config: Config) -> list[str]:
    c = config.data
    if c.root:
        types = list(c.machine_types) or dcase.machine_types(Path(c.root))
        if not types:
            raise DataError(f"{c.root}: no folder of a machine type is in it")
        return types
    if tuple(c.machine_types) != ("slider",):
        raise ConfigError(
            f"data.machine_types={tuple(c.machine_types)}: only 'slider' can be "
            "simulated; give data.root for recordings"
        )
    return ["slider"]


def _score(
    config: Config, detector: Detector | None, clips: Clips, watch: Watch
) -> Scores:
    """The detector's scores under every seed, and the controls'."""
    tables = []
    if detector:
        for seed, score in zip(config.seeds, detector.score(clips, watch), strict=True):
            name = config.detector.name
            tables.append(Scores.of_clips(name, seed, clips, score))
    return Scores.concatenate([*tables, score_controls(clips, watch)])


def _report(config: Config, scores: Scores, workdir: Path, watch: Watch) -> None:
    """Write tables and figures into the workdir, and print the results."""
    write_scores(scores, workdir / "scores.csv")
    write_official(scores, workdir / "official")
    c = config.eval
    part = split_part(scores, c.split, c.split_seed)
    rows = evaluate(part, bootstrap=c.bootstrap, max_fpr=c.max_fpr)
    source = config.data.root or "simulated sound"
    for machine_type in scores.machine_types:
        of_type = [row for row in rows if row.machine_type == machine_type]
        title = f"{machine_type}, {source}: {part_title(c.split)}"
        watch.console.print(results_table(of_type, title))
    write_figures(workdir, part=c.split, seed=c.split_seed)
    watch.say(f"workdir: {workdir}")


def _append_clips(clips: Clips, path: Path) -> None:
    """Add a row per clip to clips.csv."""
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        write = csv.writer(file, lineterminator="\n").writerow
        if fresh:
            write(("machine_type", "split", "machine_id", "label", "name"))
        rows = (clips.split, clips.machine_id, clips.label, clips.name)
        for row in zip(*(column.tolist() for column in rows), strict=True):
            write((clips.machine_type, *row))


def _add_examples(config: Config, clips: Clips, path: Path) -> None:
    """Add the features of each ID's first normal and anomalous clip, for pictures."""
    front_end = build_front_end(config)
    examples: dict[str, Any] = dict(np.load(path)) if path.exists() else {}
    examples["frequency"] = front_end.frequencies
    examples["seconds_per_frame"] = front_end.hop / clips.sample_rate
    features = jax.jit(lambda clip: front_end(clip.astype(np.float32) / 32768))
    for machine_id in clips.ids:
        for label, kind in ((NORMAL, "normal"), (ANOMALOUS, "anomalous")):
            of = (clips.machine_id == machine_id) & (clips.label == label)
            if of.any():
                key = f"{clips.machine_type}/{machine_id}/{kind}"
                examples[key] = np.asarray(features(clips.audio[np.argmax(of)]))
    np.savez_compressed(path, **examples)


def _choice(field: str, name: str, known: Any) -> str:
    if name not in known:
        raise ConfigError(
            f"{field}='{name}': must be one of {', '.join(sorted(known))}"
        )
    return name


def _same(a: Scores, b: Scores) -> bool:
    """Whether two tables hold the same clips and the very same numbers."""
    return len(a) == len(b) and all(
        np.array_equal(getattr(a, column), getattr(b, column))
        for column in ("detector", "seed", "machine_type", "name", "score")
    )


def _tuples(value: Any) -> Any:
    """JSON has no tuples: its lists into tuples, at every depth."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _flat(section: Any) -> str:
    """A section as text; ConfigDicts themselves differ by being locked, too."""
    fields = section.to_dict() if isinstance(section, ConfigDict) else section
    return json.dumps(fields, sort_keys=True)
