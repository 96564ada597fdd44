"""Neural detectors of the configs' `:reference`, where ml_collections is missing.

A test holds that they equal those that `mimii_jax.config.build` builds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mimii_jax.detectors.backends import Scoring
from mimii_jax.detectors.neural import NeuralDetector
from mimii_jax.features.augment import build_augment
from mimii_jax.features.front_ends import LogMel, LogMelSpectrum
from mimii_jax.features.windows import Windows
from mimii_jax.models.conv_vae import ConvVAE
from mimii_jax.models.id_classifier import IDClassifier
from mimii_jax.models.mlp import MLPVAE
from mimii_jax.models.model import ModelSpec
from mimii_jax.models.transformer import Transformer
from mimii_jax.train.runs import Settings

FRAMES: dict[str, Any] = {
    "sample_rate": 16000,
    "n_fft": 1024,
    "hop": 512,
    "n_mels": 128,
    "fmin": 0.0,
    "fmax": None,
}
CONSTANT: dict[str, Any] = {"schedule": "constant", "warmup": 0.0}
AUGMENT = {
    "names": ("cutout", "warp"),
    "cutout": {
        "probability": 1.0,
        "holes": 4,
        "time_width": 8.0,
        "frequency_width": 16.0,
    },
    "warp": {"move_time": 8.0, "move_frequency": 2.0, "scale": 0.05, "rotate": 2.0},
}
REFERENCE = {
    "mlp_vae": NeuralDetector(
        front_end=LogMel(**FRAMES),
        model=ModelSpec(
            MLPVAE,
            {
                "hidden": (400, 400),
                "latent": 20,
                "likelihood": "squared",
                "kl_weight": 1.0,
            },
        ),
        windows=Windows(5),
        standardise=False,
        settings=Settings(50, 512, 1e-3, **CONSTANT),
        scoring=Scoring(),
    ),
    "conv_vae": NeuralDetector(
        front_end=LogMel(**FRAMES),
        model=ModelSpec(
            ConvVAE,
            {
                "channels": (8, 16, 32, 64, 128),
                "strides": ((2, 2),) * 5,
                "kernel_blocks": 2,
                "segment": 8,
                "latent": 40,
                "likelihood": "squared",
                "kl_weight": 0.1,
            },
        ),
        windows=Windows(None),
        standardise=True,
        settings=Settings(10, 16, 1e-3, **CONSTANT, augment=build_augment(AUGMENT)),
        scoring=Scoring(),
    ),
    "transformer": NeuralDetector(
        front_end=LogMel(**FRAMES),
        model=ModelSpec(
            Transformer,
            {
                "patch": 30,
                "stride": 1,
                "width": 512,
                "encoder_layers": 4,
                "decoder_layers": 4,
                "heads": 8,
                "feed_forward": 2048,
                "attention": "causal",
                "likelihood": "squared",
                "horizon": None,
            },
        ),
        windows=Windows(None),
        standardise=True,
        settings=Settings(30, 16, 1e-4, "cosine", 0.1),
        scoring=Scoring(),
    ),
    "id_classifier": NeuralDetector(
        front_end=LogMelSpectrum(**FRAMES, spectrum_bins=32),
        model=ModelSpec(
            IDClassifier,
            {
                "channels": (16, 32, 64, 128),
                "blocks": 2,
                "spectrum_bins": 32,
                "spectrum_channels": 128,
                "embedding": 128,
                "loss": "sub_adacos",
                "centres": 16,
                "scale": None,
                "margin": 0.5,
                "mixup": 0.5,
                "transforms": None,
            },
        ),
        windows=Windows(None),
        standardise=True,
        settings=Settings(40, 64, 1e-3, "cosine", 0.02, weight_decay=0.01),
        scoring=Scoring(
            "ldn", representation="embedding", standardise=False, max_columns=None
        ),
    ),
}
# Fields in which a small detector is smaller, and its batch.
SMALLER: dict[str, tuple[dict[str, Any], int]] = {
    "mlp_vae": ({"hidden": (64, 64)}, 256),
    "conv_vae": ({"channels": (4, 8), "strides": ((4, 4),) * 2}, 4),
    "transformer": (
        {
            "stride": 15,
            "width": 32,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "heads": 2,
            "feed_forward": 64,
        },
        4,
    ),
    "id_classifier": (
        {
            "channels": (8, 8),
            "blocks": 1,
            "spectrum_channels": 8,
            "embedding": 16,
            "centres": 4,
        },
        4,
    ),
}


@dataclass(frozen=True)
class Size:
    """Sizes that are measured, and for how long."""

    detectors: Mapping[str, NeuralDetector]
    train_clips: int
    test_clips: int
    bank: tuple[int, int]  # clips, columns
    seconds: float  # of each measurement
    runs: tuple[int, ...]  # as one program


def smaller(name: str) -> NeuralDetector:
    """A detector with a small model and batch."""
    detector = REFERENCE[name]
    fields, batch_size = SMALLER[name]
    return replace(
        detector,
        model=replace(detector.model, fields={**detector.model.fields, **fields}),
        settings=replace(detector.settings, batch_size=batch_size),
    )


SIZES = {
    "reference": Size(REFERENCE, 2370, 1101, (33_000, 256), 5.0, (1, 5, 25)),
    "small": Size(
        {name: smaller(name) for name in REFERENCE}, 24, 16, (1000, 64), 0.5, (1, 5)
    ),
}
