"""The studies of the two reports, a file each; `STUDIES` has all, by name."""

from importlib import import_module

from experiments.study import Study

NAMES = (
    "data",
    "cross_id",
    "isolation_forest",
    "one_class_svm",
    "initialisations",
    "learning_rate_batch",
    "epochs",
    "front_end",
    "scoring",
    "extra_simulated",
    "augmentation",
    "spatial_temporal",
    "attention",
    "patches",
)


def question(name: str) -> str:
    """Question of a study: the docstring of its file, one line per paragraph."""
    text = import_module(f"experiments.studies.{name}").__doc__ or ""
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n"))


def load(name: str) -> Study:
    """The study in the file of this name."""
    return import_module(f"experiments.studies.{name}").STUDY
