"""The losses of deep Q-networks: of values, of distributions over fixed atoms (C51), and by quantile regression (QR-DQN)."""

import math
from typing import Any

import torch

from funrl import _check
from funrl.losses._parts import bootstrap, check_transition, critic_metrics, detach, huber, mean
from funrl.typing import Apply, Metrics


def check_discrete(what: str, batch: Any) -> None:
    """Raise unless ``batch`` is a batch of transitions whose actions are whole numbers with the shape [N...] of the rewards.

    Raises:
        TypeError: if a field is missing or has the wrong dtype, as continuous actions have.
        ValueError: if shapes differ.

    Example:
        >>> import torch
        >>> from funrl.env import Transition
        >>> no = torch.tensor([False])
        >>> batch = Transition(torch.zeros(1, 3), torch.zeros(1), torch.zeros(1), no, no, torch.zeros(1, 3), ())
        >>> check_discrete("dqn_loss", batch)
        Traceback (most recent call last):
        ...
        TypeError: dqn_loss: batch.action: expected a tensor of integers, got torch.float32; for continuous actions use ddpg_loss, ...
    """
    check_transition(what, batch)
    name, remedy = f"{what}: batch.action", "squeeze it, and turn one-hot actions into numbers by argmax(-1)"
    action = _check.whole(name, batch.action, "for continuous actions use ddpg_loss, td3_critic_loss or sac_loss")
    _check.sized(name, action, batch.reward.shape, remedy, of="batch.reward")


def index_of(what: str, action: torch.Tensor, start: int, num: int, remedy: str = "action_start") -> torch.Tensor:
    """Return the index of each action among ``num`` values; ``start`` is the smallest action, and messages begin with ``what``.

    Raises:
        TypeError: if ``start`` is not a Python integer.
        ValueError: if an action has no value. This is checked on the CPU only, and neither in compiled programs nor under torch.func.

    Example:
        >>> import torch
        >>> index_of("dqn_loss", torch.tensor([1, 3]), 1, 3)
        tensor([0, 2])
    """
    _check.integer(f"{what}: action_start", start)
    index = action.to(torch.int64) - start
    if _check.seen(lambda: ((index < 0) | (index >= num)).any(), action):
        wrong = action[(index < 0) | (index >= num)][0].item()
        raise ValueError(
            f"{what}: batch.action: expected {start}, ..., {start + num - 1}, as there are {num} values, got {wrong}; "
            f"if actions do not begin at 0, give {remedy} the start of their space"
        )
    return index


