"""Learning the training data: ten images, one of each class, from blank (Maclaurin et al. 2015).

Softmax regression trains on them for 50 steps; their pixels minimise its loss on real digits. Then
training from fresh initial weights judges them. About ten seconds.
"""

# %% Digits: real ones judge, none is trained on
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax
from sklearn.datasets import load_digits
from sklearn.utils import shuffle

import drmad_jax as dj

images, labels = shuffle(*load_digits(return_X_y=True), random_state=0)
images, labels = jnp.float32(images / 16), jnp.int32(labels)
valid, test = (images[:1200], labels[:1200]), (images[1200:], labels[1200:])


# %% Inside, the loss on the learned images; outside, that on real ones
def loss(w, images, labels):
    logits = images @ w["kernel"] + w["bias"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


problem = dj.Problem(
    inner_loss=lambda w, learned, classes: loss(w, learned, classes),
    outer_loss=lambda w, learned, batch: loss(w, *batch),
    optimizer=optax.sgd(0.2, momentum=0.9),
)
hypergradient = jax.jit(dj.hypergradient(problem, num_steps=50, method=dj.checkpointed()))
init = lambda key: {"kernel": 0.05 * jax.random.normal(key, (64, 10)), "bias": jnp.zeros(10)}
full_batch = jax.tree_util.Partial(lambda classes, step: classes, jnp.arange(10))

# %% Learning, from new initial weights at every step
outer = dj.outer_optimizer(optax.adam(0.03))
learned = jnp.zeros((10, 64))
state = outer.init(learned)
for step in range(301):
    out = hypergradient(learned, init(jax.random.key(step)), full_batch, valid)
    learned, state = outer.update(out.grad, state, learned)
    if step % 100 == 0:
        print(f"{step:3d}  validation loss {out.value:.3f}")

# %% Judging, beside the mean image of each class
means = jnp.stack([images[:1200][labels[:1200] == digit].mean(axis=0) for digit in range(10)])
for name, trained_on in (("means", means), ("learned", learned)):
    w = hypergradient(trained_on, init(jax.random.key(1000)), full_batch, valid).params
    wrong = jnp.argmax(test[0] @ w["kernel"] + w["bias"], axis=1) != test[1]
    print(f"{name:8s} test error {100 * wrong.mean():.1f}%")

figure, panels = plt.subplots(2, 5, figsize=(3.4, 1.7), layout="constrained")
limit = abs(learned).max()
for digit, axes in enumerate(panels.flat):
    axes.imshow(learned[digit].reshape(8, 8), cmap="PuOr", vmin=-limit, vmax=limit)
    axes.set(xticks=[], yticks=[], xlabel=digit)
figure.savefig("learned_images.png", dpi=200)
