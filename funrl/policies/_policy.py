"""The interface of policies, and their shared functions."""

from collections.abc import Callable
from functools import reduce
from typing import Any, NamedTuple

import torch

from funrl import _check, tree
from funrl.distributions import Distribution
from funrl.spaces import Discrete
from funrl.typing import Init, Observation, Params, State

_MODES = ("random", "mode", "mean")


class Policy(NamedTuple):
    """A policy without a state.

    Attributes:
        init: ``init(key, observation) -> params``.
        act: ``act(params, key, observation) -> (action, extras)``, with a dict of further outputs, such as ``log_prob``. Leading
            dimensions of the observation are those of the action, if the network allows them.
        extras: the names of the extras.
        in_keys: the entries that it reads, if the observation is a dict of entries; None if the network takes the whole observation.
        first: the smallest of its actions, if they are numbered, as those of :func:`q_value` are; None if unknown.
        projects: whether ``act`` has an argument ``space``, into which it projects an action before it computes its ``log_prob``.
    """

    init: Init
    act: Callable[..., Any]
    extras: tuple[str, ...] = ()
    in_keys: tuple[Any, ...] | None = None
    first: int | None = None
    projects: bool = False


class StatefulPolicy(NamedTuple):
    """A policy with a state from step to step: the carry of a recurrent network, or correlated noise.

    Attributes:
        init: ``init(key, observation) -> params``.
        start: ``start(params, observation) -> state`` before the first step, for a single observation (use torch.func.vmap for a batch).
        act: ``act(params, key, state, observation, reset) -> (state, action, extras)``; ``reset`` is bool, True where the
            observation is the first of an episode.
        extras: the names of the extras.
        first: as for :class:`Policy`.
        projects: as for :class:`Policy`.
    """

    init: Init
    start: Callable[[Params, Observation], State]
    act: Callable[..., Any]
    extras: tuple[str, ...] = ()
    first: int | None = None
    projects: bool = False


def project(space: Any, action: Any) -> Any:
    """Return an action, or a batch of them, projected into a space.

    Example:
        >>> import torch
        >>> from funrl import spaces
        >>> project(spaces.Box(-1.0, 1.0, (1,)), torch.tensor([[3.0], [0.5]]))
        tensor([[1.0000],
                [0.5000]])
    """
    f = space.project
    for _ in leading(space, action):
        f = torch.func.vmap(f)
    return f(action)


def leading(space: Any, action: Any) -> torch.Size:
    """Return the batch shape of actions, [] for a single one.

    Example:
        >>> import torch
        >>> from funrl import spaces
        >>> leading(spaces.Box(-1.0, 1.0, (2,)), torch.zeros(7, 2))
        torch.Size([7])
    """
    if isinstance(space.shape, dict):
        name = next(iter(space.spaces))
        return leading(space.spaces[name], action[name])
    return action.shape[: max(0, action.ndim - len(space.shape))]


def check_policy(what: str, policy: Any) -> None:
    """Raise a TypeError unless ``policy`` is a policy; the message begins with ``what``.

    Example:
        >>> check_policy("safe", 3)
        Traceback (most recent call last):
        ...
        TypeError: safe: policy: expected a policy, got a int; policies.deterministic, for example, makes one of a net
    """
    if not (hasattr(policy, "act") and hasattr(policy, "init") and hasattr(policy, "_replace")):
        raise TypeError(
            f"{what}: policy: expected a policy, got a {type(policy).__name__}; policies.deterministic, for example, makes one of a net"
        )


def check_first(what: str, policy: Any, space: Any) -> None:
    """Raise a ValueError if a policy's first action is known and differs from that of a space; the message begins with ``what``.

    Example:
        >>> from funrl import policies, spaces
        >>> check_first("safe", Policy(None, None, first=0), spaces.Discrete(3, start=1))
        Traceback (most recent call last):
        ...
        ValueError: safe: policy: expected actions from 1 on, as in Discrete(n=3, start=1), got a policy that counts them from 0; ...
    """
    first = getattr(policy, "first", None)
    if first is not None and isinstance(space, Discrete) and space.start != first:
        raise ValueError(
            f"{what}: policy: expected actions from {space.start} on, as in {space}, got a policy that counts them from {first}; "
            f"make it with q_value(..., space={space}), or of a distribution Categorical(..., start={space.start})"
        )


