"""The losses of soft actor-critic, for continuous actions."""

from typing import Any

import torch

from funrl import _check, random
from funrl.losses._parts import SoftActorCritic, bootstrap, check_transition, detach, fields, mean, q_values, squared_errors
from funrl.typing import ActionValue, Actor, Metrics


def sac_critic_loss(
    critic_params: Any,
    params: SoftActorCritic,
    target_critic_params: Any,
    key: torch.Tensor,
    batch: Any,
    *,
    actor: Actor,
    critic: ActionValue,
    gamma: float | torch.Tensor,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The critics' loss of SAC.

    .. math:: L = \sum_e \frac1N \sum_i \frac{w_i}2 (y_i - Q_{\theta_e}(s_i, a_i))^2, \qquad a' \sim \pi_\phi(\cdot|s')

    .. math:: y = r + \gamma (1 - \mathrm{terminated}) \left(\min_e Q_{\bar\theta_e}(s', a') - \alpha \log \pi_\phi(a'|s')\right)

    Args:
        critic_params: theta, of E critics (two in the paper); the argument to differentiate.
        params: :class:`~funrl.losses.SoftActorCritic`, of which the actor phi and the temperature are used; carries no gradient.
        target_critic_params: theta bar; carries no gradient.
        key: int64 [], for the samples of the next actions.
        batch: a :class:`funrl.env.Transition` of leaves [N...]. ``truncated`` is not used: a truncated step bootstraps from its
            ``next_observation``.
        actor: ``actor(actor_params, observation) -> distribution``, whose ``sample_with_log_prob(key)`` gives actions [N..., ...] and log
            densities [N...] (wrap one over vectors in ``Independent``).
        critic: ``critic(critic_params, observation, action) -> Q of each critic [E, N...]``.
        gamma: in [0, 1], a number or a tensor [] or [N...] (gamma^m of n-step targets).
        weight: w, floating point [N...], of importance sampling; None: all 1.

    Returns:
        The loss [], and metrics, without gradient: ``critic_loss``, ``q_mean``, ``q_max``, ``target_mean``,
        ``target_max``, each [], and ``td_error`` max_e |y - Q_e| [N...], for prioritised replay.

    Raises:
        ValueError: if shapes do not fit, or gamma is a Python number outside [0, 1].
        TypeError: if ``batch`` or ``params`` lacks a field, or a dtype is not as above.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> from funrl.distributions import Independent, TanhNormal
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False, False])
        >>> batch = Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.ones(2, 3), ())
        >>> def actor(p, s):
        ...     return Independent(TanhNormal(s @ p, torch.ones(2, 1)), 1)
        >>> def critic(p, s, a):
        ...     return (p[:, None] * torch.cat([s, a], -1)).sum(-1)
        >>> params = SoftActorCritic(actor=torch.ones(3, 1), critic=torch.ones(2, 4), log_alpha=torch.tensor(0.0))
        >>> loss, metrics = sac_critic_loss(
        ...     params.critic, params, params.critic, random.key(0), batch, actor=actor, critic=critic, gamma=0.0
        ... )
        >>> loss, metrics["td_error"]
        (tensor(9.), tensor([3., 3.]))

    Reference: T. Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018, arXiv:1812.05905, equation 5, with the smaller
        of two critics as in section 6.
    """
    what = "sac_critic_loss"
    check_transition(what, batch)
    next_action, next_log_prob, alpha = next_soft_action(what, params, key, batch, actor)
    next_values = q_values(what, critic, detach(target_critic_params), batch, next_action, after=True)
    target = bootstrap(what, batch, next_values.amin(0) - alpha * next_log_prob, gamma)
    return squared_errors(what, critic(critic_params, batch.observation, batch.action), target, weight, 0.5)


def sac_actor_loss(
    actor_params: Any,
    params: SoftActorCritic,
    key: torch.Tensor,
    batch: Any,
    *,
    actor: Actor,
    critic: ActionValue,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The actor's loss of SAC, by the reparameterised action.

    .. math:: L = \frac1N \sum_i w_i \left(\alpha \log \pi_\phi(a_i|s_i) - \min_e Q_{\theta_e}(s_i, a_i)\right), \qquad
        a_i \sim \pi_\phi(\cdot|s_i)

    Args:
        actor_params: phi; the argument to differentiate.
        params: :class:`~funrl.losses.SoftActorCritic`, of which the critics theta and the temperature are used; carries no gradient.
        key: int64 [], for the samples of the actions.
        batch: a :class:`funrl.env.Transition` of leaves [N...], of which only the observation is used.
        actor: as for :func:`sac_critic_loss`; its samples have to be differentiable.
        critic: as for :func:`sac_critic_loss`.
        weight: w, floating point [N...]; None: all 1.

    Returns:
        The loss [], and metrics, without gradient: ``actor_loss`` [], ``entropy`` [] (its estimate, the mean of -log pi), and ``log_prob``
        [N...], for :func:`temperature_loss`.

    Raises:
        ValueError: if shapes do not fit.
        TypeError: if ``batch`` or ``params`` lacks a field, or a dtype is not as above.

    Example:
        >>> import torch, funrl
        >>> no, dist = torch.tensor([False, False]), funrl.distributions
        >>> batch = funrl.env.Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.ones(2, 3), ())
        >>> actor = lambda p, s: dist.Independent(dist.TanhNormal(s @ p, torch.ones(2, 1)), 1)
        >>> networks = dict(actor=actor, critic=lambda p, s, a: (p[:, None] * torch.cat([s, a], -1)).sum(-1))
        >>> params = SoftActorCritic(actor=torch.zeros(3, 1), critic=torch.zeros(2, 4), log_alpha=torch.tensor(0.0))
        >>> loss, metrics = sac_actor_loss(params.actor, params, funrl.random.key(0), batch, **networks)
        >>> bool(loss == metrics["log_prob"].mean())
        True

    Reference: T. Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018, arXiv:1812.05905, equation 9.
    """
    what = "sac_actor_loss"
    values, log_prob, alpha = soft_values(what, actor_params, params, key, batch, actor, critic)
    return soft_actor_loss(what, values.amin(0), log_prob, alpha, weight)


