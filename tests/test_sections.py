"""Results of the challenges since 2021: by section and domain, with decisions."""

import csv
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import hmean
from sklearn.metrics import precision_recall_fscore_support, roc_auc_score
from small_clips import small_clips
from small_runs import small, trained

from configs import functionals
from mimii_jax import evaluate
from mimii_jax.data import dcase
from mimii_jax.data.labels import LABEL_LIST, Label, read_labels
from mimii_jax.errors import DataError
from mimii_jax.results.official import (
    compare_result,
    read_decisions,
    read_official,
    write_official,
)
from mimii_jax.results.sections import DOMAINS, Sections, measure, result_text
from mimii_jax.results.table import Scores, read_scores, write_scores

LATER = "section_{section}_{domain}_test_{label}_{n:04d}_pow_1.wav"
OF_2021 = "section_{section}_{domain}_test_{label}_{n:04d}.wav"


def some(pattern=LATER, types=("fan", "ToyCar"), sections=("00", "01"), seeds=(0,)):
    """Random scores of ten clips per section, domain and label, and decisions."""
    rng = np.random.default_rng(0)
    rows = [
        ("net", seed, kind, section, label, pattern.format(**names), rng.normal(label))
        for seed in seeds
        for kind in types
        for section in sections
        for label in (0, 1)
        for domain in DOMAINS
        for n in range(10)
        for names in [
            {
                "section": section,
                "domain": domain,
                "label": ("normal", "anomaly")[label],
                "n": n,
            }
        ]
    ]
    scores = Scores.from_rows(rows)
    return scores, (scores.score > 0.7).astype(float)


def published(scores):
    """As evaluation clips, whose names have no label and, but in 2021, no domain."""
    counts, lists, names = {}, {}, []
    for row in scores.rows():
        kind, section, label, full, domain = row[2], row[3], row[4], row[5], row[7]
        if (kind, full) not in lists:
            n = counts[kind, section] = counts.get((kind, section), -1) + 1
            of = "" if full.endswith("_pow_1.wav") else f"{domain}_test_"
            name = f"section_{section}_{of}{n:04d}.wav"
            lists[kind, full] = (kind, name, full, label, domain)
        names.append(lists[kind, full][1])
    none = np.full(len(scores), -1)
    columns = {c: getattr(scores, c) for c in ("detector", "seed", "score")}
    hidden = Scores(
        **columns,
        machine_type=scores.machine_type,
        machine_id=scores.machine_id,
        label=none,
        name=np.array(names),
    )
    return hidden, list(lists.values())


def write_truth(folder, lists, apart=False):
    """The files of an evaluator."""
    for kind, name, full, label, domain in lists:
        part = f"_{domain}" if apart else ""
        file = f"ground_truth_{kind}_{name[:10]}{part}_test.csv"
        columns = {"data": label, "domain": DOMAINS.index(domain), "attributes": full}
        for column, value in columns.items():
            path = folder / f"ground_truth_{column}" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a") as text:
                text.write(f"{name},{str(value).removesuffix('.wav')}\n")


def test_a_section_by_hand():
    """Normal 1, 4 (source) and 2, 6 (target); anomalies 3 (source) and 5 (target)."""
    clips = [(0, "source", 1), (0, "source", 4), (0, "target", 2), (0, "target", 6)]
    clips += [(1, "source", 3), (1, "target", 5)]
    rows = [
        ("net", 0, "fan", "00", label, f"section_00_{n:04d}.wav", float(score), domain)
        for n, (label, domain, score) in enumerate(clips)
    ]
    scores = Scores.from_rows(rows)
    table = measure(scores, np.array([0, 1, 0, 1, 1, 0.0]))
    # 3 of the 4 pairs of either domain's normal clips; 5 of 8 in all.
    assert table.of_both == {("fan", "00"): 5 / 8}
    source, target = (table.values["fan", "00", domain] for domain in DOMAINS)
    assert source[0] == 3 / 4
    assert target[0] == 2 / 4
    assert source[1] == target[1] == pytest.approx(9 / 19)  # nothing found: McClish
    np.testing.assert_allclose(source[2:], [1 / 2, 1, 2 / 3])
    assert target[2:].tolist() == [0, 0, 0]
    assert table.official() == pytest.approx(3 / (4 / 3 + 2 + 19 / 9))
    assert "fan\nsection,AUC (all),AUC (source),AUC (target),pAUC,precision (sou" in (
        result_text(scores, np.full(6, np.nan))
    )


