"""Hooks: plain functions that :func:`funrl.train` calls between two updates, and ready-made ones.

A hook is called as ``hook(step, state, metrics)``:

* ``step``: the environment steps of each agent so far, an int;
* ``state``: the state of the algorithm, leaves [K, ...] with K > 1 agents. The next update overwrites it, so clone a tensor to store it;
* ``metrics``: a dict of the metrics of the update, tensors [] or [K]. A hook may add some for the hooks after it.

It returns None, or the state to continue with. It raises :class:`Stop` to end the run. :func:`funrl.record.loggers.hook` makes a hook
of a logger.
Hooks run before a checkpoint is written, so that a resumed run continues from the state that they returned. The internal state of a
hook is not in the checkpoint.
"""

import inspect
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch

from funrl import _check, checkpoint, random, tree
from funrl.algos import Algorithm
from funrl.env import AnyEnv, on_host
from funrl.runs import RunError, checking
from funrl.training._agents import player

__all__ = ["Every", "Hook", "Stop", "annealing", "at_least", "checkpoints", "evaluation", "every", "plateau"]

Hook = Callable[[int, Any, dict[str, torch.Tensor]], Any]


class Stop(Exception):
    """Exception with which a hook ends the run after this update. Later hooks are still called, and a checkpoint is written."""


class Every(NamedTuple):
    """Hooks with the interval, in environment steps, at which they are called. :func:`every` makes it."""

    steps: int
    hooks: tuple[Hook, ...]


def every(steps: int, *hooks: Hook) -> Every:
    """Call hooks in order after each update that reaches a multiple of ``steps`` environment steps.

    Args:
        steps: the interval in environment steps of each agent, at least 1.
        *hooks: the functions to call.

    Raises:
        ValueError: if ``steps`` is below 1 or not an integer, or there are no hooks.
        TypeError: if a hook is not a function.

    Example:
        >>> import funrl
        >>> algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=8)
        >>> tell = every(32, lambda step, state, metrics: print(step))
        >>> result = funrl.train(
        ...     algo, random.key(0), 80, hooks=[tell], evaluate_episodes=0, progress=False, backend="eager"
        ... )
        32
        64
    """
    _check.integer("every: steps", steps, 1)
    _check.some("every: hooks", hooks, "function of (step, state, metrics)")
    for hook in hooks:
        _check_hook("every: hooks", hook)
    return Every(steps, hooks)


def evaluation(algo: Algorithm, key: torch.Tensor, num_episodes: int = 10, *, env: AnyEnv | None = None) -> Hook:
    """Evaluate each agent on whole episodes without exploration, and add the means ``evaluation_return`` and ``evaluation_length``.

    Args:
        algo: the algorithm.
        key: a key []; the key of each call is derived from it and from the step.
        num_episodes: the number of episodes of each agent, at least 1.
        env: the environment to evaluate in; None: ``algo.env``. A host environment in which the agents learn is busy, so that a second
            one is needed.

    Raises:
        ValueError: if ``num_episodes`` is below 1, or the agents learn in ``algo.env``, it runs on the host, and no other one is given.

    Example:
        >>> import funrl
        >>> algo, metrics = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=8), {"steps": torch.tensor(16)}
        >>> evaluation(algo, random.key(1), 5)(16, algo.init(random.key(0)), metrics)
        >>> metrics["evaluation_return"].shape
        torch.Size([])
    """
    if num_episodes < 1:
        raise ValueError(f"evaluation: num_episodes: expected at least 1, got {num_episodes}")
    if env is None and on_host(algo.env) and algo.data is None:
        raise ValueError(
            f"evaluation: env: {algo.env.name} runs outside torch, and cannot be used while agents learn in it; give another one, "
            "made by funrl.envs.make, or this one if the workers of a collector gather the experience"
        )
    players: dict[int, Callable[..., Any]] = {}

    def hook(step: int, state: Any, metrics: dict[str, torch.Tensor]) -> None:
        num_agents = max(x.numel() for x in metrics.values())
        if num_agents not in players:
            players[num_agents] = player(algo if env is None else algo._replace(env=env), num_episodes, num_agents)
        episodes = players[num_agents](state, random.fold_in(key, step))
        metrics["evaluation_return"] = episodes.episode_return.mean(-1)
        metrics["evaluation_length"] = episodes.episode_length.to(episodes.episode_return.dtype).mean(-1)

    return hook


