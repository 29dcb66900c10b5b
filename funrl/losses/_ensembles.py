"""The losses of large ensembles of critics: randomized ensembled double Q-learning (REDQ), and the diversity of EDAC."""

from typing import Any

import torch

from funrl import _check, random, tree
from funrl.losses._parts import SoftActorCritic, bootstrap, check_transition, detach, fields, mean, squared_errors
from funrl.losses._sac import next_soft_action, soft_actor_loss, soft_values, with_temperature
from funrl.typing import ActionValue, Actor, Metrics


def redq_critic_loss(
    critic_params: Any,
    params: SoftActorCritic,
    target_critic_params: Any,
    key: torch.Tensor,
    batch: Any,
    *,
    actor: Actor,
    critic: ActionValue,
    gamma: float | torch.Tensor,
    subset: int = 2,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The critics' loss of REDQ: all E critics have the same target, the minimum over M target critics that are drawn at each call.

    .. math:: L = \sum_{e=1}^E \frac1N \sum_i \frac{w_i}2 (y_i - Q_{\theta_e}(s_i, a_i))^2, \qquad a' \sim \pi_\phi(\cdot|s')

    .. math:: y = r + \gamma (1 - \mathrm{terminated}) \left(\min_{e \in \mathcal M} Q_{\bar\theta_e}(s', a')
        - \alpha \log \pi_\phi(a'|s')\right), \qquad \mathcal M \subset \{1, \dots, E\}, \; |\mathcal M| = M

    Args:
        critic_params: theta, of E critics: a tree of leaves [E, ...]; the argument to differentiate.
        params: :class:`~funrl.losses.SoftActorCritic`, of which the actor phi and the temperature are used; carries no gradient.
        target_critic_params: theta bar, a tree like theta; carries no gradient. Only M of its critics are evaluated.
        key: int64 [], for the next actions and the subset.
        batch: as for :func:`funrl.losses.sac_critic_loss`.
        actor: as for :func:`funrl.losses.sac_critic_loss`.
        critic: ``critic(critic_params, observation, action) -> Q of each critic [E, N...]``, for any number E of them.
        gamma: as for :func:`funrl.losses.sac_critic_loss`.
        subset: M, from 1 to E; drawn without replacement.
        weight: as for :func:`funrl.losses.sac_critic_loss`.

    Returns:
        The loss [], and metrics, as of :func:`funrl.losses.sac_critic_loss`.

    Raises:
        ValueError: if shapes do not fit, M is not from 1 to E, or gamma is a Python number outside [0, 1].
        TypeError: if ``batch`` or ``params`` lacks a field, or a dtype is not as above.

    Example:
        >>> import torch, funrl
        >>> no, dist = torch.tensor([False, False]), funrl.distributions
        >>> batch = funrl.env.Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.ones(2, 3), ())
        >>> actor = lambda p, s: dist.Independent(dist.TanhNormal(s @ p, torch.ones(2, 1)), 1)
        >>> networks = dict(actor=actor, critic=lambda p, s, a: (p[:, None] * torch.cat([s, a], -1)).sum(-1))
        >>> params = SoftActorCritic(actor=torch.zeros(3, 1), critic=torch.zeros(10, 4), log_alpha=torch.tensor(0.0))
        >>> loss, metrics = redq_critic_loss(params.critic, params, params.critic, funrl.random.key(0), batch, gamma=0.0, **networks)
        >>> loss, metrics["td_error"]
        (tensor(5.), tensor([1., 1.]))

    Reference: X. Chen, C. Wang, Z. Zhou, K. Ross, "Randomized Ensembled Double Q-Learning: Learning Fast Without a Model", 2021,
        arXiv:2101.05982, algorithm 1. Deviation: half the squared error, as in SAC.
    """
    what = "redq_critic_loss"
    check_transition(what, batch)
    sizes = {tuple(x.shape[:1]) for x in tree.leaves(target_critic_params)}
    if len(sizes) != 1 or () in sizes:
        raise ValueError(
            f"{what}: target_critic_params: expected leaves [E, ...] with the same E, got the shapes "
            f"{[list(x.shape) for x in tree.leaves(target_critic_params)]}; stack the critics' params with funrl.tree.stack"
        )
    ((size,),) = sizes
    _check.integer(f"{what}: subset", subset, 1, size, "draw from the critics there are")
    action_key, subset_key = random.split(key).unbind(0)
    next_action, next_log_prob, alpha = next_soft_action(what, params, action_key, batch, actor)
    members = tree.index(detach(target_critic_params), random.choice(subset_key, size, (subset,), replace=False))
    next_values = critic(members, batch.next_observation, next_action)
    _check.floating(f"{what}: critic's values of next_observation", next_values, shape=("M", *batch.reward.shape))
    target = bootstrap(what, batch, next_values.amin(0) - alpha * next_log_prob, gamma)
    return squared_errors(what, critic(critic_params, batch.observation, batch.action), target, weight, 0.5)


def redq_actor_loss(
    actor_params: Any,
    params: SoftActorCritic,
    key: torch.Tensor,
    batch: Any,
    *,
    actor: Actor,
    critic: ActionValue,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The actor's loss of REDQ, with the mean of all critics.

    .. math:: L = \frac1N \sum_i w_i \left(\alpha \log \pi_\phi(a_i|s_i) - \frac1E \sum_e Q_{\theta_e}(s_i, a_i)\right), \qquad
        a_i \sim \pi_\phi(\cdot|s_i)

    Arguments, results and errors are as for :func:`funrl.losses.sac_actor_loss`.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> from funrl.distributions import Independent, TanhNormal
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False, False])
        >>> batch = Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.ones(2, 3), ())
        >>> networks = dict(
        ...     actor=lambda p, s: Independent(TanhNormal(s @ p, torch.ones(2, 1)), 1),
        ...     critic=lambda p, s, a: (p[:, None] * torch.cat([s, 0 * a], -1)).sum(-1),
        ... )
        >>> params = SoftActorCritic(actor=torch.zeros(3, 1), critic=torch.arange(40.0).reshape(10, 4), log_alpha=torch.tensor(-100.0))
        >>> redq_actor_loss(params.actor, params, random.key(0), batch, **networks)[0]
        tensor(-57.)

    Reference: X. Chen, C. Wang, Z. Zhou, K. Ross, "Randomized Ensembled Double Q-Learning: Learning Fast Without a Model", 2021,
        arXiv:2101.05982, algorithm 1.
    """
    what = "redq_actor_loss"
    values, log_prob, alpha = soft_values(what, actor_params, params, key, batch, actor, critic)
    return soft_actor_loss(what, values.mean(0), log_prob, alpha, weight)


