"""Rows of results and the command line."""

import numpy as np
import pytest
from example_scores import some_scores

from mimii_jax.errors import DataError
from mimii_jax.evaluate import main
from mimii_jax.results.metrics import auc
from mimii_jax.results.official import write_official
from mimii_jax.results.per_id import MEAN, POOLED, evaluate
from mimii_jax.results.table import NO_SEED, Scores, write_scores


def rows_of(scores, **options):
    return {
        (row.detector, row.machine_id): row
        for row in evaluate(scores, **{"bootstrap": 50, **options})
    }


def numbers(row):
    """All that a row says, to compare."""
    metrics = [m and (m.mean, m.sd, m.interval) for m in (row.auc, row.pauc)]
    return [*metrics, row.n_normal, row.n_anomalous, row.seeds, row.note]


# Rows of results


def test_average_is_unweighted_over_ids_and_pooled_is_over_clips():
    scores = some_scores({"00": (40, 10), "02": (10, 90)})
    shifted = np.where(scores.machine_id == "02", scores.score + 100, scores.score)
    scores = Scores(**{**vars(scores), "score": shifted})
    rows = rows_of(scores)
    per_id = [
        auc(scores.label[where], scores.score[where])
        for where in (scores.machine_id == "00", scores.machine_id == "02")
    ]
    assert [rows["mlp_vae", i].auc.mean for i in ("00", "02")] == per_id
    assert rows["mlp_vae", MEAN].auc.mean == pytest.approx(np.mean(per_id))
    assert rows["mlp_vae", POOLED].auc.mean == auc(scores.label, scores.score)
    assert rows["mlp_vae", POOLED].pauc.mean == auc(scores.label, scores.score, 0.1)
    assert rows["mlp_vae", POOLED].n_normal == 50
    assert rows["mlp_vae", MEAN].n_anomalous == 100


def test_mean_and_sd_over_seeds_whatever_the_order_of_the_rows():
    runs = [some_scores({"00": (20, 20), "02": (20, 20)}, seed=s) for s in (0, 1, 5)]
    scores = Scores.concatenate(runs)
    mixed = scores[np.random.default_rng(0).permutation(len(scores))]
    rows = rows_of(mixed)
    each = [
        [
            auc(r.label[r.machine_id == i], r.score[r.machine_id == i])
            for i in ("00", "02")
        ]
        for r in runs
    ]
    row = rows["mlp_vae", "02"]
    assert row.seeds == (0, 1, 5)
    assert row.auc.mean == pytest.approx(np.mean(each, axis=0)[1])
    assert row.auc.sd == pytest.approx(np.std(each, axis=0, ddof=1)[1])
    average = rows["mlp_vae", MEAN].auc
    assert average.sd == pytest.approx(np.std(np.mean(each, axis=1), ddof=1))
    ordered = rows_of(scores)
    assert ordered.keys() == rows.keys()
    assert all(numbers(ordered[key]) == numbers(rows[key]) for key in rows)


def test_interval_holds_the_mean_and_is_the_same_for_the_same_scores():
    scores = some_scores({"00": (50, 80), "02": (60, 40)})
    twin = Scores(**{**vars(scores), "detector": np.full(len(scores), "twin")})
    rows = rows_of(Scores.concatenate([scores, twin]), bootstrap=400)
    for name in ("00", "02", MEAN, POOLED):
        one, other = rows["mlp_vae", name], rows["twin", name]
        assert numbers(one) == numbers(other)
        low, high = one.auc.interval
        assert low < one.auc.mean < high
    widths = [np.ptp(rows["mlp_vae", name].auc.interval) for name in ("00", "02", MEAN)]
    assert widths[2] < min(widths[:2])


@pytest.mark.parametrize(
    ("counts", "note"),
    [
        ((0, 5), "only anomalous clips: no AUC"),
        ((5, 0), "only normal clips: no AUC"),
        ((0, 0, 5), "only unlabelled clips: no AUC"),
        ((2, 0, 5), "only normal and unlabelled clips: no AUC"),
    ],
)
def test_id_without_both_classes_has_a_note_and_the_rest_is_computed(counts, note):
    rows = rows_of(some_scores({"00": (9, 9), "06": counts}))
    row = rows["mlp_vae", "06"]
    assert (row.auc, row.pauc, row.note) == (None, None, note)
    assert numbers(rows["mlp_vae", MEAN])[:5] == numbers(rows["mlp_vae", "00"])[:5]
    assert rows["mlp_vae", MEAN].note == "of IDs 00"
    assert rows["mlp_vae", POOLED].auc is not None
    alone = rows_of(some_scores({"06": counts}))
    assert [row.auc for row in alone.values()] == [None] * 3


