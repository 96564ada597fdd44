"""A random score table for the tests."""

import numpy as np

from mimii_jax.results.table import Scores


def some_scores(
    ids,
    detector="mlp_vae",
    seed=0,
    machine_type="slider",
    rng=0,
    prefixes=("normal_", "anomaly_", ""),
):
    """Random scores; `ids` maps an ID to its normal, anomalous, unknown clips."""
    generator = np.random.default_rng([rng, seed + 1])
    tables = []
    for machine_id, counts in ids.items():
        kinds = zip((0, 1, -1), counts, prefixes, strict=False)
        clips = [
            (label, f"{prefix}id_{machine_id}_{number:08d}.wav")
            for label, count, prefix in kinds
            for number in range(count)
        ]
        label = np.array([label for label, _ in clips])
        rows = len(clips)
        tables.append(
            Scores(
                detector=np.full(rows, detector),
                seed=np.full(rows, seed),
                machine_type=np.full(rows, machine_type),
                machine_id=np.full(rows, machine_id),
                name=np.array([name for _, name in clips]),
                label=label,
                score=generator.normal(size=rows) + label,
            )
        )
    return Scores.concatenate(tables)
