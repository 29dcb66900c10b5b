"""The losses of deep Q-networks."""

from typing import Any

import torch

from funrl import _check
from funrl.losses._actor_critic import bootstrap, check_transition, critic_metrics
from funrl.losses._checks import detach, mean
from funrl.losses._terms import huber
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
