"""The way back: a pure environment under gymnasium's own checks, and its copies, compared with gymnasium's SyncVectorEnv."""

import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import funrl
from funrl import random, tree
from funrl.envs import gymnasium as bridge
from funrl.envs.gymnasium import to_gymnasium, to_gymnasium_vector
from funrl.transforms import action_scale, compose, reward_sum, step_counter, time_limit
from tests.transforms import toys

LIMIT = 6  # steps of an episode, so that most are cut off


ENVS = {
    "CartPole": lambda: compose(funrl.envs.make("CartPole-v1"), time_limit(LIMIT)),
    "FrozenLake": lambda: funrl.envs.make("FrozenLake-v1"),
    "transformed": lambda: compose(funrl.envs.make("Pendulum-v1"), action_scale(), step_counter(), reward_sum(), time_limit(LIMIT)),
    "dict": lambda: toys.arcade(),
}


def same(one, other, where=""):
    assert type(one) is type(other), f"{where}: {type(one)} and {type(other)}"
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for name in one:
            same(one[name], other[name], f"{where}[{name!r}]")
    elif isinstance(one, np.ndarray) and one.dtype == object:
        for x, y in zip(one, other, strict=True):
            same(x, y, where)
    elif one is not None:
        assert np.shape(one) == np.shape(other) and np.asarray(one).dtype == np.asarray(other).dtype, where
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6, err_msg=where)


# Gymnasium's own checks


def complaints(env, **options):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        check_env(env, **options)
    return sorted({str(warning.message) for warning in found})


@pytest.mark.parametrize("name", ["CartPole-v1", "Pendulum-v1", "FrozenLake-v1"])
@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_gymnasiums_check_says_no_more_than_of_its_own(name, render_mode):
    """It advises against the spaces that gymnasium itself has chosen, and against nothing else."""
    ours = complaints(to_gymnasium(funrl.envs.make(name), render_mode=render_mode))
    assert ours == complaints(gymnasium.make(name).unwrapped, skip_render_check=True)
    assert name != "FrozenLake-v1" or not ours


def test_gymnasiums_check_has_no_complaint_of_a_dict():
    env = toys.arcade(("pixels", "velocity", "level", "keys", "flags"))
    assert complaints(to_gymnasium(env, render_mode="rgb_array")) == []


@pytest.mark.parametrize("name", ENVS)
def test_spaces_come_back_as_they_were(name):
    env = ENVS[name]()
    with bridge.wrap(to_gymnasium(env)) as back:
        assert back.observation_space == env.observation_space and back.action_space == env.action_space
        assert back.name == f"gymnasium:{env.name}" and back.max_episode_steps == env.max_episode_steps


# The same numbers as the pure environment


@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_episodes_are_those_of_the_keys_that_are_documented(backend):
    pure = ENVS["FrozenLake"]()
    env, generator = to_gymnasium(pure, backend=backend), gymnasium.utils.seeding.np_random(3)[0]
    ends = 0
    for episode in range(5):
        reset_key, key = random.split(random.key(int(generator.integers(2**63)))).unbind(0)
        state, timestep = pure.reset(reset_key, pure.default_params)
        observation, _ = env.reset(seed=3 if episode == 0 else None)
        for t in range(30):
            assert observation == timestep.observation.item() and type(observation) is np.int64
            action = (7 * t + episode) % 4
            state, timestep = pure.step(random.fold_in(key, t), state, torch.tensor(action), pure.default_params)
            observation, reward, terminated, truncated, _ = env.step(action)
            assert (reward, terminated, truncated) == tuple(x.item() for x in (timestep.reward, timestep.terminated, timestep.truncated))
            if terminated or truncated:
                ends += 1
                break
    assert ends >= 3


def test_there_and_back_again_is_the_pure_environment():
    """Each transition of the environment wrapped twice is one of the pure dynamics, with an observation that is the whole state."""
    pure = ENVS["CartPole"]()
    with bridge.wrap(to_gymnasium(pure)) as env:
        _, batch = funrl.rollout(None, random.key(1), env.reset(random.key(0)), (), env=env, num_steps=60)
    batch = tree.map(lambda x: x[:, 0], batch)
    base = funrl.envs.make("CartPole-v1")
    state, _ = torch.func.vmap(base.reset, (0, None))(random.split(random.key(0), 60), base.default_params)
    names = ("position", "velocity", "angle", "angular_velocity")
    state = state.replace(**{name: batch.observation[:, i] for i, name in enumerate(names)})
    _, after = torch.func.vmap(base.step, (0, 0, 0, None))(random.split(random.key(1), 60), state, batch.action, base.default_params)
    torch.testing.assert_close(batch.next_observation, after.observation)
    assert torch.equal(batch.terminated, after.terminated) and batch.truncated.sum() == 10 and torch.equal(batch.reward, after.reward)


