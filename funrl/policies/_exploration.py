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
    """State of an exploring policy.

    Attributes:
        count: int64 [], calls so far, the argument of schedules.
        noise: floating point [A...], the present noise of :func:`ornstein_uhlenbeck`; () for the others.
        policy: the state of the wrapped policy, () if it has none.
    """

    count: torch.Tensor
    noise: Any
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

    def explore(own: list[torch.Tensor], state: ExplorationState, action: Any, reset: torch.Tensor) -> tuple[Any, Any]:
        coin_key, action_key = own
        other = _random_action(space, action_key, action)
        batch = tree.leaves(other)[0].shape[: len(_batch(space, action))]
        probability = _size_at(epsilon, state.count, torch.float32).expand(batch)
        return (), tree.where(keys.uniform(coin_key, tuple(batch)) < probability, other, action)

    return _exploring(policy, explore)


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

    def explore(own: list[torch.Tensor], state: ExplorationState, action: torch.Tensor, reset: torch.Tensor) -> tuple[Any, torch.Tensor]:
        noise = keys.normal(own[0], tuple(action.shape), dtype=action.dtype)
        return (), _shifted(space, action, _size_at(scale, state.count, action.dtype), noise)

    return _exploring(policy, explore)


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
        A :class:`StatefulPolicy` with an :class:`ExplorationState`. Resets set the noise to 0, and do not change the count.

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

    def start(observation: Any) -> torch.Tensor:
        dtype = next((x.dtype for x in tree.leaves(observation) if x.is_floating_point()), space.dtype)
        return torch.zeros(space.shape, dtype=dtype, device=tree.leaves(observation)[0].device)

    def explore(own: list[torch.Tensor], state: ExplorationState, action: torch.Tensor, reset: torch.Tensor) -> tuple[Any, torch.Tensor]:
        noise = torch.where(_over_action(space, reset), 0.0, state.noise)
        drawn = keys.normal(own[0], tuple(action.shape), dtype=action.dtype)
        noise = noise - theta * dt * noise + sigma * dt**0.5 * drawn
        return noise, _shifted(space, action, _size_at(scale, state.count, action.dtype), noise)

    return _exploring(policy, explore, start)


def _exploring(policy: Any, explore: Callable[..., Any], start_noise: Callable[[Any], Any] = lambda observation: ()) -> StatefulPolicy:
    """Make the policy whose actions ``explore(keys, state, action, reset) -> (noise, action)`` changes; there are two keys."""

    def start(params: Any, observation: Any) -> ExplorationState:
        count = torch.zeros((), dtype=torch.int64, device=tree.leaves(observation)[0].device)
        return ExplorationState(count, start_noise(observation), policy.start(params, observation) if hasattr(policy, "start") else ())

    def act(
        params: Any, key: torch.Tensor, state: ExplorationState, observation: Any, reset: torch.Tensor, **options: Any
    ) -> tuple[ExplorationState, Any, dict[str, Any]]:
        _check.flag("act: reset", reset, "give one for each state", shape=state.count.shape)
        policy_key, *others = keys.split(key, 3).unbind(0)
        if hasattr(policy, "start"):
            inner, action, extras = policy.act(params, policy_key, state.policy, observation, reset, **options)
        else:
            inner, (action, extras) = (), policy.act(params, policy_key, observation, **options)
        noise, action = explore(others, state, action, reset)
        return ExplorationState(state.count + 1, noise, inner), action, extras

    return StatefulPolicy(policy.init, start, act, policy.extras, getattr(policy, "first", None))


def _shifted(space: Box, action: torch.Tensor, size: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    return project(space, action + _over_action(space, size) * noise)


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
