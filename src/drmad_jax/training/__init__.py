"""One run forwards: batches, schedules, curvature, the step, the run and its two scans, tangents.

`run.inputs(t)` is the one place that fetches the batch and the key of a step; `run.step(state,
hparams)` is one step of training. Everything above this folder is made of these.
"""
