"""Losses that make a policy resemble the data: behavioural cloning, also weighted by advantages, and the decision transformer."""

import math
from collections.abc import Callable
from typing import Any

import torch

from funrl import _check
from funrl.losses._parts import detach, fields, mean
from funrl.losses._q_learning import take
from funrl.typing import Actor, Metrics


def bc_loss(
    actor_params: Any,
    batch: Any,
    *,
    actor: Actor,
    scale: float | torch.Tensor = 1.0,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of behavioural cloning: the squared distance of a deterministic policy, or minus the log-probability of a stochastic one.

    .. math:: L = \frac1N \sum_i w_i \frac1A \left\lVert \frac{\mu_\phi(s_i) - a_i}{c} \right\rVert^2 \quad\text{or}\quad
        -\frac1N \sum_i w_i \log \pi_\phi(a_i|s_i)

    Args:
        actor_params: phi; the argument to differentiate.
        batch: a :class:`funrl.env.Transition` of leaves [N...], of which observation and action are used.
        actor: ``actor(actor_params, observation)`` gives actions [N..., A], or a distribution.
        scale: c, above 0, the unit of actions, a number or a tensor that broadcasts to the action; not used with a distribution.
        weight: w, floating point [N...]; None: all 1.

    Returns:
        The loss [], and metrics, without gradient: ``actor_loss`` [].

    Raises:
        ValueError: if shapes do not fit.
        TypeError: if ``batch`` lacks a field.

    Example:
        >>> import torch
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False, False])
        >>> batch = Transition(torch.ones(2, 3), torch.ones(2, 1), torch.ones(2), no, no, torch.ones(2, 3), ())
        >>> bc_loss(torch.ones(3, 1), batch, actor=lambda p, s: s @ p)[0]
        tensor(4.)

    Reference: D. A. Pomerleau, "ALVINN: An Autonomous Land Vehicle in a Neural Network", NIPS 1988 (no arXiv id).
    """
    what = "bc_loss"
    fields(f"{what}: batch", batch, ("observation", "action"), "funrl.env.Transition")
    chosen = actor(actor_params, batch.observation)
    each = distance(what, chosen, batch.action, scale).mean(-1) if isinstance(chosen, torch.Tensor) else -chosen.log_prob(batch.action)
    loss = mean(what, each, weight)
    return loss, {"actor_loss": loss.detach()}


def advantage_weighted_loss(
    actor_params: Any,
    advantage: torch.Tensor,
    batch: Any,
    *,
    actor: Actor,
    temperature: float | torch.Tensor,
    max_weight: float | torch.Tensor = 100.0,
    weight: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Metrics]:
    r"""The actor's loss of AWAC and IQL: cloning of actions by the exponential of their advantage.

    .. math:: L = -\frac1N \sum_i w_i \min\left(e^{\beta A_i}, c\right) \log \pi_\phi(a_i|s_i)

    Args:
        actor_params: phi; the argument to differentiate.
        advantage: A, floating point [N...]; carries no gradient.
        batch: a :class:`funrl.env.Transition` of leaves [N...], of which observation and action are used.
        actor: ``actor(actor_params, observation) -> distribution``, whose ``log_prob(action)`` is [N...].
        temperature: beta, at least 0, a number or a tensor []: IQL's inverse temperature, or 1 / lambda of AWAC.
        max_weight: c, above 0, the largest weight, a number or a tensor [].
        weight: w, floating point [N...]; None: all 1.

    Returns:
        The loss [], and metrics, without gradient: ``actor_loss`` and ``advantage_weight``, the mean of the weights, each [].

    Raises:
        ValueError: if shapes do not fit, or a Python number is outside its range.
        TypeError: if ``batch`` lacks a field, or a dtype is not as above.

    Example:
        >>> import torch
        >>> from funrl.distributions import Independent, Normal
        >>> from funrl.losses import ReinforceBatch
        >>> batch = ReinforceBatch(torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(2))
        >>> actor = lambda p, s: Independent(Normal(s + p, torch.ones(2, 1)), 1)
        >>> loss, metrics = advantage_weighted_loss(torch.zeros(1), torch.tensor([0.0, 9.0]), batch, actor=actor, temperature=3.0)
        >>> metrics["advantage_weight"]  # (1 + 100) / 2
        tensor(50.5000)

    Reference: A. Nair, A. Gupta, M. Dalal, S. Levine, "AWAC: Accelerating Online Reinforcement Learning with Offline Datasets", 2020,
        arXiv:2006.09359, equation 13 (without its normalisation Z, as in the authors' code); I. Kostrikov, A. Nair, S. Levine, "Offline
        Reinforcement Learning with Implicit Q-Learning", 2021, arXiv:2110.06169, equation 7.
    """
    what = "advantage_weighted_loss"
    fields(f"{what}: batch", batch, ("observation", "action"), "funrl.env.Transition")
    log_prob = actor(actor_params, batch.observation).log_prob(batch.action)
    _check.alike(what, **{"advantage": advantage, "actor's log_prob": log_prob})
    temperature = _check.in_dtype(f"{what}: temperature", temperature, advantage)
    most = _check.in_dtype(f"{what}: max_weight", max_weight, advantage)
    top = most.log() if isinstance(most, torch.Tensor) else math.log(most)
    share = (temperature * advantage.detach()).clamp(max=top).exp()  # before exp, which may overflow
    loss = -mean(what, share * log_prob, weight)
    return loss, {"actor_loss": loss.detach(), "advantage_weight": share.mean()}


def distance(what: str, chosen: Any, action: torch.Tensor, scale: float | torch.Tensor) -> torch.Tensor:
    """Return the squared differences of actions [N..., A] in units of ``scale``.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> import torch
        >>> distance("bc_loss", torch.ones(2, 1), torch.zeros(2, 1), 0.5)
        tensor([[4.],
                [4.]])
    """
    _check.alike(what, **{"batch.action": action, "actor's action": chosen})
    return ((chosen - action) / scale).square()


def decision_transformer_loss(
    params: Any,
    window: Any,
    *,
    apply: Callable[..., torch.Tensor],
    key: torch.Tensor | None = None,
    scale: float | torch.Tensor = 1.0,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of a decision transformer: the actions of the data, predicted from what came before them and from the return to go.

    .. math:: L = \frac{\sum_{i,t} m_{i,t}\, \ell(\hat a_{i,t}, a_{i,t})}{\sum_{i,t} m_{i,t}}, \qquad
        \ell = \frac1A \left\lVert \frac{\hat a - a}{c} \right\rVert^2 \quad\text{or the cross-entropy of discrete actions}

    Args:
        params: of the model; the argument to differentiate.
        window: an object as :class:`funrl.offline.datasets.Window`, with ``transition`` (leaves [N, K, ...]), ``return_to_go`` [N, K],
            ``step`` int64 [N, K] and ``mask`` bool [N, K].
        apply: ``apply(params, observation, action, return_to_go, step, mask, key=key) -> actions [N, K, A]``, or logits [N, K, A] if
            actions are int64 [N, K]; output t must not depend on action t or on later entries.
        key: int64 [], for dropout; None: without.
        scale: c, above 0, the unit of continuous actions, a number or a tensor that broadcasts to the action.

    Returns:
        The loss [], and metrics, without gradient: ``actor_loss`` [].

    Raises:
        ValueError: if the output of ``apply`` has another shape than the actions.
        TypeError: if ``window`` lacks a field.

    Example:
        >>> import torch
        >>> from funrl.env import Transition
        >>> from types import SimpleNamespace
        >>> flags = torch.zeros(1, 2, dtype=torch.bool)
        >>> observation, action = torch.zeros(1, 2, 3), torch.tensor([[[9.0], [2.0]]])
        >>> rows = Transition(observation, action, torch.zeros(1, 2), flags, flags, observation, {})
        >>> padded = torch.tensor([[False, True]])
        >>> window = SimpleNamespace(transition=rows, return_to_go=torch.ones(1, 2), step=torch.tensor([[0, 0]]), mask=padded)
        >>> decision_transformer_loss(torch.tensor(0.5), window, apply=lambda p, s, a, g, t, m, key: p * torch.ones(1, 2, 1))[0]
        tensor(2.2500)

    Reference: L. Chen et al., "Decision Transformer: Reinforcement Learning via Sequence Modeling", 2021, arXiv:2106.01345, algorithm 1.
    """
    what = "decision_transformer_loss"
    fields(f"{what}: window", window, ("transition", "return_to_go", "step", "mask"), "funrl.offline.datasets.Window")
    rows, mask = window.transition, window.mask
    output = apply(params, rows.observation, rows.action, window.return_to_go, window.step, mask, key=key)
    if rows.action.is_floating_point():
        if output.shape != rows.action.shape:
            raise ValueError(f"{what}: apply: expected actions {list(rows.action.shape)}, got {list(output.shape)}")
        each = ((output - rows.action) / scale).square().mean(-1)
    else:
        if output.shape[:-1] != rows.action.shape:
            raise ValueError(f"{what}: apply: expected logits {[*rows.action.shape, 'A']}, got {list(output.shape)}")
        each = -take(output.log_softmax(-1), rows.action)
    count = mask.to(each.dtype).sum().clamp(min=1.0)
    loss = torch.where(mask, each, 0.0).sum() / count
    return loss, {"actor_loss": detach(loss)}
