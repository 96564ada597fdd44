"""A small machine for the tests: one second of hum with noise; faults rattle."""

import numpy as np

from mimii_jax.data.clips import ANOMALOUS, NORMAL, Clips

RATE = 16000


def sound(rng, anomalous, length):
    """A hum of 200 Hz in noise; a fault adds an intermittent tone of 3 kHz."""
    time = np.arange(length) / RATE
    wave = 0.05 * np.sin(2 * np.pi * 200 * time + rng.uniform(0, 6))
    wave += rng.normal(0, 0.01, length)
    if anomalous:
        wave += 0.1 * np.sin(2 * np.pi * 3000 * time) * (np.sin(50 * time) > 0)
    return (32768 * wave).astype(np.int16)


def small_clips(ids=("00", "02"), train=6, test=3, length=RATE, seed=0):
    """Per ID `train` normal clips, and `test` normal and anomalous ones."""
    rng = np.random.default_rng(seed)
    plan = [
        (split, machine_id, label, number)
        for split in ("train", "test")
        for machine_id in ids
        for label in ((NORMAL,) if split == "train" else (NORMAL, ANOMALOUS))
        for number in range(train if split == "train" else test)
    ]
    kinds = {NORMAL: "normal", ANOMALOUS: "anomaly"}
    return Clips(
        audio=np.stack(
            [sound(rng, label == ANOMALOUS, length) for _, _, label, _ in plan]
        ),
        machine_id=np.array([machine_id for _, machine_id, _, _ in plan]),
        split=np.array([split for split, _, _, _ in plan]),
        label=np.array([label for _, _, label, _ in plan], np.int8),
        name=np.array([f"{kinds[k]}_id_{m}_{n:08d}.wav" for _, m, k, n in plan]),
        machine_type="slider",
        sample_rate=RATE,
    )
