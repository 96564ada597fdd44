"""A cell's process that needs no JAX: it draws scores, or fails as its folder says."""

import json
import os
import random
import signal
import sys
from pathlib import Path

workdir = Path(sys.argv[1])
config = json.loads((workdir / "config.json").read_text())
(workdir / "started").touch()
if workdir.name == "breaks":
    raise ZeroDivisionError("a bug")
if workdir.name == "refused":
    sys.exit("error: data.root=/nowhere: no such folder")
if workdir.name == "diverges":
    print("error: every run diverged", file=sys.stderr)
    sys.exit(3)
if workdir.name == "dies":
    os.kill(os.getpid(), signal.SIGKILL)
if workdir.name == "waits":
    saved = workdir / "saved"
    times = saved.stat().st_size if saved.exists() else 0
    if times < 3:
        os.read(0, 1)  # until the parent closes it
        saved.write_text("x" * (times + 1))
        sys.exit(75)

ids = config["data"]["ids"] or ["00", "02"]
sets = {
    "all": ["all"],
    "all + simulated": ["all + simulated"],
    "downsampled": ["downsampled"],
    **{kind: [f"{kind} {i}" for i in ids] for kind in ("id", "without")},
    "all, then id": [f"all, then id {i}" for i in ids],
}
names = [name for kind in config["training_sets"] for name in sets[kind]]
detector, seeds = config["detector"]["name"], config["seeds"]
several = len(config["training_sets"]) > 1
rows = [
    ": ".join(part for part in (detector, name if several else "", label) if part)
    for name in names
    for label in config["scorings"] or [""]
]
if detector == "controls":
    rows, seeds = ["rms_dbfs", "flatness"], [-1]
lines = ["detector,seed,machine_type,machine_id,label,name,score"]
draw = random.Random(json.dumps(config, sort_keys=True)).gauss
for row in rows:
    for seed in seeds:
        for i in ids:
            for label in (0, 1):
                for n in range(20):
                    clip = f"{label}_id_{i}_{n}.wav"
                    score = draw(label, 1)
                    head = f'"{row}",{seed},slider,{i}'
                    lines.append(f"{head},{label},{clip},{score}")
(workdir / "scores.csv").write_text("\n".join(lines) + "\n")
normal = [line for line in lines if ",0,0_id_" in line]
(workdir / "normals.csv").write_text("\n".join([lines[0], *normal]) + "\n")
if "train" in config:  # the loss has its minimum at some learning rate
    loss = (config["train"]["learning_rate"] - 4e-3) ** 2 + 1
    row = {"machine_type": "slider", "epoch": 1, "step": 1, "val_loss": [loss]}
    (workdir / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    if detector == "transformer":  # which is chosen by the scores of normal clips
        normal = f"{detector},0,slider,00,0,held_out.wav,{loss}"
        (workdir / "normals.csv").write_text(f"{lines[0]}\n{normal}\n")
about = {"seconds": 1.0, "commit": "abc", "pid": os.getpid(), "ppid": os.getppid()}
(workdir / "run.json").write_text(json.dumps(about))
