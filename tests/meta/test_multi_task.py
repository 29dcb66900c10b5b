"""Multi-task learning: mixtures of tasks, returns and observations of each, and sampling by difficulty."""

import math

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import envs, meta, random, transforms, tree
from funrl.env import check_env
from funrl.envs import tasks
from tests.support import same

LENGTHS = torch.tensor([0.5, 1.0, 2.0])
SAC = dict(num_envs=3, num_steps=4, num_updates=1, batch_size=4, num_cells=(4,), buffer_size=64, learning_starts=0)
PPO = dict(num_envs=6, num_steps=10, num_epochs=1, num_minibatches=1, num_cells=(4,))


def pendulums(max_steps=200, **options):
    env = envs.make("Pendulum-v1")
    params = env.default_params.replace(length=LENGTHS, max_steps=torch.tensor(max_steps))
    return env, meta.task_mixture(params, **options)(env._replace(max_episode_steps=max_steps))


@pytest.mark.parametrize("name, normalize", [("CartPole-v1", True), ("Acrobot-v1", False), ("Maze-misc", False)])
def test_a_mixture_keeps_the_contract(name, normalize):
    env = envs.make(name)
    check_env(meta.task_mixture(tasks.of(env).train(random.key(1), 3), normalize=normalize)(env), random.key(0), num_steps=4)


def test_an_episode_is_one_of_its_task():
    below, env = pendulums()
    for seed in range(4):
        state, timestep = env.reset(random.key(seed))
        params = below.default_params.replace(length=LENGTHS[state.task])
        expected, first = below.reset(random.split(random.key(seed))[1], params)
        for i in range(3):
            assert torch.equal(timestep.observation, torch.cat([first.observation, torch.eye(3)[state.task]]))
            assert meta.task_number(env)(timestep.observation) == state.task
            same(state.below, expected, rtol=0, atol=0)
            key, action = random.key(10 + i), torch.tensor([1.0])
            state, timestep = env.step(key, state, action)
            expected, first = below.step(key, expected, action, params)
            assert timestep.reward == first.reward


def test_tasks_are_drawn_with_their_probabilities():
    _, env = pendulums()
    keys, wanted = random.split(random.key(0), 20_000), torch.tensor([0.1, 0.6, 0.3])
    for probability in (torch.full((3,), 1 / 3), wanted):
        state, _ = vmap(env.reset, (0, None))(keys, env.default_params.replace(logits=probability.log()))
        torch.testing.assert_close(state.task.bincount() / len(keys), probability, rtol=0, atol=0.015)


def test_one_of_several_environments_is_that_one():
    pendulum = envs.make("Pendulum-v1")
    scaled = transforms.reward_scale(1000.0)(pendulum)
    env = meta.one_of([pendulum, scaled])
    check_env(env, random.key(3), num_steps=3)
    for which, one in enumerate((pendulum, scaled)):
        params = env.default_params.replace(which=torch.tensor(which))
        state, timestep = env.reset(random.key(0), params)
        below, expected = one.reset(random.split(random.key(0))[which])
        assert torch.equal(timestep.observation, expected.observation)
        state, timestep = env.step(random.key(1), state, torch.ones(1), params)
        below, expected = one.step(random.split(random.key(1))[which], below, torch.ones(1))
        assert torch.equal(timestep.observation, expected.observation) and timestep.reward == expected.reward
        same(state[which], below, rtol=0, atol=0)
    algo = meta.multi_task.make([pendulum, scaled], **PPO)
    assert algo.env.name == "Pendulum-v1 | Pendulum-v1" and len(algo.env.default_params.logits) == 2
    play = meta.multi_task.returns(algo.env, algo.greedy, 2)
    learner = algo.init(random.key(0)).learner
    found = play(learner.params, random.key(1), learner.env_params)
    assert found.shape == (2, 2) and found[1].mean() < 100 * found[0].mean()


def naive_returns(state, transitions, number, found):
    """The running means of returns by a loop over steps and copies."""
    found, task = list(found), number(transitions.observation)
    for k in range(len(found)):
        ended = []
        for b, running in enumerate(state.learner.episodes.running_return.double().tolist()):
            for t in range(len(task)):
                running += float(transitions.reward[t, b])
                if transitions.done[t, b]:
                    ended += [running] if task[t, b] == k else []
                    running = 0.0
        if ended:
            mean, rest = sum(ended) / len(ended), 0.9 ** len(ended)
            found[k] = mean if math.isnan(found[k]) else mean + rest * (found[k] - mean)
    return found


