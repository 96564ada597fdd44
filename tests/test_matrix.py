"""The cross-ID matrix from a score table, and its tables, csv file and heat map."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest
from example_scores import some_scores

from experiments.matrix import METRICS, compare, matrices, outside_matrices
from experiments.matrix_tables import (
    csv_text,
    forgetting_lines,
    heat_map,
    legend,
    matrix_lines,
    matrix_markdown,
    scoring_lines,
    signed,
    terminal_table,
)
from mimii_jax.results.per_id import MEAN, POOLED, evaluate
from mimii_jax.results.table import CONTROLS, NO_SEED, Scores

IDS = {"00": (40, 40), "02": (40, 30)}
ROWS = ("all", "id 00", "id 02", "all, then id 02")


def table(shift=None, model="mlp_vae", seeds=(0, 1)):
    """Rows of a matrix: scores of "all", of which some IDs' anomalies are moved."""
    tables = []
    for row in ROWS:
        for seed in seeds:
            scores = some_scores(IDS, f"{model}: {row}", seed)
            for machine_id, by in (shift or {}).get(row, {}).items():
                moved = (scores.machine_id == machine_id) & (scores.label == 1)
                scores = replace(scores, score=scores.score + by * moved)
            tables.append(scores)
    tables.append(some_scores(IDS, CONTROLS[0], NO_SEED))
    return Scores.concatenate(tables)


def test_rows_of_a_model_become_a_matrix_and_controls_do_not():
    (matrix,) = matrices(table(), bootstrap=20)
    assert matrix.name == "mlp_vae, slider"
    assert tuple(matrix.rows) == ROWS
    assert matrix.columns == ["00", "02", MEAN, POOLED]
    assert set(matrix.seeds.values()) == {2}
    others = outside_matrices(table())
    assert others.detectors == [CONTROLS[0]]
    assert compare(others, "slider", "").change(CONTROLS[0], "00") is None


def test_its_numbers_are_those_of_the_results():
    scores = table({"id 00": {"02": -1.0}})
    (matrix,) = matrices(scores, bootstrap=50)
    for row in evaluate(scores, bootstrap=50):
        if row.detector.startswith("mlp_vae: "):
            name = row.detector.removeprefix("mlp_vae: ")
            for metric in METRICS:
                ours = matrix.estimate(name, row.machine_id, metric)
                theirs = getattr(row, metric)
                assert (ours.mean, ours.sd) == (theirs.mean, theirs.sd)
                assert ours.interval == theirs.interval


def test_the_same_scores_are_no_change_whatever_the_interval_of_each():
    (matrix,) = matrices(table(), bootstrap=50)
    assert matrix.change("all", "00") is None
    for row in ROWS[1:]:
        change = matrix.change(row, "00")
        assert (change.mean, *change.interval) == (0, 0, 0)
        assert not change.beyond_noise


def test_a_paired_change_is_found_where_the_intervals_overlap():
    (matrix,) = matrices(table({"id 00": {"00": -0.3}}), bootstrap=300)
    base, row = (matrix.estimate(name, "00") for name in ("all", "id 00"))
    assert row.interval[1] > base.interval[0]
    change = matrix.change("id 00", "00")
    assert change.mean == pytest.approx(row.mean - base.mean)
    low, high = change.interval
    assert low < change.mean < high < 0
    assert change.beyond_noise
    assert matrix.change("id 00", "02").mean == 0


def test_a_change_that_not_every_seed_agrees_on_is_noise():
    scores = table()
    moved = (scores.detector == "mlp_vae: id 00") & (scores.label == 1)
    by = np.where(scores.seed == 0, 2.0, -0.1) * moved
    (matrix,) = matrices(replace(scores, score=scores.score + by), bootstrap=100)
    change = matrix.change("id 00", MEAN)
    assert change.interval[0] > 0
    assert not change.beyond_noise


def test_scorings_of_the_same_runs_are_compared_in_pairs():
    worse = table({row: {"00": -2.0} for row in ROWS[1:]}, "mlp_vae")
    found = [*matrices(table(), bootstrap=50), *matrices(worse, bootstrap=50)]
    (_, name), lines = scoring_lines(found, "auc")
    assert name == "mlp_vae minus mlp_vae"
    assert lines[0] == ["all", ".000 (.000 to .000)"]
    for row, change in lines[1:]:
        own = [one.estimate(row, MEAN) for one in found]
        assert change == signed(own[0].minus(own[1])) + " ▲"
        assert change.startswith("+")


def test_forgetting_is_what_the_other_ids_lose():
    shift = {"all, then id 02": {"00": -2.0, "02": 1.0}}
    (matrix,) = matrices(table(shift), bootstrap=50)
    own, others = matrix.forgetting("all, then id 02")
    assert own.mean == matrix.change("all, then id 02", "02").mean
    assert others.mean == matrix.change("all, then id 02", "00").mean
    assert own.mean > 0 > others.mean
    assert matrix.forgetting("id 02") is None
    _, ((name, first, second),) = forgetting_lines(matrix)
    assert name == "02"
    assert first.startswith("+")
    assert first.endswith("▲")
    assert second.startswith("-")
    assert second.endswith("▼")


def test_tables_have_a_row_per_training_set_and_what_was_reported():
    (matrix,) = matrices(table({"id 00": {"02": -2.0}}), bootstrap=50)
    head, rows = matrix_lines(matrix, "auc", {"all": ".95 / .75, .85"})
    assert [row[0] for row in rows] == list(ROWS)
    assert head[-1].startswith("reported")
    assert [row[-1] for row in rows] == [".95 / .75, .85", "", "", ""]
    assert rows[1][2].endswith("▼")
    text = matrix_markdown(matrix, {})
    assert text.count("| all |") == 2
    assert "“all” beyond noise" in text
    assert terminal_table(matrix, "pauc", {}).row_count == len(ROWS)
    texts = [text.get_text() for text in heat_map(matrix).axes[0].texts]
    assert len(texts) == len(ROWS) * len(matrix.columns)


def test_the_csv_file_has_every_number():
    (matrix,) = matrices(table({"id 00": {"02": -2.0}}), bootstrap=50)
    rows = list(csv.DictReader(io.StringIO(csv_text(matrix))))
    assert len(rows) == len(ROWS) * len(matrix.columns) * 2
    for row in rows:
        metric = row["metric"].lower()
        estimate = matrix.estimate(row["row"], row["column"], metric)
        assert float(row["mean"]) == pytest.approx(estimate.mean, abs=1e-5)
        assert float(row["low"]) == pytest.approx(estimate.interval[0], abs=1e-5)
        change = matrix.change(row["row"], row["column"], metric)
        assert (row["beyond_noise"] == "1") == bool(change and change.beyond_noise)
        assert (row["change"] == "") == (row["row"] == "all")


def test_one_seed_knows_nothing_of_the_noise_of_training():
    (matrix,) = matrices(table(), bootstrap=5)
    assert "one seed" not in legend(matrix)[0]
    (matrix,) = matrices(table(seeds=(0,)), bootstrap=5)
    assert "one seed" in legend(matrix)[0]
