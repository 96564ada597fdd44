"""Models: what a neural detector trains, one file each."""

from flax import nnx


class Knob(nnx.Variable):
    """A number of a model in which runs may differ; it is never trained."""
