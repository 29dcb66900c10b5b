"""Batches of several workers: what learners count of them, and what buffers take for consecutive."""

import pytest
import torch

import funrl
from funrl import buffers, collectors, random, tree
from funrl.env import Place, Transition


def create(worker, length):
    def make():
        import gymnasium as gym
        import numpy as np

        import funrl

        class Clock(gym.Env):
            observation_space, action_space = gym.spaces.Box(0, 1e6, (2,)), gym.spaces.Discrete(2)

            def reset(self, *, seed=None, options=None):
                self.t = 0
                return np.array([worker, 0], np.float32), {}

            def step(self, action):
                self.t += 1
                return np.array([worker, self.t], np.float32), 1.0, False, self.t >= length, {}

        return funrl.envs.gymnasium.wrap(gym.vector.SyncVectorEnv([Clock]))

    return make


@pytest.mark.parametrize("slices", ["whole", "masked"])
def test_no_slice_is_of_two_workers(slices):
    buffer, state = buffers.sequence(200, length=4, slices=slices), None
    workers = [create(0, 25), create(1, 25)]
    with collectors.asynchronous(workers, None, (), num_workers=2, frames_per_batch=10, total_frames=160) as collector:
        for batch in collector:
            steps = batch.transition.replace(extras={})
            collector.update_params(())
            state = buffers.in_place(buffer).extend(buffer.init(tree.index(steps, 0)) if state is None else state, steps)
    for kept in (state, buffer.restore(state.ring)):
        drawn = buffer.sample(random.key(0), kept, 300)
        x, learned = drawn.batch.observation, drawn.mask
        follows = (x[1:, :, 1] == x[:-1, :, 1] + 1) & (x[1:, :, 0] == x[:-1, :, 0])
        assert (follows | ~learned[1:]).all() and follows.any()


def test_learners_count_episodes_of_asynchronous_batches():
    """As the README's loop does it, with ``learn``; each episode has 10 steps and the return 10."""
    make = create(0, 10)
    algo = funrl.algos.dqn.make(make(), num_envs=1, num_steps=7, num_updates=1, batch_size=4, learning_starts=10**6, buffer_size=100)
    learner, seen = algo.init(random.key(0)).learner, set()
    with collectors.asynchronous(make, algo.act, learner.params, num_workers=2, frames_per_batch=7, total_frames=98) as collector:
        for i, batch in enumerate(collector):
            learner, metrics = algo.learn(random.key(i), learner, batch.transition)
            collector.update_params(learner.params)
            if int(metrics["episodes"]):
                seen.add((metrics["episode_return_min"].item(), metrics["episode_return_max"].item(), metrics["episode_length"].item()))
    assert seen == {(10.0, 10.0, 10.0)}


def columns(worker, first, count):
    """Steps of one copy: those of the episode ``worker`` from ``first`` on."""
    place = Place(torch.full((count, 1), worker), torch.arange(first, first + count)[:, None], torch.zeros(count, 1))
    no, x = torch.zeros(count, 1, dtype=torch.bool), (100.0 * worker + place.step_count).float()
    return Transition(x, x, x, no, no, x, {}, place)


def test_a_lost_batch_is_a_break_too():
    buffer = buffers.sequence(100, length=3)
    state = buffer.init(tree.index(columns(0, 0, 1), 0))
    for steps in (columns(0, 0, 4), columns(0, 4, 2), columns(0, 9, 3), columns(1, 0, 3), columns(1, 3, 1)):
        state = buffer.extend(state, steps)
    starts = state.starts.weights.nonzero().flatten()
    first = state.ring.data.observation[starts, 0]
    assert first.tolist() == [0.0, 1.0, 2.0, 3.0, 9.0, 100.0, 101.0]
