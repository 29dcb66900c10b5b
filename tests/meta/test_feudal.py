"""The two levels: what each of them learns from, against loops over the steps."""

import pytest
import torch

import funrl
from funrl import envs, meta, optim, random, transforms, tree

OPTIONS = dict(num_envs=2, num_steps=12, goal_steps=4, num_updates=2, batch_size=8, num_cells=(6,), buffer_size=96, learning_starts=0)


def rooms(max_steps=9):
    """FourRooms in float64, with short episodes that begin in one room, where the goal is."""
    env = envs.make("FourRooms-misc")
    params = env.default_params.replace(max_steps=torch.tensor(max_steps), starts=env.default_params.starts[-30:])
    return env._replace(default_params=tree.to(params, torch.float64))


def made(env=None, **options):
    return meta.feudal.make(rooms() if env is None else env, **{**OPTIONS, **options})


def test_the_manager_decides_every_k_steps_and_at_the_start_of_an_episode():
    algo = made()
    state = algo.init(random.key(0))
    _, x = algo.collect(random.key(1), state)
    goal, done = x.extras["goal"], x.done
    assert done.any() and goal.max() < 30
    for t in range(1, 12):
        for b in range(2):
            if t % 4 and not done[t - 1, b]:
                assert goal[t, b] == goal[t - 1, b]
    changes = (goal[1:] != goal[:-1]).sum()
    assert changes > 4


def test_the_manager_learns_from_semi_markov_steps_with_the_goals_set_and_achieved():
    algo = made(gamma=0.8)
    state, goals = algo.init(random.key(0)), algo.env.default_params.starts.double()
    _, x = algo.collect(random.key(1), state)
    learner, _ = algo.learn(random.key(2), state.learner, x)
    rows = tree.reshape(tree.index(learner.target.manager.buffer.data, slice(0, 12)), (6, 2), batch_dims=1)
    lengths = set()
    for i in range(6):
        for b in range(2):
            t, total, m = 4 * (i % 3), 0.0, 0
            while m < 4:
                total += 0.8**m * x.reward[t + m, b].item()
                m += 1
                if x.done[t + m - 1, b]:
                    break
            last = t + m - 1
            lengths.add(m)
            assert rows.reward[i, b].item() == pytest.approx(total) and rows.extras["discount"][i, b].item() == pytest.approx(0.8**m)
            assert torch.equal(rows.observation[i, b], x.observation[t, b])
            assert torch.equal(rows.next_observation[i, b], x.next_observation[last, b])
            assert rows.terminated[i, b] == x.terminated[last, b]
            place = x.next_observation[last, b, :2]
            near = [n for n, goal in enumerate(goals) if torch.equal(goal, place)]  # a place outside the room is no goal
            assert rows.action[i, b] == (near[0] if i >= 3 and near else x.extras["goal"][t, b])
    assert len(lengths) > 1 and not torch.equal(rows.action[:3], rows.action[3:])


def test_the_worker_learns_to_reach_the_goals_of_the_manager():
    algo = made(goal_radius=3.1)
    state, goals = algo.init(random.key(0)), algo.env.default_params.starts
    _, x = algo.collect(random.key(1), state)
    learner, metrics = algo.learn(random.key(2), state.learner, x)
    rows, _ = tree.index(learner.target.worker.buffer.ring.data, slice(0, 24))
    rows = tree.reshape(rows, (12, 2), batch_dims=1)
    reached = 0
    for t in range(12):
        for b in range(2):
            goal, place = goals[x.extras["goal"][t, b]], x.next_observation[t, b, :2]
            near = ((goal - place) ** 2).sum().item() < 3.1**2
            reached += near
            assert rows.reward[t, b] == (0.0 if near else -1.0) and rows.terminated[t, b] == near
            assert rows.truncated[t, b] == x.done[t, b]  # an end of the episode is none of the worker's
            for seen, full in ((rows.observation, x.observation), (rows.next_observation, x.next_observation)):
                assert torch.equal(seen["desired_goal"][t, b], goal.double()) and torch.equal(seen["observation"][t, b], full[t, b])
                assert torch.equal(seen["achieved_goal"][t, b], full[t, b, :2])
    assert reached > 0 and metrics["reached"].item() == pytest.approx(reached / 24)


def test_hyperparameters_of_the_whole_are_those_of_both_levels():
    algo = made()
    key, state = random.key(1), algo.init(random.key(0))
    still = state.replace(learner=state.learner.replace(hparams=state.learner.hparams.replace(learning_rate=torch.tensor(0.0).double())))
    (after, _), (moved, _) = algo.step(key, still), algo.step(key, state)
    assert tree.equal(after.learner.params.network.manager, state.learner.params.network.manager)
    assert tree.equal(after.learner.params.network.worker, state.learner.params.network.worker)
    for level in ("manager", "worker"):
        assert not tree.equal(getattr(moved.learner.params.network, level), getattr(state.learner.params.network, level))


def test_an_optimizer_of_ones_own_is_that_of_both_levels():
    algo, key = made(optimizer=optim.sgd(0.0)), random.key(1)
    state = algo.init(random.key(0))
    after, metrics = algo.step(key, state)
    assert tree.equal(after.learner.params.network, state.learner.params.network) and "learning_rate" not in metrics
    assert metrics["updates"] == 2
    moved, _ = made(optimizer=optim.sgd(0.1)).step(key, state)
    for level in ("manager", "worker"):
        assert not tree.equal(getattr(moved.learner.params.network, level), getattr(state.learner.params.network, level))
    with pytest.raises(ValueError, match="optimizer, learning_rate: expected one of them, got both"):
        made(optimizer=optim.sgd(0.1), learning_rate=0.1)


def test_continuous_actions_goals_of_ones_own_and_dicts():
    pendulum = made(envs.make("Pendulum-v1"), goals=torch.eye(3)[:, :2], achieved=lambda x: x[:2])
    point = made(envs.make("GoalPointRobot-misc"), goals=torch.tensor([[0.5, 0.0], [0.0, 0.5]]), goal_radius=0.05)
    for algo in (pendulum, point):
        state, metrics = algo.step(random.key(1), algo.init(random.key(0)))
        assert metrics["worker_critic_loss"].isfinite() and metrics["manager_critic_loss"].isfinite()
    found = funrl.evaluate(state.learner.params, random.key(2), state.learner.env_params, env=point.env, act=point.greedy, num_episodes=2)
    assert found.finished.all()


def test_wrong_arguments():
    for options, message in (
        (dict(goal_steps=5), "goal_steps: expected a divisor of num_steps = 12"),
        (dict(buffer_size=65), r"goal_steps \* num_envs: expected a divisor of buffer_size = 65"),
        (dict(goal_radius=0.0), "goal_radius: expected a number above 0"),
        (dict(goals=torch.zeros(3)), r"feudal: goals: expected the shape \[G, D\]"),
    ):
        with pytest.raises(ValueError, match=message):
            made(**options)
    with pytest.raises(ValueError, match=r"feudal: goals: expected a tensor \[G, D\] for CartPole-v1, got None"):
        made(envs.make("CartPole-v1"))
    with pytest.raises(TypeError, match=r"env: expected a funrl\.env\.Env, got"):
        made(envs.vectorize(rooms(), 2))
    with pytest.raises(ValueError, match="feudal: env: expected one without vec_norm"):
        made(transforms.vec_norm()(rooms()), goals=torch.zeros(2, 4))
