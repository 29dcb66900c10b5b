"""Where the metrics of a loop go: the console, files, TensorBoard, Weights & Biases, or several of them at once.

A logger is a pair of functions. As a hook of :func:`funrl.train` it is passed through :func:`hook`; in a loop of one's own it is called
as ``logger.log(step, metrics)``.
"""

import contextlib
import json
import math
import operator
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import torch

from funrl.record.locks import append, open_to_append
from funrl.record.metrics import MetricsFile, columns_of, cut, rows_end
from funrl.tree.files import read_json, say

__all__ = ["Logger", "console", "csv", "hook", "jsonl", "several", "tensorboard", "wandb"]

# Of more agents than these there are the mean and quantiles in place of a scalar for each.
_MANY_AGENTS = 8
_QUANTILES = (0.1, 0.5, 0.9)


class Logger(NamedTuple):
    """What takes metrics. Anything with these two functions is one.

    Those made here take as a metric a number, or a tensor or array [] or, one for each of K agents, [K]. They raise a ValueError where a
    metric is something else, where ``step`` falls, and after ``close``, of which a second call does nothing. In a ``with``
    statement a logger closes itself.

    Attributes:
        log: ``log(step, metrics)``: a whole number, and a mapping from names to metrics.
        close: ``close()``: write what waits, and give back files and processes.

    Example:
        >>> rows = []
        >>> with Logger(lambda step, metrics: rows.append((step, dict(metrics))), lambda: None) as logger:
        ...     logger.log(1, {"loss": 0.5})
        >>> rows
        [(1, {'loss': 0.5})]
    """

    log: Callable[[int, Mapping[str, Any]], None]
    close: Callable[[], None]

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def hook(logger: Logger) -> Callable[[int, Any, Mapping[str, Any]], None]:
    """Return the logger as a function of step, state and metrics, which is what a training loop calls.

    Args:
        logger: where the metrics go; whoever made it closes it.

    Example:
        >>> log = hook(console(sys.stdout))
        >>> log(64, None, {"loss": torch.tensor(0.25)})
        step 64: loss 0.25
    """
    return lambda step, state, metrics: logger.log(step, metrics)


def several(*loggers: Logger) -> Logger:
    """Return the logger that passes all on to several others; its ``close`` closes every one, even if one of them fails.

    Args:
        *loggers: in the order in which they are called.

    Example:
        >>> rows = []
        >>> with several(console(sys.stdout), Logger(lambda step, metrics: rows.append(step), lambda: None)) as logger:
        ...     logger.log(64, {"loss": 0.25})
        step 64: loss 0.25
        >>> rows
        [64]
    """

    def write(step: int, metrics: dict[str, np.ndarray]) -> None:
        for logger in loggers:
            logger.log(step, metrics)

    def close() -> None:
        with contextlib.ExitStack() as stack:
            for logger in reversed(loggers):
                stack.callback(logger.close)

    return _checked("several", write, close)


def console(file: TextIO | None = None, *, names: Sequence[str] | None = None) -> Logger:
    """Return a logger that prints a line for each step; of several agents the mean, the least and the greatest.

    Args:
        file: where to; None: the standard error output.
        names: which metrics to show, in this order; None: all of them. What a step does not have is left out.

    Example:
        >>> with console(sys.stdout, names=["episode_return", "loss"]) as logger:
        ...     logger.log(2_048, {"loss": 0.125, "episode_return": torch.tensor([20.0, 25.0, 24.0]), "entropy": 0.7})
        step 2,048: episode_return 23 (20 to 25), loss 0.125
    """

    def write(step: int, metrics: dict[str, np.ndarray]) -> None:
        shown = metrics if names is None else [name for name in names if name in metrics]
        text = ", ".join(f"{name} {_shown(metrics[name])}" for name in shown)
        say(f"step {step:,}: {text}", sys.stderr if file is None else file)

    return _checked("console", write, lambda: None)


