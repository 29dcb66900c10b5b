import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.func import vmap

import funrl
from funrl import random, rollout, stats, tree
from funrl.algos import ppo
from funrl.spaces import Box
from tests.oracles import ppo as oracle
from tests.support import same

SMALL = dict(num_envs=4, num_steps=8, num_epochs=2, num_minibatches=2, num_cells=(8,))


def short(name, limit=5, dtype=torch.float64):
    """An environment whose episodes are truncated soon, in float64 so that tolerances can be tight."""
    env = funrl.envs.make(name)
    params = tree.to(env.default_params, dtype).replace(max_steps=torch.tensor(limit))
    return env._replace(default_params=params)


def experience(algo, key, state):
    """Return the experience of the update with this key: its rollout again, and its minibatches."""
    rollout_key, epoch_key = random.split(key).unbind(0)
    _, samples = rollout(
        state.learner.params,
        rollout_key,
        state.actor,
        state.learner.env_params,
        env=algo.env,
        act=algo.act,
        num_steps=algo.config.num_steps,
    )
    number = algo.steps_per_update
    orders = [random.permutation(k, number) for k in random.split(epoch_key, algo.config.num_epochs).unbind(0)]
    return samples, [rows for order in orders for rows in order.reshape(algo.config.num_minibatches, -1)]


def as_seen(samples, params, reward):
    """The samples as the oracle takes them, with observations normalised by hand."""
    seen = {name: getattr(samples, name) for name in ("action", "terminated", "truncated")}
    for name in ("observation", "next_observation"):
        x = getattr(samples, name)
        if params.observation != ():
            x = ((x - params.observation.mean) / (params.observation.var + 1e-8).sqrt()).clamp(-10, 10)
        seen[name] = x
    return {**seen, "reward": reward, "log_prob": samples.extras["log_prob"]}


def scaled(samples, scale, gamma):
    """The oracle of reward normalisation: the scaled rewards and the new count, mean and variance, in NumPy."""
    reward, done = samples.reward.numpy(), samples.done.numpy()
    running, seen = scale.discounted.numpy().copy(), []
    for t in range(len(reward)):
        running = reward[t] + running
        seen += running.tolist()
        running = np.where(done[t], 0.0, gamma * running)
    count, mean, var = (x.item() for x in (scale.moments.count, scale.moments.mean, scale.moments.var))
    square = count * (var + mean**2) + np.sum(np.square(seen))
    mean = (count * mean + np.sum(seen)) / (count + len(seen))
    var = square / (count + len(seen)) - mean**2
    return torch.tensor((reward / np.sqrt(var + 1e-8)).clip(-10, 10)), (count + len(seen), mean, var), running


ORACLE = {
    "discrete": ("CartPole-v1", dict(SMALL)),
    "discrete, shared trunk, value clipping": (
        "CartPole-v1",
        dict(SMALL, trunk="shared", value_clip=0.02, num_cells=(8, 6), entropy_weight=0.1),
    ),
    "continuous": ("Pendulum-v1", dict(SMALL, initial_log_std=-2.0)),
    "continuous, shared trunk": (
        "Pendulum-v1",
        dict(SMALL, trunk="shared", initial_log_std=-2.0, activation="relu", max_grad_norm=math.inf),
    ),
    "no normalisation of advantages": (
        "CartPole-v1",
        dict(SMALL, normalize_advantage=False, num_epochs=3, num_minibatches=1, gamma=0.9, entropy_weight=0.3),
    ),
    "normalised observations and rewards": (
        "Pendulum-v1",
        dict(SMALL, initial_log_std=-2.0, normalize_observation=True, normalize_reward=True),
    ),
}


