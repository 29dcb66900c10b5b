"""The objectives of the TorchRL introduction: its example, and a test named after each objective file that its tree lists."""

import pytest
import torch
from torch.func import grad, grad_and_value, vmap

from funrl import buffers, distributions, losses, nn, optim, random, returns, tree
from funrl.env import Transition

KEY = random.key(0)


def randn(seed, *shape):
    return random.normal(random.key(seed), shape)


def batch(n=10, actions=None):
    """The introduction's: observations [10, 3], actions [10, 1], nothing done. Rewards and ends are [10] here; actions may be numbers."""
    no = torch.zeros(n, dtype=torch.bool)
    return Transition(
        observation=randn(1, n, 3),
        action=randn(2, n, 1) if actions is None else random.randint(random.key(2), (n,), 0, actions),
        reward=randn(3, n),
        terminated=no,
        truncated=no,
        next_observation=randn(4, n, 3),
        extras={"log_prob": -randn(5, n).abs()},
    )


ACTOR, CRITIC = nn.mlp((), 1), nn.mlp((), 1)


def actor(params, observation):
    return ACTOR.apply(params, observation)


def squashed(params, observation):
    loc = ACTOR.apply(params, observation)
    return distributions.Independent(distributions.TanhNormal(loc, torch.ones_like(loc)), 1)


def critic(params, observation, action):
    return CRITIC.apply(params, torch.cat([observation, action], -1)).squeeze(-1)


def critics(params, observation, action):
    return vmap(critic, (0, None, None))(params, observation, action)


def parameters(members=None):
    """Of an actor and one critic, or several, as the introduction's linear layers."""
    init = lambda key: CRITIC.init(key, torch.zeros(4))  # noqa: E731
    one, two = random.split(KEY).unbind(0)
    critic = init(two) if members is None else vmap(init)(random.split(two, members))
    return losses.ActorCritic(actor=ACTOR.init(one, torch.zeros(3)), critic=critic)


def soft_parameters(members):
    params = parameters(members)
    return losses.SoftActorCritic(actor=params.actor, critic=params.critic, log_alpha=torch.tensor(0.0))


def descend(loss, params, *arguments, steps=20, **options):
    """Follow the gradient, and return the losses before and after, and the last metrics."""
    optimizer = optim.adam(3e-3)
    state, values = optimizer.init(params), []
    for _ in range(steps):
        gradient, (value, metrics) = grad_and_value(loss, has_aux=True)(params, *arguments, **options)
        updates, state = optimizer.update(gradient, state, params)
        params = optim.apply_updates(params, updates)
        values.append(value)
    assert all(x.isfinite().all() for x in tree.leaves((params, metrics)))
    return values[0], values[-1], metrics


def test_the_example():
    """Fields and shapes of what the introduction prints, and the error of each sample for the buffer's priorities."""
    params = parameters()
    assert [tuple(x.shape) for x in tree.leaves(params)] == [(1,), (1, 3), (1,), (1, 4)]
    loss, metrics = losses.ddpg_loss(params, params, batch(), actor=actor, critic=critic, gamma=0.99)
    names = ["actor_loss", "critic_loss", "q_mean", "q_max", "target_mean", "target_max"]
    assert sorted(metrics) == sorted([*names, "td_error"])
    assert all(metrics[name].shape == () for name in names) and metrics["td_error"].shape == (10,)
    torch.testing.assert_close(loss, metrics["actor_loss"] + metrics["critic_loss"])
    torch.testing.assert_close(metrics["critic_loss"], metrics["td_error"].square().mean())

    prioritized = buffers.prioritized(16, alpha=0.7, beta=0.9)
    state = prioritized.extend(prioritized.init(tree.index(batch(), 0)), batch())
    state = prioritized.update_priority(state, torch.arange(10), metrics["td_error"])
    sample = prioritized.sample(random.key(1), state, 4000)
    weighted, again = losses.ddpg_loss(params, params, sample.batch, actor=actor, critic=critic, gamma=0.99, weight=sample.weights)
    torch.testing.assert_close(again["td_error"], metrics["td_error"][sample.indices])
    often = torch.bincount(sample.indices, minlength=10) / 4000
    torch.testing.assert_close(often, metrics["td_error"] ** 0.7 / (metrics["td_error"] ** 0.7).sum(), rtol=0, atol=0.03)
    assert weighted.isfinite()


def test_the_loss_is_ready_for_meta_learning():
    """The introduction calls its losses that: here one is a function of its parameters, so what a step of it leads to has a slope too.

    The critic's, since of the sum, whose terms hold each other's parameters fixed, the slope is not that of its value.
    """
    params, data = tree.map(lambda x: x.double() if x.is_floating_point() else x, (parameters(), batch()))

    def loss(critic_params):
        return losses.ddpg_critic_loss(critic_params, params, data, actor=actor, critic=critic, gamma=0.99)[0]

    def after_a_step(rate):
        return loss(tree.map(lambda x, g: x - rate * g, params.critic, grad(loss)(params.critic)))

    rate, step = torch.tensor(1e-2, dtype=torch.float64), 1e-5
    slope = grad(after_a_step)(rate)
    torch.testing.assert_close(slope, (after_a_step(rate + step) - after_a_step(rate - step)) / (2 * step), rtol=1e-6, atol=1e-8)
    assert slope < 0