def test_a_vector_environment_can_be_wrapped_too():
    pure = ENVS["FrozenLake"]()

    def play(vector):
        with bridge.wrap(vector) as env:
            return funrl.rollout(None, random.key(1), env.reset(random.key(0)), (), env=env, num_steps=40)[1]

    one = play(to_gymnasium_vector(pure, 3, autoreset_mode=AutoresetMode.DISABLED))
    other = play(SyncVectorEnv([lambda: to_gymnasium(pure)] * 3))
    assert one.done.any() and tree.structure(one) == tree.structure(other)
    assert all(torch.equal(x, y) for x, y in zip(tree.leaves(one), tree.leaves(other), strict=True))


# Copies


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("name", ENVS)
def test_copies_are_those_of_gymnasiums_vector_environment(name, mode):
    pure, num = ENVS[name](), 3
    ours = to_gymnasium_vector(pure, num, autoreset_mode=mode)
    theirs = SyncVectorEnv([lambda: to_gymnasium(pure)] * num, autoreset_mode=mode)
    for field in ("observation_space", "action_space", "single_observation_space", "single_action_space", "metadata", "render_mode"):
        assert getattr(ours, field) == getattr(theirs, field), field
    theirs.action_space.seed(0)
    ends = 0
    for seed in (7, None, [4, None, 4]):
        same(ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0])
        for _ in range(12):
            action = theirs.action_space.sample()
            one, other = ours.step(action), theirs.step(action)
            for x, y, what in zip(one, other, ("observation", "reward", "terminated", "truncated", "info"), strict=True):
                same(x, y, what)
            done = one[2] | one[3]
            ends += done.sum()
            if mode == AutoresetMode.DISABLED and done.any():
                for x, y in zip(*(env.reset(options={"reset_mask": done.copy()}) for env in (ours, theirs)), strict=True):
                    same(x, y, "reset")
    assert ends >= 3 and ours.np_random_seed == theirs.np_random_seed
    for env in (ours, theirs):
        env.close()


def test_copies_render_and_share_nothing_with_what_was_returned():
    env = to_gymnasium_vector(funrl.envs.make("CartPole-v1"), 2, render_mode="rgb_array")
    first, _ = env.reset(seed=0)
    kept = first.copy()
    pictures = env.render()
    env.step(np.array([0, 1]))
    assert np.array_equal(first, kept)
    assert isinstance(pictures, tuple) and len(pictures) == 2 and pictures[0].dtype == np.uint8 and pictures[0].shape[-1] == 3
    assert not np.array_equal(pictures[0], env.render()[0])


def test_params_and_the_spec():
    pure = funrl.envs.make("Pendulum-v1")
    heavy = pure.default_params.replace(mass=2 * pure.default_params.mass)
    results = []
    for env in (to_gymnasium(pure), to_gymnasium(pure, env_params=heavy)):
        again = gymnasium.make(env.spec)
        env.reset(seed=0), again.reset(seed=0)
        results.append(env.step(np.array([1.0]))[0])
        np.testing.assert_array_equal(results[-1], again.step(np.array([1.0]))[0])
        with bridge.make(env.spec, num_envs=2) as back:
            assert back.num_envs == 2 and back.name == "gymnasium:Pendulum-v1"
    assert not np.array_equal(*results)


# Errors


