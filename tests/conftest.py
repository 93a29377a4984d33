import jax
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
# Compiling takes most of the tests' time, and this halves it.
jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module")
def optimised():
    """XLA's optimisations on, as users have them, for modules that depend on how sums round."""
    jax.config.update("jax_disable_most_optimizations", False)
    # What is compiled already would be taken as it is.
    jax.clear_caches()
    yield
    jax.config.update("jax_disable_most_optimizations", True)
    jax.clear_caches()


# Annotated shapes and dtypes are checked wherever the tests go. The modules that users' arguments
# enter first are left out: there our own errors must speak.
CHECKED = [
    "fixed_point.blocks",
    "fixed_point.buffer",
    "fixed_point.numbers",
    "fixed_point.step",
    "methods.directions",
    "reverse.paths",
    "reverse.steps",
    "training.curvature",
    "training.run",
    "training.step",
    "training.tangents",
    "tree",
]
install_import_hook([f"drmad_jax.{name}" for name in CHECKED], "beartype.beartype")


def pytest_configure(config):
    # The problems that most tests share have a learning rate, which `drmad` says it gets wrong;
    # test_resolved.py holds it to saying so.
    said = "ignore:hyperparameters inside the optimizer:UserWarning"
    config.addinivalue_line("filterwarnings", said)
    # Chains that segments do not fit are in the lists of all; test_stretches.py holds them to this.
    said = "ignore:.*the whole run is taken back exactly:UserWarning"
    config.addinivalue_line("filterwarnings", said)
