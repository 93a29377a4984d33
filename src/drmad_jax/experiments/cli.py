"""The command line, `drmad-jax`."""

import argparse
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from drmad_jax.experiments.ending import run_to_exit_code
from drmad_jax.experiments.errors import ConfigError
from drmad_jax.experiments.files import cache_dir
from drmad_jax.experiments.processes import Place, end_together, joined, leads


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: Words after the program's name; those of the process if `None`.

    Returns:
        The exit code: 0, 1 for a run that failed, 2 for a wrong command or configuration, 3 where
        another process of the run was lost, 128 and the signal's number for one that was
        interrupted (130 by Ctrl-C, 143 by a preemption).
    """
    options = _parser().parse_args(arguments)
    command = lambda: options.command(options)
    can_resume = hasattr(options, "resume")
    return end_together(lambda: run_to_exit_code(command, can_resume=can_resume))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="drmad-jax", description="Tune hyperparameters by hypergradients of whole trainings."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, function: Callable[[Any], None], text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text)
        command.set_defaults(command=function)
        return command

    _add_run(add("run", _run, "run an experiment"))
    _add_compare(add("compare", _compare, "compare methods with the exact one"))
    plot = add("plot", _plot, "draw the figures of a run or a comparison again")
    plot.add_argument("folder", type=Path, metavar="DIR", help="its folder; no code in it is run")
    report = add("report", _report, "write a page about runs, with tables and figures")
    report.add_argument(
        "folders", type=Path, metavar="RUNS", nargs="+",
        help="run folders, or folders that contain them; no code in them is run",
    )  # fmt: skip
    _add_out(report, "FILE", "(default: report.html in the first of RUNS)")
    prepare = add("prepare", _prepare, "download and prepare a data set")
    names = "mnist, fashion_mnist, cifar10, omniglot, or any other of TensorFlow Datasets"
    prepare.add_argument("dataset", metavar="DATASET", help=names)
    add("methods", _methods, "say what each method is, what it costs and where it is wrong")
    return parser


def _add_run(run: argparse.ArgumentParser) -> None:
    variants = _add_config(run)
    variants.add_argument(
        "--all", action="store_true", help="run every variant, the file's own settings first"
    )
    _add_out(run, "DIR", "run folder (default: runs/<name>, with a folder for each variant in it)")
    run.add_argument(
        "--resume", action="store_true",
        help="go on with the run in the folder, which CONFIG must be the same as; a folder's own "
        "record of it runs no code",
    )  # fmt: skip
    processes = run.add_argument_group(
        "several processes",
        "Start the same command in each. All compute, the first one writes the run folder; the "
        "seeds of [judge] are spread over the devices of all.",
    )
    processes.add_argument(
        "--distributed", action="store_true",
        help="be one of the processes that Slurm, Open MPI or Kubernetes has started, or as below",
    )  # fmt: skip
    processes.add_argument(
        "--coordinator", metavar="HOST:PORT", help="by hand: a free port of the first one's machine"
    )
    processes.add_argument("--num-processes", type=int, metavar="N", help="how many there are")
    processes.add_argument(
        "--process-id", type=int, metavar="I", help="which this one is, from 0 to N - 1"
    )


def _add_compare(compare: argparse.ArgumentParser) -> None:
    _add_config(compare)
    _add_out(compare, "DIR", "folder (default: runs/<name>-compare)")
    compare.add_argument("--seeds", type=int, default=8, metavar="N", help="training runs (8)")
    compare.add_argument(
        "--methods", metavar="NAME,NAME", help="names such as drmad, truncated, implicit, config"
    )


def _add_out(command: argparse.ArgumentParser, name: str, text: str) -> None:
    command.add_argument("--out", type=Path, metavar=name, help=text)


def _add_config(command: argparse.ArgumentParser) -> Any:
    """The words that choose a configuration; returns the group of `--variant`."""
    command.add_argument(
        "config",
        metavar="CONFIG",
        help="a TOML file, such as configs/digits_l2.toml; code that it names (task.module) is run",
    )
    variants = command.add_mutually_exclusive_group()
    variants.add_argument("--variant", metavar="NAME", help="a variant of the config")
    command.add_argument(
        "--smoke", action="store_true",
        help="with the config's settings for a quick test, compiled without optimisation",
    )  # fmt: skip
    command.add_argument(
        "--set", dest="overrides", metavar="a.b=value", action="append", default=[],
        help="replace a value of the config; may be given many times",
    )  # fmt: skip
    return variants


# Each command imports what it needs: asking for help must not wait for a deep-learning stack.


def _set_up_compiler(smoke: bool) -> None:
    """Lets later processes find what this one compiles, unless JAX was told of another place.

    A smoke run takes few steps; compiling them well would be most of its time.
    """
    import jax

    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir()))
    if smoke:
        jax.config.update("jax_disable_most_optimizations", True)


def _load(options: argparse.Namespace) -> Any:
    from drmad_jax.experiments import config as configs

    path, overrides = options.config, options.overrides
    # Whoever names a config here asks for it to be run, with the code that it names.
    chosen = {"variant": options.variant, "smoke": options.smoke, "runs_code": True}
    return configs.load(path, overrides, **chosen)


def _run(options: argparse.Namespace) -> None:
    from drmad_jax.experiments import config as configs
    from drmad_jax.experiments.runs.loop import run

    _set_up_compiler(options.smoke)
    place = _place(options)
    if options.all:
        _run_all(options, place)
        return
    config = _load(options)
    root = Path("runs") / config.name
    has_variants = len(configs.variant_names(options.config)) > 1
    folder = options.out or (root / config.folder if has_variants else root)
    with joined(place):
        summary = run(config, folder, resume=options.resume)
        if leads():
            _show(folder, summary)


def _place(options: argparse.Namespace) -> Place | None:
    """Where this process stands among those of a run; `None` where nothing was said of it."""
    place = Place(options.coordinator, options.num_processes, options.process_id).check()
    if place != Place() and not options.distributed:
        raise ConfigError("--coordinator, --num-processes and --process-id need --distributed")
    return place if options.distributed else None


def _run_all(options: argparse.Namespace, place: Place | None) -> None:
    from drmad_jax.experiments.runs.all_variants import load_all, run_all

    variants = load_all(options.config, options.overrides, smoke=options.smoke, runs_code=True)
    root = options.out or Path("runs") / variants[0].name
    stopped = []
    with joined(place):
        for outcome in run_all(variants, root, resume=options.resume):
            if leads():
                stopped += _tell(outcome)
    if stopped:
        print(f"{len(stopped)} of {len(variants)} stopped before their end:", *stopped, sep="\n")


def _tell(outcome: Any) -> list[str]:
    """Tells what became of a variant; returns a line about it if it stopped."""
    from drmad_jax.experiments.runs.draw import is_drawn

    if outcome.skipped and is_drawn(outcome.folder):
        print(f"run folder  {outcome.folder} (had ended)")
    else:
        _show(outcome.folder, outcome.summary)
    return [f"    {outcome.config.label}: {outcome.stopped}"] if outcome.stopped else []


def _show(folder: Path, summary: Mapping[str, Any]) -> None:
    """Draws the figures of a run that has ended, and prints what it came to."""
    from drmad_jax.experiments.runs.draw import draw

    figures = draw(folder)
    print(f"run folder  {folder}")
    for path in figures:
        print(f"figure      {path}")
    loss = [summary["outer_loss"][when] for when in ("first", "last")]
    first, last = ("nan" if value is None else f"{value:.4f}" for value in loss)
    print(f"outer loss  {first} -> {last}")


def _compare(options: argparse.Namespace) -> None:
    from drmad_jax.experiments.runs.compare import DEFAULT_METHODS, compare
    from drmad_jax.experiments.runs.draw import draw

    _set_up_compiler(smoke=False)
    config = _load(options)
    folder = options.out or Path("runs") / f"{config.label.replace('/', '-')}-compare"
    names = DEFAULT_METHODS if options.methods is None else options.methods.split(",")
    comparison = compare(config, folder, names=names, num_seeds=options.seeds)
    figures = draw(folder)
    print(comparison.to_markdown())
    print(f"folder      {folder}")
    for path in figures:
        print(f"figure      {path}")


def _plot(options: argparse.Namespace) -> None:
    from drmad_jax.experiments.runs.draw import draw

    for path in draw(options.folder):
        print(path)


def _report(options: argparse.Namespace) -> None:
    from drmad_jax.experiments.report import write_report

    print(write_report(options.folders, options.out))


def _prepare(options: argparse.Namespace) -> None:
    from drmad_jax.experiments.data.datasets import prepare

    folder = prepare(options.dataset)
    print(f"prepared {folder}" if folder else f"{options.dataset} is there, nothing to do")


def _methods(options: argparse.Namespace) -> None:
    import inspect

    from drmad_jax.experiments.config.factories import Method

    del options
    for name, function in Method.choices().items():
        text = f"{inspect.getdoc(function)}\n"
        sections = re.findall(r"^(?:Cost|Bias):\n(?: .*\n|\n(?= ))+", text, re.MULTILINE)
        told = text.partition("\n")[0] + "\n" + "".join(sections)
        print(f"{name}\n{textwrap.indent(told, '    ')}")


if __name__ == "__main__":
    sys.exit(main())
