"""Segments in dense float64 NumPy, written from their equations, all derivatives by hand.

With weights θ = (w, b), L(θ, λ) = mean e^ω (½ r² + ¼ r⁴) + Σ e^ρ (½ w² + ¼ w⁴) over examples and
weights, r = tanh(s (x·w + b)) − y: a Hessian that depends on the weights and is not always
positive. λ: log example weights ω, log penalties ρ, slope s; inside the optimizer step size α,
momentum γ, decoupled decay κ; and the log scale of the initial weights.
"""

import itertools
from typing import NamedTuple

import numpy as np

NUM_WEIGHTS = 3
LEAVES = {"w": slice(0, NUM_WEIGHTS), "b": slice(NUM_WEIGHTS, NUM_WEIGHTS + 1)}
TARGET = np.array([0.5, -1.0, 0.2, 0.3])
# Above this relative distance gradients do not move the weights as their mean does.
LARGEST_APART = 0.1
# The flow within a segment is followed in so many pieces.
NUM_PIECES = 20


class Derivatives(NamedTuple):
    """Of the inner loss at one point: g, C, and ∂g/∂λ for each λ, one column an entry."""

    gradient: np.ndarray
    curvature: np.ndarray
    mixed: dict


def derivatives(theta, h, batch, gauss_newton=False):
    """On one batch."""
    x = np.column_stack([batch["x"], np.ones(len(batch["y"]))])
    w, penalty, s = theta[:NUM_WEIGHTS], np.exp(h["log_l2"]), h["slope"]
    z = x @ theta
    f = np.tanh(s * z)
    r, flat = f - batch["y"], 1 - f**2
    a = np.exp(h["log_weight"])[batch["i"]] / len(f)
    slope, bend = s * flat, 0 if gauss_newton else -2 * s**2 * f * flat
    each = a * (r + r**3) * slope
    gradient = x.T @ each + np.append(penalty * (w + w**3), 0)
    curvature = x.T @ np.diag(a * ((1 + 3 * r**2) * slope**2 + (r + r**3) * bend)) @ x
    curvature += np.diag(np.append(penalty * (1 + 3 * w**2), 0))
    by_weight = np.zeros((len(theta), len(h["log_weight"])))
    np.add.at(by_weight.T, batch["i"], each[:, None] * x)
    by_slope = (1 + 3 * r**2) * z * flat * slope + (r + r**3) * flat * (1 - 2 * s * z * f)
    by_penalty = np.vstack([np.diag(penalty * (w + w**3)), np.zeros(NUM_WEIGHTS)])
    mixed = {
        "log_l2": by_penalty,
        "log_weight": by_weight,
        "slope": (x.T @ (a * by_slope))[:, None],
    }
    return Derivatives(gradient, curvature, mixed)


def averaged(theta, h, batches, gauss_newton):
    """The mean over some batches."""
    each = [derivatives(theta, h, batch, gauss_newton) for batch in batches]
    mixed = {name: np.mean([d.mixed[name] for d in each], axis=0) for name in each[0].mixed}
    return Derivatives(*(np.mean([d[k] for d in each], axis=0) for k in (0, 1)), mixed)


class Derivative(NamedTuple):
    """Of an optimizer's step (u, s'): all that is needed of it is diagonal.

    Attributes:
        u_g: ∂u/∂g.
        s_g: ∂s'/∂g, one for each moment.
        u_s: ∂u/∂s.
        u_h: ∂u/∂λ by name.
        s_h: ∂s'/∂λ by name, one for each moment.
    """

    u_g: np.ndarray
    s_g: list
    u_s: list
    u_h: dict
    s_h: dict


class SGD:
    """u = −α (γ m + g + κ θ), m the trace of gradients before the step."""

    num_moments, linear = 1, True

    def step(self, theta, moments, step, g, h):
        """The update and the moments after it."""
        trace = h["momentum"] * moments[0] + g
        return -h["lr"] * (trace + h.get("decay", 0) * theta), [trace]

    def kept(self, h):
        """How much of each moment stays in a step."""
        return [h["momentum"]]

    def derivative(self, theta, moments, step, g, h):
        """At one point."""
        one, update = np.ones_like(theta), self.step(theta, moments, step, g, h)[0]
        by = {
            "lr": update / h["lr"],
            "momentum": -h["lr"] * moments[0],
            "decay": -h["lr"] * theta,
        }
        new_by = {"momentum": [moments[0]]}
        return Derivative(-h["lr"] * one, [one], [-h["lr"] * h["momentum"] * one], by, new_by)