def csv(path: str | os.PathLike, *, keep: int = 0) -> Logger:
    """Return a logger that writes a :class:`MetricsFile` with the columns ``step`` and ``agent`` and one for each metric.

    A step has a row for each agent; a metric without agents stands in all of them. Numbers have nine digits. Where a step has no such
    metric, as before its first time, there is NaN; for a new one the file is written anew. :func:`read_metrics` reads the file.

    Args:
        path: the file; its folder is made.
        keep: the last step whose rows stay, where the file is there already; later ones go to the end of ``PATH.cut``.

    Raises:
        ValueError: from ``log``, if a name has a comma or the like, or is ``step`` or ``agent``, or the file is being written already,
            or is none of this logger.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with csv(f"{folder}/run.csv") as logger:
        ...         logger.log(64, {"loss": torch.tensor([0.5, 0.25]), "learning_rate": 0.1})
        ...     print(Path(folder, "run.csv").read_text())
        step,agent,loss,learning_rate
        64,0,0.5,0.1
        64,1,0.25,0.1
    """
    path = _in_folder(path)
    file: MetricsFile | None = None

    def write(step: int, metrics: dict[str, np.ndarray]) -> None:
        nonlocal file
        there = ("step", "agent") if file is None else file.columns
        for name in metrics:
            if name in ("step", "agent") or any(mark in name for mark in ',"\r\n'):
                raise ValueError(f"csv: metrics: {name!r} cannot be the name of a column; call it otherwise")
        if file is None:
            before = columns_of(path)
            file = MetricsFile(path, before if before[:2] == there else [*there, *metrics], keep=keep)
        if new := [name for name in metrics if name not in file.columns]:
            file.add_columns(new)
        agents = max((x.size for x in metrics.values()), default=1)
        columns = [np.broadcast_to(metrics.get(name, np.asarray(math.nan)), agents).tolist() for name in file.columns[2:]]
        file.append([step, agent, *(column[agent] for column in columns)] for agent in range(agents))

    return _checked("csv", write, lambda: file.close() if file is not None else None)


def jsonl(path: str | os.PathLike, *, keep: int = 0) -> Logger:
    """Return a logger that writes a line of JSON for each step: ``step``, and all metrics, which may be others each time.

    A metric of K agents is a list. JSON has no NaN and no infinity: they are ``null`` and the strings ``"inf"`` and ``"-inf"``.

    Args:
        path: the file; its folder is made.
        keep: the last step whose line stays, where the file is there already; later ones go to the end of ``PATH.cut``.

    Raises:
        ValueError: if the file is being written already, or has a line up to ``keep`` after one that is damaged or later; from ``log``,
            if a metric is called ``step``.
        OSError: if the file cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with jsonl(f"{folder}/run.jsonl") as logger:
        ...         logger.log(64, {"episodes": 3, "loss": torch.tensor([0.5, float("nan")])})
        ...         logger.log(128, {"evaluation": 9.5})
        ...     print(Path(folder, "run.jsonl").read_text())
        {"step": 64, "episodes": 3, "loss": [0.5, null]}
        {"step": 128, "evaluation": 9.5}
    """
    path = _in_folder(path)
    file = open_to_append(path)
    try:
        file.seek(0)
        cut(file, rows_end(file, keep, _step_of))
    except BaseException as error:
        file.close()
        if isinstance(error, ValueError):
            raise ValueError(f"jsonl: {path}: {error}; restore a copy, or move it away") from None
        raise

    def write(step: int, metrics: dict[str, np.ndarray]) -> None:
        if "step" in metrics:
            raise ValueError("jsonl: metrics: 'step' is the number of the step already; call the metric otherwise")
        row = {"step": step, **{name: _to_json(x.tolist()) for name, x in metrics.items()}}
        append(file, json.dumps(row, allow_nan=False) + "\n")

    return _checked("jsonl", write, file.close)


