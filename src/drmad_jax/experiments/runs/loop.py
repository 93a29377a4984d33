"""The run loop: compiles one outer step, repeats it, and keeps what it finds in a run folder."""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array, PyTree
from tqdm import tqdm

import drmad_jax as dj
from drmad_jax.experiments.config import Config
from drmad_jax.experiments.errors import RunStopped
from drmad_jax.experiments.files import say, tidy, write_json
from drmad_jax.experiments.metrics import REVERSE
from drmad_jax.experiments.processes import from_leader, leads
from drmad_jax.experiments.runs import outer_step, run_folder
from drmad_jax.experiments.runs.checkpoints import Checkpoint, restore_latest, save
from drmad_jax.experiments.runs.ended import summary_of_ended
from drmad_jax.experiments.runs.feasible import (
    check_data,
    check_program,
    check_training,
    told_of_config,
)
from drmad_jax.experiments.runs.judge import judge, make_trial
from drmad_jax.experiments.runs.spread import everywhere, here, members, rows, spread
from drmad_jax.experiments.runs.summary import COMPLETE, summarise
from drmad_jax.experiments.tasks import make_task
from drmad_jax.loops.tuning import why_stuck


def run(
    config: Config, folder: Path, *, resume: bool = False, progress: bool = True
) -> dict[str, Any]:
    """Tunes hyperparameters by `drmad_jax.outer_loop`, keeping everything in a run folder.

    A step that is not finite, or leads uphill by its certificate, is not taken: the hyperparameters
    go back to the best so far, and the next steps are shorter.

    The folder gets `config.toml`, a line in `metrics.jsonl` for each outer step and one for the
    final hyperparameters, `hparams.npz`, `summary.json` and `checkpoints/`, and with `[judge]` a
    line in `judge.jsonl` for each fresh seed. A run killed at any moment and resumed ends with the
    same metrics (but for the seconds) and hyperparameters, bit for bit, as one that was left alone.
    One that is complete is left as it is.

    Of several processes (`jax.distributed`) each calls this. All compute the outer steps, and go on
    from what the first one found; the seeds that judge are spread over the devices of all; the
    first alone touches the folder.

    Args:
        config: The configuration.
        folder: The run folder.
        resume: Go on with the run in the folder.
        progress: Show a progress bar on standard error.

    Returns:
        The summary, as written; nothing but in the process that writes.

    Raises:
        RunFolderError: If the folder cannot be used, or another process is at work in it.
        ConfigError: If the configuration cannot be compiled.
        RunStopped: If the hypergradient or the loss is not finite at the very start, or none can be
            followed however short the step, or the loss is not finite at the end.
        ProcessLost: If another process of this run has ended.
    """
    progress, summary = progress and leads(), None
    with run_folder.claimed(folder) if leads() else contextlib.nullcontext():
        if leads():
            run_folder.check(folder, config, resume=resume)
            if (folder / run_folder.CONFIG).exists():
                tidy(folder)
            summary = summary_of_ended(folder, config)
        if from_leader(summary is not None and summary["status"] == COMPLETE):
            return summary or {}
        if progress:
            _tell_of_processes()
            say(f"compiling {config.label}")
        loop = _Loop(config, folder)
        if leads():
            run_folder.begin(folder, config)
        try:
            loop.tune(progress)
        except RunStopped as stopped:
            loop.finish(str(stopped), progress)
            raise
        return loop.finish(COMPLETE, progress)


