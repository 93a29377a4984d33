"""Clouds and shadows: penalties, class weights and noise tuned for intersection over union."""

# %% Images of terrain, clouds and where their shadows fall; each pixel comes with what is around it
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

import drmad_jax as dj
from drmad_jax.experiments.tasks.segmentation import scores, soft_iou_loss, weighted_cross_entropy


@jax.jit
@jax.vmap
def scene(key):
    terrain, clouds, noise = jax.random.split(key, 3)
    field = lambda key, n: jax.image.resize(jax.random.normal(key, (n, n)), (24, 24), "cubic")
    cloud = field(clouds, 4) > 0.8
    shadow = jnp.roll(cloud, (3, 2), (0, 1)) & ~cloud
    image = 0.15 * field(terrain, 6) + 0.1 * field(noise, 24) + 0.3 * cloud - 0.25 * shadow
    around = [image[i : i + 16, j : j + 16] for i in range(0, 9, 2) for j in range(0, 9, 2)]
    return jnp.stack(around, -1), (cloud + 2 * shadow)[4:-4, 4:-4]


images, labels = scene(jax.random.split(jax.random.key(0), 400))
train, valid, test = ((images[s], labels[s]) for s in (slice(40), slice(40, 200), slice(200, 400)))
model = nn.Sequential([nn.Dense(16), nn.silu, nn.Dense(16), nn.silu, nn.Dense(3)])


# %% Trained by weighted cross entropy on noisy images, judged by a smooth intersection over union
def predict(params, logs, batch, key):
    noise = jnp.exp(logs["noise"]) * jax.random.normal(key, batch[0].shape)
    return model.apply(params, batch[0] + noise)


squared = lambda params, name: jnp.sum(params["params"][name]["kernel"] ** 2)
penalty = lambda params, logs: sum(jnp.exp(x) * squared(params, k) for k, x in logs["l2"].items())
criterion = lambda logits, logs, batch: weighted_cross_entropy(logits, batch[1], logs["weights"])
outer_loss = lambda params, logs, batch: soft_iou_loss(model.apply(params, batch[0]), batch[1])
inner_loss, sgd = dj.composite_loss(predict, criterion, penalty), optax.sgd(0.05, momentum=0.9)
problem, steps = dj.Problem(inner_loss, outer_loss, sgd), dj.segments(num_products=5)
hypergradient = jax.jit(dj.hypergradient(problem, num_steps=150, method=dj.drmad(steps=steps)))
l2 = {f"layers_{i}": jnp.float32(-6) for i in (0, 2, 4)}
logs = {"l2": l2, "noise": jnp.float32(-1), "weights": jnp.zeros(3)}  # a guess
state = (outer := dj.outer_optimizer(optax.adam(0.3))).init(logs)
found = []
for step in range(8):
    inputs = model.init(key := jax.random.key(step), train[0]), dj.minibatches(train, 8, key), valid
    out = hypergradient(logs, *inputs, key=key)
    found.append(logits := model.apply(out.params, test[0]))
    iou = scores(logits, test[1], ["clear", "cloud", "shadow"])["mean_iou"]
    print(f"{step}  outer loss {out.value:.3f}  mean IoU of the test images {iou:.3f}")
    logs, state = outer.update(out.grad, state, logs)

# %% Test images, their labels, and the labels found before and after tuning
masks = test[1], jnp.argmax(found[0], -1), jnp.argmax(found[-1], -1)
rows = [jnp.hstack(x[:12]) for x in (test[0][..., 12] + 0.5, *(mask / 2 for mask in masks))]
plt.imsave("segmentation.png", jnp.clip(jnp.vstack(rows), 0, 1).repeat(6, 0).repeat(6, 1))
