"""Gradients through the environment, APG's and SHAC's: against finite differences of a plain loop in float64."""

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import algos, optim, random, stats, tree
from funrl.algos import _analytic as analytic
from tests.support import same

ENVS = {
    "pendulum": ("Pendulum-v1", dict(max_steps=3)),  # truncated within the rollout
    "reacher": ("Reacher-misc", dict(max_steps=4)),
    "point": ("PointRobot-misc", dict(goal_radius=0.25, goal=(0.2, 0.1))),  # terminated within the rollout
}
T, B = 6, 2
OPTIONS = dict(num_envs=B, num_steps=T, num_cells=(3,), gamma=0.9)


def made(name, env):
    name_of_env, changes = ENVS[env]
    env = funrl.envs.make(name_of_env)
    params = tree.to(env.default_params, torch.float64)
    params = params.replace(**{k: torch.tensor(x, dtype=getattr(params, k).dtype) for k, x in changes.items()})
    options = OPTIONS if name == "apg" else dict(OPTIONS, num_epochs=1, num_minibatches=1)
    return algos.make(name, env._replace(default_params=params), optimizer=optim.sgd(1.0), **options)


def start(algo, seed):
    """An agent whose policy is far from its start, so that all parameters matter, and its target network is not its critic."""
    state = algo.init(random.key(seed))
    params = state.learner.params
    leaves, form = tree.flatten(params.network)
    keys = random.split(random.key(seed + 50), len(leaves)).unbind(0)
    shaken = [x + 0.3 * random.normal(k, tuple(x.shape), dtype=x.dtype) for k, x in zip(keys, leaves, strict=True)]
    params = params.replace(network=tree.unflatten(form, shaken))
    if algo.config.normalize_observation:
        seen = random.normal(random.key(seed + 60), (4, *params.observation.mean.shape), dtype=torch.float64)
        params = params.replace(observation=stats.update(params.observation, 0.1 + 0.7 * seen))
    return state.replace(learner=state.learner.replace(params=params))


def objective(algo, state, key, actor):
    """Return the objective of the policy gradient, by a loop over steps."""
    params = state.learner.params.replace(network={**state.learner.params.network, "actor": actor})
    keys, total, done_any = random.split(key, (T, B, 3)), 0.0, 0
    for b in range(B):
        env_state, timestep = tree.index((state.actor.env, state.actor.timestep), b)
        discount = 1.0
        for t in range(T):
            action, _ = algo.act(params, keys[t, b, 0], timestep.observation)
            env_state, timestep = algo.env.step(keys[t, b, 1], env_state, action, state.learner.env_params)
            reward = timestep.reward
            if algo.name == "shac" and (timestep.done or t == T - 1) and not timestep.terminated:
                observation = stats.normalize(params.observation, timestep.observation)
                value = funrl.nn.mlp((3,), 1, activation="elu").apply(state.learner.target, observation)
                reward = reward + 0.9 * value[0]
            total, discount = total + discount * reward, 0.9 * discount
            if timestep.done:
                env_state, timestep = algo.env.reset(keys[t, b, 2], state.learner.env_params)
                discount, done_any = 1.0, done_any + 1
    return total / (T * B), done_any


@pytest.mark.parametrize("env", ENVS)
@pytest.mark.parametrize("name", ["apg", "shac"])
def test_the_gradient_agrees_with_differences(name, env):
    algo = made(name, env)
    states, key = [start(algo, seed) for seed in (0, 1)], random.key(9)
    expected, ends = [], 0
    for state in states:
        actor = state.learner.params.network["actor"]
        vector, unravel = tree.ravel(actor)
        offsets = 1e-6 * torch.eye(len(vector), dtype=vector.dtype)
        pairs = [[objective(algo, state, key, unravel(vector + sign * x))[0] for sign in (1, -1)] for x in offsets]
        expected.append(torch.stack([(a - b) / 2e-6 for a, b in pairs]))
        ends += objective(algo, state, key, actor)[1]
    assert ends, "no episode ends within the rollout"

    def moved(key, state):
        _, transitions = algo.collect(key, state)
        learner, _ = algo.learn(random.fold_in(key, 1), state.learner, transitions)
        before, after = (tree.ravel(x.params.network["actor"])[0] for x in (state.learner, learner))
        return after - before

    close = dict(rtol=1e-5, atol=1e-8)
    for state, gradient in zip(states, expected, strict=True):
        torch.testing.assert_close(moved(key, state), gradient, **close)
    keys = torch.stack([key, key])
    program = funrl.compile(vmap(moved), backend="xla") if env == "pendulum" else vmap(moved)
    torch.testing.assert_close(program(keys, tree.stack(states)), torch.stack(expected), **close)


