"""Losses of actor-critics that stay close to the data: TD3+BC and ReBRAC; and critics of a stochastic policy, for AWAC."""

from typing import Any

import torch

from funrl import _check
from funrl.losses._deterministic import smoothed
from funrl.losses._imitation import distance
from funrl.losses._parts import ActorCritic, bootstrap, check_transition, detach, mean, q_values, squared_errors, target_networks
from funrl.typing import ActionValue, Actor, Metrics


def td3_bc_actor_loss(
    actor_params: Any,
    critic_params: Any,
    batch: Any,
    *,
    actor: Actor,
    critic: ActionValue,
    alpha: float | torch.Tensor = 2.5,
    scale: float | torch.Tensor = 1.0,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The actor's loss of TD3+BC: the first critic, in units of its own size, and the distance to the actions of the data.

    .. math:: L = \frac1N \sum_i w_i \left(-\lambda\, Q_{\theta_1}(s_i, \mu_\phi(s_i)) +
        \frac1A \left\lVert \frac{\mu_\phi(s_i) - a_i}{c} \right\rVert^2\right), \qquad
        \lambda = \frac{\alpha}{\frac1N \sum_i |Q_{\theta_1}(s_i, \mu_\phi(s_i))|}

    Args:
        actor_params: phi; the argument to differentiate.
        critic_params: theta; carries no gradient.
        batch: a :class:`funrl.env.Transition` of leaves [N...], of which observation and action are used.
        actor: ``actor(actor_params, observation) -> action [N..., A]``.
        critic: ``critic(critic_params, observation, action) -> Q of each critic [E, N...]``.
        alpha: at least 0, a number or a tensor []; 0 is behavioural cloning.
        scale: c, above 0, half the width of the action space, a number or a tensor that broadcasts to the action.
        weight: w, floating point [N...]; None: all 1.

    Returns:
        The loss [], and metrics, without gradient: ``actor_loss`` and ``bc_loss``, each [].

    Raises:
        ValueError: if shapes do not fit, or alpha is a negative Python number.
        TypeError: if ``batch`` lacks a field, or a dtype is not as above.

    Example:
        >>> import torch
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False, False])
        >>> batch = Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.ones(2, 3), ())
        >>> networks = dict(actor=lambda p, s: s @ p, critic=lambda p, s, a: (p[:, None] * torch.cat([s, a], -1)).sum(-1))
        >>> td3_bc_actor_loss(torch.ones(3, 1), torch.ones(2, 4), batch, alpha=2.5, **networks)[0]  # -2.5 + (3 - 1)^2
        tensor(1.5000)

    Reference: S. Fujimoto, S. S. Gu, "A Minimalist Approach to Offline Reinforcement Learning", 2021, arXiv:2106.06860, equations 3 and 5;
        the distance is the mean over action dimensions, as in the authors' code.
    """
    what = "td3_bc_actor_loss"
    check_transition(what, batch)
    chosen = actor(actor_params, batch.observation)
    apart = distance(what, chosen, batch.action, scale).mean(-1)
    values = q_values(what, critic, detach(critic_params), batch, chosen)
    unit = _check.in_dtype(f"{what}: alpha", alpha, batch.reward) / _size(values[0])
    loss = mean(what, apart - unit * values[0], weight)
    return loss, {"actor_loss": loss.detach(), "bc_loss": apart.detach().mean()}


def rebrac_actor_loss(
    actor_params: Any,
    critic_params: Any,
    batch: Any,
    *,
    actor: Actor,
    critic: ActionValue,
    beta: float | torch.Tensor,
    scale: float | torch.Tensor = 1.0,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The actor's loss of ReBRAC.

    .. math:: L = \frac1N \sum_i w_i \left(\beta \left\lVert \frac{\mu_\phi(s_i) - a_i}{c} \right\rVert^2 -
        \lambda \min_e Q_{\theta_e}(s_i, \mu_\phi(s_i))\right), \qquad
        \lambda = \frac{1}{\frac1N \sum_i |\min_e Q_{\theta_e}(s_i, \mu_\phi(s_i))|}

    Args:
        actor_params, critic_params, batch, actor, critic, scale, weight: as for :func:`td3_bc_actor_loss`.
        beta: at least 0, a number or a tensor [].

    Returns:
        The loss [], and metrics, without gradient: ``actor_loss`` and ``bc_loss``, each [].

    Raises:
        ValueError, TypeError: as for :func:`td3_bc_actor_loss`.

    Example:
        >>> import torch
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False, False])
        >>> batch = Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.ones(2, 3), ())
        >>> networks = dict(actor=lambda p, s: s @ p, critic=lambda p, s, a: (p[:, None] * torch.cat([s, a], -1)).sum(-1))
        >>> rebrac_actor_loss(torch.ones(3, 1), torch.ones(2, 4), batch, beta=0.5, **networks)[0]  # 0.5 (3 - 1)^2 - 1
        tensor(1.)

    Reference: D. Tarasov, V. Kurenkov, A. Nikulin, S. Kolesnikov, "Revisiting the Minimalist Approach to Offline Reinforcement Learning",
        2023, arXiv:2305.09836, equation 4, with the normalised Q of the authors' code.
    """
    what = "rebrac_actor_loss"
    check_transition(what, batch)
    chosen = actor(actor_params, batch.observation)
    apart = distance(what, chosen, batch.action, scale).sum(-1)
    values = q_values(what, critic, detach(critic_params), batch, chosen)
    least = values.amin(0)
    loss = mean(what, _check.in_dtype(f"{what}: beta", beta, batch.reward) * apart - least / _size(least), weight)
    return loss, {"actor_loss": loss.detach(), "bc_loss": apart.detach().mean()}


