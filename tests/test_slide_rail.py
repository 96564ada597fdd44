import csv
import re
from collections import Counter

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mimii_jax.data import dcase
from mimii_jax.data.clips import ANOMALOUS, NORMAL
from mimii_jax.data.labels import read_labels
from mimii_jax.errors import DataError
from mimii_jax.simulated import simulate as simulator
from mimii_jax.simulated.acoustics import SAMPLE_RATE, Fault
from mimii_jax.simulated.rails import BELT, DAMAGE, GREASE, MECHANICS
from mimii_jax.simulated.slide_rail import carriage, render


def simulate(ids=("00",), scale=0.01, seed=0):
    return simulator.simulate(ids, scale=scale, seed=seed)


def by_identity(simulation):
    clips = simulation.clips
    keys = zip(clips.split.tolist(), clips.name.tolist(), strict=True)
    return dict(zip(keys, clips.audio, strict=True))


@pytest.fixture(scope="module")
def small():
    return simulate(("00", "04"), scale=0.01)


def test_shares_leave_out_the_last_clips_of_a_split():
    whole = simulate(("00",), scale=0.01).clips
    part = simulator.simulate(("00",), scale=0.02, train_share=0.2, test_share=0.5)
    assert len(part.clips.train) == round(968 * 0.004)
    np.testing.assert_array_equal(part.clips.test.audio, whole.test.audio)


def test_counts_names_and_order(small):
    clips = small.clips
    assert [clips.count("train", i, NORMAL) for i in clips.ids] == [10, 4]
    assert [clips.count("test", i, NORMAL) for i in clips.ids] == [1, 1]
    assert [clips.count("test", i, ANOMALOUS) for i in clips.ids] == [4, 2]
    assert clips.machine_type == "slider"
    assert clips.sample_rate == 16_000
    assert clips.audio.shape == (22, 160_000)
    assert clips.split.tolist() == ["train"] * 14 + ["test"] * 8


def test_every_kind_remains_at_the_smallest_scale():
    clips = simulate(("01", "06"), scale=1e-6).clips
    assert clips.name.tolist() == [
        "normal_id_01_00000000.wav",
        "normal_id_06_00000000.wav",
        "anomaly_id_01_00000000.wav",
        "normal_id_01_00000000.wav",
        "anomaly_id_06_00000000.wav",
        "normal_id_06_00000000.wav",
    ]


def test_test_clips_are_as_many_as_published(published_scores, published_labels):
    published = Counter()
    for path in published_scores.glob("anomaly_score_slider_id_*.csv"):
        for name in path.read_text().split():
            published[path.stem[-2:], int(name.startswith("anomaly"))] += 1
    for (machine, name), (label, _) in read_labels(published_labels).items():
        published[name[3:5], label] += machine == "slider"
    ours = {
        (machine_id, label): count
        for machine_id, splits in simulator.official_counts("slider").items()
        for label, count in splits["test"]
    }
    assert ours == +published


def test_bytes_do_not_depend_on_processes_other_ids_or_scale(small, monkeypatch):
    monkeypatch.setattr(simulator, "cpu_count", lambda: 2)
    whole = by_identity(simulate(("00", "02", "04"), scale=0.02))
    assert len(small.clips) < simulator._SERIAL_BELOW <= len(whole)
    for identity, audio in by_identity(small).items():
        assert audio.tobytes() == whole[identity].tobytes()
    assert len({audio.tobytes() for audio in whole.values()}) == len(whole)
    other = simulate(scale=1e-6, seed=1).clips
    assert not np.array_equal(other.audio[0], small.clips.audio[0])


def test_faults_sound_inside_anomalous_clips_only(small):
    clips = small.clips
    anomalous = set(clips.name[clips.label == ANOMALOUS].tolist())
    assert {fault.name for fault in small.faults} == anomalous
    for fault in small.faults:
        assert 0 <= fault.start_s < fault.end_s <= 10
        assert 0 < fault.severity <= 1
    for before, after in zip(small.faults, small.faults[1:], strict=False):
        if before.name == after.name:
            assert before.end_s < after.start_s
            assert (before.kind, before.severity) == (after.kind, after.severity)


@pytest.mark.parametrize("machine_id", sorted(MECHANICS))
@pytest.mark.parametrize("kind", [DAMAGE, BELT, GREASE])
def test_worst_faults_do_not_clip(machine_id, kind):
    rng = np.random.default_rng(0)
    audio, intervals = render(MECHANICS[machine_id], Fault(kind, 1.0), rng)
    assert np.abs(audio.astype(int)).max() < 32767
    assert intervals


def fault_sound(kind, machine_id="00", seed=3, severity=1.0):
    rail = MECHANICS[machine_id]
    return render(rail, Fault(kind, severity), np.random.default_rng(seed))


