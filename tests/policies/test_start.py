"""Spaces whose integers do not begin at 0, and actions that change after their log-probability was taken."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.func import vmap

import funrl
from funrl import distributions, losses, nn, policies, random, spaces
from funrl.env import Transition

KEY = random.key(0)
SPACE = spaces.Discrete(3, start=1)
IDENTITY = nn.sequential(lambda x: x)
VALUES = torch.tensor([[10.0, 20.0, 30.0], [30.0, 20.0, 10.0]])


class Shop(gym.Env):
    observation_space, action_space = gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(3, start=1)

    def __init__(self):
        self.played = set()

    def reset(self, *, seed=None, options=None):
        return np.zeros(3, np.float32), {}

    def step(self, action):
        self.played.add(int(action))
        return np.zeros(3, np.float32), 0.0, False, False, {}


def first(logits):
    return distributions.Categorical(logits, start=1)


def played(make):
    """The actions that a policy plays in the shop: those of an environment in gymnasium."""
    shop = Shop()
    env = funrl.envs.gymnasium.wrap(shop)
    policy = make(env.action_space)
    params = policy.init(KEY, torch.zeros(3))
    state = env.reset(KEY)
    if hasattr(policy, "start"):
        state = funrl.acting.with_memory(params, state, env=env, policy=policy)
    funrl.rollout(params, random.key(2), state, (), env=env, act=policy if hasattr(policy, "start") else policy.act, num_steps=100)
    return shop.played


def test_policies_play_elements_of_a_space_that_begins_elsewhere():
    net = nn.mlp((8,), 3)
    assert played(lambda space: policies.epsilon_greedy(policies.q_value(net, space=space), space, 0.9)) == {1, 2, 3}
    assert played(lambda space: policies.safe(policies.stochastic(net, first), space)) == {1, 2, 3}
    assert played(lambda space: policies.stochastic(net, first)) == {1, 2, 3}
    assert torch.equal(policies.q_value(IDENTITY, space=SPACE).act(((),), None, VALUES)[0], torch.tensor([3, 1]))
    hot = policies.q_value(IDENTITY, encoding="one_hot", space=SPACE).act(((),), None, VALUES)[0]
    assert torch.equal(hot, torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]))


@pytest.mark.parametrize("logits", [torch.randn(4, 5, generator=torch.Generator().manual_seed(0))])
def test_categoricals_that_begin_elsewhere_are_those_that_begin_at_0_moved(logits):
    mask = torch.tensor([True, False, True, True, False])
    pairs = [
        (distributions.Categorical(logits), distributions.Categorical(logits, start=-2), torch.tensor(-2)),
        (distributions.Categorical(logits, mask=mask), distributions.Categorical(logits, start=7, mask=mask), torch.tensor(7)),
        (
            distributions.MultiCategorical(logits, (2, 3)),
            distributions.MultiCategorical(logits, (2, 3), (1, -4)),
            torch.tensor([1, -4]),
        ),
    ]
    for plain, moved, by in pairs:
        drawn = vmap(plain.sample)(random.split(KEY, 50))
        assert torch.equal(vmap(moved.sample)(random.split(KEY, 50)), drawn + by)
        assert torch.equal(moved.mode(), plain.mode() + by)
        assert torch.equal(moved.log_prob(drawn + by), plain.log_prob(drawn))
        assert (moved.log_prob(drawn + by - 50) == -torch.inf).all()
        assert torch.equal(moved.entropy(), plain.entropy()) and torch.equal(moved.kl(moved), plain.kl(plain))
        with pytest.raises(ValueError, match=r"kl: other: expected"):
            moved.kl(plain)


def q_losses():
    quantiles = VALUES.unsqueeze(-1).expand(2, 3, 4)
    logits = torch.nn.functional.one_hot((VALUES / 10 - 1).long(), 3) * 100.0
    support = torch.tensor([10.0, 20.0, 30.0])
    for loss, out, options in (
        (losses.dqn_loss, VALUES, {}),
        (losses.qr_dqn_loss, quantiles, {}),
        (losses.c51_loss, logits, {"support": support}),
    ):
        apply = lambda p, o, out=out: out  # noqa: E731
        yield from ((loss, {"apply": apply, "chooser_apply": chooser, **options}) for chooser in (None, apply))


def batch_of(action):
    no = torch.zeros(2, dtype=torch.bool)
    return Transition(torch.zeros(2, 3), torch.tensor(action), torch.zeros(2), no, no, torch.zeros(2, 3), ())


@pytest.mark.parametrize("loss, networks", list(q_losses()))
def test_q_losses_learn_the_value_of_the_action_that_was_played(loss, networks):
    _, metrics = loss((), (), batch_of([1, 3]), gamma=0.0, action_start=1, **networks)
    torch.testing.assert_close(metrics["q_mean"], torch.tensor(10.0))  # the first of the first row, the last of the second
    same = loss((), (), batch_of([0, 2]), gamma=0.0, **networks)
    torch.testing.assert_close(same[1]["td_error"], metrics["td_error"])
    with pytest.raises(ValueError, match=r"batch.action: expected 0, ..., 2, as there are 3 values, got 3; .*give action_start"):
        loss((), (), batch_of([1, 3]), gamma=0.0, **networks)
    with pytest.raises(TypeError, match=r"action_start: expected an integer, got 0.5"):
        loss((), (), batch_of([1, 1]), gamma=0.0, action_start=0.5, **networks)


def test_discrete_sac_takes_the_actions_that_its_actor_plays():
    params = losses.SoftActorCritic(actor=(), critic=(), log_alpha=torch.tensor(0.0))
    networks = {"actor": lambda p, o: first(torch.zeros(2, 3)), "critic": lambda p, o: torch.stack([VALUES, VALUES])}
    _, metrics = losses.sac_discrete_critic_loss((), params, (), batch_of([1, 3]), gamma=0.0, **networks)
    torch.testing.assert_close(metrics["q_mean"], torch.tensor(10.0))


def gaussian(loc, scale):
    return distributions.Independent(distributions.Normal(loc, scale), 1)


@pytest.mark.parametrize("mode", ["random", "mode", "mean"])
def test_the_log_prob_of_a_projected_action_is_its_own(mode):
    net, box = distributions.normal_params(nn.mlp((), 4)), spaces.Box(-0.1, 0.1, (2,))
    policy = policies.safe(policies.stochastic(net, gaussian), box)
    params, observations = policy.init(KEY, torch.zeros(3)), random.normal(KEY, (200, 3))
    action, extras = policy.act(params, KEY, observations, mode=mode)
    assert (action.abs() == 0.1).any() and (action.abs() <= 0.1).all()
    torch.testing.assert_close(extras["log_prob"], gaussian(*net.apply(params, observations)).log_prob(action), atol=0, rtol=0)
    both = policies.safe(policies.actor_critic(nn.mlp((8,)), net, nn.mlp((), 1), gaussian), box)
    memory = policies.recurrent(nn.gru(8), both)
    params = memory.init(KEY, observations[0])
    start = memory.start(params, observations[0])
    _, action, extras = memory.act(params, KEY, start, observations[0], torch.tensor(True), mode=mode)
    outer = policies.safe(policies.recurrent(nn.gru(8), policies.actor_critic(nn.mlp((8,)), net, nn.mlp((), 1), gaussian)), box)
    _, same, again = outer.act(params, KEY, start, observations[0], torch.tensor(True), mode=mode)
    assert torch.equal(action, same) and torch.equal(extras["log_prob"], again["log_prob"]) and (action.abs() <= 0.1).all()


PLAIN = policies.stochastic(distributions.normal_params(nn.mlp((), 4)), gaussian)
BOX = spaces.Box(-1.0, 1.0, (2,))


def act(policy):
    return policy.act(((),), KEY, torch.zeros(3))


def shop_plays(action):
    env = funrl.envs.gymnasium.wrap(Shop())
    return env.step(KEY, env.reset(KEY)[0], torch.tensor([action]), ())


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda: policies.epsilon_greedy(policies.q_value(IDENTITY), SPACE, 0.1),
            ValueError,
            r"from 1 on, as in Discrete\(n=3, start=1\), got a policy that counts them from 0; make it with q_value\(..., space=",
        ),
        (lambda: policies.safe(policies.q_value(IDENTITY), SPACE), ValueError, "safe: policy: expected actions from 1 on"),
        (
            lambda: act(policies.safe(policies.stochastic(IDENTITY, distributions.Categorical), SPACE)),
            ValueError,
            r"distribution: expected classes from 1 on, .* begins at 0; make it with Categorical\(..., start=1\)",
        ),
        (lambda: policies.q_value(IDENTITY, space=BOX), TypeError, "space: expected a funrl.spaces.Discrete, or None, got Box"),
        (lambda: act(policies.q_value(IDENTITY, space=spaces.Discrete(2))), ValueError, "expected 2 values, .*got 3"),
        (lambda: shop_plays(0), ValueError, r"expected elements of Discrete\(n=3, start=1\), got \[0\]; policies and losses count from 0"),
        (lambda: distributions.Categorical(torch.zeros(3), start=0.5).mode(), TypeError, "start: expected an integer, got 0.5"),
        (lambda: distributions.MultiCategorical(torch.zeros(3), (3,), (1, 2)).mode(), ValueError, "start: expected 1 integer, got"),
        (lambda: policies.epsilon_greedy(PLAIN, BOX, 0.1), ValueError, "epsilon_greedy: policy: expected one without 'log_prob'"),
        (lambda: policies.additive_gaussian(PLAIN, BOX, 0.1), ValueError, r"expected one without 'log_prob'.*return_log_prob=False"),
        (lambda: policies.ornstein_uhlenbeck(PLAIN, BOX), ValueError, "ornstein_uhlenbeck: policy: expected one without 'log_prob'"),
        (lambda: policies.safe(policies.safe(PLAIN, BOX), BOX), ValueError, "safe: policy: expected one without 'log_prob'"),
    ],
)
def test_what_does_not_fit_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()
