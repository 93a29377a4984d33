"""How far to shift, how much noise to add, how soft to make the labels: learned on digits."""

# %% Digits, moved and made noisy by strengths that have a derivative
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from jax.scipy.ndimage import map_coordinates
from sklearn.datasets import load_digits

import drmad_jax as dj

x, y = load_digits(return_X_y=True)
x, y = jnp.float32(x / 16).reshape(-1, 8, 8), jnp.asarray(y)
train, valid = ((x[a:b], y[a:b]) for a, b in ((0, 100), (100, 1797)))
model = nn.Sequential([lambda x: x.reshape(-1, 64), nn.Dense(50), nn.tanh, nn.Dense(10)])


def augment(key, images, strengths):
    shift_key, noise_key = jax.random.split(key)  # the draws do not depend on the strengths
    shifts = strengths["shift"] * jax.random.normal(shift_key, (len(images), 2, 1, 1))
    move = lambda image, by: map_coordinates(image, jnp.mgrid[:8, :8] + by, order=1)
    noise = jax.random.normal(noise_key, images.shape)
    return jax.vmap(move)(images, shifts) + strengths["noise"] * noise


# %% Trained on augmented digits and smoothed labels, judged by plain ones
def predict(params, log_strengths, batch, key):
    return model.apply(params, augment(key, batch[0], jax.tree.map(jnp.exp, log_strengths)))


def smoothed(logits, log_strengths, batch):
    share = jnp.exp(log_strengths["smoothing"])
    labels = optax.smooth_labels(jax.nn.one_hot(batch[1], 10), share)
    return optax.softmax_cross_entropy(logits, labels).mean()


def outer_loss(params, log_strengths, batch):
    return smoothed(model.apply(params, batch[0]), {"smoothing": -jnp.inf}, batch)


sgd = optax.sgd(0.1, momentum=0.9)
problem = dj.Problem(dj.composite_loss(predict, smoothed), outer_loss, sgd)
hypergradient = jax.jit(dj.hypergradient(problem, num_steps=200, method=dj.drmad()))
log_strengths = {"shift": jnp.log(0.1), "noise": jnp.log(0.1), "smoothing": jnp.log(0.01)}
state = (outer := dj.outer_optimizer(optax.adam(0.3))).init(log_strengths)
for step in range(15):
    key = jax.random.key(step)
    inputs = model.init(key, x[:1]), dj.minibatches(train, 50, key), valid
    out = hypergradient(log_strengths, *inputs, key=key)
    found = "  ".join(f"{k} {jnp.exp(v):.2f}" for k, v in log_strengths.items())
    print(f"{step:2d}  validation loss {out.value:.3f}  {found}")
    log_strengths, state = outer.update(out.grad, state, log_strengths)

# %% Training images as they are, and as the last network saw them
augmented = augment(jax.random.key(0), x[:8], jax.tree.map(jnp.exp, log_strengths))
both = jnp.pad(jnp.hstack([x[:8], augmented]), ((0, 0), (1, 1), (1, 1)), constant_values=0.5)
plt.imsave("augmentation.png", jnp.hstack(both).clip(0, 1).repeat(20, 0).repeat(20, 1), cmap="gray")
