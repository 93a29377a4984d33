"""Weight decays and the learning rate of a language model of 100 M weights: docs/scale.md.

python language_model.py --tokens tokens.npy     # a row of integers below 16384
python language_model.py --compile-only          # what a device is asked for
python language_model.py --tiny                  # a toy, on tokens made up
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax

import drmad_jax as dj

parser = argparse.ArgumentParser()
for flag in ("--tiny", "--compile-only"):
    parser.add_argument(flag, action="store_true")
parser.add_argument("--tokens")
asked = parser.parse_args()
width, layers, words, rows, length = (32, 2, 64, 4, 16) if asked.tiny else (768, 12, 16384, 4, 256)
num_steps, head = 700 if asked.tiny else 2000, 8 if asked.tiny else 64
shapes = {"out": (width, width), "qkv": (width, 3, width), "up": (width, 4 * width)}
shapes = {k: (layers, *s) for k, s in (shapes | {"down": (4 * width, width)}).items()}
shapes |= {"embedding": (words, width), "places": (length, width)}


@jax.checkpoint
def block(x, w):
    norm = lambda x: x * jax.lax.rsqrt(jnp.mean(x**2, -1, keepdims=True) + 1e-6)
    qkv = jnp.moveaxis(jnp.tensordot(norm(x), w["qkv"], 1), 2, 0)
    q, k, v = qkv.reshape(3, *x.shape[:2], -1, head)
    x = x + jax.nn.dot_product_attention(q, k, v, is_causal=True).reshape(x.shape) @ w["out"]
    return x + jax.nn.gelu(norm(x) @ w["up"]) @ w["down"], None


def loss(w, h, batch):
    x = w["embedding"][batch[:, :-1]] + w["places"][None]
    x, _ = jax.lax.scan(block, x, {k: w[k] for k in ("qkv", "out", "up", "down")})
    logits = x @ w["embedding"].T / width**0.5
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[:, 1:]).mean()


decayed = lambda w, h, batch: loss(w, h, batch) + sum(jnp.exp(h[k]) * (w[k] ** 2).sum() for k in w)
adam = lambda h: optax.adam(jnp.exp(h["log_lr"]), eps_root=1e-8)
problem, hparams = dj.Problem(decayed, loss, adam), dict.fromkeys(["log_lr", *shapes], -9.0)
keys = lambda key: zip(shapes.items(), jax.random.split(key, len(shapes)), strict=True)
start = lambda key: {k: 0.02 * jax.random.normal(each, s) for (k, s), each in keys(key)}
call = jax.jit(dj.hypergradient(problem, num_steps=num_steps, method=dj.drmad()))
if asked.compile_only:
    tokens = jax.ShapeDtypeStruct((num_steps, rows, length + 1), jnp.int32)
    outer = jax.ShapeDtypeStruct(tokens.shape[1:], jnp.int32)
    given = hparams, jax.eval_shape(start, jax.random.key(0)), tokens, outer
    size = call.lower(*given).compile().memory_analysis().temp_size_in_bytes
    count = sum(x.size for x in jax.tree.leaves(given[1]))
    raise SystemExit(f"{count:,} weights: {size / 2**30:.1f} GiB, {size / 12 / count:.1f} states")

made_up = lambda: np.random.default_rng(0).integers(0, words, 10**5).cumsum() % words
tokens = np.load(asked.tokens, mmap_mode="r") if asked.tokens else made_up()
cut = len(tokens) * 9 // 10


def windows(low, high, seed, count):
    at = np.random.default_rng(seed).integers(low, high - length, (count, rows))
    return np.asarray(tokens[at[..., None] + np.arange(length + 1)], np.int32)


outer = dj.outer_optimizer(optax.adam(0.3))
state = outer.init(hparams)
for step in range(2 if asked.tiny else 20):
    batches = windows(0, cut, 2 * step, num_steps)  # All of a run: 8 MB.
    judged = windows(cut, len(tokens), 2 * step + 1, 1)[0]
    out = call(hparams, jax.jit(start)(jax.random.key(step)), batches, judged)
    hparams, state = outer.update(out.grad, state, hparams)
    used = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0) / 2**30
    print(f"{step}: validation {out.value:.4f}, finite {out.info.finite}, peak {used:.1f} GiB")
    print({k: round(float(h), 3) for k, h in hparams.items()}, flush=True)
