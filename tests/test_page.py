"""The page of a workdir: whole in one file, in order, and as a browser shows it."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import DARK, measured, picture
from example_scores import some_scores

from mimii_jax.errors import DataError
from mimii_jax.report import __main__ as command
from mimii_jax.report.figures import write_figures
from mimii_jax.report.of_workdir import pictures, write_report
from mimii_jax.report.page import Callout, Code, Section, Table, page
from mimii_jax.results.table import CONTROLS, NO_SEED, Scores, write_scores

IDS = {"00": (12, 12), "02": (12, 9)}
SECTIONS = ["Results", "Figures", "How it was made"]


class Reader(HTMLParser):
    """Checks that elements are closed in order; collects tags and attributes."""

    EMPTY = frozenset({"meta", "img", "br", "link"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A workdir with results, figures, settings and a command; a matrix on top."""
    folder = tmp_path_factory.mktemp("workdir")
    tables = [
        some_scores(IDS, name, seed)
        for name in ("mlp_vae", "m: all", "m: id 00")
        for seed in (0, 1)
    ]
    controls = [some_scores(IDS, name, NO_SEED) for name in CONTROLS]
    write_scores(Scores.concatenate([*tables, *controls]), folder / "scores.csv")
    config = {
        "seeds": [0, 1],
        "data": {"root": "", "scale": 0.1},
        "detector": {"name": "mlp_vae"},
        "eval": {"split": "all", "bootstrap": 20},
    }
    run = {"command": "python -m x --config.a='<b>'", "seconds": 81.3, "commit": "abc"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "run.json").write_text(json.dumps(run))
    line = {"machine_type": "slider", "epoch": 9, "step": 1240, "seconds": 70.1}
    losses = {"train_loss": [2.0, 3.0], "val_loss": [2.5, 3.5]}
    line = json.dumps(line | losses | {"windows_per_second": 12345.6})
    (folder / "metrics.jsonl").write_text(line + "\n" + line[:20])
    write_figures(folder)
    matrix = Table("m: by training set", ["", "AUC 00"], [["id 00", ".9 ▲"]])
    write_report(folder, extra_blocks=[matrix])
    return folder


@pytest.fixture(scope="module")
def read(workdir):
    return Reader((workdir / "report.html").read_text())


def test_the_page_needs_no_other_file_and_no_script(workdir, read):
    text = (workdir / "report.html").read_text()
    assert not read.all("script")
    assert not read.all("link")
    for attrs in read.all("img"):
        assert attrs["src"].startswith("data:image/png;base64,")
    assert [t.strip() for t in re.findall("<h2>(.*?)</h2>", text)] == SECTIONS
    without_pictures = re.sub(r'src="data:[^"]*"', "", text)
    assert "http" not in without_pictures
    assert "url(" not in without_pictures
    assert str(workdir) not in text


def test_the_page_says_what_the_numbers_are_from(read):
    text = " ".join(read.texts)
    for part in (
        "Simulated sound, not recordings",
        "Scale: 0.1 of",
        "python -m x --config.a='<b>'",
        "m: by training set",
        "rms_dbfs (control)",
        "12,346",
        "81.3",
    ):
        assert part in text, part


def test_everything_has_words_for_those_who_do_not_see_it(read):
    assert read.all("html")[0]["lang"] == "en"
    assert all(len(attrs["alt"]) > 10 for attrs in read.all("img"))
    assert len(read.all("caption")) == len(read.all("table")) >= 5
    for attrs in read.all("th"):
        assert attrs["scope"] in ("row", "col")
    for attrs in read.all("div"):
        assert attrs["tabindex"] == "0"
        assert attrs["aria-label"]


def test_recordings_are_named_and_text_is_escaped():
    text = page("<t>", [Callout("a & b")], [Section("s<", [Code("x < y"), "p <i>"])])
    read = Reader(text.decode())
    assert "i" not in {tag for tag, _ in read.tags}
    assert {"<t>", "a & b", "s<", "x < y", "p <i>"} <= set(read.texts)


def test_marks_are_read_aloud():
    table = Table("c", ["", "AUC"], [["r", ".9 ▲"], ["q", ".8 ▼"]])
    read = Reader(page("t", [table], []).decode())
    labels = [attrs["aria-label"] for attrs in read.all("span")]
    assert labels == ["more, beyond noise", "less, beyond noise"]


def test_the_command_writes_the_page_and_says_what_is_missing(tmp_path, capsys):
    workdir = tmp_path / "run"
    workdir.mkdir()
    write_scores(some_scores({"00": (5, 5)}, "m: id 00"), workdir / "scores.csv")
    command.main([str(workdir)])
    assert "report.html" in capsys.readouterr().out
    text = (workdir / "report.html").read_text()
    assert "m: id 00" in text
    assert "source of these scores is unknown" in text
    with pytest.raises(SystemExit):
        command.main([str(tmp_path)])
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path}: no scores.csv")
    assert error.endswith("choose one: run\n")


def test_only_regular_png_files_of_the_workdir_are_pictures(tmp_path, capsys):
    figures = tmp_path / "figures"
    figures.mkdir()
    secret = tmp_path / "secret.txt"
    secret.write_bytes(b"\x89PNG\r\n\x1a\n" + b"secret" * 10)
    (figures / "linked.png").symlink_to(secret)
    (figures / "text.png").write_text("no picture, but long enough for a header")
    (figures / "empty.png").touch()
    (figures / "folder.png").mkdir()
    assert pictures(figures) == []
    assert capsys.readouterr().err.count("not a regular PNG file") == 4
    (tmp_path / "elsewhere").symlink_to(tmp_path)  # the folder itself is a link
    (tmp_path / "secret.png").write_bytes(secret.read_bytes())
    assert len(pictures(tmp_path)) == 1
    assert pictures(tmp_path / "elsewhere") == []


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.json", "[" * 100_000),
        ("config.json", '{"eval": {"bootstrap": "many"}}'),
        ("config.json", '{"eval": {"split": "some"}}'),
        ("config.json", '{"data": 5}'),
        ("run.json", "7"),
        ("metrics.jsonl", "7\n"),
        ("metrics.jsonl", '{"epoch": 1}\n'),
    ],
)
def test_an_odd_file_is_one_line_with_its_name(tmp_path, file, text):
    write_scores(some_scores({"00": (5, 5)}), tmp_path / "scores.csv")
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=file):
        write_report(tmp_path)


@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_all_without_complaint(workdir, read, tmp_path, width):
    found = measured(workdir / "report.html", width, tmp_path)
    assert found["images"] == len(read.all("img")) >= 2
    assert found["tables"] == len(read.all("table"))
    assert found["broken"] == 0
    assert not found["wide"]  # what is wide scrolls in its own box
    assert (found["scrolls"] > 0) == (width == 390)


def test_it_is_light_and_dark_as_the_reader_likes(workdir, tmp_path):
    path = workdir / "report.html"
    light = picture(path, tmp_path / "light.png", 390, 600)
    dark = picture(path, tmp_path / "dark.png", 390, 600, DARK)
    assert light.shape[:2] == dark.shape[:2] == (600, 390)
    assert np.median(light[..., :3]) > 0.9
    assert np.median(dark[..., :3]) < 0.2
