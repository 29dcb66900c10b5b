"""The arguments of the command line: ``python -m funrl train``, ``sweep``, ``evaluate``, ``video``, ``plot``, ``report``,
``record`` and ``envs``."""

import argparse
import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from funrl import algos, offline, populations

# The names of collectors for --collector and in config.json.
COLLECTORS = {"sync": "synchronous", "async": "asynchronous"}


class UsageError(ValueError):
    """Error: invalid arguments of the command line; the message is one line."""


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def run_folder(*names: str, seed: int | None, last: bool) -> Path:
    """Return the folder of a new run, ``runs/NAMES-SEED`` with a number if it is taken; or that of the last one."""
    words = [re.sub(r"[^\w.-]", "-", name) for name in names]  # "gymnasium:ALE/Pong-v5"
    base = Path("runs") / "-".join([*words, str(0 if seed is None else seed)])
    taken, number = None, 1
    folder = base
    while folder.exists():
        taken, number = folder, number + 1
        folder = base.with_name(f"{base.name}-{number}")
    return (taken or base) if last else folder


def parser(commands: dict[str, Callable[[argparse.Namespace], None]]) -> argparse.ArgumentParser:
    """Return the parser of ``python -m funrl``, whose result has the function of the command as ``command``."""
    parser = _Parser(prog="python -m funrl", description="Functional reinforcement learning on torch.func.")
    sub = parser.add_subparsers(title="commands", required=True, metavar=f"{{{','.join(commands)}}}")

    def command(name: str, help: str, description: str = "") -> argparse.ArgumentParser:
        made = sub.add_parser(name, help=help, description=description or f"{help.capitalize()}.")
        made.set_defaults(command=commands[name])
        return made

    _add_train(command("train", "train agents", "Train one agent, or several as one program."))
    description = "Train many agents with different hyperparameters as one program."
    _add_sweep(command("sweep", "train agents with different hyperparameters", description))
    evaluate = command("evaluate", "evaluate trained agents", "Evaluate the agents of a run without exploration.")
    _add_play(evaluate, 100, "episodes of each agent")

    video = command("video", "film a trained agent", "Film an agent of a run as it plays without exploration.")
    _add_play(video, 4, "number of episodes, side by side")
    video.add_argument("--out", metavar="FILE", help="the film, .mp4 or .gif (default: DIR/video.mp4)")
    video.add_argument("--agent", type=_whole, default=0, metavar="K", help="which of the run's agents, from 0 (default: 0)")

    plot = command("plot", "draw learning curves", "Draw the learning curves of runs, or of a sweep, or compare sweeps.")
    plot.add_argument("dirs", nargs="+", metavar="DIR", help="the folder of a run or a sweep")
    plot.add_argument("--over", action="store_true", help="draw the returns of a sweep over its hyperparameters, not its curves")
    plot.add_argument("--out", metavar="FILE", help="the picture, .png, .svg or .pdf (default: learning_curves.png)")

    description = "Write one HTML page about runs: results, curves, metrics, hyperparameters, versions, and the films in their folders."
    report = command("report", "write a page about runs", description)
    report.add_argument("dirs", nargs="+", metavar="DIR", help="the folder of a run")
    report.add_argument("--out", metavar="FILE", help="the page, .html (default: DIR/report.html; of several runs report.html)")

    _add_record(command("record", "record data", "Record a data set with an agent of a run."))
    command("envs", "list the environments")
    return parser


