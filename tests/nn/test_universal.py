"""Values as products of features of a state and a goal."""

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import nn, random


def test_it_is_the_sum_of_products():
    net = nn.universal(3, 4, (5,))
    x = {"observation": random.normal(random.key(1), (2, 7, 6), dtype=torch.float64), "achieved_goal": torch.zeros(2, 7, 2)}
    x["desired_goal"] = random.normal(random.key(2), (2, 7, 2), dtype=torch.float64)
    params = net.init(random.key(0), {name: each[0, 0] for name, each in x.items()})
    y = net.apply(params, x)
    state, goal = nn.mlp((5,), 12, activation="relu"), nn.mlp((5,), 4, activation="relu")
    for i in range(2):
        for j in range(7):
            phi, psi = state.apply(params["state"], x["observation"][i, j]), goal.apply(params["goal"], x["desired_goal"][i, j])
            for a in range(3):
                assert y[i, j, a].item() == pytest.approx(sum(phi[4 * a + n].item() * psi[n].item() for n in range(4)), rel=1e-12)
    one = nn.universal(1, 4, ())
    params = one.init(random.key(0), {name: each[0, 0] for name, each in x.items()})
    assert one.apply(params, x).shape == (2, 7, 1)


def test_its_rank_is_at_most_the_number_of_features():
    net = nn.universal(1, 3, (16,))
    states, goals = random.normal(random.key(1), (20, 4), dtype=torch.float64), random.normal(random.key(2), (15, 2), dtype=torch.float64)
    params = net.init(random.key(0), {"observation": states[0], "desired_goal": goals[0]})
    table = vmap(lambda s: vmap(lambda g: net.apply(params, {"observation": s, "desired_goal": g})[0])(goals))(states)
    assert torch.linalg.matrix_rank(table) == 3


@pytest.mark.slow
def test_dqn_takes_it_and_it_needs_its_entries():
    env = funrl.envs.make("BitFlip-misc", num_bits=3)
    algo = funrl.algos.dqn.make(env, network=nn.universal(3, 4, (4,)), num_envs=2, num_steps=4, num_updates=1, batch_size=4, buffer_size=64)
    funrl.algos.check(algo, random.key(0))
    net = nn.universal(2)
    with pytest.raises(
        ValueError, match=r"universal.init: example: expected a dict with the entries 'observation' and 'desired_goal', got"
    ):
        net.init(random.key(0), torch.zeros(3))
    with pytest.raises(ValueError, match="universal: num_features: expected an integer of at least 1"):
        nn.universal(2, 0)
