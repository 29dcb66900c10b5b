"""The bridge to gymnasium: one contract for all ways to step the copies, true successors, and faults that name the failed copy."""

import multiprocessing
import os
import signal
import time

import gymnasium
import gymnasium.envs.classic_control
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import funrl
from funrl import random, tree
from funrl.env import HostError, check_env, copy_keys, over_copies
from funrl.envs import gymnasium as bridge
from funrl.envs.gymnasium._wrappers import Checked
from funrl.spaces import Box, Discrete

LIMIT = 25  # steps of an episode of CartPole, so that it is cut off as well as lost


def short():
    return gymnasium.make("CartPole-v1", max_episode_steps=LIMIT)


class Odd(gymnasium.Env):
    """Counts its steps; at the third it does what its argument says."""

    observation_space = gymnasium.spaces.Box(-100.0, 100.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, fault="none"):
        self.fault, self.time = fault, 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self.time += 1
        observation, reward = np.full(2, self.time, np.float32), 1.0
        if self.time == 3:
            if self.fault == "raises":
                raise RuntimeError("the motor is broken")
            if self.fault == "dies":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.fault == "hangs":
                time.sleep(60)
            observation = {"nan": np.full(2, np.nan, np.float32), "shape": np.zeros(3, np.float32)}.get(self.fault, observation)
            reward = {"reward": float("inf"), "vector": np.ones(2)}.get(self.fault, reward)
        return observation, reward, False, False, {}