def _add_train(train: argparse.ArgumentParser) -> None:
    train.add_argument("algorithm", nargs="?", help=f"one of {', '.join(algos.names())}; or from data {', '.join(offline.names())}")
    train.add_argument("--env", help="an environment; 'python -m funrl envs' lists them")
    train.add_argument("--data", metavar="DATA", help="what a learner from data learns from: minari:ID, a file, or a folder")
    train.add_argument(
        "--total-steps",
        type=_whole,
        metavar="N",
        help="environment steps of each agent (default: depends on the environment), or gradient steps from data (default: 100,000)",
    )
    train.add_argument("--num-agents", type=_whole, metavar="K", help="agents trained at once (default: 1)")
    train.add_argument("--chunk", type=_whole, metavar="C", help="agents in one program (default: all, or all of a process of torchrun)")
    train.add_argument("--seed", type=_whole, help="the seed of all random numbers (default: 0)")
    train.add_argument(
        "--out", metavar="DIR", help="the folder of the run (default: runs/ALGORITHM-ENV-SEED, with a number if that exists)"
    )
    train.add_argument(
        "--set", action="extend", nargs="+", default=[], metavar="NAME=VALUE", help="options of the algorithm, such as learning_rate=3e-4"
    )
    train.add_argument(
        "--collector",
        choices=list(COLLECTORS),
        help="step a host environment in worker processes: all for each batch, or each for separate batches while the agent learns",
    )
    train.add_argument("--num-workers", type=_whole, metavar="N", help="number of worker processes (default: 2)")
    train.add_argument("--envs-per-worker", type=_whole, metavar="N", help="environments of each (default: num_envs / num_workers)")
    train.add_argument(
        "--backend",
        choices=["auto", "xla", "inductor", "eager"],
        help="the compiler: XLA (starts in seconds; the extra xla), torch's inductor, or none (default: the available one, XLA on a CPU)",
    )
    train.add_argument("--resume", action="store_true", help="continue the run in DIR; options that are not given are those of the run")
    _add_own(train)


def _add_sweep(sweep: argparse.ArgumentParser) -> None:
    sweep.add_argument("algorithm", nargs="?", help=f"one of {', '.join(algos.names())}")
    sweep.add_argument("--env", help="an environment in torch; 'python -m funrl envs' lists them")
    sweep.add_argument("--num-agents", type=_whole, metavar="K", help="agents in all, with all seeds; of each value of a static option")
    sweep.add_argument("--seeds", type=_whole, metavar="S", help="agents of each configuration (default: 1)")
    sweep.add_argument(
        "--set",
        action="extend",
        nargs="+",
        metavar="NAME=VALUES",
        help="an option: learning_rate=log:1e-4..1e-2 is a range of logarithms, clip=0.1..0.3 a range, gamma=0.95,0.99 a list of choices, "
        "num_epochs=2,4 (a program for each), num_cells=64,64;128,128 too, and num_envs=16 a fixed value",
    )
    sweep.add_argument("--method", choices=["random", "sobol", "grid", "pbt"], help="how the configurations are chosen (default: random)")
    sweep.add_argument("--total-steps", type=_whole, metavar="N", help="environment steps of each agent")
    sweep.add_argument("--seed", type=_whole, help="the seed of all random numbers (default: 0)")
    sweep.add_argument("--chunk", type=_whole, metavar="C", help="agents in one program (default: as many as fit into the memory)")
    sweep.add_argument("--out", metavar="DIR", help="the folder of the sweep (default: runs/sweep-ALGORITHM-ENV-SEED)")
    sweep.add_argument("--backend", choices=["auto", "xla", "inductor", "eager"], help="the compiler, as for train")
    sweep.add_argument("--resume", action="store_true", help="go on with the sweep in DIR, with its own options")


def _add_record(recording: argparse.ArgumentParser) -> None:
    recording.add_argument("dir", metavar="DIR", help="the folder of a run")
    recording.add_argument(
        "--out", metavar="DATA", required=True, help="minari:ID, minari:./FOLDER, FILE.npz, FILE.safetensors, or a folder of funrl's own"
    )
    recording.add_argument("--steps", type=_whole, required=True, metavar="N", help="number of transitions")
    recording.add_argument(
        "--policy",
        choices=["greedy", "explore", "random", "replay"],
        default="greedy",
        help="the agent without or with exploration, random actions, or the latest steps in its replay buffer (default: greedy)",
    )
    recording.add_argument("--checkpoint", metavar="FILE", help="an earlier checkpoint of the run (default: the latest)")
    recording.add_argument("--agent", type=_whole, default=0, metavar="K", help="which of the run's agents, from 0 (default: 0)")
    recording.add_argument("--seed", type=_whole, default=0, help="the seed of the episodes' random numbers (default: 0)")
    _add_own(recording)


