"""A program that is compiled, and then timed."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


class Program:
    """A function that is compiled before it is timed, and the seconds of its calls.

    Attributes:
        name: What it is called.
        compile_seconds: What tracing, lowering and compiling took.
    """

    def __init__(self, name: str, function: Callable[..., Any], repeats: int = 1):
        self.name, self.compile_seconds = name, 0.0
        self._function, self._repeats = jax.jit(function), repeats
        self._compiled: Any = None
        self._times: list[float] = []

    def compile(self, *args: Any, **options: Any) -> None:
        """Compiles it for arguments like these.

        Raises:
            ValueError: As the function does when it is traced, with the program's name.
        """
        start = time.perf_counter()
        try:
            lowered = self._function.lower(*args, **options)
        except ValueError as error:
            raise ValueError(f"compare: {self.name}: {error}") from error
        self._compiled = lowered.compile()
        self.compile_seconds = time.perf_counter() - start

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Calls it, `repeats` times by the clock and before the first time once without."""
        if not self._times:
            jax.block_until_ready(self._compiled(*args, **options))
        out = None
        for _ in range(self._repeats):
            start = time.perf_counter()
            out = jax.block_until_ready(self._compiled(*args, **options))
            self._times.append(time.perf_counter() - start)
        return out

    def untimed(self, *args: Any, **options: Any) -> Any:
        """Calls it by no clock."""
        return self._compiled(*args, **options)

    @property
    def seconds(self) -> float:
        """Median of the timed calls."""
        return statistics.median(self._times)

    @property
    def temporary_bytes(self) -> int | None:
        """What it needs beside arguments and results, where the compiler tells."""
        analysis = self._compiled.memory_analysis()
        return None if analysis is None else analysis.temp_size_in_bytes