def frame_power(audio, low, high, n=512):
    frames = audio[: len(audio) // n * n].reshape(-1, n) * np.hanning(n)
    power = np.abs(np.fft.rfft(frames)) ** 2
    hertz = np.fft.rfftfreq(n, 1 / SAMPLE_RATE)
    return power[:, (hertz >= low) & (hertz < high)].sum(1)


@pytest.mark.parametrize(
    ("machine_id", "kind", "golden"),
    [
        ("00", None, (2.89, 5.15, -11.3)),
        ("00", DAMAGE, (4.56, 6.06, 6.01)),
        ("02", BELT, (4.83, 1.87, -6.0)),
        ("04", GREASE, (1.11, 1.38, -5.8)),
    ],
)
def test_sound_keeps_its_golden_values(machine_id, kind, golden):
    fault = Fault(kind, 0.9) if kind else None
    audio, _ = render(MECHANICS[machine_id], fault, np.random.default_rng(1))
    bands = (100, 400), (400, 1600), (1600, 8000)
    power = [frame_power(audio / 32768, *band).mean() for band in bands]
    np.testing.assert_allclose(10 * np.log10(power), golden, atol=0.01)


def test_carriage_runs_to_and_fro_between_its_end_stops():
    rail = MECHANICS["02"]
    motion = carriage(rail, 0.0, np.random.default_rng(0))
    assert motion.speed.min() >= 0
    assert motion.speed.max() == pytest.approx(1, abs=0.05)
    assert np.all(np.diff(motion.travel) >= 0)
    strokes = np.diff(motion.travel[motion.stops]) / rail.stroke_m
    assert len(strokes) > 5
    np.testing.assert_allclose(strokes, 1, rtol=0.002)
    assert np.all(motion.speed[motion.stops[:-1] + 2] < 0.01)  # rests at the stops


def test_a_loose_belt_makes_the_speed_wobble():
    rail = MECHANICS["00"]
    steady, loose = (
        carriage(rail, wobble, np.random.default_rng(0)).speed for wobble in (0.0, 1.0)
    )
    running = steady > 0.95
    assert np.std(loose[running]) > 5 * np.std(steady[running])


def test_damage_is_heard_at_the_same_places_in_both_directions():
    rail = MECHANICS["02"]
    rng = np.random.default_rng(5)
    state = rng.bit_generator.state
    motion = carriage(rail, 0.0, rng)  # the first thing that a clip draws
    rng.bit_generator.state = state
    _, intervals = render(rail, Fault(DAMAGE, 0.8), rng)
    start = np.array([start for start, _ in intervals if start > 0])
    along = motion.travel[np.round((start + 1) * SAMPLE_RATE).astype(int)]
    place = along / rail.stroke_m % 2
    forth, back = np.sort(place[place < 1]), np.sort(2 - place[place > 1])
    patch = 0.05 / rail.stroke_m
    for direction in (forth, back):
        assert len(direction) >= 4
        places = 1 + np.sum(np.diff(direction) > patch)
        assert places <= 4, "strikes recur at a few fixed places, stroke after stroke"
        assert len(direction) >= 2 * places


@pytest.mark.parametrize("kind", [DAMAGE, GREASE])
def test_faults_sound_when_their_labels_say(kind):
    audio, intervals = fault_sound(kind)
    power = frame_power(audio.astype(float), 2000, 8000)
    middle = (np.arange(len(power)) + 0.5) * 512 / SAMPLE_RATE
    inside = np.any([(s <= middle) & (middle < e) for s, e in intervals], axis=0)
    assert 0 < inside.mean() < 0.95
    assert power[inside].mean() > 3 * power[~inside].mean()


@pytest.mark.parametrize("kind", [DAMAGE, BELT, GREASE])
def test_severity_makes_a_fault_louder(kind):
    mild, severe = (
        frame_power(
            fault_sound(kind, severity=severity)[0].astype(float), 800, 8000
        ).sum()
        for severity in (0.05, 1.0)
    )
    assert severe > 1.3 * mild


def test_the_dumbest_baseline_finds_the_faults_of_id_00():
    clips = simulate(scale=0.04).clips
    level = np.array([np.std(audio.astype(np.float32)) for audio in clips.audio])
    assert roc_auc_score(clips.label, level) > 0.85


def test_simulated_clips_look_like_real_ones(real_sample):
    real = dcase.read(real_sample, "slider", ("00",)).train.audio
    ours = simulate(scale=0.005).clips.train.audio
    for low, high in ((100, 400), (400, 1600)):
        theirs, made = (
            10 * np.log10(np.mean([frame_power(a / 32768, low, high) for a in audio]))
            for audio in (real[:20], ours)
        )
        assert made == pytest.approx(theirs, abs=4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scale": 0.0}, "scale=0.* greater than 0"),
        ({"scale": float("nan")}, "scale=nan.* greater than 0"),
        ({"ids": ("00", "09")}, "ids=00, 09: choose .*from 00, 01, 02"),
        ({"ids": ()}, "ids.*from 00, 01, 02"),
        ({"seed": -1}, "seed=-1.* 0 or greater"),
    ],
)
def test_what_cannot_be_simulated_is_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        simulate(**arguments)


def test_command_writes_a_data_set_that_reads_back(tmp_path, capsys):
    simulator.main(["--out", str(tmp_path), "--scale", "0.005", "--ids", "02"])
    expected = simulate(("02",), scale=0.005)
    clips = dcase.read(tmp_path, "slider", ("02",))
    assert clips.name.tolist() == expected.clips.name.tolist()
    np.testing.assert_array_equal(clips.audio, expected.clips.audio)
    with (tmp_path / "slider" / "faults.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [fault.name for fault in expected.faults]
    assert list(rows[0]) == ["name", "kind", "severity", "start_s", "end_s"]
    assert f"wrote {len(clips)} simulated clips" in capsys.readouterr().out


def test_an_error_of_the_command_is_one_line(capsys):
    with pytest.raises(SystemExit, match="1"):
        simulator.main(["--out", "/dev/null/x"])
    assert re.fullmatch(r"error: /dev/null/x.*directory\n", capsys.readouterr().err)
