"""The bridge to dm_control, compared with dm_control itself, with MuJoCo's physics and pictures drawn without a screen."""

import importlib
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import funrl
from funrl import random, tree
from funrl.env import check_env
from funrl.spaces import Box

pytest.importorskip("dm_control", reason="the extra dm_control is not installed")

from funrl.envs import dm_control

TASKS = dm_control.names()
suite = importlib.import_module("dm_control.suite")  # after ours, which has chosen where to draw

SIZE = {"height": 48, "width": 64}


@pytest.fixture
def seeds(monkeypatch):
    """The seeds that resets are given, in order."""
    given, plain = [], dm_control.Control.reset

    def reset(self, *, seed=None, **rest):
        given.append(seed)
        return plain(self, seed=seed, **rest)

    monkeypatch.setattr(dm_control.Control, "reset", reset)
    return given


def roll(env, num_steps, seed=0):
    with env:
        return funrl.rollout(None, random.key(seed + 1), env.reset(random.key(seed)), (), env=env, num_steps=num_steps)[1]


@pytest.mark.parametrize(("domain", "task"), [("cartpole", "swingup"), ("cheetah", "run"), ("finger", "spin"), ("humanoid", "walk")])
def test_it_keeps_the_contract(domain, task):
    with dm_control.make(domain, task) as env:
        check_env(env, random.key(0))
        assert env.name == f"dm_control:{domain}-{task}" and env.host and env.max_episode_steps == 1000


def test_transitions_are_those_of_dm_control(seeds):
    """A thousand of them, over time limits: the same physics from the same seeds under the same actions."""
    batch = tree.map(lambda x: x[:, 0], roll(dm_control.make("cartpole", "swingup", time_limit=2.0), 1000))
    assert batch.truncated.sum() == 5 and not batch.terminated.any()
    episodes = iter(seeds)
    plain = suite.load("cartpole", "swingup", {"time_limit": 2.0})

    def start():
        plain.task.random.seed(next(episodes))
        return plain.reset()

    now = start()
    for t in range(1000):
        for name, value in now.observation.items():
            np.testing.assert_array_equal(batch.observation[name][t], value)
        now = plain.step(batch.action[t].numpy())
        for name, value in now.observation.items():
            np.testing.assert_array_equal(batch.next_observation[name][t], value)
        assert batch.reward[t] == np.float32(now.reward) and bool(batch.truncated[t]) == now.last()
        now = start() if now.last() else now
    assert len(set(seeds)) == len(seeds) == 6


def test_the_end_of_a_task_terminates():
    """A last step of discount 0 has no value beyond; one of another discount goes on."""
    for discount, terminated in ((0.0, True), (1.0, False)):
        control = dm_control.Control("cartpole", "balance", {}, SIZE, "rgb_array")
        control.control.task.get_termination = lambda physics, discount=discount: discount
        control.reset(seed=0)
        assert control.step(np.zeros(1))[2:4] == (terminated, not terminated)


def test_frame_skip_and_settings():
    with dm_control.make("reacher", "easy", frame_skip=4, time_limit=1.0) as env:
        assert env.max_episode_steps == 13
        assert env.action_space == Box(-1.0, 1.0, (2,), torch.float64)
    batch = roll(env=dm_control.make("reacher", "easy", frame_skip=4, time_limit=1.0), num_steps=13)
    assert batch.done[:, 0].tolist() == [False] * 12 + [True]
    with pytest.raises(TypeError, match="nonsense"):
        dm_control.make("reacher", "easy", nonsense=1)


# Pictures


def test_pixels_are_those_of_dm_control(seeds):
    with dm_control.make("cartpole", "swingup", from_pixels=True) as env:
        pixels = env.observation_space.spaces["pixels"]
        assert pixels.shape == (240, 320, 3) and pixels.dtype == torch.uint8
        check_env(env, random.key(0), num_steps=2)
        del seeds[:]
        state, timestep = env.reset(random.key(0))
        plain = suite.load("cartpole", "swingup", {"random": seeds[0]})
        plain.reset()
        for action in (None, 1.0, -1.0):
            if action is not None:
                state, timestep = env.step(random.key(1), state, torch.tensor([[action]]).double())
                plain.step([action])
            picture = plain.physics.render(240, 320, camera_id=0)
            np.testing.assert_array_equal(timestep.observation["pixels"][0], picture)
            assert picture.std() > 10
        assert torch.equal(env.render(state), timestep.observation["pixels"])
    with funrl.envs.make("dm_control:cartpole-swingup", from_pixels=True, pixels_only=True, camera=-1, **SIZE) as env:
        free = env.reset(random.key(0))[1].observation
        assert list(free) == ["pixels"] and free["pixels"].shape == (1, 48, 64, 3)


def test_copies_have_pictures_of_their_own():
    batch = roll(dm_control.make("cartpole", "swingup", num_envs=3, from_pixels=True, **SIZE), 3)
    assert batch.observation["pixels"].shape == (3, 3, 48, 64, 3)
    assert len(batch.observation["pixels"].reshape(9, -1).unique(dim=0)) == 9


@pytest.mark.slow
def test_processes_draw_too():
    """After this one has drawn: OpenGL does not survive a fork."""
    options = dict(num_envs=2, from_pixels=True, **SIZE)
    one = roll(dm_control.make("cartpole", "swingup", **options), 4)
    other = roll(dm_control.make("cartpole", "swingup", vectorization="async", **options), 4)
    for path, x, y in zip(tree.paths(one), tree.leaves(one), tree.leaves(other), strict=True):
        assert torch.equal(x, y), path


@pytest.mark.slow
def test_without_opengl_only_pictures_are_missing():
    program = """
import funrl
with funrl.envs.make("dm_control:cartpole-swingup") as env:
    state, _ = env.reset(funrl.random.key(0))
    try:
        env.render(state)
    except RuntimeError as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ, "MUJOCO_GL": "disable"}
    )
    assert "dm_control:cartpole-swingup: no picture could be taken" in done.stdout and "apt-get install libegl1" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("domain", "task"), TASKS)
def test_every_task_can_be_played(domain, task):
    with dm_control.make(domain, task) as env:
        _, batch = funrl.rollout(None, random.key(1), env.reset(random.key(0)), (), env=env, num_steps=3)
        assert math.isfinite(batch.reward.sum())


# Errors


def test_argument_errors(monkeypatch):
    for error, message, make in (
        (ValueError, "domain: there is none called 'cartpol'; did you mean cartpole", lambda: dm_control.make("cartpol", "swingup")),
        (ValueError, "task: cartpole has none called 'swing'; .*swingup_sparse", lambda: dm_control.make("cartpole", "swing")),
        (ValueError, "task: cartpole has none called ''", lambda: funrl.envs.make("dm_control:cartpole")),
        (ValueError, "random: .* comes from the key", lambda: dm_control.make("cartpole", "swingup", random=3)),
        (ValueError, "height: expected an integer of at least 1, got 0", lambda: dm_control.make("cartpole", "swingup", height=0)),
        (ValueError, "pixels_only: there are no pixels", lambda: dm_control.make("cartpole", "swingup", pixels_only=True)),
    ):
        with pytest.raises(error, match=message):
            make()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'funrl\[dm_control\]'"):
        dm_control.make("cartpole", "swingup")
