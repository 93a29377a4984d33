"""What the benchmarks train: `mlp` and its losses need JAX alone; `random` and `study` need flax.

`random` draws data of a fixed shape, for what is timed and weighed; `study` reads data sets.
"""
