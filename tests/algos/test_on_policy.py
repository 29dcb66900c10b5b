"""The on-policy learners: each update against a plain one. The contract of an Algorithm is in test_algorithm.py."""

import dataclasses
import functools
import math
from types import SimpleNamespace

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import random, rollout, tree
from funrl.algos import _actor_critic as actor_critic, _networks as networks
from tests.registry import ALGORITHMS, ON_POLICY
from tests.support import same


def short(name, dtype=torch.float32, limit=4):
    """An environment whose episodes are truncated soon."""
    env = funrl.envs.make(name)
    params = tree.map(lambda x: x.to(dtype) if x.is_floating_point() else x, env.default_params).replace(max_steps=torch.tensor(limit))
    return env._replace(default_params=params)


def make(kind, **env_options):
    name, env, options = ALGORITHMS[kind]
    return funrl.algos.make(name, short(env, **env_options), **{**options, "num_steps": 6})


# What an update should do, in plain PyTorch: loops over time, torch.distributions, torch.optim.


def distribution(params, network, observation):
    policy = network.both(params, observation)[0]
    if hasattr(policy, "logits"):
        return torch.distributions.Categorical(logits=policy.logits)
    return torch.distributions.Independent(torch.distributions.Normal(policy.base.loc, policy.base.scale), 1)


def lambda_returns(reward, next_value, terminated, truncated, gamma, lambda_):
    returns, later = torch.zeros_like(reward), next_value[-1]
    for t in reversed(range(len(reward))):
        mixed = torch.where(truncated[t], next_value[t], (1 - lambda_) * next_value[t] + lambda_ * later)
        returns[t] = later = reward[t] + gamma * torch.where(terminated[t], 0.0, mixed)
    return returns


def whole_episodes(samples, gamma):
    reward, done = samples.reward, samples.done
    returns, counts = torch.zeros_like(reward), torch.zeros_like(done)
    for b in range(reward.shape[1]):
        for t in range(len(reward)):
            ends = [u for u in range(t, len(reward)) if done[u, b]]
            if ends:
                counts[t, b] = True
                returns[t, b] = sum(gamma ** (u - t) * reward[u, b] for u in range(t, ends[0] + 1))
    return returns, counts


def policy_gradient(params, network, samples, advantage, returns, config, counts=None):
    policy, value = distribution(params, network, samples.observation), network.both(params, samples.observation)[1]
    terms = -advantage * policy.log_prob(samples.action) - config.entropy_weight * policy.entropy()
    if returns is not None:
        terms = terms + config.value_weight * 0.5 * (returns - value).square()
    return terms.mean() if counts is None else terms[counts].mean()


def a2c_loss(params, frozen, network, samples, config):
    value, next_value = network.both(frozen, samples.observation)[1], network.both(frozen, samples.next_observation)[1]
    returns = lambda_returns(samples.reward, next_value, samples.terminated, samples.truncated, config.gamma, config.lambda_)
    return policy_gradient(params, network, samples, returns - value, returns, config)


def reinforce_loss(params, frozen, network, samples, config):
    if config.baseline == "none":
        returns, counts = whole_episodes(samples, config.gamma)
        return policy_gradient(params, network, samples, returns, None, config, counts)
    value, next_value = network.both(frozen, samples.observation)[1], network.both(frozen, samples.next_observation)[1]
    returns = lambda_returns(samples.reward, next_value, samples.terminated, samples.truncated, config.gamma, 1.0)
    return policy_gradient(params, network, samples, returns - value, returns, config)


def pqn_loss(params, frozen, network, samples, config):
    best = network.apply(frozen, samples.next_observation).max(-1).values
    returns = lambda_returns(samples.reward, best, samples.terminated, samples.truncated, config.gamma, config.lambda_)
    return (
        0.5
        * (returns - network.apply(params, samples.observation)[torch.arange(6)[:, None], torch.arange(4), samples.action]).square().mean()
    )


LOSSES = {"a2c": a2c_loss, "reinforce": reinforce_loss, "reinforce with a baseline": reinforce_loss, "pqn": pqn_loss}
PLAIN = {"pqn": dict(num_minibatches=1, num_epochs=3, max_grad_norm=0.02)}


