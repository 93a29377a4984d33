"""Learning how to train: schedules of rates, scales of initial weights (Maclaurin et al. 2015)."""

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

import drmad_jax as dj
from drmad_jax import transforms
from drmad_jax.experiments.config.data import ImagesConfig
from drmad_jax.experiments.config.models import MLPConfig
from drmad_jax.experiments.config.section import PositiveInt, a_list
from drmad_jax.experiments.config.task import TaskConfig
from drmad_jax.experiments.data.datasets import Splits
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.figures.style import BLUE, GREY, ORANGE, new_figure, panel
from drmad_jax.experiments.tasks.base import Inputs, task
from drmad_jax.experiments.tasks.classification import ClassifierTask, cross_entropy

_RULES = {
    "learning_rates": transforms.log(),
    "momenta": transforms.sigmoid(),
    "initial_scales": transforms.log(),
}
# What `dj.reversible_sgd` can undo.
_SMALLEST_MOMENTUM = 2**-8
# Layers from first to last, dark to light; the yellow end would be lost on white.
_LAYERS = matplotlib.colormaps["plasma"]
_LIGHTEST = 0.82
_LABELS = {"learning_rates": "learning rate", "momenta": "momentum"}
_TITLES = {"kernel": "weights", "bias": "biases", "": None}

Tuned = Literal["learning_rates", "momenta", "initial_scales"]


class TrainingConfig(TaskConfig):
    """Section `[task]`: learn how to train, starting from the rates of `[inner.optimizer]`.

    Attributes:
        tuned: What is learned of "learning_rates", "momenta" and "initial_scales" (standard
            deviations of the initial weights); the rest stays where it starts.
        granularity: What has values of its own: each "array" of weights (published: kernel and
            bias of every layer), each "layer", or all weights together ("global").
        blocks: Blocks of training steps with rates of their own: "steps" for a rate at every step
            (published), 1 for constant rates.
        outer_loss: What is to become small: the loss on the whole "training" set (published), or
            on the "validation" set.
    """

    kind: Literal["training"] = "training"
    tuned: Annotated[tuple[Tuned, ...], a_list("names")] = ("learning_rates", "momenta")
    granularity: Literal["array", "layer", "global"] = "array"
    blocks: PositiveInt | Literal["steps"] = "steps"
    outer_loss: Literal["training", "validation"] = "training"


@task(TrainingConfig, data=ImagesConfig, model=[MLPConfig])
class TrainingTask(ClassifierTask[TrainingConfig, MLPConfig]):
    """Trains a perceptron by SGD with learned learning rates, momenta and initial scales.

    The hyperparameters are a dictionary from each of `tuned` to a pytree with one array for each
    group of weights: {"dense_0": {"bias": …, "kernel": …}, …}, {"dense_0": …, …}, or a single
    array. "learning_rates" are logarithms and "momenta" logits, shape (blocks,);
    "initial_scales" are logarithms of standard deviations, scalars.

    With rate α and momentum γ of its step, v ← γ v + g and w ← w − α (1 − γ) v: where γ is
    constant these are the published steps, v ← γ v − (1 − γ) g and w ← w + α v, and the rates of a
    group can be compared whatever its momentum.
    """

    def check(self) -> None:
        """SGD to start from, and something to tune."""
        config, task = self.config, self.task
        optimizer = config.inner.optimizer
        if optimizer.name != "sgd" or set(optimizer.options) != {"learning_rate", "momentum"}:
            raise ConfigError(
                "inner.optimizer: task 'training' learns SGD with momentum, and starts from its "
                f'rates: write {{name = "sgd", learning_rate = …, momentum = …}}, got {optimizer}'
            )
        rate, momentum = self._rates
        if rate <= 0:
            raise ConfigError(
                f"inner.optimizer.learning_rate: must be positive to have a logarithm, got {rate}"
            )
        if not _SMALLEST_MOMENTUM <= momentum < 1:
            raise ConfigError(
                "inner.optimizer.momentum: must be between 2^-8 and 1 to have a logit, "
                f"got {momentum}"
            )
        if not task.tuned:
            raise ConfigError(
                f"task.tuned: expected at least one of {', '.join(map(repr, _RULES))}"
            )
        if "initial_scales" in task.tuned and self.model.init_log_scale == "lecun":
            raise ConfigError(
                "model.init_log_scale: initial scales are tuned from a number, such as -3.0, "
                "got 'lecun'"
            )
        if task.blocks != "steps" and task.blocks > config.inner.num_steps:
            raise ConfigError(
                f"task.blocks: there are {config.inner.num_steps} steps (inner.num_steps) to share "
                f"out, got {task.blocks}"
            )

    @property
    def problem(self) -> dj.Problem:
        """Cross entropy inside and outside; the optimizer is made of the hyperparameters."""
        initial_params = self._scaled if "initial_scales" in self.task.tuned else None
        loss = dj.composite_loss(self.outputs, cross_entropy)
        return dj.Problem(loss, self.outer_loss, self._optimizer, initial_params)

    def init_hparams(self) -> dict[str, PyTree]:
        """All rates as in `inner.optimizer`, all scales as in `model.init_log_scale`."""
        return {name: self._start()[name] for name in self.task.tuned}

    def sample(self, key: Array, data: Splits) -> Inputs:
        """A new split into training and validation set, new weights, new minibatches."""
        inputs = super().sample(key, data)
        if self.task.outer_loss == "validation":
            return inputs
        return inputs._replace(outer_batch=inputs.inner_batches.data)

    def figures(self, hparams: PyTree, data: Splits) -> dict[str, Figure]:
        """The schedules of each group of weights over training, and the initial scales."""
        del data
        start, made = self._start(), {}
        for name, tree in hparams.items():
            if name == "initial_scales":
                made[name] = _scales(_named(tree), _named(start[name]))
                continue
            constrain = _RULES[name].constrain
            rates = {key: np.asarray(constrain(jnp.asarray(x))) for key, x in _named(tree).items()}
            begin = float(constrain(jax.tree.leaves(start[name])[0][0]))
            made[name] = _schedules(rates, begin, self.config.inner.num_steps, _LABELS[name])
        return made

    @property
    def _rates(self) -> tuple[float, float]:
        """Learning rate and momentum, in the convention of optax, that the schedules start from."""
        options = self.config.inner.optimizer.options
        return options["learning_rate"], options["momentum"]

    def _start(self) -> dict[str, PyTree]:
        """Every hyperparameter that might be tuned, where it starts."""
        rate, momentum = self._rates
        blocks = self.config.inner.num_steps if self.task.blocks == "steps" else self.task.blocks
        values = {
            "learning_rates": jnp.full((blocks,), rate / (1 - momentum)),
            "momenta": jnp.full((blocks,), momentum),
        }
        start = transforms.unconstrain({name: _RULES[name] for name in values}, values)
        if self.model.init_log_scale != "lecun":
            start["initial_scales"] = jnp.asarray(self.model.init_log_scale)
        return {name: self._groups(value) for name, value in start.items()}

    def _groups(self, value: Array) -> PyTree:
        """A value for each group of weights, as a prefix of the weights' pytree."""
        if self.task.granularity == "global":
            return value
        is_layer = self.task.granularity == "layer"
        each = value if is_layer else {"bias": value, "kernel": value}
        return {f"dense_{i}": each for i in range(len(self.model.hidden) + 1)}

    def _optimizer(self, hparams: PyTree) -> optax.GradientTransformation:
        given = self._start() | hparams
        rates, momenta = (
            _per_step(_RULES[name].constrain, given[name], self.config.inner.num_steps)
            for name in ("learning_rates", "momenta")
        )

        def learning_rate(step):
            return jax.tree.map(lambda rate, m: rate * (1 - m), rates(step), momenta(step))

        return dj.reversible_sgd(learning_rate, momenta)

    def _scaled(self, params: PyTree, hparams: PyTree) -> PyTree:
        """The initial weights, drawn at the scale that tuning starts from, at another one."""
        start, now = self._start()["initial_scales"], hparams["initial_scales"]
        factors = jax.tree.map(lambda log_scale, old: jnp.exp(log_scale - old), now, start)
        return jax.tree.map(jnp.multiply, params, jax.tree.broadcast(factors, params))


