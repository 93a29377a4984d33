"""A long run from a stream of batches, saved after every chunk: killed at any moment, it goes on.

python long_run.py [--source stream|host] [--store npz|orbax] [--folder long_run]
"""

# %% Options, and a network whose batches are made up as they go
import argparse
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

import drmad_jax as dj

parser = argparse.ArgumentParser()
parser.add_argument("--source", choices=["stream", "host"], default="stream")
parser.add_argument("--store", choices=["npz", "orbax"], default="npz")
parser.add_argument("--folder", type=lambda name: Path(name).absolute(), default="long_run")
asked, num_steps = parser.parse_args(), 1000


def batch(step):  # A torch DataLoader gives its own; what matters is where it begins again.
    x = np.random.default_rng(int(step)).normal(size=(64, 8)).astype(np.float32)
    return x, np.sin(x.sum(1, keepdims=True))


predict = lambda w, x: jnp.tanh(x @ w["in"]) @ w["out"]
fit = lambda w, h, batch: jnp.mean((predict(w, batch[0]) - batch[1]) ** 2)
decayed = lambda w, h, batch: fit(w, h, batch) + sum(jnp.exp(h[k]) * (w[k] ** 2).sum() for k in w)
problem = dj.Problem(decayed, fit, optax.adam(1e-2, eps_root=1e-8))
params = {"in": jax.random.normal(jax.random.key(0), (8, 32)) / 3, "out": jnp.zeros((32, 1))}

# %% Two ways to keep what `save` gets: arrays by name
asked.folder.mkdir(exist_ok=True)
path = asked.folder / "saved.npz"
if asked.store == "npz":
    load = lambda: dict(np.load(path)) if path.exists() else None

    def save(saved):  # The old file is there until the new one is whole.
        np.savez(path.with_suffix(".new.npz"), **saved)
        os.replace(path.with_suffix(".new.npz"), path)
else:
    import orbax.checkpoint as ocp

    kept = ocp.CheckpointManager(asked.folder, options=ocp.CheckpointManagerOptions(max_to_keep=2))
    whole = ocp.args.StandardRestore()
    load = lambda: kept.restore(kept.latest_step(), args=whole) if kept.all_steps() else None

    def save(saved):  # Waits, since the arrays are given away to the next chunk.
        arrays = ocp.args.StandardSave(jax.tree.map(np.asarray, dict(saved)))
        kept.save(max(kept.all_steps(), default=-1) + 1, args=arrays)
        kept.wait_until_finished()


# %% One hypergradient, from the beginning or from where it was
saved = load()
done = 0 if saved is None else int(saved["done"])
stream = map(batch, range(done, num_steps + 1))  # One more for its shape, where all are done.
show = lambda at: print(f"{at.phase}: {at.done} of {at.total}", flush=True)
run = dj.in_chunks(problem, num_steps=num_steps, chunk_size=50, save=save, progress=show)
source = stream if asked.source == "stream" else dj.host_batches(batch)
out = run({"in": -7.0, "out": -7.0}, params, source, batch(10**6), saved=saved)
np.savez(asked.folder / "hypergradient.npz", value=out.value, **out.grad)
print(f"validation loss {out.value:.4f}, hypergradient {jax.tree.map(float, out.grad)}")