def tensorboard(folder: str | os.PathLike, *, keep: int | None = None, agents: Sequence[int] | None = None) -> Logger:
    """Return a logger that writes events for TensorBoard (``tensorboard --logdir FOLDER``).

    A metric of K agents is K scalars, ``loss/0``, ``loss/1``, ...; of more than 8 it is ``loss/mean``, ``loss/quantile_0.1``,
    ``loss/quantile_0.5`` and ``loss/quantile_0.9``, in which agents that have NaN do not count, and a scalar for each of ``agents``.

    Args:
        folder: where the events go; it is made.
        agents: which agents, from 0, have scalars of their own. None: all of up to 8, none of more.
        keep: the last step whose scalars are still shown, where an earlier run left some in the folder; None: all of them.

    Raises:
        ModuleNotFoundError: if tensorboard is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with tensorboard(folder) as logger:
        ...         logger.log(64, {"loss": 0.5})
        ...     [path.name[:19] for path in Path(folder).iterdir()]
        ['events.out.tfevents']
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ModuleNotFoundError:
        raise _missing("tensorboard") from None
    writer = SummaryWriter(str(folder), purge_step=None if keep is None else keep + 1, flush_secs=10)

    def write(step: int, metrics: dict[str, np.ndarray]) -> None:
        for name, value in _scalars(metrics, agents).items():
            writer.add_scalar(name, value, step)

    return _checked("tensorboard", write, writer.close)


def wandb(
    project: str,
    folder: str | os.PathLike,
    *,
    name: str | None = None,
    config: Mapping[str, Any] | None = None,
    mode: str = "offline",
    agents: Sequence[int] | None = None,
) -> Logger:
    """Return a logger that writes a run of Weights & Biases: on this machine, to be sent later by ``wandb sync``, or at once.

    A metric of K agents becomes scalars as for :func:`tensorboard`. The files are written by a process of wandb, which may take a moment
    longer than ``close``.

    Args:
        project: what the run belongs to.
        folder: where its files go, in ``wandb/``; it is made.
        name: of the run; None: one is made up.
        config: what the run was configured with.
        mode: ``"offline"``: nothing leaves this machine; ``"online"``: to the service, which wants an account.
        agents: as for :func:`tensorboard`.

    Raises:
        ModuleNotFoundError: if wandb is not installed.
        ValueError: if ``mode`` is another.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with wandb("cartpole", folder) as logger:
        ...         logger.log(64, {"loss": 0.5})
        ...     [path.name[:11] for path in Path(folder, "wandb").glob("offline*")]
        ['offline-run']
    """
    if mode not in ("offline", "online"):
        raise ValueError(f"wandb: mode: expected 'offline' or 'online', got {mode!r}")
    try:
        import wandb
    except ModuleNotFoundError:
        raise _missing("wandb") from None
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(silent=True, console="off", reinit="create_new")  # several runs in one process, each on its own
    run = wandb.init(project=project, dir=folder, name=name, config=dict(config or {}), mode=mode, settings=settings)
    return _checked("wandb", lambda step, metrics: run.log(_scalars(metrics, agents), step=step), run.finish)


def _checked(what: str, write: Callable[[int, dict[str, np.ndarray]], None], close: Callable[[], None]) -> Logger:
    """Return the logger that looks at what it is given, once, before ``write`` gets it as arrays [] or [K] on the host."""
    last: int | None = None
    closed = False

    def log(step: int, metrics: Mapping[str, Any]) -> None:
        nonlocal last
        if closed:
            raise ValueError(f"{what}: log: the logger is closed; make another one")
        try:
            number = operator.index(step)
        except TypeError:
            raise TypeError(f"{what}: step: expected a whole number, got {step!r}") from None
        if number < (0 if last is None else last):
            raise ValueError(f"{what}: step: expected at least {last or 0}, got {number}; steps never fall")
        values = _values(what, metrics)
        write(number, values)
        last = number

    def close_once() -> None:
        nonlocal closed
        if not closed:
            closed = True
            close()

    return Logger(log, close_once)


def _values(what: str, metrics: Mapping[str, Any]) -> dict[str, np.ndarray]:
    values, agents = {}, {}
    for name, x in metrics.items():
        if not isinstance(name, str):
            raise TypeError(f"{what}: metrics: expected names as keys, got {name!r}")
        if isinstance(x, torch.Tensor):
            x = (x.double() if x.is_floating_point() else x).detach().cpu()  # NumPy has no bfloat16
        value = np.asarray(x)
        if value.dtype.kind not in "biuf" or value.ndim > 1 or value.size == 0:
            raise ValueError(
                f"{what}: metrics: {name}: expected a number, or one for each agent [K], got {value.dtype} {list(value.shape)}; "
                "take a mean of it, or leave it out"
            )
        values[name] = value.astype(np.int64) if value.dtype.kind == "b" else value
        if value.ndim:
            agents[name] = value.size
    if len(set(agents.values())) > 1:
        raise ValueError(f"{what}: metrics: expected as many numbers as agents in each, got {agents}")
    return values


def _scalars(metrics: dict[str, np.ndarray], agents: Sequence[int] | None) -> dict[str, float]:
    """Return a number for each metric; of several agents one for each of ``agents``, and of many the mean and quantiles."""
    scalars: dict[str, float] = {}
    for name, x in metrics.items():
        if not x.ndim:
            scalars[name] = x.item()
            continue
        if x.size > _MANY_AGENTS:
            there = x[~np.isnan(x)]
            scalars[f"{name}/mean"] = there.mean().item() if there.size else math.nan
            for q in _QUANTILES:
                scalars[f"{name}/quantile_{q}"] = np.quantile(there, q).item() if there.size else math.nan
        chosen = agents if agents is not None else () if x.size > _MANY_AGENTS else range(x.size)
        if wrong := [agent for agent in chosen if not 0 <= agent < x.size]:
            raise ValueError(f"agents: expected some of 0 to {x.size - 1}, got {wrong[0]!r}")
        scalars |= {f"{name}/{agent}": x[agent].item() for agent in chosen}
    return scalars


def _shown(x: np.ndarray) -> str:
    return f"{x.mean():.4g} ({x.min():.4g} to {x.max():.4g})" if x.size > 1 else f"{x.item():.4g}"


def _to_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_to_json(x) for x in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _step_of(line: bytes) -> int | None:
    try:
        step = read_json(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if type(step) is int else None


def _in_folder(path: str | os.PathLike) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _missing(package: str) -> ModuleNotFoundError:
    return ModuleNotFoundError(f'a logger for {package} needs it; install it with: pip install "funrl[{package}]"')
