"""Learning how much alphabets share of their networks' weights (Maclaurin et al. 2015)."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree
from matplotlib.figure import Figure

import drmad_jax as dj
from drmad_jax.experiments.config.data import AlphabetsConfig
from drmad_jax.experiments.config.models import MLPConfig
from drmad_jax.experiments.config.section import Log, a_list
from drmad_jax.experiments.config.task import TaskConfig
from drmad_jax.experiments.data.batches import inner_batches
from drmad_jax.experiments.data.datasets import Splits
from drmad_jax.experiments.data.omniglot import ALPHABETS, Drawings, load_alphabets
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.figures.style import COLOR_MAP, bare, new_figure, panel
from drmad_jax.experiments.models.feedforward import MLP
from drmad_jax.experiments.models.network import Network
from drmad_jax.experiments.tasks.base import Inputs, Scalar, Scores, Task, task

# Characters of each alphabet in the figure of them.
_NUM_SHOWN = 12

# Drawings of every character of every alphabet; characters that an alphabet has not are blank.
Batch = Float[Array, "drawings alphabets characters pixels"]


class SharingConfig(TaskConfig):
    """Section `[task]`: learn how much alphabets share of their networks' weights.

    Attributes:
        initial_sharing: Where the sharing starts, 0 for networks on their own, 1 for one network:
            a number for all layers, or one for each; published: 0.5.
        log_l2: Natural log of the penalty on the weights before they are mixed; published: -4.
    """

    headline: ClassVar[str] = "test_loss"

    kind: Literal["sharing"] = "sharing"
    initial_sharing: float | Annotated[tuple[float, ...], a_list("a finite number")] = 0.5
    log_l2: Log = -4.0


@task(SharingConfig, data=AlphabetsConfig, model=[MLPConfig])
class SharingTask(Task[SharingConfig, AlphabetsConfig, MLPConfig]):
    """Trains a network for each alphabet, with weights that are learned mixtures of each other's.

    Training moves z; in layer l the network of alphabet a has the weights and biases
    w_a = Σ_b S_l[a, b] z_b. The hyperparameters are a dictionary from layer to S, shape
    (alphabets, alphabets). With correlation c, S = (1 − c) 1 + c/A, with A alphabets: at c = 0 each
    network is on its own, at c = 1 all have the layer in common. The correlations of w_a and w_b
    under independent z are those of S Sᵀ.
    """

    def check(self) -> None:
        """There is one sharing, or one for each layer."""
        given, num_layers = self.task.initial_sharing, len(self._layers)
        if isinstance(given, tuple) and len(given) != num_layers:
            raise ConfigError(
                f"task.initial_sharing: expected one number, or one for each of the {num_layers} "
                f"layers (model.hidden and the output), got {list(given)}"
            )

    @property
    def problem(self) -> dj.Problem:
        """The sum over alphabets and a penalty inside, the mean on held-out drawings outside."""
        loss = dj.composite_loss(self._predict, self._total, self._penalty)
        return dj.Problem(loss, self._outer_loss, self.config.inner.optimizer.build())

    def load_data(self) -> Splits:
        """Every drawing, less the mean image of those that are not for testing."""
        loaded = load_alphabets(self.data.alphabets, self.data.image_size)
        alphabets = [_shuffled(alphabet) for alphabet in loaded]
        if self.data.rotated:
            alphabets += [np.rot90(alphabet, axes=(2, 3)) for alphabet in alphabets]
        num_train = self.data.num_train + self.data.num_valid
        drawings = _stack(alphabets)[: num_train + self.data.num_test]
        mean = drawings[:num_train, self._present].mean(axis=(0, 1))
        return jax.device_put(Splits(drawings[:num_train] - mean, drawings[num_train:] - mean))

    def init_hparams(self) -> dict[str, Float[Array, "alphabets alphabets"]]:
        """Every layer's matrix at its correlation."""
        start, layers = self.task.initial_sharing, self._layers
        start = start if isinstance(start, tuple) else (start,) * len(layers)
        count = len(self._names)
        matrix = lambda c: (1 - c) * jnp.eye(count) + c / count
        return {layer: matrix(c) for layer, c in zip(layers, start, strict=True)}

    def sample(self, key: Array, data: Splits) -> Inputs:
        """For each character a new choice of drawings to hold out; new weights."""
        split_key, params_key, batch_key, run_key = jax.random.split(key, 4)
        draws = jax.random.uniform(split_key, data.train.shape[:-1])
        order = jnp.argsort(draws, axis=0)[..., None]
        shuffled = jnp.take_along_axis(data.train, order, axis=0)
        train, valid = jnp.split(shuffled, [self.data.num_train])
        init = lambda key: self._network.init(key, train[0, 0])[0]
        params = jax.vmap(init)(jax.random.split(params_key, len(self._names)))
        batches = inner_batches(train, self.config.inner.batch_size, batch_key)
        return Inputs(params, batches, valid, key=run_key)

    def evaluate(self, state: dj.TrainState, hparams: PyTree, data: Splits) -> Scores:
        """Loss and share of wrong answers on the test drawings, means over alphabets."""
        logits = self._predict(state.params, hparams, data.test)
        wrong = jnp.argmax(logits, axis=-1) != jnp.arange(logits.shape[-1])
        return {
            "test_loss": self._by_alphabet(_losses(logits)).mean(),
            "test_error": self._by_alphabet(wrong.astype(jnp.float32)).mean(),
        }

    def evaluate_fresh(
        self, inputs: Inputs, state: dj.TrainState, hparams: PyTree, data: Splits
    ) -> Scores:
        """Loss on all training drawings, the mean over alphabets."""
        del data
        logits = self._predict(state.params, hparams, inputs.inner_batches.data)
        return {"train_loss": self._by_alphabet(_losses(logits)).mean()}

    def figures(self, hparams: PyTree, data: Splits) -> dict[str, Figure]:
        """The correlations of each layer's weights, and some characters of each alphabet."""
        size = self.data.image_size
        images = np.asarray(data.train[0]).reshape(*data.train.shape[1:3], size, size)
        return {
            "sharing": _correlations(hparams, self._names),
            "alphabets": _characters(images, self._names),
        }

    @property
    def _names(self) -> list[str]:
        names = list(self.data.alphabets)
        return names + [f"{name} 90°" for name in names] if self.data.rotated else names

    @property
    def _present(self) -> Bool[np.ndarray, "alphabets characters"]:
        """Which characters there are."""
        sizes = [ALPHABETS[name] for name in self.data.alphabets] * (1 + self.data.rotated)
        return np.arange(max(sizes)) < np.array(sizes)[:, None]

    @property
    def _network(self) -> Network:
        module = MLP((*self.model.hidden, self._present.shape[1]), self.model.activation)
        return Network(module, self.model.init_log_scale)

    @property
    def _layers(self) -> list[str]:
        return [f"dense_{i}" for i in range(len(self.model.hidden) + 1)]

    def _predict(
        self, params: PyTree, hparams: PyTree, batch: Batch
    ) -> Float[Array, "drawings alphabets characters classes"]:
        weights = {
            name: jax.tree.map(lambda z, name=name: jnp.tensordot(hparams[name], z, 1), layer)
            for name, layer in params.items()
        }

        def classify(weights, images):
            flat = images.reshape(-1, images.shape[-1])
            return self._network(weights, flat).reshape(*images.shape[:-1], -1)

        return jax.vmap(classify, in_axes=(0, 1), out_axes=1)(weights, batch)

    def _total(self, logits: Array, hparams: PyTree, batch: Batch) -> Scalar:
        del hparams, batch
        return self._by_alphabet(_losses(logits)).sum()

    def _outer_loss(self, params: PyTree, hparams: PyTree, batch: Batch) -> Scalar:
        logits = self._predict(params, hparams, batch)
        return self._total(logits, hparams, batch) / len(self._names)

    def _penalty(self, params: PyTree, hparams: PyTree) -> Scalar:
        del hparams
        squares = [jnp.sum(jnp.square(z)) for z in jax.tree.leaves(params)]
        return math.exp(self.task.log_l2) * sum(squares, jnp.zeros(()))

    def _by_alphabet(
        self, values: Float[Array, "drawings alphabets characters"]
    ) -> Float[Array, " alphabets"]:
        """The mean over the examples of each alphabet."""
        share = self._present / self._present.sum(axis=1, keepdims=True)
        return jnp.sum(values.mean(axis=0) * share, axis=1)


