"""The folder of a run: its files, its configuration, and the checks before a run starts or resumes there."""

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import os
import platform
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from funrl import algos, offline
from funrl._files import read_json, write_json
from funrl._locks import Busy, hold
from funrl.acting import Evaluation
from funrl.algos import Algorithm

_FORMAT = 1


class RunError(ValueError):
    """Error: a run cannot start because of an argument or of its folder. No file was overwritten."""


@contextlib.contextmanager
def checking(prefix: str = "") -> Iterator[None]:
    """Context in which an error of an argument is a RunError that begins with ``prefix``."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise RunError(f"{prefix}{error}") from None


@contextlib.contextmanager
def writing(where: Any) -> Iterator[None]:
    """Context in which an error of the file system is a RunError that names ``where``."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{where}: cannot write there: {error.strerror or error}; choose another folder (--out)") from None


@contextlib.contextmanager
def reading(path: Path, damaged: str, missing: str = "", kind: type[Exception] = RunError) -> Iterator[None]:
    """Context in which a file is read and parsed: an error is of one ``kind``, and ends with what to do if it is damaged or missing."""
    try:
        yield
    except kind:
        raise
    except OSError as error:
        if missing and isinstance(error, FileNotFoundError | NotADirectoryError):
            raise kind(f"{path.parent}: {missing}") from None
        raise kind(f"{path}: cannot be read: {error.strerror or error}; make it readable") from None
    except (ValueError, KeyError, TypeError, RuntimeError, OverflowError):
        raise kind(f"{path}: it is damaged or not of funrl; {damaged}") from None


