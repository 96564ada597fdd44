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

# Leaf modules only: dataclasses that are vmapped must stay out of the hook.
install_import_hook(
    ["mimii_jax." + leaf for leaf in ("examples", "features", "metrics", "scoring")],
    "beartype.beartype",
)

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_nans", True)

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def real_sample() -> Path:
    """Root of 81 real slide-rail recordings; tests that use it skip without it."""
    root = SHARED / "slider_sample"
    if not root.is_dir():
        pytest.skip("the real recordings are not on this machine")
    return root


@pytest.fixture(scope="session")
def published_scores() -> Path:
    """Folder of published per-clip scores with the result.csv computed from them."""
    root = SHARED / "published_scores"
    if not root.is_dir():
        pytest.skip("the published scores are not on this machine")
    return root
