"""A strict set-up: 8 virtual CPU devices, checked shapes; NaNs raise."""

import os
import tempfile
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
# Most of the time goes into compiling; the workers share what they compile.
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "mimii_jax_tests")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")

import pytest
from jaxtyping import install_import_hook

# Pytree dataclasses that are vmapped must stay out of the hook.
LEAVES = (
    "features",
    "models",
    "train.shuffle",
    "results.metrics",
    "detectors.backends",
    "detectors.distances",
)
install_import_hook([f"mimii_jax.{leaf}" for leaf in LEAVES], "beartype.beartype")

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_nans", True)


def pytest_configure(config: pytest.Config) -> None:
    """Compile quickly: programs of the default suite run a few times.

    The slow tests, and with FULL=1 all, are compiled as users' programs are.
    """
    quick = config.getoption("markexpr") == "not slow" and not os.environ.get("FULL")
    jax.config.update("jax_disable_most_optimizations", quick)


SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_sample() -> Path:
    """Root of 81 real slide-rail recordings; tests that use it skip without it."""
    root = SHARED / "slider_sample"
    if not root.is_dir():
        pytest.skip("the real recordings are not on this machine")
    return root


@pytest.fixture(scope="session")
def real_functionals() -> Path:
    """Folder of functionals of real fans, pumps and valves."""
    root = SHARED / "real_functionals"
    if not root.is_dir():
        pytest.skip("the functionals of real recordings are not on this machine")
    return root


@pytest.fixture(scope="session")
def published_scores() -> Path:
    """Folder of published per-clip scores with the result.csv computed from them."""
    root = SHARED / "published_scores"
    if not root.is_dir():
        pytest.skip("the published scores are not on this machine")
    return root


@pytest.fixture(scope="session")
def published_labels() -> Path:
    """The organisers' labels of the evaluation clips."""
    path = SHARED / "eval_data_list.csv"
    if not path.is_file():
        pytest.skip("the published labels are not on this machine")
    return path


@pytest.fixture(scope="session")
def recordings(tmp_path_factory) -> Path:
    """Root of a small data set of wav files."""
    return _written(tmp_path_factory.mktemp("recordings"))


@pytest.fixture(scope="session")
def more_recordings(tmp_path_factory) -> Path:
    """As `recordings`, with 40 clips to train on."""
    return _written(tmp_path_factory.mktemp("more_recordings"), train=20)


def _written(root: Path, **counts: int) -> Path:
    # Imported here: the hook above has to come first.
    from small_clips import small_clips

    from mimii_jax.data import dcase

    dcase.write(small_clips(**counts), root)
    return root


@pytest.fixture
def no_figures(monkeypatch) -> None:
    """These have tests of their own, and take longer than a small training."""
    from mimii_jax import run

    monkeypatch.setattr(run, "write_figures", lambda *_, **__: None)
    monkeypatch.setattr(run, "write_report", lambda *_, **__: None)


@pytest.fixture(scope="session")
def model(recordings, tmp_path_factory) -> Path:
    """The workdir of a small trained model."""
    from small_runs import small, trained

    from mimii_jax import run

    workdir = tmp_path_factory.mktemp("model") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "write_figures", lambda *_, **__: None)
        patch.setattr(run, "write_report", lambda *_, **__: None)
        trained(small(root=recordings), workdir)
    return workdir


@pytest.fixture
def server(monkeypatch):
    """A server of records that misbehaves according to its `plan`."""
    from records_server import RecordsServer

    from mimii_jax.data import download

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "REGISTRY", dict(download.REGISTRY))
    monkeypatch.setattr(download, "CHUNK", 2**16)
    server = RecordsServer()
    server.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def fan(tmp_path_factory) -> dict[str, dict[str, bytes]]:
    """Split -> name -> bytes of small recordings of a fan."""
    from records_server import fan_clips

    return fan_clips(tmp_path_factory.mktemp("fan"))


@pytest.fixture
def dev(server, fan) -> str:
    """Path on the server of the fan's development archive."""
    from records_server import DEV, NAME, zipped

    return server.publish(DEV, NAME, zipped(fan["dev"]))


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """The seconds that a download would have waited."""
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    return waits
