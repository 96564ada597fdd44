"""The command that evaluates scores."""

import pytest
from example_scores import some_scores

from mimii_jax.evaluate import main
from mimii_jax.results.official import write_official
from mimii_jax.results.table import NO_SEED, Scores, write_scores


def run(capsys, *argv):
    """Output of the command; errors end it with status 1 and one line."""
    main([str(argument) for argument in argv])
    return capsys.readouterr().out


def failure(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in argv])
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    return message


def test_command_reproduces_the_published_result(published_scores, tmp_path, capsys):
    out = tmp_path / "result.csv"
    text = run(capsys, published_scores, "--bootstrap=20", f"--out={out}")
    assert "identical to result.csv beside the scores" in text
    assert out.read_bytes() == (published_scores / "result.csv").read_bytes()
    assert "slider, 1,290 test clips" in text
    assert " .969 " in text
    assert max(len(line) for line in text.splitlines()[:-2]) <= 100
    file = published_scores / "anomaly_score_slider_id_04.csv"
    assert ".939" in run(capsys, file, "--bootstrap=0")


def test_command_lists_differences_from_the_result_beside_the_scores(tmp_path, capsys):
    write_official(some_scores({"00": (5, 5), "02": (5, 5)}, seed=3), tmp_path)
    result = tmp_path / "mlp_vae/seed_3/result.csv"
    lines = result.read_text().splitlines()
    lines[3] = "02,0.5,0.5"
    result.write_text("\n".join(lines) + "\n")
    text = run(capsys, tmp_path, "--bootstrap=0")
    assert "mlp_vae/seed_3: differs from result.csv beside the scores" in text
    assert "result.csv:4: 02,0.5,0.5 in the file, 02," in text
    result.write_bytes(b"\xff\xfe")
    assert "differs from" in run(capsys, tmp_path, "--bootstrap=0")


def test_command_reads_a_workdir_and_names_source_and_split(tmp_path, capsys):
    ids = {"00": (20, 20), "02": (0, 9, 3)}
    table = Scores.concatenate(
        [
            some_scores(ids),
            some_scores(ids, seed=1),
            some_scores(ids, detector="rms_dbfs", seed=NO_SEED),
            some_scores(ids, detector="rms_dbfs", seed=NO_SEED, machine_type="fan"),
        ]
    )
    write_scores(table, tmp_path / "scores.csv")
    (tmp_path / "config.json").write_text('{"data": {"root": ""}}')
    text = run(capsys, tmp_path, "--split=test", "--bootstrap=20")
    assert "slider, simulated, 29 labelled test clips (test split, 60 % of" in text
    assert "fan, simulated, 29 labelled test clips" in text
    assert " ±" in text
    assert "02: only anomalous and unlabelled clips: no AUC" in text
    lines = [line.split()[0] for line in text.splitlines() if "." in line[:40]]
    assert lines == ["rms_dbfs", "mlp_vae", "rms_dbfs"]
    assert "(control)" in text
    text = run(capsys, tmp_path / "scores.csv", "--bootstrap=0")
    assert "49 labelled test clips" in text
    assert "95 %  " not in text

    out = tmp_path / "result.csv"
    assert "--detector: choose one" in failure(capsys, tmp_path, f"--out={out}")
    assert "choose one of mlp_vae" in failure(capsys, tmp_path, "--detector=x")
    run(capsys, tmp_path, "--detector=rms_dbfs", f"--out={out}", "--bootstrap=0")
    assert out.read_text().startswith("fan\nid,AUC,pAUC\n00,")


OFFICIAL = "anomaly_score_slider_id_00.csv"
HEADER = "detector,seed,machine_type,machine_id,label,name,score\n"
CLIP = "normal_id_00_00000000.wav"


def bad_line(detector="a", seed="0", label="0", score="1"):
    return f"{HEADER}{detector},{seed},slider,00,{label},{CLIP},{score}\n"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("none.txt", "", "expected scores.csv or anomaly_score"),
        (OFFICIAL, "", "id_00.csv: no scores"),
        (OFFICIAL, f"{CLIP},1\n{CLIP}\n", "id_00.csv:2: 1 fields"),
        (OFFICIAL, f"{CLIP},much\n", "id_00.csv:1: score 'much'"),
        (OFFICIAL, f"\n{CLIP},nan\n", "id_00.csv:2: score 'nan'"),
        (OFFICIAL, "file,score\n", "id_00.csv:1: 'file' is not a clip name"),
        (OFFICIAL, f"{CLIP.replace('00_', '02_')},1\n", "in the file of id 00"),
        (OFFICIAL, f"{CLIP},1\n{CLIP},2\n", f"slider/{CLIP} ({{folder}}): two scores"),
        (OFFICIAL, b"\xff\xfe\x00", "id_00.csv: not a csv file"),
        ("scores.csv", "name,score\n", "scores.csv:1: expected columns"),
        ("scores.csv", HEADER, "scores.csv: no scores"),
        ("scores.csv", HEADER + "a,0,slider,00,0\n", "scores.csv:2: 5 fields"),
        ("scores.csv", bad_line(seed="x"), "seed 'x'"),
        ("scores.csv", bad_line(label="2"), "label '2'"),
        ("scores.csv", bad_line(score="nan"), "scores.csv:2: score 'nan'"),
        ("scores.csv", bad_line("\x1b[2J"), "scores.csv:2: has a control character"),
    ],
)
def test_bad_input_is_one_line_that_names_the_place(
    tmp_path, capsys, file, text, message
):
    content = text if isinstance(text, bytes) else text.encode()
    (tmp_path / file).write_bytes(content)
    assert message.format(folder=tmp_path.name) in failure(capsys, tmp_path)


def test_missing_path_and_foreign_file_are_one_line(tmp_path, capsys):
    assert "no such file or folder" in failure(capsys, tmp_path / "nowhere")
    (tmp_path / "notes.txt").touch()
    assert "expected scores.csv" in failure(capsys, tmp_path / "notes.txt")
    write_official(some_scores({"00": (1, 0)}), tmp_path)
    message = failure(capsys, tmp_path, "--split=validation")
    assert "no clips in the validation split" in message
    assert f"{tmp_path}" in failure(capsys, tmp_path, f"--out={tmp_path}")


@pytest.mark.parametrize("option", ["--bootstrap=-1", "--max_fpr=0", "--max_fpr=nan"])
def test_bad_options_are_refused(tmp_path, capsys, option):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path), option])
    assert stop.value.code == 2
    assert f"error: {option.split('=')[0]}" in capsys.readouterr().err
