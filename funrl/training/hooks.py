"""Hooks: plain functions that :func:`funrl.train` calls between two updates, and ready-made ones.

A hook is called as ``hook(step, state, metrics)``:

* ``step``: environment steps of each agent so far, an int;
* ``state``: the algorithm's, leaves [K, ...] with K > 1 agents. The next update writes over it, so a hook that keeps a tensor clones it;
* ``metrics``: a dict of those of the update, tensors [] or [K]. A hook may add some, for the hooks after it.

It returns None, or the state to go on with. It ends the run by raising :class:`Stop`. A logger is one by :func:`funrl.record.loggers.hook`.
Hooks run before a checkpoint is written, so that a resumed run goes on from what they returned; what they themselves remember
is not in it.
"""

import inspect
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch

from funrl import checkpoint, random, tree
from funrl.algos import Algorithm
from funrl.env import Env
from funrl.names import nearest
from funrl.record import RunError
from funrl.training.agents import player

__all__ = ["Every", "Hook", "Stop", "annealing", "at_least", "call", "checkpoints", "evaluation", "every", "flatten", "plateau"]

Hook = Callable[[int, Any, dict[str, torch.Tensor]], Any]


class Stop(Exception):
    """What a hook raises to end the run after this update. The hooks after it are still called, and a checkpoint is written."""


class Every(NamedTuple):
    """Hooks, and from how many to how many steps they are called. :func:`every` makes it."""

    steps: int
    hooks: tuple[Hook, ...]


def every(steps: int, *hooks: Hook) -> Every:
    """Call hooks, in their order, after each update in which a multiple of ``steps`` environment steps is reached.

    Args:
        steps: at least 1, of each agent.
        *hooks: what to call.

    Raises:
        ValueError: if ``steps`` is below 1 or no integer, or there are no hooks.
        TypeError: if a hook is no function.

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
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"every: steps: expected an integer of at least 1, got {steps!r}")
    if not hooks:
        raise ValueError("every: hooks: expected at least one function of (step, state, metrics), got none")
    for hook in hooks:
        _check_hook("every: hooks", hook)
    return Every(steps, hooks)


def evaluation(algo: Algorithm, key: torch.Tensor, num_episodes: int = 10, *, env: Env | None = None) -> Hook:
    """Let each agent play whole episodes without exploration; the metrics get the means ``evaluation_return`` and ``evaluation_length``.

    Args:
        algo: the algorithm.
        key: a key []; each step has one of its own, made of it.
        num_episodes: of each agent, at least 1.
        env: where they play; None: in ``algo.env``. An environment on the host that agents learn in is busy: another one is needed.

    Raises:
        ValueError: if ``num_episodes`` is below 1, or ``algo.env`` runs on the host and no other one is given.

    Example:
        >>> import funrl
        >>> algo, metrics = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=8), {"steps": torch.tensor(16)}
        >>> evaluation(algo, random.key(1), 5)(16, algo.init(random.key(0)), metrics)
        >>> metrics["evaluation_return"].shape
        torch.Size([])
    """
    if num_episodes < 1:
        raise ValueError(f"evaluation: num_episodes: expected at least 1, got {num_episodes}")
    if env is None and algo.env.host:
        raise ValueError(
            f"evaluation: env: {algo.env.name} runs outside torch, and cannot be played in while agents learn in it; give another one, "
            "such as funrl.envs.make makes, or this one if it is a collector's workers that gather experience"
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
    """Write a checkpoint, and keep the latest ones and the best: see :func:`funrl.checkpoint.save_kept`.

    Those are for comparing and evaluating (``training.load_run(out, file=checkpoint.best(folder))``); the one that a run is resumed from is
    written by :func:`funrl.train` itself. Parameters that are not finite are not written.

    Args:
        folder: where they go, such as ``out/checkpoint`` of the run.
        keep: how many of the latest to keep, at least 1.
        best: the metric by which the best is known, such as ``"evaluation_return"``: the greatest mean over agents. None: none is kept for
            being good.

    Raises:
        ValueError: if ``keep`` is below 1; when called: if there is no metric ``best``.

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
    """Stop the run once the mean of a metric over all agents is at least so great.

    Args:
        metric: its name, such as ``"evaluation_return"``; NaN is less than anything.
        threshold: how great.

    Raises:
        ValueError: when called: if there is no such metric.

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
    """Stop the run once the mean of a metric over all agents was not greater than before for so many calls.

    Args:
        metric: its name, such as ``"evaluation_return"``; calls in which it is NaN do not count.
        patience: how many calls in a row, at least 1.

    Raises:
        ValueError: if ``patience`` is below 1; when called: if there is no such metric.

    Example:
        >>> hook = plateau("evaluation_return", 2)
        >>> for step, value in enumerate([1.0, 3.0, 2.0, 3.0]):
        ...     hook(step, None, {"evaluation_return": torch.tensor(value)})
        Traceback (most recent call last):
        ...
        funrl.training.hooks.Stop: evaluation_return was not above 3 for 2 calls
    """
    if not isinstance(patience, int) or isinstance(patience, bool) or patience < 1:
        raise ValueError(f"plateau: patience: expected an integer of at least 1, got {patience!r}")
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
    """Set hyperparameters, the same for all agents, to what schedules say of the environment steps so far.

    The first update has those of the algorithm's configuration.

    Args:
        **schedules: for each hyperparameter ``schedule(step) -> value``, such as :func:`funrl.schedules.linear` makes; ``step`` is int64
            [].

    Raises:
        ValueError: if there are none; when called: if the algorithm has no such hyperparameter.

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
            old = getattr(state.learner.hparams, name, None)
            if old is None:
                raise ValueError(f"annealing: there is no hyperparameter {name!r}: {nearest(name, vars(state.learner.hparams))}")
            value = torch.as_tensor(schedule(torch.tensor(step, device=old.device)), dtype=old.dtype, device=old.device)
            changed[name] = value.expand(old.shape).clone()
        learner = state.learner
        return state.replace(learner=learner.replace(hparams=learner.hparams.replace(**changed)))

    return hook


