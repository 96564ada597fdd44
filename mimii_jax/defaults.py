"""Defaults of every config; a file in `configs` changes what its experiment needs.

A workdir whose config.json is older than a field gets the field's default from here.
"""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference
from ml_collections.config_dict import placeholder


def base_config() -> ConfigDict:
    """Create the sections that all configs share."""
    c = ConfigDict()
    c.seeds = (0, 1, 2)  # one model each, trained together
    c.deterministic = False  # the same bits on a GPU as well, at some cost in speed
    # Also "id", "downsampled", "without", "all, then id", "all + simulated".
    c.training_sets = ("all",)
    # Name -> changes of `scoring`, each a row; "default": the detector's name alone.
    c.scorings = ConfigDict()  # empty: `scoring` alone
    c.fuse_with = ()  # "functionals": also their scores, and the mean of both

    c.data = ConfigDict()
    # Folder of a folder per machine type, or of one machine's normal recordings; or a
    # csv file,machine,id,split,label. "": simulated.
    c.data.root = ""
    c.data.machine_types = ("slider",)  # (): all there are
    c.data.ids = ()  # (): all there are; simulated: 00, 02 and 04
    c.data.on_bad_file = "error"  # or "skip"
    c.data.channel = FieldReference(0, field_type=object)  # or "mean"
    c.data.seconds = placeholder(float)  # clips are cut or padded; None: most frequent
    c.data.labels = ""  # of evaluation clips; "": eval_data_list.csv in or beside root
    # MIMII layout: normal test clips per ID; None: as many as anomalous ones.
    c.data.test_normals = FieldReference(100, field_type=object)
    c.data.scale = 0.1  # simulated: share of the official number of clips
    c.data.simulation_seed = 0
    c.data.train_share = 1.0  # share of the clips per ID and label
    c.data.test_share = 1.0
    c.data.evaluation = ""  # folder with test clips of further IDs, or "simulated"
    c.data.validation_fraction = 0.0  # of the training clips of each ID, held out

    c.features = ConfigDict()
    c.features.name = "log_mel"  # or "linear", without mel filters; "raw", the wave
    c.features.sample_rate = 16000  # Hz
    c.features.n_fft = 1024  # samples
    c.features.hop = 512  # samples
    c.features.n_mels = 128
    c.features.fmin = 0.0  # Hz
    c.features.fmax = placeholder(float)  # Hz; None: half the sample rate
    c.features.standardise = False  # per bin; with machine_types=all, per ID too

    c.scoring = ConfigDict()
    # "mean" of the errors, or how far they are from those of normal clips: "knn",
    # "ldn", "mahalanobis", ...; "knn+ldn": the mean of both; "mean,knn": a row for each
    c.scoring.backend = "mean"
    c.scoring.representation = "error"  # or "latent"; "nll" if the variance is learned
    c.scoring.per_id = True  # compare with normal clips of the same ID alone
    c.scoring.neighbours = 1  # of knn and ldn
    c.scoring.density_neighbours = 8  # of ldn and lof
    c.scoring.standardise = True  # each column of the vectors
    c.scoring.max_columns = FieldReference(100, field_type=object)  # PCA beyond them
    c.scoring.coreset = placeholder(int)  # clips that cover a bank; None: all
    c.scoring.components = 1  # of gmm
    c.scoring.pooling = "mean"  # over a clip's segments; or "max", "top_k", "gwrp"
    c.scoring.top_k = 10  # segments
    c.scoring.gwrp_r = 0.99

    c.eval = ConfigDict()
    c.eval.split = "all"  # or "validation" (40 % of the test clips), "test" (60 %)
    c.eval.bootstrap = 1000  # replicates for the 95 % intervals
    c.eval.max_fpr = 0.1  # of pAUC
    return c


def add_training(c: Any) -> None:
    """Add the sections that all neural detectors share."""
    c.data.validation_fraction = 0.1
    c.train = ConfigDict()
    c.train.epochs = 10
    c.train.batch_size = 512
    c.train.learning_rate = 1e-3
    c.train.schedule = "cosine"  # to zero at the end; or "constant"
    c.train.warmup = 0.02  # share of all steps
    c.train.freeze = ()  # parts of the model that aren't trained: ("encoder",)
    c.train.precision = "float32"  # or "bfloat16", of the layers; a CPU keeps float32
    c.train.features = "float32"  # or "bfloat16": of all clips
    c.train.features_on = "device"  # or "disk": in a file, where memory lacks

    c.augment = ConfigDict()  # of the training examples, after standardising
    c.augment.names = ()  # such as ("spec_augment",); see features/augment.py

    c.init_from = ""  # workdir of a trained model to fine-tune; "": random
    c.tensorboard = False  # event files beside metrics.jsonl
    c.profile = False  # a JAX profile of one dispatch

    c.mesh = ConfigDict()
    c.mesh.run = placeholder(int)  # devices over which runs are spread; None: automatic
    c.mesh.data = placeholder(int)  # devices that divide the batches of a run

    c.checkpoint = ConfigDict()
    c.checkpoint.every_steps = placeholder(int)  # None: only by the clock
    c.checkpoint.every_minutes = placeholder(float)  # None: only by steps
    c.checkpoint.every_minutes = 5.0


def require_variant(variant: str, known: tuple[str, ...]) -> None:
    """Refuse a variant that a config doesn't have."""
    if variant not in known:
        raise ValueError(f"variant ':{variant}' is not one of {', '.join(known)}")


def fill(saved: Mapping[str, Any]) -> tuple[ConfigDict, list[str]]:
    """Fill fields that an older config lacks; also their names and values."""
    if not isinstance(saved.get("detector"), Mapping):
        raise TypeError("detector: expected a section of fields")
    config = base_config()
    if "train" in saved:
        add_training(config)
    known = flatten(saved)
    assumed = [
        f"{name}={default!r}"
        for name, default in flatten(config).items()
        if name not in known
    ]
    config.update(saved)
    return config, assumed


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Every field by its full name, such as "train.epochs"."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping | ConfigDict):
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found
