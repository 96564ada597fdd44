"""Is the simulated slide rail like the real one? Side by side, with a mark per number.

python -m experiments.calibrate_slide_rail --seeds 400 401 [--scale 1] [--real ROOT]

Writes calibrate_slide_rail.md and figures/slide_rail.png beside this file. ROOT is a
DCASE 2020 Task 2 folder, of which slide rail id 00 is drawn beside the simulated one.

The real numbers are published measurements. The autoencoder is `configs/mlp_ae.py`: the
only learned detector that the simulator may be calibrated to.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import librosa
import numpy as np
from jaxtyping import Float, Int16

from configs import mlp_ae
from experiments.slide_rail_figure import draw
from mimii_jax import log
from mimii_jax.command import path_of
from mimii_jax.config import build
from mimii_jax.data.clips import ANOMALOUS, NORMAL, Clips, hold_out
from mimii_jax.files import make_folder, replace_file
from mimii_jax.results.metrics import auc
from mimii_jax.simulated.simulate import simulate
from mimii_jax.train.runs import Run

HERE = Path(__file__).parent
IDS = ("00", "02", "04", "06")
CALIBRATED = IDS[:3]  # for the AUCs; 06 is shown beside them


@dataclass(frozen=True)
class Real:
    """One number per clip on the real recordings, for each of `IDS`."""

    normal: tuple[float, ...] | None  # mean over clips
    anomalous: tuple[float, ...] | None
    auc: tuple[float, ...] | None  # of this number alone
    tolerance: float | None  # of the simulated means; None: they aren't calibrated


# All MIMII slide rail clips at -6 dB, 8 channels averaged, librosa's defaults. The
# tolerances are one standard deviation over real clips: measured for the level (the
# least, of 0.7 to 0.9), and for the others the least that the means and the AUC of
# ids 00 and 02 imply for two normal distributions of equal width.
REAL = {
    "level, dBFS": Real(
        (-40.6, -40.1, -40.6, -40.6),
        (-38.8, -40.1, -40.7, -40.4),
        (0.97, 0.47, 0.47, 0.63),
        0.7,
    ),
    "zero crossings per sample": Real(
        (0.082, 0.078, 0.100, 0.097),
        (0.100, 0.104, 0.107, 0.092),
        (0.74, 0.77, 0.57, 0.47),
        0.02,
    ),
    "bandwidth, Hz": Real(
        (1598, 1613, 1794, 1799), (1950, 1902, 1778, 1795), None, 210
    ),
    "bandwidth SD over time, Hz": Real(
        (60, 78, 238, 257), (235, 174, 242, 245), (0.95, 0.82, 0.50, 0.47), None
    ),
    "flatness": Real(None, None, (0.86, 0.78, 0.49, 0.48), None),
}
AUC_TOLERANCE = 0.12
REAL_AUTOENCODER, AUTOENCODER_TOLERANCE = (0.96, 0.79, 0.94), 0.05


def measure(audio: Int16[np.ndarray, " time"]) -> Float[np.ndarray, " number"]:
    """Measure the numbers of `REAL`, in its order, on one clip."""
    wave = audio.astype(np.float32) / 32768
    magnitude = np.abs(librosa.stft(wave, n_fft=2048, hop_length=512))
    feature = librosa.feature
    bandwidth = feature.spectral_bandwidth(S=magnitude, sr=16_000)
    return np.array(
        [
            20 * np.log10(np.mean(feature.rms(y=wave))),
            np.mean(feature.zero_crossing_rate(wave)),
            np.mean(bandwidth),
            np.std(bandwidth),
            np.mean(feature.spectral_flatness(S=magnitude)),
        ]
    )


def compare_means(
    clips: Clips, numbers: Float[np.ndarray, "clip number"]
) -> Iterator[str]:
    """Rows of (a): means over clips, real and simulated."""
    yield from _head("| | clips |", IDS)
    for (name, real), column in zip(REAL.items(), numbers.T, strict=True):
        for kind, label in (("normal", NORMAL), ("anomalous", ANOMALOUS)):
            expected = real.normal if label == NORMAL else real.anomalous
            cells = []
            for i, machine_id in enumerate(IDS):
                of = (clips.machine_id == machine_id) & (clips.label == label)
                cell = f"{_short(column[of].mean())} ± {_short(column[of].std())}"
                if expected:
                    cell = f"{_short(expected[i])} / {cell}"
                    if real.tolerance:
                        off = abs(column[of].mean() - expected[i])
                        cell += _mark(off <= real.tolerance)
                cells.append(cell)
            yield f"| {name} | {kind} | " + " | ".join(cells) + " |"


def compare_aucs(
    test: Clips, numbers: Float[np.ndarray, "clip number"]
) -> Iterator[str]:
    """Rows of (b): the AUC of each number alone, real and simulated."""
    yield from _head("| |", IDS)
    for (name, real), column in zip(REAL.items(), numbers.T, strict=True):
        if real.auc:
            yield _auc_row(name, real.auc, test, column, AUC_TOLERANCE)


def compare_autoencoder(clips: Clips, epochs: int | None) -> Iterator[str]:
    """Rows of (c): AUC of the autoencoder, trained on `CALIBRATED` together."""
    config: Any = mlp_ae.get_config()
    if epochs:
        config.train.epochs = epochs
    experiment = build(config)
    assert experiment.detector
    seen = clips[np.isin(clips.machine_id, CALIBRATED)]
    held_out = hold_out(seen.train.machine_id, experiment.data.validation_fraction)
    train, validation = seen.train[~held_out], seen.train[held_out]
    run = Run(0, np.arange(len(train)), np.arange(len(validation)))
    (score,) = experiment.detector.fit(train, validation, [run], None).score(seen.test)
    yield from _head("| |", CALIBRATED)
    name = f"`configs/mlp_ae.py`, {config.train.epochs} epochs, one seed"
    yield _auc_row(name, REAL_AUTOENCODER, seen.test, score, AUTOENCODER_TOLERANCE)
    for kind, label in (("normal", NORMAL), ("anomalous", ANOMALOUS)):
        cells = []
        for machine_id in CALIBRATED:
            of = (seen.test.machine_id == machine_id) & (seen.test.label == label)
            cells.append(f"{score[of].mean():.2f} ± {score[of].std():.2f}")
        yield f"| its error, {kind}, dB² | " + " | ".join(cells) + " |"


def _head(start: str, ids: Sequence[str]) -> Iterator[str]:
    yield f"{start} {' | '.join(f'id {i}' for i in ids)} |"
    yield "|" + "---|" * (start.count("|") - 1 + len(ids))


def _auc_row(
    name: str,
    real: Sequence[float],
    test: Clips,
    score: Float[np.ndarray, " clip"],
    tolerance: float,
) -> str:
    cells = []
    for machine_id, expected in zip(IDS, real, strict=False):
        of = test.machine_id == machine_id
        value = float(auc(test.label[of], score[of]))
        cell = f"{expected:.2f} / {value:.2f}"
        if machine_id in CALIBRATED:
            cell += _mark(abs(value - expected) <= tolerance)
        cells.append(cell)
    return f"| {name} | " + " | ".join(cells) + " |"


def _mark(passed: bool) -> str:
    return " ✓" if passed else " **✗**"


def _short(value: float) -> str:
    """About three significant digits."""
    return f"{value:.0f}" if abs(value) >= 50 else f"{value:.3g}"


def study(seed: int, scale: float, epochs: int | None) -> tuple[list[str], Clips]:
    """Lines of the report on one seed, and its test clips."""
    clips = simulate(IDS, scale=scale, seed=seed).clips
    numbers = np.array(log.in_threads("measuring", measure, list(clips.audio)))
    test = clips.split == "test"
    parts = {
        "(a) Mean over clips: real / simulated ± SD over simulated clips.": (
            compare_means(clips, numbers)
        ),
        "(b) AUC of one number alone: real / simulated.": (
            compare_aucs(clips.test, numbers[test])
        ),
        "(c) AUC of the autoencoder: real / simulated.": (
            compare_autoencoder(clips, epochs)
        ),
    }
    lines = [f"## Simulation seed {seed}", ""]
    for title, rows in parts.items():
        lines += [title, "", *rows, ""]
    return lines, clips.test


def main() -> None:
    """Run the study for each seed; write the report and the figure."""
    parser = argparse.ArgumentParser(prog="python -m experiments.calibrate_slide_rail")
    add = parser.add_argument
    add("--scale", type=float, default=1.0, help="times the official numbers of clips")
    add("--seeds", type=int, nargs="+", default=[400, 401], help="of the simulation")
    add("--epochs", type=int, help="of the autoencoder, in place of its config's")
    add("--real", type=path_of, help="DCASE 2020 folder to draw beside")
    add("--out", type=path_of, default=HERE, help="folder of the report")
    given = parser.parse_args()
    command = f"--seeds {' '.join(map(str, given.seeds))}"
    command += f" --scale {given.scale:g}" * (given.scale != 1)
    command += f" --epochs {given.epochs}" * bool(given.epochs)
    command += " --real ROOT" * bool(given.real)  # no folders of this machine
    report = INTRODUCTION.format(command).splitlines()
    for seed in given.seeds:
        lines, test = study(seed, given.scale, given.epochs)
        print("\n".join(lines))
        report += lines
        if seed == given.seeds[0]:
            make_folder(given.out / "figures")
            draw(test, given.real, given.out / "figures" / "slide_rail.png")
        del test  # a view that keeps all audio of this seed
    failed = sum(line.count("**✗**") for line in report)
    report += [f"Cells that fail: {failed}.", ""]
    replace_file(given.out / "calibrate_slide_rail.md", "\n".join(report).encode())


INTRODUCTION = """\
# The simulated slide rail beside the real one

