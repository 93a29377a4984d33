"""A run in chunks that saves after each: started again by `test_killed_run.py` until it ends.

Takes a folder; prints a line after each chunk, and writes `out.npz` in the end.
"""

import os
import sys
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
import optax

import drmad_jax as dj

NUM_STEPS, CHUNK = 400, 20


def loss(w, h, batch, *, key):
    noise = 0.1 * jax.random.normal(key, batch.shape)
    return jnp.mean((jnp.tanh((batch + noise) @ w["a"]) @ w["b"] - batch[:, :2]) ** 2) + jnp.exp(
        h
    ) * jnp.sum(w["a"] ** 2)


def outer_loss(w, h, batch):
    return jnp.mean((jnp.tanh(batch @ w["a"]) @ w["b"] - batch[:, :2]) ** 2)


def batches_from(step):
    """A stream: each batch comes once."""
    while True:
        yield np.random.default_rng(step).normal(size=(8, 6)).astype(np.float32)
        step += 1


def save(folder, state):
    """Whole or not there."""
    new = folder / "new.npz"
    with new.open("wb") as file:
        np.savez(file, **state)
        file.flush()
        os.fsync(file.fileno())
    new.replace(folder / "saved.npz")


def tell(progress):
    print(progress.phase, progress.done, flush=True)
    # Long enough to be killed in.
    time.sleep(0.05)


def main(folder):
    saved, file = None, folder / "saved.npz"
    if file.exists():
        with np.load(file) as archive:
            saved = dict(archive)
    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(6, 5)) / 2, "b": rng.normal(size=(5, 2)) / 2}
    params = jax.tree.map(lambda x: x.astype(np.float32), params)
    problem = dj.Problem(loss, outer_loss, optax.adam(3e-3, eps_root=1e-8))
    run = dj.in_chunks(
        problem,
        num_steps=NUM_STEPS,
        method=dj.drmad(steps=dj.segments(4, num_products=3, num_batches=2), exact_end=150),
        chunk_size=CHUNK,
        save=lambda state: save(folder, state),
        progress=tell,
    )
    stream = batches_from(0 if saved is None else int(saved["done"]))
    judged = next(batches_from(10**6))
    out = run(np.float32(-4), params, stream, judged, key=jax.random.key(1), saved=saved)
    leaves = jax.tree.leaves((out.value, out.grad, out.params, out.initial_params_grad))
    np.savez(folder / "out.npz", *map(np.asarray, leaves))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
