"""Simulated fans and valves: repeatable, with faults where the labels say."""

import numpy as np
import pytest

from mimii_jax.data.clips import ANOMALOUS, NORMAL
from mimii_jax.errors import DataError
from mimii_jax.simulated import fan, valve
from mimii_jax.simulated.acoustics import SAMPLE_RATE, SAMPLES, Fault
from mimii_jax.simulated.simulate import MACHINES, simulate

KINDS = [(fan, kind) for kind in fan.FAULT_KINDS] + [
    (valve, kind) for kind in valve.FAULT_KINDS
]
BY_ID = {fan: fan.FANS, valve: valve.VALVES}


def render(module, kind, severity=1.0, seed=0, machine_id="00"):
    fault = Fault(kind, severity) if kind else None
    rng = np.random.default_rng(seed)
    return module.render(BY_ID[module][machine_id], fault, rng)


@pytest.mark.parametrize("machine_type", ["fan", "valve"])
def test_clips_are_repeatable_and_differ(machine_type):
    how = {"machine_type": machine_type, "scale": 0.003}
    first, again = simulate(("00", "04"), **how), simulate(("00", "04"), **how)
    assert first.clips.audio.tobytes() == again.clips.audio.tobytes()
    other = simulate(("00", "04"), **how, seed=1)
    assert (first.clips.audio != other.clips.audio).any(axis=1).all()
    alone = simulate(("04",), **how).clips
    own = first.clips.audio[first.clips.machine_id == "04"]
    np.testing.assert_array_equal(alone.audio, own)
    assert len({row.tobytes() for row in first.clips.audio}) == len(first.clips)
    assert first.clips.machine_type == machine_type
    assert {f.kind for f in first.faults} <= set(MACHINES[machine_type].fault_kinds)
    assert not np.isin(np.abs(first.clips.audio.astype(int)), (32767, 32768)).any()


def test_machine_types_do_not_share_their_noise():
    audio = [
        simulate(("00",), machine_type=one, scale=1e-6).clips.audio for one in MACHINES
    ]
    for i, a in enumerate(audio):
        for b in audio[:i]:
            assert abs(np.corrcoef(a[0], b[0])[0, 1]) < 0.1


def test_counts_are_those_of_the_official_data(real_functionals):
    for machine_type in ("fan", "valve"):
        found = np.load(real_functionals / f"{machine_type}.npz", allow_pickle=False)
        for machine_id, (train, anomalous) in MACHINES[machine_type].counts.items():
            labels = found["label"][found["id"] == machine_id]
            assert np.sum(labels == NORMAL) == train + 100
            assert np.sum(labels == ANOMALOUS) == anomalous


@pytest.mark.parametrize("machine_id", ["00", "02", "04", "06"])
@pytest.mark.parametrize(("module", "kind"), KINDS)
def test_a_fault_has_intervals_within_the_clip(module, kind, machine_id):
    audio, intervals = render(module, kind, machine_id=machine_id)
    assert audio.shape == (SAMPLES,)
    ends = np.array(intervals)
    assert ((ends >= 0) & (ends <= SAMPLES / SAMPLE_RATE)).all()
    assert (ends[:, 0] < ends[:, 1]).all()
    assert (ends[1:, 0] > ends[:-1, 1]).all()
    assert render(module, None, machine_id=machine_id)[1] == []


def band_power(audio, low, high):
    power = np.abs(np.fft.rfft(audio / 32768)) ** 2
    hertz = np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE)
    return np.sum(power[(hertz >= low) & (hertz < high)])


def test_a_pitted_bearing_rings():
    low, high = 2600, 2800  # of fan 00
    normal = [band_power(render(fan, None, seed=s)[0], low, high) for s in range(4)]
    worn = [band_power(render(fan, "bearing", seed=s)[0], low, high) for s in range(4)]
    assert np.median(worn) > 2 * np.median(normal)


def test_a_clogged_fan_turns_slower():
    def fundamental(audio):
        """Fundamental of the blades, nominally 171.5 Hz."""
        power = np.abs(np.fft.rfft(audio)) ** 2
        hertz = np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE)
        near = (hertz > 140) & (hertz < 200)
        return hertz[near][np.argmax(power[near])]

    speeds = [
        np.median([fundamental(render(fan, kind, seed=s)[0]) for s in range(5)])
        for kind in (None, "clogged")
    ]
    assert speeds[0] == pytest.approx(171.5, rel=0.02)
    assert speeds[1] == pytest.approx(171.5 * 0.92, rel=0.03)


def test_a_leak_hisses_while_the_valve_is_closed():
    audio, intervals = render(valve, "leak")
    normal, _ = render(valve, None)  # drawn alike up to the fault
    inside = [slice(*(int(t * SAMPLE_RATE) for t in one)) for one in intervals]
    longest = max(inside, key=lambda s: s.stop - s.start)
    band = (1500, 6000)
    assert band_power(audio[longest], *band) > 3 * band_power(normal[longest], *band)


def test_an_unknown_machine_is_refused():
    with pytest.raises(DataError, match=r"machine type pump.*slider, fan, valve"):
        simulate(("00",), machine_type="pump")
    with pytest.raises(DataError, match="choose a fan from 00, 02, 04, 06"):
        simulate(("01",), machine_type="fan")
