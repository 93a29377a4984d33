"""Class weights of a network that labels pixels, tuned for an overlap that it is not trained on."""

# %% Faint discs in noise: one pixel in twenty-five belongs to one
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import drmad_jax as dj


def scenes(key, count):
    place_key, noise_key = jax.random.split(key)
    centre = jax.random.uniform(place_key, (count, 2, 1, 1), maxval=16.0)
    rows, columns = jnp.indices((16, 16))
    inside = (rows - centre[:, 0]) ** 2 + (columns - centre[:, 1]) ** 2 < 4
    images = 0.8 * inside + 0.5 * jax.random.normal(noise_key, inside.shape)
    return images[..., None], inside.astype(jnp.int32)


train, valid, test = (scenes(jax.random.key(n), n) for n in (60, 200, 201))
model = nn.Sequential([nn.Conv(8, (3, 3)), nn.silu, nn.Conv(8, (3, 3)), nn.silu, nn.Dense(2)])


# %% Training weighs each pixel by its class; what counts is intersection over union
def weighted_cross_entropy(logits, log_weights, batch):
    weights = jax.nn.softmax(log_weights)[batch[1]]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch[1])
    return jnp.sum(weights * losses) / jnp.sum(weights)


def overlap(found, true):
    return jnp.sum(found * true) / jnp.sum(jnp.maximum(found, true))


probability = lambda params, images: jax.nn.softmax(model.apply(params, images))[..., 1]
loss = dj.composite_loss(lambda w, h, batch: model.apply(w, batch[0]), weighted_cross_entropy)
outer_loss = lambda w, h, batch: 1 - overlap(probability(w, batch[0]), batch[1])
problem = dj.Problem(loss, outer_loss, optax.adam(0.01, eps_root=1e-8))
hypergradient = jax.jit(dj.hypergradient(problem, num_steps=200, method=dj.checkpointed()))

# %% Tune, then look at test scenes with the first and with the last weights
log_weights, shown = jnp.zeros(2), {"image": test[0][..., 0], "truth": test[1]}
state = (outer := dj.outer_optimizer(optax.adam(0.3))).init(log_weights)
for step, key in enumerate(jax.random.split(jax.random.key(3), 12)):
    inputs = model.init(key, valid[0][:1]), dj.minibatches(train, 16, key), valid
    out = hypergradient(log_weights, *inputs)
    if step in (0, 11):
        found = probability(out.state.params, test[0]) > 0.5
        shown[f"{'after' if step else 'before'}, IoU {overlap(found, test[1]):.2f}"] = found
    log_weights, state = outer.update(out.grad, state, log_weights)
panels = plt.subplots(4, 8, figsize=(6, 3.6), layout="constrained")[1]
for line, (name, images) in zip(panels, shown.items(), strict=True):
    line[0].set_title(name, loc="left", fontsize=8)
    for axes, picture in zip(line, images, strict=False):
        axes.imshow(picture, "gray")
plt.setp(panels, xticks=[], yticks=[])
plt.savefig("class_weights.png", dpi=200)
