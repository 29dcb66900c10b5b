"""On-policy targets and advantages: one-step, n-step and lambda-returns, Monte Carlo returns, and GAE."""

from typing import Any

import torch

from funrl import _check
from funrl.returns._recurrence import n_step_recurrence, solve_recurrence


def columns(what: str, **tensors: Any) -> None:
    """Check tensors of the shape [T, ...] of the first, as for :func:`funrl._check.alike`.

    Example:
        >>> columns("td0", reward=torch.zeros(()))
        Traceback (most recent call last):
        ...
        ValueError: td0: reward: expected the shape [T, ...] with T at least 1, got []; time comes first
    """
    _check.alike(what, **tensors)
    reference, first = next(iter(tensors.items()))
    if first.ndim == 0 or first.shape[0] == 0:
        _check.sized(f"{what}: {reference}", first, ("T", ...), "time comes first")


def fraction(what: str, name: str, x: float | torch.Tensor, like: torch.Tensor) -> float | torch.Tensor:
    """Return a number in [0, 1], or a tensor that broadcasts to ``like``, in the dtype of ``like``.

    Example:
        >>> fraction("td0", "gamma", 1.5, torch.zeros(3))
        Traceback (most recent call last):
        ...
        ValueError: td0: gamma: expected a number in [0, 1], got 1.5
    """
    if isinstance(x, torch.Tensor) and not _check.broadcasts(x.shape, like.shape):
        _check.fail(ValueError, f"{what}: {name}", f"a number or a shape that broadcasts to {list(like.shape)}", list(x.shape))
    return _check.in_dtype(f"{what}: {name}", x, like, "[0, 1]")


def discounts(what: str, gamma: float | torch.Tensor, lambda_: float | torch.Tensor, **tensors: torch.Tensor) -> Any:
    """Return gamma and lambda as :func:`fraction` does, after a check of the tensors; the first is the reward."""
    columns(what, **tensors)
    return fraction(what, "gamma", gamma, tensors["reward"]), fraction(what, "lambda_", lambda_, tensors["reward"])


def td0(reward: torch.Tensor, next_value: torch.Tensor, terminated: torch.Tensor, *, gamma: float | torch.Tensor) -> torch.Tensor:
    r"""Return one-step targets.

    .. math:: G_t = r_t + \gamma (1 - \mathrm{terminated}_t) V(s'_t)

    The order of the steps does not matter: the tensors may also be a batch [B] of single steps.

    Args:
        reward: floating point [T, ...].
        next_value: V of the true successor (not of the state after a reset), floating point [T, ...]; not used where terminated.
        terminated: bool [T, ...]. A truncated step is treated like any other, as its successor has a value.
        gamma: the discount in [0, 1], a number or a tensor that broadcasts to [T, ...].

    Returns:
        G [T, ...]. Gradients flow through it: detach it if that is not wanted.

    Raises:
        ValueError: if shapes differ (none are broadcast), T is 0, or gamma is a Python number outside [0, 1].
        TypeError: if a dtype is not as above.

    Example:
        >>> import torch
        >>> td0(torch.tensor([1.0, 1.0]), torch.tensor([4.0, 9.0]), torch.tensor([False, True]), gamma=0.5)
        tensor([3., 1.])

    Reference: R. S. Sutton, "Learning to Predict by the Methods of Temporal Differences", 1988, doi:10.1007/BF00115009 (no arXiv id).
    """
    columns("td0", reward=reward, next_value=next_value, terminated=terminated)
    gamma = fraction("td0", "gamma", gamma, reward)
    return reward + gamma * torch.where(terminated, 0.0, next_value)


def td1(
    reward: torch.Tensor,
    next_value: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    *,
    gamma: float | torch.Tensor,
) -> torch.Tensor:
    r"""Return the discounted sums of rewards to the end of the episode, plus the value of the last state if they stop before it.

    .. math:: G_t = r_t + \gamma \begin{cases} 0 & \mathrm{terminated}_t \\ V(s'_t) & \mathrm{truncated}_t \text{ or } t = T - 1 \\
        G_{t+1} & \text{otherwise} \end{cases}

    It is :func:`td_lambda` with lambda = 1, with the same arguments and errors.

    Returns:
        G [T, ...]. Gradients flow through it: detach it if that is not wanted.

    Example:
        >>> import torch
        >>> no = torch.tensor([False, False])
        >>> td1(torch.tensor([1.0, 1.0]), torch.tensor([4.0, 8.0]), no, no, gamma=0.5)
        tensor([3.5000, 5.0000])

    Reference: R. S. Sutton, "Learning to Predict by the Methods of Temporal Differences", 1988, doi:10.1007/BF00115009 (no arXiv id).
    """
    return _td_lambda("td1", reward, next_value, terminated, truncated, gamma, 1.0)


