"""Names, folders and the label list."""

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimii_jax.data import layouts
from mimii_jax.data.clips import ANOMALOUS, NORMAL, UNKNOWN
from mimii_jax.data.labels import read_labels
from mimii_jax.data.layouts import LAYOUTS
from mimii_jax.errors import DataError

# names


@given(
    st.sampled_from([("normal_", NORMAL), ("anomaly_", ANOMALOUS), ("", UNKNOWN)]),
    st.integers(0, 99),
    st.integers(0, 10**8 - 1),
    st.sampled_from(["wav", "WAV", "Wav", "flac", "aif", "aiff"]),
)
def test_every_name_of_the_grammar_is_parsed(label, machine_id, number, ending):
    name = f"{label[0]}id_{machine_id:02d}_{number:08d}.{ending}"
    expected = (label[1], f"{machine_id:02d}", f"{number:08d}")
    assert layouts.parse_name(name) == expected


@given(st.integers(0, 26), st.characters())
def test_a_name_changed_in_one_place_is_refused_or_says_just_that(place, character):
    name = "anomaly_id_04_00000123.wav"
    changed = name[:place] + character + name[place + 1 :]
    if re.fullmatch("anomaly_id_[0-9]{2}_[0-9]{8}[.][wW][aA][vV]", changed):
        expected = (ANOMALOUS, changed[11:13], changed[14:22])
        assert layouts.parse_name(changed) == expected
    else:
        with pytest.raises(ValueError, match="wrong name"):
            layouts.parse_name(changed)


@pytest.mark.parametrize(
    "name",
    [
        "normal_id_00_0000000.wav",
        "normal_id_\N{ARABIC-INDIC DIGIT ZERO}0_00000000.wav",
        "Normal_id_00_00000000.wav",
        "abnormal_id_00_00000000.wav",
        "normal_id_00_00000000 (1).wav",
        "normal_id_00_00000000.wav\n",
        "../normal_id_00_00000000.wav",
    ],
)
def test_near_misses_are_refused(name):
    with pytest.raises(ValueError, match="wrong name"):
        layouts.parse_name(name)


def test_machine_types_of_a_root(tmp_path):
    for name in ("valve/train", "ToyCar/test", "other", "-6_dB_slider/id_00/normal"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "fan").write_text("no folder")
    assert layouts.machine_types(tmp_path) == ["-6_dB_slider", "ToyCar", "valve"]
    with pytest.raises(DataError, match="nowhere: No such file"):
        layouts.machine_types(tmp_path / "nowhere")


def test_every_example_of_the_table_fits_its_own_layout_alone():
    for layout in LAYOUTS:
        fitting = [
            other for other in LAYOUTS if other.match(*layout.example.rsplit("/", 1))
        ]
        assert fitting == [layout]


# labels


def test_the_published_list_has_the_published_numbers(published_labels):
    labels = read_labels(published_labels)
    assert len(labels) == 7103
    kinds = {machine_type for machine_type, _ in labels}
    assert kinds == {"ToyCar", "ToyConveyor", "fan", "pump", "slider", "valve"}
    slider = Counter(
        (name[3:5], label)
        for (kind, name), (label, _) in labels.items()
        if kind == "slider"
    )
    expected = {NORMAL: 100, ANOMALOUS: 178}
    assert slider == {
        (i, label): n for i in ("01", "03", "05") for label, n in expected.items()
    }
    assert labels["fan", "id_01_00000000.wav"].label == NORMAL
    assert labels["fan", "id_01_00000001.wav"].label == ANOMALOUS


GOOD = "id_01_00000000.wav,normal_id_01_00000098.wav,0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD, ":1: no machine type before the clips"),
        ("fan\n", ": no labels in it"),
        ("fan\nid_01_00000000.wav,a,2\n", ":2: expected a machine type, or name"),
        (f"fan\n{GOOD.replace(',0', ',1')}", ":2: id_01_00000000.wav, normal_.* contr"),
        ("fan\nsection_00_0000.wav,section_00_source_test_0000.wav\n", ":2: .* contr"),
        (f"fan\n{GOOD.replace('l_id_01', 'l_id_03')}", ":2: .*contradict each other"),
        (f"fan\n{GOOD.replace('.wav', '.mp3')}", ":2: wrong name"),
        (
            f"fan\n{GOOD}id_01_00000000.wav,anomaly_id_01_00000001.wav,1\n",
            ":3: id_01_00000000.wav has another label above",
        ),
        (b"\xff\xfe", "not a label list"),
    ],
)
def test_a_list_that_is_not_in_order_names_the_line(tmp_path, text, message):
    path = tmp_path / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        read_labels(path)
    with pytest.raises(DataError, match="nowhere: No such file"):
        read_labels(tmp_path / "nowhere")
