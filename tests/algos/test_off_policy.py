"""Common properties of off-policy learners; test_algorithm.py has the contract of each."""

import functools
import gc
import weakref

import numpy as np
import pytest
import torch
from torch.func import vmap

import funrl
from funrl import random, tree
from funrl.algos import _algorithm as algorithm
from funrl.env import Env, Timestep
from funrl.spaces import Binary, Box, Discrete
from tests.algos import gradient_steps
from tests.registry import ALGORITHMS, OFF_POLICY_KINDS as KINDS
from tests.support import same

CONTINUOUS = [kind for kind in KINDS if ALGORITHMS[kind][1] == "Pendulum-v1"]


def make(kind, env=None, **options):
    name, env_name, usual = ALGORITHMS[kind]
    return funrl.algos.make(name, env or funrl.envs.make(env_name), **{**usual, **options})


def equal(one, other):
    return all(torch.equal(x, y) for x, y in zip(tree.leaves(one), tree.leaves(other), strict=True))


def run(algo, steps, seed=0):
    """The states after 0, 1, ... steps."""
    states = [algo.init(random.key(seed))]
    for i in range(steps):
        states.append(algo.step(random.fold_in(random.key(seed + 1), i), states[-1])[0])
    return states


@pytest.mark.parametrize("kind", KINDS)
def test_actions_are_uniform_and_nothing_is_learned_before_learning_starts(kind):
    algo = make(kind, learning_starts=24)
    first, second, third, fourth = run(algo, 3)
    for state in (second, third):
        for field in ("target", "optimizer", "num_updates"):
            assert equal(getattr(state.learner, field), getattr(first.learner, field)), field
        assert equal(state.learner.params.network, first.learner.params.network)
    assert [x.learner.num_updates.item() for x in (third, fourth)] == [0, 2]
    assert [ring(x).size.item() for x in (first, second, third, fourth)] == [0, 8, 16, 24]
    fourth, start = fourth.learner, first.learner
    assert not equal(fourth.params.network, start.params.network) and not equal(fourth.optimizer, start.optimizer)

    space = algo.env.action_space
    number = 10_000
    keys = random.split(random.key(9), number)
    for state in (first, third):
        assert state.learner.params.random == 1
        action = vmap(algo.act, (None, 0, None))(state.learner.params, keys, torch.full(algo.env.observation_space.shape, 0.5))[0]
        if isinstance(space, Discrete):
            assert abs(action.float().mean() - 0.5) < 4 * 0.5 / number**0.5
        else:
            share = ((action[:, 0] - space.low) / (space.high - space.low)).sort().values
            assert (share - torch.linspace(0, 1, number)).abs().max() < 2 / number**0.5  # Kolmogorov's: one in a thousand is farther


def ring(state):
    """Return the ring of transitions in a state."""
    return getattr(state.learner.buffer, "ring", state.learner.buffer)


def counter(space, limit=3):
    """An environment whose observation says the time and the last action, and whose reward is ten times the time and the action.

    An action in the upper third ends it, and so does the limit, by truncation.
    """
    low = float(space.start if isinstance(space, Discrete) else space.low)
    high = float(space.start + space.n - 1 if isinstance(space, Discrete) else space.high)

    def reset(key, env_params):
        zero = torch.zeros_like(env_params)
        no = torch.zeros_like(zero, dtype=torch.bool)
        return torch.zeros_like(key), Timestep(torch.stack([zero, zero]), zero.clone(), no, no.clone(), {})

    def step(key, state, action, env_params):
        time, action = state + 1, action.reshape(()).to(env_params.dtype)
        over = action > low + 0.67 * (high - low)
        timestep = Timestep(torch.stack([time.to(action.dtype), action]), 10.0 * state + action, over, ~over & (time >= limit), {})
        return time, timestep

    return Env("counter", reset, step, Box(-10.0, 10.0, (2,)), space, torch.tensor(0.0), limit, None)


