"""The arguments of the command line: ``python -m funrl train``, ``sweep``, ``evaluate``, ``video``, ``plot``, ``report``,
``record`` and ``envs``."""

import argparse
import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from funrl import algos, offline, populations

# The names of collectors for --collector and in config.json.
COLLECTORS = {"sync": "synchronous", "async": "asynchronous"}


class UsageError(ValueError):
    """Error: invalid arguments of the command line; the message is one line."""


@contextlib.contextmanager
def usage() -> Iterator[None]:
    """Context in which an error of an argument, or of a package that is missing, is a UsageError."""
    try:
        yield
    except (ValueError, TypeError, ImportError, FileNotFoundError, FileExistsError) as error:
        raise UsageError(str(error)) from None


class _Parser(argparse.ArgumentParser):
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


def _whole(text: str) -> int:
    """Parse an integer such as ``500000``, ``500_000`` or ``5e5``."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        value = 0.5
    if not value.is_integer():
        raise argparse.ArgumentTypeError(f"expected a whole number such as 500000 or 5e5, got {text!r}")
    return int(value)


# The commands with their short and long descriptions.
_COMMANDS = {
    "train": ("train agents", "Train one agent, or several as one program."),
    "sweep": ("train agents with different hyperparameters", "Train many agents with different hyperparameters as one program."),
    "evaluate": ("evaluate trained agents", "Evaluate the agents of a run without exploration."),
    "video": ("film a trained agent", "Film an agent of a run as it plays without exploration."),
    "plot": ("draw learning curves", "Draw the learning curves of runs, or of a sweep, or compare sweeps."),
    "report": (
        "write a page about runs",
        "Write one HTML page about runs: results, curves, metrics, hyperparameters, versions, and the films in their folders.",
    ),
    "record": ("record data", "Record a data set with an agent of a run."),
    "envs": ("list the environments", "List the environments."),
}
_LIST = {"action": "extend", "nargs": "+"}
_NUMBER, _SWITCH = {"type": _whole, "metavar": "N"}, {"action": "store_true"}
_AGENTS, _BACKENDS = {"type": _whole, "metavar": "K"}, {"choices": ["auto", "xla", "inductor", "eager"]}
_XLA = "the compiler: XLA (starts in seconds; the extra xla), torch's inductor, or none (default: the available one, XLA on a CPU)"
_VALUES = (
    "an option: learning_rate=log:1e-4..1e-2 is a range of logarithms, clip=0.1..0.3 a range, gamma=0.95,0.99 a list of choices, "
    "num_epochs=2,4 (a program for each), num_cells=64,64;128,128 too, and num_envs=16 a fixed value"
)
_WORKERS = "step a host environment in worker processes: all for each batch, or each for separate batches while the agent learns"
_POLICY = "the agent without or with exploration, random actions, or the latest steps in its replay buffer (default: greedy)"
# The arguments of the commands in the first column: their names, the text of the help, and further settings for argparse.
_ARGUMENTS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("train", "algorithm", f"one of {', '.join(algos.names())}; or from data {', '.join(offline.names())}", {"nargs": "?"}),
    ("train", "--env", "an environment; 'python -m funrl envs' lists them", {}),
    ("train", "--data", "what a learner from data learns from: minari:ID, a file, or a folder", {}),
    (
        "train",
        "--total-steps",
        "environment steps of each agent (default: depends on the environment), or gradient steps from data (default: 100,000)",
        _NUMBER,
    ),
    ("train", "--num-agents", "agents trained at once (default: 1)", _AGENTS),
    ("train", "--chunk", "agents in one program (default: all, or all of a process of torchrun)", {**_NUMBER, "metavar": "C"}),
    ("train", "--set", "options of the algorithm, such as learning_rate=3e-4", {"default": [], "metavar": "NAME=VALUE", **_LIST}),
    ("train", "--collector", _WORKERS, {"choices": list(COLLECTORS)}),
    ("train", "--num-workers", "number of worker processes (default: 2)", _NUMBER),
    ("train", "--envs-per-worker", "environments of each (default: num_envs / num_workers)", _NUMBER),
    ("train", "--backend", _XLA, _BACKENDS),
    ("train", "--resume", "continue the run in DIR; options that are not given are those of the run", _SWITCH),
    ("train", "--out", "the folder of the run (default: runs/ALGORITHM-ENV-SEED, with a number if that exists)", {"metavar": "DIR"}),
    ("sweep", "algorithm", f"one of {', '.join(algos.names())}", {"nargs": "?"}),
    ("sweep", "--env", "an environment in torch; 'python -m funrl envs' lists them", {}),
    ("sweep", "--num-agents", "agents in all, with all seeds; of each value of a static option", _AGENTS),
    ("sweep", "--seeds", "agents of each configuration (default: 1)", {**_NUMBER, "metavar": "S"}),
    ("sweep", "--set", _VALUES, {"metavar": "NAME=VALUES", **_LIST}),
    ("sweep", "--method", "how the configurations are chosen (default: random)", {"choices": ["random", "sobol", "grid", "pbt"]}),
    ("sweep", "--total-steps", "environment steps of each agent", _NUMBER),
    ("sweep", "--chunk", "agents in one program (default: as many as fit into the memory)", {**_NUMBER, "metavar": "C"}),
    ("sweep", "--backend", "the compiler, as for train", _BACKENDS),
    ("sweep", "--resume", "go on with the sweep in DIR, with its own options", _SWITCH),
    ("sweep", "--out", "the folder of the sweep (default: runs/sweep-ALGORITHM-ENV-SEED)", {"metavar": "DIR"}),
    ("train sweep", "--seed", "the seed of all random numbers (default: 0)", {"type": _whole}),
    ("evaluate video record", "dir", "the folder of a run", {"metavar": "DIR"}),
    ("evaluate", "--episodes", "episodes of each agent (default: 100)", {"default": 100, **_NUMBER}),
    ("video", "--episodes", "number of episodes, side by side (default: 4)", {"default": 4, **_NUMBER}),
    ("video", "--out", "the film, .mp4 or .gif (default: DIR/video.mp4)", {"metavar": "FILE"}),
    ("plot", "dirs", "the folder of a run or a sweep", {"nargs": "+", "metavar": "DIR"}),
    ("plot", "--over", "draw the returns of a sweep over its hyperparameters, not its curves", _SWITCH),
    ("plot", "--out", "the picture, .png, .svg or .pdf (default: learning_curves.png)", {"metavar": "FILE"}),
    ("report", "dirs", "the folder of a run", {"nargs": "+", "metavar": "DIR"}),
    ("report", "--out", "the page, .html (default: DIR/report.html; of several runs report.html)", {"metavar": "FILE"}),
    (
        "record",
        "--out",
        "minari:ID, minari:./FOLDER, FILE.npz, FILE.safetensors, or a folder of funrl's own",
        {"metavar": "DATA", "required": True},
    ),
    ("record", "--steps", "number of transitions", {"required": True, **_NUMBER}),
    ("record", "--policy", _POLICY, {"choices": ["greedy", "explore", "random", "replay"], "default": "greedy"}),
    ("record", "--checkpoint", "an earlier checkpoint of the run (default: the latest)", {"metavar": "FILE"}),
    ("video record", "--agent", "which of the run's agents, from 0 (default: 0)", {"default": 0, **_AGENTS}),
    ("evaluate video record", "--seed", "the seed of the episodes' random numbers (default: 0)", {"default": 0, "type": _whole}),
    (
        "train evaluate video record",
        "--algo",
        "an algorithm of your own, or a function without arguments that returns it",
        {"metavar": "MODULE:NAME"},
    ),
    ("train evaluate video record", "--trust", "allow the import of the module in the name of the run's environment", _SWITCH),
]


def parser(commands: dict[str, Callable[[argparse.Namespace], None]]) -> argparse.ArgumentParser:
    """Return the parser of ``python -m funrl``, whose result has the function of the command as ``command``."""
    parser = _Parser(prog="python -m funrl", description="Functional reinforcement learning on torch.func.", allow_abbrev=False)
    sub = parser.add_subparsers(title="commands", required=True, metavar=f"{{{','.join(_COMMANDS)}}}")
    for command, (short, long) in _COMMANDS.items():
        own = sub.add_parser(command, help=short, description=long, allow_abbrev=False)
        own.set_defaults(command=commands[command])
        for names, argument, text, settings in _ARGUMENTS:
            if command in names.split():
                own.add_argument(argument, help=text, **settings)
    return parser


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


def check_use(args: argparse.Namespace, from_data: bool) -> None:
    """Raise if an argument was given that has no effect with this algorithm, or without a collector."""
    for name, value in (("--data", None if from_data else args.data), ("--collector", args.collector if from_data else None)):
        if value is not None:
            raise UsageError(f"{name}: {args.algorithm} has no use for it; leave it out, or choose another algorithm")
    for name, value in (("--num-workers", args.num_workers), ("--envs-per-worker", args.envs_per_worker)):
        if args.collector is None and value is not None:
            raise UsageError(f"{name}: there are workers only with --collector sync or async; give one, or leave this out")
