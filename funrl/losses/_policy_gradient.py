"""The losses of policy gradients: REINFORCE, A2C, IMPALA and the option-critic."""

from typing import Any

import torch

from funrl import _check, tree
from funrl.losses._parts import check_transition, detach, evaluate, fields, mean, sum_terms
from funrl.returns import vtrace
from funrl.typing import Actor, Evaluate, Metrics


@tree.dataclass
class ReinforceBatch:
    """A batch for REINFORCE; N stands for any number of batch dimensions.

    Attributes:
        observation: a tree of tensors [N..., ...].
        action: a tree of tensors [N..., ...], sampled from the policy to learn.
        returns: floating point [N...], the return from each step on, see :func:`funrl.returns.reward_to_go`.
    """

    observation: Any
    action: Any
    returns: torch.Tensor


def reinforce_loss(
    params: Any,
    batch: ReinforceBatch,
    *,
    apply: Actor,
    entropy_weight: float | torch.Tensor = 0.0,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of REINFORCE, whose gradient is an estimate of the negative gradient of the expected return.

    .. math:: L = -\frac1N \sum_i w_i \left(G_i \log \pi_\theta(a_i|s_i) + c \mathcal H(\pi_\theta(\cdot|s_i))\right)

    The exact objective also has a factor gamma^t for step t; most implementations, including this one, omit it (give it as ``weight``).

    Args:
        params: theta, the parameters of ``apply``; the argument to differentiate.
        batch: the data, see :class:`ReinforceBatch`; nothing in it carries a gradient.
        apply: ``apply(params, observation) -> distribution``; its ``log_prob(action)`` and ``entropy()`` are [N...] (wrap one over
            vectors in ``Independent``).
        entropy_weight: c, a number or a tensor [].
        weight: w, floating point [N...]; None: all 1.

    Returns:
        The loss [], and metrics, each [] and without gradient: ``policy_loss`` and ``entropy``.

    Raises:
        ValueError: if shapes differ.
        TypeError: if ``batch`` lacks a field, or an argument that should be a floating-point tensor is not.

    Example:
        >>> import torch
        >>> from funrl.distributions import Categorical
        >>> batch = ReinforceBatch(observation=torch.ones(2, 3), action=torch.tensor([0, 1]), returns=torch.tensor([1.0, 3.0]))
        >>> gradient, (loss, metrics) = torch.func.grad_and_value(reinforce_loss, has_aux=True)(
        ...     torch.zeros(3, 2), batch, apply=lambda p, x: Categorical(x @ p)
        ... )
        >>> loss, gradient[0]
        (tensor(1.3863), tensor([ 0.5000, -0.5000]))

    Reference: R. J. Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", 1992,
        doi:10.1007/BF00992696 (no arXiv id).
    """
    what = "reinforce_loss"
    fields(f"{what}: batch", batch, ("observation", "action", "returns"), "funrl.losses.ReinforceBatch")
    distribution = apply(params, batch.observation)
    log_prob, entropy = distribution.log_prob(batch.action), distribution.entropy()
    _check.alike(what, **{"batch.returns": batch.returns, "apply's log_prob": log_prob, "apply's entropy": entropy})
    entropy_weight = _check.in_dtype(f"{what}: entropy_weight", entropy_weight, entropy, "[-inf, inf]")
    policy_loss, mean_entropy = -mean(what, batch.returns.detach() * log_prob, weight), mean(what, entropy, weight)
    return policy_loss - entropy_weight * mean_entropy, {"policy_loss": policy_loss.detach(), "entropy": mean_entropy.detach()}


def reinforce_with_baseline_loss(
    params: Any,
    batch: ReinforceBatch,
    *,
    apply: Evaluate,
    value_weight: float | torch.Tensor = 0.5,
    entropy_weight: float | torch.Tensor = 0.0,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of REINFORCE with a learned baseline, which changes the variance of the gradient but not its mean.

    .. math:: L = \frac1N \sum_i w_i \left(-(G_i - V(s_i)) \log \pi_\theta(a_i|s_i) + \frac{c_1}2 (G_i - V_\theta(s_i))^2
        - c_2 \mathcal H(\pi_\theta(\cdot|s_i))\right)

    The V of the first term carries no gradient.

    Args:
        params: theta, the parameters of ``apply``; the argument to differentiate.
        batch: the data, see :class:`ReinforceBatch`; nothing in it carries a gradient.
        apply: ``apply(params, observation) -> (distribution, value [N...])``, as for :func:`funrl.losses.ppo_loss`.
        value_weight, entropy_weight, weight: as for :func:`funrl.losses.a2c_loss`.

    Returns:
        The loss [], and metrics, as of :func:`funrl.losses.a2c_loss`.

    Raises:
        ValueError, TypeError: as for :func:`funrl.losses.a2c_loss`.

    Example:
        >>> import torch
        >>> from funrl.distributions import Categorical
        >>> batch = ReinforceBatch(observation=torch.ones(2, 3), action=torch.tensor([0, 1]), returns=torch.tensor([1.0, 3.0]))
        >>> params = {"policy": torch.zeros(3, 2), "value": torch.full((3,), 2 / 3)}
        >>> loss, metrics = reinforce_with_baseline_loss(
        ...     params, batch, apply=lambda p, x: (Categorical(x @ p["policy"]), x @ p["value"])
        ... )
        >>> metrics["policy_loss"], metrics["value_loss"]
        (tensor(0.), tensor(0.5000))

    Reference: R. J. Williams, "Simple Statistical Gradient-Following Algorithms for Connectionist Reinforcement Learning", 1992,
        doi:10.1007/BF00992696 (no arXiv id); R. S. Sutton, A. G. Barto, "Reinforcement Learning: An Introduction", 2018, section 13.4.
    """
    what = "reinforce_with_baseline_loss"
    fields(f"{what}: batch", batch, ("observation", "action", "returns"), "funrl.losses.ReinforceBatch")
    _, log_prob, entropy, value = evaluate(what, apply, params, batch, **{"batch.returns": batch.returns})
    returns = batch.returns.detach()
    policy_loss, value_loss = -(returns - value.detach()) * log_prob, 0.5 * (returns - value).square()
    return sum_terms(what, policy_loss, value_loss, entropy, value_weight, entropy_weight, weight)


@tree.dataclass
class A2CBatch:
    """A batch for A2C; N stands for any number of batch dimensions.

    Attributes:
        observation: a tree of tensors [N..., ...].
        action: a tree of tensors [N..., ...], sampled from the policy to learn.
        advantage: floating point [N...].
        target: floating point [N...], the target of the value.
    """

    observation: Any
    action: Any
    advantage: torch.Tensor
    target: torch.Tensor


def a2c_loss(
    params: Any,
    batch: A2CBatch,
    *,
    apply: Evaluate,
    value_weight: float | torch.Tensor = 0.5,
    entropy_weight: float | torch.Tensor = 0.0,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of A2C: policy gradient, value error and entropy, as means over the batch.

    .. math:: L = \frac1N \sum_i w_i \left(-A_i \log \pi_\theta(a_i|s_i) + \frac{c_1}2 (R_i - V_\theta(s_i))^2
        - c_2 \mathcal H(\pi_\theta(\cdot|s_i))\right)

    Args:
        params: theta, the parameters of ``apply``; the argument to differentiate.
        batch: the data, see :class:`A2CBatch`; nothing in it carries a gradient. :func:`funrl.returns.gae` gives advantages
            and targets (with lambda = 1 those of the paper).
        apply: ``apply(params, observation) -> (distribution, value [N...])``; the distribution's ``log_prob(action)`` and
            ``entropy()`` are [N...] (wrap one over vectors in ``Independent``).
        value_weight: c_1, at least 0, a number or a tensor [].
        entropy_weight: c_2, a number or a tensor [].
        weight: w, floating point [N...]; None: all 1.

    Returns:
        The loss [], and metrics, each [] and without gradient: ``policy_loss``, ``value_loss`` and ``entropy``.

    Raises:
        ValueError: if shapes differ, or ``value_weight`` is a negative Python number.
        TypeError: if ``batch`` lacks a field, or an argument that should be a floating-point tensor is not.

    Example:
        >>> import torch
        >>> from funrl.distributions import Categorical
        >>> batch = A2CBatch(
        ...     observation=torch.ones(2, 3), action=torch.tensor([0, 1]), advantage=torch.tensor([1.0, 1.0]), target=torch.ones(2)
        ... )
        >>> params = {"policy": torch.zeros(3, 2), "value": torch.zeros(3)}
        >>> loss, metrics = a2c_loss(params, batch, apply=lambda p, x: (Categorical(x @ p["policy"]), x @ p["value"]))
        >>> loss, metrics["value_loss"]
        (tensor(0.9431), tensor(0.5000))

    Reference: V. Mnih et al., "Asynchronous Methods for Deep Reinforcement Learning", 2016, arXiv:1602.01783, section 4 and algorithm S3.
    """
    what = "a2c_loss"
    fields(f"{what}: batch", batch, ("observation", "action", "advantage", "target"), "funrl.losses.A2CBatch")
    _, log_prob, entropy, value = evaluate(what, apply, params, batch, **{"batch.advantage": batch.advantage, "batch.target": batch.target})
    policy_loss, value_loss = -batch.advantage.detach() * log_prob, 0.5 * (batch.target.detach() - value).square()
    return sum_terms(what, policy_loss, value_loss, entropy, value_weight, entropy_weight, weight)


def impala_loss(
    params: Any,
    batch: Any,
    *,
    apply: Evaluate,
    gamma: float | torch.Tensor,
    lambda_: float | torch.Tensor = 1.0,
    rho_clip: float | torch.Tensor = 1.0,
    c_clip: float | torch.Tensor = 1.0,
    value_weight: float | torch.Tensor = 0.5,
    entropy_weight: float | torch.Tensor = 0.0,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of IMPALA, with the advantages A and targets v of :func:`funrl.returns.vtrace`.

    .. math:: L = \frac1N \sum_i w_i \left(-A_i \log \pi_\theta(a_i|s_i) + \frac{c_1}2 (v_i - V_\theta(s_i))^2
        - c_2 \mathcal H(\pi_\theta(\cdot|s_i))\right)

    Args:
        params: theta, the parameters of ``apply``; the argument to differentiate.
        batch: a :class:`funrl.env.Transition` of leaves [T, ...], time first, whose ``extras["log_prob"]`` is log mu(a|s) [T, ...] of the
            policy that acted; nothing in it carries a gradient.
        apply: ``apply(params, observation) -> (distribution, value [T, ...])``; the distribution's ``log_prob(action)`` and
            ``entropy()`` are [T, ...] (wrap one over vectors in ``Independent``). It is applied to ``next_observation`` too.
        gamma: in [0, 1], a number or a tensor that broadcasts to [T, ...].
        lambda_: in [0, 1], a number or a tensor that broadcasts to [T, ...]; the paper has 1.
        rho_clip: above 0, the maximum of the importance ratios of targets and advantages.
        c_clip: above 0, the maximum of the importance ratios in the traces of the recursion.
        value_weight: c_1, at least 0.
        entropy_weight: c_2.
        weight: w, floating point [T, ...]; None: all 1.

        Each hyperparameter from ``rho_clip`` on is a number or a tensor [].

    Returns:
        The loss [], and metrics, each [] and without gradient: ``policy_loss``, ``value_loss``, ``entropy`` and ``importance_ratio``,
        the mean of pi / mu.

    Raises:
        ValueError: if shapes differ, or a Python number is outside its range.
        TypeError: if ``batch`` lacks a field, or a dtype is not as above.

    Example:
        >>> import torch
        >>> from funrl.distributions import Categorical
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False, False])
        >>> batch = Transition(
        ...     observation=torch.ones(2, 3), action=torch.tensor([0, 1]), reward=torch.ones(2), terminated=no, truncated=no,
        ...     next_observation=torch.ones(2, 3), extras={"log_prob": torch.tensor([0.5, 0.5]).log()},
        ... )
        >>> params = {"policy": torch.zeros(3, 2), "value": torch.zeros(3)}
        >>> loss, metrics = impala_loss(params, batch, apply=lambda p, x: (Categorical(x @ p["policy"]), x @ p["value"]), gamma=1.0)
        >>> metrics["policy_loss"], metrics["value_loss"]  # targets 2 and 1
        (tensor(1.0397), tensor(1.2500))

    Reference: L. Espeholt et al., "IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner Architectures", 2018,
        arXiv:1802.01561, section 4.2. Deviation: means over the batch where the paper has sums.
    """
    what = "impala_loss"
    check_transition(what, batch)
    fields(f"{what}: batch", batch, ("truncated", "extras"), "funrl.env.Transition")
    if not isinstance(batch.extras, dict) or "log_prob" not in batch.extras:
        got = sorted(batch.extras) if isinstance(batch.extras, dict) else type(batch.extras).__name__
        raise TypeError(f"{what}: batch.extras: expected a dict with log_prob, got {got}; act has to return it, as stochastic policies do")
    behaviour = batch.extras["log_prob"]
    _, next_value = apply(params, batch.next_observation)
    alike = {"batch.reward": batch.reward, "batch.extras['log_prob']": behaviour, "apply's value of next_observation": next_value}
    _, log_prob, entropy, value = evaluate(what, apply, params, batch, **alike)
    log_ratio = log_prob - behaviour
    experience = (batch.reward, value, next_value, batch.terminated, batch.truncated, log_ratio)
    clips = {"rho_clip": rho_clip, "c_clip": c_clip, "advantage_clip": rho_clip}
    advantage, target = detach(vtrace(*experience, gamma=gamma, lambda_=lambda_, **clips))
    policy_loss, value_loss = -advantage * log_prob, 0.5 * (target - value).square()
    loss, metrics = sum_terms(what, policy_loss, value_loss, entropy, value_weight, entropy_weight, weight)
    return loss, {**metrics, "importance_ratio": log_ratio.detach().exp().mean()}


@tree.dataclass
class OptionBatch:
    """A batch for the option-critic; N stands for any number of batch dimensions.

    Attributes:
        observation: a tree of tensors [N..., ...].
        action: a tree of tensors [N..., ...], sampled from the policy of the option.
        option: int64 [N...], the option that acted.
        advantage: floating point [N...], of the action in the option.
        target: floating point [N...], the target of the value of the option.
        next_observation: a tree of tensors [N..., ...], the true successors.
        option_advantage: floating point [N...], Q(s', w) - V(s'): how much better than a new choice it is to continue with the option.
        terminated: bool [N...], True where the episode ended in s', so that no option goes on.
    """

    observation: Any
    action: Any
    option: torch.Tensor
    advantage: torch.Tensor
    target: torch.Tensor
    next_observation: Any
    option_advantage: torch.Tensor
    terminated: torch.Tensor


def option_critic_loss(
    params: Any,
    batch: OptionBatch,
    *,
    apply: Any,
    deliberation_cost: float | torch.Tensor = 0.0,
    termination_weight: float | torch.Tensor = 1.0,
    value_weight: float | torch.Tensor = 0.5,
    entropy_weight: float | torch.Tensor = 0.0,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of the option-critic: gradients of the policies in the options, of their terminations and of their values.

    .. math:: L = \frac1N \sum_i w_i \left(-A_i \log \pi_{\omega_i}(a_i|s_i) + \frac{c_1}2 (y_i - Q_\Omega(s_i, \omega_i))^2
        - c_2 \mathcal H(\pi_{\omega_i}(\cdot|s_i)) + c_3 (1 - d_i) \beta_{\omega_i}(s'_i) (A_\Omega(s'_i, \omega_i) + \eta)\right)

    An option learns to terminate where another one is better by more than the deliberation cost η. A greater cost makes options longer.

    Args:
        params: theta, the parameters of ``apply``; the argument to differentiate.
        batch: the data, see :class:`OptionBatch`; nothing in it carries a gradient.
        apply: ``apply(params, observation, option) -> (distribution, value [N...], termination [N...])``: the policy of an option, its
            value Q(s, w), and the probability beta in [0, 1] that it terminates in s.
        deliberation_cost: eta, at least 0, a number or a tensor [].
        termination_weight: c_3, at least 0, a number or a tensor [].
        value_weight: c_1, at least 0, a number or a tensor [].
        entropy_weight: c_2, a number or a tensor [].
        weight: w, floating point [N...]; None: all 1.

    Returns:
        The loss [], and metrics, each [] and without gradient: ``policy_loss``, ``value_loss``, ``entropy``, ``termination_loss`` and
        ``termination``, the mean probability that an option terminates in a state that it leads to.

    Raises:
        ValueError: if shapes differ, or a weight or the cost is a negative Python number.
        TypeError: if ``batch`` lacks a field, or an argument that should be a floating-point tensor is not.

    Example:
        >>> import torch
        >>> from funrl.distributions import Categorical
        >>> x, one = torch.ones(2, 3), torch.ones(2)
        >>> batch = OptionBatch(x, torch.tensor([0, 1]), torch.tensor([0, 0]), one, one, x, -one, torch.tensor([False, True]))
        >>> def apply(params, observation, option):
        ...     return Categorical(torch.zeros(2, 2)), torch.zeros(2), params.sigmoid().expand(2)
        >>> loss, metrics = option_critic_loss(torch.tensor(0.0), batch, apply=apply)
        >>> metrics["termination_loss"], metrics["value_loss"]  # only the first sample goes on
        (tensor(-0.2500), tensor(0.5000))

    Reference: P.-L. Bacon, J. Harb, D. Precup, "The Option-Critic Architecture", 2016, arXiv:1609.05140, theorems 1 and 2; the deliberation
        cost is that of J. Harb, P.-L. Bacon, M. Klissarov, D. Precup, "When Waiting is not an Option: Learning Options with a Deliberation
        Cost", 2017, arXiv:1709.04571, with the horizon 0: it enters the terminations and not the values. Deviation: Q(s, w) is subtracted
        from the return of an action, as a baseline.
    """
    what = "option_critic_loss"
    names = ("observation", "action", "option", "advantage", "target", "next_observation", "option_advantage", "terminated")
    fields(f"{what}: batch", batch, names, "funrl.losses.OptionBatch")
    distribution, value, _ = apply(params, batch.observation, batch.option)
    _, _, termination = apply(params, batch.next_observation, batch.option)
    log_prob, entropy = distribution.log_prob(batch.action), distribution.entropy()
    given = {f"batch.{name}": getattr(batch, name) for name in ("advantage", "target", "option_advantage")}
    found = {"log_prob": log_prob, "entropy": entropy, "value": value, "termination": termination}
    _check.alike(what, **given, **{f"apply's {name}": x for name, x in found.items()})
    _check.flag(f"{what}: batch.terminated", batch.terminated, shape=value.shape)
    cost = _check.in_dtype(f"{what}: deliberation_cost", deliberation_cost, value)
    share = _check.in_dtype(f"{what}: termination_weight", termination_weight, value)
    worse = termination * (batch.option_advantage.detach() + cost)
    termination_loss = mean(what, torch.where(batch.terminated, 0.0, worse), weight)
    policy_loss, value_loss = -batch.advantage.detach() * log_prob, 0.5 * (batch.target.detach() - value).square()
    loss, metrics = sum_terms(what, policy_loss, value_loss, entropy, value_weight, entropy_weight, weight)
    means = {"termination_loss": termination_loss.detach(), "termination": termination.detach().mean()}
    return loss + share * termination_loss, {**metrics, **means}
