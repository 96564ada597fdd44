"""Export a trained detector as one function that needs jax, numpy and flatbuffers.

python -m mimii_jax.export --workdir machine7 --out machine7.zip
python -m mimii_jax.export --workdir machine7 --out machine7.zip --onnx

The zip holds scorer.stablehlo (by jax.export), with --onnx scorer.onnx, about.json
(IDs, thresholds, sampling rate and length of the waves), and example.py, which runs it.
Waves [clip, time] are floats in [-1, 1]; scores and decisions are those of
mimii_jax.score.
"""

import argparse
import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import jaxpr_as_fun
from jaxtyping import Array

from mimii_jax import log
from mimii_jax.command import one_line_errors, path_of
from mimii_jax.errors import ConfigError
from mimii_jax.features import functionals
from mimii_jax.files import replace_file
from mimii_jax.judge import Judge
from mimii_jax.score import add_judge_flags, load_judge, require_share
from mimii_jax.scorer import build_scorer, known_ids

STABLEHLO, ONNX, ABOUT, EXAMPLE = (
    "scorer.stablehlo",
    "scorer.onnx",
    "about.json",
    "example.py",
)
PLATFORMS = ("cpu", "cuda", "tpu")


def main(argv: Sequence[str] | None = None) -> None:
    """Export; print user errors as one line."""
    args = _parser().parse_args(argv)
    with one_line_errors():
        require_share(args)
        judge = load_judge(args)
        replace_file(args.out, export(judge, args.onnx))
    log.info(f"{args.out}: {judge.detector}, {judge.machine_type}; see {EXAMPLE} in it")


def export(judge: Judge, onnx: bool = False) -> bytes:
    """Content of the zip file."""
    scorer = build_scorer(judge)
    shapes = _shapes(judge)
    exported = jax.export.export(jax.jit(scorer), platforms=PLATFORMS)(*shapes)
    ids = known_ids(judge)
    about = {
        "detector": judge.detector,
        "machine_type": judge.machine_type,
        "ids": ids,  # the place of an ID is the number to give; "": any other ID
        "thresholds": [judge.threshold(one) for one in ids],
        "false_alarms": judge.false_alarms,
        "sample_rate": judge.sample_rate,
        "n_samples": judge.n_samples,
        "jax": jax.__version__,
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as files:
        files.writestr(STABLEHLO, exported.serialize())
        files.writestr(ABOUT, json.dumps(about, indent=2) + "\n")
        example = Path(__file__).with_name("export_example.py")
        files.writestr(EXAMPLE, example.read_text(encoding="utf-8"))
        if onnx:
            files.writestr(ONNX, to_onnx(judge))
    return file.getvalue()


def to_onnx(judge: Judge) -> bytes:
    """The same function as an ONNX model: waves, ids -> score, decision."""
    try:
        import jax2onnx  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise ConfigError(
            "--onnx needs jax2onnx: pip install 'mimii_jax[onnx]', then "
            "pip install --no-deps jax2onnx==0.17.1"
        ) from error
    shapes = _shapes(judge)
    # Traced before jax2onnx replaces functions of JAX; its batching is incomplete.
    with (
        mock.patch.object(jnp.fft, "rfft", _rfft),
        mock.patch.object(jnp, "pad", _pad),
        mock.patch.object(functionals, "_percentiles", _percentiles),
        mock.patch.object(functionals, "_chosen", _chosen),
        mock.patch.object(lax, "optimization_barrier", lambda x: x),
    ):
        scorer = build_scorer(judge, lambda of_clip, *rows: jax.vmap(of_clip)(*rows))
        traced = jax.make_jaxpr(scorer)(*shapes)

    def replayed(waves: Array, ids: Array) -> tuple[Array, ...]:
        return tuple(jaxpr_as_fun(traced)(waves, ids))

    names: dict[str, Any] = {
        "input_names": ["waves", "ids"],
        "output_names": ["score", "decision"],
    }
    model: Any = jax2onnx.to_onnx(replayed, shapes, model_name="scorer", **names)
    return model.SerializeToString()


def _shapes(judge: Judge) -> list[jax.ShapeDtypeStruct]:
    """Waves and places of IDs, for any number of clips."""
    clip = jax.export.symbolic_shape("clip")
    waves = jax.ShapeDtypeStruct((*clip, judge.n_samples), np.float32)
    return [waves, jax.ShapeDtypeStruct(clip, np.int32)]


class _Spectrum(NamedTuple):
    real: Array
    imag: Array


def _rfft(x: Array, *, axis: int = -1) -> _Spectrum:
    """`jnp.fft.rfft` as products: onnxruntime refuses the transform of real numbers."""
    n = x.shape[axis]
    turns = np.outer(np.arange(n), np.arange(1 + n // 2)) % n / n
    parts = (np.cos(2 * np.pi * turns), -np.sin(2 * np.pi * turns))
    x = jnp.moveaxis(x, axis, -1)
    found = (jnp.dot(x, part.astype(np.float32), precision="highest") for part in parts)
    return _Spectrum(*(jnp.moveaxis(y, -1, axis) for y in found))


_own_pad = jnp.pad


def _pad(x: Array, widths: Any, mode: str = "constant", **more: Any) -> Array:
    """`jnp.pad` with zeros by concatenation: jax2onnx pads no symbolic batch."""
    if mode != "constant" or more:
        return _own_pad(x, widths, mode, **more)
    for axis, pair in enumerate(np.broadcast_to(widths, (x.ndim, 2)).tolist()):
        shapes = [(*x.shape[:axis], n, *x.shape[axis + 1 :]) for n in pair]
        before, after = ([jnp.zeros(s, x.dtype)] if s[axis] else [] for s in shapes)
        x = jnp.concatenate([*before, x, *after], axis)
    return x


def _percentiles(x: Array, shares: np.ndarray) -> Array:
    """Percentiles by sorting: ONNX has no bits of floats."""
    return jnp.percentile(x, 100 * shares, axis=0)


def _chosen(rows: Array, index: Array) -> Array:
    """By sums: jax2onnx indexes no symbolic batch."""
    is_own = index[:, None] == np.arange(rows.shape[1])[None]
    return jnp.sum(jnp.where(is_own[..., None], rows, 0), axis=1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mimii_jax.export",
        description="Export a trained detector as one function, by jax.export; with "
        "--onnx also for onnxruntime.",
    )
    add: Any = parser.add_argument
    add_judge_flags(parser)
    add("--out", type=path_of, required=True, metavar="ZIP", help="zip file to write")
    add(
        "--onnx", action="store_true", help="also write scorer.onnx; see the extra onnx"
    )
    return parser


if __name__ == "__main__":
    main()