def _per_step(
    constrain: Callable[[Array], Array], values: PyTree, num_steps: int
) -> Callable[[Array], PyTree]:
    """A schedule `step -> tree of scalars` from a tree of arrays over blocks of steps."""
    leaves, structure = jax.tree.flatten(values)
    # Of all groups together: one look-up at each step.
    schedule = dj.per_block(constrain(jnp.stack(leaves, axis=1)), num_steps)
    return lambda step: jax.tree.unflatten(structure, jnp.unstack(schedule(step)))


def _schedules(
    values: Mapping[str, Float[np.ndarray, " blocks"]], start: float, num_steps: int, label: str
) -> Figure:
    """Rates over training: a panel for weights and one for biases, a line for each layer."""
    kinds = [kind for kind in _TITLES if any(_kind(name) == kind for name in values)]
    figure = new_figure(0.55 + 1.45 * len(kinds))
    panels = figure.subplots(len(kinds), sharex=True, squeeze=False)[:, 0]
    steps = jnp.arange(num_steps)
    for axes, kind in zip(panels, kinds, strict=True):
        shown = {name: rates for name, rates in values.items() if _kind(name) == kind}
        for number, (name, rates) in enumerate(shown.items()):
            color = _LAYERS(_LIGHTEST * number / max(len(shown) - 1, 1))
            each_step = jax.vmap(dj.per_block(jnp.asarray(rates), num_steps))(steps)
            axes.plot(steps, each_step, color=color, label=name.partition("/")[0])
        axes.axhline(start, color=GREY, linestyle="--", linewidth=0.8)
        axes.set(ylim=(0, None), ylabel=label)
        axes.set_title(_TITLES[kind], loc="left", fontsize=8)
    panels[-1].set_xlabel("training step (dashed: start)")
    if len(values) > 1:
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(
            handles,
            names,
            loc="outside upper center",
            ncols=4,
            frameon=False,
            columnspacing=1,
            handlelength=1,
            handletextpad=0.4,
        )
    return figure


def _scales(values: Mapping[str, np.ndarray], start: Mapping[str, np.ndarray]) -> Figure:
    """Standard deviations of the initial weights, before and after."""
    figure, axes = panel(0.7 + 0.2 * len(values))
    rows = np.arange(len(values))
    after = np.exp([float(value) for value in values.values()])
    before = np.exp([float(start[name]) for name in values])
    axes.hlines(rows, np.minimum(before, after), np.maximum(before, after), color=GREY, linewidth=1)
    axes.plot(before, rows, "o", color=ORANGE, markerfacecolor="white", label="start")
    axes.plot(after, rows, "o", color=BLUE, label="learned")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(rows, [name or "all weights" for name in values])
    axes.invert_yaxis()
    axes.set_xlabel("standard deviation of the initial weights")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return figure


def _kind(name: str) -> str:
    return name.partition("/")[2]


def _named(tree: PyTree) -> dict[str, np.ndarray]:
    """The leaves of a tree by their place in it."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}
