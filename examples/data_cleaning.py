"""Finding wrong labels by a tuned weight for each training example (Franceschi et al. 2017).

Half of the labels of 600 digits are wrong; the weights minimise the loss on 600 clean ones.
"""

# %% Digits, the first half of the training labels replaced by another class
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from sklearn.datasets import load_digits
from sklearn.utils import shuffle

import drmad_jax as dj

images, labels = shuffle(*load_digits(return_X_y=True), random_state=0)
images, labels = jnp.float32(images / 16), jnp.int32(labels)
shift = jax.random.randint(jax.random.key(0), (300,), 1, 10)
given = labels[:600].at[:300].set((labels[:300] + shift) % 10)
train, valid = (images[:600], given), (images[600:1200], labels[600:1200])

# %% Weighted loss inside, clean loss outside; gradient descent on the full batch
predict = lambda w, images: images @ w["kernel"] + w["bias"]


def losses(w, batch):
    return optax.softmax_cross_entropy_with_integer_labels(predict(w, batch[0]), batch[1])


problem = dj.Problem(
    inner_loss=lambda w, weights, batch: jnp.mean(weights * losses(w, batch)),
    outer_loss=lambda w, weights, batch: jnp.mean(losses(w, batch)),
    optimizer=optax.sgd(0.3),
)
method = dj.drmad(steps=dj.segments(num_batches=1))
hypergradient = jax.jit(dj.hypergradient(problem, num_steps=200, method=method))
full_batch = jax.tree_util.Partial(lambda data, step: data, train)

# %% Tuning; the weights stay in [0, 1]
outer = dj.outer_optimizer(optax.adam(0.05), project=optax.projections.projection_hypercube)
start = {"kernel": jnp.zeros((64, 10)), "bias": jnp.zeros(10)}
weights = jnp.full(600, 0.5)
state = outer.init(weights)
for step in range(41):
    out = hypergradient(weights, start, full_batch, valid)
    weights, state = outer.update(out.grad, state, weights)
    if step % 10 == 0:
        wrong = jnp.argmax(predict(out.params, images[1200:]), axis=1) != labels[1200:]
        print(f"{step:2d}  validation loss {out.value:.3f}  test error {100 * wrong.mean():.1f}%")
thrown_out = weights < 1e-3
print(f"{thrown_out.sum()} thrown out, {thrown_out[:300].sum()} of them among 300 wrong labels")

# %% The learned weights
figure, axes = plt.subplots(figsize=(3.4, 2.2), layout="constrained")
groups = [weights[300:], weights[:300]]
axes.hist(groups, 20, color=["#0072B2", "#D55E00"], label=["clean", "wrong"])
axes.set(xlabel="learned weight", ylabel="examples")
axes.legend(title="label", frameon=False)
figure.savefig("data_cleaning.png", dpi=200)
