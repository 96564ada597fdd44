"""Classification losses of angles between unit embeddings and the centres of classes.

A class has several centres; its probability is the sum of theirs under a softmax of
scaled cosines (sub-cluster AdaCos, Wilkinghoff 2021). A constant embedding has at least
the loss log C over C equally frequent classes.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mimii_jax.errors import require

SUB_ADACOS, ADACOS, ARCFACE, ADAPROJ = "sub_adacos", "adacos", "arcface", "adaproj"
LOSSES = (SUB_ADACOS, ADACOS, ARCFACE, ADAPROJ)
EPSILON = 1e-12  # of a squared norm: the unit vector of zero is zero
ABSENT = -1e4  # logit of a class that a run doesn't know; exp of it is zero

Embedding = Float[Array, "batch dimension"]
Centres = Float[Array, "class centre dimension"]
PerClass = Float[Array, "batch class"]
Cosines = Float[Array, "batch class part"]  # a centre; of adaproj, the subspace
Present = Float[Array, " class"]  # 1 for a class that the run knows, else 0


@dataclass(frozen=True)
class Angular:
    """Loss of unit embeddings; classes that aren't present are left out of it."""

    # "sub_adacos": fixed scale; "adacos": scale adapted to each batch; "arcface":
    # margin to the angle of the own class; "adaproj": classes are subspaces
    name: str
    # of logits; None: sqrt(2) log(n - 1) of the n centres of present classes
    scale: float | None = None
    margin: float = 0.5  # of arcface, in radians

    def __post_init__(self) -> None:
        known = ", ".join(LOSSES)
        require(
            self.name in LOSSES, f"detector.loss='{self.name}': must be one of {known}"
        )
        require(
            self.scale is None or self.scale > 0,
            f"detector.scale={self.scale}: must be positive, or None",
        )
        require(
            0 <= self.margin < 1.5,
            f"detector.margin={self.margin}: must be from 0 to 1.5",
        )

    def log_p(self, x: Embedding, centres: Centres, present: Present) -> PerClass:
        """Log probability of each class, without margin."""
        cosines = self._cosines(x, centres)
        return _log_p(self.fixed_scale(cosines, present) * cosines, present)

    def loss(
        self,
        x: Embedding,
        centres: Centres,
        present: Present,
        target: PerClass,
        n: Int[Array, ""] | int,
    ) -> Float[Array, " batch"]:
        """Cross-entropy with soft labels; rows from n on are padding."""
        cosines = self._cosines(x, centres)
        scale = self.fixed_scale(cosines, present)
        if self.name == ADACOS:
            scale = adapted_scale(scale, cosines, present, target, n)
        if self.name == ARCFACE:
            own, with_margin = target[:, :, None], self._add_margin(cosines)
            cosines = cosines + own * (with_margin - cosines)
        return -jnp.sum(target * _log_p(scale * cosines, present), axis=1)

    def fixed_scale(self, cosines: Cosines, present: Present) -> Float[Array, ""]:
        """The scale of logits, by the number of centres."""
        if self.scale is not None:
            return jnp.float32(self.scale)
        n_centres = cosines.shape[2] * jnp.sum(present)
        return jnp.sqrt(2.0) * jnp.log(jnp.maximum(n_centres - 1, 2.0))

    def _cosines(self, x: Embedding, centres: Centres) -> Cosines:
        if self.name == ADAPROJ:  # the length of the projection on the subspace
            basis, _ = jnp.linalg.qr(centres.swapaxes(1, 2))
            on = jnp.einsum("bd,cdk->bck", x, basis, precision="highest")
            return jnp.sqrt(jnp.sum(on**2, axis=2, keepdims=True) + EPSILON)
        return jnp.einsum("bd,ckd->bck", x, unit(centres), precision="highest")

    def _add_margin(self, cosine: Array) -> Array:
        """Cosine of the angle plus the margin; still falling beyond half a turn."""
        cosine = jnp.clip(cosine, -1 + 1e-6, 1 - 1e-6)
        sine = jnp.sqrt(1 - cosine**2)
        moved = cosine * jnp.cos(self.margin) - sine * jnp.sin(self.margin)
        beyond = cosine - self.margin * jnp.sin(self.margin)
        return jnp.where(cosine > -jnp.cos(self.margin), moved, beyond)


def unit(x: Array) -> Array:
    """Scale the vectors of the last axis to length one; zero remains zero."""
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + EPSILON)


def adapted_scale(
    scale: Any,
    cosines: Cosines,
    present: Present,
    target: PerClass,
    n: Int[Array, ""] | int,
) -> Float[Array, ""]:
    """Scale of AdaCos (Zhang et al. 2019), from `scale` and the first n rows.

    The original starts from the scale of the step before; here each step starts from
    the fixed one, so that it depends on its batch alone.
    """
    real = jnp.arange(len(cosines)) < n
    label = jnp.argmax(target, axis=1)
    own = jax.nn.one_hot(label, target.shape[1])
    others = (1 - own) * present[None]
    exps = jnp.sum(jnp.exp(scale * cosines) * others[:, :, None], axis=(1, 2))
    mean = jnp.sum(jnp.where(real, exps, 0)) / jnp.maximum(n, 1)
    nearest = jnp.max(jnp.where(own[:, :, None] > 0, cosines, -1), axis=(1, 2))
    angles = jnp.sort(jnp.where(real, jnp.arccos(jnp.clip(nearest, -1, 1)), jnp.inf))
    median = (angles[(n - 1) // 2] + angles[n // 2]) / 2
    adapted = jnp.log(jnp.maximum(mean, 2.0)) / jnp.cos(jnp.minimum(jnp.pi / 4, median))
    return jax.lax.stop_gradient(adapted)


def _log_p(logits: Cosines, present: Present) -> PerClass:
    logits = jnp.where(present[None, :, None] > 0, logits, ABSENT)
    of_class = jax.nn.logsumexp(logits, axis=2)
    return of_class - jax.nn.logsumexp(of_class, axis=1, keepdims=True)