class Adam:
    """u = −α (m̂ / (√(v̂ + ε̄) + ε) + κ θ); β₁ is the momentum."""

    num_moments, linear = 2, False
    b2, eps, eps_root = 0.999, 1e-8, 1e-2

    def _at(self, moments, step, g, h):
        b1, b2 = h["momentum"], self.b2
        m, v = b1 * moments[0] + (1 - b1) * g, b2 * moments[1] + (1 - b2) * g**2
        c1, c2 = 1 - b1 ** (step + 1), 1 - b2 ** (step + 1)
        root = np.sqrt(v / c2 + self.eps_root)
        return m, v, c1, c2, root

    def step(self, theta, moments, step, g, h):
        """The update and the moments after it."""
        m, v, c1, _, root = self._at(moments, step, g, h)
        return -h["lr"] * (m / c1 / (root + self.eps) + h["decay"] * theta), [m, v]

    def kept(self, h):
        """How much of each moment stays in a step."""
        return [h["momentum"], self.b2]

    def derivative(self, theta, moments, step, g, h):
        """At one point."""
        m, _, c1, c2, root = self._at(moments, step, g, h)
        b1, b2, whole = h["momentum"], self.b2, root + self.eps
        u_m = -h["lr"] / c1 / whole
        u_v = h["lr"] / c1 * m / c2 / (2 * root * whole**2)
        s_g = [(1 - b1) * np.ones_like(g), 2 * (1 - b2) * g]
        grown = (moments[0] - g) / c1 + m * (step + 1) * b1**step / c1**2
        by = {
            "lr": self.step(theta, moments, step, g, h)[0] / h["lr"],
            "momentum": -h["lr"] * grown / whole,
            "decay": -h["lr"] * theta,
        }
        new_by = {"momentum": [moments[0] - g, 0 * g]}
        u_g = u_m * s_g[0] + u_v * s_g[1]
        return Derivative(u_g, s_g, [u_m * b1, u_v * b2], by, new_by)


class Plan(NamedTuple):
    """What is asked for: `path` "means", or a number of knots."""

    num_steps: int
    num_segments: int
    path: str | int
    gauss_newton: bool
    num_batches: int
    each_step: bool = True

    def edges(self):
        """T(1 − u²), u from 1 to 0. All segments must be odd: then their middle is a step."""
        edges = np.rint(self.num_steps * (1 - np.linspace(1, 0, self.num_segments + 1) ** 2))
        assert np.all(np.diff(edges) % 2 == 1)
        return edges.astype(int)


def train(optimizer, theta, h, batches, num_steps):
    """States before every step and after the last, each a row: weights, then moments."""
    moments, states = [np.zeros_like(theta)] * optimizer.num_moments, []
    for t in range(num_steps):
        states.append([theta, *moments])
        g = derivatives(theta, h, at(batches, t)).gradient
        update, moments = optimizer.step(theta, moments, t, g, h)
        theta = theta + update
    return np.array([*states, [theta, *moments]])


def at(batches, step):
    """The batch of one step."""
    return {name: leaf[step] for name, leaf in batches.items()}


def stand_in(plan, states, low, high):
    """The state that stands for the steps from `low` to before `high`."""
    if plan.path == "means":
        return states[low:high].mean(axis=0)
    knots = np.rint(plan.num_steps * np.linspace(0, 1, plan.path) ** 2).astype(int)
    middle = (low + high - 1) // 2
    k = np.searchsorted(knots, middle, side="right") - 1
    beta = (middle - knots[k]) / (knots[k + 1] - knots[k])
    state = (1 - beta) * states[knots[k]] + beta * states[knots[k + 1]]
    if plan.path == 2:
        # On the line the optimizer's state is the last one.
        state[1:] = states[-1, 1:]
    return state


def flow(curvature, response, decay, z, length):
    """exp(−n(CP + D)⁺) z, its integral from a to b, and the spectrum, symmetrised by √P."""
    root = np.sqrt(response)
    values, vectors = np.linalg.eigh(root[:, None] * curvature * root + decay * np.eye(len(z)))
    positive = np.maximum(values, 0)
    safe = np.where(positive > 0, positive, 1)
    apply = lambda factors: vectors @ (factors * (vectors.T @ (root * z))) / root

    def integral(a, b):
        decayed = np.exp(-a * positive) - np.exp(-b * positive)
        return apply(np.where(positive > 0, decayed / safe, b - a))

    return apply(np.exp(-length * positive)), integral, values


def lasting_response(at_batch, at_mean, kept, num_others):
    """P: by how much a gradient that is larger by one for one more than so many steps moves w."""
    sums = [sum(r**j for j in range(num_others)) for r in kept]
    lasting = sum(s * n * c for s, n, c in zip(at_batch.s_g, sums, at_mean.u_s, strict=True))
    return -(at_batch.u_g + lasting)


