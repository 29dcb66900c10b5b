"""The losses of implicit Q-learning (IQL)."""

from typing import Any

import torch

from funrl import _check
from funrl.losses._actor_critic import bootstrap, check_transition, q_values, squared_errors
from funrl.losses._checks import detach, mean
from funrl.typing import ActionValue, Apply, Metrics


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
