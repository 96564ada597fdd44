"""Runs on recordings: evaluation clips with a label list, and other layouts."""

import csv
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from example_scores import some_scores
from small_clips import small_clips
from small_runs import again, small, trained
from wav_files import put

from configs import controls
from mimii_jax import evaluate
from mimii_jax.data import dcase
from mimii_jax.data.clips import NORMAL, UNKNOWN
from mimii_jax.data.labels import LABEL_LIST, read_labels
from mimii_jax.data.layouts import parse_name
from mimii_jax.errors import DataError
from mimii_jax.results.metrics import auc
from mimii_jax.results.official import write_official
from mimii_jax.results.table import read_scores, write_scores
from mimii_jax.workdir import Workdir

GOOD = "id_01_00000000.wav,normal_id_01_00000098.wav,0\n"


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


def test_evaluation_ids_are_measured_like_the_others(tmp_path, no_figures, capsys):
    clips = small_clips(ids=("00", "01"))
    hidden, lines = published(clips, ["01"])
    root, workdir = tmp_path / "root", tmp_path / "run"
    dcase.write(hidden, root)
    without = trained(small(controls, "quick", root), tmp_path / "without")
    assert "01: only unlabelled clips: no AUC" in without
    (root.parent / LABEL_LIST).write_text(
        lines
    )  # beside it, or as the download has it:
    assert "no AUC" not in trained(small(controls, "quick", root), tmp_path / "beside")
    (root.parent / LABEL_LIST).rename(root / LABEL_LIST)
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
    text = command(capsys, official, f"--labels={root / LABEL_LIST}")
    assert "no AUC" not in text
    assert "identical to result.csv beside the scores" in text


def command(capsys, *arguments):
    evaluate.main([*map(str, arguments), "--bootstrap=0"])
    return capsys.readouterr().out


def test_labels_in_another_place_are_named(tmp_path, no_figures):
    hidden, lines = published(small_clips(), ["00"])
    dcase.write(hidden, tmp_path / "root")
    (tmp_path / LABEL_LIST).write_text(
        f"fan\n{GOOD}"
    )  # found beside the root, unless named
    assert "00: only unlabelled" in trained(
        small(controls, "quick", tmp_path / "root"), tmp_path / "beside"
    )
    (tmp_path / "list.csv").write_text(lines)
    config = small(controls, "quick", tmp_path / "root")
    config.data.labels = str(tmp_path / "list.csv")
    assert "no AUC" not in trained(config, tmp_path / "run")
    config.data.labels = str(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match=r"nowhere\.csv: No such file"):
        trained(config, tmp_path / "again")


def test_a_model_is_measured_on_an_evaluation_folder_of_its_own(
    model, tmp_path, no_figures
):
    hidden, lines = published(small_clips(seed=3), ["00", "02"])
    dcase.write(hidden.test, tmp_path / "eval_data")
    (tmp_path / LABEL_LIST).write_text(lines)
    config = Workdir(model).read_config()
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
        for (kind, name), (label, _) in labels.items():
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
    assert "list.csv: lists none of the unlabelled clips" in message
    with pytest.raises(SystemExit):
        command(capsys, tmp_path, "--labels=nowhere.csv")
    assert "nowhere.csv: No such file" in capsys.readouterr().err


def test_scores_of_sections_are_read_back(tmp_path, capsys):
    scores = some_scores({"00": (5, 5)})
    kinds = np.where(scores.label == 1, "anomaly", "normal")
    names = [
        f"section_00_source_test_{kind}_{number:04d}_A.wav"
        for number, kind in enumerate(kinds)
    ]
    write_official(replace(scores, name=np.array(names)), tmp_path)
    assert "10 test clips" in command(capsys, tmp_path)


# layouts


def rows_of(workdir):
    with (workdir / "clips.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("layout", ["MIMII", "DCASE 2021 to 2026"])
def test_a_run_on_another_layout(tmp_path, layout, no_figures):
    clips = small_clips(ids=("00",), train=6, test=4)
    root, workdir = tmp_path / "root", tmp_path / "run"
    for row, name in enumerate(clips.name.tolist()):
        label, machine_id, number = parse_name(name)
        split = clips.split[row]
        if layout == "MIMII":
            kind = "normal" if label == NORMAL else "abnormal"
            number = int(number) + 100 * (split == "test")
            place = root / "0_dB_slider" / f"id_{machine_id}" / kind
            put(place, f"{number:08d}.wav", clips.audio[row])
        else:
            kind = "normal" if label == NORMAL else "anomaly"
            domain = "target" if int(number) % 2 else "source"
            name = f"section_{machine_id}_{domain}_{split}_{kind}_{number[4:]}_A.wav"
            put(root / "slider" / split, name, clips.audio[row])
    machine_type = "0_dB_slider" if layout == "MIMII" else "slider"
    data = {"test_normals": 4, "machine_types": (machine_type,)}
    config = small(controls, "quick", root, data=data)
    assert "no AUC" not in trained(config, workdir)
    rows = rows_of(workdir)
    kinds = Counter((r["split"], r["label"], r["domain"]) for r in rows)
    domains = ("",) if layout == "MIMII" else ("source", "target")
    each = {("train", "0"): 6, ("test", "0"): 4, ("test", "1"): 4}
    assert kinds == {
        (*kind, domain): n // len(domains)
        for kind, n in each.items()
        for domain in domains
    }
