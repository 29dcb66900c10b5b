"""The losses of soft actor-critic for discrete actions, with sums over all actions instead of samples."""

from typing import Any

import torch

from funrl import _check
from funrl.losses._parts import SoftActorCritic, bootstrap, detach, fields, squared_errors
from funrl.losses._q_learning import check_discrete, index_of, take
from funrl.losses._sac import soft_actor_loss, with_temperature
from funrl.typing import Actor, Apply, Metrics


def sac_discrete_critic_loss(
    critic_params: Any,
    params: SoftActorCritic,
    target_critic_params: Any,
    batch: Any,
    *,
    actor: Actor,
    critic: Apply,
    gamma: float | torch.Tensor,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The critics' loss of SAC for discrete actions. It takes no samples, and so no key.

    .. math:: L = \sum_e \frac1N \sum_i \frac{w_i}2 (y_i - Q_{\theta_e}(s_i, a_i))^2

    .. math:: y = r + \gamma (1 - \mathrm{terminated}) \left(\sum_{a'} \pi_\phi(a'|s') \min_e Q_{\bar\theta_e}(s', a')
        + \alpha \mathcal H(\pi_\phi(\cdot|s'))\right)

    Args:
        critic_params: theta, of E critics (two in the paper); the argument to differentiate.
        params: :class:`~funrl.losses.SoftActorCritic`, of which the actor phi and the temperature are used; carries no gradient.
        target_critic_params: theta bar; carries no gradient.
        batch: a :class:`funrl.env.Transition` of leaves [N...]; actions are classes of the actor. ``truncated`` is not used: a
            truncated step bootstraps from its ``next_observation``.
        actor: ``actor(actor_params, observation) -> funrl.distributions.Categorical`` of batch shape [N...]. Its ``start`` is the smallest
            action.
        critic: ``critic(critic_params, observation) -> Q of each critic and action [E, N..., A]``, that of the smallest action first.
        gamma, weight: as for :func:`funrl.losses.sac_critic_loss`.

    Returns:
        The loss [], and metrics, as of :func:`funrl.losses.sac_critic_loss`.

    Raises:
        ValueError, TypeError: as for :func:`funrl.losses.sac_critic_loss`.

    Example:
        >>> import torch
        >>> from funrl.distributions import Categorical
        >>> from funrl.env import Transition
        >>> ended = torch.tensor([False, True])
        >>> batch = Transition(torch.eye(2), torch.tensor([0, 1]), torch.ones(2), ended, ~ended, torch.eye(2), ())
        >>> networks = dict(actor=lambda p, s: Categorical(s @ p), critic=lambda p, s: torch.stack([s @ x for x in p]))
        >>> params = SoftActorCritic(actor=torch.zeros(2, 2), critic=torch.zeros(2, 2, 2), log_alpha=torch.tensor(0.0))
        >>> loss, metrics = sac_discrete_critic_loss(params.critic, params, params.critic, batch, gamma=1.0, **networks)
        >>> metrics["td_error"]  # 1 + log 2, and 1
        tensor([1.6931, 1.0000])

    Reference: P. Christodoulou, "Soft Actor-Critic for Discrete Action Settings", 2019, arXiv:1910.07207, equations 3 and 10.
    """
    what = "sac_discrete_critic_loss"
    check_discrete(what, batch)
    fields(f"{what}: params", params, ("actor", "critic", "log_alpha"), "funrl.losses.SoftActorCritic")
    policy = actor(detach(params.actor), batch.next_observation)
    probs, entropy = _policy(what, policy, batch)
    next_values = critic(detach(target_critic_params), batch.next_observation)
    values = critic(critic_params, batch.observation)
    for name, x in {"critic's values": values, "critic's values of next_observation": next_values}.items():
        _check.floating(f"{what}: {name}", x, shape=("E", *probs.shape))
    alpha = params.log_alpha.detach().exp()
    target = bootstrap(what, batch, (probs * next_values.amin(0)).sum(-1) + alpha * entropy, gamma)
    action = index_of(what, batch.action, getattr(policy, "start", 0), probs.shape[-1], "the actor's Categorical(..., start=)")
    return squared_errors(what, take(values, action.expand(values.shape[:-1])), target, weight, 0.5)


def sac_discrete_actor_loss(
    actor_params: Any,
    params: SoftActorCritic,
    batch: Any,
    *,
    actor: Actor,
    critic: Apply,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The actor's loss of SAC for discrete actions.

    .. math:: L = \frac1N \sum_i w_i \sum_a \pi_\phi(a|s_i) \left(\alpha \log \pi_\phi(a|s_i) - \min_e Q_{\theta_e}(s_i, a)\right)

    Args:
        actor_params: phi; the argument to differentiate.
        params: :class:`~funrl.losses.SoftActorCritic`, of which the critics theta and the temperature are used; carries no gradient.
        batch: a :class:`funrl.env.Transition` of leaves [N...], of which only the observation is used.
        actor: as for :func:`sac_discrete_critic_loss`.
        critic: as for :func:`sac_discrete_critic_loss`.
        weight: w, floating point [N...]; None: all 1.

    Returns:
        The loss [], and metrics, without gradient: ``actor_loss`` [], ``entropy`` [], and ``log_prob`` [N...], the mean of log pi under pi,
        for :func:`funrl.losses.temperature_loss`.

    Raises:
        ValueError: if shapes do not fit.
        TypeError: as for :func:`sac_discrete_critic_loss`.

    Example:
        >>> import torch
        >>> from funrl.distributions import Categorical
        >>> from funrl.env import Transition
        >>> ended = torch.tensor([False, True])
        >>> batch = Transition(torch.eye(2), torch.tensor([0, 1]), torch.ones(2), ended, ~ended, torch.eye(2), ())
        >>> networks = dict(actor=lambda p, s: Categorical(s @ p), critic=lambda p, s: torch.stack([s @ x for x in p]))
        >>> params = SoftActorCritic(actor=torch.zeros(2, 2), critic=torch.zeros(2, 2, 2), log_alpha=torch.tensor(0.0))
        >>> loss, metrics = sac_discrete_actor_loss(params.actor, params, batch, **networks)
        >>> loss, metrics["entropy"]
        (tensor(-0.6931), tensor(0.6931))

    Reference: P. Christodoulou, "Soft Actor-Critic for Discrete Action Settings", 2019, arXiv:1910.07207, equation 12.
    """
    what = "sac_discrete_actor_loss"
    check_discrete(what, batch)
    fields(f"{what}: params", params, ("actor", "critic", "log_alpha"), "funrl.losses.SoftActorCritic")
    probs, entropy = _policy(what, actor(actor_params, batch.observation), batch)
    values = critic(detach(params.critic), batch.observation)
    _check.floating(f"{what}: critic's values", values, shape=("E", *probs.shape))
    return soft_actor_loss(what, (probs * values.amin(0)).sum(-1), -entropy, params.log_alpha.detach().exp(), weight)


def sac_discrete_loss(
    params: SoftActorCritic,
    target_critic_params: Any,
    batch: Any,
    *,
    actor: Actor,
    critic: Apply,
    gamma: float | torch.Tensor,
    target_entropy: float | torch.Tensor,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The sum of :func:`sac_discrete_critic_loss`, :func:`sac_discrete_actor_loss` and :func:`funrl.losses.temperature_loss`.

    Each part of ``params`` gets the gradient of its own loss alone. For a fixed temperature, leave out the update of ``log_alpha``.

    Args:
        params: :class:`~funrl.losses.SoftActorCritic`; the argument to differentiate.
        target_critic_params: theta bar; carries no gradient.
        batch: as for :func:`sac_discrete_critic_loss`.
        actor: as for :func:`sac_discrete_critic_loss`.
        critic: as for :func:`sac_discrete_critic_loss`.
        gamma: as for :func:`sac_discrete_critic_loss`.
        target_entropy: as for :func:`funrl.losses.temperature_loss`; a fraction of log A, such as 0.98 log A in the paper.
        weight: as for :func:`sac_discrete_critic_loss`; of all three losses.

    Returns:
        The loss [], and metrics, as of :func:`funrl.losses.sac_loss`.

    Raises:
        ValueError, TypeError: as for :func:`sac_discrete_critic_loss`.

    Example:
        >>> import torch
        >>> from funrl.distributions import Categorical
        >>> from funrl.env import Transition
        >>> ended = torch.tensor([False, True])
        >>> batch = Transition(torch.eye(2), torch.tensor([0, 1]), torch.ones(2), ended, ~ended, torch.eye(2), ())
        >>> networks = dict(actor=lambda p, s: Categorical(s @ p), critic=lambda p, s: torch.stack([s @ x for x in p]))
        >>> params = SoftActorCritic(actor=torch.zeros(2, 2), critic=torch.zeros(2, 2, 2), log_alpha=torch.tensor(0.0))
        >>> loss, metrics = sac_discrete_loss(params, params.critic, batch, gamma=0.0, target_entropy=0.5, **networks)
        >>> metrics["critic_loss"], metrics["actor_loss"]
        (tensor(1.), tensor(-0.6931))

    Reference: P. Christodoulou, "Soft Actor-Critic for Discrete Action Settings", 2019, arXiv:1910.07207.
    """
    networks = {"actor": actor, "critic": critic, "weight": weight}
    fields("sac_discrete_loss: params", params, ("actor", "critic", "log_alpha"), "funrl.losses.SoftActorCritic")
    critic_part = sac_discrete_critic_loss(params.critic, params, target_critic_params, batch, gamma=gamma, **networks)
    actor_part = sac_discrete_actor_loss(params.actor, params, batch, **networks)
    return with_temperature(critic_part, actor_part, params, target_entropy, weight)


def _policy(what: str, policy: Any, batch: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the probabilities [N..., A] and the entropy [N...]."""
    expected = "it to return a funrl.distributions.Categorical"
    _check.has(f"{what}: actor", policy, ["probs"], expected, "continuous actions are for sac_loss")
    _check.floating(f"{what}: actor's probabilities", policy.probs, shape=(*batch.reward.shape, "A"))
    return policy.probs, policy.entropy()
