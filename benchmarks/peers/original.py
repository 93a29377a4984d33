"""The original exact reversal and the original DrMAD, transcribed: eager NumPy and autograd.

Maclaurin, Duvenaud, Adams 2015 and Fu et al. 2016 ran this in Python 2: 64-bit integers for weights
and velocity, one unbounded Python integer a weight for the bits that momentum cuts off, and a
gradient program that is traced again at every call. Their convention: v ← γ v − (1−γ) g and
w ← w + α v.
"""

import functools
import math
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import autograd.numpy as anp
import numpy as np
from autograd import grad

from benchmarks.peers.subject import Answer, Case, Prepared

RADIX_SCALE = 2**52
DENOMINATOR = 2**16


class BitStore:
    """What was cut off: one Python integer a number, in a NumPy array of objects."""

    def __init__(self, length: int):
        self.store = np.array([0] * length, dtype=object)

    def push(self, digits: np.ndarray, base: int) -> None:
        """Stores integers 0 ≤ digit < base."""
        self.store *= base
        self.store += digits

    def pop(self, base: int) -> np.ndarray:
        """Takes back what was stored last."""
        found = self.store % base
        self.store //= base
        return found.astype(np.int64)

    def bits(self) -> int:
        """Bits in use, of all numbers."""
        return sum(number.bit_length() for number in self.store)

    def bytes(self) -> int:
        """Bytes of the integers and of the array that points to them."""
        return self.store.nbytes + sum(map(sys.getsizeof, self.store))


class ExactRep:
    """Fixed-point numbers whose sums and products can be undone exactly."""

    def __init__(self, values: np.ndarray):
        self.integers = self._to_integers(values)
        self.aux = BitStore(len(values))

    @property
    def values(self) -> np.ndarray:
        """The numbers in float64."""
        return self.integers.astype(np.float64) / RADIX_SCALE

    def add(self, values: np.ndarray) -> None:
        """Adds; adding the negative undoes it."""
        self.integers += self._to_integers(values)

    def multiply(self, numerator: int, denominator: int) -> None:
        """Multiplies by a ratio; the inverse ratio undoes it."""
        self.aux.push(self.integers % denominator, denominator)
        self.integers //= denominator
        self.integers *= numerator
        self.integers += self.aux.pop(numerator)

    @staticmethod
    def _to_integers(values: np.ndarray) -> np.ndarray:
        return (values * RADIX_SCALE).astype(np.int64)


class Setting(NamedTuple):
    """A case as flat float64 vectors, with the derivatives that the originals take."""

    weights: np.ndarray  # initial weights and biases of all layers
    log_l2: np.ndarray
    alpha: float  # step size in the originals' convention
    gamma: float
    num_steps: int
    gradient: Callable  # (w, λ, t) -> ∂L/∂w
    hessian_product: Callable  # (w, λ, u, t) -> ∂/∂w (∂L/∂w · u)
    mixed_product: Callable  # (w, λ, u, t) -> ∂/∂λ (∂L/∂w · u)
    outer: Callable  # outer loss of the weights


def setting(case: Case) -> Setting:
    """The case for the originals."""
    shapes = [layer["w"].shape for layer in case.params]
    flat = [np.concatenate([layer["w"].ravel(), layer["b"]]) for layer in case.params]
    wide = lambda arrays: np.concatenate(arrays).astype(np.float64)
    train_x, valid_x = (np.float64(data["x"]) for data in (case.train, case.valid))

    def inner(weights, log_l2, t):
        rows = case.indices[t]
        loss = _cross_entropy(weights, shapes, train_x[rows], case.train["y"][rows])
        return loss + _penalty(weights, log_l2, shapes)

    gradient = grad(inner)
    projection = lambda weights, log_l2, vector, t: anp.dot(gradient(weights, log_l2, t), vector)
    return Setting(
        weights=wide(flat),
        log_l2=wide(case.hparams),
        alpha=case.step_size / (1 - case.momentum),
        gamma=case.momentum,
        num_steps=case.num_steps,
        gradient=gradient,
        hessian_product=grad(projection, 0),
        mixed_product=grad(projection, 1),
        outer=lambda weights: _cross_entropy(weights, shapes, valid_x, case.valid["y"]),
    )