def test_playing_again_gives_the_same_rollout():
    algo = made("apg", "pendulum")
    state = start(algo, 3)
    found = []

    def update(key, learner, samples, play):
        found.append((samples, play(learner.params.network["actor"])))
        return learner, {}

    actor = analytic.actor_of(algo.config, algo.env, None)
    own = analytic.make("own", algo.env, algo.config, actor, init=lambda key, x: {"network": {"actor": actor.init(key, x)}}, update=update)
    own.step(random.key(4), state)
    samples, again = found[0]
    same(again.replace(extras={}), samples, rtol=0, atol=0)


def test_discounts_begin_again_with_each_episode():
    done = torch.tensor([[0, 1], [1, 0], [0, 0], [0, 1]]).bool()
    expected = torch.tensor([[1, 1], [0.5, 1], [1, 0.5], [0.5, 0.25]])
    torch.testing.assert_close(analytic.discounts(done, torch.tensor(0.5)), expected)


def test_the_target_critic_follows():
    algo = algos.make("shac", "Pendulum-v1", **dict(OPTIONS, num_epochs=2, num_minibatches=2), tau=0.25)
    state = algo.init(random.key(0))
    new, _ = algo.step(random.key(1), state)
    critic = new.learner.params.network["critic"]
    same(new.learner.target, tree.map(lambda x, y: 0.25 * x + 0.75 * y, critic, state.learner.target))


def test_the_critic_has_a_learning_rate_of_its_own_and_the_policy_a_first_deviation():
    algo = algos.make("shac", "Pendulum-v1", **dict(OPTIONS, num_minibatches=1, num_epochs=1), initial_log_std=-1.5)
    for ratio in (0.0, 0.5):  # the first step of Adam is as long as the learning rate
        state = algo.init(random.key(0), {"critic_learning_ratio": torch.tensor(ratio)})
        network = algo.step(random.key(1), state)[0].learner.params.network
        longest = [tree.ravel(tree.map(torch.sub, network[x], state.learner.params.network[x]))[0].abs().max() for x in ("actor", "critic")]
        torch.testing.assert_close(torch.stack(longest), algo.config.learning_rate * torch.tensor([1.0, ratio]), rtol=1e-2, atol=1e-7)
    actor = analytic.actor_of(algo.config, algo.env, None)
    scale = actor.apply(state.learner.params.network["actor"], torch.zeros(3)).base.scale
    torch.testing.assert_close(scale, torch.tensor([-1.5]).exp(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", ["apg", "shac"])
def test_observations_are_normalised_by_the_moments_of_earlier_updates(name):
    algo = algos.make(name, "Pendulum-v1", **(OPTIONS if name == "apg" else dict(OPTIONS, num_minibatches=1)), normalize_observation=True)
    state = algo.init(random.key(0))
    _, transitions = algo.collect(random.key(1), state)
    learner, _ = algo.learn(random.key(2), state.learner, transitions)
    same(learner.params.observation, stats.update(state.learner.params.observation, transitions.observation))
    plain = learner.params.replace(observation=())
    for act in (algo.act, algo.greedy):
        seen = stats.normalize(learner.params.observation, transitions.observation[0, 0])
        assert torch.equal(act(learner.params, random.key(3), transitions.observation[0, 0])[0], act(plain, random.key(3), seen)[0])


@pytest.mark.parametrize("name", ["apg", "shac"])
def test_errors(name):
    for env, options, message in (
        ("CartPole-v1", {}, f"env: {name} needs continuous actions between finite bounds, but CartPole-v1 has Discrete"),
        ("Pendulum-v1", dict(num_steps=0), "num_steps: expected a number of at least 1, got 0"),
        ("Pendulum-v1", dict(gamma=1.5), r"gamma: expected a number in \[0, 1\]"),
        ("Pendulum-v1", dict(gama=0.5), "did you mean gamma"),
    ):
        with pytest.raises(ValueError, match=message):
            algos.make(name, env, **options)
    with (
        funrl.envs.make("gymnasium:Pendulum-v1", num_envs=2) as env,
        pytest.raises(ValueError, match="runs outside torch; use one of torch"),
    ):
        algos.make(name, env)
    algo = algos.make(name, "Pendulum-v1", num_envs=2, num_steps=2, **({} if name == "apg" else dict(num_minibatches=1)))
    state = algo.init(random.key(0))
    options = dict(env=algo.env, act=algo.act, num_steps=2)
    _, plain = funrl.rollout(state.learner.params, random.key(1), state.actor, state.learner.env_params, **options)
    with pytest.raises(ValueError, match=f"{name} differentiates through the rollout; let the algorithm's own collect gather them"):
        algo.learn(random.key(2), state.learner, plain)
