"""Nothing in a workdir is executed, whoever wrote it."""

import contextlib
import io
import json
import os
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import skops.io
from small_runs import small, trained

from configs import isolation_forest
from mimii_jax import run
from mimii_jax.errors import ConfigError, DataError
from mimii_jax.judge import Judge
from mimii_jax.report.of_workdir import write_report


class Payload:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def planted(name, mark):
    """Contents that would be executed by a reader that trusts the file."""
    payload = Payload(mark)
    objects = np.array([payload], object)
    with io.BytesIO() as file:
        if name.endswith(".npz"):
            np.savez(file, vectors=objects, seconds_per_frame=objects)
        elif name.endswith(".npy"):
            np.save(file, objects, allow_pickle=True)
        else:
            pickle.dump(payload, file)
        contents = [file.getvalue()]
    if name.endswith(".skops"):
        contents += [_with_a_call(str(mark))]
    return contents


def _with_a_call(mark):
    """A file of skops whose object is made by a call of os.mkdir."""
    source = zipfile.ZipFile(io.BytesIO(skops.io.dumps(([np.zeros(3)], []))))
    schema, file = json.loads(source.read("schema.json")), io.BytesIO()
    text = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode"}
    schema |= {
        "__class__": "mkdir",
        "__module__": "os",
        "__loader__": "OperatorFuncNode",
        "attrs": {**text, "content": json.dumps(mark), "is_json": True},
    }
    with zipfile.ZipFile(file, "w") as target:
        target.writestr("schema.json", json.dumps(schema))
    return file.getvalue()


@pytest.fixture(scope="module")
def forest(recordings, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("forest") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "write_figures", lambda *_, **__: None)
        patch.setattr(run, "write_report", lambda *_, **__: None)
        detector = {"n_estimators": 2}
        trained(small(isolation_forest, root=recordings, detector=detector), workdir)
    return workdir


def files_of(workdir):
    return sorted(p.relative_to(workdir) for p in workdir.rglob("*") if p.is_file())


def read_all(workdir):
    """Every command that takes a stranger's workdir."""
    for command in (
        lambda: write_report(workdir),
        lambda: Judge.load(workdir, false_alarms=0.05, method="gamma"),
        lambda: run.evaluate(None, workdir, workdir / "again"),
    ):
        with contextlib.suppress(ConfigError, DataError):
            command()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["forest", "model"])
def test_no_file_of_a_workdir_is_executed(kind, tmp_path, request, no_figures):
    original = request.getfixturevalue(kind)
    mark, names = tmp_path / "executed", files_of(original)
    of_state = [name for name in names if "state" in name.parts]
    groups = [[name] for name in names if name not in of_state] + [of_state]
    for number, group in enumerate(filter(None, groups)):
        for one in range(len(planted(group[0].name, mark))):
            copy = tmp_path / f"{number}_{one}"
            shutil.copytree(original, copy)
            for name in group:
                (copy / name).write_bytes(planted(name.name, mark)[one])
            read_all(copy)
            assert not mark.exists(), f"{group}, kind {one}"


def test_a_model_of_unknown_types_is_refused_by_their_names(forest, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(forest, copy)
    path = copy / "checkpoints" / "slider" / "models.skops"
    path.write_bytes(skops.io.dumps(([os.mkdir], [])))
    with pytest.raises(DataError, match=r"models\.skops: holds .*mkdir"):
        run.evaluate(None, copy, copy / "again")
