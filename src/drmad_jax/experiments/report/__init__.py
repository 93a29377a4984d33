"""`drmad-jax report`: run folders as one HTML page to read, print and paste from."""

from drmad_jax.experiments.report.page import write_report

__all__ = ["write_report"]
