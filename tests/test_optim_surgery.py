"""Gradient surgery beside a loop over tasks, as the paper's algorithm 1 writes it."""

import pytest
import torch
from torch.func import grad, vmap

import funrl
from funrl import envs, meta, optim, random, tree
from tests.support import same


def naive(key, rows):
    """PCGrad of vectors [K, P] in float64, one projection after another."""
    rows, total = rows.double(), torch.zeros(rows.shape[1], dtype=torch.float64)
    for i, own in enumerate(random.split(key, len(rows))):
        g = rows[i].clone()
        for j in random.permutation(own, len(rows)).tolist():
            if j != i and (product := float(g @ rows[j])) < 0:
                g = g - product / float(rows[j] @ rows[j]) * rows[j]
        total += g
    return total


def drawn(seed, num_tasks, dtype=torch.float64):
    keys = random.split(random.key(seed))
    return {"w": random.normal(keys[0], (num_tasks, 2, 3), dtype=dtype), "b": random.normal(keys[1], (num_tasks, 1), dtype=dtype)}


def joined(gradients):
    return torch.cat([x.reshape(x.shape[0], -1) for x in tree.leaves(gradients)], 1)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("num_tasks", [1, 2, 5])
def test_equals_the_loop(num_tasks, dtype, tolerance):
    for seed in range(20):
        gradients, key = drawn(seed, num_tasks, dtype), random.key(100 + seed)
        found = optim.project_conflicts(key, gradients)
        assert found["w"].shape == (2, 3) and found["w"].dtype == dtype
        flat = torch.cat([x.flatten() for x in tree.leaves(found)]).double()
        torch.testing.assert_close(flat, naive(key, joined(gradients)), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("sizes", [(1e-30, 1e-30, 1e-30), (1e30, 1e30, 1e30), (1e-25, 1.0, 1e12), (1e20, 3.0, 1e-20)])
def test_gradients_of_any_scale(sizes):
    """In float32, where the square of a number beyond 1e±19 is 0 or infinite."""
    for seed in range(5):
        gradients, key = (
            tree.map(lambda x: x * torch.tensor(sizes).reshape(3, *[1] * (x.ndim - 1)), drawn(seed, 3, torch.float32)),
            random.key(seed),
        )
        flat = torch.cat([x.flatten() for x in tree.leaves(optim.project_conflicts(key, gradients))]).double()
        expected = naive(key, joined(gradients))
        torch.testing.assert_close(flat / max(sizes), expected / max(sizes), rtol=1e-4, atol=1e-4)


def test_orders_matter_and_are_random():
    gradients = drawn(3, 5)
    found = vmap(optim.project_conflicts, (0, None))(random.split(random.key(0), 20), gradients)["b"]
    assert len(found.unique()) > 1


def test_gradients_without_conflict_are_summed_and_zeros_are_no_problem():
    gradients = tree.map(torch.abs, drawn(1, 4))
    same(optim.project_conflicts(random.key(0), gradients), tree.map(lambda g: g.sum(0), gradients))
    zero = torch.tensor([[0.0, 0.0], [1.0, -2.0], [0.0, 0.0]])
    assert torch.equal(optim.project_conflicts(random.key(0), zero), torch.tensor([1.0, -2.0]))


def test_the_optimizer_joins_the_gradients_of_each_update():
    params = tree.map(lambda x: x[0], drawn(0, 1))
    opt, inner = optim.pcgrad(optim.adam(0.1), seed=7), optim.adam(0.1)
    state, expected = opt.init(params), inner.init(params)
    for i in range(3):
        gradients = drawn(i, 4)
        updates, state = funrl.compile(opt.update)(gradients, state, params)
        one = optim.project_conflicts(random.fold_in(random.key(7), i), gradients)
        expected_updates, expected = inner.update(one, expected, params)
        same(updates, expected_updates)
        same(state.inner, expected)
    assert state.count == 3


def test_ppo_joins_the_gradients_of_tasks():
    """One gradient step of stochastic gradient descent, with the loss of each task by hand."""
    env = envs.make("CartPole-v1")
    options = dict(num_tasks=3, num_envs=8, num_steps=8, num_epochs=1, num_minibatches=1, num_cells=(4,), gradient_surgery=True)
    options["value_weight"] = 0.01  # of all tasks, the gradients of values agree
    algo = meta.multi_task.make(env, optimizer=optim.sgd(0.5), **options)
    plain = meta.multi_task.make(env, optimizer=optim.sgd(0.5), **{**options, "gradient_surgery": False})
    state = algo.init(random.key(0))
    network = state.learner.params.network
    _, transitions = algo.collect(random.key(1), state)
    learner, metrics = algo.learn(random.key(2), state.learner, transitions)
    unsplit = plain.init(random.key(0)).learner
    joint, other = plain.learn(random.key(2), unsplit, transitions)
    torch.testing.assert_close(metrics["gradient_norm"], other["gradient_norm"])

    # The loss of PPO is a mean over rows, so that the gradient of one task is that of all less that of the others.
    task = meta.task_number(algo.env)(transitions.observation)
    assert len(task.unique()) == 3

    def loss(params, kept):
        nets = funrl.algos.on_policy.networks(plain.config, plain.env)
        value, next_value = nets.values(network, transitions)
        flags = (transitions.terminated, transitions.truncated)
        advantage, target = funrl.returns.gae(transitions.reward, value, next_value, *flags, gamma=0.99, lambda_=0.95)
        advantage = funrl.losses.normalize_advantage(advantage)
        distribution, value = nets.both(params, transitions.observation)
        ratio = (distribution.log_prob(transitions.action) - transitions.extras["log_prob"]).exp()
        policy = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        return ((0.005 * (value - target).square() - policy - 0.01 * distribution.entropy()) * kept).mean()

    each = tree.stack([grad(loss)(network, (task == k).float()) for k in range(3)])
    gradient = optim.project_conflicts(random.fold_in(random.key(0), 0), each)
    same(learner.params.network, tree.map(lambda x, g: x - 0.5 * g, network, gradient), rtol=1e-4, atol=1e-6)
    same(joint.params.network, tree.map(lambda x, g: x - 0.5 * g.sum(0), network, each), rtol=1e-4, atol=1e-6)
    assert not tree.allclose(learner.params.network, joint.params.network, rtol=1e-4, atol=1e-6)


def test_errors():
    with pytest.raises(ValueError, match=r"project_conflicts: gradients: expected leaves \[K, ...\]"):
        optim.project_conflicts(random.key(0), {"a": torch.zeros(2, 3), "b": torch.zeros(3)})
    with pytest.raises(TypeError, match="pcgrad: optimizer: expected"):
        optim.pcgrad(optim.adam)
    env = envs.make("CartPole-v1")
    with pytest.raises(ValueError, match="loss, gradient_surgery: expected one of them"):
        meta.multi_task.make(env, gradient_surgery=True, loss=lambda *args, **options: None)
    with pytest.raises(ValueError, match="gradient_surgery: expected a policy without memory"):
        meta.multi_task.make(env, gradient_surgery=True, recurrent="gru", num_envs=4, num_minibatches=2)
