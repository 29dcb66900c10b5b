import pytest
import torch
from torch.func import vmap

from funrl import tree
from funrl.optim import hard_update, soft_update
from tests.losses.batches import actor_critic, normal, same
from tests.oracles.deepmind import optax

PARAMS = {"w": normal(0, 3, 2, dtype=torch.float32), "b": normal(1, 2, dtype=torch.float32)}
TARGET = {"w": normal(2, 3, 2, dtype=torch.float32), "b": normal(3, 2, dtype=torch.float32)}


def arrays(params):
    return tree.map(lambda x: x.numpy(), params)


def test_soft_update_agrees_with_optax():
    for tau in (0.0, 0.005, 0.5, 1.0):
        expected = optax.incremental_update(arrays(PARAMS), arrays(TARGET), tau)
        for given in (tau, torch.tensor(tau, dtype=torch.float64)):
            same(soft_update(PARAMS, TARGET, tau=given), tree.map(lambda x: torch.from_numpy(x.__array__().copy()), expected))


def test_hard_update_agrees_with_optax():
    for count in range(7):
        expected = optax.periodic_update(arrays(PARAMS), arrays(TARGET), count, 3)
        expected = tree.map(lambda x: torch.from_numpy(x.__array__().copy()), expected)
        for period in (3, torch.tensor(3)):
            same(hard_update(PARAMS, TARGET, count=torch.tensor(count), period=period), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "update",
    [
        lambda p, t: soft_update(p, t, tau=0.0),
        lambda p, t: soft_update(p, t, tau=1.0),
        lambda p, t: hard_update(p, t, count=torch.tensor(0), period=5),
        lambda p, t: hard_update(p, t, count=torch.tensor(1), period=5),
    ],
)
def test_the_result_shares_no_memory(update):
    """Counts included: where both trees are donated to a program, a shared leaf would be written twice."""
    params, target = {**PARAMS, "count": torch.tensor(3)}, {**TARGET, "count": torch.tensor(2)}
    given = {x.data_ptr() for x in tree.leaves((params, target))}
    before = tree.map(torch.clone, (params, target))
    result = update(params, target)
    assert not given & {x.data_ptr() for x in tree.leaves(result)}
    tree.map(lambda x: x.zero_(), result)
    same((params, target), before)


def test_a_count_is_taken_over():
    result = soft_update({"n": torch.tensor(7)}, {"n": torch.tensor(2)}, tau=0.1)
    assert result["n"] == 7 and result["n"].dtype == torch.int64


def test_a_tree_of_classes_and_agents_in_parallel():
    params, target = (tree.stack([actor_critic(seed + i) for i in range(3)]) for seed in (0, 10))
    taus, counts = torch.tensor([0.0, 0.25, 1.0]), torch.tensor([0, 1, 2])
    soft = vmap(lambda p, t, tau: soft_update(p, t, tau=tau))(params, target, taus)
    hard = vmap(lambda p, t, n: hard_update(p, t, count=n, period=2))(params, target, counts)
    rows = [tree.index((params, target), i) for i in range(3)]
    same(soft, tree.stack([soft_update(p, t, tau=tau) for (p, t), tau in zip(rows, taus, strict=True)]))
    same(hard, tree.stack([(p, t, p)[n] for n, (p, t) in enumerate(rows)]))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: soft_update(PARAMS, TARGET, tau=1.5), ValueError, r"soft_update: tau: expected a number in \[0, 1\], got 1.5"),
        (lambda: soft_update(PARAMS, TARGET, tau=-0.1), ValueError, "tau: .* got -0.1"),
        (lambda: soft_update(PARAMS, TARGET, tau=float("nan")), ValueError, "tau: .* got nan"),
        (lambda: soft_update(PARAMS, {"w": TARGET["w"]}, tau=0.5), ValueError, "soft_update: target_params"),
        (lambda: soft_update(PARAMS, {**TARGET, "b": torch.zeros(1, 2)}, tau=0.5), ValueError, "soft_update: target_params"),
        (lambda: hard_update(PARAMS, {"w": TARGET["w"]}, count=torch.tensor(0), period=5), ValueError, "hard_update: target_params"),
        (
            lambda: hard_update(PARAMS, TARGET, count=torch.tensor(0), period=0),
            ValueError,
            "period: expected an integer of at least 1, got 0",
        ),
        (lambda: hard_update(PARAMS, TARGET, count=3, period=5), TypeError, r"count: expected a tensor of integers, got an int"),
        (lambda: hard_update(PARAMS, TARGET, count=torch.tensor(3.0), period=5), TypeError, "count: .* got torch.float32"),
        (
            lambda: hard_update(PARAMS, TARGET, count=torch.tensor(3), period=0.5),
            TypeError,
            "period: expected an integer of at least 1, got 0.5",
        ),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
