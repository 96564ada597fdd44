"""Imports point down only, read from the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = "mimii_jax"
WITHOUT_JAX = (
    "results.metrics",
    "results.per_id",
    "results.table",
    "results.official",
    "results.sections",
    "results.threshold",
    "evaluate",
    "report.__main__",
    "report.of_workdir",
    "report.page",
    "report.tables",
    "report.figures",
    "report.why",
    "report.inputs",
    "workdir",
)


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path):
    """Full names of all that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            names |= {node.module} | {f"{node.module}.{a.name}" for a in node.names}
    return names


SOURCES = {
    module_name(path): imported(path)
    for folder in (PACKAGE, "configs", "experiments")
    for path in sorted((ROOT / folder).rglob("*.py"))
}


def within(name, package):
    return name == package or name.startswith(f"{package}.")


def importers(package):
    """The modules that import a package or anything in it."""
    return {
        module
        for module, names in SOURCES.items()
        if any(within(name, package) for name in names)
    }


def reached(module):
    """All that a module imports, by way of the project's own modules too."""
    seen, todo = set(), [module]
    while todo:
        for name in SOURCES.get(todo.pop(), ()):
            # To import a.b runs a first.
            parents = [name.rsplit(".", n)[0] for n in range(name.count(".") + 1)]
            new = {name, *parents} - seen
            seen |= new
            todo += new
    return seen


def test_the_reading_of_imports_finds_them():
    assert "mimii_jax.run" in SOURCES["mimii_jax.main"]
    assert "jax" in reached("mimii_jax.main")
    assert "mimii_jax.log" in reached("mimii_jax.main")
    assert "mimii_jax.run" in SOURCES


def test_ml_collections_is_for_main_the_defaults_and_the_configs():
    inside = {m for m in importers("ml_collections") if within(m, PACKAGE)}
    assert inside == {"mimii_jax.main", "mimii_jax.defaults"}
    assert not {m for m in importers("configs") if within(m, PACKAGE)}


def test_nothing_in_the_package_but_main_imports_run():
    inside = {m for m in importers("mimii_jax.run") if within(m, PACKAGE)}
    assert inside == {"mimii_jax.main"}
    assert not {m for m in importers("mimii_jax.main") if within(m, PACKAGE)}


def test_training_gets_features_and_models_as_arguments():
    names = reached("mimii_jax.train.loop")
    above = ("features.front_ends", "features.augment", "models", "detectors", "data")
    for module in (*above, "run"):
        assert not [n for n in names if within(n, f"{PACKAGE}.{module}")]


@pytest.mark.parametrize(
    "module", ["features.front_ends", "detectors.backends", "models.mlp"]
)
def test_leaf_modules_import_no_detector_and_no_training(module):
    names = reached(f"{PACKAGE}.{module}")
    for above in ("train", "detectors.neural", "run", "report", "data"):
        assert not [n for n in names if within(n, f"{PACKAGE}.{above}")]


@pytest.mark.parametrize("module", WITHOUT_JAX)
def test_evaluating_needs_no_jax(module):
    assert f"{PACKAGE}.{module}" in SOURCES
    names = reached(f"{PACKAGE}.{module}")
    for package in ("jax", "flax", "optax", "orbax", "librosa", "sklearn.ensemble"):
        assert not [n for n in names if within(n, package)], package


def test_every_module_of_the_report_is_among_those_without_jax():
    modules = {m.removeprefix(f"{PACKAGE}.") for m in SOURCES if ".report." in m}
    assert modules <= set(WITHOUT_JAX)


def test_nothing_imports_the_experiments_or_the_tests():
    outside = {m for m in importers("experiments") if not within(m, "experiments")}
    assert not outside
    assert not importers("tests") | importers("conftest")


def test_configs_import_ml_collections_and_their_base_alone():
    for module, names in SOURCES.items():
        if within(module, "configs"):
            for name in names:
                assert within(name, "ml_collections") or within(
                    name, "mimii_jax.defaults"
                )
