"""Hostile and odd inputs over the commands: one line, the right code, no traceback."""

import re
import shutil
import sys
from pathlib import Path

import pytest
from absl import app, flags
from absl.testing import flagsaver

from experiments import cross_id, results
from mimii_jax import evaluate, main, score
from mimii_jax.data import list as listing
from mimii_jax.report import __main__ as report

pytestmark = pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
ROOT = Path(__file__).parents[1]
HEAD = "detector,seed,machine_type,machine_id,label,name,score\n"
ROW = "d,0,fan,00,0,a.wav,1.5\n"
JSON = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"7",
    b"NaN",
    b'"a"',
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b'{"detector": 5}',
    b'{"detector": {"name": ["a"]}}',
    b'{"data": 3}',
    b'{"eval": 5}',
    b'{"eval": {"bootstrap": "x"}}',
    b'{"seeds": "a"}',
]
TABLES = {
    "": "expected columns",
    "x": "expected columns",
    "\0": "control|csv",
    "\xff": "csv",
    HEAD + ROW.replace("0,a", "2,a"): "label",
    HEAD + ROW.replace("1.5", "nan"): "finite",
    HEAD + ROW.replace("1.5", "-inf"): "finite",
    HEAD + ROW.replace("1.5", "1e999"): "finite",
    HEAD + ROW.replace("1.5", "one"): "number",
    HEAD + ROW.replace("d,0", "d,1" + "0" * 30): "seed",
    HEAD + ROW.replace("d,0", "d,0.5"): "seed",
    HEAD + ROW.replace("d,0", "d,x"): "seed",
    HEAD + ROW.replace("fan,", ""): "fields",
    HEAD + ROW[:12]: "fields",
    HEAD + ROW + ROW: "two scores",
    HEAD + ROW.replace("a.wav", "a\x1b[31m.wav"): "control",
    HEAD + '"' + ROW: "csv|fields|control|expected",
}
MANIFESTS = {
    "": "column",
    "a,b\n": "column",
    "file\n": "no recordings",
    "file,split\na.wav,both\n": "split",
    "file,label\na.wav,odd\n": "label",
    "file\n,\n": "fields",
    'file,machine\na.wav,"../x"\n': "machine",
    "file,id\na.wav,a\x1b[31m\n": "printed",
    "file\n\0\n": "csv|printed|bad|file",
}
FIELDS = {
    "--config.no.such=1": "unknown field: .*no",
    "--config.train.epoch=1": "unknown field: .*epoch",
    "--config.seeds=()": "seeds",
    "--config.seeds=-1,": "seeds",
    "--config.seeds=0,0": "seeds",
    "--config.seeds=True,": "seeds",
    "--config.seeds=1.0,": "seeds",
    "--config.data.scale=1e9": "data.scale=1e.09: needs",
    "--config.data.scale=-1": "scale",
    "--config.data.scale=nan": "scale",
    "--config.data.root=/nowhere": "/nowhere",
    "--config.detector.hidden=(10000000,10000000)": "memory",
    "--config.detector.latent=many": "latent",
    "--config.train.epochs=0": "epochs",
    "--config.train.batch_size=-5": "batch_size",
    "--config.train.learning_rate=nan": "learning_rate",
    "--config.features.hop=0": "hop",
    "--config.features.n_mels=0": "n_mels",
    "--config.scoring.backend=odd": "backend",
    "--config.scoring.pooling=odd": "pooling",
    "--config.eval.split=odd": "split",
    "--config.eval.max_fpr=2": "max_fpr",
    "--config.eval.bootstrap=-1": "bootstrap",
    "--config.training_sets=('odd',)": "training_sets",
    "--config.data.machine_types=('odd/er',)": "names of folders",
    "--config.data.machine_types=('..',)": "names of folders",
    "--config.data.machine_types=('/tmp',)": "names of folders",
    "--mode=odd": "mode",
    "--nosuch=1": "nosuch",
    "more": "more",
}
CONFIGS = {
    b"def": ":1: SyntaxError",
    b"import nothere\n": ":1: ModuleNotFoundError",
    b"\0\0": "config",
    b"def get_config():\n    return 1 / 0\n": ":2: ZeroDivisionError",
    b"def get_config():\n    raise OSError('odd')\n": "odd",
    b"def get_config():\n    return None\n": "config",
}

