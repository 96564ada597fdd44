"""Score waves by an exported detector: python example.py machine7.zip waves.npy ID.

Needs: pip install jax flatbuffers
"""

import json
import sys
import zipfile

import numpy as np
from jax import export

path, waves, machine_id = sys.argv[1:]
with zipfile.ZipFile(path) as files:
    about = json.loads(files.read("about.json"))
    scorer = export.deserialize(bytearray(files.read("scorer.stablehlo")))
waves = np.load(waves).astype(np.float32)  # [clip, time], in [-1, 1]
ids = np.full(len(waves), about["ids"].index(machine_id), np.int32)
for score, decision in zip(*scorer.call(waves, ids), strict=True):
    print(f"{score:.6g}", "anomaly" if decision else "normal")
