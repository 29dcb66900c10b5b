"""The losses of categorical deep Q-networks (C51), whose values are distributions over fixed atoms."""

from typing import Any

import torch

from funrl import _check
from funrl.losses._actor_critic import bootstrap, critic_metrics
from funrl.losses._checks import mean
from funrl.losses._dqn import outputs_of, take
from funrl.typing import Apply, Metrics


def project_categorical(atoms: torch.Tensor, probs: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    r"""Project a distribution onto ``support``: the mass of each atom is divided between its two neighbours in the support.

    .. math:: q_i = \sum_j p_j \left[1 - \frac{|\mathrm{clip}(y_j, z_1, z_K) - z_i|}{\Delta z}\right]_0^1

    Args:
        atoms: y, floating point [..., J]; the mass of an atom outside the support goes to the nearest end.
        probs: p, floating point [..., J].
        support: z, floating point [K], K at least 2, evenly spaced and rising.

    Returns:
        q, floating point [..., K].

    Raises:
        ValueError: if shapes do not fit.
        TypeError: if an argument is not a floating-point tensor.

    Example:
        >>> import torch
        >>> project_categorical(torch.tensor([0.25, 9.0]), torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0, 2.0]))
        tensor([0.3750, 0.1250, 0.5000])

    Reference: M. G. Bellemare, W. Dabney, R. Munos, "A Distributional Perspective on Reinforcement Learning", 2017, arXiv:1707.06887,
        equation 7.
    """
    for name, x in {"atoms": atoms, "probs": probs, "support": support}.items():
        _check.floating(f"project_categorical: {name}", x)
    _check_support("project_categorical", support)
    _check.sized("project_categorical: atoms", atoms, (..., "K"))
    _check.sized("project_categorical: probs", probs, atoms.shape, of="atoms")
    low, high = support[0], support[-1]
    spacing = (high - low) / (support.shape[0] - 1)
    y = torch.minimum(torch.maximum(atoms, low), high)
    share = (1 - (y.unsqueeze(-2) - support.unsqueeze(-1)).abs() / spacing).clamp(0, 1)  # [..., K, J]
    return (share * probs.unsqueeze(-2)).sum(-1)


def c51_loss(
    params: Any,
    target_params: Any,
    batch: Any,
    *,
    apply: Apply,
    target_apply: Apply | None = None,
    chooser_apply: Apply | None = None,
    support: torch.Tensor,
    gamma: float | torch.Tensor,
    weight: torch.Tensor | None = None,
    action_start: int = 0,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of categorical Q-learning: cross-entropy to the projected distribution of the target network.

    .. math:: L = -\frac1N \sum_i w_i \sum_k q_{ik} \log p_{\theta,k}(s_i, a_i), \qquad
        q = \Phi\left(r + \gamma (1 - \mathrm{terminated}) z, \; p_{\bar\theta}(s', a^*)\right), \qquad
        a^* = \arg\max_{a'} \sum_k z_k p_{\bar\theta,k}(s', a')

    With ``chooser_apply`` this is double Q-learning, as in Rainbow: theta in place of theta bar chooses a*.

    For n-step targets, ``reward`` is the sum of m rewards, ``next_observation`` the one after them, and ``gamma`` a tensor of
    gamma^m with the m of each sample.

    Args:
        apply: ``apply(params, observation) -> logits of the atoms of every action [N..., A, K]``.
        support: z, floating point [K], evenly spaced and rising.
        params, target_params, batch, target_apply, chooser_apply, gamma, weight, action_start: as for :func:`funrl.losses.dqn_loss`.

    Returns:
        The loss [], and metrics, without gradient: ``critic_loss``, ``q_mean``, ``q_max``, ``target_mean``,
        ``target_max``, each [] (of the means of distributions), and ``td_error`` KL(q || p) [N...], for prioritised replay.

    Raises:
        ValueError: if shapes do not fit, gamma is a Python number outside [0, 1], or an action is found to have no value.
        TypeError: if ``batch`` lacks a field, or a dtype is not as above.

    Example:
        >>> import torch
        >>> from funrl.env import Transition
        >>> ended = torch.tensor([False, True])
        >>> batch = Transition(torch.eye(2), torch.tensor([0, 1]), torch.ones(2), ended, ~ended, torch.eye(2), ())
        >>> params = torch.zeros(2, 4, 3)  # logits of 4 actions and 3 atoms by observation
        >>> def apply(params, observation):
        ...     return torch.einsum("nd,dak->nak", observation, params)
        >>> loss, metrics = c51_loss(params, params, batch, apply=apply, support=torch.tensor([0.0, 1.0, 2.0]), gamma=1.0)
        >>> loss, metrics["target_mean"]
        (tensor(1.0986), tensor(1.3333))

    Reference: M. G. Bellemare, W. Dabney, R. Munos, "A Distributional Perspective on Reinforcement Learning", 2017, arXiv:1707.06887,
        algorithm 1; KL as priority, and double Q-learning, as in M. Hessel et al., "Rainbow", 2017, arXiv:1710.02298, section 3.
    """
    what = "c51_loss"
    _check.floating(f"{what}: support", support)
    _check_support(what, support)
    networks = {"apply": apply, "target_apply": target_apply, "chooser_apply": chooser_apply}
    logits, next_logits, chooser = outputs_of(
        what, "logits", ("A", support.shape[0]), params, target_params, batch, action_start, **networks
    )

    best = (chooser.softmax(-1) * support).sum(-1).argmax(-1)
    next_probs = take(next_logits, best).softmax(-1)
    atoms = bootstrap(what, batch, support.expand_as(next_probs), gamma)
    target = project_categorical(atoms, next_probs, support).detach()
    log_probs = logits.log_softmax(-1)
    cross_entropy = -(target * log_probs).sum(-1)
    loss = mean(what, cross_entropy, weight)

    entropy = -torch.special.xlogy(target, target).sum(-1)
    metrics = critic_metrics(loss, (log_probs.detach().exp() * support).sum(-1), (target * support).sum(-1))
    return loss, {**metrics, "td_error": (cross_entropy.detach() - entropy).clamp(min=0)}


def _check_support(what: str, support: torch.Tensor) -> None:
    if support.ndim != 1 or support.shape[0] < 2:
        raise ValueError(f"{what}: support: expected the shape [K] with K at least 2, got {list(support.shape)}; use torch.linspace")
