"""What a hypergradient costs over plain training, by method, model, batch and number of steps.

    python -m benchmarks.cost [mlp] [conv] [transformer]

Plain training is an optax loop on the same batches, with the outer loss at the end and no
derivative of training. All programs of a cell are compiled first and then run in turn; a ratio is
the median over rounds of the ratio within a round. Where a cell leaves a method out, it says why.
With names of models the record holds those alone.
"""

import dataclasses
import sys
from collections.abc import Callable

import jax

import drmad_jax as dj
from benchmarks import lineup
from benchmarks.cost_problems import SUBJECTS, Subject
from benchmarks.harness import Program, compile_all, measure, ratio_spreads, write_record
from benchmarks.runs import OPTIMIZERS, library_training, plain_training, with_method

LIBRARY = "training as the package does it"
# Programs that ask for more are left out.
MEMORY_LIMIT = 4 * 2**30


@dataclasses.dataclass(frozen=True)
class Cell:
    """One set of programs that are timed in turn.

    Attributes:
        subject: Name of the model.
        optimizer: Name of the optimizer.
        batch_size: Examples of a step.
        num_steps: Steps T.
        labels: Names of the methods.
        budget_s: Seconds after which no further round begins.
    """

    subject: str
    optimizer: str
    batch_size: int
    num_steps: int
    labels: tuple[str, ...] = lineup.SWEPT
    budget_s: float = 20

    def __str__(self) -> str:
        return f"{self.subject}, {self.optimizer}, batch {self.batch_size}, T = {self.num_steps}"


ALL = tuple(lineup.methods(100))
LONG = (lineup.DEFAULT, lineup.LINE_SEGMENTS, lineup.LINE_ALL, lineup.LINE_TENTH)
GRID = (
    Cell("mlp", "momentum", 500, 1000, ALL, budget_s=280),
    Cell("mlp", "adam", 500, 1000, (*lineup.SWEPT, lineup.LINE_HESSIAN), budget_s=100),
    Cell("mlp", "momentum", 1000, 100),
    Cell("mlp", "momentum", 50, 100),
    Cell("mlp", "momentum", 50, 1000),
    Cell("mlp", "momentum", 50, 20_000, LONG, budget_s=60),
    Cell("conv", "momentum", 50, 100),
    Cell("conv", "momentum", 50, 1000, budget_s=50),
    Cell("conv", "adam", 50, 100),
    Cell("transformer", "momentum", 50, 100, budget_s=40),
    Cell("transformer", "momentum", 50, 300, LONG, budget_s=40),
    Cell("transformer", "adam", 50, 100, budget_s=40),
)


def functions(cell: Cell, subject: Subject) -> tuple[dict[str, Callable], dict[str, str]]:
    """What a cell runs, by name, and what it leaves out, by reason."""
    problem, made = subject.problem(OPTIMIZERS[cell.optimizer]), {}
    left_out = {label: "to save time" for label in ALL if label not in cell.labels}
    if cell.optimizer != "momentum" or "model_state" in subject.given:
        left_out[lineup.REVERSIBLE] = "takes reversible_sgd alone, and no model state"
    made[lineup.PLAIN] = plain_training(problem, cell.num_steps)
    made[LIBRARY] = library_training(problem, cell.num_steps)
    for label in cell.labels:
        of_method = problem
        if label == lineup.REVERSIBLE:
            # The same rule in fixed point, against the same plain loop.
            of_method = subject.problem(OPTIMIZERS["reversible momentum"])
        method = lineup.methods(cell.num_steps)[label]
        made[label] = with_method(of_method, cell.num_steps, method)
    return made, left_out


def run_cell(cell: Cell, subject: Subject) -> dict:
    """Compiles and times one cell."""
    made, left_out = functions(cell, subject)
    batches = dj.minibatches(subject.data, cell.batch_size, jax.random.key(1))
    programs = compile_all(made, subject.given, batches, subject.outer_batch)
    for name, program in list(programs.items()):
        if program.temporary_bytes > MEMORY_LIMIT:
            left_out[name] = f"asks for {program.temporary_bytes / 2**30:.1f} GiB"
            del programs[name]
    distance = _distance(programs)
    seconds = measure(programs, repeats=9, budget_s=cell.budget_s)
    return {
        **{name: value for name, value in vars(cell).items() if name not in ("labels", "budget_s")},
        "weights": subject.num_params,
        "hyperparameters": subject.num_hparams,
        "relative distance of the two trainings": distance,
        "over plain training": ratio_spreads(seconds, lineup.PLAIN),
        "seconds": seconds,
        "compile_s": {name: program.compile_s for name, program in programs.items()},
        "temporary_bytes": {name: p.temporary_bytes for name, p in programs.items()},
        "left out": left_out,
    }


def _distance(programs: dict[str, Program]) -> float:
    """How far the outer losses of both trainings are apart: they must do the same."""
    plain, library = (float(programs[name]()) for name in (lineup.PLAIN, LIBRARY))
    if abs(library / plain - 1) > 0.01:
        raise RuntimeError(f"plain training ends at {plain}, the package's at {library}")
    return abs(library / plain - 1)


def main(names: list[str]) -> None:
    cells = [cell for cell in GRID if not names or cell.subject in names]
    subjects = {name: SUBJECTS[name]() for name in {cell.subject for cell in cells}}
    results = {}
    for number, cell in enumerate(cells, 1):
        print(f"{number}/{len(cells)} {cell}", flush=True)
        results[str(cell)] = run_cell(cell, subjects[cell.subject])
        for name, ratio in results[str(cell)]["over plain training"].items():
            print(f"    {name:32s} {ratio['median']:6.2f}  {ratio['min']:.2f}–{ratio['max']:.2f}")
    print(write_record("cost", {"cells": results}))


if __name__ == "__main__":
    main(sys.argv[1:])