@pytest.mark.parametrize("kind", ["ppo", "sac", "dqn"])
def test_returns_of_each_task_equal_those_of_a_loop(kind):
    if kind == "dqn":
        env = envs.make("CartPole-v1")
        params = env.default_params.replace(force=torch.tensor([5.0, 10.0, 20.0]), max_steps=torch.tensor(3))
        env = meta.task_mixture(params)(env)
    else:
        _, env = pendulums(max_steps=3)
    options = PPO if kind == "ppo" else dict(SAC, num_steps=7)
    algo = meta.multi_task.of(funrl.algos.make(kind, env, **options), targets=(-30.0, torch.tensor([10.0, -1.0, 20.0])), temperature=0.5)
    state, found = algo.init(random.key(0)), [math.nan] * 3
    for i in range(3):
        key = random.key(i)
        _, transitions = algo.collect(random.split(key)[0], state)
        found = naive_returns(state, transitions, meta.task_number(env), found)
        state, metrics = algo.step(key, state)
        torch.testing.assert_close(state.learner.env_params.returns, torch.tensor(found), equal_nan=True)
        for k in range(3):
            torch.testing.assert_close(metrics[f"episode_return_task_{k}"], torch.tensor(found[k]), equal_nan=True)
        highs = (10.0, -1.0, 20.0)
        difficulty = [1.0 if math.isnan(r) else min(max((h - r) / (h + 30), 0.0), 1.0) for r, h in zip(found, highs, strict=True)]
        torch.testing.assert_close(state.learner.env_params.logits, 2 * torch.tensor(difficulty))
    assert not any(map(math.isnan, found))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments_are_those_of_all_observations_of_a_task(dtype):
    _, env = pendulums(max_steps=5, normalize=True)
    algo = meta.multi_task.of(funrl.algos.ppo.make(env._replace(default_params=tree.to(env.default_params, dtype)), **PPO))
    state, seen = algo.init(random.key(0)), [[], [], []]
    for i in range(3):
        _, transitions = algo.collect(random.split(random.key(i))[0], state)
        moments, task = state.learner.env_params.moments, meta.task_number(env)(transitions.observation)
        for t, k in enumerate(task.flatten().tolist()):
            x = transitions.next_observation.flatten(0, 1)[t, :3].double()
            seen[k].append(x * (moments.var[k].double() + 1e-8).sqrt() + moments.mean[k].double())
        state, _ = algo.step(random.key(i), state)
    moments = state.learner.env_params.moments
    assert moments.mean.dtype == dtype and moments.count.tolist() == [len(x) for x in seen]
    for k, rows in enumerate(seen):
        x = torch.stack(rows)
        torch.testing.assert_close(moments.mean[k].double(), x.mean(0), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(moments.var[k].double(), x.var(0, correction=0), rtol=1e-4, atol=1e-5)
    # A task that was not seen keeps its moments.
    after = meta._mixture.updated_moments(moments, torch.zeros(4, dtype=torch.int64), torch.zeros(4, 3, dtype=dtype))
    same(tree.map(lambda x: x[1:], after), tree.map(lambda x: x[1:], moments), rtol=0, atol=0)


def test_difficult_tasks_are_drawn_more_often():
    _, env = pendulums()
    params = env.default_params
    algo = meta.multi_task.of(funrl.algos.ppo.make(env, **PPO), targets=(-100.0, 0.0), temperature=0.25)
    state = algo.init(random.key(0))
    known = params.replace(returns=torch.tensor([0.0, -100.0, -50.0]))
    state = state.replace(learner=state.learner.replace(env_params=known))
    state, _ = algo.step(random.key(1), state)  # no episode ends in it
    torch.testing.assert_close(state.learner.env_params.logits.softmax(0), torch.tensor([0.0, 4.0, 2.0]).softmax(0))


def test_an_embedding_replaces_the_number_of_the_task():
    net = meta.task_embedding(3, 2)
    params = net.init(random.key(0), torch.zeros(5))
    x = torch.cat([torch.arange(6.0).reshape(3, 2), torch.eye(3)], 1)
    assert torch.equal(net.apply(params, x), torch.cat([x[:, :2], params], 1))
    algo = meta.multi_task.make(envs.make("CartPole-v1"), embedding_size=2, num_tasks=3, **PPO)
    state = algo.init(random.key(0))
    after, _ = algo.step(random.key(1), state)
    before, embedding = (x.learner.params.network["trunk"][0] for x in (state, after))
    assert embedding.shape == (3, 2) and not torch.equal(embedding, before)


def test_pictures_show_the_number_in_a_dict():
    env = envs.make("Maze-misc")
    algo = meta.multi_task.make(env, num_tasks=2, num_channels=(2,), **PPO)
    state, metrics = algo.step(random.key(1), algo.init(random.key(0)))
    assert state.actor.timestep.observation["task"].shape == (6, 2) and metrics["episode_return_task_0"].isnan()


def test_the_numbers_of_tasks_are_not_normalised():
    """Otherwise the one-hot number of the only task seen so far, of mean 1 and variance 0, would become 0."""
    seen = []

    def loss(params, rows, hparams, *, default, apply):
        seen.append(rows.observation)
        return default(params, rows, hparams)

    algo = meta.multi_task.make(pendulums()[0], tasks=pendulums()[1].default_params.tasks, normalize_observation=True, loss=loss, **PPO)
    state, only = algo.init(random.key(0)), torch.tensor([-torch.inf, -torch.inf, 0.0])
    state = state.replace(learner=state.learner.replace(env_params=state.learner.env_params.replace(logits=only)))
    for i in range(3):
        _, x = algo.collect(random.key(i), state)
        number = torch.eye(3)[2].expand(*x.reward.shape, 3)
        x = x.replace(observation=torch.cat([x.observation[..., :3], number], -1))
        learner, _ = algo.learn(random.key(i), state.learner, x)
        state = state.replace(learner=learner)
        torch.testing.assert_close(seen[-1][:, 3:], number.flatten(0, 1))
    moments = state.learner.params.observation
    assert moments.mean[3:].tolist() == [0, 0, 0] and (moments.mean[:3] != 0).all()


def test_errors():
    below, env = pendulums()
    with pytest.raises(ValueError, match=r"task_mixture: env: expected one without vec_norm, .*; take normalize=True"):
        meta.task_mixture(LENGTHS)(transforms.vec_norm()(below))
    with pytest.raises(ValueError, match="task_mixture: env: expected a pure environment, not batched"):
        meta.task_mixture(below.default_params)(envs.vectorize(below, 3))
    with pytest.raises(
        ValueError, match="task_mixture: env_params: expected leaves like those of Pendulum-v1, some of them with one first"
    ):
        meta.task_mixture(below.default_params)(below)
    with pytest.raises(ValueError, match="normalize: expected observations that are vectors"):
        meta.task_mixture([envs.maze().default_params] * 2, normalize=True)(envs.maze())
    with pytest.raises(ValueError, match="env: expected a mixture of tasks"):
        meta.multi_task.of(funrl.algos.ppo.make(below))
    with pytest.raises(ValueError, match="targets: expected the lower return first"):
        meta.multi_task.of(funrl.algos.ppo.make(env), targets=(1.0, 0.0))
    with pytest.raises(ValueError, match="low_return, high_return: expected a lower and a higher return"):
        meta.multi_task.make(below, sampling="difficulty")
    with pytest.raises(ValueError, match="sampling: expected 'uniform' or 'difficulty', got 'hard'"):
        meta.multi_task.make(below, sampling="hard")
    with pytest.raises(ValueError, match="tasks: expected None with a mixture of tasks"):
        meta.multi_task.make(env, tasks=tasks.of(below))
    with pytest.raises(ValueError, match="network, embedding_size: expected one of them"):
        meta.multi_task.make(below, embedding_size=2, network=funrl.nn.mlp((4,)))
    with pytest.raises(ValueError, match="one_of: action_space: expected equal ones"):
        meta.one_of([below, envs.make("CartPole-v1")])
    with pytest.raises(TypeError, match=r"env: expected a funrl\.env\.Env"):
        meta.multi_task.make(envs.vectorize(below, 4))
    assert "task_mixture(num_tasks=3)" in repr(env)