def test_the_module_that_registers_an_environment_is_part_of_its_name(tmp_path, monkeypatch):
    """So that a run's folder finds it again."""
    (tmp_path / "a_module_of_environments.py").write_text(
        "import gymnasium\nfrom tests.envs.test_gymnasium import Odd\ngymnasium.register('Odd-v7', lambda **options: Odd())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with bridge.make("a_module_of_environments:Odd-v7") as env:
        assert env.name == "gymnasium:a_module_of_environments:Odd-v7"
        with funrl.envs.make(env.name, num_envs=2) as again:
            assert again.name == env.name
    gymnasium.registry.pop("Odd-v7")


class Blind(Odd):
    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012
    render_mode = "rgb_array"

    def render(self):
        raise NotImplementedError


def test_an_environment_that_cannot_draw_is_named():
    with bridge.wrap(Blind()) as env:
        state, _ = env.reset(random.key(0))
        with pytest.raises(HostError, match="gymnasium:Blind raised in render, NotImplementedError: ; it may have no pictures"):
            env.render(state, ())


def play(env, seed=0, num_steps=60):
    """The transitions of random actions."""
    with env:
        state = env.reset(random.key(seed))
        return funrl.rollout(None, random.key(seed + 1), state, (), env=env, num_steps=num_steps)[1]


def same(one, other):
    tree.check_like(one, other, "one", "the other")
    for path, x, y in zip(tree.paths(one), tree.leaves(one), tree.leaves(other), strict=True):
        assert torch.equal(x, y), path


# What the introduction shows


def test_make():
    with bridge.make("Pendulum-v1") as env:
        assert env.host and env.num_envs == 1 and env.max_episode_steps == 200
        assert env.action_space == Box(-2.0, 2.0, (1,)) and env.observation_space.shape == (3,)
        check_env(env, random.key(0))
    with funrl.envs.make("gymnasium:CartPole-v1", num_envs=3) as env:
        assert env.num_envs == 3 and env.action_space == Discrete(2)
        check_env(env, random.key(0))


def test_wrap():
    with bridge.wrap(gymnasium.make("Pendulum-v1")) as env:
        wrapped = play(env)
    same(wrapped, play(bridge.make("Pendulum-v1")))


def test_reset():
    with bridge.make("CartPole-v1") as env:
        (_, one), (_, again), (_, other) = env.reset(random.key(0)), env.reset(random.key(0)), env.reset(random.key(1))
        same(one, again)
        assert not torch.equal(one.observation, other.observation) and one.reward.tolist() == [0] and one.done.tolist() == [False]


def test_rand_step():
    with bridge.make("Pendulum-v1") as env:
        start = env.reset(random.key(0))
        after, transition = funrl.rand_step(random.key(1), start, (), env=env)
        assert torch.equal(transition.observation, start[1].observation)
        assert torch.equal(transition.next_observation, after.timestep.observation)
        assert bool(env.action_space.contains(transition.action[0]))


def test_frame_skip_with_pixels():
    with bridge.make("Pendulum-v1", frame_skip=4, from_pixels=True) as env, bridge.make("Pendulum-v1") as plain:
        state, timestep = env.reset(random.key(0))
        assert timestep.observation["pixels"].shape == (1, 500, 500, 3) and timestep.observation["pixels"].dtype == torch.uint8
        action, key = torch.tensor([[1.0]]), random.key(1)
        _, skipped = env.step(key, state, action)
        state, total = plain.reset(random.key(0))[0], 0.0
        for _ in range(4):
            state, after = plain.step(key, state, action)
            total += after.reward
        torch.testing.assert_close(skipped.reward, total)
        torch.testing.assert_close(skipped.observation["state"], after.observation)
        assert env.max_episode_steps == 50
    with bridge.make("Pendulum-v1", from_pixels=True, pixels_only=True) as env:
        assert list(env.reset(random.key(0))[1].observation) == ["pixels"]


def test_frame_skip_stops_at_the_end():
    with bridge.make("CartPole-v1", frame_skip=20) as env:
        state, _ = env.reset(random.key(0))
        _, after = env.step(random.key(1), state, torch.tensor([1]))
        assert after.terminated and 5 < after.reward < 15


def test_action_spec():
    with bridge.make("MountainCarContinuous-v0") as env:
        assert env.action_space == Box(-1.0, 1.0, (1,))
        assert torch.equal(env.action_space.project(torch.tensor([3.0])), torch.tensor([1.0]))


@pytest.mark.parametrize("name", ["gymnasium", "pure", "batched"])
def test_step_mdp_and_three_equal_rollouts(name):
    """A preallocated, a stacked and a rollout trajectory are equal for one key."""
    make = {
        "gymnasium": lambda: bridge.wrap(short()),
        "pure": lambda: funrl.envs.make("CartPole-v1"),
        "batched": lambda: funrl.envs.vectorize(funrl.envs.make("CartPole-v1"), 3),
    }[name]
    num_steps, key = 60, random.key(1)

    def by_hand(keep):
        env = make()
        actor = funrl.ActorState(*env.reset(random.key(0), env.default_params))
        for t, (act_key, step_key, reset_key) in enumerate(random.split(key, (num_steps, 3)).unbind(0)):
            action = over_copies(env, env.action_space.sample)(copy_keys(env, act_key))
            after = env.step(step_key, actor.env, action, env.default_params)
            keep(t, (actor.timestep.observation, action, after[1].reward, after[1].done, after[1].observation))
            actor = funrl.step_mdp(reset_key, after, env.default_params, env=env)

    rows = []
    by_hand(lambda t, row: rows.append(row))
    stacked = tree.stack(rows)
    preallocated = tree.map(lambda x: torch.zeros(num_steps, *x.shape, dtype=x.dtype), rows[0])
    by_hand(lambda t, row: tree.map(lambda all, x: all[t].copy_(x), preallocated, row))
    env = make()
    _, batch = funrl.rollout(None, key, env.reset(random.key(0), env.default_params), env.default_params, env=env, num_steps=num_steps)
    rolled = (batch.observation, batch.action, batch.reward, batch.done, batch.next_observation)
    same(stacked, preallocated)
    for x, y in zip(tree.leaves(rolled), tree.leaves(stacked), strict=True):
        torch.testing.assert_close(x, y)
    assert name != "gymnasium" or batch.done.sum() >= 2


def test_repr_shows_the_settings():
    with bridge.make("CartPole-v1", num_envs=2, frame_skip=2, max_episode_steps=9) as env:
        assert str(env) == "VectorEnv(gymnasium:CartPole-v1, frame_skip=2, max_episode_steps=9, num_envs=2, host=True)"
    with bridge.wrap(gymnasium.make("CartPole-v1").unwrapped) as env:
        assert str(env) == "VectorEnv(gymnasium:CartPole-v1, <CartPoleEnv<CartPole-v1>>, num_envs=1, host=True)"


# Copies


def test_whoever_steps_the_copies_the_transitions_are_the_same():
    expected = play(bridge.make("CartPole-v1", num_envs=3, max_episode_steps=LIMIT))
    assert expected.terminated.any() and expected.truncated.any() and expected.reward.shape == (60, 3)
    same(play(bridge.make("CartPole-v1", num_envs=3, max_episode_steps=LIMIT, vectorization="async")), expected)
    for mode in AutoresetMode:
        same(play(bridge.wrap(SyncVectorEnv([short] * 3, autoreset_mode=mode))), expected)
        same(play(bridge.wrap(AsyncVectorEnv([short] * 3, autoreset_mode=mode))), expected)
    same(play(bridge.wrap(AsyncVectorEnv([short] * 3, shared_memory=False))), expected)


def test_successors_are_true():
    """Every transition, those at the end of an episode too, is one of the dynamics, for which the pure environment is the oracle."""
    batch = play(bridge.make("CartPole-v1", num_envs=3, max_episode_steps=LIMIT), num_steps=60)
    pure = funrl.envs.make("CartPole-v1")
    rows = tree.reshape(batch, (180,), batch_dims=2)
    first, _ = torch.func.vmap(pure.reset, (0, None))(random.split(random.key(0), 180), pure.default_params)
    names = ("position", "velocity", "angle", "angular_velocity")
    state = first.replace(**{name: rows.observation[:, i] for i, name in enumerate(names)})
    _, after = torch.func.vmap(pure.step, (0, 0, 0, None))(random.split(random.key(1), 180), state, rows.action, pure.default_params)
    torch.testing.assert_close(rows.next_observation, after.observation, rtol=1e-5, atol=1e-5)
    assert torch.equal(rows.terminated, after.terminated) and rows.done.sum() > 6
    # After an end comes the observation of a reset, else the successor.
    follows = (batch.observation[1:] == batch.next_observation[:-1]).all(-1)
    assert torch.equal(follows, ~batch.done[:-1])
    assert (batch.observation[1:][batch.done[:-1]].abs() <= 0.05).all()


def test_evaluate_plays_whole_episodes():
    with bridge.make("CartPole-v1", num_envs=3, max_episode_steps=LIMIT) as env:
        result = funrl.evaluate(None, random.key(0), (), env=env, num_episodes=7)
    assert result.finished.all() and torch.equal(result.episode_return.long(), result.episode_length)
    assert (result.episode_length <= LIMIT).all() and result.episode_length.shape == (7,)


# Faults


def test_it_cannot_be_compiled():
    """Also not a step from the latest state, nor what is made of them."""
    with funrl.envs.make("gymnasium:Pendulum-v1", num_envs=2) as env:
        state, action = env.reset(random.key(0)), torch.zeros(2, 1)
        key, both = random.key(1), torch.ones(2, dtype=torch.bool)
        for call in (
            lambda key, state: env.reset(key),
            lambda key, state: env.step(key, state[0], action),
            lambda key, state: env.reset(key, (), state[0], both),
            lambda key, state: env.step(key, state[0], action, (), both),
            lambda key, state: funrl.rollout((), key, state, (), env=env, act=None, num_steps=2),
        ):
            with pytest.raises(
                Exception, match="gymnasium:Pendulum-v1 runs outside torch and cannot be compiled; compile what you do with"
            ):
                funrl.compile(call, backend="aot_eager")(key, state)
        env.step(key, state[0], action)


def test_a_state_is_used_once_and_only_here():
    with bridge.make("CartPole-v1", num_envs=2) as env, bridge.make("CartPole-v1", num_envs=2) as other:
        action = torch.tensor([0, 1])
        first, _ = env.reset(random.key(0))
        foreign, _ = other.reset(random.key(0))
        second, _ = env.step(random.key(1), first, action)
        for stale in (first, foreign):
            with pytest.raises(ValueError, match="it is not the latest of this environment"):
                env.step(random.key(2), stale, action)
        env.step(random.key(2), second, action)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raises", "copy 1.* raised in step: RuntimeError: the motor is broken"),
        ("nan", "copy 1.* returned an observation with NaN"),
        ("shape", r"copy 1.*returned an observation"),
        ("reward", "copy 1.* returned the reward inf"),
        ("vector", "copy 1.* returned .* as reward; expected a single number"),
    ],
)
def test_faults_name_the_copy(vectorization, fault, message):
    if vectorization == "sync":
        env = bridge.wrap(SyncVectorEnv([lambda: Odd(), lambda: Odd(fault)]))
    else:
        env = bridge.wrap(AsyncVectorEnv([lambda: Checked(Odd()), lambda: Checked(Odd(fault))]), timeout=30)
    with env, pytest.raises(bridge.HostError, match=message):
        funrl.rollout(None, random.key(1), env.reset(random.key(0)), (), env=env, num_steps=5)


