"""Puts the records of `benchmarks.literature` into docs/experiments.md."""

from benchmarks.render import EXPERIMENTS, render

if __name__ == "__main__":
    render(EXPERIMENTS)
