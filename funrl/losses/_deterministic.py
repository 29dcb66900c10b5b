"""The losses of deterministic policy gradients: DDPG and TD3."""

from typing import Any

import torch

from funrl import _check, random
from funrl.losses._parts import (
    ActorCritic,
    bootstrap,
    check_transition,
    critic_metrics,
    detach,
    fields,
    mean,
    q_values,
    squared_errors,
    target_networks,
)
from funrl.typing import ActionValue, Apply, Metrics


def ddpg_critic_loss(
    critic_params: Any,
    target_params: ActorCritic,
    batch: Any,
    *,
    actor: Apply,
    critic: ActionValue,
    gamma: float | torch.Tensor,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The critic's loss of DDPG.

    .. math:: L = \frac1N \sum_i w_i (y_i - Q_\theta(s_i, a_i))^2, \qquad
        y = r + \gamma (1 - \mathrm{terminated})\, Q_{\bar\theta}(s', \mu_{\bar\phi}(s'))

    Args:
        critic_params: theta; the argument to differentiate.
        target_params: :class:`~funrl.losses.ActorCritic` of phi bar and theta bar; carries no gradient.
        batch: a :class:`funrl.env.Transition` of leaves [N...]. ``truncated`` is not used: a truncated step bootstraps from its
            ``next_observation``.
        actor: ``actor(actor_params, observation) -> action [N..., ...]``; for a deterministic policy,
            ``lambda params, observation: policy.act(params, None, observation)[0]``.
        critic: ``critic(critic_params, observation, action) -> Q [N...]``.
        gamma: in [0, 1], a number or a tensor [] or [N...] (gamma^m of n-step targets).
        weight: w, floating point [N...], of importance sampling; None: all 1.

    Returns:
        The loss [], and metrics, without gradient: ``critic_loss``, ``q_mean``, ``q_max``, ``target_mean``,
        ``target_max``, each [], and ``td_error`` |y - Q| [N...], for prioritised replay.

    Raises:
        ValueError: if shapes do not fit, or gamma is a Python number outside [0, 1].
        TypeError: if ``batch`` or ``target_params`` lacks a field, or a dtype is not as above.

    Example:
        >>> import torch
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False, False])
        >>> batch = Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.ones(2, 3), ())
        >>> networks = dict(actor=lambda p, s: s @ p, critic=lambda p, s, a: (p * torch.cat([s, a], -1)).sum(-1))
        >>> params = ActorCritic(actor=torch.ones(3, 1), critic=torch.ones(4))
        >>> loss, metrics = ddpg_critic_loss(params.critic, params, batch, gamma=0.5, **networks)
        >>> loss, metrics["target_mean"]
        (tensor(0.), tensor(4.))

    Reference: T. P. Lillicrap et al., "Continuous control with deep reinforcement learning", 2015, arXiv:1509.02971, algorithm 1.
    """
    what = "ddpg_critic_loss"
    check_transition(what, batch)
    target_params = target_networks(what, target_params)
    next_value = critic(target_params.critic, batch.next_observation, actor(target_params.actor, batch.next_observation))
    value = critic(critic_params, batch.observation, batch.action)
    _check.alike(what, **{"batch.reward": batch.reward, "critic's value": value, "critic's value of next_observation": next_value})
    target = bootstrap(what, batch, next_value, gamma)
    loss = mean(what, (target - value).square(), weight)
    return loss, critic_metrics(loss, value, target)


def ddpg_actor_loss(
    actor_params: Any, critic_params: Any, batch: Any, *, actor: Apply, critic: ActionValue, weight: torch.Tensor | None = None
) -> tuple[torch.Tensor, Metrics]:
    r"""The actor's loss of DDPG, whose gradient is the deterministic policy gradient.

    .. math:: L = -\frac1N \sum_i w_i\, Q_\theta(s_i, \mu_\phi(s_i))

    Args:
        actor_params: phi; the argument to differentiate.
        critic_params: theta; carries no gradient.
        batch: a :class:`funrl.env.Transition` of leaves [N...], of which only the observation is used.
        actor: ``actor(actor_params, observation) -> action [N..., ...]``.
        critic: ``critic(critic_params, observation, action) -> Q [N...]``.
        weight: w, floating point [N...]; None: all 1.

    Returns:
        The loss [], and metrics, without gradient: ``actor_loss`` [].

    Raises:
        ValueError: if shapes do not fit.
        TypeError: if ``batch`` lacks a field, or a dtype is not as above.

    Example:
        >>> import torch
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False, False])
        >>> batch = Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.ones(2, 3), ())
        >>> networks = dict(actor=lambda p, s: s @ p, critic=lambda p, s, a: (p * torch.cat([s, a], -1)).sum(-1))
        >>> differentiate = torch.func.grad_and_value(ddpg_actor_loss, has_aux=True)
        >>> gradient, (loss, _) = differentiate(torch.ones(3, 1), torch.ones(4), batch, **networks)
        >>> loss, gradient.squeeze()
        (tensor(-6.), tensor([-1., -1., -1.]))

    Reference: T. P. Lillicrap et al., "Continuous control with deep reinforcement learning", 2015, arXiv:1509.02971, equation 6.
    """
    what = "ddpg_actor_loss"
    check_transition(what, batch)
    value = critic(detach(critic_params), batch.observation, actor(actor_params, batch.observation))
    _check.alike(what, **{"batch.reward": batch.reward, "critic's value": value})
    loss = -mean(what, value, weight)
    return loss, {"actor_loss": loss.detach()}


def ddpg_loss(
    params: ActorCritic,
    target_params: ActorCritic,
    batch: Any,
    *,
    actor: Apply,
    critic: ActionValue,
    gamma: float | torch.Tensor,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The sum of :func:`ddpg_critic_loss` and :func:`ddpg_actor_loss`: each part of ``params`` gets the gradient of its own loss alone.

    Args:
        params: :class:`~funrl.losses.ActorCritic` of phi and theta; the argument to differentiate.
        target_params: :class:`~funrl.losses.ActorCritic` of phi bar and theta bar; carries no gradient.
        batch: as for :func:`ddpg_critic_loss`.
        actor: as for :func:`ddpg_critic_loss`.
        critic: as for :func:`ddpg_critic_loss`.
        gamma: as for :func:`ddpg_critic_loss`.
        weight: as for :func:`ddpg_critic_loss`; of both losses.

    Returns:
        The loss [], and metrics, without gradient: ``actor_loss``, ``critic_loss``, ``q_mean``, ``q_max``, ``target_mean``,
        ``target_max``, each [], and ``td_error`` [N...], for prioritised replay.

    Raises:
        ValueError: if shapes do not fit, or gamma is a Python number outside [0, 1].
        TypeError: if ``batch`` or one of the params lacks a field, or a dtype is not as above.

    Example:
        >>> import torch
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False, False])
        >>> batch = Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.ones(2, 3), ())
        >>> networks = dict(actor=lambda p, s: s @ p, critic=lambda p, s, a: (p * torch.cat([s, a], -1)).sum(-1))
        >>> params = ActorCritic(actor=torch.ones(3, 1), critic=torch.ones(4))
        >>> gradient, (loss, metrics) = torch.func.grad_and_value(ddpg_loss, has_aux=True)(params, params, batch, gamma=0.75, **networks)
        >>> metrics["critic_loss"], metrics["actor_loss"], gradient.critic
        (tensor(2.2500), tensor(-6.), tensor([-3., -3., -3., -3.]))

    Reference: T. P. Lillicrap et al., "Continuous control with deep reinforcement learning", 2015, arXiv:1509.02971.
    """
    fields("ddpg_loss: params", params, ("actor", "critic"), "funrl.losses.ActorCritic")
    critic_loss, metrics = ddpg_critic_loss(params.critic, target_params, batch, actor=actor, critic=critic, gamma=gamma, weight=weight)
    actor_loss, actor_metrics = ddpg_actor_loss(params.actor, params.critic, batch, actor=actor, critic=critic, weight=weight)
    return critic_loss + actor_loss, {**actor_metrics, **metrics}


