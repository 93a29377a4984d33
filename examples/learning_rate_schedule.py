"""Learns a learning rate for each layer and training step (Maclaurin et al. 2015)."""

# %% A small network on scikit-learn's digits.
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from sklearn.datasets import load_digits

import drmad_jax as dj

NUM_STEPS, LAYERS = 50, ("layers_0", "layers_2", "layers_4")
images, labels = load_digits(return_X_y=True)
data = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels)
model = nn.Sequential([nn.Dense(30), jnp.tanh, nn.Dense(30), jnp.tanh, nn.Dense(10)])


def loss(params, hparams, batch):
    logits = model.apply({"params": params}, batch[0])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


# %% The optimizer is a function of the hyperparameters: a log learning rate a layer and step.
def optimizer(log_rates):
    schedules = {name: dj.per_block(jnp.exp(log_rates[name]), NUM_STEPS) for name in LAYERS}
    return dj.reversible_sgd(schedules, momentum=0.5)


problem = dj.Problem(loss, loss, optimizer)
# Learning rates need the true trajectory: here it is undone step by step, bit for bit.
hypergradient = dj.hypergradient(problem, num_steps=NUM_STEPS, method=dj.reversible())
outer = dj.outer_optimizer(optax.adam(0.04))


# %% Each outer step trains once, from new weights and on new minibatches, then goes back.
@jax.jit
def outer_step(log_rates, state, key):
    params = model.init(key, data[0])["params"]
    batches = dj.minibatches(data, 100, jax.random.fold_in(key, 1))
    out = hypergradient(log_rates, params, batches, data)
    return *outer.update(out.grad, state, log_rates), out.value


log_rates = {name: jnp.full(NUM_STEPS, jnp.log(0.2)) for name in LAYERS}
state, values = outer.init(log_rates), []
for step in range(30):
    log_rates, state, value = outer_step(log_rates, state, jax.random.key(step))
    values.append(value)
print(f"training loss after {NUM_STEPS} steps: {values[0]:.3f} -> {values[-1]:.3f}")

# %% The learned schedules.
figure, (left, right) = plt.subplots(1, 2, figsize=(7, 2.6), layout="constrained")
left.plot(values)
left.set(xlabel="outer step", ylabel="training loss", ylim=(0, None))
right.plot(jnp.exp(jnp.stack([log_rates[name] for name in LAYERS], axis=1)), label=LAYERS)
right.set(xlabel="training step", ylabel="learning rate", ylim=(0, None))
right.legend()
figure.savefig("learning_rate_schedule.png", dpi=150)