@pytest.mark.parametrize("name", ORACLE)
def test_an_update_agrees_with_plain_pytorch(name):
    env_name, options = ORACLE[name]
    algo = ppo.make(short(env_name), learning_rate=0.01, **options)
    start = algo.init(random.key(0))
    # The second update, whose moments, values and running returns are no longer those of the start; but a fresh Adam.
    state, _ = algo.step(random.key(1), start)
    state = tree.update(state, ("learner", "optimizer"), start.learner.optimizer)
    new, _ = algo.step(random.key(2), state)
    samples, order = experience(algo, random.key(2), state)
    assert samples.truncated.any() and (env_name == "Pendulum-v1" or not samples.terminated.all())
    config = algo.config
    reward = samples.reward
    if config.normalize_reward:
        reward, expected, running = scaled(samples, state.learner.normalizers, config.gamma)
        np.testing.assert_allclose(
            [
                x.item()
                for x in (new.learner.normalizers.moments.count, new.learner.normalizers.moments.mean, new.learner.normalizers.moments.var)
            ],
            expected,
        )
        np.testing.assert_allclose(new.learner.normalizers.discounted.numpy(), running)
    seen = as_seen(samples, state.learner.params, reward)
    activation = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU}[config.activation]
    network = state.learner.params.network
    expected = oracle.update(network, seen, order, config, activation)
    same(new.learner.params.network, expected, rtol=1e-5, atol=1e-5)
    moved = (tree.ravel(expected)[0] - tree.ravel(network)[0]).abs().max()
    assert moved > 0.01

    # The oracle tells what is wrong: each of these mistakes is seen.
    def differs(**changes):
        settings = SimpleNamespace(**{field: getattr(config, field) for field in ppo.PPOConfig.__dataclass_fields__})
        for field in changes.keys() & vars(settings).keys():
            setattr(settings, field, changes.pop(field))
        wrong = oracle.update(network, {**seen, **changes}, order, settings, activation)
        return (tree.ravel(wrong)[0] - tree.ravel(new.learner.params.network)[0]).abs().max() > 1e-4

    assert differs(reward=-seen["reward"])
    assert differs(terminated=seen["terminated"] | seen["truncated"])
    assert differs(truncated=seen["truncated"] & False)
    assert differs(next_observation=seen["observation"])
    assert differs(entropy_weight=-config.entropy_weight) and differs(lambda_=1.0) and differs(learning_rate=0.005)
    assert differs(normalize_advantage=not config.normalize_advantage)
    if config.value_clip < math.inf:
        assert differs(value_clip=math.inf)