def test_metrics_are_those_of_scikit_learn():
    scores, decisions = some()
    table = measure(scores, decisions)
    aucs = []
    for (kind, section, domain), values in table.values.items():
        of = (scores.machine_type == kind) & (scores.machine_id == section)
        own = of & (scores.domain == domain)
        against = of & ((scores.domain == domain) | (scores.label == 1))
        expected = [
            roc_auc_score(scores.label[against], scores.score[against]),
            roc_auc_score(scores.label[of], scores.score[of], max_fpr=0.1),
            *precision_recall_fscore_support(
                scores.label[own], decisions[own], average="binary"
            )[:3],
        ]
        np.testing.assert_allclose(values, expected)
        aucs += expected[: 2 if domain == "source" else 1]
    assert table.official() == pytest.approx(hmean(aucs))
    text = list(csv.reader(result_text(scores, decisions).splitlines()))
    assert ["official score", "", repr(table.official())] in text
    of_toy = text[: text.index([])]
    assert of_toy[0] == ["ToyCar"]
    source = table.values["ToyCar", "01", "source"]
    target = table.values["ToyCar", "01", "target"]
    row = dict(zip(of_toy[1], of_toy[3], strict=True))
    assert row["section"] == "01"
    assert float(row["AUC (target)"]) == target[0]
    assert float(row["F1 score (source)"]) == source[4]
    means = {line[0]: np.array(line[2:], float) for line in of_toy[5:]}
    values = np.array(list(table.values.values()))
    np.testing.assert_allclose(means["arithmetic mean"], values[:4].mean(0))
    np.testing.assert_allclose(means["target harmonic mean"], hmean(values[1:4:2]))
    overall = next(line for line in text if line[:1] == [f"harmonic mean {ALL}"])
    np.testing.assert_allclose(np.array(overall[2:], float), hmean(values))


ALL = "over all machine types, sections, and domains"


def test_averages_are_those_published_for_the_baseline_of_2024():
    """AUC source and target and pAUC of its nine machines, from its README."""
    source = (0.7912, 0.65, 0.6916, 0.7658, 0.8602, 0.6224, 0.7504, 0.6596, 0.707)
    target = (0.4796, 0.4824, 0.5374, 0.5266, 0.4388, 0.4598, 0.6948, 0.4152, 0.6352)
    pauc = (
        *(0.4942105263157895, 0.5547368421052632, 0.5010526315789474, 0.5),
        *(0.5021052631578947, 0.5163157894736842, 0.5273684210526316),
        *(0.511578947368421, 0.5557894736842105),
    )
    values = {
        (str(n), "00", domain): np.array([auc[n], pauc[n], 1, 1, 1])
        for n in range(9)
        for domain, auc in zip(DOMAINS, (source, target), strict=True)
    }
    table = Sections(values, {}, False)
    assert table.official() == pytest.approx(0.5650830191796572, rel=1e-12)
    of_first = Sections({k: v for k, v in values.items() if k[0] == "0"}, {}, False)
    assert hmean(of_first.rows()[:, 0]) == pytest.approx(0.5971978596159899, rel=1e-12)


def test_in_2021_each_domain_is_by_itself():
    scores, decisions = some(OF_2021)
    table = measure(scores, decisions)
    for (kind, section, domain), values in table.values.items():
        own = (scores.machine_type == kind) & (scores.machine_id == section)
        own &= scores.domain == domain
        label, score = scores.label[own], scores.score[own]
        pauc = roc_auc_score(label, score, max_fpr=0.1)
        np.testing.assert_allclose(values[:2], [roc_auc_score(label, score), pauc])
    lines = result_text(scores, decisions).splitlines()
    assert lines[1] == "section,domain,AUC,pAUC,precision,recall,F1 score"
    keys = [line.split(",")[:2] for line in lines[2:6]]
    assert keys == [[section, domain] for domain in DOMAINS for section in ("00", "01")]