def td_lambda(
    reward: torch.Tensor,
    next_value: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    *,
    gamma: float | torch.Tensor,
    lambda_: float | torch.Tensor,
) -> torch.Tensor:
    r"""Return lambda-returns: an exponential average of the n-step returns.

    .. math:: G_t = r_t + \gamma \begin{cases} 0 & \mathrm{terminated}_t \\ V(s'_t) & \mathrm{truncated}_t \text{ or } t = T - 1 \\
        (1 - \lambda) V(s'_t) + \lambda G_{t+1} & \text{otherwise} \end{cases}

    Where V(s'_t) = V(s_{t+1}) within an episode, they are the targets of :func:`funrl.returns.gae`.

    Args:
        reward: floating point [T, ...].
        next_value: V of the true successor (not of the state after a reset), floating point [T, ...]; not used where terminated.
        terminated: bool [T, ...].
        truncated: bool [T, ...].
        gamma: the discount in [0, 1], a number or a tensor that broadcasts to [T, ...].
        lambda_: 0 (:func:`td0`) to 1 (:func:`td1`), a number or a tensor that broadcasts to [T, ...].

    Returns:
        G [T, ...]. Gradients flow through it: detach it if that is not wanted.

    Raises:
        ValueError: if shapes differ (none are broadcast), T is 0, or gamma or lambda_ is a Python number outside [0, 1].
        TypeError: if a dtype is not as above.

    Example:
        >>> import torch
        >>> no = torch.tensor([False, False])
        >>> td_lambda(torch.tensor([1.0, 1.0]), torch.tensor([4.0, 8.0]), no, no, gamma=0.5, lambda_=0.5)
        tensor([3.2500, 5.0000])

    Reference: R. S. Sutton, A. G. Barto, "Reinforcement Learning: An Introduction", 2nd edition, 2018, section 12.1 (no arXiv id).
    """
    return _td_lambda("td_lambda", reward, next_value, terminated, truncated, gamma, lambda_)


def n_step(
    reward: torch.Tensor,
    next_value: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    *,
    gamma: float | torch.Tensor,
    n: int,
) -> torch.Tensor:
    r"""Return n-step targets: the rewards of n steps, and the value of the state that they led to.

    .. math:: G_t = \sum_{k=0}^{m-1} \gamma^k r_{t+k} + \gamma^m (1 - \mathrm{terminated}_{t+m-1}) V(s'_{t+m-1})

    m is n, or less where the episode or the data ends earlier.

    Args:
        reward: floating point [T, ...].
        next_value: V of the true successor (not of the state after a reset), floating point [T, ...]; not used where terminated.
        terminated: bool [T, ...].
        truncated: bool [T, ...].
        gamma: the discount in [0, 1], a number or a tensor that broadcasts to [T, ...].
        n: at least 1; 1 is :func:`td0`, T or more :func:`td1`.

    Returns:
        G [T, ...]. Gradients flow through it: detach it if that is not wanted.

    Raises:
        ValueError: if shapes differ (none are broadcast), T is 0, n is below 1, or gamma is a Python number outside [0, 1].
        TypeError: if a dtype is not as above, or n is not a whole number.

    Example:
        >>> import torch
        >>> no = torch.tensor([False, False, False])
        >>> n_step(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([4.0, 8.0, 16.0]), no, no, gamma=0.5, n=2)
        tensor([3.5000, 5.5000, 9.0000])

    Reference: R. S. Sutton, A. G. Barto, "Reinforcement Learning: An Introduction", 2nd edition, 2018, section 7.1 (no arXiv id).
    """
    columns("n_step", reward=reward, next_value=next_value, terminated=terminated, truncated=truncated)
    gamma = fraction("n_step", "gamma", gamma, reward)
    _check.integer("n_step: n", n, remedy="it decides about shapes, so give a Python int")
    if n < 1:
        raise ValueError(f"n_step: n: expected at least 1, got {n}")
    one_step, cut = td0(reward, next_value, terminated, gamma=gamma), _cut(terminated, truncated)
    return n_step_recurrence(torch.where(cut, one_step, reward), torch.where(cut, 0.0, torch.ones_like(one_step) * gamma), one_step, n)