def _losses(
    logits: Float[Array, "drawings alphabets characters classes"],
) -> Float[Array, "drawings alphabets characters"]:
    """Cross entropies: a character's class is its place in the alphabet."""
    return -jnp.diagonal(jax.nn.log_softmax(logits), axis1=-2, axis2=-1)


def _shuffled(alphabet: Drawings) -> Drawings:
    """The drawings of each character in a random order, always the same.

    As published: the drawings to test on are by the same people as the others.
    """
    order = np.random.default_rng(0).random(alphabet.shape[:2]).argsort(axis=1)
    return np.take_along_axis(alphabet, order[..., None, None], axis=1)


def _stack(alphabets: list[Drawings]) -> Float[np.ndarray, "drawings alphabets characters pixels"]:
    """One array, with blank characters where an alphabet has fewer than another."""
    most = max(map(len, alphabets))
    pad = lambda images: np.pad(images, ((0, most - len(images)), (0, 0), (0, 0), (0, 0)))
    padded = np.moveaxis(np.stack([pad(alphabet) for alphabet in alphabets]), 2, 0)
    return padded.reshape(*padded.shape[:3], -1)


def _correlations(matrices: Mapping[str, Float[np.ndarray, "a a"]], names: Sequence[str]) -> Figure:
    """How alike the weights of each two networks are, before training on data, layer by layer."""
    shown = {layer: _correlation(matrix) for layer, matrix in matrices.items()}
    figure = new_figure(1.75)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    lowest = min(0.0, *(values.min() for values in shown.values()))
    for axes, (layer, values) in zip(panels, shown.items(), strict=True):
        axes.imshow(values, cmap=COLOR_MAP, vmin=lowest, vmax=1, interpolation="nearest")
        axes.set_title(layer, fontsize=8)
        bare(axes)
    panels[0].set_yticks(range(len(names)), [_short(name) for name in names], fontsize=5)
    panels[0].tick_params(left=False, pad=1)
    figure.colorbar(
        panels[0].images[0],
        ax=panels,
        label="correlation",
        orientation="horizontal",
        aspect=30,
        pad=0.03,
    )
    return figure


def _characters(
    images: Float[np.ndarray, "alphabets characters h w"], names: Sequence[str]
) -> Figure:
    """The first characters of each alphabet, one row each."""
    rows = np.concatenate(list(images[:, :_NUM_SHOWN].transpose(0, 2, 1, 3)))
    size = images.shape[-1]
    picture = rows.reshape(len(rows), -1)
    figure, axes = panel(0.22 * len(names) + 0.1)
    axes.imshow(picture, cmap="Greys", interpolation="nearest", aspect="equal")
    axes.set_xticks([])
    centres = (np.arange(len(names)) + 0.5) * size - 0.5
    axes.set_yticks(centres, [_short(name) for name in names], fontsize=6)
    axes.tick_params(left=False, pad=1)
    axes.spines[:].set_visible(False)
    return figure


def _correlation(matrix: Float[np.ndarray, "a a"]) -> Float[np.ndarray, "a a"]:
    covariance = matrix @ matrix.T
    deviations = np.sqrt(np.diag(covariance))
    return covariance / np.outer(deviations, deviations)


def _short(name: str) -> str:
    """A name without what stands in parentheses, and with spaces."""
    return re.sub(r"_\(.*\)", "", name).replace("_", " ")
