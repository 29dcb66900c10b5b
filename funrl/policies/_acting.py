"""Policies from networks, and functions that modify policies."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn.functional import one_hot

from funrl import _check, random as keys
from funrl.distributions import Distribution
from funrl.nn import Keyed, Net, keyed as keyed_net
from funrl.policies._policy import (
    Policy,
    call_net,
    check_first,
    check_log_prob,
    check_net,
    check_policy,
    choose,
    make_distribution,
    project,
)
from funrl.spaces import Discrete


def deterministic(net: Any) -> Policy:
    """Make a policy whose action is the output of a network.

    Args:
        net: a net whose output is the action; or a result of ``nn.keyed`` or ``nn.chain`` with ``action`` among its out_keys (the other
            entries become extras).

    Returns:
        A :class:`Policy`. A noisy net takes the policy's key.

    Raises:
        TypeError: if ``net`` is not a net.
        ValueError: if a net over entries does not write ``action``.

    Example:
        >>> import torch
        >>> from funrl import nn
        >>> from funrl import random as keys
        >>> policy = deterministic(nn.mlp((), 3))
        >>> params = policy.init(keys.key(0), torch.zeros(5))
        >>> action, extras = policy.act(params, keys.key(1), torch.zeros(7, 5))
        >>> action.shape, extras
        (torch.Size([7, 3]), {})
    """
    names = check_net("deterministic", net)
    if names is not None and "action" not in names:
        raise ValueError(f"deterministic: net: expected 'action' among its out_keys, got {list(net.out_keys)}")

    def act(params: Any, key: torch.Tensor | None, observation: Any) -> tuple[Any, dict[str, Any]]:
        output = call_net(net, params, observation, key)
        if names is None:
            return output, {}
        entries = _entries(net, output)
        return entries.pop("action"), entries

    return Policy(net.init, act, tuple(name for name in names or () if name != "action"), _in_keys(net))


def stochastic(net: Any, distribution: Callable[..., Distribution], return_log_prob: bool = True) -> Policy:
    """Make a policy that samples its actions from a distribution whose parameters are the output of a network.

    Args:
        net: a net. Its output, a tensor, is the only argument of ``distribution``; a tuple gives several arguments, and a dict keyword
            arguments. The out_keys of a net from ``nn.keyed`` or ``nn.chain`` are keyword arguments, and become extras too.
        distribution: a class of :mod:`funrl.distributions`, or a function that makes one.
        return_log_prob: whether ``log_prob`` is among the extras.

    Returns:
        A :class:`Policy` whose ``act`` also takes ``mode``: "random" (the default) samples, "mode" returns the distribution's mode and
        "mean" its mean (an estimate from some samples with the key if there is no closed form). It also takes
        ``space``, into which the action is projected before its ``log_prob`` is computed, as :func:`safe` requires.

    Raises:
        TypeError: if ``net`` is not a net, or ``distribution`` is not callable.
        ValueError: from ``act``, if the mode is unknown.

    Example:
        >>> import torch
        >>> from funrl import distributions, nn
        >>> from funrl import random as keys
        >>> net = distributions.normal_params(nn.mlp((16,), 4))
        >>> policy = stochastic(net, lambda loc, scale: distributions.Independent(distributions.TanhNormal(loc, scale), 1))
        >>> params = policy.init(keys.key(0), torch.zeros(5))
        >>> action, extras = policy.act(params, keys.key(1), torch.zeros(7, 5))
        >>> action.shape, extras["log_prob"].shape
        (torch.Size([7, 2]), torch.Size([7]))
        >>> policy.act(params, keys.key(1), torch.zeros(7, 5), mode="mode")[0].abs().max()
        tensor(0.)
    """
    names = check_net("stochastic", net)
    _check.function("stochastic: distribution", distribution, expected="a class or function")

    def act(params: Any, key: torch.Tensor | None, observation: Any, mode: str = "random", space: Any = None) -> tuple[Any, dict[str, Any]]:
        net_key, key = keys.split(key).unbind(0) if net.noisy and key is not None else (None, key)
        output = call_net(net, params, observation, net_key)
        extras = {} if names is None else _entries(net, output)
        chosen = make_distribution(distribution, output if names is None else extras)
        action, log_prob = choose("stochastic.act", chosen, key, mode, space)
        return action, {**extras, "log_prob": log_prob()} if return_log_prob else extras

    return Policy(net.init, act, (*(names or ()), *(("log_prob",) if return_log_prob else ())), _in_keys(net), projects=True)


def q_value(net: Any, *, encoding: str = "index", space: Discrete | None = None) -> Policy:
    """Make a policy that takes the action with the greatest value.

    Args:
        net: a net whose output is the values of all A actions [..., A], in the order of the actions.
        encoding: "index": the action is int64 [...]; "one_hot": it is a vector [..., A] in the dtype of the values.
        space: the space of the actions; None: ``Discrete(A)``, with actions from 0. Needed if they start at another number, as in
            ``Discrete(3, start=1)``.

    Returns:
        A :class:`Policy` with the extras ``action_value`` [..., A], and ``value`` [...] of the chosen action.

    Raises:
        TypeError: if ``net`` is not a net, or ``space`` not Discrete.
        ValueError: if the encoding is unknown; from ``act``, if the output is not a tensor [..., A], or A is not the size of ``space``.

    Example:
        >>> import torch
        >>> from funrl import nn, spaces
        >>> policy = q_value(nn.sequential(lambda x: x))
        >>> policy.act(((),), None, torch.tensor([1.0, 3.0, 2.0]))
        (tensor(1), {'action_value': tensor([1., 3., 2.]), 'value': tensor(3.)})
        >>> q_value(nn.sequential(lambda x: x), space=spaces.Discrete(3, start=1)).act(((),), None, torch.tensor([1.0, 3.0, 2.0]))[0]
        tensor(2)
    """
    if check_net("q_value", net) is not None:
        raise TypeError("q_value: net: expected a net of the observation, got one over entries; give the net itself")
    _check.one_of("q_value: encoding", encoding, ("index", "one_hot"))
    if space is not None and not isinstance(space, Discrete):
        raise TypeError(f"q_value: space: expected a funrl.spaces.Discrete, or None, got {space}; other actions have no list of values")
    first = space.start if space is not None else 0

    def act(params: Any, key: torch.Tensor | None, observation: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        values = call_net(net, params, observation, key)
        if not isinstance(values, torch.Tensor) or values.ndim == 0:
            raise ValueError("q_value.act: net: expected the values [..., A] of all actions, got no such tensor")
        if space is not None and values.shape[-1] != space.n:
            raise ValueError(f"q_value.act: net: expected {space.n} values, as {space} has actions, got {values.shape[-1]}")
        index = values.argmax(-1)
        extras = {"action_value": values, "value": values.amax(-1)}
        return (index + first if encoding == "index" else one_hot(index, values.shape[-1]).to(values.dtype)), extras

    return Policy(net.init, act, ("action_value", "value"), first=first if encoding == "index" else None)


def safe(policy: Any, space: Any) -> Any:
    """Make a policy whose actions are projected into a space.

    The extra ``log_prob`` is the distribution's log probability of the projected action. A loss computes the same from the action in the
    batch, so that the ratio of an unchanged policy is 1. On a bound it is the density there, not the probability of all actions that
    are projected onto the bound, so that gradients are biased if many actions are on bounds. A distribution with support inside the
    bounds, such as :class:`~funrl.distributions.TanhNormal`, has no such bias. All other extras belong to the action before projection.

    Args:
        policy: a policy, stateful or not. One with ``log_prob`` among its extras has to be made by :func:`stochastic`,
            :func:`actor_critic`, or :func:`recurrent` of one of these.
        space: a space of :mod:`funrl.spaces`.

    Returns:
        A policy of the same kind.

    Raises:
        TypeError: if ``policy`` or ``space`` is of another kind; from ``act``, if the dtype of the action is not that of the space.
        ValueError: if the policy's first action differs from the space's, or its ``log_prob`` cannot be computed for the
            projected action; from ``act``, if the action has another shape.

    Example:
        >>> import torch
        >>> from funrl import nn, spaces
        >>> policy = safe(deterministic(nn.sequential(lambda x: 100 * x)), spaces.Box(-1.0, 1.0, (3,)))
        >>> policy.act(((),), None, torch.tensor([-0.5, 0.5, 0.001]))[0]
        tensor([-1.0000,  1.0000,  0.1000])
    """
    check_policy("safe", policy)
    if not callable(getattr(space, "project", None)):
        raise TypeError(f"safe: space: expected a space with a method project, got a {type(space).__name__}")
    check_first("safe", policy, space)
    if getattr(policy, "projects", False):

        def act_inside(*args: Any, **options: Any) -> tuple[Any, ...]:
            return policy.act(*args, space=space, **options)

        return policy._replace(act=act_inside, projects=False)
    check_log_prob("safe", policy)

    def act(*args: Any, **options: Any) -> tuple[Any, ...]:
        *state, action, extras = policy.act(*args, **options)
        return (*state, project(space, action), extras)

    return policy._replace(act=act)


def random(space: Any) -> Policy:
    """Make a policy whose actions are random elements of a space, independent of the observation.

    Args:
        space: a space of :mod:`funrl.spaces`.

    Returns:
        A :class:`Policy` without parameters, for a single observation; vmap over keys makes a batch.

    Raises:
        TypeError: if ``space`` has no method ``sample``.

    Example:
        >>> import torch
        >>> from funrl import random as keys
        >>> from funrl import spaces
        >>> policy = random(spaces.Discrete(3))
        >>> torch.func.vmap(lambda key: policy.act((), key, ())[0])(keys.split(keys.key(0), 100)).unique()
        tensor([0, 1, 2])
    """
    if not callable(getattr(space, "sample", None)):
        raise TypeError(f"random: space: expected a space with a method sample, got a {type(space).__name__}")
    return Policy(lambda key, observation: (), lambda params, key, observation: (space.sample(key), {}))


def keyed(policy: Any, in_keys: Sequence[Any] | str = "observation", **options: Any) -> Keyed:
    """Convert a policy to a net over entries, which reads the observation and writes ``action`` and the extras.

    Args:
        policy: a policy without a state. With a net over entries, it reads the in_keys of that net, and ``in_keys`` is not used.
        in_keys: the key of the observation; with several keys the policy gets a tuple of entries.
        **options: further arguments of its ``act``, such as ``mode="mode"``.

    Returns:
        A noisy :class:`funrl.nn.Keyed`: ``apply(params, entries, key=key)``.

    Raises:
        TypeError: if ``policy`` is of another kind.

    Example:
        >>> import torch
        >>> from funrl import nn
        >>> from funrl import random as keys
        >>> actor = keyed(deterministic(nn.mlp((), 3)), "obs")
        >>> entries = {"obs": torch.zeros(5)}
        >>> list(actor.apply(actor.init(keys.key(0), entries), entries))
        ['obs', 'action']
    """
    check_policy("keyed", policy)
    if hasattr(policy, "start"):
        raise TypeError("keyed: policy: expected one without a state, got a StatefulPolicy; call its act, which returns the new state")
    out_keys = ("action", *policy.extras)

    def output(action: Any, extras: dict[str, Any]) -> tuple[Any, ...]:
        return (action, *(extras[name] for name in policy.extras))

    if policy.in_keys is None:

        def apply(params: Any, *inputs: Any, key: torch.Tensor | None = None) -> tuple[Any, ...]:
            return output(*policy.act(params, key, inputs[0] if len(inputs) == 1 else inputs, **options))

        def init(key: torch.Tensor, *inputs: Any) -> Any:
            return policy.init(key, inputs[0] if len(inputs) == 1 else inputs)

        return keyed_net(Net(init, apply, True), in_keys, out_keys)

    def apply_entries(params: Any, entries: dict[str, Any], *, key: torch.Tensor | None = None) -> dict[str, Any]:
        return {**entries, **dict(zip(out_keys, output(*policy.act(params, key, entries, **options)), strict=True))}

    return Keyed(policy.init, apply_entries, policy.in_keys, out_keys, True)


def _in_keys(net: Any) -> tuple[Any, ...] | None:
    return tuple(net.in_keys) if hasattr(net, "in_keys") else None


def _entries(net: Any, entries: dict[str, Any]) -> dict[str, Any]:
    """Return a dict of the outputs of a net over entries, by the last names of their keys."""
    found = {}
    for k in net.out_keys:
        path, x = (k,) if isinstance(k, str) else k, entries
        for step in path:
            x = x[step]
        found[path[-1]] = x
    return found
