"""Optional: data sets, models, tasks, the run loop and the command line; the core never imports it.

Needs `pip install "drmad_jax[experiments]"`.
"""
