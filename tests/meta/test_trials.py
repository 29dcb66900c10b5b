"""Trials: several episodes in one task as one episode, and RL² in them."""

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import envs, meta, random, transforms, tree
from funrl.env import check_env
from funrl.envs import tasks
from tests.support import same


def made(name, num_episodes=2, **changes):
    env = envs.make(name)
    if changes:
        env = env._replace(default_params=env.default_params.replace(**changes))
    return env, meta.trials(tasks.of(env), num_episodes)(env)


@pytest.mark.parametrize("name", ["BernoulliBandit-misc", "PointRobot-misc", "Maze-misc", "CartPole-v1"])
def test_keeps_the_contract(name):
    check_env(made(name)[1], random.key(0))


@pytest.mark.parametrize("name", ["BernoulliBandit-misc", "SparsePointRobot-misc", "CartPole-v1"])
def test_a_trial_is_a_loop_over_episodes(name):
    """Until its end, with the environment below stepped by hand."""
    below, env = made(name, 3, max_steps=torch.tensor(7))
    for seed in range(3):
        key = random.key(seed)
        task_key, reset_key = random.split(key).unbind(0)
        task = tasks.of(below).draw(task_key, below.default_params, torch.tensor(False))
        state, timestep = env.reset(key)
        expected, first = below.reset(reset_key, task)
        same((state.below, state.task), (expected, task), rtol=0, atol=0)
        shape = below.action_space.n if hasattr(below.action_space, "n") else 2
        assert torch.equal(timestep.observation, torch.cat([first.observation, torch.zeros(shape + 1), torch.ones(1)]))
        episode, steps = 0, 0
        for step_key, action_key in random.split(random.key(seed + 10), (30, 2)):
            action = below.action_space.sample(action_key)
            state, timestep = env.step(step_key, state, action)
            inner_key, reset_key = random.split(step_key).unbind(0)
            expected, after = below.step(inner_key, expected, action, task)
            observation = after.observation
            if after.done:
                episode += 1
                expected, begun = below.reset(reset_key, task)
                observation = begun.observation
            shown = torch.nn.functional.one_hot(action, shape) if action.dtype == torch.int64 else action
            last = torch.cat([shown.float(), after.reward.reshape(1), after.done.float().reshape(1)])
            assert torch.equal(timestep.observation, torch.cat([observation, last]))
            assert timestep.reward == after.reward and not timestep.truncated and timestep.info["last_step"] == after.done
            assert bool(timestep.terminated) == (episode == 3) and state.episode == episode
            same((state.below, state.task), (expected, task), rtol=0, atol=0)
            steps += 1
            if timestep.terminated:
                break
        assert episode == 3 and steps <= 21 == 3 * 7


def test_tasks_are_those_of_training_or_those_held_out():
    below, env = made("BernoulliBandit-misc")
    keys, kind = random.split(random.key(0), 200), tasks.of(below)
    for held_out in (False, True):
        params = env.default_params.replace(held_out=torch.tensor(held_out))
        state, _ = vmap(env.reset, (0, None))(keys, params)
        assert (kind.is_held_out(state.task) == held_out).all()


def test_pictures_and_other_observations_come_in_a_dict():
    below, env = made("Maze-misc")
    state, timestep = env.reset(random.key(0))
    assert set(timestep.observation) == {"observation", "last"} and timestep.observation["last"].tolist() == [0, 0, 0, 0, 0, 1]
    _, timestep = env.step(random.key(1), state, torch.tensor(2))
    assert timestep.observation["last"][:4].tolist() == [0, 0, 1, 0]
    algo = meta.rl2.make(below, num_envs=2, num_steps=3, num_minibatches=1, num_channels=(2,), num_cells=(4,), recurrent_size=4)
    state, metrics = algo.step(random.key(1), algo.init(random.key(0)))
    assert metrics["steps"] == 6