class _Loop:
    """One run in this process: what is compiled, and where it stands."""

    def __init__(self, config: Config, folder: Path):
        self.config, self.folder = config, folder
        task = make_task(config)
        check_data(config)
        self.everywhere = everywhere(task.load_data())
        self.data = here(self.everywhere)
        check_training(config, task, self.data)
        self.carry = outer_step.init_carry(config, task)
        self.first = self.carry.hparams
        start = time.perf_counter()
        if config.judge.num_seeds > 0 or config.outer.num_steps == 0:
            trial, like = spread(make_trial(config, task)), everywhere(self.first)
            key = members([outer_step.outer_key(config, 0)])
            self.spread = self._compile(trial, like, key, self.everywhere)
        if config.outer.num_steps > 0:
            like = self.carry, outer_step.outer_key(config, 0), self.data
            self.outer_step = self._compile(outer_step.make_outer_step(config, task), *like)
            if config.outer.certify_every:
                step = outer_step.make_outer_step(config, task, certify=True)
                self.certified = self._compile(step, *like)
        else:
            self.outer_step = lambda carry, key, data: (carry, self.trials(carry.hparams, [key])[0])
        self.compile_seconds = time.perf_counter() - start

    def tune(self, progress: bool) -> None:
        """All outer steps still to be done, and the evaluation after the last."""
        total, every = self.config.outer.num_steps, self.config.outer.certify_every
        first = self._restore()
        label = self.config.label
        with tqdm(desc=label, initial=first, total=total, unit="step", disable=not progress) as bar:
            for step in range(first, total):
                certify = every > 0 and step % every == 0
                line, carry = self._call(step, self.certified if certify else self.outer_step)
                self._keep(line)
                # Where a step is not taken the loop goes back to the best, while there is one.
                if why := why_stuck(carry):
                    raise RunStopped(_why_stopped(self.config, line, why))
                self.carry = carry
                if leads():
                    save(self.folder, Checkpoint(step + 1, carry, self.lines))
                bar.set_postfix(outer_loss=f"{line['outer_loss']:.4f}", refresh=False)
                bar.update()
        # By the same function, whose hypergradient goes unused: compiling another one takes longer
        # than one more reverse pass.
        line, back = self._call(total, self.outer_step)
        line["finite"] = math.isfinite(line["outer_loss"])
        self._keep({name: value for name, value in line.items() if name not in REVERSE})
        if not line["finite"]:
            self.carry = back
            raise RunStopped(_why_stopped(self.config, line, "left are the best before it"))

    def _restore(self) -> int:
        """Goes to where the run stood; returns how many outer steps are done."""
        found = restore_latest(self.folder, like=self.carry) if leads() else None
        if found is None:
            found = Checkpoint(0, self.carry, [])
        step, self.carry = from_leader((found.step, found.carry))
        self.lines = found.lines
        if leads():
            run_folder.restore_lines(self.folder, self.lines)
            if step < self.config.outer.num_steps:
                run_folder.keep(self.folder, run_folder.JUDGE, 0)
        return int(step)

    def finish(self, status: str, progress: bool) -> dict[str, Any]:
        """Judges where tuning came to, and writes hyperparameters and summary."""
        first, final, summary = self.first, self.carry.hparams, {}
        if leads():
            run_folder.write_hparams(self.folder, final)
            metrics = run_folder.read(self.folder, run_folder.METRICS)
            seconds = self.compile_seconds
            summary = summarise(metrics, status=status, compile_seconds=seconds, hparams=final)
        if self.config.judge.num_seeds > 0:
            ends = {"first": first, "final": final}
            judged = judge(self.config, self.folder, self.trials, **ends, progress=progress)
            summary["judge"] = judged
        if not leads():
            return {}
        write_json(self.folder / run_folder.SUMMARY, summary)
        return summary

    def _keep(self, line: dict[str, Any]) -> None:
        """Keeps a line of metrics even if the run has to stop there."""
        if leads():
            self.lines.append(run_folder.append(self.folder, run_folder.METRICS, line))

    def _call(self, step: int, call: Callable[..., Any]) -> tuple[dict[str, Any], dj.OuterState]:
        start = time.perf_counter()
        key = outer_step.outer_key(self.config, step)
        with told_of_config():
            found = jax.block_until_ready(call(self.carry, key, self.data))
        # Processors differ in rounding, and all have to go on from the same hyperparameters.
        carry, metrics = from_leader(found)
        seconds = round(time.perf_counter() - start, 4)
        return {"step": step, **outer_step.to_host(metrics), "seconds": seconds}, carry

    def trials(self, hparams: PyTree, keys: Sequence[Array]) -> list[outer_step.Metrics]:
        """A training run for each key, each on a device of its own; returns all their metrics."""
        with told_of_config():
            found = self.spread(everywhere(hparams), members(keys), self.everywhere)
            return rows(found)[: len(keys)]

    def _compile(self, function: Callable[..., Any], *like: PyTree) -> Callable[..., Any]:
        with told_of_config():
            compiled = jax.jit(function).lower(*like).compile()
        check_program(compiled)
        return compiled


def _tell_of_processes() -> None:
    """What several processes do, and what they do not."""
    if jax.process_count() > 1:
        say(
            f"{jax.process_count()} processes with {jax.device_count()} devices: each process "
            "computes every outer step, the seeds of [judge] are spread over the devices"
        )


def _why_stopped(config: Config, line: dict[str, Any], why: str = "") -> str:
    """What was not finite or led uphill, where, and what to try."""
    where = f"at outer step {line['step']} with method {config.method}"
    if line["finite"]:
        problem = f"the hypergradient leads uphill {where}, as its certificate says"
        remedies = ["a method nearer to the exact one (drmad-jax compare)"]
    elif math.isfinite(line["outer_loss"]):
        problem = f"the hypergradient is not finite {where} (outer loss {line['outer_loss']:.4g})"
        remedies = _remedies(config)
    else:
        problem = f"the outer loss is {line['outer_loss']} {where}: training itself diverged"
        remedies = ["a smaller inner.optimizer.learning_rate"]
    if line["step"] > 0:
        problem += f" ({why})" if why else ""
        remedies.append("a smaller outer.optimizer.learning_rate")
    tried = "".join(f"\n    - {remedy}" for remedy in remedies)
    return f"{problem}; nothing was updated. Try{tried}"


def _remedies(config: Config) -> list[str]:
    """Against a way back that expands where training did not."""
    method, optimizer = config.method.parameters(), config.inner.optimizer.parameters()
    remedies = []
    if method.get("curvature") == "hessian":
        remedies.append('method.curvature = "gauss_newton", which cannot expand')
    if config.method.name == "published_drmad":
        remedies.append('method.name = "drmad", with its Gauss-Newton curvature')
    if "num_reverse_steps" in method:
        remedies.append("fewer reverse steps (method.num_reverse_steps)")
    if "steps" in config.method.options:
        remedies.append("fewer or larger steps back (method.steps)")
    remedies.append("a smaller inner.optimizer.learning_rate")
    if optimizer.get("eps_root") == 0:
        remedies.append(
            "inner.optimizer.eps_root = 1e-8: the square root has no derivative at zero"
        )
    return remedies