@pytest.mark.parametrize(
    ("kind", "space", "start"),
    [
        ("dqn", Discrete(3, start=5), 5),
        ("sac_discrete", Discrete(3, start=-2), -2),
        ("sac", Box(-1.0, 2.0, (1,)), 0),
        ("td3", Box(-1.0, 2.0, (1,)), 0),
    ],
)
def test_the_buffer_holds_what_happened(kind, space, start):
    algo = make(kind, counter(space), num_steps=6, buffer_size=30, learning_starts=1000)
    states = run(algo, 6)
    ends = []
    for i in (1, 2, 6):
        new = torch.arange(12 * (i - 1), 12 * i) % 30
        rows = tree.map(lambda x: x[new].unflatten(0, (6, 2)), states[i].learner.buffer.data)  # noqa: B023
        got = rows.action.reshape(6, 2).float() + start  # what the environment got
        assert vmap(vmap(space.contains))(rows.action + start).all()
        time = rows.observation[..., 0]
        torch.testing.assert_close(rows.next_observation, torch.stack([time + 1, got], -1))
        torch.testing.assert_close(rows.reward, 10 * time + got)
        over = got > (start + 1.34 if start else 1.01)
        assert torch.equal(rows.terminated, over) and torch.equal(rows.truncated, ~over & (time == 2))
        ends.append((rows.terminated.any(), rows.truncated.any()))
        done = rows.terminated | rows.truncated
        follows = torch.where(done[..., None], 0.0, rows.next_observation)
        assert torch.equal(rows.observation[1:], follows[:-1])
        assert torch.equal(states[i].actor.timestep.observation, follows[-1])
        assert states[i].learner.buffer.size == min(30, 12 * i) and states[i].learner.buffer.cursor == 12 * i % 30
    assert all(map(any, zip(*ends, strict=True)))
    for chance in (0.0, 1.0):
        params = states[-1].learner.params.replace(random=torch.tensor(chance))
        assert vmap(space.contains)(vmap(algo.act, (None, 0, None))(params, random.split(random.key(3), 50), torch.zeros(2))[0]).all()
    assert space.contains(algo.greedy(states[-1].learner.params, random.key(0), torch.zeros(2))[0])


def test_rewards_of_n_steps():
    options = dict(num_steps=6, num_envs=2, learning_starts=1000, gamma=0.5)
    env = counter(Discrete(3))
    single, joined = (run(make("dqn", env, n_step=n, **options), 2) for n in (1, 3))
    for i in (1, 2):
        new = slice(12 * (i - 1), 12 * i)
        one, many = (tree.map(lambda x: x[new].unflatten(0, (6, 2)).numpy(), s[i].learner.buffer.data) for s in (single, joined))  # noqa: B023
        assert np.array_equal(one.observation, many.observation) and np.array_equal(one.action, many.action)
        done = one.terminated | one.truncated
        for t in range(6):
            for b in range(2):
                total, m = 0.0, 0
                while m < 3 and t + m < 6:
                    total += 0.5**m * one.reward[t + m, b]
                    m += 1
                    if done[t + m - 1, b]:
                        break
                assert many.reward[t, b] == total and many.extras["discount"][t, b] == 0.5**m
                for name in ("next_observation", "terminated", "truncated"):
                    assert np.array_equal(getattr(many, name)[t, b], getattr(one, name)[t + m - 1, b])