def check_log_prob(what: str, policy: Any) -> None:
    """Raise a ValueError if a policy has ``log_prob`` among its extras but its action is changed later; the message begins with ``what``.

    Example:
        >>> check_log_prob("epsilon_greedy", Policy(None, None, ("value",)))
    """
    if "log_prob" in policy.extras:
        raise ValueError(
            f"{what}: policy: expected one without 'log_prob' among its extras, as the log_prob of the final action may differ, "
            f"got {list(policy.extras)}; make it with stochastic(..., return_log_prob=False)"
        )


def check_net(what: str, net: Any) -> tuple[str, ...] | None:
    """Return the names of the entries that a net over entries writes, None for another net; messages begin with ``what``.

    Example:
        >>> from funrl import nn
        >>> check_net("deterministic", nn.keyed(torch.tanh, "observation", "action"))
        ('action',)
    """
    _check.has(f"{what}: net", net, ("init", "apply", "noisy"), "a net", "nn.mlp and nn.from_module make one")
    return tuple(k if isinstance(k, str) else k[-1] for k in net.out_keys) if hasattr(net, "out_keys") else None


def call_net(net: Any, params: Any, observation: Any, key: torch.Tensor | None) -> Any:
    """Return the output of a net; a noisy net gets the key.

    Example:
        >>> from funrl import nn
        >>> call_net(nn.sequential(torch.relu), ((),), torch.tensor([-1.0, 1.0]), None)
        tensor([0., 1.])
    """
    return net.apply(params, observation, key=key) if net.noisy else net.apply(params, observation)


def make_distribution(make: Callable[..., Distribution], output: Any) -> Distribution:
    """Return the distribution for a net's output: a tensor is one argument, a tuple several, and a dict keyword arguments.

    Example:
        >>> from funrl.distributions import Categorical
        >>> make_distribution(Categorical, {"logits": torch.zeros(3)})
        Categorical(logits=tensor([0., 0., 0.]), start=0, mask=())
    """
    if isinstance(output, dict):
        return make(**output)
    return make(*output) if isinstance(output, tuple | list) else make(output)


def choose(what: str, distribution: Any, key: torch.Tensor | None, mode: str, space: Any = None) -> tuple[Any, Callable[[], torch.Tensor]]:
    """Return an action, projected into ``space`` if given, and a function that returns its log probability.

    Example:
        >>> from funrl.distributions import Categorical
        >>> choose("act", Categorical(torch.tensor([0.0, 1.0])), None, "mode")[0]
        tensor(1)
    """
    _check.one_of(f"{what}: mode", mode, _MODES)
    if not hasattr(distribution, "sample_with_log_prob"):
        kind = f"{type(distribution).__module__}.{type(distribution).__name__}"
        raise TypeError(f"{what}: distribution: expected one of funrl.distributions, got a {kind}")
    if mode == "random":
        drawn, log_prob = distribution.sample_with_log_prob(key)
        if space is None:
            return drawn, lambda: log_prob
        _check_start(what, distribution, space)
        played = project(space, drawn)
        return played, lambda: torch.where(_alike(played, drawn, log_prob), log_prob, distribution.log_prob(played))
    if mode == "mode":
        action = distribution.mode()
    else:
        action = distribution.mean(key) if "mean" in distribution.estimated else distribution.mean()
    if space is not None:
        _check_start(what, distribution, space)
        action = project(space, action)
    return action, lambda: distribution.log_prob(action)


def _check_start(what: str, distribution: Any, space: Any) -> None:
    start = getattr(distribution, "start", None)
    expected = getattr(space, "start", None)
    if isinstance(expected, tuple) and start is None:
        start = (0,) * len(expected)
    if None not in (start, expected) and start != expected:
        kind = type(distribution).__name__
        raise ValueError(
            f"{what}: distribution: expected classes from {expected} on, as in {space}, got a {kind} that begins at {start}; "
            f"make it with {kind}(..., start={expected})"
        )


def _alike(x: Any, y: Any, log_prob: torch.Tensor) -> torch.Tensor:
    """Return whether two actions are equal, of the shape of their log probability."""
    pairs = zip(tree.leaves(x), tree.leaves(y), strict=True)
    return reduce(torch.logical_and, [(a == b).reshape(*log_prob.shape, -1).all(-1) for a, b in pairs])
