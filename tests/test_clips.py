import numpy as np
import pytest

from mimii_jax.data.clips import ANOMALOUS, NORMAL, Clips, hold_out


def some_clips() -> Clips:
    return Clips(
        audio=np.arange(50, dtype=np.int16).reshape(5, 10),
        machine_id=np.array(["00", "00", "02", "00", "02"]),
        split=np.array(["train", "train", "train", "test", "test"]),
        label=np.array([NORMAL, NORMAL, NORMAL, ANOMALOUS, NORMAL], np.int8),
        name=np.array(list("abcde")),
        machine_type="slider",
        sample_rate=16000,
    )


def test_train_and_test_are_views_of_the_audio():
    clips = some_clips()
    assert len(clips) == 5
    assert clips.train.name.tolist() == ["a", "b", "c"]
    assert clips.test.name.tolist() == ["d", "e"]
    assert np.shares_memory(clips.train.audio, clips.audio)
    assert np.shares_memory(clips.test.audio, clips.audio)


def test_splits_that_lie_scattered_are_selected_too():
    clips = some_clips()[np.array([3, 0, 4, 1])]
    assert clips.train.name.tolist() == ["a", "b"]
    assert clips.test.audio[:, 0].tolist() == [30, 40]


def test_selection_by_mask_keeps_the_rows_together():
    clips = some_clips()
    of_02 = clips[clips.machine_id == "02"]
    assert of_02.name.tolist() == ["c", "e"]
    assert of_02.split.tolist() == ["train", "test"]
    assert of_02.audio[:, 0].tolist() == [20, 40]
    assert (of_02.machine_type, of_02.sample_rate) == ("slider", 16000)


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.99])
def test_a_share_of_each_id_is_held_out(fraction):
    machine_id = np.array(["00"] * 20 + ["02"] * 7 + ["04"])
    held_out = hold_out(machine_id, fraction)
    for value, count in (("00", 20), ("02", 7), ("04", 1)):
        expected = min(round(fraction * count), count - 1)
        assert held_out[machine_id == value].sum() == expected
    np.testing.assert_array_equal(hold_out(machine_id, fraction), held_out)
