"""Exploration: noise added to a policy, with its state as an argument and its size from a schedule.

A size is a number, a tensor [], or a schedule of :mod:`funrl.schedules`, a function of the steps so far:
``schedules.linear(1.0, 0.05, 10_000)`` anneals it. Each environment counts its own steps; resets do not change the count.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import one_hot

from funrl import _check, random as keys, tree
from funrl.policies._policy import StatefulPolicy, check_first, check_log_prob, check_policy, leading, project
from funrl.spaces import Box, Discrete

Size = float | torch.Tensor | Callable[[torch.Tensor], torch.Tensor]


@tree.dataclass
class ExplorationState:
    """State of :func:`epsilon_greedy` and :func:`additive_gaussian`.

    Attributes:
        count: int64 [], the steps so far.
        policy: the state of the wrapped policy, () if it has none.
    """

    count: torch.Tensor
    policy: Any


@tree.dataclass
class OrnsteinUhlenbeckState:
    """State of :func:`ornstein_uhlenbeck`.

    Attributes:
        count: int64 [], the steps so far.
        noise: floating point [A...], with the shape of an action.
        policy: the state of the wrapped policy, () if it has none.
    """

    count: torch.Tensor
    noise: torch.Tensor
    policy: Any


def epsilon_greedy(policy: Any, space: Any, epsilon: Size) -> StatefulPolicy:
    r"""Make a policy that takes a random action with probability epsilon, and otherwise the action of the given policy.

    Args:
        policy: a policy, stateful or not.
        space: the space of its actions. If it is Discrete and the policy's actions are one-hot vectors, so are the random ones.
        epsilon: in [0, 1]: a number, a tensor [] or a schedule.

    Returns:
        A :class:`StatefulPolicy` with an :class:`ExplorationState`. Resets do not change its count. The extras are those of the policy,
        also for a random action.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if a Python number is out of its range, the policy's first action differs from the space's, or the policy has
            ``log_prob`` among its extras, which would be wrong for a random action; from ``act``, if an action does not fit the space.

    Example:
        >>> import torch
        >>> from funrl import nn, policies, schedules, spaces
        >>> from funrl import random as keys
        >>> greedy = policies.q_value(nn.mlp((16,), 4))
        >>> policy = epsilon_greedy(greedy, spaces.Discrete(4), schedules.linear(1.0, 0.05, 1000))
        >>> observation = torch.zeros(3)
        >>> params = policy.init(keys.key(0), observation)
        >>> state = policy.start(params, observation)
        >>> state, action, extras = policy.act(params, keys.key(1), state, observation, torch.tensor(True))
        >>> state.count, action.shape
        (tensor(1), torch.Size([]))

    Reference: R. S. Sutton, A. G. Barto, "Reinforcement Learning: An Introduction", 2nd edition, 2018, section 2.2.
    """
    check_policy("epsilon_greedy", policy)
    _check_space("epsilon_greedy", space)
    _check_size("epsilon_greedy: epsilon", epsilon, "[0, 1]")
    check_first("epsilon_greedy", policy, space)
    check_log_prob("epsilon_greedy", policy)

    def start(params: Any, observation: Any) -> ExplorationState:
        return ExplorationState(_count(observation), _start(policy, params, observation))

    def act(
        params: Any, key: torch.Tensor, state: ExplorationState, observation: Any, reset: torch.Tensor, **options: Any
    ) -> tuple[ExplorationState, Any, dict[str, Any]]:
        policy_key, coin_key, action_key = keys.split(key, 3).unbind(0)
        inner, action, extras = _act(policy, params, policy_key, state, observation, reset, options)
        other = _random_action(space, action_key, action)
        batch = tree.leaves(other)[0].shape[: len(_batch(space, action))]
        probability = _size_at(epsilon, state.count, torch.float32).expand(batch)
        explore = keys.uniform(coin_key, tuple(batch)) < probability
        return ExplorationState(state.count + 1, inner), tree.where(explore, other, action), extras

    return StatefulPolicy(policy.init, start, act, policy.extras, getattr(policy, "first", None))


def additive_gaussian(policy: Any, space: Box, scale: Size) -> StatefulPolicy:
    r"""Make a policy that adds independent normal noise to its actions, and projects them into the space.

    .. math:: a = \mathrm{clip}(\pi(s) + \sigma \varepsilon, l, h), \qquad \varepsilon \sim \mathcal N(0, 1)

    Args:
        policy: a policy, stateful or not, of floating-point actions.
        space: their Box.
        scale: sigma, at least 0, in units of the action: a number, a tensor [] or a schedule.

    Returns:
        A :class:`StatefulPolicy` with an :class:`ExplorationState`. Resets do not change its count.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if a Python number is out of its range, or the policy has ``log_prob`` among its extras; from ``act``, if an action
            does not fit the space.

    Example:
        >>> import torch
        >>> from funrl import nn, policies, spaces
        >>> from funrl import random as keys
        >>> policy = additive_gaussian(policies.deterministic(nn.mlp((16,), 2)), spaces.Box(-1.0, 1.0, (2,)), 0.1)
        >>> observations, reset = torch.zeros(7, 3), torch.ones(7, dtype=torch.bool)
        >>> params = policy.init(keys.key(0), observations[0])
        >>> state = torch.func.vmap(policy.start, (None, 0))(params, observations)
        >>> state, action, extras = policy.act(params, keys.key(1), state, observations, reset)
        >>> action.shape, state.count.shape
        (torch.Size([7, 2]), torch.Size([7]))

    Reference: S. Fujimoto, H. van Hoof, D. Meger, "Addressing Function Approximation Error in Actor-Critic Methods", 2018,
        arXiv:1802.09477, section 5.1.
    """
    check_policy("additive_gaussian", policy)
    check_log_prob("additive_gaussian", policy)
    _check_box("additive_gaussian", space)
    _check_size("additive_gaussian: scale", scale)

    def start(params: Any, observation: Any) -> ExplorationState:
        return ExplorationState(_count(observation), _start(policy, params, observation))

    def act(
        params: Any, key: torch.Tensor, state: ExplorationState, observation: Any, reset: torch.Tensor, **options: Any
    ) -> tuple[ExplorationState, torch.Tensor, dict[str, Any]]:
        policy_key, noise_key = keys.split(key).unbind(0)
        inner, action, extras = _act(policy, params, policy_key, state, observation, reset, options)
        noise = keys.normal(noise_key, tuple(action.shape), dtype=action.dtype)
        sigma = _over_action(space, _size_at(scale, state.count, action.dtype))
        return ExplorationState(state.count + 1, inner), project(space, action + sigma * noise), extras

    return StatefulPolicy(policy.init, start, act, policy.extras)


def ornstein_uhlenbeck(
    policy: Any, space: Box, scale: Size = 1.0, *, theta: float = 0.15, sigma: float = 0.2, dt: float = 0.01
) -> StatefulPolicy:
    r"""Make a policy that adds noise of an Ornstein-Uhlenbeck process to its actions, and projects them into the space.

    .. math:: x_{t+1} = x_t - \theta x_t\,dt + \sigma \sqrt{dt}\,\varepsilon, \qquad a = \mathrm{clip}(\pi(s) + \epsilon x_{t+1}, l, h)

    The process starts at 0 in each episode.

    Args:
        policy: a policy, stateful or not, of floating-point actions.
        space: their Box.
        scale: epsilon, at least 0, the factor of the noise: a number, a tensor [] or a schedule.
        theta: how fast the noise returns to 0, at least 0.
        sigma: how fast it spreads, at least 0, in units of the action.
        dt: the time of a step, above 0.

    Returns:
        A :class:`StatefulPolicy` with an :class:`OrnsteinUhlenbeckState`. Resets set the noise to 0, and do not change the count.

    Raises:
        TypeError: if an argument is of another kind.
        ValueError: if a number is out of its range, or the policy has ``log_prob`` among its extras; from ``act``, if an action does not
            fit the space.

    Example:
        >>> import torch
        >>> from funrl import nn, policies, schedules, spaces
        >>> from funrl import random as keys
        >>> policy = ornstein_uhlenbeck(
        ...     policies.deterministic(nn.mlp((16,), 2)), spaces.Box(-1.0, 1.0, (2,)), schedules.linear(1.0, 0.1, 1000)
        ... )
        >>> observation = torch.zeros(3)
        >>> params = policy.init(keys.key(0), observation)
        >>> state = policy.start(params, observation)
        >>> state, action, extras = policy.act(params, keys.key(1), state, observation, torch.tensor(True))
        >>> bool((state.noise == action - policies.deterministic(nn.mlp((16,), 2)).act(params, None, observation)[0]).all())
        True

    Reference: G. E. Uhlenbeck, L. S. Ornstein, "On the Theory of the Brownian Motion", 1930; T. P. Lillicrap et al., "Continuous control
        with deep reinforcement learning", 2015, arXiv:1509.02971, section 7.
    """
    check_policy("ornstein_uhlenbeck", policy)
    check_log_prob("ornstein_uhlenbeck", policy)
    _check_box("ornstein_uhlenbeck", space)
    _check_size("ornstein_uhlenbeck: scale", scale)
    for name, x in (("theta", theta), ("sigma", sigma), ("dt", dt)):
        _check.number(f"ornstein_uhlenbeck: {name}", x, "(0, inf]" if name == "dt" else "[0, inf]")

    def start(params: Any, observation: Any) -> OrnsteinUhlenbeckState:
        dtype = next((x.dtype for x in tree.leaves(observation) if x.is_floating_point()), space.dtype)
        count = _count(observation)
        return OrnsteinUhlenbeckState(
            count, torch.zeros(space.shape, dtype=dtype, device=count.device), _start(policy, params, observation)
        )

    def act(
        params: Any, key: torch.Tensor, state: OrnsteinUhlenbeckState, observation: Any, reset: torch.Tensor, **options: Any
    ) -> tuple[OrnsteinUhlenbeckState, torch.Tensor, dict[str, Any]]:
        policy_key, noise_key = keys.split(key).unbind(0)
        inner, action, extras = _act(policy, params, policy_key, state, observation, reset, options)
        noise = torch.where(_over_action(space, reset), 0.0, state.noise)
        drawn = keys.normal(noise_key, tuple(action.shape), dtype=action.dtype)
        noise = noise - theta * dt * noise + sigma * dt**0.5 * drawn
        size = _over_action(space, _size_at(scale, state.count, action.dtype))
        return OrnsteinUhlenbeckState(state.count + 1, noise, inner), project(space, action + size * noise), extras

    return StatefulPolicy(policy.init, start, act, policy.extras)


def _start(policy: Any, params: Any, observation: Any) -> Any:
    return policy.start(params, observation) if hasattr(policy, "start") else ()


def _act(
    policy: Any, params: Any, key: torch.Tensor, state: Any, observation: Any, reset: torch.Tensor, options: dict[str, Any]
) -> tuple[Any, Any, dict[str, Any]]:
    _check.flag("act: reset", reset, "give one for each state", shape=state.count.shape)
    if hasattr(policy, "start"):
        return policy.act(params, key, state.policy, observation, reset, **options)
    return (), *policy.act(params, key, observation, **options)


def _count(observation: Any) -> torch.Tensor:
    return torch.zeros((), dtype=torch.int64, device=tree.leaves(observation)[0].device)


def _size_at(size: Size, count: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if callable(size):
        return size(count).to(dtype)
    return torch.as_tensor(size, dtype=dtype, device=count.device).expand(count.shape)


def _over_action(space: Box, x: torch.Tensor) -> torch.Tensor:
    """Reshape a tensor [...] so that it broadcasts to actions [..., A...]."""
    return x.reshape(*x.shape, *(1 for _ in space.shape))


def _one_hot(space: Any, action: Any) -> bool:
    return isinstance(space, Discrete) and action.is_floating_point()


def _batch(space: Any, action: Any) -> torch.Size:
    return action.shape[:-1] if _one_hot(space, action) else leading(space, action)


def _random_action(space: Any, key: torch.Tensor, like: Any) -> Any:
    """Return random actions of the shape and encoding of ``like``."""
    batch, sample = _batch(space, like), space.sample
    for _ in batch:
        sample = torch.func.vmap(sample)
    action = sample(keys.split(key, tuple(batch))) if batch else sample(key)
    if _one_hot(space, like):
        if like.shape[-1] != space.n:
            raise ValueError(f"epsilon_greedy: policy: expected one-hot actions [..., {space.n}], got the shape {list(like.shape)}")
        return one_hot(action - space.start, space.n).to(like.dtype)
    tree.check_like(like, action, "epsilon_greedy: the policy's action", f"the space {space}", dtypes=not isinstance(space, Box))
    return tree.map(lambda x, y: x.to(y.dtype), action, like)


def _check_space(what: str, space: Any) -> None:
    if not callable(getattr(space, "sample", None)):
        raise TypeError(f"{what}: space: expected a space of funrl.spaces, got a {type(space).__name__}")


def _check_box(what: str, space: Any) -> None:
    if not isinstance(space, Box) or not space.dtype.is_floating_point:
        raise TypeError(f"{what}: space: expected a floating-point Box, got {space}; use epsilon_greedy for other actions")


def _check_size(what: str, size: Any, interval: str = "[0, inf]") -> None:
    if not callable(size):
        _check.number(what, size, interval, "or give a schedule", tensor=True)
