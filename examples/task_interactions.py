"""Learns how much four tasks should have in common (after Maclaurin et al. 2015)."""

# %% Four sets of digits, with few examples each: two upright, two turned by 90 degrees.
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from sklearn.datasets import load_digits

import drmad_jax as dj

NUM_STEPS, TASKS = 60, ("upright, 1", "upright, 2", "turned, 1", "turned, 2")
images, labels = load_digits(return_X_y=True)
images, labels = images.reshape(-1, 8, 8)[:1600] / 16 - 0.3, labels[:1600]
parts = [jnp.rot90(images[task::4], task // 2, axes=(1, 2)) for task in range(4)]
x = jnp.stack(parts).reshape(4, 400, 64)
y = labels.reshape(400, 4).T
train, valid, test = ((x[:, a:b], y[:, a:b]) for a, b in ((0, 40), (40, 200), (200, 400)))
model = nn.Sequential([nn.Dense(30), jnp.tanh, nn.Dense(10)])


# %% Task a has the weights w_a = sum_b S[a, b] z_b; training moves z, and S is learned, by layer.
def loss(z, sharing, batch):
    w = {n: jax.tree.map(lambda leaf, n=n: jnp.tensordot(sharing[n], leaf, 1), z[n]) for n in z}
    logits = jax.vmap(lambda w, x: model.apply({"params": w}, x))(w, batch[0])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


problem = dj.Problem(loss, loss, optax.sgd(0.4, momentum=0.9))
hypergradient = dj.hypergradient(problem, num_steps=NUM_STEPS, method=dj.checkpointed())
outer = dj.outer_optimizer(optax.adam(0.03))


@jax.jit
def outer_step(sharing, state, key, judged_on):
    z = jax.vmap(lambda k: model.init(k, x[0])["params"])(jax.random.split(key, 4))
    every_step = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (NUM_STEPS, *leaf.shape)), train)
    out = hypergradient(sharing, z, every_step, judged_on)
    return *outer.update(out.grad, state, sharing), out.value


# %% From networks that share a half; on the test set, beside networks on their own.
start = {name: 0.5 * jnp.eye(4) + 0.5 / 4 for name in ("layers_0", "layers_2")}
sharing, state = start, outer.init(start)
for step in range(30):
    sharing, state, _ = outer_step(sharing, state, jax.random.key(step), valid)
for name, fixed in {"separate": dict.fromkeys(start, jnp.eye(4)), "learned": sharing}.items():
    losses = [outer_step(fixed, state, jax.random.key(100 + i), test)[2] for i in range(5)]
    print(f"test loss, {name}: {jnp.mean(jnp.array(losses)):.3f}")

# %% The correlations of the tasks' weights before training, learned.
figure, panels = plt.subplots(1, 2, figsize=(6, 2.6), layout="constrained")
for axes, (name, matrix) in zip(panels, sharing.items(), strict=True):
    rows = matrix / jnp.linalg.norm(matrix, axis=1, keepdims=True)
    shown = axes.imshow(rows @ rows.T, vmin=-1, vmax=1, cmap="cividis")
    axes.set(title=name, xticks=[], yticks=range(4), yticklabels=TASKS)
figure.colorbar(shown, ax=panels, label="correlation")
figure.savefig("task_interactions.png", dpi=150)