def take(values: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Select the value of each action: from ``values`` [N..., A, ...] and whole numbers [N...] to [N..., ...].

    Example:
        >>> import torch
        >>> take(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([1, 0]))
        tensor([2., 3.])
    """
    dim = action.ndim
    index = action.to(torch.int64).reshape(*action.shape, *(1,) * (values.ndim - dim)).expand(*action.shape, 1, *values.shape[dim + 1 :])
    return values.gather(dim, index).squeeze(dim)


def outputs_of(
    what: str,
    noun: str,
    shape: tuple[Any, ...],
    params: Any,
    target_params: Any,
    batch: Any,
    action_start: int,
    *,
    apply: Apply,
    target_apply: Apply | None,
    chooser_apply: Apply | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the outputs [N..., ...] of the actions taken, and for the next observations [N..., A, ...] the target network's outputs and
    those whose values choose the next action.

    Args:
        what: the name of the loss, for messages.
        noun: the word for outputs, likewise.
        shape: of the outputs of an observation, as for :func:`funrl._check.sized`.
        params, target_params, batch, action_start, apply, target_apply, chooser_apply: as for :func:`dqn_loss`.
    """
    check_discrete(what, batch)
    after = (apply if target_apply is None else target_apply)(detach(target_params), batch.next_observation)
    chooser = after if chooser_apply is None else chooser_apply(detach(params), batch.next_observation)
    output = apply(params, batch.observation)
    names = (f"apply's {noun}", f"target_apply's {noun}", f"apply's {noun} of next_observation")
    for name, x in zip(names, (output, after, chooser), strict=True):
        _check.floating(f"{what}: {name}", x, shape=(*batch.reward.shape, *shape))
    return take(output, index_of(what, batch.action, action_start, output.shape[batch.action.ndim])), after, chooser


def dqn_loss(
    params: Any,
    target_params: Any,
    batch: Any,
    *,
    apply: Apply,
    target_apply: Apply | None = None,
    chooser_apply: Apply | None = None,
    gamma: float | torch.Tensor,
    huber_delta: float | torch.Tensor = 1.0,
    weight: torch.Tensor | None = None,
    action_start: int = 0,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of Q-learning with a target network; with ``chooser_apply``, of double Q-learning.

    .. math:: L = \frac1N \sum_i w_i\, h(y_i - Q_\theta(s_i, a_i)), \qquad
        y = r + \gamma (1 - \mathrm{terminated}) Q_{\bar\theta}(s', a^*)

    The target network evaluates the next action. It also chooses it, :math:`a^* = \arg\max_{a'} Q_{\bar\theta}(s', a')`, unless
    ``chooser_apply`` is given. In double Q-learning the learned network chooses it, :math:`a^* = \arg\max_{a'} Q_\theta(s', a')`.

    For n-step targets, ``reward`` is the sum of m rewards, ``next_observation`` the one after them, and ``gamma`` a tensor of
    gamma^m with the m of each sample.

    Args:
        params: theta, the parameters of ``apply``; the argument to differentiate.
        target_params: theta bar, a tree like ``params``; carries no gradient.
        batch: a :class:`funrl.env.Transition` of leaves [N...]; actions are whole numbers from ``action_start`` on, A of them.
            ``truncated`` is not used: a truncated step bootstraps from its ``next_observation``.
        apply: ``apply(params, observation) -> Q of every action [N..., A]``.
        target_apply: the function of ``target_params``; ``apply`` unless given (for noisy networks, which draw separate noise for it).
        chooser_apply: for double Q-learning, the function of ``params`` that chooses the next action: ``apply``, or for noisy networks
            one with separate noise; None: the target network chooses.
        gamma: in [0, 1], a number or a tensor [] or [N...].
        huber_delta: the error beyond which the loss h is linear, see :func:`~funrl.losses.huber`; infinity: half the squared error.
        weight: w, floating point [N...], of importance sampling; None: all 1.
        action_start: the smallest action, whose value is the first output of ``apply``: the ``start`` of a ``spaces.Discrete``.

    Returns:
        The loss [], and metrics, without gradient: ``critic_loss``, ``q_mean``, ``q_max``, ``target_mean``,
        ``target_max``, each [], and ``td_error`` |y - Q| [N...], for prioritised replay.

    Raises:
        ValueError: if shapes do not fit, or a Python number is outside its range, or an action is found to have no value.
        TypeError: if ``batch`` lacks a field, or a dtype is not as above.

    Example:
        >>> import torch
        >>> from funrl.env import Transition
        >>> ended = torch.tensor([False, True])
        >>> batch = Transition(torch.eye(2), torch.tensor([0, 1]), torch.ones(2), ended, ~ended, torch.eye(2), ())
        >>> def apply(params, observation):
        ...     return observation @ params
        >>> params = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
        >>> loss, metrics = dqn_loss(params, params, batch, apply=apply, gamma=0.5)
        >>> loss, metrics["td_error"]
        (tensor(1.5000), tensor([1., 3.]))
        >>> target_params = torch.tensor([[8.0, 6.0], [0.0, 0.0]])
        >>> _, metrics = dqn_loss(params, target_params, batch, apply=apply, chooser_apply=apply, gamma=0.5)
        >>> metrics["td_error"]
        tensor([3., 3.])

    Reference: V. Mnih et al., "Playing Atari with Deep Reinforcement Learning", 2013, arXiv:1312.5602, equation 2; the target network and
        the bounded error are those of "Human-level control through deep reinforcement learning", Nature 518, 2015. H. van Hasselt,
        A. Guez, D. Silver, "Deep Reinforcement Learning with Double Q-learning", 2015, arXiv:1509.06461, equation 4.
    """
    what = "dqn_loss"
    networks = {"apply": apply, "target_apply": target_apply, "chooser_apply": chooser_apply}
    prediction, next_q, chooser = outputs_of(what, "values", ("A",), params, target_params, batch, action_start, **networks)
    target = bootstrap(what, batch, take(next_q, chooser.argmax(-1)), gamma)
    delta = _check.in_dtype(f"{what}: huber_delta", huber_delta, prediction)
    loss = mean(what, huber(target - prediction, delta=delta), weight)
    return loss, critic_metrics(loss, prediction, target)


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


def quantile_huber(quantiles: torch.Tensor, target: torch.Tensor, *, huber_delta: float | torch.Tensor = 1.0) -> torch.Tensor:
    r"""Return the quantile Huber loss of each sample: quantile regression that is smooth at 0.

    .. math:: \sum_{i=1}^K \frac1J \sum_{j=1}^J |\hat\tau_i - 1[y_j < \theta_i]| \, \frac{h_\kappa(y_j - \theta_i)}{\kappa}, \qquad
        \hat\tau_i = \frac{i - 1/2}{K}

    Args:
        quantiles: theta, floating point [..., K], the value at each of the K probabilities. Gradients flow through this alone.
        target: y, floating point [..., J], equally likely values.
        huber_delta: kappa, above 0, a number or a tensor []. For small kappa this approaches quantile regression. Infinity gives the
            limit of h_kappa, half the squared error, not divided by kappa.

    Returns:
        Losses [...].

    Raises:
        ValueError: if shapes do not fit, or ``huber_delta`` is a Python number that is not above 0.
        TypeError: if an argument is not a floating-point tensor.

    Example:
        >>> import torch
        >>> quantile_huber(torch.tensor([0.0, 2.0]), torch.tensor([1.0]))
        tensor(0.2500)

    Reference: W. Dabney, M. Rowland, M. G. Bellemare, R. Munos, "Distributional Reinforcement Learning with Quantile Regression", 2017,
        arXiv:1710.10044, equation 10; divided by kappa as in "Implicit Quantile Networks", 2018, arXiv:1806.06923, equation 3.
    """
    for name, x, letter in (("quantiles", quantiles, "K"), ("target", target, "J")):
        _check.floating(f"quantile_huber: {name}", x, shape=(*quantiles.shape[:-1], letter))
    delta = _check.in_dtype("quantile_huber: huber_delta", huber_delta, quantiles, "(0, inf]")
    count = quantiles.shape[-1]
    probability = (torch.arange(count, dtype=quantiles.dtype, device=quantiles.device) + 0.5) / count
    error = target.detach().unsqueeze(-2) - quantiles.unsqueeze(-1)  # [..., K, J]
    share = torch.where(error < 0, 1 - probability.unsqueeze(-1), probability.unsqueeze(-1))
    unit = torch.where(delta == math.inf, 1.0, delta) if isinstance(delta, torch.Tensor) else 1.0 if delta == math.inf else delta
    return (share * huber(error, delta=delta) / unit).mean(-1).sum(-1)


def qr_dqn_loss(
    params: Any,
    target_params: Any,
    batch: Any,
    *,
    apply: Apply,
    target_apply: Apply | None = None,
    chooser_apply: Apply | None = None,
    gamma: float | torch.Tensor,
    huber_delta: float | torch.Tensor = 1.0,
    weight: torch.Tensor | None = None,
    action_start: int = 0,
) -> tuple[torch.Tensor, Metrics]:
    r"""The loss of Q-learning by quantile regression.

    .. math:: L = \frac1N \sum_i w_i\, \ell(\theta(s_i, a_i), y_i), \qquad y_j = r + \gamma (1 - \mathrm{terminated})\,
        \bar\theta_j(s', a^*), \qquad a^* = \arg\max_{a'} \sum_j \bar\theta_j(s', a')

    with the loss l of :func:`quantile_huber`. With ``chooser_apply`` this is double Q-learning: theta in place of theta bar chooses a*.
    For n-step targets, ``reward`` is the sum of m rewards, ``next_observation`` the one after them, and ``gamma`` a tensor of
    gamma^m with the m of each sample.

    Args:
        apply: ``apply(params, observation) -> K quantiles of every action [N..., A, K]``.
        huber_delta: above 0, see :func:`quantile_huber`.
        params, target_params, batch, target_apply, chooser_apply, gamma, weight, action_start: as for :func:`funrl.losses.dqn_loss`.

    Returns:
        The loss [], and metrics, without gradient: ``critic_loss``, ``q_mean``, ``q_max``, ``target_mean``,
        ``target_max``, each [] (of the means of distributions), and ``td_error`` [N...], the absolute error of the mean, for
        prioritised replay.

    Raises:
        ValueError, TypeError: as for :func:`funrl.losses.dqn_loss`.

    Example:
        >>> import torch
        >>> from funrl.env import Transition
        >>> ended = torch.tensor([False, True])
        >>> batch = Transition(torch.eye(2), torch.tensor([0, 1]), torch.ones(2), ended, ~ended, torch.eye(2), ())
        >>> params = torch.zeros(2, 4, 3)  # 3 quantiles of 4 actions by observation
        >>> loss, metrics = qr_dqn_loss(params, params, batch, apply=lambda p, x: torch.einsum("nd,dak->nak", x, p), gamma=1.0)
        >>> loss, metrics["td_error"]
        (tensor(0.7500), tensor([1., 1.]))

    Reference: W. Dabney, M. Rowland, M. G. Bellemare, R. Munos, "Distributional Reinforcement Learning with Quantile Regression", 2017,
        arXiv:1710.10044, algorithm 1; double Q-learning as in H. van Hasselt et al., 2015, arXiv:1509.06461, equation 4.
    """
    what = "qr_dqn_loss"
    networks = {"apply": apply, "target_apply": target_apply, "chooser_apply": chooser_apply}
    prediction, next_quantiles, chooser = outputs_of(what, "quantiles", ("A", "K"), params, target_params, batch, action_start, **networks)
    target = bootstrap(what, batch, take(next_quantiles, chooser.mean(-1).argmax(-1)), gamma)
    loss = mean(what, quantile_huber(prediction, target, huber_delta=huber_delta), weight)
    return loss, critic_metrics(loss, prediction.mean(-1), target.mean(-1))
