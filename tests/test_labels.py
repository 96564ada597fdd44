"""Evaluation clips are measured like the others once their label list is there."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from example_scores import some_scores
from small_clips import small_clips
from small_runs import again, small, trained
from wav_files import noise, put

from configs import controls
from mimii_jax import evaluate
from mimii_jax.data import dcase
from mimii_jax.data.clips import ANOMALOUS, NORMAL, UNKNOWN
from mimii_jax.data.labels import FILE, read_labels
from mimii_jax.errors import DataError
from mimii_jax.results.metrics import auc
from mimii_jax.results.official import write_official
from mimii_jax.results.table import read_scores, write_scores
from mimii_jax.run import load_config


def published(clips, of):
    """Clips whose test names of some IDs have no label, and the lines of a list."""
    lines, names = [clips.machine_type], clips.name.tolist()
    for row in np.flatnonzero((clips.split == "test") & np.isin(clips.machine_id, of)):
        name = f"id_{clips.machine_id[row]}_{len(lines):08d}.wav"
        lines.append(f"{name},{names[row]},{clips.label[row]}")
        names[row] = name
    hidden = np.array([name.startswith("id_") for name in names])
    label = np.where(hidden, UNKNOWN, clips.label).astype(np.int8)
    return replace(clips, name=np.array(names), label=label), "\n".join(lines) + "\n"


def test_the_published_list_has_the_published_numbers(published_labels):
    labels = read_labels(published_labels)
    assert len(labels) == 7103
    kinds = {machine_type for machine_type, _ in labels}
    assert kinds == {"ToyCar", "ToyConveyor", "fan", "pump", "slider", "valve"}
    slider = Counter(
        (name[3:5], label) for (kind, name), label in labels.items() if kind == "slider"
    )
    expected = {NORMAL: 100, ANOMALOUS: 178}
    assert slider == {
        (i, label): n for i in ("01", "03", "05") for label, n in expected.items()
    }
    assert labels["fan", "id_01_00000000.wav"] == NORMAL
    assert labels["fan", "id_01_00000001.wav"] == ANOMALOUS


GOOD = "id_01_00000000.wav,normal_id_01_00000098.wav,0\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD, ":1: no machine type before the clips"),
        ("fan\n", ": no labels in it"),
        ("fan\nid_01_00000000.wav,0\n", ":2: expected a machine type, or name"),
        (f"fan\n{GOOD.replace(',0', ',2')}", ":2: expected a machine type, or name"),
        (f"fan\n{GOOD.replace(',0', ',1')}", ":2: id_01_00000000.wav, normal_.* contr"),
        (f"fan\n{GOOD.replace('l_id_01', 'l_id_03')}", ":2: .*contradict each other"),
        (f"fan\n{GOOD.replace('.wav', '.mp3')}", ":2: wrong name"),
        (
            f"fan\n{GOOD}id_01_00000000.wav,anomaly_id_01_00000001.wav,1\n",
            ":3: another label for id_01_00000000.wav before",
        ),
        (b"\xff\xfe", "not a label list"),
    ],
)
def test_a_list_that_is_not_in_order_names_the_line(tmp_path, text, message):
    path = tmp_path / "list.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match=message):
        read_labels(path)
    with pytest.raises(DataError, match="nowhere: cannot be read"):
        read_labels(tmp_path / "nowhere")


def test_labels_are_of_their_machine_type_and_of_unlabelled_names_alone(tmp_path):
    put(tmp_path / "fan" / "test", "id_01_00000000.wav", noise(0))
    put(tmp_path / "fan" / "test", "anomaly_id_00_00000000.wav", noise(1))
    name = "id_01_00000000.wav"
    labels = {("fan", name): ANOMALOUS, ("pump", name): NORMAL}
    labels["fan", "anomaly_id_00_00000000.wav"] = NORMAL
    clips = dcase.read(tmp_path, "fan", splits=("test",), labels=labels, progress=False)
    assert clips.label.tolist() == [ANOMALOUS, ANOMALOUS]


def test_evaluation_ids_are_measured_like_the_others(tmp_path, no_figures, capsys):
    clips = small_clips(ids=("00", "01"))
    hidden, lines = published(clips, ["01"])
    root, workdir = tmp_path / "root", tmp_path / "run"
    dcase.write(hidden, root)
    without = trained(small(controls, "quick", root), tmp_path / "without")
    assert "01: only unlabelled clips: no AUC" in without
    (root.parent / FILE).write_text(lines)  # beside it, or as the download has it:
    assert "no AUC" not in trained(small(controls, "quick", root), tmp_path / "beside")
    (root.parent / FILE).rename(root / FILE)
    printed = trained(small(controls, "quick", root), workdir)
    assert "slider: 6 evaluation clips have published labels" in printed
    assert "no AUC" not in printed

    table = read_scores(workdir / "scores.csv")
    of_01 = table[(table.machine_id == "01") & (table.detector == "rms_dbfs")]
    assert set(of_01.label.tolist()) == {0, 1}
    assert all(name.startswith("id_01_") for name in of_01.name.tolist())
    # The same numbers as from names with labels.
    named = tmp_path / "named"
    dcase.write(clips, named)
    trained(small(controls, "quick", named), tmp_path / "of_named")
    other = read_scores(tmp_path / "of_named" / "scores.csv")
    other = other[(other.machine_id == "01") & (other.detector == "rms_dbfs")]
    assert auc(of_01.label, of_01.score) == auc(other.label, other.score)

    # From the official files, whose names have no label, with the list.
    official = workdir / "official" / "rms_dbfs"
    assert "01: only unlabelled clips" in command(capsys, official)
    text = command(capsys, official, f"--labels={root / FILE}")
    assert "no AUC" not in text
    assert "identical to result.csv beside the scores" in text


def command(capsys, *arguments):
    evaluate.main([*map(str, arguments), "--bootstrap=0"])
    return capsys.readouterr().out


def test_labels_in_another_place_are_named(tmp_path, no_figures):
    hidden, lines = published(small_clips(), ["00"])
    dcase.write(hidden, tmp_path / "root")
    (tmp_path / FILE).write_text(f"fan\n{GOOD}")  # found beside the root, unless named
    assert "00: only unlabelled" in trained(
        small(controls, "quick", tmp_path / "root"), tmp_path / "beside"
    )
    (tmp_path / "list.csv").write_text(lines)
    config = small(controls, "quick", tmp_path / "root")
    config.data.labels = str(tmp_path / "list.csv")
    assert "no AUC" not in trained(config, tmp_path / "run")
    config.data.labels = str(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match=r"nowhere\.csv: cannot be read"):
        trained(config, tmp_path / "again")


def test_a_model_is_measured_on_an_evaluation_folder_of_its_own(
    model, tmp_path, no_figures
):
    hidden, lines = published(small_clips(seed=3), ["00", "02"])
    dcase.write(hidden.test, tmp_path / "eval_data")
    (tmp_path / FILE).write_text(lines)
    config = load_config(model)
    config.data.root = str(tmp_path / "eval_data")
    printed, _ = again(config, model)
    assert "slider: 12 evaluation clips have published labels" in printed
    assert "no AUC" not in printed


def test_the_command_labels_score_files_of_unlabelled_names(
    published_labels, tmp_path, capsys
):
    labels = read_labels(published_labels)
    rng = np.random.default_rng(0)
    truth = []
    for machine_id in ("01", "03", "05"):
        lines = []
        for (kind, name), label in labels.items():
            if kind == "slider" and name[3:5] == machine_id:
                score = rng.normal(label)
                lines.append(f"{name},{score}\n")
                truth.append((machine_id, label, score))
        file = tmp_path / f"anomaly_score_slider_id_{machine_id}.csv"
        file.write_text("".join(lines))
    assert "no AUC" in command(capsys, tmp_path)
    out = tmp_path / "result.csv"
    option = f"--labels={published_labels}"
    command(capsys, tmp_path, option, f"--out={out}")
    rows = dict(line.split(",", 1) for line in out.read_text().split("\n")[2:5])
    for machine_id in ("01", "03", "05"):
        of_id = [(label, score) for i, label, score in truth if i == machine_id]
        label, score = (np.array(column) for column in zip(*of_id, strict=True))
        assert rows[machine_id] == f"{auc(label, score)!r},{auc(label, score, 0.1)!r}"
    assert "identical to result.csv" in command(capsys, tmp_path, option)


def test_a_list_of_other_clips_is_one_line(tmp_path, capsys):
    scores = some_scores({"00": (3, 3, 2)})
    write_scores(scores, tmp_path / "scores.csv")
    path = tmp_path / "list.csv"
    path.write_text(f"pump\n{GOOD}")
    with pytest.raises(SystemExit):
        command(capsys, tmp_path, f"--labels={path}")
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "none of the unlabelled clips, such as slider/id_00_0" in message
    with pytest.raises(SystemExit):
        command(capsys, tmp_path, "--labels=nowhere.csv")
    assert "nowhere.csv: cannot be read" in capsys.readouterr().err


def test_scores_of_sections_are_read_back(tmp_path, capsys):
    scores = some_scores({"00": (5, 5)})
    kinds = np.where(scores.label == 1, "anomaly", "normal")
    names = [
        f"section_00_source_test_{kind}_{number:04d}_A.wav"
        for number, kind in enumerate(kinds)
    ]
    write_official(replace(scores, name=np.array(names)), tmp_path)
    assert "slider, 10 test clips" in command(capsys, tmp_path)