def test_trial_returns_are_those_of_a_rollout():
    below = envs.make("BernoulliBandit-misc", num_arms=3)
    below = below._replace(default_params=below.default_params.replace(max_steps=torch.tensor(10)), max_episode_steps=10)
    algo = meta.rl2.make(below, num_envs=2, num_steps=30, num_minibatches=1, num_episodes=3, recurrent_size=4)
    params = algo.init(random.key(0)).learner.params
    certain = below.default_params.replace(probability=torch.ones(3))
    play = meta.trial_returns(algo.env, algo.act, 4)
    assert play(params, random.key(1), certain).tolist() == [10, 10, 10, 10]
    drawn = tasks.of(below).test(random.key(2), 400)
    found = meta.evaluate_adaptation(play, tree.unsqueeze(params, 0), random.key(3), drawn)
    assert found.returns.shape == (1, 400, 4)
    # A policy that has learned nothing pulls at random.
    expected = 10 * drawn.probability.mean()
    assert (found.low - 0.1 < expected).all() and (expected < found.high + 0.1).all()
    assert (found.low < found.mean).all() and (found.mean < found.high).all()


def test_the_memory_is_kept_over_the_episodes_of_a_trial():
    """After the ends of episodes, but not after the end of the trial."""
    below = envs.make("BernoulliBandit-misc")
    below = below._replace(default_params=below.default_params.replace(max_steps=torch.tensor(4)), max_episode_steps=4)
    algo = meta.rl2.make(below, num_envs=2, num_steps=16, num_minibatches=1, num_episodes=2, recurrent_size=4)
    _, samples = algo.collect(random.key(1), algo.init(random.key(0)))
    reset = samples.extras["memory"].reset[:, 0]
    assert reset.nonzero().flatten().tolist() == [0, 8]
    assert samples.observation[:, 0, -1].nonzero().flatten().tolist() == [0, 4, 8, 12]


def test_the_bootstrap_agrees_with_resampling_by_hand():
    returns = torch.tensor([[1.0, 2.0, 6.0], [0.0, 4.0, 2.0]])

    def play(params, key, env_params):
        return (params * env_params).sum().reshape(1)

    found = meta.evaluate_adaptation(play, torch.eye(2), random.key(0), returns.T.contiguous(), num_resamples=20_000, confidence=0.8)
    torch.testing.assert_close(found.returns[:, :, 0], returns)
    torch.testing.assert_close(found.mean, torch.tensor([2.5]))
    generator = torch.Generator().manual_seed(0)
    agents, drawn = (torch.randint(0, n, (20_000, n), generator=generator) for n in (2, 3))
    means = returns[agents[:, :, None], drawn[:, None, :]].mean((1, 2))
    for end, share in ((found.low, 0.1), (found.high, 0.9)):
        torch.testing.assert_close(end, means.quantile(share).reshape(1), rtol=0, atol=0.06)


def test_errors():
    below, env = made("PointRobot-misc")
    kind = tasks.of(below)
    with pytest.raises(TypeError, match=r"trials: tasks: expected Tasks, got an Env; funrl\.envs\.tasks\.of\(env\) returns those of env"):
        meta.trials(below, 2)
    with pytest.raises(ValueError, match="trials: num_episodes: expected an integer of at least 1, got 0"):
        meta.trials(kind, 0)
    with pytest.raises(ValueError, match="trials: env: expected a pure environment, not batched"):
        meta.trials(kind, 2)(envs.vectorize(below, 3))
    with pytest.raises(ValueError, match="trial_returns: env: expected an environment of trials"):
        meta.trial_returns(below, None, 2)
    with pytest.raises(ValueError, match="recurrent: expected a cell, such as 'gru', got 'none'"):
        meta.rl2.make(below, recurrent="none")
    with pytest.raises(ValueError, match="num_episodes: the environment of trials has 2, got 3"):
        meta.rl2.make(env, num_episodes=3)
    with pytest.raises(ValueError, match="tasks: expected None with an environment of trials"):
        meta.rl2.make(env, tasks=kind)
    with pytest.raises(ValueError, match="there are no tasks for Catch-bsuite"):
        meta.rl2.make(envs.catch())
    with pytest.raises(TypeError, match="PointRobot-misc: state: expected a TrialState, got PointRobotState"):
        env.step(random.key(0), below.reset(random.key(0))[0], torch.zeros(2))
    with pytest.raises(ValueError, match="confidence"):
        meta.evaluate_adaptation(lambda *args: torch.zeros(1), torch.zeros(1), random.key(0), torch.zeros(1), confidence=1.0)
    assert transforms.parent(env) is below and "trials(tasks=PointRobot-misc, num_episodes=2)" in repr(env)
    assert funrl.algos.make("rl2", "PointRobot-misc").name == "rl2"
