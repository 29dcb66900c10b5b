"""The networks of learners that have a policy and a value: from an environment's spaces and a configuration to pure functions."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from funrl import nn, random
from funrl.algos.algorithm import check_range
from funrl.algos.images import above, check_layers, check_observations, convolutions
from funrl.distributions import Categorical, Independent, Normal
from funrl.env import Env
from funrl.spaces import Box, Discrete

__all__ = ["Network", "check", "check_recurrent", "make", "make_recurrent"]

_CELLS = {"gru": nn.gru, "lstm": nn.lstm, "min_gru": nn.min_gru}


class Network(NamedTuple):
    """A policy and a value function.

    Attributes:
        init: ``init(key, observation) -> params``, a dict.
        policy: ``policy(params, observation [..., D]) -> distribution``.
        value: ``value(params, observation [..., D]) -> value [...]``.
        both: ``both(params, observation [..., D]) -> (distribution, value)``, with the work of a shared trunk done once.
    """

    init: Callable[..., Any]
    policy: Callable[..., Any]
    value: Callable[..., Any]
    both: Callable[..., Any]


def make(config: Any, env: Env) -> Network:
    """Make the networks for an environment; where it shows images, convolutions come first.

    Args:
        config: has ``num_channels``, ``kernel_size``, ``stride``, ``layout``, ``num_cells``, ``activation``, ``trunk``, ``uniform_mix`` and
            ``initial_log_std``, as :class:`funrl.algos.ppo.PPOConfig` says.
        env: the environment, which :func:`check` let pass.

    Returns:
        A :class:`Network`; its parameters are a dict of ``policy`` and ``value`` (and ``trunk``), and ``log_std`` [A] for continuous
        actions.

    Example:
        >>> import funrl
        >>> network = make(funrl.algos.ppo.PPOConfig(), funrl.envs.make("CartPole-v1"))
        >>> params = network.init(random.key(0), torch.zeros(4))
        >>> policy, value = network.both(params, torch.zeros(5, 3, 4))
        >>> policy.logits.shape, value.shape
        (torch.Size([5, 3, 2]), torch.Size([5, 3]))
    """
    return _make(config, env, convolutions(config, env.observation_space) if _shows_images(env) else None)


def make_recurrent(config: Any, env: Env) -> tuple[Network, nn.Recurrent]:
    """Make a memory, and the networks over the features [..., F] that it makes of observations.

    The memory is a recurrent cell, above convolutions where the environment shows images. Policy and value share it.

    Args:
        config: as for :func:`make`, with ``recurrent`` and ``recurrent_size``.
        env: the environment, which :func:`check` let pass.

    Returns:
        A :class:`Network` whose functions but ``init`` take features in place of observations, and a :class:`funrl.nn.Recurrent` of the
        same parameters, which have an entry ``memory`` too; its ``start(params, observation)`` takes them as well.

    Example:
        >>> import funrl
        >>> config = funrl.algos.ppo.PPOConfig(recurrent="gru", recurrent_size=8)
        >>> network, memory = make_recurrent(config, funrl.envs.make("CartPole-v1"))
        >>> observation = torch.zeros(5, 3, 4)
        >>> params = network.init(random.key(0), observation[0, 0])
        >>> _, features = memory.unroll(params, memory.start(params, observation[0]), observation)
        >>> features.shape, network.value(params, features).shape
        (torch.Size([5, 3, 8]), torch.Size([5, 3]))
    """
    cell = _CELLS[config.recurrent](config.recurrent_size)
    eye = convolutions(config, env.observation_space) if _shows_images(env) else nn.Net(lambda key, example: (), lambda params, x: x)
    network = _make(config, env, None)

    def seen(params: dict[str, Any], observation: torch.Tensor) -> torch.Tensor:
        return eye.apply(params["memory"]["below"], observation)

    def init_memory(key: torch.Tensor, observation: torch.Tensor) -> dict[str, Any]:
        eye_key, cell_key = random.split(key).unbind(0)
        below = eye.init(eye_key, observation)
        return {"memory": {"below": below, "cell": cell.init(cell_key, eye.apply(below, observation))}}

    memory = nn.Recurrent(
        init_memory,
        lambda params, observation: cell.start(seen(params, observation)),
        lambda params, carry, x, reset=None: cell.apply(params["memory"]["cell"], carry, seen(params, x), reset),
        lambda params, carry, xs, reset=None: cell.unroll(params["memory"]["cell"], carry, seen(params, xs), reset),
    )

    def init(key: torch.Tensor, observation: torch.Tensor) -> dict[str, Any]:
        memory_key, network_key = random.split(key).unbind(0)
        params = memory.init(memory_key, observation)
        _, features = memory.apply(params, memory.start(params, observation), observation)
        return {**params, **network.init(network_key, features)}

    return network._replace(init=init), memory


def _shows_images(env: Env) -> bool:
    return len(env.observation_space.shape) == 3


def _make(config: Any, env: Env, eye: nn.Net | None) -> Network:
    """Make the networks above ``eye``, or on what comes in."""
    space = env.action_space
    continuous = isinstance(space, Box)
    size = math.prod(space.shape) if continuous else space.n
    small, unit = nn.orthogonal(0.01), nn.orthogonal(1.0)
    shared = config.trunk == "shared"

    def body(*head: int, **options: Any) -> nn.Net:
        """Return hidden layers and a head."""
        mlp = nn.mlp(config.num_cells, *head, activation=config.activation, **options)
        return mlp if eye is None else above(eye, mlp)

    policy = nn.mlp((), size, out_init=small) if shared else body(size, out_init=small)
    value = nn.mlp((), 1, out_init=unit) if shared else body(1, out_init=unit)
    trunk = body() if shared else None

    def init(key: torch.Tensor, observation: torch.Tensor) -> dict[str, Any]:
        trunk_key, policy_key, value_key = random.split(key, 3).unbind(0)
        params = {}
        if trunk is not None:
            params["trunk"] = trunk.init(trunk_key, observation)
            observation = trunk.apply(params["trunk"], observation)
        params |= {"policy": policy.init(policy_key, observation), "value": value.init(value_key, observation)}
        if continuous:
            params["log_std"] = observation.new_full((size,), config.initial_log_std)
        return params

    def features(params: dict[str, Any], observation: torch.Tensor) -> torch.Tensor:
        return observation if trunk is None else trunk.apply(params["trunk"], observation)

    def distribution(params: dict[str, Any], features: torch.Tensor) -> Any:
        output = policy.apply(params["policy"], features)
        if continuous:
            loc = output.reshape(*output.shape[:-1], *space.shape)
            scale = params["log_std"].exp().reshape(space.shape).expand_as(loc)
            return Independent(Normal(loc, scale), len(space.shape))
        if config.uniform_mix:
            output = torch.log((1 - config.uniform_mix) * torch.softmax(output, -1) + config.uniform_mix / size)
        return Categorical(output)

    def estimate(params: dict[str, Any], features: torch.Tensor) -> torch.Tensor:
        return value.apply(params["value"], features).squeeze(-1)

    def both(params: dict[str, Any], observation: torch.Tensor) -> tuple[Any, torch.Tensor]:
        x = features(params, observation)
        return distribution(params, x), estimate(params, x)

    return Network(
        init,
        lambda params, observation: distribution(params, features(params, observation)),
        lambda params, observation: estimate(params, features(params, observation)),
        both,
    )


def check(config: Any, env: Env) -> None:
    """Raise unless an environment has spaces for which :func:`make` makes networks, and the options fit them.

    Args:
        config: as for :func:`make`.
        env: the environment.

    Raises:
        ValueError: if they do not.

    Example:
        >>> import funrl
        >>> check(funrl.algos.ppo.PPOConfig(trunk="both"), funrl.envs.make("CartPole-v1"))
        Traceback (most recent call last):
        ...
        ValueError: trunk: expected 'separate' or 'shared', got 'both'
    """
    check_range(config, ("initial_log_std",), -20, 20)
    check_range(config, ("uniform_mix",), 0, 1 - 1e-6)
    if config.trunk not in ("separate", "shared"):
        raise ValueError(f"trunk: expected 'separate' or 'shared', got {config.trunk!r}")
    check_observations(env)
    check_layers(config, env)
    actions = env.action_space
    if not isinstance(actions, Discrete) and not (isinstance(actions, Box) and actions.dtype.is_floating_point):
        raise ValueError(f"env: expected Discrete or floating-point Box actions, got {actions}")
    if isinstance(actions, Box) and config.uniform_mix:
        raise ValueError(f"uniform_mix: is for discrete actions, but {env.name} has continuous ones; leave it at 0")
    if isinstance(actions, Discrete) and config.initial_log_std:
        raise ValueError(f"initial_log_std: is for continuous actions, but {env.name} has discrete ones; leave it at 0")


def check_recurrent(config: Any) -> None:
    """Raise unless the options ``recurrent``, ``recurrent_size`` and ``num_minibatches`` (of environments) can be a memory's.

    Args:
        config: has them, and ``num_envs``.

    Raises:
        ValueError: if one is unknown or out of its range.

    Example:
        >>> import funrl
        >>> check_recurrent(funrl.algos.ppo.PPOConfig(recurrent="gnu"))
        Traceback (most recent call last):
        ...
        ValueError: recurrent: expected 'none' or one of gru, lstm, min_gru, got 'gnu'
    """
    check_range(config, ("recurrent_size",), 1)
    if config.recurrent not in ("none", *_CELLS):
        raise ValueError(f"recurrent: expected 'none' or one of {', '.join(_CELLS)}, got {config.recurrent!r}")
    if config.recurrent != "none" and config.num_envs % config.num_minibatches:
        raise ValueError(
            f"num_minibatches: {config.num_minibatches} does not divide num_envs = {config.num_envs}, and a recurrent policy learns from "
            "whole environments; choose a divisor"
        )