@pytest.mark.parametrize(("fault", "message"), [("dies", "was killed by SIGKILL"), ("hangs", "did not answer step within 1.5 s")])
def test_a_lost_worker_is_named_and_no_process_stays(fault, message):
    vector = AsyncVectorEnv([lambda: Odd(), lambda: Odd(fault)])
    processes = list(vector.processes)
    env = bridge.wrap(vector, timeout=1.5)
    start = time.monotonic()
    with pytest.raises(bridge.HostError, match=f"copy 1 .*{message}"):
        funrl.rollout(None, random.key(1), env.reset(random.key(0)), (), env=env, num_steps=5)
    assert time.monotonic() - start < 15
    assert not any(process.is_alive() for process in processes)
    with pytest.raises(bridge.HostError, match="closed"):
        env.reset(random.key(0))
    env.close()
    env.close()


def test_forked_workers_do_not_wait_for_threads_that_they_lack():
    """Where torch has worked on several threads before, as it does in a notebook."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert torch.ones(1_000_000).add(1).eq(2).all()
        options = dict(num_envs=2, vectorization="async", start_method="fork", from_pixels=True, pixels_only=True)
        with bridge.make("Pendulum-v1", **options) as env:
            assert env.reset(random.key(0))[1].observation["pixels"].shape == (2, 500, 500, 3)
    finally:
        torch.set_num_threads(threads)


class Slow(Odd):
    """Whose pictures are larger than what a pipe takes at once, and which takes a minute to be made in a worker."""

    observation_space = gymnasium.spaces.Box(0, 255, (500, 500, 3), np.uint8)

    def __init__(self):
        super().__init__()
        if multiprocessing.parent_process() is not None:
            time.sleep(60)


def test_a_worker_that_does_not_come_up_is_named(monkeypatch):
    gymnasium.register("Slow-v0", Slow)
    monkeypatch.setitem(gymnasium.registry, "Slow-v0", gymnasium.registry.pop("Slow-v0"))  # and out again
    with pytest.raises(bridge.HostError, match=r"copy 0 .* did not answer call within 1.5 s"):
        bridge.make("Slow-v0", num_envs=2, vectorization="async", start_method="fork", timeout=1.5)


@pytest.mark.slow
@pytest.mark.parametrize("num_async", [20, pytest.param(1000, marks=pytest.mark.nightly)])
def test_making_and_closing_leaks_nothing(num_async):
    def held():
        return len(os.listdir("/proc/self/fd")), len([p for p in os.listdir("/proc/self/task")])

    def cycle(**options):
        env = bridge.make("CartPole-v1", **options)
        env.reset(random.key(0))
        env.close()
        env.close()

    cycle(num_envs=2, vectorization="async")
    before = held()
    for _ in range(1000):
        cycle()
    for _ in range(num_async):
        cycle(num_envs=2, vectorization="async")
    assert held() == before and not multiprocessing.active_children()


def test_argument_errors(monkeypatch):
    def render(self):
        raise gymnasium.error.DependencyNotInstalled("pygame is not installed")

    monkeypatch.setattr(gymnasium.envs.classic_control.CartPoleEnv, "render", render)
    for error, message, make in (
        (ValueError, "expected 'sync' or 'async', got 'threads'", lambda: bridge.make("CartPole-v1", vectorization="threads")),
        (ValueError, "num_envs: expected an integer of at least 1, got 0", lambda: bridge.make("CartPole-v1", num_envs=0)),
        (ValueError, "pixels_only: there are no pixels", lambda: bridge.make("CartPole-v1", pixels_only=True)),
        (ValueError, "frame_skip: expected an integer of at least 1, got 0", lambda: bridge.make("CartPole-v1", frame_skip=0)),
        (TypeError, "num_envs: expected an integer of at least 1, got 2.0", lambda: bridge.make("CartPole-v1", num_envs=2.0)),
        (TypeError, "wrap: env: expected an environment", lambda: bridge.wrap(3)),
        (ValueError, "id: Environment `CartPoole` doesn't exist. Did you mean: `CartPole`", lambda: bridge.make("CartPoole-v1")),
        (ValueError, "start_method: expected None, .*, got 'thread'", lambda: bridge.make("CartPole-v1", start_method="thread")),
        (ValueError, "start_method: there are no processes", lambda: bridge.make("CartPole-v1", start_method="spawn")),
        (ImportError, "CartPole-v1: pygame is not installed", lambda: bridge.make("CartPole-v1", from_pixels=True)),
    ):
        with pytest.raises(error, match=message):
            make()
    with bridge.make("CartPole-v1") as env:
        state, _ = env.reset(random.key(0))
        with pytest.raises((TypeError, ValueError), match="action"):
            env.step(random.key(1), state, torch.tensor([0.5]))
        with pytest.raises(ValueError, match=r"action: expected shape \[1\], got \[\]"):
            env.step(random.key(1), state, torch.tensor(1))


# Learning


@pytest.mark.slow
def test_ppo_learns_on_the_host_what_it_learns_in_the_pure_environment():
    """The same update: with a batched pure environment in place of the host's, a compiled step gives the same numbers."""
    env = funrl.envs.vectorize(funrl.envs.make("CartPole-v1"), 4)
    options = dict(num_envs=4, num_steps=8, num_epochs=1, num_minibatches=2, num_cells=(8,))
    pure, host = funrl.algos.ppo.make(env, **options), funrl.algos.ppo.make(env._replace(host=True), **options)
    state = pure.init(random.key(0))
    (one, metrics), (other, host_metrics) = pure.step(random.key(1), state), host.step(random.key(1), state)
    for x, y in zip(tree.leaves((one, metrics)), tree.leaves((other, host_metrics)), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5, equal_nan=True)


@pytest.mark.nightly
def test_ppo_solves_gymnasiums_cartpole(tmp_path):
    with funrl.envs.make("gymnasium:CartPole-v1", num_envs=16) as env:
        algo = funrl.algos.ppo.make(env, num_envs=16, num_steps=128, learning_rate=1e-3)
        result = funrl.train(algo, random.key(0), 150_000, out=tmp_path / "run", progress=False, evaluate_episodes=32)
    assert result.evaluation.episode_return.mean() >= 475
