"""The losses of implicit Q-learning (IQL), conservative Q-learning (CQL) for continuous and discrete actions, and Cal-QL."""

import math
from typing import Any

import torch

from funrl import _check, random, tree
from funrl.losses._parts import SoftActorCritic, bootstrap, check_transition, critic_metrics, detach, fields, mean, q_values, squared_errors
from funrl.losses._q_learning import take
from funrl.typing import ActionValue, Actor, Apply, Metrics


def expectile_loss(error: torch.Tensor, *, expectile: float | torch.Tensor) -> torch.Tensor:
    r"""Return the asymmetric square of an error, whose mean is least where the values are the expectile of the targets.

    .. math:: L_2^\tau(u) = |\tau - 1(u < 0)|\, u^2

    Args:
        error: u, target minus value, floating point [...].
        expectile: tau in [0, 1], a number or a tensor []: 0.5 is half the square, larger values weigh positive errors more.

    Raises:
        ValueError: if ``expectile`` is a Python number outside [0, 1].
        TypeError: if ``error`` is not a floating-point tensor.

    Example:
        >>> import torch
        >>> expectile_loss(torch.tensor([2.0, -2.0]), expectile=0.75)
        tensor([3., 1.])

    Reference: I. Kostrikov, A. Nair, S. Levine, "Offline Reinforcement Learning with Implicit Q-Learning", 2021, arXiv:2110.06169,
        section 4.1.
    """
    _check.floating("expectile_loss: error", error)
    tau = _check.in_dtype("expectile_loss: expectile", expectile, error, "[0, 1]")
    return torch.where(error < 0, 1 - tau, tau) * error.square()


def iql_value_loss(
    value_params: Any,
    target_critic_params: Any,
    batch: Any,
    *,
    value: Apply,
    critic: ActionValue,
    expectile: float | torch.Tensor,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of IQL's value function, an expectile of the target critics over the actions of the data.

    .. math:: L = \frac1N \sum_i w_i L_2^\tau\left(\min_e Q_{\bar\theta_e}(s_i, a_i) - V_\psi(s_i)\right)

    Args:
        value_params: psi; the argument to differentiate.
        target_critic_params: theta bar, of E critics; carries no gradient.
        batch: a :class:`funrl.env.Transition` of leaves [N...].
        value: ``value(value_params, observation) -> V [N...]``.
        critic: ``critic(critic_params, observation, action) -> Q of each critic [E, N...]``.
        expectile: tau in [0, 1], a number or a tensor [].
        weight: w, floating point [N...]; None: all 1.

    Returns:
        The loss [], and metrics, without gradient: ``value_loss`` [], ``value_mean`` [], the mean of V, and ``advantage`` [N...],
        min Q - V, for :func:`funrl.losses.advantage_weighted_loss`.

    Raises:
        ValueError: if shapes do not fit, or ``expectile`` is a Python number outside [0, 1].
        TypeError: if ``batch`` lacks a field, or a dtype is not as above.

    Example:
        >>> import torch
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False, False])
        >>> batch = Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.ones(2, 3), ())
        >>> critic = lambda p, s, a: (p[:, None] * torch.cat([s, a], -1)).sum(-1)
        >>> loss, metrics = iql_value_loss(
        ...     torch.ones(3), torch.tensor([[1.0, 1, 1, 1], [2, 2, 2, 2]]), batch, value=lambda p, s: s @ p, critic=critic, expectile=0.9
        ... )
        >>> loss, metrics["advantage"]
        (tensor(0.9000), tensor([1., 1.]))

    Reference: I. Kostrikov, A. Nair, S. Levine, "Offline Reinforcement Learning with Implicit Q-Learning", 2021, arXiv:2110.06169,
        equation 5, with the smaller of two critics as in the authors' code.
    """
    what = "iql_value_loss"
    check_transition(what, batch)
    values = q_values(what, critic, detach(target_critic_params), batch, batch.action)
    baseline = value(value_params, batch.observation)
    _check.alike(what, **{"batch.reward": batch.reward, "value's values": baseline})
    error = values.amin(0) - baseline
    loss = mean(what, expectile_loss(error, expectile=expectile), weight)
    return loss, {"value_loss": loss.detach(), "value_mean": baseline.detach().mean(), "advantage": error.detach()}


def iql_critic_loss(
    critic_params: Any,
    value_params: Any,
    batch: Any,
    *,
    value: Apply,
    critic: ActionValue,
    gamma: float | torch.Tensor,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The critics' loss of IQL: their targets are the value function at the successors, so that no action outside the data is asked about.

    .. math:: L = \sum_e \frac1N \sum_i w_i (y_i - Q_{\theta_e}(s_i, a_i))^2, \qquad
        y = r + \gamma (1 - \mathrm{terminated}) V_\psi(s')

    Args:
        critic_params: theta, of E critics; the argument to differentiate.
        value_params: psi; carries no gradient.
        batch: a :class:`funrl.env.Transition` of leaves [N...]. ``truncated`` is not used.
        value: as for :func:`iql_value_loss`.
        critic: as for :func:`iql_value_loss`.
        gamma: in [0, 1], a number or a tensor [] or [N...].
        weight: w, floating point [N...]; None: all 1.

    Returns:
        The loss [], and metrics, without gradient: ``critic_loss``, ``q_mean``, ``q_max``, ``target_mean``,
        ``target_max``, each [], and ``td_error`` [N...].

    Raises:
        ValueError: if shapes do not fit, or gamma is a Python number outside [0, 1].
        TypeError: if ``batch`` lacks a field, or a dtype is not as above.

    Example:
        >>> import torch
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False, False])
        >>> batch = Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.ones(2, 3), ())
        >>> critic = lambda p, s, a: (p[:, None] * torch.cat([s, a], -1)).sum(-1)
        >>> iql_critic_loss(torch.ones(1, 4), torch.ones(3), batch, value=lambda p, s: s @ p, critic=critic, gamma=0.5)[0]
        tensor(2.2500)

    Reference: I. Kostrikov, A. Nair, S. Levine, "Offline Reinforcement Learning with Implicit Q-Learning", 2021, arXiv:2110.06169,
        equation 6.
    """
    what = "iql_critic_loss"
    check_transition(what, batch)
    after = value(detach(value_params), batch.next_observation)
    _check.alike(what, **{"batch.reward": batch.reward, "value's values of next_observation": after})
    target = bootstrap(what, batch, after, gamma)
    return squared_errors(what, critic(critic_params, batch.observation, batch.action), target, weight)