def flatten(hooks: Sequence[Hook | Every]) -> list[tuple[int, Hook]]:
    """Return each hook with its interval, 0 for every update.

    Raises:
        RunError: if it is no list, or an entry no function.

    Example:
        >>> flatten([every(10, print, print), print])
        [(10, <built-in function print>), (10, <built-in function print>), (0, <built-in function print>)]
    """

    def pairs() -> Iterator[tuple[int, Hook]]:
        for entry in hooks:
            if isinstance(entry, Every):
                yield from ((entry.steps, hook) for hook in entry.hooks)
            else:
                _check_hook("hooks", entry)
                yield 0, entry

    if not isinstance(hooks, Iterable):
        raise RunError(f"hooks: expected a list of functions, got {hooks!r}")
    try:
        return list(pairs())
    except TypeError as error:
        raise RunError(str(error)) from None


def call(hooks: Sequence[tuple[int, Hook]], before: int, step: int, state: Any, metrics: dict[str, torch.Tensor]) -> tuple[Any, str | None]:
    """Call what is due between two numbers of steps; return the state to go on with, and why to stop.

    Args:
        hooks: what :func:`flatten` returned.
        before: steps before the update.
        step: steps after it.
        state: what the update returned.
        metrics: likewise; it is left as it is.

    Raises:
        TypeError: if a hook returns something else than None or a state like the one that it got.

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
    """Return ``new`` with copies of the leaves that are not of ``old``: the next update writes over them, and a hook may keep them."""
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
    except ValueError:  # it does not tell, as some that are built in
        pass


def _mean(what: str, metrics: dict[str, torch.Tensor], name: str) -> float:
    if name not in metrics:
        raise ValueError(
            f"{what}: the metrics have no {name!r}: {nearest(name, metrics)}; those of training.hooks.evaluation are there for the hooks "
            "after it that are called as often"
        )
    return torch.as_tensor(metrics[name]).double().mean().item()
