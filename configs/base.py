"""What every experiment has: data, front end, evaluation. No experiment of its own."""

from ml_collections import ConfigDict, FieldReference


def base_config() -> ConfigDict:
    """The sections that all configs share; each config adds its detector."""
    c = ConfigDict()
    c.seeds = (0, 1, 2)  # one model each, trained together
    c.deterministic = False  # the same bits on a GPU as well, at some cost in speed

    c.data = ConfigDict()
    c.data.root = ""  # folder of a folder per machine type; "": simulated
    c.data.machine_types = ("slider",)  # (): all that there are
    c.data.ids = ()  # (): all that there are; simulated: 00, 02 and 04
    c.data.on_bad_file = "error"  # or "skip"
    c.data.labels = ""  # of evaluation clips; "": eval_data_list.csv in or beside root
    # MIMII: normal test clips per ID; None: as many as anomalous ones
    c.data.test_normals = FieldReference(100, field_type=object)
    c.data.scale = 0.1  # simulated: share of the official number of clips
    c.data.simulation_seed = 0

    c.features = ConfigDict()
    c.features.name = "log_mel"  # or "linear", without mel filters; "raw", the wave
    c.features.sample_rate = 16000  # Hz
    c.features.n_fft = 1024  # samples
    c.features.hop = 512  # samples
    c.features.n_mels = 128
    c.features.fmin = 0.0  # Hz
    c.features.fmax = 0.0  # Hz; 0: half the sample rate
    c.features.power = 2.0
    c.features.pad_mode = "reflect"  # or "constant"
    c.features.standardise = False  # per bin, by training statistics

    c.scoring = ConfigDict()
    c.scoring.kind = "mse"  # or "mahalanobis", of the error per bin; neural detectors
    c.scoring.per_id = False  # mahalanobis: from the normal clips of the same ID
    c.scoring.pooling = "mean"  # over a clip's windows; or "max", "top_k", "gwrp"
    c.scoring.top_k = 10  # windows
    c.scoring.gwrp_r = 0.99
    c.scoring.batch_size = 0  # clips at once; 0: a sensible number

    c.eval = ConfigDict()
    c.eval.split = "all"  # or "validation" (40 % of the test clips), "test" (60 %)
    c.eval.split_seed = 0
    c.eval.bootstrap = 1000  # replicates for the 95 % intervals
    c.eval.max_fpr = 0.1  # of pAUC
    return c


def add_training(c: ConfigDict) -> None:
    """The sections that all neural detectors share; values of `train` may change."""
    c.train = ConfigDict()
    c.train.epochs = 10
    c.train.batch_size = 512
    c.train.learning_rate = 1e-3
    c.train.schedule = "cosine"  # to zero at the end; or "constant"
    c.train.warmup = 0.02  # share of all steps
    c.train.freeze = ()  # parts of the model that are not trained: ("encoder",)
    c.train.precision = "float32"  # or "bfloat16", of the layers; a CPU keeps float32
    c.train.validation_fraction = 0.1  # of the training clips of each ID

    c.augment = ConfigDict()  # of the training examples, after standardising
    # Of the sections below, in the order of use; probability 0: it does nothing.
    c.augment.names = ()
    add_augmentations(c.augment)

    c.init_from = ""  # workdir of a trained model to begin with; "": at random
    c.tensorboard = False  # event files beside metrics.jsonl
    c.profile = False  # a JAX profile of some steps

    c.mesh = ConfigDict()
    c.mesh.run = 0  # devices over which the runs are spread; 0: a sensible number
    c.mesh.data = 0  # devices that divide the batches of a run
    c.mesh.group = 0  # runs of a device that step at once; 0: all, but one on a CPU

    c.checkpoint = ConfigDict()
    c.checkpoint.every_steps = 0  # 0: do not count
    c.checkpoint.every_minutes = 5.0  # 0: do not look at the clock
    c.checkpoint.keep = 2  # latest ones, beside the one of least validation loss


def add_augmentations(c: ConfigDict) -> None:
    """What each augmentation does if it is named; widths are in frames and bins."""
    for name in ("spec_augment", "cutout", "gain", "noise", "mixup"):
        c[name] = ConfigDict()
        c[name].probability = 1.0  # of an example; mixup: of a batch
    c.spec_augment.time_masks = 2
    c.spec_augment.time_width = 8.0
    c.spec_augment.frequency_masks = 2
    c.spec_augment.frequency_width = 16.0
    c.spec_augment.fill = "mean"  # of the example; or "zero"
    c.cutout.holes = 4
    c.cutout.time_width = 8.0
    c.cutout.frequency_width = 16.0
    # Standard deviations of a bin; dB where features are not standardised.
    c.gain.strength = 0.5
    c.noise.strength = 0.1
    c.mixup.strength = 0.5  # largest share of the other example

    c.warp = ConfigDict()
    c.warp.move_probability = 0.5
    c.warp.move_time = 8.0
    c.warp.move_frequency = 2.0
    c.warp.scale_probability = 0.5
    c.warp.scale = 0.05  # larger or smaller by up to 5 %
    c.warp.turn_probability = 0.5
    c.warp.turn = 2.0  # degrees


def require_variant(variant: str, known: tuple[str, ...]) -> None:
    """Refuse a variant that a config does not have."""
    if variant not in known:
        raise ValueError(f"variant ':{variant}' is not one of {', '.join(known)}")