def cql_penalty(
    critic_params: Any,
    actor_params: Any,
    key: torch.Tensor,
    batch: Any,
    *,
    actor: Actor,
    critic: ActionValue,
    num_actions: int = 10,
    low: float | torch.Tensor = -1.0,
    high: float | torch.Tensor = 1.0,
    lower_bound: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Return by how much the critics exceed their values of the data over all actions, estimated by importance sampling.

    .. math:: R_e(s, a) = \log \frac{1}{3n} \sum_{k} \frac{e^{Q_e(s, a_k)}}{p_k(a_k)} - Q_e(s, a), \qquad
        a_k \sim U, \; \pi(\cdot|s), \; \pi(\cdot|s')

    with n actions from each of the three distributions, and p_k the density of the one that action k was drawn from. With a
    ``lower_bound`` b(s), Q of the policy's actions is max(Q, b(s)): the calibration of Cal-QL.

    Args:
        critic_params: theta, of E critics; the argument to differentiate.
        actor_params: of the policy; carries no gradient.
        key: int64 [], for the actions.
        batch: a :class:`funrl.env.Transition` of leaves [N].
        actor: ``actor(actor_params, observation) -> distribution``, whose ``sample_with_log_prob(key)`` gives actions [N, A] and log
            densities [N].
        critic: ``critic(critic_params, observation, action) -> Q of each critic [E, ...]``, for observations and actions [n, N, ...].
        num_actions: n, at least 1.
        low: the lower bound of actions, a number or a tensor [A].
        high: the upper bound of actions, a number or a tensor [A].
        lower_bound: b, floating point [N], such as the discounted return to go of the data; None: none.

    Returns:
        R [E, N].

    Raises:
        ValueError: if shapes do not fit, or ``num_actions`` is below 1.

    Example:
        >>> import torch
        >>> from funrl import random
        >>> from funrl.distributions import Independent, TanhNormal
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False, False])
        >>> batch = Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.ones(2, 3), ())
        >>> actor = lambda p, s: Independent(TanhNormal(s @ p, torch.ones(2, 1)), 1)
        >>> critic = lambda p, s, a: p[:, None, None] * torch.ones(2, *a.shape[:-1]) if a.ndim == 3 else p[:, None] * torch.ones(2, 2)
        >>> penalty = cql_penalty(torch.ones(2), torch.zeros(3, 1), random.key(0), batch, actor=actor, critic=critic)
        >>> bool((penalty > 0).all())  # of a constant Q it estimates the logarithm of the volume, log 2
        True

    Reference: A. Kumar, A. Zhou, G. Tucker, S. Levine, "Conservative Q-Learning for Offline Reinforcement Learning", 2020,
        arXiv:2006.04779, equation 4 and appendix F, with actions of the successor's policy as well, as in the authors' code; M. Nakamoto et
        al., "Cal-QL: Calibrated Offline RL Pre-Training for Efficient Online Fine-Tuning", 2023, arXiv:2303.05479, equation 5.1.
    """
    what = "cql_penalty"
    _check.integer(f"{what}: num_actions", num_actions, 1)
    uniform_key, here_key, next_key = random.split(key, 3).unbind(0)
    action, actor_params = batch.action, detach(actor_params)
    low, high = (torch.as_tensor(end, dtype=action.dtype, device=action.device).expand(action.shape[-1:]) for end in (low, high))
    u = random.uniform(uniform_key, (num_actions, *action.shape), dtype=action.dtype)
    drawn, densities = [low + (high - low) * u], [(-(high - low).log().sum()).expand(num_actions, *action.shape[:-1])]
    for k, observation in ((here_key, batch.observation), (next_key, batch.next_observation)):
        distribution = actor(actor_params, observation)
        actions, log_prob = torch.func.vmap(distribution.sample_with_log_prob)(random.split(k, num_actions))
        _check.alike(what, **{"batch.reward": batch.reward, "actor's log_prob": log_prob[0]})
        drawn.append(actions.detach())
        densities.append(log_prob.detach())
    actions, log_density = torch.cat(drawn), torch.cat(densities)
    observation = _repeated(batch.observation, actions.shape[0])
    values = critic(critic_params, observation, actions)
    _check.floating(f"{what}: critic's values", values, shape=("E", *actions.shape[:-1]))
    if lower_bound is not None:
        _check.alike(what, **{"batch.reward": batch.reward, "lower_bound": lower_bound})
        random_values, policy_values = values[:, :num_actions], values[:, num_actions:]
        values = torch.cat([random_values, torch.maximum(policy_values, lower_bound.detach())], 1)
    chosen = critic(critic_params, batch.observation, action)
    return (values - log_density).logsumexp(1) - math.log(3 * num_actions) - chosen


def cql_critic_loss(
    critic_params: Any,
    params: SoftActorCritic,
    target_critic_params: Any,
    key: torch.Tensor,
    batch: Any,
    *,
    actor: Actor,
    critic: ActionValue,
    gamma: float | torch.Tensor,
    penalty_weight: float | torch.Tensor,
    num_actions: int = 10,
    low: float | torch.Tensor = -1.0,
    high: float | torch.Tensor = 1.0,
    lower_bound: torch.Tensor | None = None,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The critics' loss of CQL for continuous actions.

    .. math:: L = \sum_e \frac1N \sum_i w_i \left(\tfrac12 (y_i - Q_{\theta_e}(s_i, a_i))^2 + \alpha R_e(s_i, a_i)\right), \qquad
        y = r + \gamma (1 - \mathrm{terminated}) \min_e Q_{\bar\theta_e}(s', a'), \quad a' \sim \pi_\phi(\cdot|s')

    with the penalty R of :func:`cql_penalty`. The target has no entropy.

    Args:
        critic_params: theta, of E critics; the argument to differentiate.
        params: :class:`~funrl.losses.SoftActorCritic`, of which the actor is used; carries no gradient.
        target_critic_params: theta bar; carries no gradient.
        key: int64 [], for the actions.
        batch: a :class:`funrl.env.Transition` of leaves [N]. ``truncated`` is not used.
        actor, critic, num_actions, low, high, lower_bound: as for :func:`cql_penalty`.
        gamma: in [0, 1], a number or a tensor [] or [N].
        penalty_weight: alpha, at least 0, a number or a tensor [].
        weight: w, floating point [N]; None: all 1.

    Returns:
        The loss [], and metrics, without gradient: ``critic_loss``, ``penalty``, the mean of R, ``q_mean``, ``q_max``,
        ``target_mean``, ``target_max``, each [], and ``td_error`` [N].

    Raises:
        ValueError: if shapes do not fit, or a Python number is outside its range.
        TypeError: if ``batch`` or ``params`` lacks a field, or a dtype is not as above.

    Example:
        >>> import torch
        >>> from funrl.distributions import Independent, TanhNormal
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False, False])
        >>> batch = Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.ones(2, 3), ())
        >>> networks = dict(
        ...     actor=lambda p, s: Independent(TanhNormal(s @ p, torch.ones(2, 1)), 1),
        ...     critic=lambda p, s, a: torch.einsum("ed,...d->e...", p, torch.cat([s, a], -1)),
        ... )
        >>> params = SoftActorCritic(actor=torch.zeros(3, 1), critic=torch.ones(2, 4), log_alpha=torch.tensor(0.0))
        >>> loss, metrics = cql_critic_loss(
        ...     params.critic, params, params.critic, random.key(0), batch, gamma=0.0, penalty_weight=0.0, **networks
        ... )
        >>> loss  # two critics, half of (1 - 4)^2
        tensor(9.)

    Reference: A. Kumar, A. Zhou, G. Tucker, S. Levine, "Conservative Q-Learning for Offline Reinforcement Learning", 2020,
        arXiv:2006.04779, equation 4.
    """
    what = "cql_critic_loss"
    check_transition(what, batch)
    fields(f"{what}: params", params, ("actor", "critic"), "funrl.losses.SoftActorCritic")
    next_key, penalty_key = random.split(key).unbind(0)
    next_action = actor(detach(params.actor), batch.next_observation).sample_with_log_prob(next_key)[0].detach()
    next_values = q_values(what, critic, detach(target_critic_params), batch, next_action, after=True)
    values = q_values(what, critic, critic_params, batch, batch.action)
    target = bootstrap(what, batch, next_values.amin(0), gamma)
    options: dict[str, Any] = {"num_actions": num_actions, "low": low, "high": high, "lower_bound": lower_bound}
    penalty = cql_penalty(critic_params, params.actor, penalty_key, batch, actor=actor, critic=critic, **options)
    alpha = _check.in_dtype(f"{what}: penalty_weight", penalty_weight, batch.reward)
    loss = mean(what, (0.5 * (target - values).square() + alpha * penalty).sum(0), weight)
    return loss, {**critic_metrics(loss, values, target), "penalty": penalty.detach().mean()}


