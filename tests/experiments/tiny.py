import json
import tomllib

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
