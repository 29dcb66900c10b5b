"""The losses of CrossQ: soft actor-critic with batch normalisation in place of target networks."""

from collections.abc import Callable
from typing import Any

import torch

from funrl import _check, tree
from funrl.losses._parts import SoftActorCritic, bootstrap, check_transition, detach, squared_errors
from funrl.losses._sac import next_soft_action, sac_actor_loss
from funrl.typing import Actor, Metrics

Critic = Callable[[Any, Any, Any, torch.Tensor], tuple[torch.Tensor, Any]]


def crossq_critic_loss(
    critic_params: Any,
    params: SoftActorCritic,
    statistics: Any,
    key: torch.Tensor,
    batch: Any,
    *,
    actor: Actor,
    critic: Critic,
    gamma: float | torch.Tensor,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, dict[str, Any]]:
    r"""The critics' loss of CrossQ: (s, a) and (s', a') are one batch for the critics, so that both share the normalisation statistics.

    .. math:: \begin{pmatrix} q_e \\ q'_e \end{pmatrix} = Q_{\theta_e}\begin{pmatrix} s & a \\ s' & a' \end{pmatrix}, \qquad
        L = \sum_e \frac1N \sum_i \frac{w_i}2 (y_i - q_{e,i})^2, \qquad a' \sim \pi_\phi(\cdot|s')

    .. math:: y = r + \gamma (1 - \mathrm{terminated}) \left(\min_e q'_e - \alpha \log \pi_\phi(a'|s')\right)

    y carries no gradient, although q' is computed with theta; gradients do flow through the moments that q and q' share.

    Args:
        critic_params: theta, of E critics; the argument to differentiate.
        params: :class:`~funrl.losses.SoftActorCritic`, of which the actor phi and the temperature are used; carries no gradient.
        statistics: the running moments of the critics' normalisation, a tree.
        key: int64 [], for the samples of the next actions.
        batch: as for :func:`funrl.losses.sac_critic_loss`, of leaves [B, ...].
        actor: as for :func:`funrl.losses.sac_critic_loss`.
        critic: ``critic(critic_params, statistics, observation, action) -> (Q of each critic [E, B], new statistics)``, normalising by the
            moments of its batch.
        gamma: as for :func:`funrl.losses.sac_critic_loss`.
        weight: as for :func:`funrl.losses.sac_critic_loss`.

    Returns:
        The loss [], and metrics, as of :func:`funrl.losses.sac_critic_loss`, and ``statistics``, the new running moments.

    Raises:
        ValueError, TypeError: as for :func:`funrl.losses.sac_critic_loss`.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> from funrl.distributions import Independent, TanhNormal
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False, False])
        >>> batch = Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.zeros(2, 3), ())
        >>> def critic(p, mean, s, a):
        ...     x = torch.cat([s, a], -1)
        ...     return (p[:, None] * (x - x.mean(0))).sum(-1), 0.9 * mean + 0.1 * x.mean(0)
        >>> def actor(p, s):
        ...     return Independent(TanhNormal(s @ p, torch.ones(2, 1)), 1)
        >>> params = SoftActorCritic(actor=torch.zeros(3, 1), critic=torch.zeros(2, 4), log_alpha=torch.tensor(0.0))
        >>> loss, metrics = crossq_critic_loss(
        ...     params.critic, params, torch.zeros(4), random.key(0), batch, actor=actor, critic=critic, gamma=0.0
        ... )
        >>> loss, metrics["statistics"][:3]
        (tensor(1.), tensor([0.0500, 0.0500, 0.0500]))

    Reference: A. Bhatt et al., "CrossQ: Batch Normalization in Deep Reinforcement Learning for Greater Sample Efficiency and Simplicity",
        2019, arXiv:1902.05605, section 3 and figure 2.
    """
    what = "crossq_critic_loss"
    check_transition(what, batch)
    _check.sized(f"{what}: batch.reward", batch.reward, ("B",), "reshape the batch")
    next_action, next_log_prob, alpha = next_soft_action(what, params, key, batch, actor)
    observation, action = (
        tree.map(lambda x, y: torch.cat([x, y]), *pair)
        for pair in ((batch.observation, batch.next_observation), (batch.action, next_action))
    )
    both, statistics = critic(critic_params, statistics, observation, action)
    _check.floating(f"{what}: critic's values", both, shape=("E", 2 * batch.reward.shape[0]))
    values, next_values = both.chunk(2, 1)
    target = bootstrap(what, batch, next_values.detach().amin(0) - alpha * next_log_prob, gamma)
    loss, metrics = squared_errors(what, values, target, weight, 0.5)
    return loss, {**metrics, "statistics": detach(statistics)}


def crossq_actor_loss(
    actor_params: Any,
    params: SoftActorCritic,
    statistics: Any,
    key: torch.Tensor,
    batch: Any,
    *,
    actor: Actor,
    frozen_critic: Callable[[Any, Any, Any, torch.Tensor], torch.Tensor],
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The actor's loss of CrossQ: the loss of SAC with critics that normalise by their running moments.

    Args:
        actor_params: phi; the argument to differentiate.
        params: :class:`~funrl.losses.SoftActorCritic`, of which the critics theta and the temperature are used; carries no gradient.
        statistics: the running moments of the critics' normalisation, a tree; carries no gradient.
        key: int64 [], for the samples of the actions.
        batch: as for :func:`crossq_critic_loss`, of which only the observation is used.
        actor: as for :func:`crossq_critic_loss`.
        frozen_critic: ``frozen_critic(critic_params, statistics, observation, action) -> Q of each critic [E, B]``, normalising by
            ``statistics``.
        weight: w, floating point [B]; None: all 1.

    Returns:
        The loss [], and metrics, as of :func:`funrl.losses.sac_actor_loss`.

    Raises:
        ValueError: if shapes do not fit.
        TypeError: if ``batch`` or ``params`` lacks a field, or a dtype is not as above.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> from funrl.distributions import Independent, TanhNormal
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False, False])
        >>> batch = Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.zeros(2, 3), ())
        >>> networks = dict(
        ...     actor=lambda p, s: Independent(TanhNormal(s @ p, torch.ones(2, 1)), 1),
        ...     frozen_critic=lambda p, mean, s, a: (p[:, None] * (torch.cat([s, 0 * a], -1) - mean)).sum(-1),
        ... )
        >>> params = SoftActorCritic(actor=torch.zeros(3, 1), critic=torch.ones(2, 4), log_alpha=torch.tensor(-100.0))
        >>> crossq_actor_loss(params.actor, params, torch.full((4,), 0.5), random.key(0), batch, **networks)[0]
        tensor(-1.)

    Reference: A. Bhatt et al., "CrossQ: Batch Normalization in Deep Reinforcement Learning for Greater Sample Efficiency and Simplicity",
        2019, arXiv:1902.05605.
    """
    statistics = detach(statistics)
    return sac_actor_loss(
        actor_params,
        params,
        key,
        batch,
        actor=actor,
        critic=lambda critic_params, observation, action: frozen_critic(critic_params, statistics, observation, action),
        weight=weight,
    )