def checkpoints(folder: str | os.PathLike, *, keep: int = 1, best: str | None = None) -> Hook:
    """Write a checkpoint, and retain the latest ones and the best one: see :func:`funrl.checkpoint.save_kept`.

    These checkpoints are for comparison and evaluation (``training.load_run(out, file=checkpoint.best(folder))``). The checkpoint from
    which a run is resumed is written by :func:`funrl.train` itself. Parameters that are not finite are not written.

    Args:
        folder: the folder of the checkpoints, such as ``out/checkpoint`` of the run.
        keep: the number of latest checkpoints to retain, at least 1.
        best: the metric that selects the best checkpoint, such as ``"evaluation_return"``: the largest mean over agents. None: only the
            latest are retained.

    Raises:
        ValueError: if ``keep`` is below 1; at a call: if there is no metric ``best``.

    Example:
        >>> import tempfile, funrl
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     hook = checkpoints(folder, keep=1, best="evaluation_return")
        ...     for step, good in ((10, 1.0), (20, 3.0), (30, 2.0)):
        ...         hook(step, {"w": torch.ones(2)}, {"evaluation_return": torch.tensor(good)})
        ...     checkpoint.latest(folder).name, checkpoint.best(folder).name, len(os.listdir(folder))
        ('step-000000000030', 'step-000000000020', 2)
    """
    checkpoint.check_keep(keep)

    def hook(step: int, state: Any, metrics: dict[str, torch.Tensor]) -> None:
        score = None if best is None else _mean("checkpoints: best", metrics, best)
        params = state.learner.params if hasattr(state, "learner") else state  # a state may be any tree
        learned = [x for x in tree.leaves(params) if x.is_floating_point()]
        if all(bool(x.isfinite().all()) for x in learned):
            checkpoint.save_kept(folder, step, state, keep=keep, score=score)

    return hook


def at_least(metric: str, threshold: float) -> Hook:
    """Stop the run once the mean of a metric over all agents reaches a threshold.

    Args:
        metric: its name, such as ``"evaluation_return"``; NaN never reaches a threshold.
        threshold: the smallest mean that stops the run.

    Raises:
        ValueError: at a call: if there is no such metric.

    Example:
        >>> at_least("episode_return", 475.0)(1_000, None, {"episode_return": torch.tensor([470.0, 490.0])})
        Traceback (most recent call last):
        ...
        funrl.training.hooks.Stop: episode_return is 480, at least 475
    """

    def hook(step: int, state: Any, metrics: dict[str, torch.Tensor]) -> None:
        value = _mean("at_least: metric", metrics, metric)
        if value >= threshold:
            raise Stop(f"{metric} is {value:g}, at least {threshold:g}")

    return hook


def plateau(metric: str, patience: int) -> Hook:
    """Stop the run once the mean of a metric over all agents has not improved for ``patience`` calls.

    Args:
        metric: its name, such as ``"evaluation_return"``, larger is better; calls in which it is NaN do not count.
        patience: the number of consecutive calls, at least 1.

    Raises:
        ValueError: if ``patience`` is below 1; at a call: if there is no such metric.

    Example:
        >>> hook = plateau("evaluation_return", 2)
        >>> for step, value in enumerate([1.0, 3.0, 2.0, 3.0]):
        ...     hook(step, None, {"evaluation_return": torch.tensor(value)})
        Traceback (most recent call last):
        ...
        funrl.training.hooks.Stop: evaluation_return was not above 3 for 2 calls
    """
    _check.integer("plateau: patience", patience, 1)
    greatest, since = -math.inf, 0

    def hook(step: int, state: Any, metrics: dict[str, torch.Tensor]) -> None:
        nonlocal greatest, since
        value = _mean("plateau: metric", metrics, metric)
        if value > greatest:
            greatest, since = value, 0
        elif not math.isnan(value):
            since += 1
        if since >= patience:
            raise Stop(f"{metric} was not above {greatest:g} for {patience} calls")

    return hook


