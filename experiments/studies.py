"""The studies of the two reports, and further ones: a question and its cells, each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from experiments.cell import ALL, EXTRA, FREE_GENERATION, MATRIX, Cell
from experiments.reported import (
    AFTER_100_EPOCHS,
    BATCH_SIZES,
    FIRST_REPORT,
    LEARNING_RATES,
    SECOND_REPORT,
    digits,
)


@dataclass(frozen=True)
class Study:
    """A question, and the cells that answer it."""

    title: str
    source: str  # table or figure of a report
    question: str
    cells: Sequence[Cell]
    note: str = ""
    base: str = ""  # row to compare the others with
    tunes: bool = False  # whether it picks the best row, on the validation split
    reported: Mapping[str, str] = field(default_factory=dict)  # numbers by row


def rate_and_batch(rate: float, batch: int) -> str:
    """Name of a cell of "learning_rate_batch"."""
    return f"rate {rate:g}, batch {batch}"


def _variants(config: str, changes: Mapping[str, Mapping[str, Any]]) -> list[Cell]:
    return [Cell(name, config, fields) for name, fields in changes.items()]


FIVE_EPOCHS = "mlp_vae, 5 epochs"
NOT_AUGMENTED = "none"
SQUARED = {"detector.likelihood": "squared", "scoring.representation": "error"}
CHANNELS = (13, 26, 53, 106, 212)  # 1,058,102 parameters; the transformer: 1,056,384

STUDIES = {
    "data": Study(
        title="The data set, and controls without learning",
        source="first report, figures 1 to 4; second report, figures 1 and 2",
        question="What does the data set look like, and what does one number per clip "
        "already do?",
        note="The controls learn nothing: a detector that does not beat them has "
        "learned nothing.",
        cells=[Cell("controls", "controls")],
    ),
    "cross_id": Study(
        title="Cross-ID generalisation",
        source="first report, sections 6.1, 7, 7.1, 7.2 and 7.3.4; figures 5 and 6",
        question="Which knowledge transfers from one machine to another?",
        note="Rows are training sets, columns the machines tested on. Fine-tuning "
        "starts from the model of all machines with the clips of one, for as many "
        "epochs as before. The conv VAE and the transformer are trained on all only, "
        "as in the report; `python -m experiments.cross_id --config "
        "configs/conv_vae.py` has their whole matrix.",
        cells=[
            Cell("isolation_forest", "isolation_forest", training_sets=MATRIX),
            Cell("one_class_svm:linear", "one_class_svm:linear", training_sets=MATRIX),
            Cell("mlp_vae", "mlp_vae:reference", training_sets=MATRIX, small="mlp_vae"),
            Cell("conv_vae", "conv_vae:reference", small="conv_vae"),
            Cell("transformer", "transformer:reference", small="transformer"),
        ],
        reported={n: str(FIRST_REPORT[n][ALL]) for n in ("conv_vae", "transformer")},
    ),
    "isolation_forest": Study(
        title="Hyper-parameters of the Isolation Forest",
        source="first report, section 6.1",
        question="Do the hyper-parameters of the Isolation Forest matter?",
        note="The report tuned them on the validation split and saw no improvement. "
        "Its contamination moves scikit-learn's threshold only, never a score, so it's "
        "no row here.",
        cells=_variants(
            "isolation_forest",
            {
                "default": {},
                "30 trees": {"detector.n_estimators": 30},
                "300 trees": {"detector.n_estimators": 300},
                "32 samples per tree": {"detector.max_samples": 32},
            },
        ),
        base="default",
        tunes=True,
    ),
    "one_class_svm": Study(
        title="Variants of the one-class SVM",
        source="first report, section 7",
        question="Which one-class SVM: linear or RBF, standardised or not, of clips or "
        "of windows?",
        note="The report trained the linear one by SGD, since the exact RBF kernel "
        "took too long and the Nystroem map gave one score for all clips, as it does "
        "without standardising.",
        cells=[
            Cell("linear", "one_class_svm:linear"),
            Cell(
                "linear, standardised",
                "one_class_svm:linear",
                {"features.standardise": True},
            ),
            Cell("rbf map", "one_class_svm"),
            Cell("rbf map, nu .1", "one_class_svm", {"detector.nu": 0.1}),
            Cell("rbf map, of windows", "one_class_svm:windows"),
            Cell("exact rbf", "one_class_svm:exact"),
        ],
        base="linear",
        tunes=True,
    ),
    "initialisations": Study(
        title="Five initialisations",
        source="second report, figure 4",
        question="Does the AUC after 5 epochs depend on the initialisation?",
        note="If it does by as much as hyper-parameters change it, these cannot be "
        "compared after so few epochs from one initialisation each.",
        cells=_variants(
            "mlp_vae:reference",
            {
                FIVE_EPOCHS: SECOND_REPORT
                | {"seeds": (0, 1, 2, 3, 4), "train.epochs": 5}
            },
        ),
    ),
    "learning_rate_batch": Study(
        title="Learning rate and batch size",
        source="second report, figures 5 to 7",
        question="Which learning rate and batch size, after 5 epochs?",
        note="The report tried three of each and kept .001 and 200, since 100 was "
        "slightly better at about twice the time. Picked on the validation part.",
        cells=_variants(
            "mlp_vae:reference",
            {
                rate_and_batch(rate, batch): SECOND_REPORT
                | {
                    "train.epochs": 5,
                    "train.batch_size": batch,
                    "train.learning_rate": rate,
                }
                for rate, batch in product(LEARNING_RATES, BATCH_SIZES)
            },
        ),
        base=rate_and_batch(0.001, 200),
        tunes=True,
    ),
    "epochs": Study(
        title="Epochs",
        source="second report, figure 8",
        question="How much do more epochs bring: 5, 20 or 100?",
        note="The report tuned at 5, confirmed at 20 and submitted after 100.",
        cells=_variants(
            "mlp_vae:reference",
            {f"{n} epochs": SECOND_REPORT | {"train.epochs": n} for n in (5, 20, 100)},
        ),
        base="5 epochs",
        reported={"100 epochs": f"average {digits(AFTER_100_EPOCHS)}"},
    ),
    "front_end": Study(
        title="Front ends, hops and bands",
        source="first report, sections 4.2 to 4.4 and 10",
        question="Mel, linear or raw; which hop; which frequencies?",
        note="The first report suspects that the mel scale, made for human ears, loses "
        "what a machine tells, and used a smaller hop for the transformer. Raw "
        "waveforms are patches of the transformer.",
        cells=[
            *_variants(
                "mlp_vae",
                {
                    "log-mel, hop 512": {},
                    "linear": {"features.name": "linear"},
                    "hop 256": {"features.hop": 256},
                    "hop 1024": {"features.hop": 1024},
                    "64 mels": {"features.n_mels": 64},
                    "below 4 kHz": {"features.fmax": 4000.0},
                    "above 1 kHz": {"features.fmin": 1000.0},
                },
            ),
            Cell("transformer, log-mel", "transformer"),
            Cell("transformer, raw", "transformer", {"features.name": "raw"}),
        ],
        base="log-mel, hop 512",
    ),
    "scoring": Study(
        title="Scoring kinds and pooling",
        source="not in the reports",
        question="How should the errors of a clip become its score?",
        note="One training, scored in several ways: the mean squared error pooled by "
        "its mean, its maximum, the mean of the 10 largest, or with weights that fall "
        "with rank; and the Mahalanobis distance of the errors per bin from those of "
        "normal training clips.",
        cells=[
            Cell(
                "mlp_vae",
                "mlp_vae",
                scorings={
                    "mean": {},
                    "max": {"pooling": "max"},
                    "top 10": {"pooling": "top_k"},
                    "gwrp": {"pooling": "gwrp"},
                    "mahalanobis": {"backend": "mahalanobis", "per_id": False},
                    "mahalanobis per id": {"backend": "mahalanobis"},
                },
            )
        ],
        base="mlp_vae: mean",
    ),
    "extra_simulated": Study(
        title="Extra simulated data for the smallest ID",
        source="first report, sections 7.3.5 and 10",
        question="Do simulated clips of the smallest machine ID help?",
        note="The first report's future work: synthetic data for the under-represented "
        "machine. The training set gets simulated normal clips of it until it is as "
        "large as the largest. On simulated sound these are simply more of the same; "
        "on recordings it is a real question.",
        cells=[
            Cell(name, name, training_sets=(ALL, EXTRA))
            for name in ("mlp_vae", "isolation_forest")
        ],
    ),
    "augmentation": Study(
        title="Augmentation",
        source="first report, section 4.5; second report, section 2.1 and figure 3",
        question="No augmentation, SpecAugment, or the warps of images?",
        note="The second report could use one masked copy per clip; here each step "
        "draws new masks.",
        cells=_variants(
            "conv_vae",
            {
                NOT_AUGMENTED: {"augment.names": ()},
                "SpecAugment": {"augment.names": ("spec_augment",)},
                "cutout and warp": {"augment.names": ("cutout", "warp")},
                "mixup": {"augment.names": ("mixup",)},
            },
        ),
        base=NOT_AUGMENTED,
    ),
    "spatial_temporal": Study(
        title="Spatial against temporal",
        source="first report, sections 7.2 and 7.3",
        question="Space or time: does an image or a sequence say more about a clip?",
        note="The conv VAE sees windows of the spectrogram as images, the transformer "
        "a sequence of patches. Their widths are such that both have about 1.06 "
        "million parameters.",
        cells=[
            Cell("conv_vae", "conv_vae", {"detector.channels": CHANNELS}),
            Cell("transformer", "transformer", SQUARED),
        ],
        base="conv_vae",
    ),
    "attention": Study(
        title="Causal against leaky attention",
        source="first report, section 7.3.2",
        question="What does an encoder do that sees its target?",
        note="The report's encoder attends to the whole sequence, so that every target "
        "but the last leaks. Causal everywhere is the default here.",
        cells=[
            Cell(
                attention,
                "transformer",
                {"detector.attention": attention},
                scorings={
                    "free generation": FREE_GENERATION,
                    "one step ahead": {},
                },
            )
            for attention in ("causal", "leaky")
        ],
        base="causal: free generation",
    ),
    "patches": Study(
        title="Overlapping against separate patches",
        source="first report, section 7.3.3",
        question="Patches that overlap, or not?",
        note="The report's patches of 30 frames move by one frame: to predict the next "
        "is nearly to copy. The default has patches that do not overlap.",
        cells=_variants(
            "transformer",
            {"separate": {}, "half overlapping": {"detector.stride": 2}},
        ),
        base="separate",
    ),
}
