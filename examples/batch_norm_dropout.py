"""Batch normalisation and dropout: model state and randomness, with a penalty for each layer."""

# %% A network with running statistics and dropout
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from sklearn.datasets import load_digits

import drmad_jax as dj

x, y = load_digits(return_X_y=True)
x, y = jnp.float32(x / 16), jnp.asarray(y)
train, valid = ((x[a:b], y[a:b]) for a, b in ((0, 100), (100, 1797)))


class Network(nn.Module):  # noqa: D101
    @nn.compact
    def __call__(self, x, train):  # noqa: D102
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(nn.Dense(50)(x))
        x = nn.Dropout(0.2, deterministic=not train)(nn.silu(x))
        return nn.Dense(10)(x)


# %% With model state, `predict` returns the new one, and the outer loss takes it
def predict(params, log_l2, batch, *, model_state, key):
    variables, rngs = {"params": params, "batch_stats": model_state}, {"dropout": key}
    logits, new = model.apply(variables, batch[0], train=True, mutable="batch_stats", rngs=rngs)
    return logits, new["batch_stats"]


def cross_entropy(logits, log_l2, batch):
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


def outer_loss(params, log_l2, batch, *, model_state):
    variables = {"params": params, "batch_stats": model_state}
    return cross_entropy(model.apply(variables, batch[0], train=False), log_l2, batch)


model = Network()
penalty = lambda w, h: sum(jnp.exp(h[name]) * jnp.sum(w[name]["kernel"] ** 2) for name in h)
inner_loss = dj.composite_loss(predict, cross_entropy, penalty)
problem = dj.Problem(inner_loss, outer_loss, optax.adam(3e-3, eps_root=1e-8))
hypergradient = jax.jit(dj.hypergradient(problem, num_steps=200, method=dj.drmad()))

# %% Tune: a new network, new minibatches and new dropout at every outer step
log_l2, losses = dict.fromkeys(["Dense_0", "Dense_1"], jnp.float32(-2.0)), []
state = (outer := dj.outer_optimizer(optax.adam(0.5))).init(log_l2)
for key in jax.random.split(jax.random.key(0), 12):
    new = model.init(key, x[:1], train=False)
    inputs = new["params"], dj.minibatches(train, 50, key), valid
    out = hypergradient(log_l2, *inputs, model_state=new["batch_stats"], key=key)
    losses.append(float(out.value))
    log_l2, state = outer.update(out.grad, state, log_l2)
plt.plot(losses, "o-")
plt.gca().set(xlabel="outer step", ylabel="validation loss")
plt.savefig("batch_norm_dropout.png", dpi=200)