def redq_loss(
    params: SoftActorCritic,
    target_critic_params: Any,
    key: torch.Tensor,
    batch: Any,
    *,
    actor: Actor,
    critic: ActionValue,
    gamma: float | torch.Tensor,
    target_entropy: float | torch.Tensor,
    subset: int = 2,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The sum of :func:`redq_critic_loss`, :func:`redq_actor_loss` and :func:`funrl.losses.temperature_loss`.

    Each part of ``params`` gets the gradient of its own loss alone. The paper takes G critic steps for each actor step.

    Args:
        params: :class:`~funrl.losses.SoftActorCritic`, with critics of leaves [E, ...]; the argument to differentiate.
        target_critic_params: as for :func:`redq_critic_loss`.
        key: int64 [], for the actions and the subset.
        batch: as for :func:`redq_critic_loss`.
        actor: as for :func:`redq_critic_loss`.
        critic: as for :func:`redq_critic_loss`.
        gamma: as for :func:`redq_critic_loss`.
        target_entropy: as for :func:`funrl.losses.temperature_loss`.
        subset: as for :func:`redq_critic_loss`.
        weight: as for :func:`redq_critic_loss`; of all three losses.

    Returns:
        The loss [], and metrics, as of :func:`funrl.losses.sac_loss`.

    Raises:
        ValueError, TypeError: as for :func:`redq_critic_loss`.

    Example:
        >>> import torch, funrl
        >>> no, dist = torch.tensor([False, False]), funrl.distributions
        >>> batch = funrl.env.Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.ones(2, 3), ())
        >>> actor = lambda p, s: dist.Independent(dist.TanhNormal(s @ p, torch.ones(2, 1)), 1)
        >>> networks = dict(actor=actor, critic=lambda p, s, a: (p[:, None] * torch.cat([s, a], -1)).sum(-1))
        >>> params = SoftActorCritic(actor=torch.zeros(3, 1), critic=torch.zeros(10, 4), log_alpha=torch.tensor(0.0))
        >>> loss, metrics = redq_loss(params, params.critic, random.key(0), batch, gamma=0.0, target_entropy=-1.0, **networks)
        >>> metrics["critic_loss"]
        tensor(5.)

    Reference: X. Chen, C. Wang, Z. Zhou, K. Ross, "Randomized Ensembled Double Q-Learning: Learning Fast Without a Model", 2021,
        arXiv:2101.05982.
    """
    critic_key, actor_key = random.split(key).unbind(0)
    networks = {"actor": actor, "critic": critic, "weight": weight}
    fields("redq_loss: params", params, ("actor", "critic", "log_alpha"), "funrl.losses.SoftActorCritic")
    critic_part = redq_critic_loss(params.critic, params, target_critic_params, critic_key, batch, gamma=gamma, subset=subset, **networks)
    actor_part = redq_actor_loss(params.actor, params, actor_key, batch, **networks)
    return with_temperature(critic_part, actor_part, params, target_entropy, weight)


def ensemble_diversity_loss(
    critic_params: Any, batch: Any, *, critic: ActionValue, weight: torch.Tensor | None = None
) -> tuple[torch.Tensor, Metrics]:
    r"""Return the similarity of the critics' gradients in the action: the mean cosine of all pairs, which EDAC makes small.

    .. math:: L = \frac1N \sum_i w_i \frac{1}{E - 1} \sum_{e} \sum_{f \ne e}
        \left\langle \frac{\nabla_a Q_{\theta_e}(s_i, a_i)}{\lVert \nabla_a Q_{\theta_e}(s_i, a_i) \rVert},
        \frac{\nabla_a Q_{\theta_f}(s_i, a_i)}{\lVert \nabla_a Q_{\theta_f}(s_i, a_i) \rVert} \right\rangle

    Args:
        critic_params: theta, of E critics, leaves [E, ...]; the argument to differentiate.
        batch: a :class:`funrl.env.Transition` of leaves [N...], of which observation and action are used.
        critic: ``critic(critic_params, observation, action) -> Q of each critic [E, N...]``, for any number of critics.
        weight: w, floating point [N...]; None: all 1.

    Returns:
        The loss [], from -1 to E, and metrics, without gradient: ``diversity_loss`` [].

    Raises:
        ValueError: if there is one critic only, or shapes do not fit.
        TypeError: if ``batch`` lacks a field.

    Example:
        >>> import torch
        >>> from funrl.losses import ReinforceBatch
        >>> batch = ReinforceBatch(torch.ones(2, 3), torch.ones(2, 2), torch.ones(2))
        >>> critic = lambda p, s, a: torch.einsum("ea,...a->e...", p, a)
        >>> ensemble_diversity_loss(torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]), batch, critic=critic)[0]  # one pair is alike
        tensor(1.)

    Reference: G. An, S. Moon, J.-H. Kim, H. O. Song, "Uncertainty-Based Offline Reinforcement Learning with Diversified Q-Ensemble", 2021,
        arXiv:2110.01548, equation 3; the norms have 1e-10 added, as in the authors' code.
    """
    what = "ensemble_diversity_loss"
    fields(f"{what}: batch", batch, ("observation", "action"), "funrl.env.Transition")
    num = tree.leaves(critic_params)[0].shape[0]
    if num < 2:
        raise ValueError(f"{what}: critic_params: expected at least 2 critics, leaves [E, ...], got {num}")

    def total(actions: torch.Tensor) -> torch.Tensor:
        def one(params: Any, action: torch.Tensor) -> torch.Tensor:
            values = critic(tree.map(lambda x: x[None], params), batch.observation, action)
            _check.floating(f"{what}: critic's values of one critic", values, shape=(1, *batch.action.shape[:-1]))
            return values[0]

        return torch.func.vmap(one)(critic_params, actions).sum()

    gradient = torch.func.grad(total)(batch.action.expand(num, *batch.action.shape))
    # The root of 0 has no gradient.
    norm = (gradient.square().sum(-1, keepdim=True) + torch.finfo(gradient.dtype).tiny).sqrt()
    unit = gradient / (norm + 1e-10)
    together = unit.sum(0)
    pairs = together.square().sum(-1) - unit.square().sum(-1).sum(0)
    loss = mean(what, pairs / (num - 1), weight)
    return loss, {"diversity_loss": loss.detach()}
