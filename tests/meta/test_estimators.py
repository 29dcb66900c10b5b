"""DiCE in a process so small that all its episodes can be listed: derivatives of the expected return are then exact."""

import itertools

import pytest
import torch
from torch.func import grad, hessian, vmap

import funrl
from funrl import meta

STATES, ACTIONS, STEPS = 2, 2, 3
REWARD = torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=torch.float64)
START = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64)
# Action 1 goes to the other state, action 0 stays.
ACTION = torch.tensor(list(itertools.product(range(ACTIONS), repeat=STEPS))).T  # [T, N]
STATE = torch.cat([torch.zeros_like(ACTION[:1]), ACTION.cumsum(0)[:-1] % 2])
GAIN = REWARD[STATE, ACTION]
DONE = (torch.arange(STEPS) == STEPS - 1)[:, None].expand_as(ACTION)
NUM = ACTION.shape[1]


def log_prob(params):
    return torch.log_softmax(params.reshape(STATES, ACTIONS), -1)[STATE, ACTION]


def expected_return(params):
    return (log_prob(params).sum(0).exp() * GAIN.sum(0)).sum()


def estimated(params, loss, baseline=0.0):
    """The mean of the loss over all episodes, with their probabilities as weights that carry no gradient."""
    to_go = GAIN.flip(0).cumsum(0).flip(0)
    advantage = to_go - baseline * (1 + STATE)
    weight = log_prob(params).sum(0).exp().detach()
    return (
        sum(
            w * loss(x[:, None], a[:, None], d[:, None]) for w, x, a, d in zip(weight, log_prob(params).T, advantage.T, DONE.T, strict=True)
        )
        * -STEPS
    )


def differences(f, at, size=1e-5):
    offsets = size * torch.eye(len(at), dtype=at.dtype)
    return torch.stack([(f(at + x) - f(at - x)) / (2 * size) for x in offsets])


@pytest.mark.slow
@pytest.mark.parametrize("baseline", [0.0, 0.7])
def test_dice_has_the_derivatives_of_the_expected_return(baseline):
    def f(params):
        return estimated(params, meta.dice_loss, baseline)

    first, second = differences(expected_return, START), differences(grad(expected_return), START)
    third = differences(hessian(expected_return), START)
    close = dict(rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(grad(f)(START), first, **close)
    torch.testing.assert_close(hessian(f)(START), second, **close)
    torch.testing.assert_close(torch.func.jacfwd(hessian(f))(START), third, **close)
    both = torch.stack([START, -START])
    expected = torch.stack([second, differences(grad(expected_return), -START)])
    curvature = torch.func.jacrev(grad(f))
    torch.testing.assert_close(vmap(curvature)(both), expected, **close)
    torch.testing.assert_close(funrl.compile(vmap(curvature), backend="xla")(both), expected, **close)


def test_the_surrogate_has_the_first_derivative_and_another_second_one():
    def f(params):
        return estimated(params, meta.surrogate_loss)

    torch.testing.assert_close(grad(f)(START), differences(expected_return, START), rtol=1e-6, atol=1e-8)
    assert (hessian(f)(START) - hessian(expected_return)(START)).abs().max() > 0.1


def test_the_surrogate_is_exact_for_episodes_of_one_step():
    def values(loss):
        def f(params):
            policy = torch.log_softmax(params[:2], 0)
            shape = (1, 2)
            parts = [
                policy[i].exp().detach() * loss(policy[i].reshape(1, 1), REWARD[0, i].reshape(1, 1), torch.ones(1, 1, dtype=torch.bool))
                for i in range(shape[1])
            ]
            return -sum(parts)

        return hessian(f)(START)[:2, :2]

    exact = hessian(lambda p: (torch.softmax(p, 0) * REWARD[0]).sum())(START[:2])
    for loss in (meta.dice_loss, meta.surrogate_loss):
        torch.testing.assert_close(values(loss), exact)


def test_episodes_do_not_reach_into_each_other():
    x, a = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)).double(), torch.arange(12.0).reshape(6, 2).double()
    done = torch.tensor([[0, 1], [0, 0], [1, 0], [0, 1], [0, 0], [0, 0]]).bool()
    curvature = hessian(meta.dice_loss)(x, a, done)
    for column, pieces in ((0, [[0, 1, 2], [3, 4, 5]]), (1, [[0], [1, 2, 3], [4, 5]])):
        for s, t in itertools.product(range(6), repeat=2):
            together = any(s in piece and t in piece for piece in pieces)
            expected = -a[max(s, t), column] / 12 if together else torch.zeros((), dtype=a.dtype)
            torch.testing.assert_close(curvature[s, column, t, column], expected)
    assert not curvature[:, 0, :, 1].any()
