"""Linear solvers against dense solves, on any pytree."""

import functools

import jax
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from drmad_jax.methods.linear_solve import ConjugateGradient, NeumannSeries, Nystrom
from regression import relative_error

TREES = {
    "array": np.zeros(12),
    "nested": {"a": (np.zeros((2, 3)), np.zeros(())), "b": [np.zeros((5, 1))]},
}
KEY = jax.random.key(7)
RNG = np.random.default_rng(0)


def dense_error(solver, like, condition, damping):
    """Relative error of a solver's solution against the dense one."""
    basis, _ = np.linalg.qr(RNG.standard_normal((12, 12)))
    a = basis @ np.diag(np.geomspace(1 / condition, 1.0, 12)) @ basis.T
    rhs = RNG.standard_normal(12)

    @jax.jit
    def solve(rhs, key):
        flat, unravel = ravel_pytree(rhs)
        product = lambda v: unravel(a @ ravel_pytree(v)[0])
        return solver(product, rhs, damping=damping, key=key)

    leaves, structure = jax.tree.flatten(like)
    parts = np.split(rhs, np.cumsum([leaf.size for leaf in leaves])[:-1])
    shaped = [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)]
    x, count = solve(jax.tree.unflatten(structure, shaped), KEY)
    return relative_error(x, np.linalg.solve(a + damping * np.eye(12), rhs)), int(count)


@pytest.mark.parametrize("tree", sorted(TREES))
@pytest.mark.parametrize(
    ("solver", "damping"),
    [
        (ConjugateGradient(tolerance=1e-10), 0.0),
        (ConjugateGradient(tolerance=1e-10), 0.1),
        (NeumannSeries(num_terms=1000, step_size=1.0), 0.0),
        (NeumannSeries(num_terms=1000), 0.1),
        (Nystrom(rank=12), 0.1),
    ],
)
def test_solvers_equal_a_dense_solve_on_any_tree(tree, solver, damping):
    assert dense_error(solver, TREES[tree], 20.0, damping)[0] < 1e-6


def test_conjugate_gradient_needs_no_more_iterations_than_dimensions():
    error, count = dense_error(ConjugateGradient(tolerance=1e-9), TREES["nested"], 20.0, 0.0)
    assert error < 1e-6 and count <= 12


def test_damping_makes_an_ill_conditioned_system_easy():
    solver = ConjugateGradient(max_iterations=40, tolerance=1e-10)
    assert dense_error(solver, TREES["nested"], 1e12, 0.0)[0] > 1e-3
    assert dense_error(solver, TREES["nested"], 1e12, 1e-2)[0] < 1e-6


def test_nystrom_finds_a_matrix_of_low_rank():
    vectors = RNG.standard_normal((200, 3))
    product = lambda v: vectors @ (vectors.T @ v)
    solve = jax.jit(functools.partial(Nystrom(rank=6), product, damping=0.1))
    x, count = solve(np.ones(200), key=KEY)
    exact = np.linalg.solve(vectors @ vectors.T + 0.1 * np.eye(200), np.ones(200))
    assert relative_error(x, exact) < 1e-6 and int(count) == 6
