"""From a config to typed objects: every config builds, every bad field is named."""

import importlib
import json

import pytest
from small_runs import small

from configs import controls, isolation_forest, mlp_vae, one_class_svm
from mimii_jax import workdir
from mimii_jax.config import MODELS, build, differences
from mimii_jax.defaults import fill
from mimii_jax.errors import ConfigError

VARIANTS = {
    "mlp_vae": ("default", "reference", "quick"),
    "mlp_ae": ("default", "quick"),
    "conv_vae": ("default", "literature", "reference", "quick"),
    "transformer": ("default", "reference", "quick"),
    "isolation_forest": ("default", "windows", "quick"),
    "one_class_svm": ("default", "linear", "windows", "exact", "quick"),
    "functionals": ("default", "groups", "quick"),
    "controls": ("default", "quick"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_config_and_variant_builds_and_equals_its_json(name):
    module = importlib.import_module(f"configs.{name}")
    for variant in VARIANTS[name]:
        assert f":{variant}`" in module.__doc__ or variant == "default"
        config = module.get_config(variant)
        experiment = build(config)
        assert (experiment.detector is None) == (name == "controls")
        saved, assumed = fill(workdir._tuples(json.loads(json.dumps(config.to_dict()))))
        assert not assumed
        assert build(saved) == experiment
    with pytest.raises(ValueError, match="':nope' is not one of default"):
        module.get_config("nope")


@pytest.mark.parametrize(
    ("module", "field", "value"),
    [
        (mlp_vae, "detector.name", "nope"),
        (mlp_vae, "detector.name", "isolation_forest"),
        (mlp_vae, "features.name", "nope"),
        (mlp_vae, "features.n_fft", 0),
        (mlp_vae, "scoring.pooling", "nope"),
        (mlp_vae, "scoring.backend", "nope"),
        (isolation_forest, "scoring.backend", "mahalanobis"),
        (mlp_vae, "eval.split", "nope"),
        (mlp_vae, "eval.max_fpr", 0.0),
        (mlp_vae, "eval.bootstrap", -1),
        (mlp_vae, "data.on_bad_file", "x"),
        (mlp_vae, "data.ids", (0, 77)),
        (mlp_vae, "data.ids", ("77",)),
        (mlp_vae, "data.machine_types", ("pump",)),
        (mlp_vae, "data.machine_types", ("all", "fan")),
        (mlp_vae, "data.scale", -1.0),
        (mlp_vae, "data.validation_fraction", 1.0),
        (mlp_vae, "training_sets", ("nope",)),
        (mlp_vae, "seeds", ()),
        (mlp_vae, "seeds", (1, 1)),
        (mlp_vae, "seeds", (-1,)),
        (mlp_vae, "windows.hop", 0),
        (mlp_vae, "train.epochs", 0),
        (mlp_vae, "train.precision", "x"),
        (mlp_vae, "train.schedule", "x"),
        (one_class_svm, "detector.nu", 2.0),
        (one_class_svm, "detector.kernel", "x"),
        (isolation_forest, "detector.n_estimators", 0),
    ],
)
def test_a_bad_value_is_an_error_of_one_line_that_names_the_field(module, field, value):
    config = module.get_config()
    section, _, last = field.rpartition(".")
    (config[section] if section else config)[last] = value
    with pytest.raises(ConfigError) as error:
        build(config)
    name = "detector." if field == "detector.name" else field
    assert name in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_field_that_nothing_takes_is_named():
    config = mlp_vae.get_config()
    config.detector.trees = 3
    with pytest.raises(ConfigError, match=r"detector\.trees: unknown"):
        build(config)
    del config.detector["trees"], config.detector["hidden"]
    with pytest.raises(ConfigError, match=r"detector\.hidden: missing"):
        build(config)


def test_a_bug_in_a_models_constructor_is_raised_as_it_is(monkeypatch):
    class Typo(MODELS["mlp_vae"]):
        def __init__(
            self, shape, *, hidden, latent, kl_weight, likelihood, dtype, rngs
        ):
            self.decoder = self.decoderr

    monkeypatch.setitem(MODELS, "mlp_vae", Typo)
    experiment = build(mlp_vae.get_config())
    with pytest.raises(AttributeError, match="decoderr"):
        experiment.detector.check(16000)


def test_equal_configs_are_equal_experiments_and_hardware_does_not_count():
    first, other = mlp_vae.get_config(), mlp_vae.get_config()
    other.mesh.run, other.checkpoint.every_minutes, other.profile = 2, 1.0, True
    other.eval.split = "validation"
    assert build(first) == build(other)
    other.train.epochs = 3
    assert build(first) != build(other)
    assert "train.epochs: 10 → 3" in differences(first, other)


def test_scoring_and_recordings_are_no_part_of_the_training():
    first, other = mlp_vae.get_config(), mlp_vae.get_config()
    other.scoring.pooling, other.data.root = "max", "/elsewhere"
    assert build(first) != build(other)
    assert build(first).training() == build(other).training()
    other.detector.latent = 3
    assert build(first).training() != build(other).training()


def test_fields_of_an_older_config_are_filled_and_named():
    config = small()
    older = config.to_dict()
    del older["train"]["precision"], older["data"]["test_normals"], older["mesh"]
    filled, assumed = fill(older)
    assert build(filled) == build(config)
    assert set(assumed) == {
        "data.test_normals=100",
        "train.precision='float32'",
        "mesh.run=None",
        "mesh.data=None",
    }
    older = controls.get_config().to_dict()
    assert fill(older)[1] == []  # nothing about training