def discrete_cql_loss(
    params: Any,
    target_params: Any,
    batch: Any,
    *,
    apply: Apply,
    gamma: float | torch.Tensor,
    penalty_weight: float | torch.Tensor,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of CQL for discrete actions: double Q-learning and the conservative penalty.

    .. math:: L = \frac1N \sum_i w_i \left(\tfrac12 (y_i - Q_\theta(s_i, a_i))^2 +
        \alpha \left(\log \sum_a e^{Q_\theta(s_i, a)} - Q_\theta(s_i, a_i)\right)\right), \qquad
        y = r + \gamma (1 - \mathrm{terminated}) Q_{\bar\theta}(s', \arg\max_a Q_\theta(s', a))

    Args:
        params: theta; the argument to differentiate.
        target_params: theta bar; carries no gradient.
        batch: a :class:`funrl.env.Transition` of leaves [N...], with actions int64 [N...] in 0, ..., A - 1.
        apply: ``apply(params, observation) -> Q [N..., A]``.
        gamma: in [0, 1], a number or a tensor [] or [N...].
        penalty_weight: alpha, at least 0, a number or a tensor [].
        weight: w, floating point [N...]; None: all 1.

    Returns:
        The loss [], and metrics, without gradient, as for :func:`cql_critic_loss`.

    Raises:
        ValueError: if shapes do not fit, or a Python number is outside its range.
        TypeError: if ``batch`` lacks a field, or a dtype is not as above.

    Example:
        >>> import torch
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False, False])
        >>> batch = Transition(torch.eye(2), torch.tensor([0, 1]), torch.ones(2), no, no, torch.eye(2), ())
        >>> loss, metrics = discrete_cql_loss(
        ...     torch.zeros(2, 2), torch.zeros(2, 2), batch, apply=lambda p, s: s @ p, gamma=0.9, penalty_weight=1.0
        ... )
        >>> loss, metrics["penalty"]  # 1/2 + log 2
        (tensor(1.1931), tensor(0.6931))

    Reference: A. Kumar, A. Zhou, G. Tucker, S. Levine, "Conservative Q-Learning for Offline Reinforcement Learning", 2020,
        arXiv:2006.04779, equation 4.
    """
    what = "discrete_cql_loss"
    check_transition(what, batch)
    q = apply(params, batch.observation)
    _check.floating(f"{what}: apply's values", q, shape=(*batch.reward.shape, "A"))
    best = apply(detach(params), batch.next_observation).argmax(-1)
    after = take(apply(detach(target_params), batch.next_observation), best)
    values = take(q, batch.action)
    target = bootstrap(what, batch, after, gamma)
    penalty = q.logsumexp(-1) - values
    alpha = _check.in_dtype(f"{what}: penalty_weight", penalty_weight, batch.reward)
    loss = mean(what, 0.5 * (target - values).square() + alpha * penalty, weight)
    return loss, {**critic_metrics(loss, values, target), "penalty": penalty.detach().mean()}


def _repeated(observation: Any, count: int) -> Any:
    return tree.map(lambda x: x.expand(count, *x.shape), observation)
