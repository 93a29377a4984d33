"""What a hypergradient costs over plain training, by method, model, batch and number of steps.

    python -m benchmarks.cost [PART ...] [--methods NAME ...] [--rounds N] [--name R]

Plain training is an optax loop on the same batches, with the outer loss at the end and no
derivative of training. All programs of a cell are compiled first and then run in turn; a ratio is
the median over rounds of the ratio within a round. Where a cell leaves a method out, it says why.
PARTs choose cells by their names ("mlp", "adam, batch 500"), NAMEs methods; the record holds those
alone. Two checkouts of the package are compared by a record R of each.
"""

from typing import NamedTuple

import jax

import drmad_jax as dj
from benchmarks import lineup
from benchmarks.problems.random import SUBJECTS, Subject
from benchmarks.records import write_record
from benchmarks.timing import Program, compile_all, measure, options, ratios

# Programs that ask for more are left out.
MEMORY_LIMIT = 4 * 2**30


class Cell(NamedTuple):
    """One set of programs that are timed in turn."""

    subject: str
    optimizer: str
    batch_size: int
    num_steps: int
    labels: tuple[str, ...] = lineup.SWEPT
    budget_s: float = 20  # after which no further round begins

    def __str__(self) -> str:
        return f"{self.subject}, {self.optimizer}, batch {self.batch_size}, T = {self.num_steps}"


GRID = (
    Cell("mlp", "momentum", 500, 1000, lineup.COST, budget_s=200),
    Cell("mlp", "adam", 500, 1000, (*lineup.SWEPT, lineup.LINE_HESSIAN), budget_s=100),
    Cell("mlp", "momentum", 500, 2000, (lineup.DEFAULT, lineup.CHECKPOINTED), budget_s=120),
    *(Cell("mlp", "momentum", 50, num_steps) for num_steps in (1, 10, 100, 300, 1000, 2000)),
    Cell("mlp", "momentum", 50, 20_000, lineup.LONG, budget_s=150),
    Cell("conv", "momentum", 50, 100),
    Cell("conv", "momentum", 50, 1000, budget_s=50),
    Cell("conv", "adam", 50, 100),
    Cell("transformer", "momentum", 50, 100, budget_s=120),
    Cell("transformer", "momentum", 50, 300, lineup.LONG, budget_s=40),
    Cell("transformer", "adam", 50, 100, budget_s=120),
)


def run_cell(cell: Cell, subject: Subject, rounds: int) -> dict:
    """Compiles and times one cell, and says what it leaves out, and why."""
    left_out = {name: "to save time" for name in lineup.COST if name not in cell.labels}
    if cell.optimizer != "momentum" or "model_state" in subject.given:
        left_out[lineup.REVERSIBLE] = "takes reversible_sgd alone, and no model state"
    names = lineup.PLAIN, lineup.LIBRARY, *cell.labels
    run = lambda name: lineup.run(name, subject.problem, cell.optimizer, cell.num_steps)
    batches = dj.minibatches(subject.data, cell.batch_size, jax.random.key(1))
    given = subject.given, batches, subject.outer_batch
    programs = compile_all({name: run(name) for name in names}, *given)
    for name, program in list(programs.items()):
        if program.temporary_bytes > MEMORY_LIMIT:
            left_out[name] = f"asks for {program.temporary_bytes / 2**30:.1f} GiB"
            del programs[name]
    distance = _distance(programs)
    seconds = measure(programs, repeats=rounds, budget_s=cell.budget_s)
    return {
        **{k: getattr(cell, k) for k in ("subject", "optimizer", "batch_size", "num_steps")},
        "weights": subject.count("params"),
        "hyperparameters": subject.count("hparams"),
        "relative distance of the two trainings": distance,
        "over plain training": ratios(seconds, lineup.PLAIN),
        "seconds": seconds,
        "compile_s": {name: program.compile_s for name, program in programs.items()},
        "temporary_bytes": {name: p.temporary_bytes for name, p in programs.items()},
        "left out": left_out,
    }


def _distance(programs: dict[str, Program]) -> float:
    """How far the outer losses of both trainings are apart: they must do the same."""
    plain, library = (float(programs[name]()) for name in (lineup.PLAIN, lineup.LIBRARY))
    if abs(library / plain - 1) > 0.01:
        raise RuntimeError(f"plain training ends at {plain}, the package's at {library}")
    return abs(library / plain - 1)


def main() -> None:
    grid = {str(cell): cell for cell in GRID}
    asked = options("cost", grid, lineup.COST, rounds=9)
    results = {}
    for number, name in enumerate(asked.cells, 1):
        cell = grid[name]
        if asked.methods:
            cell = cell._replace(labels=tuple(asked.methods))
        print(f"{number}/{len(asked.cells)} {cell}", flush=True)
        results[name] = run_cell(cell, SUBJECTS[cell.subject](), asked.rounds)
        for label, ratio in results[name]["over plain training"].items():
            print(f"    {label:32s} {ratio['median']:6.2f}  {ratio['min']:.2f}–{ratio['max']:.2f}")
    print(write_record(asked.name, {"cells": results}))


if __name__ == "__main__":
    main()
