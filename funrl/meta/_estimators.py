"""Losses of policy gradients whose derivatives of higher order are estimates too."""

import torch

from funrl import _check
from funrl.returns import running_sum


def magic_box(x: torch.Tensor) -> torch.Tensor:
    r"""Return 1, with derivatives that count how often x was sampled: :math:`\exp(x - \mathrm{stop}(x))`.

    The derivative of any order is that of exp(x) divided by exp(x): :math:`\nabla \square(x) = \square(x) \nabla x`.

    Args:
        x: floating point [...], a sum of log-probabilities.

    Returns:
        Ones [...].

    Example:
        >>> magic_box(torch.tensor(-3.0)), torch.func.grad(torch.func.grad(lambda x: magic_box(2 * x)))(torch.tensor(-3.0))
        (tensor(1.), tensor(4.))

    Reference: J. Foerster et al., "DiCE: The Infinitely Differentiable Monte Carlo Estimator", 2018, arXiv:1802.05098.
    """
    _check.floating("magic_box: x", x)
    return torch.exp(x - x.detach())


def _check_steps(what: str, log_prob: torch.Tensor, advantage: torch.Tensor, done: torch.Tensor) -> None:
    _check.alike(what, log_prob=log_prob, advantage=advantage)
    _check.flag(f"{what}: done", done, shape=log_prob.shape)


def dice_loss(log_prob: torch.Tensor, advantage: torch.Tensor, done: torch.Tensor) -> torch.Tensor:
    r"""Return a loss whose derivatives of every order are unbiased estimates of those of the negative expected return.

    .. math:: L = -\frac1N \sum_{t} \left(\square(w_t) - \square(w_{t-1})\right) A_t, \qquad
        w_t = \sum_{t' \le t} \log \pi_\theta(a_{t'} | s_{t'})

    The sum w runs within an episode. With A the rewards to go, this is DiCE's objective up to a constant; subtracting a baseline that
    depends on the state only changes the variance, not the mean. The first derivative is the policy gradient. The second contains products
    of gradients of different steps, which :func:`surrogate_loss` lacks; their variance grows with the square of an episode's length.

    Args:
        log_prob: floating point [T, ...], the log-probabilities of the actions under the parameters to differentiate.
        advantage: floating point [T, ...]; it carries no gradient.
        done: bool [T, ...], True at the last step of an episode.

    Returns:
        The loss [], a mean over all N numbers.

    Raises:
        ValueError, TypeError: if shapes differ, or a dtype is not as above.

    Example:
        >>> log_prob, advantage = torch.tensor([-1.0, -2.0]), torch.tensor([3.0, 1.0])
        >>> torch.func.grad(dice_loss)(log_prob, advantage, torch.tensor([False, True]))
        tensor([-1.5000, -0.5000])

    Reference: arXiv:1802.05098, in the form with advantages of G. Farquhar, S. Whiteson, J. Foerster, "Loaded DiCE: Trading off Bias and
    Variance in Any-Order Score Function Gradient Estimators for Reinforcement Learning", 2019, arXiv:1909.10549, equation 9.
    """
    _check_steps("dice_loss", log_prob, advantage, done)
    begins = torch.cat([torch.ones_like(done[:1]), done[:-1]])
    total = running_sum(log_prob, begins, torch.zeros_like(log_prob[0]))
    before = torch.where(begins, 0.0, torch.cat([torch.zeros_like(total[:1]), total[:-1]]))
    return -((magic_box(total) - magic_box(before)) * advantage.detach()).mean()


def surrogate_loss(log_prob: torch.Tensor, advantage: torch.Tensor, done: torch.Tensor) -> torch.Tensor:
    r"""Return the loss of policy gradients by the likelihood ratio of single steps.

    .. math:: L = -\frac1N \sum_t \frac{\pi_\theta(a_t | s_t)}{\mathrm{stop}(\pi_\theta(a_t | s_t))} A_t

    The first derivative is that of :func:`dice_loss`. The second has for each step :math:`\nabla \log\pi \nabla \log\pi^\top A`, but no
    products of different steps: it is biased, and its variance is far smaller. That is why it is the default of the inner steps of
    :mod:`funrl.meta.maml`. (The usual :math:`\log\pi\, A` lacks these terms, too: its second derivative is wrong even for a single step.)

    Args:
        log_prob, advantage, done: as for :func:`dice_loss`; ``done`` is not used.

    Returns:
        The loss [].

    Example:
        >>> log_prob, advantage = torch.tensor([-1.0, -2.0]), torch.tensor([3.0, 1.0])
        >>> torch.func.grad(surrogate_loss)(log_prob, advantage, torch.tensor([False, True]))
        tensor([-1.5000, -0.5000])

    Reference: the low-variance curvature of J. Rothfuss, D. Lee, I. Clavera, T. Asfour, P. Abbeel, "ProMP: Proximal Meta-Policy Search",
    2018, arXiv:1810.06784, section 5.
    """
    _check_steps("surrogate_loss", log_prob, advantage, done)
    return -(magic_box(log_prob) * advantage.detach()).mean()