def annealing(**schedules: Callable[[torch.Tensor], Any]) -> Hook:
    """Set hyperparameters of all agents to the values of schedules at the environment steps so far.

    The first update uses the values of the algorithm's configuration.

    Args:
        **schedules: ``schedule(step) -> value`` for each hyperparameter, such as those of :func:`funrl.schedules.linear`; ``step`` is
            int64 [].

    Raises:
        ValueError: if there are none; at a call: if the algorithm has no such hyperparameter.

    Example:
        >>> import funrl
        >>> algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=8)
        >>> state = annealing(clip=funrl.schedules.linear(0.2, 0.1, 100))(50, algo.init(random.key(0)), {})
        >>> state.learner.hparams.clip
        tensor(0.1500)
    """
    if not schedules:
        raise ValueError("annealing: expected at least one hyperparameter and its schedule, such as clip=schedules.linear(0.2, 0.1, 1e6)")

    def hook(step: int, state: Any, metrics: dict[str, torch.Tensor]) -> Any:
        changed = {}
        for name, schedule in schedules.items():
            names = [each for each, x in vars(state.learner.hparams).items() if isinstance(x, torch.Tensor)]
            if name not in names:
                raise ValueError(f"annealing: there is no hyperparameter {name!r}: {_check.nearest(name, names)}")
            old = getattr(state.learner.hparams, name)
            value = torch.as_tensor(schedule(torch.tensor(step, device=old.device)), dtype=old.dtype, device=old.device)
            changed[name] = value.expand(old.shape).clone()
        learner = state.learner
        return state.replace(learner=learner.replace(hparams=learner.hparams.replace(**changed)))

    return hook


def flatten(hooks: Sequence[Hook | Every]) -> list[tuple[int, Hook]]:
    """Return each hook with its interval, 0 for every update.

    Raises:
        RunError: if it is not a list, or an entry is not a function.

    Example:
        >>> flatten([every(10, print, print), print])
        [(10, <built-in function print>), (10, <built-in function print>), (0, <built-in function print>)]
    """

    if not isinstance(hooks, Iterable):
        raise RunError(f"hooks: expected a list of functions, got {hooks!r}")
    pairs: list[tuple[int, Hook]] = []
    with checking():
        for entry in hooks:
            if isinstance(entry, Every):
                pairs += [(entry.steps, hook) for hook in entry.hooks]
            else:
                _check_hook("hooks", entry)
                pairs.append((0, entry))
    return pairs


def call(hooks: Sequence[tuple[int, Hook]], before: int, step: int, state: Any, metrics: dict[str, torch.Tensor]) -> tuple[Any, str | None]:
    """Call the hooks that are due between two numbers of steps; return the next state, and the reason to stop or None.

    Args:
        hooks: the result of :func:`flatten`.
        before: steps before the update.
        step: steps after it.
        state: the state after the update.
        metrics: the metrics of the update; not modified.

    Raises:
        TypeError: if a hook returns neither None nor a state like its argument.

    Example:
        >>> double = lambda step, state, metrics: {"w": 2 * state["w"]}
        >>> call(flatten([double, every(10, double)]), 8, 12, {"w": torch.tensor(1.0)}, {})
        ({'w': tensor(4.)}, None)
    """
    due = [hook for steps, hook in hooks if not steps or step // steps > before // steps]
    metrics, stop = dict(metrics), None
    for hook in due:
        try:
            new = hook(step, state, metrics)
        except Stop as reason:
            stop = str(reason) or "a hook asked for it"
            continue
        if new is None:
            continue
        name = getattr(hook, "__qualname__", repr(hook))
        try:
            tree.check_like(new, state, f"what the hook {name} returned", "the state that it got, or None")
        except ValueError as error:
            raise TypeError(str(error)) from None
        state = _owned(new, state)
    return state, stop


def _owned(new: Any, old: Any) -> Any:
    """Return ``new`` with copies of the leaves that are not in ``old``: a hook may still hold them when the next update overwrites them."""
    mine = {id(x) for x in tree.leaves(old)}
    return tree.map(lambda x: x if id(x) in mine else x.detach().clone(), new)


def _check_hook(what: str, hook: Any) -> None:
    if isinstance(hook, Every) or not callable(hook):
        raise TypeError(f"{what}: expected a function of (step, state, metrics), got {hook!r}")
    try:
        inspect.signature(hook).bind(0, None, {})
    except TypeError as error:
        why = f"which cannot be called so: {error}"
        raise TypeError(f"{what}: expected a function of (step, state, metrics), got {hook!r}, {why}") from None
    except ValueError:  # no signature, as for some built-in functions
        pass


def _mean(what: str, metrics: dict[str, torch.Tensor], name: str) -> float:
    if name not in metrics:
        raise ValueError(
            f"{what}: the metrics have no {name!r}: {_check.nearest(name, metrics)}; those of training.hooks.evaluation are there for the "
            "hooks after it that are called as often"
        )
    return torch.as_tensor(metrics[name]).double().mean().item()