class Folder:
    """The folder of a run and the paths of its files.

    Args:
        path: the folder; it need not exist.

    Attributes:
        path: the folder.
        config: its ``config.json``.
        metrics: its ``metrics.csv``.
        curve: its ``learning_curve.png``.
        checkpoint: its ``checkpoint/state``.
        evaluation: its ``evaluation.json``: the returns and lengths of the episodes that were played at the end.
        manifest: its ``checkpoint/manifest.json``, which a run with chunks of agents has instead: it names a file for each chunk.

    Example:
        >>> Folder("runs/first").metrics.as_posix()
        'runs/first/metrics.csv'
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.metrics = self.path / "metrics.csv"
        self.curve = self.path / "learning_curve.png"
        self.checkpoint = self.path / "checkpoint" / "state"
        self.evaluation = self.path / "evaluation.json"
        self.manifest = self.path / "checkpoint" / "manifest.json"

    def __str__(self) -> str:
        return str(self.path)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the folder, which is created if missing; raise a RunError if another run uses it."""
        with contextlib.ExitStack() as lock:
            try:
                with writing(self):
                    self.path.mkdir(parents=True, exist_ok=True)
                    lock.enter_context(hold(self.path))
            except Busy as error:
                raise RunError(f"{self}: {error} is training there; wait until it has ended, or choose another folder (--out)") from None
            yield

    def check_free(self) -> None:
        """Raise a RunError if the folder contains a run, or a file that a run would overwrite."""
        if os.path.lexists(self.config):
            raise RunError(f"{self}: another run is here; resume it (--resume), or choose another folder (--out)")
        for file in (self.metrics, self.curve, self.checkpoint.parent, self.evaluation):
            if os.path.lexists(file):
                raise RunError(f"{self}: there is a {file.name} already, which the run would overwrite; choose another folder (--out)")

    def check_agrees(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return the stored configuration; raise a RunError unless ``config`` is of the same run, possibly with more steps."""
        old = read_config(self.path)
        for name, before, now in differences(old, config, [name for name in config if name != "total_steps"]):
            if not (name == "anneal_steps" and _is_greater(now, before)):
                raise RunError(
                    f"{self}: cannot resume: the run there has {name} = {_short(before)}, not {_short(now)}; use the same, or another "
                    "folder (--out)"
                )
        if old["total_steps"] > config["total_steps"]:
            raise RunError(
                f"{self}: cannot resume: the run there is to have {old['total_steps']:,} steps, not {config['total_steps']:,}; "
                "ask for at least as many"
            )
        anneal_steps = config["options"].get("anneal_steps", math.inf)
        if config["total_steps"] > max(old["total_steps"], float(anneal_steps)):
            raise RunError(
                f"{self}: cannot resume: the learning rate falls to 0 at {float(anneal_steps):,.0f} steps (anneal_steps), so further steps "
                f"would learn nothing; let it fall later with --set anneal_steps={config['total_steps']}, or inf for never"
            )
        return old

    def write_config(self, config: dict[str, Any]) -> None:
        """Write ``config.json`` atomically; raise a RunError if no file can be written there."""
        with writing(self):
            write_json(self.config, config)

    def write_evaluation(self, evaluation: Evaluation) -> None:
        """Write ``evaluation.json`` atomically."""
        columns = {field.name: getattr(evaluation, field.name).tolist() for field in dataclasses.fields(evaluation)}
        write_json(self.evaluation, columns, indent=None)

    def read_evaluation(self) -> Evaluation | None:
        """Read ``evaluation.json``, None if there is none; raise a RunError if it is damaged."""
        if not self.evaluation.exists():
            return None
        with reading(self.evaluation, "remove it, and train --resume writes it again"):
            found = read_json(self.evaluation.read_bytes())
            returns = torch.tensor(found["episode_return"], dtype=torch.float64)
            lengths = torch.tensor(found["episode_length"], dtype=torch.int64)
            finished = torch.tensor(found["finished"], dtype=torch.bool)
            if returns.ndim not in (1, 2) or not returns.numel() or not returns.shape == lengths.shape == finished.shape:
                raise ValueError
        return Evaluation(returns, lengths, finished)


def _short(value: Any) -> str:
    """Return the ``repr`` of a value, of the lists of many agents only the beginning."""
    return reprlib.repr(value) if isinstance(value, dict | list) else repr(value)


def _is_greater(now: Any, before: Any) -> bool:
    try:
        return float(now) > float(before)
    except (TypeError, ValueError):
        return False


def describe(
    algo: Algorithm, key: torch.Tensor, total_steps: int, num_agents: int, notes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the contents of a run's ``config.json``.

    Args:
        algo: the algorithm.
        key: a key [].
        total_steps: the environment steps of each agent.
        num_agents: the number of agents.
        notes: further entries, such as the seed.

    Returns:
        A dict with ``format``, ``algorithm``, ``env``, ``environment`` (its ``repr``, which shows settings and transforms), ``num_agents``,
        the notes, ``key``, ``total_steps``, ``options`` (where infinity, which JSON lacks, is the string ``"inf"``), ``given`` (the
        ``repr`` of each part that the user gave, such as a network) and ``versions``.

    Example:
        >>> import funrl
        >>> algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"))
        >>> config = describe(algo, funrl.random.key(0), 1_000_000, 1)
        >>> config["algorithm"], config["options"]["clip"], config["options"]["target_kl"]
        ('ppo', 0.2, 'inf')
    """
    try:
        version = importlib.metadata.version("funrl")
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    config = {
        "format": _FORMAT,
        "algorithm": algo.name,
        "env": algo.env.name,
        "environment": _shown(algo.env),
        "num_agents": num_agents,
        **(notes or {}),
        "key": int(key),
        "total_steps": total_steps,
        "options": {name: _to_json(value) for name, value in dataclasses.asdict(algo.config).items()},
        "given": {name: _shown(value) for name, value in algo.given.items()},
        "versions": {"funrl": version, "torch": torch.__version__, "python": platform.python_version()},
    }
    return json.loads(json.dumps(config))  # tuples become lists, as they do when the file is read


def read_config(out: str | os.PathLike) -> dict[str, Any]:
    """Read ``config.json`` of a run.

    Args:
        out: the folder of the run.

    Returns:
        The result of :func:`describe`.

    Raises:
        RunError: if the folder contains no run, or its ``config.json`` cannot be read.

    Example:
        >>> read_config("/nowhere")
        Traceback (most recent call last):
        ...
        funrl.runs._folder.RunError: /nowhere: there is no run here (no config.json); give the folder that a run was written to
    """
    path = Folder(out).config
    missing = f"there is no run here (no {path.name}); give the folder that a run was written to"
    with reading(path, "restore it, or train in another folder", missing):
        config = read_json(path.read_bytes())
        if config["format"] != _FORMAT:
            raise RunError(f"{path}: expected format {_FORMAT}, got {config['format']!r}; use the funrl that wrote it")
        kinds = {"algorithm": str, "env": str, "num_agents": int, "key": int, "total_steps": int, "options": dict}
        hparams = config.get("hparams", {})
        right = [type(config[name]) is kind for name, kind in kinds.items()]
        right += [type(config.get("population", {})) is dict, type(hparams) is dict and all(type(x) is list for x in hparams.values())]
        if not all(right):
            raise TypeError
        if not (1 <= config["num_agents"] < 1 << 31 and 1 <= config["total_steps"] < 1 << 63 and -(1 << 63) <= config["key"] < 1 << 63):
            raise TypeError
    return config


def rebuild(config: dict[str, Any], *, trust: bool = False) -> Algorithm:
    """Make the algorithm of a run again.

    Args:
        config: the result of :func:`read_config`.
        trust: whether to allow the import of a module that the environment's name contains (``gymnasium:MODULE:ID``). This runs its code.

    Raises:
        ValueError: if there is no such algorithm or environment, or an option is out of its range, or the environment had settings or
            transforms, which its name does not tell, or a module is to be imported without ``trust``, or parts of the algorithm were given.
        TypeError: if an option has the wrong type.
        ImportError: if a host environment lacks a package.

    Example:
        >>> import funrl
        >>> algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), num_envs=4)
        >>> rebuild(describe(algo, funrl.random.key(0), 1_000_000, 1)).config.num_envs
        4
    """
    bridge, _, id = config["env"].partition(":")
    module, colon, _ = id.partition(":")
    if colon and bridge == "gymnasium" and not trust:
        raise ValueError(
            f"its environment {config['env']} imports the module {module!r}, which runs its code; if you trust the folder, "
            "say so: load_run(..., trust=True), or --trust"
        )
    if config["algorithm"] not in (*algos.names(), *offline.names()):
        raise ValueError(
            f"no algorithm is called {config['algorithm']!r}; if it is your own, give it: load_run(..., algo=algo), or --algo MODULE:NAME"
        )
    if config.get("given"):
        parts = ", ".join(f"{name}=" for name in config["given"])
        raise ValueError(
            f"the algorithm was made with {parts} of the user's own, which are not in the folder; make it in the same way, and read the "
            "run with funrl.runs.load_run(..., algo=algo) or --algo MODULE:NAME, or continue it with "
            "funrl.train(algo, ..., out=..., resume=True)"
        )
    if config["algorithm"] in offline.names():  # it acts without its data
        algo = offline.make(config["algorithm"], config["env"], None, **options_of(config))
    else:
        algo = algos.make(config["algorithm"], config["env"], **options_of(config))
    before, now = config.get("environment"), _shown(algo.env)
    if before not in (None, now):
        raise ValueError(
            f"the environment was {before}, but its name alone gives {now}; make the environment and the algorithm yourself, and read "
            "the run with funrl.runs.load_run(..., algo=algo) or --algo MODULE:NAME, or continue it with "
            "funrl.train(algo, ..., out=..., resume=True)"
        )
    return algo


def check_algorithm(config: dict[str, Any], algo: Algorithm) -> None:
    """Raise a ValueError unless a ``config.json`` is of a run of this algorithm.

    Example:
        >>> import funrl
        >>> algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"))
        >>> check_algorithm({**describe(algo, funrl.random.key(0), 1_000_000, 1), "algorithm": "mine"}, algo)
        Traceback (most recent call last):
        ...
        ValueError: the run has algorithm = 'mine', and the algorithm given has 'ppo'; give the one that it was trained with
    """
    now = describe(algo, torch.zeros((), dtype=torch.int64), 1, 1)
    for name, before, given in differences(config, now, [name for name in ("algorithm", "env", "environment") if name in config]):
        raise ValueError(f"the run has {name} = {before!r}, and the algorithm given has {given!r}; give the one that it was trained with")


def differences(old: dict[str, Any], new: dict[str, Any], names: Iterable[str]) -> list[tuple[str, Any, Any]]:
    """Return the entries ``names``, the options and the given parts in which two ``config.json`` differ, with their values.

    Example:
        >>> differences({"options": {"gamma": 0.9}}, {"env": "Maze", "options": {"gamma": 0.9}, "given": {"network": "a"}}, ["env"])
        [('env', None, 'Maze'), ('network', 'its own', 'a')]
    """
    pairs = [(name, old.get(name), new.get(name)) for name in names if name not in ("options", "given", "versions")]
    for kind, default in (("options", None), ("given", "its own")):
        before, now = old.get(kind, {}), new.get(kind, {})
        pairs += [(name, before.get(name, default), now.get(name, default)) for name in sorted({*before, *now})]
    return [(name, before, now) for name, before, now in pairs if before != now]


def options_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return the options in a ``config.json`` with the types that its algorithm expects.

    Raises:
        ValueError: if there is no such algorithm, or an option is a string although its default is a number.

    Example:
        >>> options_of({"algorithm": "ppo", "options": {"target_kl": "inf"}})
        {'target_kl': inf}
    """
    room = offline if config["algorithm"] in offline.names() else algos
    defaults = room.defaults(config["algorithm"])
    return {name: _from_json(name, value, defaults.get(name)) for name, value in config["options"].items()}


def _shown(x: Any) -> str:
    return re.sub(r" at 0x[0-9a-f]+", "", repr(x))  # the address of a function differs between processes


def _to_json(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _from_json(name: str, value: Any, default: Any) -> Any:
    try:
        return float(value) if isinstance(default, float) and isinstance(value, str) else value
    except ValueError:
        raise ValueError(f"{name}: expected a number, got {value!r}") from None