def rebrac_critic_loss(
    critic_params: Any,
    target_params: ActorCritic,
    key: torch.Tensor,
    batch: Any,
    *,
    actor: Actor,
    critic: ActionValue,
    gamma: float | torch.Tensor,
    beta: float | torch.Tensor,
    scale: float | torch.Tensor = 1.0,
    noise_std: float | torch.Tensor = 0.2,
    noise_clip: float | torch.Tensor = 0.5,
    low: float | torch.Tensor = -1.0,
    high: float | torch.Tensor = 1.0,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The critics' loss of ReBRAC: TD3's, whose target falls with the distance of the next action from that of the data.

    .. math:: L = \sum_e \frac1N \sum_i w_i (y_i - Q_{\theta_e}(s_i, a_i))^2, \qquad
        y = r + \gamma (1 - \mathrm{terminated}) \left(\min_e Q_{\bar\theta_e}(s', \tilde a') -
        \beta \left\lVert \frac{\tilde a' - \hat a'}{c} \right\rVert^2\right)

    with the smoothed action a~' of :func:`funrl.losses.td3_critic_loss` and the next action of the data, a^'. Where the data has none,
    at ends of pieces, there is no penalty.

    Args:
        critic_params: theta, of E critics; the argument to differentiate.
        target_params: :class:`~funrl.losses.ActorCritic` of the targets; carries no gradient.
        key: int64 [], for the noise.
        batch: a :class:`funrl.env.Transition` of leaves [N...], with ``extras["next_action"]`` [N..., A] and
            ``extras["has_next"]``, bool [N...].
        actor, critic, gamma, noise_std, noise_clip, low, high, weight: as for :func:`funrl.losses.td3_critic_loss`.
        beta: at least 0, a number or a tensor [].
        scale: c, as for :func:`td3_bc_actor_loss`.

    Returns:
        The loss [], and metrics as for :func:`funrl.losses.td3_critic_loss`.

    Raises:
        ValueError, TypeError: as for :func:`funrl.losses.td3_critic_loss`; if the batch lacks the next actions.

    Example:
        >>> import torch
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False, False])
        >>> from funrl import random
        >>> after = {"next_action": torch.zeros(2, 1), "has_next": torch.tensor([True, False])}
        >>> batch = Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.ones(2, 3), after)
        >>> networks = dict(actor=lambda p, s: s @ p, critic=lambda p, s, a: (p[:, None] * torch.cat([s, a], -1)).sum(-1))
        >>> target = ActorCritic(torch.ones(3, 1), torch.ones(2, 4))
        >>> loss, metrics = rebrac_critic_loss(
        ...     target.critic, target, random.key(0), batch, gamma=1.0, beta=2.0, noise_std=0.0, **networks
        ... )
        >>> metrics["td_error"]  # 1 + (4 - 2) - 4 and 1 + 4 - 4
        tensor([1., 1.])

    Reference: D. Tarasov, V. Kurenkov, A. Nikulin, S. Kolesnikov, "Revisiting the Minimalist Approach to Offline Reinforcement Learning",
        2023, arXiv:2305.09836, equation 5.
    """
    what = "rebrac_critic_loss"
    check_transition(what, batch)
    target_params = target_networks(what, target_params)
    if "next_action" not in batch.extras or "has_next" not in batch.extras:
        raise ValueError(f"{what}: batch: expected extras with next_action and has_next, got {sorted(batch.extras)}")
    options: dict[str, Any] = {"noise_std": noise_std, "noise_clip": noise_clip, "low": low, "high": high}
    next_action = smoothed(what, actor(target_params.actor, batch.next_observation), key, **options)
    next_values = q_values(what, critic, target_params.critic, batch, next_action, after=True)
    apart = distance(what, next_action, batch.extras["next_action"], scale).sum(-1)
    penalty = torch.where(batch.extras["has_next"], _check.in_dtype(f"{what}: beta", beta, batch.reward) * apart, 0.0)
    target = bootstrap(what, batch, next_values.amin(0) - penalty, gamma)
    return squared_errors(what, critic(critic_params, batch.observation, batch.action), target, weight)


def awac_critic_loss(
    critic_params: Any,
    target_params: ActorCritic,
    key: torch.Tensor,
    batch: Any,
    *,
    actor: Actor,
    critic: ActionValue,
    gamma: float | torch.Tensor,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The critics' loss of a stochastic policy without a bonus for entropy, as AWAC and CQL have it.

    .. math:: L = \sum_e \frac1N \sum_i w_i (y_i - Q_{\theta_e}(s_i, a_i))^2, \qquad
        y = r + \gamma (1 - \mathrm{terminated}) \min_e Q_{\bar\theta_e}(s', a'), \quad a' \sim \pi_\phi(\cdot|s')

    Args:
        critic_params: theta, of E critics; the argument to differentiate.
        target_params: :class:`~funrl.losses.ActorCritic` of phi and theta bar; carries no gradient.
        key: int64 [], for the samples.
        batch: a :class:`funrl.env.Transition` of leaves [N...]. ``truncated`` is not used.
        actor: ``actor(actor_params, observation) -> distribution``, whose ``sample(key)`` is [N..., A].
        critic: ``critic(critic_params, observation, action) -> Q of each critic [E, N...]``.
        gamma: in [0, 1], a number or a tensor [] or [N...].
        weight: w, floating point [N...]; None: all 1.

    Returns:
        The loss [], and metrics as for :func:`funrl.losses.td3_critic_loss`.

    Raises:
        ValueError: if shapes do not fit, or gamma is a Python number outside [0, 1].
        TypeError: if ``batch`` or ``target_params`` lacks a field, or a dtype is not as above.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> from funrl.distributions import Independent, Normal
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False, False])
        >>> batch = Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.ones(2, 3), ())
        >>> actor = lambda p, s: Independent(Normal(s @ p, torch.ones(2, 1)), 1)
        >>> critic = lambda p, s, a: (p[:, None] * torch.cat([s, a], -1)).sum(-1)
        >>> target = ActorCritic(torch.ones(3, 1), torch.ones(2, 4))
        >>> awac_critic_loss(target.critic, target, random.key(0), batch, actor=actor, critic=critic, gamma=0.0)[0]  # 2 (1 - 4)^2
        tensor(18.)

    Reference: A. Nair, A. Gupta, M. Dalal, S. Levine, "AWAC: Accelerating Online Reinforcement Learning with Offline Datasets", 2020,
        arXiv:2006.09359, equation 6.
    """
    what = "awac_critic_loss"
    check_transition(what, batch)
    target_params = target_networks(what, target_params)
    next_action = actor(target_params.actor, batch.next_observation).sample(key).detach()
    next_values = q_values(what, critic, target_params.critic, batch, next_action, after=True)
    target = bootstrap(what, batch, next_values.amin(0), gamma)
    return squared_errors(what, critic(critic_params, batch.observation, batch.action), target, weight)


def _size(values: torch.Tensor) -> torch.Tensor:
    """Return the mean absolute value [], above 0 and without gradient."""
    return values.detach().abs().mean().clamp(min=1e-8)