def _add_play(parser: argparse.ArgumentParser, num_episodes: int, meaning: str) -> None:
    parser.add_argument("dir", metavar="DIR", help="the folder of a run")
    parser.add_argument("--episodes", type=_whole, default=num_episodes, metavar="N", help=f"{meaning} (default: {num_episodes})")
    parser.add_argument("--seed", type=_whole, default=0, help="the seed of the episodes' random numbers (default: 0)")
    _add_own(parser)


def _add_own(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--algo", metavar="MODULE:NAME", help="an algorithm of your own, or a function without arguments that returns it")
    parser.add_argument("--trust", action="store_true", help="allow the import of the module in the name of the run's environment")


def _whole(text: str) -> int:
    """Parse an integer such as ``500000``, ``500_000`` or ``5e5``."""
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError):
        if (value := float(text)).is_integer():
            return int(value)
    raise argparse.ArgumentTypeError(f"expected a whole number such as 500000 or 5e5, got {text!r}")


def option(text: str, defaults: dict[str, Any]) -> tuple[str, Any]:
    """Parse ``name=value``; the value gets the type of the option's default, and is a string if there is no such option."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise UsageError(f"--set {text}: expected NAME=VALUE, such as learning_rate=3e-4")
    if name not in defaults:
        return name, value  # algos.make raises, with the most similar names
    default = defaults[name]
    kinds = {
        bool: "true or false",
        int: "a whole number",
        float: "a number (inf too)",
        tuple: "whole numbers with commas, such as 64,64",
        str: "a word",
    }
    try:
        return name, _parse(value, default)
    except ValueError:
        raise UsageError(f"--set {text}: expected {kinds[type(default)]}, got {value!r}") from None


def values_of(text: str, defaults: dict[str, Any], hparams: list[str]) -> tuple[str, str, Any]:
    """Parse an option of a sweep: its name, ``"space"``, ``"static"`` or ``"fixed"``, and a range, a list of values, or one value."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if name in hparams and ".." in value:
        kind, _, ends = value.rpartition(":")
        if kind not in ("log", ""):
            raise UsageError(f"--set {text}: expected log:LOW..HIGH or LOW..HIGH, got {kind!r}")
        try:
            low, high = (float(x) for x in ends.split(".."))
        except ValueError:
            raise UsageError(f"--set {text}: expected LOW..HIGH, two numbers, got {ends!r}") from None
        try:
            return name, "space", populations.log_uniform(low, high) if kind else populations.uniform(low, high)
        except ValueError as error:
            raise UsageError(f"--set {text}: {error}") from None
    default = defaults.get(name)
    apart = ";" if isinstance(default, tuple) else ","
    parts = [part for part in value.split(apart) if part.strip()] if equals and name in defaults else []
    if len(parts) > 1:
        kind = "space" if name in hparams else "static"
        return name, kind, [option(f"{name}={part}", defaults)[1] for part in parts]
    return name, "fixed", option(text, defaults)[1]


def _parse(value: str, default: Any) -> Any:
    if isinstance(default, bool):
        if value.lower() not in ("true", "false"):
            raise ValueError
        return value.lower() == "true"
    if isinstance(default, tuple):
        parts = [part for part in re.sub(r"[()\[\]]", "", value).split(",") if part.strip()]
        return tuple(int(part) for part in parts)
    if type(default) is int and "," in value:
        return _parse(value, ())  # an option that is one number or several; algos.make raises if it is wrong
    return type(default)(value)


def check_use(args: argparse.Namespace, from_data: bool, collector: str | None, num_workers: int | None) -> None:
    """Raise if an argument was given that has no effect with this algorithm, or without a collector."""
    for name, value in (("--data", None if from_data else args.data), ("--collector", collector if from_data else None)):
        if value is not None:
            raise UsageError(f"{name}: {args.algorithm} has no use for it; leave it out, or choose another algorithm")
    for name, value in (("--num-workers", num_workers), ("--envs-per-worker", args.envs_per_worker)):
        if collector is None and value is not None:
            raise UsageError(f"{name}: there are workers only with --collector sync or async; give one, or leave this out")
