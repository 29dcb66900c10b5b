"""Loggers of metrics: console, files, TensorBoard, Weights & Biases, or several of them at once.

A logger is a pair of functions. :func:`hook` makes a hook for :func:`funrl.train` of it; in your own loop call
``logger.log(step, metrics)``.
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

from funrl import _check
from funrl._files import read_json, say
from funrl._locks import append, open_to_append
from funrl.record._metrics import MetricsFile, columns_of, cut, rows_end

__all__ = ["Logger", "console", "csv", "hook", "jsonl", "several", "tensorboard", "wandb"]

# With more agents than this, the mean and quantiles are logged instead of a scalar for each agent.
_MANY_AGENTS = 8
_QUANTILES = (0.1, 0.5, 0.9)


class Logger(NamedTuple):
    """A logger of metrics. Any object with these two functions is one.

    The loggers of this module accept as a metric a number, a tensor or array [], or [K] with one number for each of K agents. They raise
    a ValueError for other metrics, if ``step`` decreases, and after ``close``. A second ``close`` does nothing. A ``with`` statement
    closes the logger.

    Attributes:
        log: ``log(step, metrics)``: an integer, and a mapping from names to metrics.
        close: ``close()``: write all that is buffered, close files and end processes.

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
    """Return a hook for :func:`funrl.train` that passes the metrics to a logger.

    Args:
        logger: the logger; it is not closed here.

    Example:
        >>> log = hook(console(sys.stdout))
        >>> log(64, None, {"loss": torch.tensor(0.25)})
        step 64: loss 0.25
    """
    return lambda step, state, metrics: logger.log(step, metrics)


def several(*loggers: Logger) -> Logger:
    """Return a logger that calls several others. Its ``close`` closes all of them, even if one raises.

    Args:
        *loggers: the loggers, in the order of the calls.

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
    """Return a logger that prints a line for each step; with several agents the mean, the minimum and the maximum.

    Args:
        file: the output; None: standard error.
        names: the metrics to show, in this order; None: all of them. A metric that a step lacks is left out.

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

    A step has a row for each agent; a metric without agents is repeated in all of them. Numbers have nine digits. If a step lacks a
    metric, its entry is NaN; a new metric adds a column, for which the file is rewritten. :func:`read_metrics` reads the file.

    Args:
        path: the file; its folder is created.
        keep: the last step whose rows remain in an existing file; later rows are moved to the end of ``PATH.cut``.

    Raises:
        ValueError: from ``log``, if a name contains a comma or another separator, or is ``step`` or ``agent``, or the file is being
            written already or was not written by this logger.
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
                raise ValueError(f"csv: metrics: {name!r} cannot be the name of a column; choose another name")
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
    """Return a logger that writes a line of JSON for each step: ``step`` and all metrics, which may differ from step to step.

    A metric of K agents is a list. JSON has no NaN and no infinity: they are ``null`` and the strings ``"inf"`` and ``"-inf"``.

    Args:
        path: the file; its folder is created.
        keep: the last step whose line remains in an existing file; later lines are moved to the end of ``PATH.cut``.

    Raises:
        ValueError: if the file is being written already, or a damaged or later line precedes one that ``keep`` retains; from ``log``,
            if a metric is named ``step``.
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
            raise ValueError("jsonl: metrics: 'step' is the number of the step already; choose another name")
        row = {"step": step, **{name: _to_json(x.tolist()) for name, x in metrics.items()}}
        append(file, json.dumps(row, allow_nan=False) + "\n")

    return _checked("jsonl", write, file.close)


def tensorboard(folder: str | os.PathLike, *, keep: int | None = None, agents: Sequence[int] | None = None) -> Logger:
    """Return a logger that writes events for TensorBoard (``tensorboard --logdir FOLDER``).

    A metric of K agents becomes K scalars, ``loss/0``, ``loss/1``, ...; with more than 8 agents ``loss/mean``, ``loss/quantile_0.1``,
    ``loss/quantile_0.5`` and ``loss/quantile_0.9``, which ignore NaN, and a scalar for each of ``agents``.

    Args:
        folder: the folder of the events; it is created.
        agents: the indices of the agents with separate scalars. None: all of up to 8 agents, none of more.
        keep: the last step whose scalars are still shown if the folder has events of an earlier run; None: all of them.

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
    """Return a logger that writes a run of Weights & Biases: to files that ``wandb sync`` can send later, or directly to the service.

    A metric of K agents becomes scalars as for :func:`tensorboard`. The files are written by a process of wandb, which may take a moment
    longer than ``close``.

    Args:
        project: the project of the run.
        folder: the folder of its files, which are in ``wandb/``; it is created.
        name: the name of the run; None: a generated one.
        config: the configuration of the run.
        mode: ``"offline"``: nothing leaves this machine; ``"online"``: to the service, which requires an account.
        agents: as for :func:`tensorboard`.

    Raises:
        ModuleNotFoundError: if wandb is not installed.
        ValueError: if ``mode`` is neither.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with wandb("cartpole", folder) as logger:
        ...         logger.log(64, {"loss": 0.5})
        ...     [path.name[:11] for path in Path(folder, "wandb").glob("offline*")]
        ['offline-run']
    """
    known: Any = _check.one_of("wandb: mode", mode, ("offline", "online"))
    try:
        import wandb
    except ModuleNotFoundError:
        raise _missing("wandb") from None
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(silent=True, console="off", reinit="create_new")  # several independent runs in one process
    run = wandb.init(project=project, dir=folder, name=name, config=dict(config or {}), mode=known, settings=settings)
    return _checked("wandb", lambda step, metrics: run.log(_scalars(metrics, agents), step=step), run.finish)


def _checked(what: str, write: Callable[[int, dict[str, np.ndarray]], None], close: Callable[[], None]) -> Logger:
    """Return a logger that checks the metrics, and calls ``write`` with them as arrays [] or [K] on the host."""
    last: int | None = None
    closed = False

    def log(step: int, metrics: Mapping[str, Any]) -> None:
        nonlocal last
        if closed:
            raise ValueError(f"{what}: log: the logger is closed; make a new one")
        try:
            number = operator.index(step)
        except TypeError:
            raise TypeError(f"{what}: step: expected an integer, got {step!r}") from None
        if number < (0 if last is None else last):
            raise ValueError(f"{what}: step: expected at least {last or 0}, got {number}; steps must not decrease")
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
        _check.instance(f"{what}: metrics", name, str, expected="names (str) as keys")
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
        raise ValueError(f"{what}: metrics: expected the same number of agents in each, got {agents}")
    return values


def _scalars(metrics: dict[str, np.ndarray], agents: Sequence[int] | None) -> dict[str, float]:
    """Return a number for each metric; with several agents one for each of ``agents``, and with many the mean and quantiles."""
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
