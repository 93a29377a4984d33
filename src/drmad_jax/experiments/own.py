"""Problems of one's own for the command line: what their function is given, and what it returns.

```toml
[task]
module = "my_task.py:make_task"    # beside the config; or "package.module:make_task"
log_l2 = -4.0                      # a keyword argument of make_task
```

`run` and `compare` call `make_task(given, log_l2=-4.0)`, with a `Given`; it returns an `OwnTask`.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax
from jaxtyping import Array, Float, PyTree

import drmad_jax as dj
from drmad_jax.experiments.config import Config
from drmad_jax.experiments.config.data import NoData
from drmad_jax.experiments.errors import ConfigError


class Given:
    """What a configuration holds for a task of one's own, beside the task's own keys.

    What the configuration says and the task never asks for is refused: it would be without effect.
    """

    def __init__(self, config: Config):
        self._config = config
        self._asked: set[str] = set()

    @property
    def num_steps(self) -> int:
        """Steps of training, `inner.num_steps`."""
        return self._config.inner.num_steps

    @property
    def optimizer(self) -> optax.GradientTransformation:
        """The optimizer of section `[inner.optimizer]`.

        Raises:
            ConfigError: If there is none.
        """
        self._asked.add("inner.optimizer")
        return self._config.inner.optimizer.build()

    @property
    def data(self) -> Any:
        """What section `[data]` names: `Splits` of images, or the arrays of a file by name.

        Raises:
            ConfigError: If there is no such section.
            DatasetError: If it cannot be read.
        """
        self._asked.add("data")
        section: Any = self._config.data
        return section.load()

    @property
    def num_valid(self) -> int:
        """How many examples are held out for validation, `data.num_valid`; 0 where it is unset."""
        return getattr(self._config.data, "num_valid", 0)

    def check_all_is_used(self, name: str, *, draws_minibatches: bool) -> None:
        """Refuses what was written and never asked for.

        Args:
            name: How the function is called.
            draws_minibatches: Whether `inner.batch_size` has a meaning.

        Raises:
            ConfigError: If there is such a thing.
        """
        inner = self._config.inner
        written = {
            "inner.optimizer": inner.optimizer.options,
            "data": not isinstance(self._config.data, NoData),
        }
        for key, is_there in written.items():
            if is_there and key not in self._asked:
                attribute = key.rpartition(".")[2]
                raise ConfigError(
                    f"{key}: {name} does not ask for it, so that it would be without effect; use "
                    f"given.{attribute} there, or remove it here"
                )
        if inner.batch_size and not draws_minibatches:
            raise ConfigError(
                f"inner.batch_size: {name} returns `train` as a function, which makes its own "
                f"batches, so that {inner.batch_size} would be without effect; remove it here"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class OwnTask:
    """A problem of one's own, with all that a run needs of it.

    Every outer step, and every fresh seed that judges, has keys of its own: new initial weights,
    new minibatches and, with `num_valid`, a new validation set.

    Attributes:
        problem: Inner loss, outer loss and inner optimizer.
        hparams: The hyperparameters that tuning starts from, a pytree of floating-point arrays.
        init: `key -> initial weights`.
        train: The training examples, a pytree of arrays with the same leading axis, of which each
            step of training gets `inner.batch_size` drawn anew, or all where that is unset. Or a
            function `key -> inner batches`, for everything else that a hypergradient takes.
        valid: What the outer loss is taken on: a pytree of arrays, or a function `key -> batch`,
            which gets the same key as `train`.
        num_valid: In place of `valid`: how many of `train` are held out for it, drawn anew.
        test: What `metrics` are taken on, a pytree of arrays.
        metrics: `(params, hparams, test) -> {name: scalar}` of the trained weights, with the
            keyword `model_state` where there is one. Less is taken for better, but for
            "test_accuracy". The names `outer_loss`, `step`, `seconds` and `finite` are taken.
        init_model_state: `key -> initial model state`, for models with one.
        project: Takes hyperparameters back to where they are allowed.

    Raises:
        TypeError: If an argument is not of its kind.
        ValueError: If the validation set is given twice, or not at all.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> import drmad_jax as dj
        >>> loss = lambda w, h, batch: jnp.mean((batch[0] @ w - batch[1]) ** 2)
        >>> ridge = lambda w, h, batch: loss(w, h, batch) + jnp.exp(h) * jnp.sum(w**2)
        >>> x = jax.random.normal(jax.random.key(0), (20, 3))
        >>> task = OwnTask(
        ...     problem=dj.Problem(ridge, loss, optax.sgd(0.1)),
        ...     hparams=jnp.float32(-4.0),
        ...     init=lambda key: jnp.zeros(3),
        ...     train=(x, x[:, 0]),
        ...     num_valid=5,
        ... )
    """

    problem: dj.Problem
    hparams: PyTree
    init: Callable[[Array], PyTree]
    train: PyTree | Callable[[Array], PyTree]
    valid: PyTree | Callable[[Array], PyTree] = None
    num_valid: int = 0
    test: PyTree = None
    metrics: Callable[..., Mapping[str, Float[Array, ""]]] | None = None
    init_model_state: Callable[[Array], PyTree] | None = None
    project: Callable[[PyTree], PyTree] | None = None

    def __post_init__(self):
        if not isinstance(self.problem, dj.Problem):
            raise TypeError(f"OwnTask: `problem` must be a dj.Problem, got {_kind(self.problem)}")
        for name in ("init", "metrics", "init_model_state", "project"):
            value = getattr(self, name)
            if not callable(value) and (value is not None or name == "init"):
                raise TypeError(f"OwnTask: `{name}` must be a function, got {_kind(value)}")
        if type(self.num_valid) is not int or self.num_valid < 0:
            raise TypeError(
                f"OwnTask: `num_valid` must be an integer from 0, got {self.num_valid!r}"
            )
        if (self.valid is None) == (self.num_valid == 0):
            raise ValueError("OwnTask: expected one of `valid` and `num_valid`")
        for name in ("train", "valid", "test"):
            _check_examples(name, getattr(self, name), is_train=name == "train")
        if self.num_valid:
            _check_rest(self.train, self.num_valid)


def _check_examples(name: str, value: Any, *, is_train: bool) -> None:
    if callable(value) and name != "test":
        return
    for leaf in jax.tree.leaves(value):
        if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
            raise TypeError(f"OwnTask: `{name}` must hold arrays, got {_kind(leaf)}")
    if not is_train:
        return
    sizes = sorted({leaf.shape[0] if leaf.ndim else 0 for leaf in jax.tree.leaves(value)})
    if len(sizes) != 1 or sizes[0] == 0:
        raise ValueError(
            "OwnTask: the arrays of `train` must have the same leading axis, one entry for each "
            f"example, got {', '.join(map(str, sizes)) or 'none'}"
        )


def _check_rest(train: Any, num_valid: int) -> None:
    if callable(train):
        raise ValueError("OwnTask: `num_valid` needs examples as `train`, got a function")
    count = jax.tree.leaves(train)[0].shape[0]
    if num_valid >= count:
        raise ValueError(
            f"OwnTask: `num_valid` must leave training examples of {count}, got {num_valid}"
        )


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
