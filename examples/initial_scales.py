"""The scale of each layer's initial weights, tuned through the whole training run."""

# %% A deep tanh network on few digits
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from sklearn.datasets import load_digits

import drmad_jax as dj

x, y = load_digits(return_X_y=True)
x, y = jnp.float32(x / 16), jnp.asarray(y)
train, valid, test = ((x[a:b], y[a:b]) for a, b in ((0, 500), (500, 1000), (1000, 1797)))
widths = [32, 32, 32, 10]
model = nn.Sequential([layer for n in widths for layer in (nn.Dense(n), jnp.tanh)][:-1])


def loss(params, log_scales, batch):
    logits = model.apply(params, batch[0])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


# %% Where training starts depends on hyperparameters: normal draws, times a scale for each layer
def scaled(params, log_scales):
    layers = params["params"].items()
    scale = lambda name, layer: jax.tree.map(lambda w: jnp.exp(log_scales[name]) * w, layer)
    return {"params": {name: scale(name, layer) for name, layer in layers}}


def draw(key):
    shapes = jax.eval_shape(model.init, key, x[:1])
    flat, unravel = jax.flatten_util.ravel_pytree(jax.tree.map(jnp.zeros_like, shapes))
    return unravel(jax.random.normal(key, flat.shape))


problem = dj.Problem(loss, loss, optax.sgd(0.1, momentum=0.9), initial_params=scaled)
hypergradient = jax.jit(dj.hypergradient(problem, num_steps=100, method=dj.checkpointed()))

# %% Tune: new draws and new minibatches at every outer step
log_scales = dict.fromkeys(draw(jax.random.key(0))["params"], jnp.float32(-4.0))
state = (outer := dj.outer_optimizer(optax.adam(0.2))).init(log_scales)
for step, key in enumerate(jax.random.split(jax.random.key(1), 25)):
    out = hypergradient(log_scales, draw(key), dj.minibatches(train, 50, key), valid)
    error = jnp.mean(jnp.argmax(model.apply(out.state.params, test[0]), -1) != test[1])
    print(f"{step:2d} validation loss {out.value:.3f} test error {error:.1%}")
    log_scales, state = outer.update(out.grad, state, log_scales)
found = [float(jnp.exp(value)) for value in log_scales.values()]
plt.semilogy(np.full(len(widths), np.exp(-4.0)), "s--", label="before")
plt.semilogy(found, "o-", label="after")
plt.semilogy([n**-0.5 for n in (64, *widths[:-1])], "x:", label="LeCun: 1/√inputs")
plt.gca().set(xlabel="layer", ylabel="scale of the initial weights", xticks=range(len(widths)))
plt.legend()
plt.tight_layout()
plt.savefig("initial_scales.png", dpi=200)