CASES = [  # file in the workdir or data folder, its content, command, words
    *(("config.json", text, "report", "config") for text in JSON[:9]),
    *(("config.json", text, "again", "config") for text in JSON),
    *(("config.json", text, "resume", "config") for text in JSON),
    *(("scores.csv", t.encode("latin1"), "evaluate", w) for t, w in TABLES.items()),
    *(("scores.csv", t.encode("latin1"), "report", w) for t, w in TABLES.items()),
    *(("normals.csv", t.encode("latin1"), "evaluate", w) for t, w in TABLES.items()),
    *(("run.json", text, "report", "run.json") for text in JSON[:5]),
    *(("metrics.jsonl", text + b"\n", "report", "metrics") for text in JSON[1:8]),
    *(("clips/list.csv", t.encode(), "list", w) for t, w in MANIFESTS.items()),
    *((None, flag, "train", words) for flag, words in FIELDS.items()),
    *(("own.py", text, "config", words) for text, words in CONFIGS.items()),
    (None, "nothing", "cross_id", "no such"),
    (None, "../x", "cross_id", "configs/"),
    (None, "__init__", "cross_id", "no such"),
    ("study", b"", "study", "study: File exists"),
    ("own.py", b"def", "results", "own.py: SyntaxError"),
    ("own.py", b"x = 1", "results", "own.py: AttributeError: .* 'get_config'"),
    ("own.py", b"1 / 0", "results", "own.py: ZeroDivisionError"),
    (None, "/nowhere", "list", "nowhere"),
    (None, "/nowhere", "evaluate", "nowhere"),
    (None, "/nowhere", "report", "nowhere"),
    (None, "/nowhere", "score", "nowhere"),
    (None, "--bootstrap=1000000000000", "bootstrap", "memory"),
]


def _param(number, case):
    file, content, command, _ = case
    text = content if isinstance(content, str) else repr(content[:20])
    marks = () if number % 9 == 0 else pytest.mark.slow
    return pytest.param(*case, id=f"{command}-{file}-{text[:30]}", marks=marks)


def run_main(monkeypatch, *arguments):
    argv = ["main", *map(str, arguments)]
    monkeypatch.setattr(sys, "argv", argv)
    flags.FLAGS.unparse_flags()
    try:
        with flagsaver.flagsaver():
            app.run(main.main, argv=argv, flags_parser=main.parse)
    finally:
        flags.FLAGS.mark_as_parsed()


@pytest.fixture(scope="module")
def workdir(model, tmp_path_factory):
    copy = tmp_path_factory.mktemp("corpus") / "w"
    shutil.copytree(model, copy)
    (copy / "clips").mkdir()
    (copy / "metrics.jsonl").write_text("")
    return copy


@pytest.mark.parametrize(
    ("file", "content", "command", "words"),
    [_param(number, case) for number, case in enumerate(CASES)],
)
def test_one_line_and_exit_code_1(
    file, content, command, words, workdir, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(ROOT)
    path, given = workdir, content
    old = None
    if file:
        given = workdir / file
        old = given.read_bytes() if given.exists() else None
        given.write_bytes(content)
    elif command in ("evaluate", "report", "score"):
        path = content
    commands = {
        "report": lambda: report.main([str(path)]),
        "evaluate": lambda: evaluate.main([str(path), "--bootstrap=10"]),
        "bootstrap": lambda: evaluate.main([str(path), content]),
        "list": lambda: listing.main([str(given)]),
        "score": lambda: score.main(["--workdir", str(path), "a.wav"]),
        "again": lambda: run_main(monkeypatch, "--mode=evaluate", f"--workdir={path}"),
        "resume": lambda: run_main(monkeypatch, f"--workdir={path}"),
        "config": lambda: run_main(
            monkeypatch, f"--config={given}", f"--workdir={tmp_path / 'w'}"
        ),
        "train": lambda: run_main(
            monkeypatch,
            "--config=configs/mlp_vae.py:quick",
            f"--workdir={tmp_path / 'w'}",
            given,
        ),
        "results": lambda: results.main(["--configs", str(given), f"--out={tmp_path}"]),
        "study": lambda: results.main(["--out", str(given)]),
        "cross_id": lambda: cross_id.main(["--config", given, f"--out={tmp_path}"]),
    }
    try:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            commands[command]()
    finally:
        if file:
            given.unlink()
            if old is not None:
                given.write_bytes(old)
    printed = capsys.readouterr()
    assert stop.value.code == 1, printed.err
    assert "Traceback" not in printed.err
    assert "\x1b" not in printed.err + printed.out
    everything = printed.err + printed.out
    assert re.search(words, everything), everything
    of_cells = command in ("cross_id", "results")
    assert of_cells or printed.err.splitlines()[-1].count("error: ") == 1
    assert not (tmp_path / "w").exists()