def q_lambda(
    reward: torch.Tensor,
    next_q_value: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    *,
    gamma: float | torch.Tensor,
    lambda_: float | torch.Tensor,
) -> torch.Tensor:
    r"""Return the targets of Peng's Q(lambda): :func:`td_lambda` with the value of the greedy action.

    .. math:: V(s'_t) = \max_a Q(s'_t, a)

    The actions that were taken need not be greedy. For Watkins's Q(lambda), give as ``lambda_`` a tensor that is 0 at t where
    the action at t + 1 was not.

    Args:
        reward: floating point [T, ...].
        next_q_value: Q of the state that the step led to, for each action, floating point [T, ..., A]; not used where terminated.
        terminated: bool [T, ...].
        truncated: bool [T, ...].
        gamma: as for :func:`td_lambda`.
        lambda_: as for :func:`td_lambda`.

    Returns:
        Targets for Q(s_t, a_t) [T, ...]. Gradients flow through it: detach it if that is not wanted.

    Raises:
        ValueError: if shapes differ (none are broadcast), T or A is 0, or gamma or lambda_ is a Python number outside [0, 1].
        TypeError: if a dtype is not as above.

    Example:
        >>> import torch
        >>> no = torch.tensor([False, False])
        >>> q_lambda(torch.tensor([1.0, 1.0]), torch.tensor([[4.0, 0.0], [8.0, 9.0]]), no, no, gamma=1.0, lambda_=0.5)
        tensor([ 8., 10.])

    Reference: J. Peng, R. J. Williams, "Incremental Multi-Step Q-Learning", 1996, doi:10.1007/BF00114731; as used in M. Gallici et al.,
        "Simplifying Deep Temporal Difference Learning", 2024, arXiv:2407.04811.
    """
    _check.floating("q_lambda: next_q_value", next_q_value)
    if next_q_value.ndim == 0 or next_q_value.shape[-1] == 0 or next_q_value.shape[:-1] != reward.shape:
        raise ValueError(
            f"q_lambda: next_q_value: expected the shape {[*reward.shape, 'A']} of reward and one dimension of actions, "
            f"got {list(next_q_value.shape)}; for values of one action use td_lambda"
        )
    # A terminated step has no successor: its value, even NaN, affects neither the targets nor the gradients.
    known = next_q_value
    if terminated.shape == reward.shape and terminated.dtype == torch.bool:
        known = torch.where(terminated.unsqueeze(-1), 0.0, next_q_value)
    return _td_lambda("q_lambda", reward, known.amax(-1), terminated, truncated, gamma, lambda_)


def reward_to_go(
    reward: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    *,
    gamma: float | torch.Tensor,
) -> torch.Tensor:
    r"""Return the discounted rewards up to the end of the episode, or of the data. The rewards after the end of the data count as 0.

    .. math:: G_t = r_t + \gamma (1 - \mathrm{done}_t) G_{t+1}, \qquad G_T = 0

    Args:
        reward: floating point [T, ...].
        terminated: bool [T, ...].
        truncated: bool [T, ...].
        gamma: the discount in [0, 1], a number or a tensor that broadcasts to [T, ...].

    Returns:
        G [T, ...].

    Raises:
        ValueError: if shapes differ (none are broadcast), T is 0, or gamma is a Python number outside [0, 1].
        TypeError: if a dtype is not as above.

    Example:
        >>> import torch
        >>> end = torch.tensor([False, True, False])
        >>> reward_to_go(torch.tensor([1.0, 1.0, 1.0]), end, torch.zeros_like(end), gamma=0.5)
        tensor([1.5000, 1.0000, 1.0000])

    Reference: R. J. Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", 1992,
        doi:10.1007/BF00992696 (no arXiv id).
    """
    columns("reward_to_go", reward=reward, terminated=terminated, truncated=truncated)
    gamma = fraction("reward_to_go", "gamma", gamma, reward)
    return solve_recurrence(reward, torch.where(terminated | truncated, 0.0, torch.ones_like(reward) * gamma))