def test_argument_errors():
    pure = funrl.envs.make("CartPole-v1")
    half = compose(pure, funrl.transforms.cast(torch.bfloat16))
    with bridge.make("CartPole-v1") as host:
        for error, message, make in (
            (TypeError, "env: expected an Env, got a str", lambda: to_gymnasium("CartPole-v1")),
            (ValueError, "runs outside torch", lambda: to_gymnasium(host)),
            (ValueError, "has 2 copies", lambda: to_gymnasium_vector(funrl.envs.vectorize(pure, 2), 2)),
            (ValueError, "env_params", lambda: to_gymnasium(pure, env_params=())),
            (ValueError, "render_mode: CartPole-v1 has .'rgb_array'.; got 'human'", lambda: to_gymnasium(pure, render_mode="human")),
            (TypeError, "observation_space: numpy has no counterpart", lambda: to_gymnasium(half)),
            (TypeError, "num_envs: expected an integer of at least 1, got 2.0", lambda: to_gymnasium_vector(pure, 2.0)),
            (ValueError, "num_envs: expected an integer of at least 1, got 0", lambda: to_gymnasium_vector(pure, 0)),
            (ValueError, "sometimes", lambda: to_gymnasium_vector(pure, 2, autoreset_mode="sometimes")),
        ):
            with pytest.raises(error, match=message):
                make()


def test_what_is_no_action_and_no_episode():
    single = to_gymnasium(ENVS["CartPole"]())
    with pytest.raises(ResetNeeded, match="before the first step"):
        single.step(0)
    single.reset(seed=0)
    for action in (2, 0.5, [0, 1], None):
        with pytest.raises(ValueError, match="expected an action in Discrete"):
            single.step(action)
    for t in range(LIMIT):
        assert single.step(t % 2)[3] == (t == LIMIT - 1)
    with pytest.raises(ResetNeeded, match="is over"):
        single.step(0)
    vector = to_gymnasium_vector(ENVS["transformed"](), 2)
    vector.reset(seed=0)
    for action in (np.zeros(2), np.zeros((3, 1)), np.full((2, 1), np.nan)):
        with pytest.raises(ValueError, match="for each of 2 copies; got"):
            vector.step(action)
    with pytest.raises(ValueError, match="seed: expected one for each of 2 copies, got 3"):
        vector.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match="reset_mask"):
        vector.reset(options={"reset_mask": np.zeros(2, np.bool_)})


# Learning


@pytest.mark.slow
def test_stable_baselines_learns_in_it():
    PPO = pytest.importorskip("stable_baselines3").PPO  # of the extra "bench"
    from stable_baselines3.common.vec_env import VecEnv

    class Adapter(VecEnv):
        """A vector environment of gymnasium as one of Stable-Baselines3, which wants resets in the same step."""

        def __init__(self, vector):
            self.vector = vector
            super().__init__(vector.num_envs, vector.single_observation_space, vector.single_action_space)

        def reset(self):
            return self.vector.reset(seed=0)[0]

        def step_async(self, actions):
            self.actions = actions

        def step_wait(self):
            observation, reward, terminated, truncated, info = self.vector.step(self.actions)
            infos = [{} for _ in range(self.num_envs)]
            for i in np.flatnonzero(terminated | truncated):
                cut = bool(truncated[i] and not terminated[i])
                infos[i] = {"terminal_observation": info["final_obs"][i], "TimeLimit.truncated": cut}
            return observation, reward, terminated | truncated, infos

        def close(self):
            self.vector.close()

        def get_attr(self, attr_name, indices=None):
            return [getattr(self.vector, attr_name)] * self.num_envs

        def set_attr(self, attr_name, value, indices=None):
            raise AttributeError(attr_name)

        def env_method(self, method_name, *args, indices=None, **kwargs):
            raise AttributeError(method_name)

        def env_is_wrapped(self, wrapper_class, indices=None):
            return [False] * self.num_envs

    pure = funrl.envs.make("CartPole-v1")
    agent = PPO(
        "MlpPolicy",
        Adapter(to_gymnasium_vector(pure, 8, autoreset_mode=AutoresetMode.SAME_STEP)),
        n_steps=32,
        batch_size=256,
        n_epochs=20,
        gamma=0.98,
        gae_lambda=0.8,
        learning_rate=lambda left: 1e-3 * left,
        clip_range=lambda left: 0.2 * left,
        seed=0,
        device="cpu",
    )
    agent.learn(100_000)

    envs, total = to_gymnasium_vector(pure, 20), np.zeros(20)
    observation, _ = envs.reset(seed=1)
    going = np.ones(20, np.bool_)
    while going.any():
        observation, reward, terminated, truncated, _ = envs.step(agent.predict(observation, deterministic=True)[0])
        total += reward * going
        going &= ~(terminated | truncated)
    assert total.mean() >= 400
