"""Puts the records of `benchmarks.accuracy` into docs/study.md, and draws its figures."""

from benchmarks.render import render_study

if __name__ == "__main__":
    render_study()
