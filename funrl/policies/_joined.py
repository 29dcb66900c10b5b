"""Policies of several parts: one that shares a trunk with a value function, and one on a recurrent cell."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import _check, random as keys
from funrl.distributions import Distribution
from funrl.nn import Net
from funrl.policies._policy import StatefulPolicy, check_net, choose, make_distribution


class ActorCritic(NamedTuple):
    """A policy and a value function with a shared trunk.

    Attributes:
        init: ``init(key, observation) -> params``, a dict of ``trunk``, ``actor`` and ``critic``.
        act: ``act(params, key, observation, mode="random") -> (action, extras)`` with ``log_prob`` and ``value``.
        extras: the names of the extras.
        in_keys: None.
        evaluate: ``evaluate(params, observation) -> (distribution, value [...])``: the argument ``apply`` of
            :func:`funrl.losses.ppo_loss`.
        value: ``value(params, observation) -> value [...]``.
        first: as for :class:`Policy`.
        projects: as for :class:`Policy`.
    """

    init: Callable[..., Any]
    act: Callable[..., Any]
    extras: tuple[str, ...]
    in_keys: None
    evaluate: Callable[..., Any]
    value: Callable[..., Any]
    first: int | None = None
    projects: bool = False


def actor_critic(trunk: Net, actor: Net, critic: Net, distribution: Callable[..., Distribution]) -> ActorCritic:
    """Make a policy and a value function that share their first layers.

    Args:
        trunk: a net from the observation to features.
        actor: a net from features to the parameters of the distribution, as for :func:`stochastic`.
        critic: a net from features to [..., 1].
        distribution: as for :func:`stochastic`.

    Returns:
        An :class:`ActorCritic`.

    Raises:
        TypeError: if a part is not a net, or ``distribution`` is not callable.
        ValueError: if a part is noisy; from ``act``, if the mode is unknown; when called, if the critic's output is not [..., 1].

    Example:
        >>> import torch
        >>> from funrl import distributions, nn
        >>> from funrl import random as keys
        >>> both = actor_critic(nn.mlp((16,)), nn.mlp((), 2), nn.mlp((), 1), distributions.Categorical)
        >>> params = both.init(keys.key(0), torch.zeros(5))
        >>> action, extras = both.act(params, keys.key(1), torch.zeros(7, 5))
        >>> action.shape, extras["value"].shape
        (torch.Size([7]), torch.Size([7]))
    """
    nets = {"trunk": trunk, "actor": actor, "critic": critic}
    for name, net in nets.items():
        check_net(f"actor_critic: {name}", net)
        if net.noisy:
            raise ValueError(f"actor_critic: {name}: expected a net without noise; use stochastic for it")
    _check.function("actor_critic: distribution", distribution, expected="a class or function")

    def init(key: torch.Tensor, observation: Any) -> dict[str, Any]:
        trunk_key, *head_keys = keys.split(key, 3).unbind(0)
        params = {"trunk": trunk.init(trunk_key, observation)}
        features = trunk.apply(params["trunk"], observation)
        return params | {name: nets[name].init(k, features) for k, name in zip(head_keys, ("actor", "critic"), strict=True)}

    def estimate(params: dict[str, Any], features: Any) -> torch.Tensor:
        value = critic.apply(params["critic"], features)
        if not isinstance(value, torch.Tensor) or value.ndim == 0 or value.shape[-1] != 1:
            raise ValueError("actor_critic: critic: expected an output [..., 1]; give it one output feature")
        return value.squeeze(-1)

    def evaluate(params: dict[str, Any], observation: Any) -> tuple[Any, torch.Tensor]:
        features = trunk.apply(params["trunk"], observation)
        return make_distribution(distribution, actor.apply(params["actor"], features)), estimate(params, features)

    def act(
        params: dict[str, Any], key: torch.Tensor | None, observation: Any, mode: str = "random", space: Any = None
    ) -> tuple[Any, dict[str, torch.Tensor]]:
        chosen, value = evaluate(params, observation)
        action, log_prob = choose("actor_critic.act", chosen, key, mode, space)
        return action, {"log_prob": log_prob(), "value": value}

    def value(params: dict[str, Any], observation: Any) -> torch.Tensor:
        return estimate(params, trunk.apply(params["trunk"], observation))

    return ActorCritic(init, act, ("log_prob", "value"), None, evaluate, value, projects=True)


def recurrent(cell: Any, policy: Any, encoder: Any = None) -> StatefulPolicy:
    """Make a recurrent policy: a policy of the output of a recurrent cell.

    Args:
        cell: ``nn.gru``, ``nn.lstm`` or another :class:`funrl.nn.Recurrent`.
        policy: a policy of the output of the cell.
        encoder: a net from the observation to the input of the cell; None: the input is the observation.

    Returns:
        A :class:`StatefulPolicy` whose state is the cell's carry, and whose parameters are a dict of ``cell``, ``policy`` and, if given,
        ``encoder``. The carry is reset before the first observation of an episode.

    Raises:
        TypeError: if an argument is of another kind.

    Example:
        >>> import torch
        >>> from funrl import distributions, nn, policies
        >>> from funrl import random as keys
        >>> policy = recurrent(nn.gru(8), policies.stochastic(nn.mlp((), 2), distributions.Categorical))
        >>> observation, reset = torch.zeros(5), torch.tensor(True)
        >>> params = policy.init(keys.key(0), observation)
        >>> state = policy.start(params, observation)
        >>> state, action, extras = policy.act(params, keys.key(1), state, observation, reset)
        >>> state.shape, list(extras)
        (torch.Size([8]), ['log_prob'])
    """
    _check.has("recurrent: cell", cell, ("init", "start", "apply", "unroll"), "what nn.gru or its like returned")
    if not hasattr(policy, "act") or hasattr(policy, "start"):
        raise TypeError(f"recurrent: policy: expected a policy without a state, got a {type(policy).__name__}")
    if encoder is not None:
        check_net("recurrent: encoder", encoder)

    def encode(params: dict[str, Any], observation: Any) -> torch.Tensor:
        return observation if encoder is None else encoder.apply(params["encoder"], observation)

    def init(key: torch.Tensor, observation: Any) -> dict[str, Any]:
        encoder_key, cell_key, policy_key = keys.split(key, 3).unbind(0)
        params = {} if encoder is None else {"encoder": encoder.init(encoder_key, observation)}
        x = encode(params, observation)
        params["cell"] = cell.init(cell_key, x)
        _, y = cell.apply(params["cell"], cell.start(x), x)
        return {**params, "policy": policy.init(policy_key, y)}

    def start(params: dict[str, Any], observation: Any) -> Any:
        return cell.start(encode(params, observation))

    def act(
        params: dict[str, Any], key: torch.Tensor | None, state: Any, observation: Any, reset: torch.Tensor, **options: Any
    ) -> tuple[Any, Any, dict[str, Any]]:
        state, y = cell.apply(params["cell"], state, encode(params, observation), reset)
        action, extras = policy.act(params["policy"], key, y, **options)
        return state, action, extras

    return StatefulPolicy(init, start, act, policy.extras, policy.first, policy.projects)