def test_the_loss_is_given_the_discount_of_each_sample(monkeypatch):
    steps = gradient_steps.record(monkeypatch)
    run(make("dqn", counter(Discrete(3)), n_step=3, num_steps=6, gamma=0.5, num_updates=8), 1)
    assert {x for step in steps for x in step.gamma.tolist()} == {0.5, 0.25, 0.125}
    assert all(torch.equal(step.gamma, step.batch.extras["discount"]) for step in steps)
    steps.clear()
    run(make("dqn", counter(Discrete(3)), gamma=0.5), 1)
    assert all(torch.equal(step.gamma, torch.full((8,), 0.5)) for step in steps) and len(steps) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_learning_rate_falls_to_zero(kind):
    algo = make(kind, learning_rate=0.01, anneal_steps=24)
    state = algo.init(random.key(0))
    for i, expected in enumerate([0.01, 0.01 * 2 / 3, 0.01 / 3, 0.0, 0.0]):
        before = state.learner.params.network
        state, metrics = algo.step(random.key(i), state)
        assert metrics["learning_rate"].item() == pytest.approx(expected, abs=1e-9)
        # But the running moments of normalisation, which are no matter of gradients.
        pairs = zip(tree.paths(before), tree.leaves(before), tree.leaves(state.learner.params.network), strict=True)
        assert all(torch.equal(x, y) for path, x, y in pairs if "statistics" not in path) == (i > 2)


