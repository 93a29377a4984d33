import copy
import os

import jax
import pytest
from tiny import TINY

from drmad_jax.experiments.runs import loop

USER_SETTINGS = {
    "jax_disable_most_optimizations": False,
    "jax_enable_x64": False,
    "jax_numpy_rank_promotion": "allow",
    "jax_numpy_dtype_promotion": "standard",
}


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    return str(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(scope="module", autouse=True)
def user_settings(compiled):
    """JAX as users have it, not strict as the core's tests set it; and a compilation cache.

    Most of these tests compile the same step, and so do the processes that they start.
    """
    cache = {
        "jax_compilation_cache_dir": compiled,
        "jax_persistent_cache_min_compile_time_secs": 0.5,
    }
    before = {name: jax.config.values[name] for name in USER_SETTINGS | cache}
    for name, value in (USER_SETTINGS | cache).items():
        jax.config.update(name, value)
    os.environ |= {name.upper(): str(value) for name, value in cache.items()}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    for name in cache:
        del os.environ[name.upper()]


@pytest.fixture
def tiny():
    return copy.deepcopy(TINY)


@pytest.fixture(scope="module")
def compiled_once():
    """Runs differ in their folder alone: what is compiled and read for one serves the others."""
    make, made = loop._Loop, {}

    def cached(config, folder):
        first = made.setdefault("loop", None) or make(config, folder)
        made["loop"] = first
        again = copy.copy(first)
        again.folder = folder
        return again

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_Loop", cached)
        yield
