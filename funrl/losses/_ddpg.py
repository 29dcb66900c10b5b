"""The losses of deep deterministic policy gradients."""

from typing import Any

import torch

from funrl import _check
from funrl.losses._actor_critic import ActorCritic, bootstrap, check_transition, critic_metrics, target_networks
from funrl.losses._checks import detach, fields, mean
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