def exact(case: Case) -> Prepared:
    """The hypergradient by exact reversal."""
    given = setting(case)
    # The ratio that stands for a momentum below one: the next above it, or the same.
    ratio, share = (math.ceil(given.gamma * DENOMINATOR), DENOMINATOR), 1 - given.gamma

    def call() -> Answer:
        start = ExactRep(given.weights).integers
        weights, velocity = ExactRep(given.weights), ExactRep(np.zeros_like(given.weights))
        clock = [time.process_time()]
        for t in range(given.num_steps):
            slope = given.gradient(weights.values, given.log_l2, t)
            velocity.multiply(*ratio)
            velocity.add(-share * slope)
            weights.add(given.alpha * velocity.values)
            clock.append(time.process_time())
        value, kept = given.outer(weights.values), velocity.aux
        extra = {
            "bits per weight and step": kept.bits() / len(start) / given.num_steps,
            "buffer_bytes": 2 * start.nbytes + kept.bytes(),
        }

        def undo(t: int) -> np.ndarray:
            clock.append(time.process_time())
            weights.add(-given.alpha * velocity.values)
            slope = given.gradient(weights.values, given.log_l2, t)
            velocity.add(share * slope)
            velocity.multiply(*ratio[::-1])
            return weights.values

        d_log_l2 = _reverse(given, weights.values, range(given.num_steps), undo)
        same = np.array_equal(weights.integers, start)
        same = same and not velocity.integers.any() and not kept.store.any()
        extra |= {"reversed to the bit": bool(same), "step": _growth(clock, given.num_steps)}
        return Answer(float(value), d_log_l2, extra)

    return Prepared(call)


def drmad(case: Case, *, tenth: bool) -> Prepared:
    """The hypergradient along the line, by T/10 reverse steps as its authors, or by all T."""
    given = setting(case)
    count = given.num_steps // 10 if tenth else given.num_steps
    beta = np.linspace(0.001, 0.999, count)

    def call() -> Answer:
        final = _train(given)
        point = lambda t: (1 - beta[t]) * given.weights + beta[t] * final
        d_log_l2 = _reverse(given, final, range(count), point)
        return Answer(float(given.outer(final)), d_log_l2, {"buffer_bytes": 2 * final.nbytes})

    return Prepared(call)


def training(case: Case) -> Prepared:
    """Training alone, in float64."""
    given = setting(case)
    return Prepared(lambda: Answer(float(given.outer(_train(given))), None))


def _train(given: Setting) -> np.ndarray:
    weights, velocity = given.weights, np.zeros_like(given.weights)
    for t in range(given.num_steps):
        slope = given.gradient(weights, given.log_l2, t)
        velocity = velocity * given.gamma - (1 - given.gamma) * slope
        weights = weights + given.alpha * velocity
    return weights


def _reverse(given: Setting, final: np.ndarray, steps: range, point: Callable) -> np.ndarray:
    """The reverse pass that both have, on the points of their paths."""
    d_weights, d_velocity = grad(given.outer)(final), np.zeros_like(final)
    d_log_l2, share = np.zeros_like(given.log_l2), 1 - given.gamma
    for t in reversed(steps):
        weights = point(t)
        d_velocity = d_velocity + given.alpha * d_weights
        image = given.hessian_product(weights, given.log_l2, d_velocity, t)
        mixed = given.mixed_product(weights, given.log_l2, d_velocity, t)
        d_weights, d_log_l2 = d_weights - share * image, d_log_l2 - share * mixed
        d_velocity = d_velocity * given.gamma
    return d_log_l2


def _growth(clock: list[float], num_steps: int) -> dict[str, float]:
    """Processor seconds of step t, both ways, as a line in t: its integers grow with t."""
    there, back = np.diff(clock[: num_steps + 1]), np.diff(clock[num_steps + 1 :])
    # Each mark of the way back begins a step, and the last of them has no end.
    slope, start = np.polyfit(np.arange(1, num_steps), there[1:] + back[::-1], 1)
    return {"seconds at 0": float(start), "seconds for each step before": float(slope)}


def _layers(weights, shapes):
    place = 0
    for rows, columns in shapes:
        middle, end = place + rows * columns, place + rows * columns + columns
        yield weights[place:middle].reshape(rows, columns), weights[middle:end]
        place = end


def _cross_entropy(weights, shapes, x, y):
    layers = list(_layers(weights, shapes))
    for weight, bias in layers[:-1]:
        x = anp.tanh(anp.dot(x, weight) + bias)
    logits = anp.dot(x, layers[-1][0]) + layers[-1][1]
    logits = logits - anp.max(logits, axis=1, keepdims=True)
    log_sums = anp.log(anp.sum(anp.exp(logits), axis=1))
    return anp.mean(log_sums - logits[anp.arange(len(y)), y])


def _penalty(weights, log_l2, shapes):
    total, place = 0.0, 0
    for weight, _ in _layers(weights, shapes):
        strength = anp.exp(log_l2[place : place + len(weight)])
        total, place = total + anp.sum(strength[:, None] * weight**2), place + len(weight)
    return total


FORMS = {
    "original, exact reversal": exact,
    "original, DrMAD, T/10 steps": functools.partial(drmad, tenth=True),
    "original, DrMAD, T steps": functools.partial(drmad, tenth=False),
    "original, plain training": training,
}