@pytest.mark.parametrize("tau", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("kind", ["dqn", "ddpg", "td3", "sac", "sac_discrete", "redq"])
def test_targets_follow(monkeypatch, kind, tau):
    steps = gradient_steps.record(monkeypatch)
    options = dict(target_period=1) if kind == "dqn" else {}
    first, *_, last = run(make(kind, tau=tau, num_updates=4, learning_rate=0.1, **options), 2)
    assert len([step for step in steps if step.kind == "learn"]) == 8
    target = first.learner.target
    of = (lambda network: network) if kind in ("dqn", "ddpg", "td3") else (lambda network: network.critic)
    same(target, of(first.learner.params.network), rtol=0, atol=0)
    for step in steps:
        same(step.before.target, target)
        if step.kind == ("delayed" if kind == "td3" else "learn"):
            target = tree.map(lambda x, y: tau * x + (1 - tau) * y, of(step.after.network), target)
        same(step.after.target, target)
    same(last.learner.target, target)
    assert equal(last.learner.target, first.learner.target) == (tau == 0)


@pytest.mark.parametrize("kind", ["td3", "redq", "crossq"])
def test_the_policy_moves_less_often(monkeypatch, kind):
    steps = gradient_steps.record(monkeypatch)
    _, state, _ = run(make(kind, policy_delay=3, num_updates=6), 2)
    assert [step.kind for step in steps] == ["learn", "learn", "learn", "delayed"] * 4
    assert [step.before.num_updates.item() for step in steps] == [0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9, 10, 11, 12]
    assert state.learner.num_updates == 6
    targets = {"td3": "delayed", "redq": "learn", "crossq": "learn"}
    for step, earlier in zip(steps[1:], steps, strict=False):
        same(step.before.network, earlier.after.network, rtol=0, atol=0)
        moved = {name for name in ("actor", "critic") if not equal(getattr(step.before.network, name), getattr(step.after.network, name))}
        assert moved == {"critic" if step.kind == "learn" else "actor"}
        if kind != "td3":
            assert equal(step.before.network.log_alpha, step.after.network.log_alpha) == (step.kind == "learn")
        assert equal(step.before.target, step.after.target) == (step.kind != targets[kind])
        if step.kind == "delayed":
            same(step.batch, earlier.batch, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["sac", "sac_discrete", "redq", "crossq"])
def test_the_temperature_aims_at_an_entropy(kind):
    share = {"sac_discrete": 0.5}.get(kind, 1.0)
    algo = make(kind, entropy_share=share)
    state = algo.init(random.key(0))
    after, metrics = algo.step(random.key(1), state)
    aim = share * float(np.log(2)) if kind == "sac_discrete" else -share
    assert metrics["entropy"] > aim and after.learner.params.network.log_alpha < 0
    # A policy that hardly varies.
    network = state.learner.params.network
    actor = tree.map(torch.clone, network.actor)
    last = actor["layers"][-1]["layer"][-1] if kind == "crossq" else actor[-1]
    last["bias"] += torch.tensor([20.0, -20.0] if kind == "sac_discrete" else [0.0, -8.0])
    firm = network.replace(actor=actor)
    after, metrics = algo.step(random.key(1), tree.update(state, ("learner", "params"), state.learner.params.replace(network=firm)))
    assert metrics["entropy"] < aim and after.learner.params.network.log_alpha > 0


@pytest.mark.parametrize("kind", ["ddpg", "td3"])
def test_noise_of_exploration(kind):
    algo = make(kind, exploration_noise=0.1)
    params = run(algo, 1)[1].learner.params
    x = torch.full((3,), 0.5)
    plain = algo.greedy(params, random.key(0), x)[0]
    noise = vmap(algo.act, (None, 0, None))(params, random.split(random.key(1), 4000), x)[0] - plain
    assert abs(plain) < 1 and abs(noise.std() - 0.2) < 0.01 and abs(noise.mean()) < 0.02  # the box is [-2, 2]
    loud = params.replace(noise=torch.tensor(5.0))
    action = vmap(algo.act, (None, 0, None))(loud, random.split(random.key(1), 100), x)[0]
    assert action.abs().max() == 2 and (action.abs() == 2).float().mean() > 0.5
    assert torch.equal(algo.greedy(loud, random.key(1), x)[0], plain)


@pytest.mark.slow
def test_a_donated_step_writes_the_buffer_in_place():
    algo = make("dqn", num_updates=1, buffer_size=20_000)
    step = funrl.compile(algo.step, donate=1, backend="xla")
    state = algo.init(random.key(0))
    expected = run(algo, 2)[-1]
    seen, places = [], []
    for i in range(2):
        state, metrics = step(random.fold_in(random.key(1), i), state)
        seen.append(metrics)
        data = state.learner.buffer.data
        places.append({x.data_ptr() for x in (data.observation, data.next_observation, data.action, data.reward)})
    assert places[0] == places[1]  # the first call copies what torch made
    same(state, expected, rtol=1e-4, atol=1e-5)
    assert [int(m["steps"]) for m in seen] == [8, 16] and [int(m["updates"]) for m in seen] == [1, 2]  # not written over


@pytest.mark.parametrize(("kind", "name", "limit"), [("dqn", "gymnasium:CartPole-v1", 500), ("sac", "gymnasium:Pendulum-v1", 200)])
def test_environments_on_the_host(monkeypatch, kind, name, limit):
    # One of the two is compiled.
    quick = functools.partial(algorithm.compile, backend="xla") if kind == "dqn" else lambda function, **options: function
    monkeypatch.setattr(algorithm, "compile", quick)
    env = funrl.envs.make(name, num_envs=2)
    algo = make(kind, env, num_steps=16, buffer_size=20_000, learning_starts=48)
    state = algo.init(random.key(0))
    start, place = state.actor.timestep.observation.clone(), 0
    network = tree.map(torch.clone, state.learner.params.network)
    for i in range(4):
        state, metrics = algo.step(random.fold_in(random.key(1), i), state)
        place = state.learner.buffer.data.observation.data_ptr() if i == 0 else place
        assert kind == "sac" or state.learner.buffer.data.observation.data_ptr() == place  # written in place
        assert equal(state.learner.params.network, network) == (i == 0)
        assert metrics["steps"] == 32 * (i + 1) and metrics["updates"] == 2 * i
    rows = tree.map(lambda x: x[:128].unflatten(0, (64, 2)), state.learner.buffer.data)
    assert torch.equal(rows.observation[0], start) and state.learner.buffer.size == 128
    done = rows.terminated | rows.truncated
    assert done.any() == (limit == 500)
    # Within an episode what follows is what is seen next; after it comes a reset.
    follows = (rows.next_observation[:-1] == rows.observation[1:]).all(-1)
    assert torch.equal(follows, ~done[:-1])
    assert torch.equal(state.actor.timestep.observation[~done[-1]], rows.next_observation[-1][~done[-1]])
    result = funrl.evaluate(state.learner.params, random.key(2), env.default_params, env=env, act=algo.greedy, num_episodes=2)
    assert result.finished.all()


def test_an_algorithm_on_the_host_is_given_back():
    """With its programs, although steps compile them."""
    with funrl.envs.make("gymnasium:CartPole-v1", num_envs=2) as env:
        algo = make("dqn", env)
        algo.step(random.key(1), algo.init(random.key(0)))
        there = weakref.ref(algo.learn)
    del algo
    gc.collect()
    assert there() is None


def test_steps_of_adam_agree_with_plain_pytorch(monkeypatch):
    """DDPG's: a loss and an Adam for each network, of torch.optim, on the batches that were drawn."""
    steps = gradient_steps.record(monkeypatch)
    first, last = run(make("ddpg", num_updates=4, learning_rate=0.01, tau=0.1, gamma=0.9), 1)

    def module(layers, squeeze=False):
        weights = [{name: (x[0] if squeeze else x).clone() for name, x in layer.items()} for layer in layers]
        linears = [torch.nn.Linear(layer["weight"].shape[1], layer["weight"].shape[0]) for layer in weights]
        for linear, layer in zip(linears, weights, strict=True):
            linear.load_state_dict(layer)
        return torch.nn.Sequential(linears[0], torch.nn.ReLU(), linears[1])

    network = first.learner.params.network
    actor, slow_actor = module(network.actor), module(network.actor)
    critic, slow_critic = module(network.critic, True), module(network.critic, True)
    optimizers = [torch.optim.Adam(net.parameters(), lr=0.01) for net in (actor, critic)]
    value = lambda net, observation, action: net(torch.cat([observation, action], -1)).squeeze(-1)  # noqa: E731
    for step in steps:
        batch = step.batch
        with torch.no_grad():
            next_value = value(slow_critic, batch.next_observation, 2 * torch.tanh(slow_actor(batch.next_observation)))
            target = batch.reward + 0.9 * (~batch.terminated) * next_value
        actor_loss = -value(critic, batch.observation, 2 * torch.tanh(actor(batch.observation))).mean()
        actor_gradient = torch.autograd.grad(actor_loss, list(actor.parameters()))
        critic_loss = (target - value(critic, batch.observation, batch.action)).square().mean()
        critic_gradient = torch.autograd.grad(critic_loss, list(critic.parameters()))
        for net, gradient, optimizer in ((actor, actor_gradient, optimizers[0]), (critic, critic_gradient, optimizers[1])):
            for parameter, slope in zip(net.parameters(), gradient, strict=True):
                parameter.grad = slope
            optimizer.step()
        for fast, slow in ((actor, slow_actor), (critic, slow_critic)):
            for x, y in zip(fast.parameters(), slow.parameters(), strict=True):
                y.data = 0.1 * x.data + 0.9 * y.data
    assert len(steps) == 4
    for layers, net, squeeze in (
        (last.learner.params.network.actor, actor, False),
        (last.learner.params.network.critic, critic, True),
        (last.learner.target.actor, slow_actor, False),
        (last.learner.target.critic, slow_critic, True),
    ):
        expected = [x.detach() for x in net.parameters()]
        got = [layer[name][0] if squeeze else layer[name] for layer in layers for name in ("weight", "bias")]
        for x, y in zip(got, expected, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-6)
    assert (tree.ravel(last.learner.params.network)[0] - tree.ravel(network)[0]).abs().max() > 0.02


MESSAGES = [
    ("ddpg", "CartPole-v1", {}, "env: DDPG expects a Box of actions, got Discrete(n=2, start=0); for discrete ones take dqn"),
    ("td3", "CartPole-v1", {}, "env: TD3 expects a Box of actions"),
    ("sac", "CartPole-v1", {}, "env: SAC expects a Box of actions"),
    ("redq", "CartPole-v1", {}, "env: REDQ expects a Box of actions"),
    ("crossq", "CartPole-v1", {}, "env: CrossQ expects a Box of actions"),
    ("dqn", "Pendulum-v1", {}, "env: DQN expects Discrete actions, got Box"),
    ("sac_discrete", "Pendulum-v1", {}, "for continuous ones take ddpg, td3 or sac"),
    ("redq", None, dict(num_critics=3, subset=4), "subset: expected an integer from 1 to 3, got 4"),
    *(
        (kind, None, dict(tau=tau), f"tau: expected a number in [0, 1], got {tau}")
        for kind in ("ddpg", "td3", "sac", "sac_discrete", "redq")
        for tau in (-0.1, 1.5)
    ),
    *(
        (kind, None, dict(policy_delay=2, num_updates=3), "policy_delay: expected a divisor of num_updates = 3, got 2")
        for kind in ("td3", "redq", "crossq")
    ),
    ("sac", None, dict(buffer_size=7), "buffer_size: 7 is less than the 2 * 4 transitions of one update; increase it"),
    ("sac", None, dict(gamma=1.1), "gamma: expected a number in [0, 1], got 1.1"),
    ("sac", None, dict(initial_alpha=0.0), "initial_alpha: expected a number above 0, got 0.0"),
    ("sac", None, dict(batch_size=0), "batch_size: expected a number of at least 1, got 0"),
    ("sac", None, dict(learning_starts=-1), "learning_starts: expected a number of at least 0, got -1"),
    ("sac", None, dict(anneal_steps=0.0), "anneal_steps: expected a number above 0, got 0.0"),
    ("sac", None, dict(learning_rate=float("nan")), "learning_rate: expected a number of at least 0, got nan"),
    ("sac", None, dict(activation="tan"), "activation: expected a function or one of"),
    ("sac", None, dict(num_cells=(0,)), "num_cells"),
    ("td3", None, dict(target_noise=-1.0), "target_noise: expected a number of at least 0"),
    ("crossq", None, dict(batch_size=1), "batch_size: expected an integer of at least 2, got 1; a batch of one has no variance"),
    ("crossq", None, dict(momentum=2.0), "momentum: expected a number in [0, 1], got 2.0"),
    ("sac_discrete", None, dict(entropy_share=1.5), "entropy_share: expected a number in [0, 1]"),
]


@pytest.mark.parametrize(("kind", "env", "options", "message"), MESSAGES)
def test_option_errors(kind, env, options, message):
    with pytest.raises(ValueError) as raised:
        make(kind, env and funrl.envs.make(env), **options)
    assert message in str(raised.value)


@pytest.mark.parametrize("kind", KINDS)
def test_environment_errors(kind):
    env = funrl.envs.make(ALGORITHMS[kind][1])
    image = Box(torch.zeros(6, 6, 1), torch.ones(6, 6, 1))
    changes = [
        (dict(observation_space=Box(torch.zeros(3, 3), torch.ones(3, 3))), "observations that are vectors"),
        (dict(observation_space=Discrete(4)), "transforms.flatten_observation and transforms.cast make vectors"),
        (dict(action_space=Binary((2,))), "expects"),
    ]
    if kind in CONTINUOUS:
        infinite = Box(torch.tensor([-float("inf")]), torch.tensor([1.0]))
        changes.append((dict(action_space=infinite), "with finite ends"))
        changes.append((dict(action_space=Box(-torch.ones(2, 2), torch.ones(2, 2))), r"of shape \[A\]"))
    if ALGORITHMS[kind][0] != "dqn":
        changes.append((dict(observation_space=image), "observations that are vectors"))
    for change, message in changes:
        with pytest.raises(ValueError, match=message):
            make(kind, env._replace(**change))
    for copies, message in ((1, "1 copy"), (3, "3 copies")):
        with pytest.raises(ValueError, match=f"num_envs: {env.name} has {message}, got 2; make both equal"):
            make(kind, funrl.envs.vectorize(env, copies))