def series(kept, later, given, count):
    """Σ over steps of what later ones gave to the state after each, and to that before them."""
    inside = [np.zeros_like(c) for c in given]
    for _ in range(count):
        inside = [x + y for x, y in zip(inside, later, strict=True)]
        later = [r * x + c for r, x, c in zip(kept, later, given, strict=True)]
    return inside, later


def bent(optimizer, steps, gradients, theta, moments, h):
    """Whether the gradients of some batches move the weights otherwise than their mean does."""
    move = lambda t, g: optimizer.step(theta, moments, t, g, h)[0]
    each = sum(move(t, g) for t, g in zip(steps, gradients, strict=True))
    together = sum(move(t, np.mean(gradients, axis=0)) for t in steps)
    return np.linalg.norm(each - together) >= LARGEST_APART * np.linalg.norm(each)


def terms(there, mixed, summed, inside):
    """(∂(u, s')/∂λ)ᵀ (W̄, S̄) by name, and through the gradient where it depends on λ."""
    found = {name: change @ summed for name, change in there.u_h.items()}
    for name, changes in there.s_h.items():
        found[name] += sum(change @ x for change, x in zip(changes, inside, strict=False))
    through = there.u_g * summed + sum(s * x for s, x in zip(there.s_g, inside, strict=True))
    return found | {name: matrix.T @ through for name, matrix in mixed.items()}


def hypergradient(plan, optimizer, theta, h, batches):
    """dE/dλ and dE/dθ_0 by name, the final weights, and each segment's spectrum."""
    theta = np.exp(h["log_scale"]) * theta
    states = train(optimizer, theta, h, batches, plan.num_steps)
    final, edges = states[-1, 0], plan.edges()
    z = final - TARGET
    grad = {name: np.zeros(np.size(value)) for name, value in h.items()}
    grad["log_l2"] += 0.1
    spectra, later = [], [np.zeros_like(z)] * optimizer.num_moments
    for low, high in reversed(list(itertools.pairwise(edges))):
        length = high - low
        offsets = (0.5 + np.arange(plan.num_batches) * (5**0.5 - 1) / 2) % 1
        places = (np.arange(plan.num_batches) + offsets) / plan.num_batches
        steps = low + (places * length).astype(int)
        taken = [at(batches, t) for t in steps]
        weights, *moments = stand_in(plan, states, low, high)
        here = averaged(weights, h, taken, plan.gauss_newton)
        # What remembers gradients meets their mean; clipping, say, the gradient of one batch.
        local = lambda t, g, w=weights, m=moments: optimizer.derivative(w, m, t, g, h)
        gradients = [derivatives(weights, h, batch).gradient for batch in taken]
        kept, mean = optimizer.kept(h), here.gradient
        response = np.mean(
            [
                lasting_response(local(t, g), local(t, mean), kept, t)
                for t, g in zip(steps, gradients, strict=True)
            ],
            axis=0,
        )
        response = np.maximum(response, 0)
        decay = h["lr"] * h.get("decay", 0)
        z, integral, values = flow(here.curvature, response, decay, z, length)
        spectra.append(values)
        num_pieces = min(length, NUM_PIECES) if plan.each_step else plan.num_batches
        size, larger = divmod(length, num_pieces)
        index = np.arange(num_pieces + 1)
        borders = low + index * size + np.minimum(index, larger)
        if not plan.each_step:
            for name, matrix in here.mixed.items():
                grad[name] -= matrix.T @ (response * integral(0, length))
        is_bent = bent(optimizer, steps, gradients, weights, moments, h)
        for piece in reversed(range(num_pieces)):
            begin, end = borders[piece : piece + 2]
            count, summed = end - begin, integral(high - end, high - begin)
            middle = begin + count // 2 if plan.each_step else steps[piece]
            given = [c * summed / max(count, 1) for c in local(middle, mean).u_s]
            inside, later = series(kept, later, given, count)
            of_piece = range(begin, end) if plan.each_step else [middle]
            share = 1 / max(len(of_piece), 1)
            for t in of_piece:
                batch = derivatives(weights, h, at(batches, t))
                met = not optimizer.linear and (plan.each_step or is_bent)
                there = local(t, batch.gradient if met else mean)
                mixed = batch.mixed if plan.each_step else {}
                for name, term in terms(there, mixed, summed, inside).items():
                    if name in h:
                        grad[name] += share * term
    grad["log_scale"] += z @ theta
    return grad, z * np.exp(h["log_scale"]), final, spectra