@pytest.mark.parametrize(
    ("pattern", "file"),
    [
        (LATER, "anomaly_score_ToyCar_section_01_test.csv"),
        (OF_2021, "anomaly_score_ToyCar_section_01_target_test.csv"),
    ],
)
@pytest.mark.parametrize("hide", [False, True])
def test_files_of_every_year_are_written_and_read(
    tmp_path, capsys, pattern, file, hide
):
    named, decisions = some(pattern, seeds=(0, 7))
    scores, lists = published(named) if hide else (named, [])
    write_truth(tmp_path / "truth", lists, pattern == OF_2021)
    labels = read_labels(tmp_path / "truth") if hide else {}
    scores = scores.labelled(labels)
    np.testing.assert_array_equal(scores.label, named.label)
    np.testing.assert_array_equal(scores.domain, named.domain)
    write_official(scores, tmp_path / "out", decisions)
    assert (tmp_path / "out" / "net" / "seed_7" / file).is_file()
    again = read_official(tmp_path / "out").labelled(labels)
    assert sorted(again.rows()) == sorted(scores.rows())
    found = read_decisions(tmp_path / "out", again)
    np.testing.assert_array_equal(found[order(again)], decisions[order(scores)])
    option = [f"--labels={tmp_path / 'truth'}"] if hide else []
    evaluate.main([str(tmp_path / "out"), "--bootstrap=0", *option])
    printed = capsys.readouterr().out
    assert printed.count("identical to result.csv beside the scores") == 2
    assert "all machine types, net" in printed


def order(scores):
    return np.lexsort((scores.name, scores.seed, scores.machine_type))


def test_lists_and_files_of_labels_agree(tmp_path):
    scores, lists = published(some()[0])
    write_truth(tmp_path / "truth", lists)
    lines = []
    for kind, name, full, *_ in lists:
        lines += [kind] * (kind not in lines) + [f"{name},{full}"]
    (tmp_path / LABEL_LIST).write_text("\n".join(lines))
    labels = read_labels(tmp_path / LABEL_LIST)
    assert labels == read_labels(tmp_path / "truth")
    assert labels["ToyCar", "section_01_0000.wav"] == Label(0, "source")
    data = read_labels(tmp_path / "truth" / "ground_truth_data")
    assert data["ToyCar", "section_01_0000.wav"] == Label(0)
    path = tmp_path / "truth/ground_truth_data/ground_truth_fan_section_00_test.csv"
    path.write_text(path.read_text().replace("0039.wav,1", "0039.wav,0"))
    with pytest.raises(DataError, match=r"0039\.wav has another label above"):
        read_labels(tmp_path / "truth")
    # Domains that no name tells are in the table.
    known = scores.labelled(labels)
    write_scores(known, tmp_path / "scores.csv")
    assert list(read_scores(tmp_path / "scores.csv").rows()) == list(known.rows())


def test_a_run_writes_them_and_the_official_metrics(tmp_path, capsys, monkeypatch):
    for name in ("write_figures", "write_report"):
        monkeypatch.setattr(f"mimii_jax.run.{name}", lambda *_, **__: None)
    clips = small_clips(train=12, test=4)
    lists, names = [], []
    for row, label in enumerate(clips.label):
        test = clips.split[row] == "test"
        word, domain = ("normal", "anomaly")[label], DOMAINS[row % 2]
        section = f"section_{clips.machine_id[row]}"
        number = int(clips.name[row][-12:-4]) + 10 * label
        name = f"{section}_{domain}_train_normal_{number:04d}_A.wav"
        if test:
            name = f"{section}_{number:04d}.wav"
            full = f"{section}_{domain}_test_{word}_{number:04d}_A.wav"
            lists.append(("slider", name, full, label, domain))
        names.append(name)
    dcase.write(replace(clips, name=np.array(names)), tmp_path / "root")
    write_truth(tmp_path / "root", lists)
    config = small(functionals, root=tmp_path / "root")
    printed = trained(config, tmp_path / "run")
    assert "slider: 16 evaluation clips have published labels" in printed
    line = next(x for x in printed.splitlines() if x.startswith("slider, functionals "))
    folder = tmp_path / "run" / "official" / "functionals" / "seed_0"
    names = {path.name for path in folder.iterdir()}
    kinds = ("anomaly_score", "decision_result")
    files = {f"{k}_slider_section_{i}_test.csv" for k in kinds for i in ("00", "02")}
    assert names == {*files, "result.csv"}
    labels = read_labels(tmp_path / "root")
    assert compare_result(folder, labels) == []
    score = line.split()[5]
    text = (folder / "result.csv").read_text()
    found = float(text.split("official score,,")[1].split()[0])
    assert float(score) == pytest.approx(found, abs=6e-4)
    # Its score table says the same.
    evaluate.main([str(tmp_path / "run"), "--bootstrap=0"])
    assert line.split() in [x.split() for x in capsys.readouterr().out.splitlines()]