def td3_critic_loss(
    critic_params: Any,
    target_params: ActorCritic,
    key: torch.Tensor,
    batch: Any,
    *,
    actor: Apply,
    critic: ActionValue,
    gamma: float | torch.Tensor,
    noise_std: float | torch.Tensor = 0.2,
    noise_clip: float | torch.Tensor = 0.5,
    low: float | torch.Tensor = -1.0,
    high: float | torch.Tensor = 1.0,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The critics' loss of TD3: the target is the minimum of two target critics at a noisy target action.

    .. math:: L = \sum_{e} \frac1N \sum_i w_i (y_i - Q_{\theta_e}(s_i, a_i))^2, \qquad
        y = r + \gamma (1 - \mathrm{terminated}) \min_e Q_{\bar\theta_e}(s', a')

    .. math:: a' = \mathrm{clip}\left(\mu_{\bar\phi}(s') + \mathrm{clip}(\epsilon, -c, c), l, h\right), \qquad
        \epsilon \sim \mathcal N(0, \sigma^2)

    Args:
        critic_params: theta, of E critics (two in the paper); the argument to differentiate.
        target_params: :class:`~funrl.losses.ActorCritic` of phi bar and theta bar; carries no gradient.
        key: int64 [], for the noise.
        batch: a :class:`funrl.env.Transition` of leaves [N...]. ``truncated`` is not used: a truncated step bootstraps from its
            ``next_observation``.
        actor: ``actor(actor_params, observation) -> action [N..., ...]``.
        critic: ``critic(critic_params, observation, action) -> Q of each critic [E, N...]``.
        gamma: in [0, 1], a number or a tensor [] or [N...] (gamma^m of n-step targets).
        noise_std: sigma, at least 0, in the units of the action; a number or a tensor that broadcasts to the action.
        noise_clip: c, at least 0, a number or a tensor that broadcasts to the action.
        low: l, the lower bound of actions; a number or a tensor that broadcasts to the action.
        high: h, the upper bound of actions; a number or a tensor that broadcasts to the action.
        weight: w, floating point [N...], of importance sampling; None: all 1.

    Returns:
        The loss [], and metrics, without gradient: ``critic_loss``, ``q_mean``, ``q_max``, ``target_mean``,
        ``target_max``, each [], and ``td_error`` max_e |y - Q_e| [N...], for prioritised replay.

    Raises:
        ValueError: if shapes do not fit, or a Python number is outside its range.
        TypeError: if ``batch`` or ``target_params`` lacks a field, or a dtype is not as above.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False, False])
        >>> batch = Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.ones(2, 3), ())
        >>> networks = dict(actor=lambda p, s: s @ p, critic=lambda p, s, a: (p[:, None] * torch.cat([s, a], -1)).sum(-1))
        >>> target = ActorCritic(actor=torch.ones(3, 1), critic=torch.tensor([[1.0, 1, 1, 1], [2, 2, 2, 2]]))
        >>> loss, metrics = td3_critic_loss(target.critic, target, random.key(0), batch, gamma=0.5, **networks)
        >>> loss, metrics["target_mean"]  # clip(3 + noise, -1, 1) = 1, and the first critic says 4
        (tensor(26.), tensor(3.))

    Reference: S. Fujimoto, H. van Hoof, D. Meger, "Addressing Function Approximation Error in Actor-Critic Methods", 2018,
        arXiv:1802.09477, algorithm 1. Noise is in the units of the action; the authors' code multiplies it by the upper bound.
    """
    what = "td3_critic_loss"
    check_transition(what, batch)
    target_params = target_networks(what, target_params)
    options: dict[str, Any] = {"noise_std": noise_std, "noise_clip": noise_clip, "low": low, "high": high}
    next_action = smoothed(what, actor(target_params.actor, batch.next_observation), key, **options)
    next_values = q_values(what, critic, target_params.critic, batch, next_action, after=True)
    target = bootstrap(what, batch, next_values.amin(0), gamma)
    return squared_errors(what, critic(critic_params, batch.observation, batch.action), target, weight)


def td3_actor_loss(
    actor_params: Any, critic_params: Any, batch: Any, *, actor: Apply, critic: ActionValue, weight: torch.Tensor | None = None
) -> tuple[torch.Tensor, Metrics]:
    r"""The actor's loss of TD3, with the first critic. The actor is updated less often than the critics.

    .. math:: L = -\frac1N \sum_i w_i\, Q_{\theta_1}(s_i, \mu_\phi(s_i))

    Args:
        critic: ``critic(critic_params, observation, action) -> Q of each critic [E, N...]``.
        actor_params, critic_params, batch, actor, weight: as for :func:`funrl.losses.ddpg_actor_loss`.

    Returns:
        The loss [], and metrics, without gradient: ``actor_loss`` [].

    Raises:
        ValueError, TypeError: as for :func:`funrl.losses.ddpg_actor_loss`.

    Example:
        >>> import torch
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False, False])
        >>> batch = Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.ones(2, 3), ())
        >>> networks = dict(actor=lambda p, s: s @ p, critic=lambda p, s, a: (p[:, None] * torch.cat([s, a], -1)).sum(-1))
        >>> critic_params = torch.tensor([[1.0, 1, 1, 1], [2, 2, 2, 2]])
        >>> differentiate = torch.func.grad_and_value(td3_actor_loss, has_aux=True)
        >>> gradient, (loss, _) = differentiate(torch.ones(3, 1), critic_params, batch, **networks)
        >>> loss, gradient.squeeze()
        (tensor(-6.), tensor([-1., -1., -1.]))

    Reference: S. Fujimoto, H. van Hoof, D. Meger, "Addressing Function Approximation Error in Actor-Critic Methods", 2018,
        arXiv:1802.09477, algorithm 1.
    """
    what = "td3_actor_loss"
    check_transition(what, batch)
    values = q_values(what, critic, detach(critic_params), batch, actor(actor_params, batch.observation))
    loss = -mean(what, values[0], weight)
    return loss, {"actor_loss": loss.detach()}


def smoothed(
    what: str,
    action: torch.Tensor,
    key: torch.Tensor,
    *,
    noise_std: float | torch.Tensor,
    noise_clip: float | torch.Tensor,
    low: float | torch.Tensor,
    high: float | torch.Tensor,
) -> torch.Tensor:
    """Return a target actor's actions with clipped noise, in their bounds."""
    if not isinstance(low, torch.Tensor) and not isinstance(high, torch.Tensor) and not low < high:
        raise ValueError(f"{what}: low and high: expected low < high, got {low} and {high}; give the bounds of the action space")
    std, clip = (_check.in_dtype(f"{what}: {name}", x, action) for name, x in {"noise_std": noise_std, "noise_clip": noise_clip}.items())
    noise = _clip(std * random.normal(key, tuple(action.shape), dtype=action.dtype), -clip, clip)
    return _clip(action + noise, low, high)


def _clip(x: torch.Tensor, low: float | torch.Tensor, high: float | torch.Tensor) -> torch.Tensor:
    low, high = (torch.as_tensor(end, dtype=x.dtype, device=x.device) for end in (low, high))
    return torch.minimum(torch.maximum(x, low), high)
