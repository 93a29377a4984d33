"""One L2 penalty for each input pixel and hidden unit, tuned together, on scikit-learn's digits."""

# %% A network, its data, and the loss with its penalties
import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from sklearn.datasets import load_digits

import drmad_jax as dj

images, labels = map(jnp.asarray, load_digits(return_X_y=True))
images = (images / 16).astype(jnp.float32)
train, valid, test = ((images[a:b], labels[a:b]) for a, b in ((0, 200), (200, 1000), (1000, 1797)))
model = nn.Sequential([nn.Dense(50), nn.tanh, nn.Dense(10)])


def cross_entropy(logits, log_l2, batch):
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean()


def penalty(params, log_l2):
    kernels = {name: layer["kernel"] for name, layer in params["params"].items()}
    return sum(jnp.sum(jnp.exp(log_l2[k])[:, None] * w**2) for k, w in kernels.items())


predict = lambda params, log_l2, batch: model.apply(params, batch[0])
inner_loss = dj.composite_loss(predict, cross_entropy, penalty)
outer_loss = lambda params, log_l2, batch: cross_entropy(
    predict(params, log_l2, batch), None, batch
)
problem = dj.Problem(inner_loss, outer_loss, optax.sgd(0.05, momentum=0.9))
hypergradient = dj.hypergradient(problem, num_steps=500, method=dj.drmad())

# %% Tune: a new network and new minibatches at every outer step
outer = dj.outer_optimizer(optax.adam(0.3))


@jax.jit
def outer_step(log_l2, state, key):
    params = model.init(key, images[:1])
    out = hypergradient(log_l2, params, dj.minibatches(train, 50, key), valid)
    test_error = jnp.mean(predict(out.params, log_l2, test).argmax(-1) != test[1])
    log_l2, state = outer.update(out.grad, state, log_l2)
    return log_l2, state, (out.value, test_error)


log_l2 = {"layers_0": jnp.full(64, -8.0), "layers_2": jnp.full(50, -8.0)}
state = outer.init(log_l2)
for step in range(25):
    log_l2, state, (loss, error) = outer_step(log_l2, state, jax.random.key(step))
    if step % 6 == 0:
        print(f"{step:2d}  validation loss {loss:.3f}  test error {error:.1%}")

# %% Which pixels the penalties hold down
plt.imshow(log_l2["layers_0"].reshape(8, 8), cmap="cividis")
plt.colorbar(label="log L2 penalty")
plt.savefig("penalties.png", dpi=200)