@pytest.mark.parametrize("kind", LOSSES)
def test_two_updates_agree_with_plain_pytorch(kind):
    name, env, options = ALGORITHMS[kind]
    algo = funrl.algos.make(name, short(env, torch.float64), **{**options, "num_steps": 6, "anneal_steps": 48.0, **PLAIN.get(kind, {})})
    config = algo.config
    start = state = algo.init(random.key(0))
    act = lambda params, key, observation: (algo.act(params, key, observation)[1]["unclipped_action"], {})  # noqa: E731
    project = (lambda x: x.clamp(-2, 2)) if env == "Pendulum-v1" else (lambda x: x)
    outer = algo.env._replace(step=lambda key, s, action, p: algo.env.step(key, s, project(action), p))
    met = []
    for key in random.split(random.key(1)).unbind(0):
        given = (state.learner.params, random.split(key)[0], state.actor, state.learner.env_params)
        met.append(rollout(*given, env=outer, act=act, num_steps=config.num_steps)[1])
        state, metrics = algo.step(key, state)
    assert all(samples.truncated.any() for samples in met) and metrics["gradient_norm"] > config.max_grad_norm
    network = networks.q_network(config, algo.env, norm="layer") if name == "pqn" else actor_critic.make(config, algo.env)

    def plain(change=lambda samples: samples, **changes):
        settings = SimpleNamespace(**{**dataclasses.asdict(config), **changes})
        params = tree.map(lambda x: x.clone().requires_grad_(), start.learner.params.network)
        adam = torch.optim.Adam(tree.leaves(params), eps=1e-5)
        for i, samples in enumerate(met):
            adam.param_groups[0]["lr"] = settings.learning_rate * (1 - i / 2)
            frozen = tree.map(lambda x: x.detach().clone(), params)
            for _ in range(getattr(config, "num_epochs", 1)):
                adam.zero_grad()
                LOSSES[kind](params, frozen, network, change(samples), settings).backward()
                torch.nn.utils.clip_grad_norm_(tree.leaves(params), settings.max_grad_norm)
                adam.step()
        return tree.map(torch.Tensor.detach, params)

    same(state.learner.params.network, plain(), rtol=1e-5, atol=1e-6)

    def differs(*change, **changes):
        return (tree.ravel(plain(*change, **changes))[0] - tree.ravel(state.learner.params.network)[0]).abs().max() > 1e-4

    assert differs(lambda x: x.replace(reward=-x.reward - 1)) and differs(gamma=0.5) and differs(learning_rate=0.005)
    if kind == "reinforce":  # whose steps without an end in sight do not count
        assert differs(lambda x: x.replace(truncated=torch.cat([x.truncated[:-1], ~x.done[-1:]])))
    else:
        assert differs(lambda x: x.replace(terminated=x.done)) and differs(lambda x: x.replace(next_observation=x.observation))
        assert differs(lambda x: x.replace(truncated=x.truncated & False))
    if name != "pqn":
        assert differs(entropy_weight=-30.0)


def test_impala_lags_and_corrects_for_it():
    options = dict(ON_POLICY, learning_rate=0.05)
    env = short("CartPole-v1", torch.float64)
    once, several = (funrl.algos.impala.make(env, num_minibatches=n, **options) for n in (1, 4))
    state = once.init(random.key(0))
    _, fresh = once.step(random.key(1), state)
    _, old = several.step(random.key(1), state)
    torch.testing.assert_close(fresh["importance_ratio"], torch.ones((), dtype=torch.float64), rtol=1e-12, atol=1e-12)
    assert abs(old["importance_ratio"] - 1) > 1e-4
    # On policy it is A2C.
    a2c = funrl.algos.a2c.make(env, **options)
    same(
        once.step(random.key(1), state)[0].learner.params,
        a2c.step(random.key(1), a2c.init(random.key(0)))[0].learner.params,
        rtol=1e-9,
        atol=1e-9,
    )
    # Where ratios differ, so does what is learned with other clips.
    clipped = tree.update(state, ("learner", "hparams", "rho_clip"), torch.tensor(0.5).double())
    assert not torch.equal(vectors(several.step(random.key(1), clipped)), vectors(several.step(random.key(1), state)))


def vectors(result):
    return tree.ravel(result[0].learner.params.network)[0]


def test_epsilon_falls_and_decides_how_pqn_acts():
    algo = make("pqn")
    state = algo.init(random.key(0))
    assert state.learner.params.random == 1
    new, _ = algo.step(random.key(1), state)
    torch.testing.assert_close(new.learner.params.random, torch.tensor((1 + 0.05) / 2))
    observation = state.actor.timestep.observation[0]
    many = random.split(random.key(2), 4000)
    best, _ = algo.greedy(state.learner.params, random.key(3), observation)
    for epsilon in (0.0, 0.3, 1.0):
        params = state.learner.params.replace(random=torch.tensor(epsilon))
        action, _ = vmap(algo.act, (None, 0, None))(params, many, observation)
        share = (action == best).double().mean().item()
        expected = 1 - epsilon * 5 / 6
        assert abs(share - expected) <= 4 * math.sqrt(expected * (1 - expected) / len(many))


@pytest.mark.parametrize("name", ["a2c", "pqn"])
def test_a_host_environment_learns_the_same(name, monkeypatch):
    backend = functools.partial(funrl.compile, backend="aot_eager")
    monkeypatch.setattr(funrl.algos._algorithm, "compile", backend)
    env = funrl.envs.make("gymnasium:CartPole-v1", num_envs=2)
    algo = funrl.algos.make(name, env, num_envs=2, num_steps=8, num_cells=(8,))
    results = []
    for _ in range(2):
        state = algo.init(random.key(0))
        for i in range(2):
            state, metrics = algo.step(random.key(i), state)
        results.append((state.learner.params, metrics))
    same(*results, rtol=0, atol=0)
    assert metrics["steps"] == 32 and metrics["gradient_norm"] > 0