def test_unlabelled_clips_change_nothing_and_are_counted():
    with_them = rows_of(some_scores({"00": (9, 9, 4)}))["mlp_vae", "00"]
    assert with_them.note == "4 unlabelled clips left out"
    assert (with_them.n_normal, with_them.n_anomalous) == (9, 9)


def test_seeds_with_other_clips_are_refused():
    runs = [some_scores({"00": (5, 5)}), some_scores({"00": (5, 4)}, seed=1)]
    with pytest.raises(DataError, match=r"slider, mlp_vae: seed 1 .* than seed 0"):
        evaluate(Scores.concatenate(runs))


# The command line


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
    assert "mlp_vae/seed_3: 1 difference from result.csv beside the scores" in text
    assert "result.csv:4: 02,0.5,0.5 in the file, 02," in text
    result.write_bytes(b"\xff\xfe")
    assert "differences from" in run(capsys, tmp_path, "--bootstrap=0")


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
    assert "--detector: mlp_vae" in failure(capsys, tmp_path, f"--out={out}")
    assert "choose one of mlp_vae" in failure(capsys, tmp_path, "--detector=x")
    run(capsys, tmp_path, "--detector=rms_dbfs", f"--out={out}", "--bootstrap=0")
    assert out.read_text().startswith("fan\nid,AUC,pAUC\n00,")


OFFICIAL = "anomaly_score_slider_id_00.csv"
HEADER = "detector,seed,machine_type,machine_id,label,name,score\n"
CLIP = "normal_id_00_00000000.wav"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("none.txt", "", "no scores.csv and no anomaly_score"),
        (OFFICIAL, "", "id_00.csv: no scores"),
        (
            OFFICIAL,
            f"{CLIP},1\n{CLIP}\n",
            "id_00.csv:2: 1 fields instead of name,score",
        ),
        (OFFICIAL, f"{CLIP},much\n", "id_00.csv:1: score 'much' is not a number"),
        (OFFICIAL, f"\n{CLIP},nan\n", "id_00.csv:2: score 'nan' is not finite"),
        (OFFICIAL, f"{CLIP},-inf\n", "id_00.csv:1: score '-inf' is not finite"),
        (OFFICIAL, "file,score\n", "id_00.csv:1: 'file' is not a clip name such as"),
        (OFFICIAL, f"{CLIP.replace('00_', '02_')},1\n", "in the file of id 00"),
        (OFFICIAL, f"{CLIP},1\n{CLIP},2\n", f"slider/{CLIP} ({{folder}}): two scores"),
        (OFFICIAL, b"\xff\xfe\x00", "id_00.csv: not a csv file"),
        ("scores.csv", "name,score\n", "scores.csv:1: expected columns detector,seed"),
        ("scores.csv", HEADER, "scores.csv: no scores"),
        (
            "scores.csv",
            HEADER + "a,0,slider,00,0\n",
            "scores.csv:2: 5 fields instead of 7",
        ),
        (
            "scores.csv",
            f"{HEADER}a,x,slider,00,0,{CLIP},1\n",
            "seed 'x' is not a whole",
        ),
        (
            "scores.csv",
            f"{HEADER}a,0,slider,00,2,{CLIP},1\n",
            "label '2' is not 0, 1 or",
        ),
        (
            "scores.csv",
            f"{HEADER}a,0,slider,00,0,{CLIP},nan\n",
            "csv:2: score 'nan' is",
        ),
        (
            "scores.csv",
            f"{HEADER}\x1b[2J,0,slider,00,0,{CLIP},1\n",
            "scores.csv:2: has a control character",
        ),
        (
            "scores.csv",
            f"{HEADER}a,{10**30},slider,00,0,{CLIP},1\n",
            "scores.csv:2: seed '1000",
        ),
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
    assert "not a score file" in failure(capsys, tmp_path / "notes.txt")
    write_official(some_scores({"00": (1, 0)}), tmp_path)
    message = failure(capsys, tmp_path, "--split=validation")
    assert "no clips in the validation split" in message
    assert f"{tmp_path}" in failure(capsys, tmp_path, f"--out={tmp_path}")


@pytest.mark.parametrize(
    "option", ["--bootstrap=-1", "--bootstrap=1000000000", "--max_fpr=0", "--max_fpr=x"]
)
def test_bad_options_are_refused(tmp_path, capsys, option):
    with pytest.raises(SystemExit) as stop:
        main([str(tmp_path), option])
    assert stop.value.code == 2
    assert f"argument {option.split('=')[0]}: " in capsys.readouterr().err
