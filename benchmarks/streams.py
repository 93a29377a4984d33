"""Whether the device waits for a stream of batches, and what of it stays on the host.

    python -m benchmarks.streams

Batches of 4 MB are made up as they go, and come once; `drmad()` trains on them in chunks
(`drmad_jax.in_chunks`), and goes back. The device is busy for as long as the same run takes on a
batch that lies there already, over as long as the stream takes. Then one long run of over 10 GB,
with the process's memory on the way.
"""

import statistics
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import drmad_jax as dj
from benchmarks.pages import Benchmark, Claim, Results, Verdict, table
from benchmarks.records import write_record
from benchmarks.resident import resident_bytes

EXAMPLES, WIDTH, CLASSES = 1000, 1000, 10
SHORT, LONG, CHUNK, ROUNDS = 600, 2600, 20, 3
RESIDENT, AHEAD, ASKED = (
    "on the device already",
    "a stream, fetched ahead",
    "fetched when asked for",
)


def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
    """The batch of a step, made up."""
    rng = np.random.default_rng(step)
    x = np.roll(_examples(), int(rng.integers(WIDTH)), axis=1)
    return x, rng.integers(0, CLASSES, EXAMPLES, dtype=np.int32)


def stream() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All batches, once."""
    step = 0
    while True:
        yield batch(step)
        step += 1


_kept: list[np.ndarray] = []


def _examples() -> np.ndarray:
    if not _kept:
        rng = np.random.default_rng(0)
        _kept.append(rng.normal(size=(EXAMPLES, WIDTH)).astype(np.float32))
    return _kept[0]


def problem() -> tuple[dj.Problem, Any, Any]:
    """A network, its log penalties, and its weights."""
    layers = (WIDTH, 400, 400, CLASSES)
    rng = np.random.default_rng(1)
    params = [
        {"w": rng.normal(size=(a, b)).astype(np.float32) / a**0.5, "b": np.zeros(b, np.float32)}
        for a, b in zip(layers[:-1], layers[1:], strict=True)
    ]

    def fit(params, hparams, batch):
        x, labels = batch
        for layer in params[:-1]:
            x = jnp.tanh(x @ layer["w"] + layer["b"])
        logits = x @ params[-1]["w"] + params[-1]["b"]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    def loss(params, hparams, batch):
        squares = [jnp.sum(layer["w"] ** 2) for layer in params]
        return fit(params, hparams, batch) + jnp.dot(jnp.exp(hparams), jnp.stack(squares))

    optimizer = optax.sgd(0.02, momentum=0.9)
    return dj.Problem(loss, fit, optimizer), np.full(len(params), -7, np.float32), params


def short_runs() -> dict[str, list[float]]:
    """Seconds of each way to get batches, by rounds, in turn."""
    made, hparams, params = problem()
    lies = jax.tree.map(jnp.asarray, batch(0))
    # As the batches of a chunk lie there.
    stacked = jax.tree.map(lambda x: jnp.stack([x] * CHUNK), lies)
    ready = jax.tree_util.Partial(
        lambda stacked, step: jax.tree.map(lambda x: x[step % CHUNK], stacked), stacked
    )
    method = dj.drmad()
    chunks = dj.in_chunks(made, num_steps=SHORT, method=method, chunk_size=CHUNK)
    whole = jax.jit(dj.hypergradient(made, num_steps=SHORT, method=method))
    asked = dj.host_batches(batch)
    calls = {
        RESIDENT: lambda: chunks(hparams, params, ready, lies),
        AHEAD: lambda: chunks(hparams, params, stream(), lies),
        ASKED: lambda: whole(hparams, params, asked, lies),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(1 + ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            jax.block_until_ready(call())
            took = time.perf_counter() - start
            print(number, name, round(took, 2), flush=True)
            # The first one compiles.
            if number:
                seconds[name].append(round(took, 3))
    return seconds


def long_run() -> dict[str, Any]:
    """Memory of the process on the way, in bytes."""
    made, hparams, params = problem()
    at: dict[str, int] = {}

    def note(progress: dj.Progress) -> None:
        tenth = 10 * progress.done // progress.total
        name = f"{progress.phase}, {tenth}/10"
        if name not in at:
            at[name] = resident_bytes()
            print(name, at[name] // 2**20, "MiB", flush=True)

    run = dj.in_chunks(made, num_steps=LONG, chunk_size=CHUNK, progress=note)
    out = run(hparams, params, stream(), batch(10**6))
    pieces = dj.in_pieces(made, num_steps=LONG)(
        hparams, params, dj.host_batches(batch), batch(10**6)
    )
    held = {int(step) for steps in pieces.reads for step in steps}
    of_one = sum(x.nbytes for x in batch(0))
    return {
        "stream_bytes": LONG * of_one,
        "held_batches": len(held),
        "held_bytes": len(held) * of_one,
        "finite": bool(out.info.finite),
        "resident_bytes": at,
    }


def main() -> None:
    results = {"steps": SHORT, "chunk": CHUNK, "seconds": short_runs(), "long": long_run()}
    print(write_record("streams", results))


def _busy(results: Results, name: str) -> list[float]:
    rounds = results["seconds"]
    return [a / b for a, b in zip(rounds[RESIDENT], rounds[name], strict=True)]


def _table(results: Results) -> str:
    """Seconds, and how long of them the device was busy; memory on a long way."""
    busy = lambda name: f"{100 * statistics.median(_busy(results, name)):.0f}%"
    lines = [
        (name, f"{statistics.median(seconds):.1f}", busy(name))
        for name, seconds in results["seconds"].items()
    ]
    found = results["long"]
    size = lambda count: f"{count / 2**30:.2f} GiB"
    memory = [(name, size(count)) for name, count in found["resident_bytes"].items()]
    return "\n".join(
        [
            table((f"batches ({results['steps']} steps)", "s", "device busy"), lines),
            f"A stream of {size(found['stream_bytes'])}, of which {found['held_batches']} batches "
            f"({size(found['held_bytes'])}) are held for the way back:\n",
            table(("where", "memory of the process"), memory),
        ]
    )


def _keeps_up(results: Results) -> Verdict:
    busy = statistics.median(_busy(results, AHEAD))
    return Verdict(f"{100 * busy:.0f}% of the time", busy >= 0.9)


def _is_flat(results: Results) -> Verdict:
    found = results["long"]
    at = found["resident_bytes"]
    grown = max(at.values()) - min(at.values())
    figure = f"{grown / 2**30:.2f} GiB more, {found['held_bytes'] / 2**30:.2f} GiB held"
    return Verdict(figure, found["finite"] and grown < 0.3 * found["stream_bytes"])


BENCHMARK = Benchmark(
    "streams",
    table=_table,
    claims=(
        Claim("The device is busy for 90% of a run on a stream of 4 MB a batch", _keeps_up),
        Claim("A stream of 10 GB takes less than a third of it on the host", _is_flat),
    ),
)

if __name__ == "__main__":
    main()