def test_discrete_actions_need_not_start_at_zero():
    env = funrl.envs.make("CartPole-v1")
    shifted = env._replace(
        action_space=funrl.spaces.Discrete(2, start=3), step=lambda key, state, action, params: env.step(key, state, action - 3, params)
    )
    for name in ("a2c", "pqn"):
        plain, moved = (funrl.algos.make(name, e, num_envs=2, num_steps=8, num_cells=(8,)) for e in (env, shifted))
        state = plain.init(random.key(0))
        same(plain.step(random.key(1), state), moved.step(random.key(1), moved.init(random.key(0))), rtol=0, atol=0)
        assert moved.act(state.learner.params, random.key(2), state.actor.timestep.observation[0])[0] in (3, 4)


@pytest.mark.parametrize(
    "name, env, options, message",
    [
        ("pqn", "Pendulum-v1", {}, "env: PQN expects Discrete actions, got Box.*take ppo, a2c or impala"),
        ("pqn", "FrozenLake-v1", {}, r"env: expected observations that are vectors .* got Discrete"),
        ("a2c", "FrozenLake-v1", {}, r"env: expected observations that are vectors .* got Discrete"),
        ("pqn", "CartPole-v1", dict(num_envs=3, num_steps=3, num_minibatches=2), "num_minibatches: expected a divisor of .* = 9, got 2"),
        ("pqn", "CartPole-v1", dict(epsilon_end=2.0), "epsilon_end: expected a number in .0, 1., got 2.0"),
        ("pqn", "CartPole-v1", dict(epsilon_steps=0.0), "epsilon_steps: expected a number above 0, got 0.0"),
        ("impala", "CartPole-v1", dict(num_envs=4, num_minibatches=3), "num_minibatches: expected a divisor of num_envs = 4, got 3"),
        ("impala", "CartPole-v1", dict(rho_clip=0.0), "rho_clip: expected a number above 0, got 0.0"),
        ("a2c", "CartPole-v1", dict(lambda_=-0.1), "lambda_: expected a number in .0, 1., got -0.1"),
        ("a2c", "CartPole-v1", dict(value_weight=-1.0), "value_weight: expected a number of at least 0"),
        ("a2c", "CartPole-v1", dict(max_grad_norm=0.0), "max_grad_norm: expected a number above 0"),
        ("a2c", "CartPole-v1", dict(num_steps=0), "num_steps: expected a number of at least 1, got 0"),
        ("a2c", "CartPole-v1", dict(epsilon_end=0.1), "unknown option 'epsilon_end'"),
        ("reinforce", "CartPole-v1", dict(baseline="mean"), "baseline: expected 'value' or 'none', got 'mean'"),
        ("a2c", "gymnasium:CartPole-v1", {"num_envs": 32}, "num_envs: gymnasium:CartPole-v1 has 1 copy, got 32; make both equal"),
    ],
)
def test_errors(name, env, options, message):
    with pytest.raises(ValueError, match=message):
        funrl.algos.make(name, funrl.envs.make(env), **options)


def test_rewards_and_values_are_normalised_by_the_discounts_of_the_environment():
    """A discount of 0.5 in each step is as good as gamma; and with other discounts, returns are those of a loop."""
    head = funrl.nn.popart(lambda observation: torch.zeros_like(observation[..., 0], dtype=torch.int64), 1, rate=0.5)
    options = dict(num_envs=2, num_steps=8, num_epochs=1, num_minibatches=1, num_cells=(4,), normalize_reward=True, popart=head)
    algo = funrl.algos.ppo.make(funrl.envs.make("CartPole-v1"), **options)
    state = algo.init(random.key(0))
    _, x = algo.collect(random.key(1), state)
    x = x.replace(truncated=x.truncated.index_fill(0, torch.tensor([3]), True))

    def learned(learner, discount=None):
        given = x if discount is None else x.replace(extras={**x.extras, "discount": discount})
        return algo.learn(random.key(2), learner, given)[0]

    half = state.learner.replace(hparams=state.learner.hparams.replace(gamma=torch.tensor(0.5)))
    one, other = learned(state.learner, torch.full_like(x.reward, 0.5)), learned(half)
    same((one.params, one.normalizers), (other.params, other.normalizers), rtol=0, atol=0)

    discount, seen = random.uniform(random.key(3), tuple(x.reward.shape)), []
    for b in range(2):
        running = 0.0
        for t in range(8):
            running = float(x.reward[t, b]) + running
            seen.append(running)
            running = 0.0 if x.done[t, b] else float(discount[t, b]) * running
    found = learned(state.learner, discount).normalizers.moments
    torch.testing.assert_close(found.var, torch.tensor(seen).var(correction=0))


def test_a_further_loss_has_no_weights_for_tasks():
    with pytest.raises(ValueError, match="further_loss, split: expected one of them, got both"):
        funrl.algos.ppo.build("both", None, None, {}, further_loss=lambda *_: None, split=lambda _: None)
