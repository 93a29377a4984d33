"""Learns how much four tasks should have in common (after Maclaurin et al. 2015, section 3.5)."""

# %% Four sets of digits, with few examples each: two upright, two turned by 90 degrees.
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from sklearn.datasets import load_digits

import drmad_jax as dj

NUM_STEPS, TASKS = 100, ("upright, 1", "upright, 2", "turned, 1", "turned, 2")
images, labels = load_digits(return_X_y=True)
images, labels = images.reshape(-1, 8, 8)[:1600] / 16 - 0.3, labels[:1600]
parts = [images[task::4] for task in range(4)]
turned = [jnp.rot90(part, axes=(1, 2)) for part in parts[2:]]
x = jnp.stack([*parts[:2], *turned]).reshape(4, 400, 64)
y = jnp.stack([labels[task::4] for task in range(4)])
train, valid, test = ((x[:, a:b], y[:, a:b]) for a, b in ((0, 40), (40, 200), (200, 400)))
model = nn.Sequential([nn.Dense(30), jnp.tanh, nn.Dense(10)])


# %% Task a has the weights w_a = sum_b S[a, b] z_b; training moves z, and S is learned, by layer.
def loss(z, sharing, batch):
    mix = lambda name: lambda leaf: jnp.tensordot(sharing[name], leaf, axes=1)
    w = {name: jax.tree.map(mix(name), layer) for name, layer in z.items()}
    logits = jax.vmap(lambda w, x: model.apply({"params": w}, x))(w, batch[0])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


problem = dj.Problem(loss, loss, optax.sgd(0.4, momentum=0.9))
hypergradient = dj.hypergradient(problem, num_steps=NUM_STEPS, method=dj.checkpointed())
outer = dj.outer_optimizer(optax.adam(0.02))


@jax.jit
def outer_step(sharing, state, key, judged_on):
    init = lambda key: model.init(key, x[0])["params"]
    z = jax.vmap(init)(jax.random.split(key, 4))
    every_step = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (NUM_STEPS, *leaf.shape)), train)
    out = hypergradient(sharing, z, every_step, judged_on)
    return *outer.update(out.grad, state, sharing), out.value


# %% From networks that share a half.
start = 0.5 * jnp.eye(4) + 0.5 / 4
sharing = {"layers_0": start, "layers_2": start}
state = outer.init(sharing)
for step in range(40):
    sharing, state, value = outer_step(sharing, state, jax.random.key(step), valid)
alone = {name: jnp.eye(4) for name in sharing}
for name, matrices in (
    ("separate", alone),
    ("half", {n: start for n in sharing}),
    ("learned", sharing),
):
    losses = [outer_step(matrices, state, jax.random.key(100 + i), test)[2] for i in range(5)]
    print(f"test loss, {name}: {jnp.mean(jnp.array(losses)):.3f}")

# %% The correlations of the tasks' weights before training, learned.
figure, panels = plt.subplots(1, 2, figsize=(6, 2.6), layout="constrained")
for axes, (name, matrix) in zip(panels, sharing.items(), strict=True):
    covariance = matrix @ matrix.T
    scale = jnp.sqrt(jnp.diag(covariance))
    shown = axes.imshow(covariance / jnp.outer(scale, scale), vmin=-1, vmax=1, cmap="cividis")
    axes.set(title=name, xticks=[], yticks=range(4), yticklabels=TASKS)
figure.colorbar(shown, ax=panels, label="correlation")
figure.savefig("task_interactions.png", dpi=150)