def test_observation_moments_agree_with_numpy():
    algo = ppo.make(short("Pendulum-v1"), normalize_observation=True, **SMALL)
    state = algo.init(random.key(0))
    assert state.learner.params.observation.count == 0
    everything = []
    for i in range(3):
        samples, _ = experience(algo, random.key(i), state)
        everything.append(samples.observation.reshape(-1, 3).numpy())
        state, _ = algo.step(random.key(i), state)
    everything = np.concatenate(everything)
    moments = state.learner.params.observation
    assert moments.count == len(everything)
    np.testing.assert_allclose(moments.mean.numpy(), everything.mean(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(moments.var.numpy(), everything.var(0), rtol=1e-9)
    # Acting normalises likewise.
    x = samples.observation[0, 0]
    plain = ppo.make(short("Pendulum-v1"), **SMALL)
    act = lambda algo, params, x: algo.act(params, random.key(9), x)  # noqa: E731
    same(act(algo, state.learner.params, x), act(plain, state.learner.params.replace(observation=()), stats.normalize(moments, x)))


def test_first_pass_has_ratio_one():
    for env, options in (
        ("CartPole-v1", {}),
        ("Pendulum-v1", dict(trunk="shared", normalize_observation=True)),
        ("CartPole-v1", dict(uniform_mix=0.2)),
    ):
        algo = ppo.make(short(env, dtype=torch.float32), **{**SMALL, "num_epochs": 1, "num_minibatches": 1, **options})
        state = algo.init(random.key(0))
        for i in range(2):
            state, metrics = algo.step(random.key(i), state)
            assert metrics["approximate_kl"] < 1e-10 and metrics["clip_fraction"] == 0 and metrics["learned_fraction"] == 1


def with_last_action(env):
    """The environment, with the action that it got remembered in its state."""

    def reset(key, env_params):
        state, timestep = env.reset(key, env_params)
        return (state, torch.zeros_like(timestep.reward).expand(1)), timestep

    def step(key, state, action, env_params):
        state, timestep = env.step(key, state[0], action, env_params)
        return (state, action), timestep

    return env._replace(reset=reset, step=step)


def test_the_action_is_clipped_for_the_environment_alone():
    env = with_last_action(funrl.envs.make("Pendulum-v1"))
    algo = ppo.make(env, **{**SMALL, "num_envs": 32, "num_epochs": 1, "num_minibatches": 1, "initial_log_std": 3.0})
    state, metrics = algo.step(random.key(1), algo.init(random.key(0)))
    action = state.actor.env[1]
    assert action.abs().max() == 2 and (action.abs() == 2).float().mean() > 0.5
    # Had the clipped action been learned from, its log_prob would not be that of the sampled one.
    assert metrics["approximate_kl"] < 1e-10 and metrics["clip_fraction"] == 0
    seen, extras = vmap(algo.act, (None, 0, None))(state.learner.params, random.split(random.key(2), 50), torch.zeros(3))
    assert seen.abs().max() == 2 and len(extras["log_prob"][seen[:, 0] == 2].unique()) > 1
    assert extras["log_prob"].shape == extras["value"].shape == (50,)
    assert (
        vmap(algo.greedy, (None, 0, None))(state.learner.params, random.split(random.key(2), 5), torch.full((3,), 1e3))[0].abs() <= 2
    ).all()


def test_learning_rate_falls_to_zero():
    algo = ppo.make(short("CartPole-v1"), learning_rate=0.01, anneal_steps=80, **SMALL)
    state = algo.init(random.key(0))
    for i, expected in enumerate([0.01, 0.01 * (1 - 32 / 80), 0.01 * (1 - 64 / 80), 0.0, 0.0]):
        before = state.learner.params.network
        state, metrics = algo.step(random.key(i), state)
        assert metrics["learning_rate"].item() == pytest.approx(expected, abs=1e-12)
        assert torch.equal(tree.ravel(before)[0], tree.ravel(state.learner.params.network)[0]) == (expected == 0)
    constant = ppo.make(short("CartPole-v1"), learning_rate=0.01, **SMALL)
    assert constant.step(random.key(1), constant.step(random.key(0), constant.init(random.key(0)))[0])[1]["learning_rate"] == 0.01


def test_target_kl_stops_learning():
    options = {**SMALL, "num_minibatches": 1, "learning_rate": 0.05}
    first = ppo.make(short("CartPole-v1"), **{**options, "num_epochs": 1})
    masked = ppo.make(short("CartPole-v1"), **{**options, "num_epochs": 4}, target_kl=1e-9)
    free = ppo.make(short("CartPole-v1"), **{**options, "num_epochs": 4})
    state = first.init(random.key(0))
    expected, _ = first.step(random.key(1), state)
    results = []
    for algo in (masked, free):
        # The hyperparameters are the state's, not the algorithm's.
        own = tree.update(state, ("learner", "hparams"), algo.init(random.key(0)).learner.hparams)
        results.append(algo.step(random.key(1), own))
    (stopped, metrics), (moved, other) = results
    assert metrics["learned_fraction"] == 0.25 and other["learned_fraction"] == 1
    same((stopped.learner.params, stopped.learner.optimizer), (expected.learner.params, expected.learner.optimizer), rtol=1e-9, atol=1e-9)
    assert (tree.ravel(moved.learner.params.network)[0] - tree.ravel(expected.learner.params.network)[0]).abs().max() > 0.01


def test_gradients_are_clipped_for_each_agent(algorithm, program):
    algo, step = algorithm("ppo, discrete"), program("ppo, discrete")
    keys = random.split(random.key(0), 2)
    states = vmap(algo.init)(keys)
    norms = [1e-6, math.inf]
    states = tree.update(states, ("learner", "hparams", "max_grad_norm"), torch.tensor(norms))
    new, metrics = step(keys, states)
    singles = [algo.step(key, tree.index(states, i)) for i, key in enumerate(keys.unbind(0))]
    same(new.learner.params, tree.stack([state.learner.params for state, _ in singles]), rtol=1e-3, atol=1e-5)
    moved = [
        (tree.ravel(tree.index(new, i).learner.params.network)[0] - tree.ravel(tree.index(states, i).learner.params.network)[0])
        .norm()
        .item()
        for i in (0, 1)
    ]
    assert moved[0] < 0.3 * moved[1]  # Adam's eps is 1e-5: so small a gradient no longer gives a full step
    assert (metrics["gradient_norm"] > 1e-3).all()  # as it was before clipping


@pytest.mark.parametrize("trunk", ["separate", "shared"])
def test_networks_begin_orthogonal(trunk):
    algo = ppo.make(funrl.envs.make("Pendulum-v1"), num_cells=(16, 16), trunk=trunk, initial_log_std=-0.5, num_envs=2)
    network = algo.init(random.key(0)).learner.params.network
    assert set(network) == {"policy", "value", "log_std"} | ({"trunk"} if trunk == "shared" else set())
    assert torch.equal(network["log_std"], torch.tensor([-0.5]))
    for name, gain in (("policy", 0.01), ("value", 1.0), ("trunk", math.sqrt(2))):
        for i, layer in enumerate(network.get(name, ())):
            scale = gain if i == len(network[name]) - 1 else math.sqrt(2)
            values = torch.linalg.svdvals(layer["weight"])
            torch.testing.assert_close(values, torch.full_like(values, scale), rtol=1e-4, atol=1e-6)
            assert not layer["bias"].any()
    assert [len(network[name]) for name in ("policy", "value")] == ([1, 1] if trunk == "shared" else [3, 3])


def test_uniform_mix():
    algo = ppo.make(funrl.envs.make("CartPole-v1"), uniform_mix=0.2, **SMALL)
    params = algo.init(random.key(0)).learner.params
    network = dict(params.network)
    network["policy"] = (*network["policy"][:-1], {"weight": torch.zeros(2, 8), "bias": torch.tensor([50.0, -50.0])})
    keys = random.split(random.key(1), 4000)
    action, extras = vmap(algo.act, (None, 0, None))(params.replace(network=network), keys, torch.zeros(4))
    torch.testing.assert_close(extras["log_prob"], torch.where(action == 0, math.log(0.9), math.log(0.1)), rtol=1e-4, atol=1e-5)
    assert abs(action.float().mean().item() - 0.1) < 0.02  # four standard deviations
    assert not vmap(algo.greedy, (None, 0, None))(params.replace(network=network), keys, torch.zeros(4))[0].any()


@pytest.mark.parametrize(
    "name, options, error, message",
    [
        (
            "CartPole-v1",
            dict(num_minibatches=5),
            ValueError,
            "num_minibatches: expected a divisor of num_envs * num_steps = 8192, got 5",
        ),
        ("CartPole-v1", dict(lerning_rate=0.1), ValueError, "unknown option 'lerning_rate': did you mean learning_rate"),
        ("CartPole-v1", dict(num_envs=0), ValueError, "num_envs: expected a number of at least 1, got 0"),
        ("CartPole-v1", dict(learning_rate=-0.1), ValueError, "learning_rate: expected a number of at least 0, got -0.1"),
        ("CartPole-v1", dict(learning_rate=math.nan), ValueError, "learning_rate: expected a number of at least 0, got nan"),
        ("CartPole-v1", dict(anneal_steps=0.0), ValueError, "anneal_steps: expected a number above 0, got 0.0"),
        ("CartPole-v1", dict(gamma=1.01), ValueError, "gamma: expected a number in [0, 1], got 1.01"),
        ("CartPole-v1", dict(num_steps=1.5), TypeError, "num_steps: expected int"),
        ("CartPole-v1", dict(uniform_mix=1.0), ValueError, "uniform_mix: expected a number in [0, "),
        ("CartPole-v1", dict(trunk="both"), ValueError, "trunk: expected 'separate' or 'shared', got 'both'"),
        ("CartPole-v1", dict(activation="tan"), ValueError, "activation: expected a function or one of"),
        ("CartPole-v1", dict(num_cells=(0,)), ValueError, "num_cells"),
        (
            "CartPole-v1",
            dict(initial_log_std=-1.0),
            ValueError,
            "initial_log_std: is for continuous actions, but CartPole-v1 has discrete ones; leave it at 0",
        ),
        (
            "Pendulum-v1",
            dict(uniform_mix=0.1),
            ValueError,
            "uniform_mix: is for discrete actions, but Pendulum-v1 has continuous ones; leave it at 0",
        ),
    ],
)
def test_option_errors(name, options, error, message):
    with pytest.raises(error) as raised:
        ppo.make(funrl.envs.make(name), **options)
    assert message in str(raised.value)


def test_environment_errors():
    env = funrl.envs.make("CartPole-v1")
    matrix = Box(torch.zeros(3, 3), torch.ones(3, 3))
    for changes, message in (
        (dict(observation_space=matrix), "observations that are vectors"),
        (dict(action_space=Box(0, 9, (2,), torch.int64)), "actions that are Discrete, a floating-point Box, MultiDiscrete or Binary"),
    ):
        with pytest.raises(ValueError, match=message):
            ppo.make(env._replace(**changes))
    with pytest.raises(ValueError, match="num_envs: CartPole-v1 has 3 copies, got 64"):
        ppo.make(funrl.envs.vectorize(env, 3))


def picture():
    """Catch, whose board [10, 5] is seen as a picture of one channel."""
    return funrl.transforms.unsqueeze(-1)(funrl.envs.make("Catch-bsuite"))


@pytest.mark.parametrize("trunk", ["shared", pytest.param("separate", marks=pytest.mark.slow)])
def test_learns_from_pictures(trunk):
    network = dict(num_channels=(4,), num_cells=(32,), activation="relu", trunk=trunk)
    algo = ppo.make(picture(), num_envs=16, num_steps=16, learning_rate=3e-3, **network)
    state, step = algo.init(random.key(0)), funrl.compile(algo.step)
    keys = random.split(random.key(1), 40).unbind(0)
    returns = []
    for key in keys:
        state, metrics = step(key, state)
        returns.append(metrics["episode_return"])
    assert torch.stack(returns[:5]).mean() < -0.2 and torch.stack(returns[-5:]).mean() > 0.5, returns


def test_bytes_count_from_0_to_1_and_channels_come_last():
    env = picture()
    algo = ppo.make(env, num_envs=4, num_steps=8, num_channels=(4,), num_cells=(8,))
    params, x = algo.init(random.key(0)).learner.params, torch.rand(10, 5, 1)
    value = lambda x: algo.act(params, random.key(1), x)[1]["value"]  # noqa: E731
    torch.testing.assert_close(value((x * 255).to(torch.uint8)), value((x * 255).to(torch.uint8) / 255))
    assert params.network["value"]["below"][0]["weight"].shape == (4, 1, 3, 3)
    with pytest.raises(ValueError, match=r"normalize_observation: expected vectors, but .* has Box"):
        ppo.make(env, normalize_observation=True)


@pytest.mark.slow
def test_learns_cartpole():
    """Five seeds, 40,000 steps each, from a return of about 20: all pass 100 and their mean is above 150."""
    algo = ppo.make(funrl.envs.make("CartPole-v1"), num_envs=16, num_steps=64, learning_rate=2.5e-3, num_cells=(32, 32))
    step = funrl.compile(vmap(algo.step))
    states = vmap(algo.init)(random.split(random.key(0), 5))
    first = None
    for i in range(40):
        states, metrics = step(random.split(random.fold_in(random.key(1), i), 5), states)
        first = metrics["episode_return"] if first is None else first
    assert (first < 60).all() and metrics["steps"][0] == 40 * 1024
    assert (metrics["episode_return"] > 100).all() and metrics["episode_return"].mean() > 150, metrics["episode_return"]


def test_rewards_of_several_workers_are_normalised_as_those_of_one():
    """The batches of an asynchronous collector are of other copies each time: their discounted returns go on where their own ended."""
    algo = funrl.algos.ppo.make(
        funrl.envs.make("CartPole-v1"), num_envs=2, num_steps=5, num_epochs=1, num_minibatches=1, normalize_reward=True, gamma=0.9
    )
    learner, seen = algo.init(random.key(0)).learner, []
    sizes = dict(num_envs=6, frames_per_batch=30, total_frames=240, backend="eager")
    with funrl.collectors.compiled(lambda: algo.env, algo.act, learner.params, **sizes) as collector:
        for i, batch in enumerate(collector):
            seen.append((1 - 0.9 ** (batch.step_count + 1)) / (1 - 0.9))
            for worker in ((0, 1, 2), (2, 1, 0))[i % 2]:
                mine = tree.map(lambda x, worker=worker: x[:, 2 * worker : 2 * worker + 2], batch.transition)
                learner, _ = algo.learn(random.key(i), learner, mine)
    returns = torch.cat(seen)
    assert returns.max() > 9
    torch.testing.assert_close(learner.normalizers.moments.var, returns.var(correction=0))
