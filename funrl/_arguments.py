"""The arguments of the command line: ``python -m funrl train``, ``evaluate``, ``video``, ``plot`` and ``envs``."""

import argparse
import re
from collections.abc import Callable
from typing import Any, NoReturn

from funrl import algos

# What --collector knows them by, and config.json.
COLLECTORS = {"sync": "synchronous", "async": "asynchronous"}


class UsageError(ValueError):
    """The command line asks for something that does not exist; the message is one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def parser(commands: dict[str, Callable[[argparse.Namespace], None]]) -> argparse.ArgumentParser:
    """Return the parser of ``python -m funrl``, whose result has the function of the command as ``command``."""
    parser = _Parser(prog="python -m funrl", description="Functional reinforcement learning on torch.func.", allow_abbrev=False)
    sub = parser.add_subparsers(title="commands", required=True, metavar="{train,evaluate,video,plot,envs}")

    train = sub.add_parser("train", help="train agents", description="Train one agent, or several as one program.", allow_abbrev=False)
    train.add_argument("algorithm", nargs="?", help=f"one of {', '.join(algos.names())}")
    train.add_argument("--env", help="an environment; 'python -m funrl envs' lists them")
    train.add_argument(
        "--total-steps", type=_whole, metavar="N", help="environment steps of each agent (default: what the environment takes)"
    )
    train.add_argument("--num-agents", type=_whole, metavar="K", help="agents trained side by side (default: 1)")
    train.add_argument("--seed", type=_whole, help="where all random numbers come from (default: 0)")
    train.add_argument(
        "--out", metavar="DIR", help="the folder of the run (default: runs/ALGORITHM-ENV-SEED, with a number where that is taken)"
    )
    train.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="an option of the algorithm, such as learning_rate=3e-4"
    )
    train.add_argument(
        "--collector",
        choices=list(COLLECTORS),
        help="step an environment on the host in worker processes: all on one batch, or each on batches of its own while the agent learns",
    )
    train.add_argument("--num-workers", type=_whole, metavar="N", help="how many worker processes (default: 2)")
    train.add_argument("--envs-per-worker", type=_whole, metavar="N", help="environments of each (default: what num_envs shares out)")
    train.add_argument(
        "--backend",
        choices=["auto", "xla", "inductor", "eager"],
        help="what compiles: XLA (starts in seconds; the extra xla), torch's inductor, or nothing (default: what there is, XLA on a CPU)",
    )
    train.add_argument("--resume", action="store_true", help="go on with the run in DIR; what is not given is as it was")
    _add_own(train)
    train.set_defaults(command=commands["train"])

    evaluate = sub.add_parser("evaluate", help="let trained agents play", description="Let the agents of a run play, without exploration.")
    _add_play(evaluate, 100, "episodes of each agent")
    evaluate.set_defaults(command=commands["evaluate"])

    video = sub.add_parser(
        "video", help="film a trained agent", description="Film an agent of a run as it plays without exploration.", allow_abbrev=False
    )
    _add_play(video, 4, "how many, side by side")
    video.add_argument("--out", metavar="FILE", help="the film, .mp4 or .gif (default: DIR/video.mp4)")
    video.add_argument("--agent", type=_whole, default=0, metavar="K", help="which of the run's agents, from 0 (default: 0)")
    video.set_defaults(command=commands["video"])

    plot = sub.add_parser(
        "plot", help="draw learning curves", description="Draw the learning curves of runs in one picture.", allow_abbrev=False
    )
    plot.add_argument("dirs", nargs="+", metavar="DIR", help="the folder of a run")
    plot.add_argument("--out", metavar="FILE", help="the picture, .png, .svg or .pdf (default: learning_curves.png)")
    plot.set_defaults(command=commands["plot"])

    listing = sub.add_parser("envs", help="list the environments", description="List the environments.")
    listing.set_defaults(command=commands["envs"])
    return parser


def _add_play(parser: argparse.ArgumentParser, num_episodes: int, told: str) -> None:
    parser.add_argument("dir", metavar="DIR", help="the folder of a run")
    parser.add_argument("--episodes", type=_whole, default=num_episodes, metavar="N", help=f"{told} (default: {num_episodes})")
    parser.add_argument("--seed", type=_whole, default=0, help="where the episodes' random numbers come from (default: 0)")
    _add_own(parser)


def _add_own(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--algo", metavar="MODULE:NAME", help="an algorithm of your own, or a function without arguments that returns it")
    parser.add_argument("--trust", action="store_true", help="import the module that the name of the run's environment asks for")


def _whole(text: str) -> int:
    """Return the integer that ``500000``, ``500_000`` or ``5e5`` is."""
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


def option(text: str, defaults: dict[str, Any]) -> tuple[str, Any]:
    """Return name and value of ``name=value``; the value has the type of the default, and stays text where there is none."""
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals:
        raise UsageError(f"--set {text}: expected NAME=VALUE, such as learning_rate=3e-4")
    if name not in defaults:
        return name, value  # algos.make refuses it, and knows the nearest names
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


def _parse(value: str, default: Any) -> Any:
    if isinstance(default, bool):
        if value.lower() not in ("true", "false"):
            raise ValueError
        return value.lower() == "true"
    if isinstance(default, tuple):
        parts = [part for part in re.sub(r"[()\[\]]", "", value).split(",") if part.strip()]
        return tuple(int(part) for part in parts)
    if type(default) is int and "," in value:
        return _parse(value, ())  # an option that is one number or several; algos.make refuses it elsewhere
    return type(default)(value)
