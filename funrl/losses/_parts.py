"""Shared parts of losses: checks at tracing, which never depend on values, parameters, targets, terms and metrics."""

from typing import Any

import torch

from funrl import _check, tree
from funrl.returns import td0
from funrl.typing import ActionValue, Evaluate, Metrics


def fields(what: str, value: Any, names: tuple[str, ...], kind: str) -> None:
    """Raise unless ``value`` has the attributes ``names``; ``kind`` is the class that has them.

    Raises:
        TypeError: if one is missing.

    Example:
        >>> fields("ddpg_loss: batch", {"action": torch.zeros(3)}, ("observation", "action"), "funrl.env.Transition")
        Traceback (most recent call last):
        ...
        TypeError: ddpg_loss: batch: expected a funrl.env.Transition or the like, with fields observation and action, got a dict ...
    """
    if all(hasattr(value, name) for name in names):
        return
    got = type(value).__name__
    if kind.endswith(f".{got}"):  # another class with the same name
        got = f"{type(value).__module__}.{got}"
    got = f"a dict with {sorted(value)}" if isinstance(value, dict) else f"a {got}"
    _check.fail(TypeError, what, f"a {kind} or the like, with fields {', '.join(names[:-1])} and {names[-1]}", got)


def mean(what: str, x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
    """Return the weighted mean of samples, sum(w x) / N: importance weights are not normalised by their sum.

    Raises:
        ValueError: if ``weight`` has another shape than ``x``.
        TypeError: if it is not a floating-point tensor.

    Example:
        >>> mean("dqn_loss", torch.tensor([1.0, 3.0]), torch.tensor([1.0, 0.5]))
        tensor(1.2500)
    """
    if weight is None:
        return x.mean()
    _check.floating(f"{what}: weight", weight, shape=x.shape)
    return (weight.detach() * x).mean()


def detach(value: Any) -> Any:
    """Return a tree with every leaf detached: it carries no gradient.

    Example:
        >>> detach({"w": torch.ones(1, requires_grad=True)})
        {'w': tensor([1.])}
    """
    return tree.map(lambda x: x.detach(), value)


def huber(error: torch.Tensor, *, delta: float | torch.Tensor = 1.0) -> torch.Tensor:
    r"""Return the Huber loss of an error: half its square, or linear beyond ``delta``.

    .. math:: h(x) = \begin{cases} \tfrac12 x^2 & |x| \le \delta \\ \delta (|x| - \tfrac12 \delta) & \text{otherwise} \end{cases}

    Args:
        error: x, floating point [...].
        delta: at least 0, a number or a tensor []; infinity gives exactly half the square.

    Raises:
        ValueError: if ``delta`` is a negative Python number.
        TypeError: if ``error`` is not a floating-point tensor.

    Example:
        >>> import torch
        >>> huber(torch.tensor([0.5, 2.0]), delta=1.0)
        tensor([0.1250, 1.5000])

    Reference: P. J. Huber, "Robust Estimation of a Location Parameter", 1964, doi:10.1214/aoms/1177703732 (no arXiv id).
    """
    _check.floating("huber: error", error)
    delta = _check.in_dtype("huber: delta", delta, error)
    bounded = torch.minimum(torch.maximum(error, -delta), delta) if isinstance(delta, torch.Tensor) else error.clamp(-delta, delta)
    return bounded * (error - 0.5 * bounded)


def explained_variance(value: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    r"""Return the fraction [] of the targets' variance that the values explain: 1 is perfect, 0 no better than a constant.

    .. math:: 1 - \frac{\mathrm{Var}(R - V)}{\mathrm{Var}(R)}

    It is 0 if all targets are equal, and carries no gradient.

    Args:
        value: V, floating point [...].
        target: R, floating point [...].

    Raises:
        ValueError: if shapes differ.
        TypeError: if an argument is not a floating-point tensor.

    Example:
        >>> import torch
        >>> explained_variance(torch.tensor([1.0, 2.0, 2.0]), torch.tensor([1.0, 2.0, 3.0]))
        tensor(0.6667)
    """
    _check.alike("explained_variance", value=value, target=target)
    value, target = value.detach(), target.detach()
    variance = target.var(correction=0)
    some = variance > 0
    return torch.where(some, 1 - (target - value).var(correction=0) / torch.where(some, variance, 1.0), 0.0)


@tree.dataclass
class ActorCritic:
    """Parameters of a policy and of its critics, or their targets.

    Attributes:
        actor: the parameters of the argument ``actor`` of a loss.
        critic: the parameters of its argument ``critic``.
    """

    actor: Any
    critic: Any


@tree.dataclass
class SoftActorCritic:
    """Parameters of a policy, its critics and its temperature.

    Attributes:
        actor: the parameters of the argument ``actor`` of a loss.
        critic: the parameters of its argument ``critic``.
        log_alpha: floating point [], the logarithm of the temperature.
    """

    actor: Any
    critic: Any
    log_alpha: torch.Tensor


def check_transition(what: str, batch: Any) -> None:
    """Raise unless ``batch`` is a batch of transitions, with ``reward`` and ``terminated`` of the same shape [N...].

    Args:
        what: the name of the loss, for the message.
        batch: a :class:`funrl.env.Transition`, or anything with its fields observation, action, reward, terminated and next_observation.

    Raises:
        TypeError: if a field is missing, ``reward`` is not floating point, or ``terminated`` is not bool.
        ValueError: if their shapes differ.

    Example:
        >>> check_transition("dqn_loss", {"reward": torch.zeros(3)})
        Traceback (most recent call last):
        ...
        TypeError: dqn_loss: batch: expected a funrl.env.Transition or the like, with fields ..., got a dict with ['reward']
    """
    fields(f"{what}: batch", batch, ("observation", "action", "reward", "terminated", "next_observation"), "funrl.env.Transition")
    _check.alike(what, **{"batch.reward": batch.reward, "batch.terminated": batch.terminated})


def bootstrap(what: str, batch: Any, next_value: torch.Tensor, gamma: float | torch.Tensor) -> torch.Tensor:
    """Return the targets r + gamma (1 - terminated) V(s') of :func:`funrl.returns.td0`, detached.

    Args:
        what: the name of the loss, for the message.
        batch: as checked by :func:`check_transition`.
        next_value: V(s'), floating point [N...], or [N..., K] for K values with one target each.
        gamma: in [0, 1], a number or a tensor [] or [N...].

    Returns:
        Floating point, with the shape of ``next_value``.

    Raises:
        ValueError: if ``gamma`` has another shape, or is a Python number outside [0, 1].

    Example:
        >>> import torch
        >>> from funrl.env import Transition
        >>> batch = Transition(
        ...     observation=torch.zeros(2, 3), action=torch.zeros(2), reward=torch.ones(2), terminated=torch.tensor([False, True]),
        ...     truncated=torch.tensor([False, False]), next_observation=torch.zeros(2, 3), extras=(),
        ... )
        >>> bootstrap("dqn_loss", batch, torch.tensor([4.0, 4.0]), 0.5)
        tensor([3., 1.])
    """
    if isinstance(gamma, torch.Tensor) and gamma.shape not in ((), batch.reward.shape):
        expected = f"a number, or a tensor of shape [] or {list(batch.reward.shape)}"
        _check.fail(ValueError, f"{what}: gamma", expected, list(gamma.shape))
    gamma = _check.in_dtype(f"{what}: gamma", gamma, batch.reward, "[0, 1]")
    further = (1,) * (next_value.ndim - batch.reward.ndim)
    reward, terminated = (x.reshape((*x.shape, *further)).expand_as(next_value)[None] for x in (batch.reward, batch.terminated))
    gamma = gamma.reshape((*gamma.shape, *further)) if isinstance(gamma, torch.Tensor) else gamma
    return td0(reward, next_value[None], terminated, gamma=gamma)[0].detach()


def q_values(what: str, critic: ActionValue, params: Any, batch: Any, action: torch.Tensor, *, after: bool = False) -> torch.Tensor:
    """Return the values [E, N...] that E critics give an action in the observations or, if ``after``, in the next observations.

    Raises:
        ValueError: if they have another shape.
        TypeError: if they are not a floating-point tensor.
    """
    values = critic(params, batch.next_observation if after else batch.observation, action)
    place = " of next_observation" if after else ""
    return _check.floating(f"{what}: critic's values{place}", values, shape=("E", *batch.reward.shape))


def target_networks(what: str, target_params: Any) -> ActorCritic:
    """Return the parameters of target networks without gradient; raise a TypeError unless there are those of an actor and of critics."""
    fields(f"{what}: target_params", target_params, ("actor", "critic"), "funrl.losses.ActorCritic")
    return detach(target_params)


def critic_metrics(loss: torch.Tensor, prediction: torch.Tensor, target: torch.Tensor) -> Metrics:
    """Return the metrics that every critic's loss reports, without gradient.

    Args:
        loss: floating point [].
        prediction: floating point [N...], or [E, N...] of E critics.
        target: floating point [N...].

    Returns:
        ``critic_loss``, ``q_mean``, ``q_max``, ``target_mean`` and ``target_max``, each [] (means and maxima), and
        ``td_error`` [N...], for prioritised replay: the absolute error of the prediction, the largest over the critics.

    Example:
        >>> import torch
        >>> critic_metrics(torch.tensor(2.5), torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0]))["td_error"]
        tensor([1., 2.])
    """
    loss, prediction, target = loss.detach(), prediction.detach(), target.detach()
    error = (prediction - target).abs()
    return {
        "critic_loss": loss,
        "q_mean": prediction.mean(),
        "q_max": prediction.max(),
        "target_mean": target.mean(),
        "target_max": target.max(),
        "td_error": error if prediction.ndim == target.ndim else error.amax(0),
    }


def squared_errors(what: str, values: Any, target: torch.Tensor, weight: torch.Tensor | None, scale: float = 1.0) -> tuple[Any, Metrics]:
    """Return ``scale`` times the mean of squared errors, summed over critics [E, N...], and its metrics.

    Example:
        >>> squared_errors("sac_loss", torch.tensor([[1.0], [2.0]]), torch.zeros(1), None, 0.5)[0]
        tensor(2.5000)
    """
    _check.floating(f"{what}: critic's values", values, shape=("E", *target.shape))
    loss = mean(what, scale * (target - values).square().sum(0), weight)
    return loss, critic_metrics(loss, values, target)


def evaluate(
    what: str, apply: Evaluate, params: Any, batch: Any, **tensors: torch.Tensor
) -> tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Evaluate a policy and its value function on a batch.

    Args:
        what: the name of the loss, for the message.
        apply: ``apply(params, observation) -> (distribution, value [N...])``.
        params: the parameters of ``apply``.
        batch: an object with an observation and an action.
        **tensors: floating point [N...], whose shape the results must have.

    Returns:
        The distribution, and log pi(a|s), the entropy and the value, each [N...].

    Raises:
        ValueError: if shapes differ.
        TypeError: if one is not a floating-point tensor.

    Example:
        >>> import torch
        >>> from funrl.distributions import Categorical
        >>> from funrl.losses import ReinforceBatch
        >>> batch = ReinforceBatch(observation=torch.zeros(2, 3), action=torch.tensor([0, 1]), returns=torch.ones(2))
        >>> _, log_prob, entropy, value = evaluate("a2c_loss", lambda p, x: (Categorical(x[:, :2]), x[:, 2]), (), batch)
        >>> log_prob
        tensor([-0.6931, -0.6931])
    """
    distribution, value = apply(params, batch.observation)
    log_prob, entropy = distribution.log_prob(batch.action), distribution.entropy()
    _check.alike(what, **tensors, **{"apply's log_prob": log_prob, "apply's entropy": entropy, "apply's value": value})
    return distribution, log_prob, entropy, value


def sum_terms(
    what: str,
    policy_loss: torch.Tensor,
    value_loss: torch.Tensor,
    entropy: torch.Tensor,
    value_weight: float | torch.Tensor,
    entropy_weight: float | torch.Tensor,
    weight: torch.Tensor | None,
) -> tuple[torch.Tensor, Metrics]:
    """Return the mean over samples of policy loss + value_weight * value loss - entropy_weight * entropy, and metrics.

    Args:
        what: the name of the loss, for the message.
        policy_loss: floating point [N...].
        value_loss: floating point [N...].
        entropy: floating point [N...].
        value_weight: at least 0, a number or a tensor [].
        entropy_weight: a number or a tensor [].
        weight: floating point [N...], of samples; None: all 1.

    Returns:
        The loss [], and ``policy_loss``, ``value_loss`` and ``entropy``, each [] and without gradient.

    Raises:
        ValueError: if ``value_weight`` is a negative Python number, or ``weight`` has another shape.

    Example:
        >>> import torch
        >>> one = torch.ones(2)
        >>> sum_terms("a2c_loss", one, one, one, value_weight=0.5, entropy_weight=0.25, weight=None)[0]
        tensor(1.2500)
    """
    value_weight = _check.in_dtype(f"{what}: value_weight", value_weight, value_loss)
    entropy_weight = _check.in_dtype(f"{what}: entropy_weight", entropy_weight, entropy, "[-inf, inf]")
    policy_loss, value_loss, entropy = (mean(what, x, weight) for x in (policy_loss, value_loss, entropy))
    loss = policy_loss + value_weight * value_loss - entropy_weight * entropy
    return loss, {"policy_loss": policy_loss.detach(), "value_loss": value_loss.detach(), "entropy": entropy.detach()}