`python -m experiments.calibrate_slide_rail {}`

All sound here is simulated, by `mimii_jax/simulated/simulate.py`. The real numbers are
those of all MIMII slide rail clips at -6 dB, 8 channels averaged (librosa's defaults,
n_fft 2048, hop 512), and the published AUC of the official autoencoder. ✓ and ✗ mark
the cells that the simulator is calibrated to: means within one standard deviation
over real clips (0.7 dB; 0.02 and 210 Hz, which the real means and AUCs imply), AUC of
one number within 0.12, AUC of the autoencoder within 0.05. Cells without a mark are
shown for comparison only. Nothing else was tuned to, no other detector above all.

Limits. Seeds 0, 1, 100 to 102 and 300 to 303 were looked at while the simulator was
tuned; the seeds below were first used for this report, after the last change of a
number. Two seeds are few: an AUC moves by about 0.03 from seed to seed, and that of the
bandwidth SD of id 04 is on average within 0.06 of its limit, so another seed may miss a
cell. Of a third untouched seed (402) only parts (a) and (b) were looked at, on the test
clips of ids 00, 02 and 04: all within tolerance, the zero crossings of id 02 at AUC
0.77. The autoencoder learns for 8 epochs here, the official one, whose AUC is shown as
real, for 100. The tolerances of 0.02 and 210 Hz are inferred, not measured: against the
SD of the simulated clips, the bandwidth of anomalous id 00 would be near its limit (132
Hz off on seed 400, SD 138). The anomalous clips of id 02 are in part recognised by a
steady sound, a rail that rubs harder whenever the carriage moves; the intervals in
`faults.csv` don't count that.

![Spectrograms](figures/slide_rail.png)

"""


if __name__ == "__main__":
    main()
