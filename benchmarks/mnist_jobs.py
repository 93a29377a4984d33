"""The MNIST jobs of `configs/`: how far the validation loss falls, and how long it takes.

TFDS_DATA_DIR=... python -m benchmarks.mnist_jobs
"""

import tempfile
from pathlib import Path

from benchmarks.harness import write_record
from drmad_jax.experiments import config as configs
from drmad_jax.experiments.run import run
from drmad_jax.experiments.run_folder import read_metrics

CONFIGS = Path(__file__).parents[1] / "configs"
NAMES = ("mnist_l2", "mnist_l2_published", "mnist_l2_small")


def job(name: str) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        summary = run(configs.load(CONFIGS / f"{name}.toml"), Path(folder))
        lines = read_metrics(Path(folder))
    losses = [line["outer_loss"] for line in lines]
    later = zip(losses, losses[3:], strict=False)
    return {
        "outer loss": [round(loss, 4) for loss in losses],
        "test error": [round(line["test_error"], 4) for line in lines],
        "fall of the outer loss": round(1 - losses[-1] / losses[0], 3),
        "steps not lower three steps later": [k for k, (a, b) in enumerate(later) if b >= a],
        "compile seconds": round(summary["compile_seconds"], 1),
        "seconds of all outer steps": round(sum(line["seconds"] for line in lines), 1),
    }


def main() -> None:
    results = {name: job(name) for name in NAMES}
    for name, row in results.items():
        print(name, row)
    print(write_record("mnist_jobs", results))


if __name__ == "__main__":
    main()