def _td_lambda(
    what: str,
    reward: torch.Tensor,
    next_value: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    gamma: float | torch.Tensor,
    lambda_: float | torch.Tensor,
) -> torch.Tensor:
    tensors = {"reward": reward, "next_value": next_value, "terminated": terminated, "truncated": truncated}
    gamma, lambda_ = discounts(what, gamma, lambda_, **tensors)
    lambda_ = torch.where(_cut(terminated, truncated), 0.0, torch.ones_like(reward) * lambda_)
    # Masked before it is multiplied: the gradient in lambda_ would be 0 times a NaN.
    successor = (1 - lambda_) * torch.where(terminated, 0.0, next_value)
    return solve_recurrence(td0(reward, successor, terminated, gamma=gamma), gamma * lambda_)


def _cut(terminated: torch.Tensor, truncated: torch.Tensor) -> torch.Tensor:
    """Return True where the next row belongs to another episode: at ends of episodes, and in the last row."""
    done = terminated | truncated
    return torch.cat([done[:-1], torch.ones_like(done[:1])])


def gae(
    reward: torch.Tensor,
    value: torch.Tensor,
    next_value: torch.Tensor,
    terminated: torch.Tensor,
    truncated: torch.Tensor,
    *,
    gamma: float | torch.Tensor,
    lambda_: float | torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Estimate advantages, and value targets, by an exponential average of n-step errors.

    .. math:: \delta_t = r_t + \gamma (1 - \mathrm{terminated}_t) V(s'_t) - V(s_t), \qquad
        A_t = \delta_t + \gamma \lambda (1 - \mathrm{done}_t) A_{t+1}, \qquad A_T = 0

    A terminated step does not bootstrap; a truncated one bootstraps from ``next_value``, but the advantages of later steps have no effect
    on it. ``next_value`` is the value of the true successor, so that no step is a special case, not even the last one.

    Args:
        reward: floating point [T, ...].
        value: V(s_t), floating point [T, ...].
        next_value: V of the true successor (not of the state after a reset), floating point [T, ...]; not used where terminated.
        terminated: bool [T, ...].
        truncated: bool [T, ...].
        gamma: the discount in [0, 1], a number or a tensor that broadcasts to [T, ...].
        lambda_: 0 (one-step errors) to 1 (Monte Carlo), a number or a tensor that broadcasts to [T, ...].

    Returns:
        The advantages A [T, ...] and the targets A + V(s) [T, ...] (TD(lambda) returns). Gradients flow through both: detach
        them if that is not wanted.

    Raises:
        ValueError: if shapes differ (none are broadcast), T is 0, or gamma or lambda_ is a Python number outside [0, 1].
        TypeError: if a dtype is not as above.

    Example:
        >>> import torch
        >>> advantage, target = gae(
        ...     reward=torch.tensor([1.0, 1.0]), value=torch.tensor([0.5, 0.5]), next_value=torch.tensor([0.5, 9.0]),
        ...     terminated=torch.tensor([False, True]), truncated=torch.tensor([False, False]), gamma=1.0, lambda_=1.0,
        ... )
        >>> advantage, target
        (tensor([1.5000, 0.5000]), tensor([2., 1.]))

    Reference: J. Schulman, P. Moritz, S. Levine, M. Jordan, P. Abbeel, "High-Dimensional Continuous Control Using
        Generalized Advantage Estimation", 2015, arXiv:1506.02438.
    """
    tensors = {"reward": reward, "value": value, "next_value": next_value, "terminated": terminated, "truncated": truncated}
    gamma, lambda_ = discounts("gae", gamma, lambda_, **tensors)
    error = td0(reward, next_value, terminated, gamma=gamma) - value
    advantage = solve_recurrence(error, torch.where(terminated | truncated, 0.0, torch.ones_like(error) * gamma * lambda_))
    return advantage, advantage + value
