import json
import tomllib

import numpy as np

TINY = tomllib.loads("""
name = "tiny"
seed = 3

[data]
dataset = "digits"
num_train = 60
num_valid = 30
num_test = 40

[model]
hidden = [6]
init_log_scale = -1.0

[inner]
num_steps = 20
batch_size = 10
optimizer = {name = "sgd", learning_rate = 0.2, momentum = 0.5}

[outer]
num_steps = 3
optimizer = {name = "adam", learning_rate = 0.1}
""")

# Compile to the same program as the rest: what starts where training diverges, and no tuning.
VARIANTS = """
[smoke]
outer.num_steps = 1

[variants.diverging]
task.initial_log_l2 = 200.0

[variants.untuned]
outer.num_steps = 0
"""


def without_seconds(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def outcome(folder):
    """All that a run leaves, but for times."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*")}
    summary = json.loads((folder / "summary.json").read_text())
    kept = {k: v for k, v in summary.items() if "seconds" not in k and k not in ("date", "judge")}
    arrays = {}
    for path in sorted(folder.rglob("*.npz")):
        with np.load(path) as archive:
            for name in set(archive) - {"metrics"}:
                arrays[f"{path.relative_to(folder)} {name}"] = archive[name].tobytes()
    judge = [json.loads(line) for line in (folder / "judge.jsonl").read_text().splitlines()]
    judged = [(line["seed"], line["before"], line["after"]) for line in judge]
    return found, without_seconds(folder), judged, kept, summary["judge"]["metrics"], arrays