def test_ddpg():
    params = parameters()
    first, last, metrics = descend(losses.ddpg_loss, params, params, batch(), actor=actor, critic=critic, gamma=0.99)
    assert last < first and metrics["td_error"].shape == (10,)


def test_dqn():
    net = nn.mlp((8,), 2)
    params = net.init(KEY, torch.zeros(3))
    for chooser in (None, net.apply):
        options = {"apply": net.apply, "chooser_apply": chooser, "gamma": 0.99}
        first, last, metrics = descend(losses.dqn_loss, params, params, batch(actions=2), **options)
        assert last < first and metrics["td_error"].shape == (10,)


def policy_and_value(params, observation):
    out = NET.apply(params, observation)
    return distributions.Categorical(out[..., :2]), out[..., 2]


NET = nn.mlp((8,), 3)


def test_ppo():
    """From steps to advantages to an update, in the shape of the introduction's [time]."""
    params, steps = NET.init(KEY, torch.zeros(3)), batch(actions=2)
    policy, value = policy_and_value(params, steps.observation)
    next_value = policy_and_value(params, steps.next_observation)[1]
    advantage, target = returns.gae(steps.reward, value, next_value, steps.terminated, steps.truncated, gamma=0.99, lambda_=0.95)
    data = losses.PPOBatch(
        observation=steps.observation,
        action=steps.action,
        log_prob=policy.log_prob(steps.action),
        value=value,
        advantage=losses.normalize_advantage(advantage),
        target=target,
    )
    first, last, _ = descend(losses.ppo_loss, params, data, apply=policy_and_value)
    assert last < first
    first, last, metrics = descend(losses.ppo_kl_loss, params, data, policy, apply=policy_and_value, kl_weight=1.0)
    assert last < first and metrics["kl"] > 0


@pytest.mark.parametrize("members", [2, 10])
def test_redq(members):
    params = soft_parameters(members)
    first, last, metrics = descend(
        *(losses.redq_loss, params, params.critic, KEY, batch()), actor=squashed, critic=critics, gamma=0.99, target_entropy=-1.0
    )
    assert last < first and metrics["td_error"].shape == (10,)


def test_reinforce():
    params, steps = NET.init(KEY, torch.zeros(3)), batch(actions=2)
    data = losses.ReinforceBatch(
        observation=steps.observation,
        action=steps.action,
        returns=returns.reward_to_go(steps.reward, steps.terminated, steps.truncated, gamma=0.99),
    )
    for loss, apply in (
        (losses.reinforce_loss, lambda p, x: policy_and_value(p, x)[0]),
        (losses.reinforce_with_baseline_loss, policy_and_value),
    ):
        first, last, _ = descend(loss, params, data, apply=apply)
        assert last < first


def test_sac():
    params = soft_parameters(2)
    first, last, metrics = descend(
        *(losses.sac_loss, params, params.critic, KEY, batch()), actor=squashed, critic=critics, gamma=0.99, target_entropy=-1.0
    )
    assert last < first and metrics["temperature"] != 1.0 and metrics["td_error"].shape == (10,)


def test_advantages():
    """The three estimators of the introduction's ``value/advantages.py``: TD(0), TD(lambda), and generalised advantages."""
    steps = batch()
    value, next_value = randn(6, 10), randn(7, 10)
    ends = steps.terminated, steps.truncated
    advantage, target = returns.gae(steps.reward, value, next_value, *ends, gamma=0.99, lambda_=0.0)
    td0 = returns.td0(steps.reward, next_value, steps.terminated, gamma=0.99)
    torch.testing.assert_close(target, td0)
    torch.testing.assert_close(advantage, td0 - value)
    torch.testing.assert_close(td0, returns.td_lambda(steps.reward, next_value, *ends, gamma=0.99, lambda_=0.0))


def test_vtrace():
    """Over behaviour that is not the policy's, what it returns is what the loss of IMPALA is made of."""
    params, steps = NET.init(KEY, torch.zeros(3)), batch(actions=2)
    policy, value = policy_and_value(params, steps.observation)
    next_value = policy_and_value(params, steps.next_observation)[1]
    log_ratio = policy.log_prob(steps.action) - steps.extras["log_prob"]
    advantage, target = returns.vtrace(steps.reward, value, next_value, steps.terminated, steps.truncated, log_ratio, gamma=0.99)
    _, metrics = losses.impala_loss(params, steps, apply=policy_and_value, gamma=0.99)
    torch.testing.assert_close(metrics["policy_loss"], -(advantage * policy.log_prob(steps.action)).mean())
    torch.testing.assert_close(metrics["value_loss"], 0.5 * (target - value).square().mean())
