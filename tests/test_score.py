"""Judging recordings: pieces, IDs, decisions, files that appear, exit codes."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
from small_clips import RATE, small_clips, sound
from small_runs import small, trained

from configs import functionals, mlp_vae
from mimii_jax import log, score
from mimii_jax.data import dcase
from mimii_jax.judge import Judge, pieces
from mimii_jax.report.why import strongest_region
from mimii_jax.results.table import read_scores
from mimii_jax.results.threshold import false_alarms

STATM = Path("/proc/self/statm")
FIELDS = {"false_alarms": 0.05, "method": "gamma"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("normals")
    dcase.write(small_clips(train=60, test=10), folder)
    return folder


def learn(module, root, path, seeds=(0,), **sections):
    with pytest.MonkeyPatch.context() as patch:
        for name in ("write_figures", "write_report"):
            patch.setattr(f"mimii_jax.run.{name}", lambda *_, **__: None)
        config = small(module, "quick", root, **sections)
        config.seeds = seeds
        trained(config, path)
    return path


@pytest.fixture(scope="module")
def workdir(root, tmp_path_factory):
    """Workdir of functionals, on two IDs."""
    return learn(functionals, root, tmp_path_factory.mktemp("learned") / "machine7")


@pytest.fixture
def judge(workdir):
    return Judge.load(workdir, **FIELDS)


def put(path, *, fault=False, seconds=1.0, rate=RATE, seed=9):
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = sound(np.random.default_rng(seed), fault, int(seconds * RATE))
    soundfile.write(path, wave, rate)
    return path


def run(capfd, *args):
    """Exit code, and both streams."""
    with pytest.raises(SystemExit) as exit:
        score.main(list(map(str, args)))
    return exit.value.code, capfd.readouterr()


@pytest.fixture(autouse=True)
def quiet_console(monkeypatch):
    monkeypatch.setattr(log.console, "stderr", False)


@pytest.mark.parametrize("n", [1, 7, 10, 11, 19, 20, 31])
def test_pieces_cover_a_wave_and_the_last_ends_with_it(n):
    wave = np.arange(n, dtype=np.int16)
    found = pieces(wave, 10)
    assert all(len(piece) == 10 for _, piece in found)
    assert set(np.concatenate([piece for _, piece in found]).tolist()) == set(range(n))
    if n >= 10:
        start, last = found[-1]
        assert start + 10 == n
        assert last[-1] == n - 1


def test_scores_are_those_of_the_table(judge, workdir, root):
    files = score.recordings([root / "slider" / "test"])
    table = read_scores(workdir / "scores.csv")
    own = table[table.detector == "functionals"]
    expected = dict(zip(own.name.tolist(), own.score.tolist(), strict=True))
    found = list(judge(files))
    assert len(found) == len(expected) == 40
    for verdict, file in zip(found, files, strict=True):
        assert verdict.score == pytest.approx(expected[file.name], rel=1e-5, abs=1e-5)
        assert verdict.machine_id == file.name.split("_")[2]
        assert not verdict.note
    faulty = [file.name.startswith("anomaly") for file in files]
    decided = [verdict.decision == "anomaly" for verdict in found]
    assert all(np.array(decided)[faulty])
    normals = read_scores(workdir / "normals.csv")
    (row,) = false_alarms(table, normals)
    assert row.rate == np.mean(np.array(decided)[~np.array(faulty)])
    assert row.found == 1
    official = workdir / "official" / "functionals" / "seed_0"
    lines = [
        line.split(",")
        for path in sorted(official.glob("decision_result_slider_id_*.csv"))
        for line in path.read_text().split()
    ]
    assert {name: flag == "1" for name, flag in lines} == {
        file.name: flag for file, flag in zip(files, decided, strict=True)
    }


def test_a_long_files_score_is_its_highest_piece(judge, tmp_path):
    rng = np.random.default_rng(1)
    wave = np.concatenate([sound(rng, False, 2 * RATE), sound(rng, True, RATE // 2)])
    soundfile.write(tmp_path / "long.wav", wave, RATE)
    parts = [tmp_path / f"{start}.wav" for start, _ in pieces(wave, RATE)]
    for path, (_, piece) in zip(parts, pieces(wave, RATE), strict=True):
        soundfile.write(path, piece, RATE)
    (long,) = judge([tmp_path / "long.wav"])
    assert long.score == max(verdict.score for verdict in judge(parts))
    assert long.decision == "anomaly"
    assert "3 pieces of 1 s" in long.note
    best = judge._score({0: judge.read(tmp_path / "long.wav")}, {0: long.machine_id})
    starts, scores = zip(*best[0].track, strict=True)
    assert starts == (0, 1, 1.5)
    assert list(scores) == [verdict.score for verdict in judge(parts)]


def test_a_short_file_and_another_rate_are_judged_alike(judge, tmp_path):
    short = put(tmp_path / "short.wav", seconds=0.7)
    wave = sound(np.random.default_rng(4), False, RATE)
    more = soundfile.SoundFile(tmp_path / "x.flac", "w", 2 * RATE, 1)
    with more as file:
        file.write(np.repeat(wave, 2))
    first, second = judge([short, tmp_path / "x.flac"])
    assert "padded by reflection" in first.note
    assert np.isfinite(first.score)
    assert np.isfinite(second.score)


def test_the_reason_lies_within_a_short_file(workdir, tmp_path):
    wave = sound(np.random.default_rng(4), False, RATE // 4)
    wave[-400:] = 20000 * np.sin(np.arange(400))  # the padding repeats its end
    soundfile.write(tmp_path / "short.wav", wave, RATE)
    judge = Judge.load(workdir, machine_id="00", pictures=tmp_path, **FIELDS)
    (verdict,) = judge([tmp_path / "short.wav"])
    assert 0.2 < verdict.second <= 0.25


def test_silence_constants_and_full_scale_are_noted(judge, tmp_path):
    waves = {
        "digital silence": np.zeros(RATE, np.int16),
        "one constant value": np.full(RATE, 7, np.int16),
        "25 % of samples at or over full scale": np.repeat([32767, 1, 2, 3], RATE // 4),
    }
    files = [tmp_path / f"{n}.wav" for n in range(len(waves))]
    for file, wave in zip(files, waves.values(), strict=True):
        soundfile.write(file, wave.astype(np.int16), RATE)
    notes = [verdict.note for verdict in judge(files)]
    assert [note.split(";")[0] for note in notes] == list(waves)


def test_ids_are_of_the_flag_the_name_or_the_folder(workdir, tmp_path):
    files = [
        put(tmp_path / "id_02" / "a.wav"),
        put(tmp_path / "normal_id_02_00000001.wav"),
        put(tmp_path / "b.wav"),
    ]
    found = list(Judge.load(workdir, **FIELDS)(files))
    assert [verdict.machine_id for verdict in found] == ["02", "02", ""]
    assert found[0].score == found[1].score != found[2].score
    assert found[2].note == "no known id: compared with all ids"
    forced = list(Judge.load(workdir, machine_id="7", **FIELDS)(files))
    assert {verdict.note for verdict in forced} == {
        "id 7 is unknown: compared with all ids"
    }
    assert forced[0].score == pytest.approx(found[2].score, rel=1e-5)


def test_fewer_false_alarms_raise_the_threshold(workdir):
    limits = [
        Judge.load(workdir, false_alarms=share, method="gamma").threshold("00")
        for share in (0.2, 0.05, 0.01, 0.0001)
    ]
    assert np.all(np.diff(np.array(limits, float)) > 0)


def test_exit_codes_and_unreadable_files(workdir, tmp_path, capfd):
    good, bad = put(tmp_path / "in" / "good.wav"), tmp_path / "in" / "bad.wav"
    at = ("--workdir", workdir, "--id", "00")
    assert run(capfd, *at, good)[0] == 0
    bad.write_bytes(good.read_bytes()[:1000])
    code, printed = run(capfd, *at, tmp_path / "in")
    assert code == 1
    assert f"{bad}: truncated" in printed.err
    assert "good.wav" in printed.out
    fault = put(tmp_path / "fault.wav", fault=True)
    assert run(capfd, *at, fault)[0] == 0
    code, printed = run(capfd, *at, fault, "--fail-on-anomaly", "--json")
    assert code == 2
    (line,) = map(json.loads, printed.out.splitlines())
    assert line["decision"] == "anomaly"
    assert line["percentile"] == 100
    for wrong in (
        ["--workdir", tmp_path, good],
        [*at],
        [*at, tmp_path / "in", "--detector", "x"],
        [*at, good, "--false-alarms", "0"],
        [*at, good, "--machine", "fan"],
        ["--nothing"],
    ):
        code, printed = run(capfd, *wrong)
        assert code == 1
        assert printed.err.count("\n") == 1


def test_watched_files_are_judged_once_when_complete(
    workdir, tmp_path, capfd, monkeypatch
):
    folder, out = tmp_path / "incoming", tmp_path / "scores.csv"
    put(folder / "a.wav")
    growing = folder / "b.wav"
    content = put(growing, fault=True).read_bytes()
    growing.write_bytes(content[:200])
    looks = []

    def sleep(_):
        looks.append(len(lines(out)))
        if len(looks) == 1:
            growing.write_bytes(content[:9000])  # it is being written
        elif len(looks) == 2:
            growing.write_bytes(content)
        elif len(looks) > 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(score.time, "sleep", sleep)
    at = ("--workdir", workdir, "--id", "00", "--watch", folder, "--out", out)
    assert run(capfd, *at, "--fail-on-anomaly")[0] == 2
    assert looks[:4] == [0, 1, 1, 2]
    found = lines(out)
    assert [(row["file"][-5:], row["decision"]) for row in found] == [
        ("a.wav", "normal"),
        ("b.wav", "anomaly"),
    ]
    # A restart judges none of them again, and drops a line that was cut off.
    with out.open("a") as file:
        file.write(str(folder / "c.wav"))
    put(folder / "c.wav")
    looks.clear()
    assert run(capfd, *at)[0] == 0
    assert [row["file"][-5:] for row in lines(out)] == ["a.wav", "b.wav", "c.wav"]
    assert lines(out)[:2] == found


def lines(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_pictures_of_functionals(workdir, tmp_path, capfd):
    fault = put(tmp_path / "fault.wav", fault=True)
    why = tmp_path / "why"
    at = ("--workdir", workdir, "--id", "00", "--explain", why)
    assert run(capfd, *at, fault)[0] == 0
    (picture,) = why.iterdir()
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_model_tells_when_and_where_and_several_seeds_are_averaged(root, tmp_path):
    fields = {"train": {"epochs": 3}, "data": {"validation_fraction": 0.2}}
    path = learn(mlp_vae, root, tmp_path / "run", (0, 1), **fields)
    wave = sound(np.random.default_rng(0), False, RATE).astype(float)
    when = np.arange(RATE) / RATE
    burst = 9000 * np.sin(2 * np.pi * 3000 * when) * (abs(when - 0.7) < 0.1)
    soundfile.write(tmp_path / "x.wav", (wave + burst).astype(np.int16), RATE)
    judge = Judge.load(path, machine_id="00", pictures=tmp_path, **FIELDS)
    (verdict,) = judge([tmp_path / "x.wav"])
    assert verdict.decision == "anomaly"
    assert verdict.second == pytest.approx(0.7, abs=0.15)
    assert verdict.hertz == pytest.approx(3000, rel=0.2)
    assert len(list(tmp_path.glob("*.png"))) == 1
    table = read_scores(path / "scores.csv")
    assert judge.normals
    assert len(judge.normals.score) == 24
    assert len(table[table.detector == "mlp_vae"].seeds) == 2


def test_the_strongest_region_is_where_the_error_is():
    error = np.zeros((100, 64))
    error[40:50, 20:28] = 1
    error[0, 0] = 3
    error[:, -1] = np.nan
    assert strongest_region(error, 0.05) == (40, 20, 10, 8)


@pytest.mark.slow
@pytest.mark.skipif(not STATM.exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_files(judge, tmp_path):
    """1,500 further files; their audio alone would be 48 MB."""
    files = [put(tmp_path / f"{n}.wav", seed=n) for n in range(32)] * 63
    used, done = [], 0
    for verdicts in judge.in_parts(files):
        done += len(verdicts)
        pages = int(STATM.read_text().split()[1])
        used.append((done, pages * os.sysconf("SC_PAGE_SIZE") / 1e6))
    first = max(megabytes for n, megabytes in used if n <= 500)
    assert done == 2016
    assert max(megabytes for _, megabytes in used) < first + 10


@pytest.mark.slow
def test_plain_names_and_another_rate_change_no_decision(real_sample, tmp_path, capfd):
    """81 real recordings, learned from and judged as they are, and as flac at 44.1 kHz.

    The flac files have numbers for names; those to learn from lie in a plain folder.
    """
    parts = {}
    for split in ("train", "test"):
        parts[split] = sorted((real_sample / "slider" / split).glob("*.wav"))
        (tmp_path / split).mkdir()
        for number, path in enumerate(parts[split]):
            wave, rate = soundfile.read(path)
            wave = soxr.resample(wave, rate, 44100)
            soundfile.write(tmp_path / split / f"{number:03}.flac", wave, 44100)
    decisions = []
    for name, root, folder in (
        ("original", real_sample, real_sample / "slider" / "test"),
        ("flac", tmp_path / "train", tmp_path / "test"),
    ):
        out = tmp_path / f"{name}.csv"
        workdir = learn(functionals, root, tmp_path / name, features={"n_mels": 128})
        assert run(capfd, "--workdir", workdir, folder, "--out", out)[0] == 0
        with out.open(encoding="utf-8") as file:
            decisions.append([row["decision"] for row in csv.DictReader(file)])
    assert len(decisions[0]) == len(parts["test"])
    assert set(decisions[0]) == {"normal", "anomaly"}
    assert decisions[0] == decisions[1]