def temperature_loss(
    log_alpha: torch.Tensor, log_prob: torch.Tensor, *, target_entropy: float | torch.Tensor, weight: torch.Tensor | None = None
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of the temperature, which increases while the entropy is below its target, and decreases while it is above.

    .. math:: L = -\log\alpha \, \frac1N \sum_i w_i \left(\log \pi(a_i|s_i) + \bar{\mathcal H}\right)

    Args:
        log_alpha: floating point []; the argument to differentiate.
        log_prob: log pi(a|s), floating point [N...]; carries no gradient.
        target_entropy: H bar, a number or a tensor []; minus the number of action dimensions is usual.
        weight: w, floating point [N...]; None: all 1.

    Returns:
        The loss [], and metrics, without gradient: ``temperature_loss`` and ``temperature``, each [].

    Raises:
        ValueError: if a shape is not as above.
        TypeError: if an argument is not a floating-point tensor.

    Example:
        >>> import torch
        >>> log_prob = torch.tensor([0.5, 1.5])  # an entropy of about -1
        >>> differentiate = torch.func.grad_and_value(temperature_loss, has_aux=True)
        >>> gradient, (loss, _) = differentiate(torch.tensor(0.5), log_prob, target_entropy=-3.0)
        >>> loss, gradient
        (tensor(1.), tensor(2.))

    Reference: T. Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018, arXiv:1812.05905, equation 18. Deviation:
        log alpha replaces the paper's alpha, as in most implementations; the sign of the gradient is the same.
    """
    what = "temperature_loss"
    _check.floating(f"{what}: log_alpha", log_alpha, shape=())
    _check.floating(f"{what}: log_prob", log_prob)
    target_entropy = _check.in_dtype(f"{what}: target_entropy", target_entropy, log_prob, "[-inf, inf]")
    loss = -log_alpha * mean(what, log_prob.detach() + target_entropy, weight)
    return loss, {"temperature_loss": loss.detach(), "temperature": log_alpha.detach().exp()}


def sac_loss(
    params: SoftActorCritic,
    target_critic_params: Any,
    key: torch.Tensor,
    batch: Any,
    *,
    actor: Actor,
    critic: ActionValue,
    gamma: float | torch.Tensor,
    target_entropy: float | torch.Tensor,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The sum of :func:`sac_critic_loss`, :func:`sac_actor_loss` and :func:`temperature_loss`.

    Each part of ``params`` gets the gradient of its own loss alone. For a fixed temperature, leave out the update of ``log_alpha``.

    Args:
        params: :class:`~funrl.losses.SoftActorCritic`; the argument to differentiate.
        target_critic_params: theta bar; carries no gradient.
        key: int64 [], for the samples of the actions.
        batch: as for :func:`sac_critic_loss`.
        actor: as for :func:`sac_critic_loss`.
        critic: as for :func:`sac_critic_loss`.
        gamma: as for :func:`sac_critic_loss`.
        target_entropy: as for :func:`temperature_loss`.
        weight: as for :func:`sac_critic_loss`; of all three losses.

    Returns:
        The loss [], and metrics, without gradient: ``actor_loss``, ``critic_loss``, ``temperature_loss``, ``temperature``, ``entropy``,
        ``q_mean``, ``q_max``, ``target_mean``, ``target_max``, each [], and ``td_error`` [N...], for prioritised
        replay.

    Raises:
        ValueError: if shapes do not fit, or gamma is a Python number outside [0, 1].
        TypeError: if ``batch`` or ``params`` lacks a field, or a dtype is not as above.

    Example:
        >>> import torch, funrl
        >>> no, dist = torch.tensor([False, False]), funrl.distributions
        >>> batch = funrl.env.Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.ones(2, 3), ())
        >>> actor = lambda p, s: dist.Independent(dist.TanhNormal(s @ p, torch.ones(2, 1)), 1)
        >>> networks = dict(actor=actor, critic=lambda p, s, a: (p[:, None] * torch.cat([s, a], -1)).sum(-1))
        >>> params = SoftActorCritic(actor=torch.zeros(3, 1), critic=torch.zeros(2, 4), log_alpha=torch.tensor(0.0))
        >>> loss, metrics = sac_loss(params, params.critic, random.key(0), batch, gamma=0.0, target_entropy=-1.0, **networks)
        >>> metrics["critic_loss"], metrics["temperature"]
        (tensor(1.), tensor(1.))

    Reference: T. Haarnoja et al., "Soft Actor-Critic Algorithms and Applications", 2018, arXiv:1812.05905.
    """
    critic_key, actor_key = random.split(key).unbind(0)
    networks = {"actor": actor, "critic": critic, "weight": weight}
    fields("sac_loss: params", params, ("actor", "critic", "log_alpha"), "funrl.losses.SoftActorCritic")
    critic_part = sac_critic_loss(params.critic, params, target_critic_params, critic_key, batch, gamma=gamma, **networks)
    actor_part = sac_actor_loss(params.actor, params, actor_key, batch, **networks)
    return with_temperature(critic_part, actor_part, params, target_entropy, weight)


Part = tuple[torch.Tensor, Metrics]


def with_temperature(
    critic_part: Part, actor_part: Part, params: SoftActorCritic, target_entropy: float | torch.Tensor, weight: torch.Tensor | None
) -> Part:
    """Add the losses of critics, actor and temperature."""
    log_prob = actor_part[1].pop("log_prob")
    temperature_part = temperature_loss(params.log_alpha, log_prob, target_entropy=target_entropy, weight=weight)
    return critic_part[0] + actor_part[0] + temperature_part[0], {**actor_part[1], **temperature_part[1], **critic_part[1]}


def next_soft_action(
    what: str, params: SoftActorCritic, key: torch.Tensor, batch: Any, actor: Actor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a' [N..., ...], log pi(a'|s') [N...] and the temperature [], none of which carries a gradient."""
    fields(f"{what}: params", params, ("actor", "critic", "log_alpha"), "funrl.losses.SoftActorCritic")
    action, log_prob = _sample(what, actor(detach(params.actor), batch.next_observation), key)
    _check.alike(what, **{"batch.reward": batch.reward, "actor's log_prob of next_observation": log_prob})
    return action, log_prob, params.log_alpha.detach().exp()


def soft_values(
    what: str, actor_params: Any, params: SoftActorCritic, key: torch.Tensor, batch: Any, actor: Actor, critic: ActionValue
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return Q of fresh actions [E, N...], their log pi [N...] and the temperature []; gradients reach the actor alone."""
    check_transition(what, batch)
    fields(f"{what}: params", params, ("actor", "critic", "log_alpha"), "funrl.losses.SoftActorCritic")
    action, log_prob = _sample(what, actor(actor_params, batch.observation), key)
    _check.alike(what, **{"batch.reward": batch.reward, "actor's log_prob": log_prob})
    return q_values(what, critic, detach(params.critic), batch, action), log_prob, params.log_alpha.detach().exp()


def soft_actor_loss(what: str, value: torch.Tensor, log_prob: torch.Tensor, alpha: torch.Tensor, weight: torch.Tensor | None) -> Part:
    """Return the mean of alpha log pi - Q, and its metrics."""
    loss = mean(what, alpha * log_prob - value, weight)
    log_prob = log_prob.detach()
    return loss, {"actor_loss": loss.detach(), "entropy": -log_prob.mean(), "log_prob": log_prob}


def _sample(what: str, distribution: Any, key: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    expected = "it to return a distribution with sample_with_log_prob(key), as those of funrl.distributions"
    remedy = "a deterministic actor is for ddpg_loss or td3_critic_loss"
    _check.has(f"{what}: actor", distribution, ["sample_with_log_prob"], expected, remedy)
    return distribution.sample_with_log_prob(key)
