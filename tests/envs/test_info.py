"""More of gymnasium's environments: info, options of a reset, limits, wide integers, reused arrays, specs that travel."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import funrl
from funrl import random, transforms
from funrl.env import HostError
from funrl.envs import gymnasium as bridge
from funrl.envs.gymnasium._pure import PureVectorEnv


class Game(gymnasium.Env):
    """Three lives of two steps; what may be done changes, and stands in info; the first step may be moved."""

    observation_space, action_space = gymnasium.spaces.Box(-1, 9, (1,)), gymnasium.spaces.Discrete(3)
    without = ()

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = (options or {}).get("time", 0)
        return self._seen()

    def step(self, action):
        self.time += 1
        observation, info = self._seen()
        return observation, 1.0, self.time == 6, False, info

    def _seen(self):
        mask = np.array([1, self.time % 2, 1], np.int8)
        info = {"lives": 3 - self.time // 2, "action_mask": mask, "heat": 0.5 * self.time, "word": "hot"}
        return np.array([self.time], np.float32), {name: x for name, x in info.items() if name not in self.without or self.time < 2}


def make(kind, **options):
    if kind == "single":
        return bridge.wrap(Game(), **options)
    if kind == "sync":
        return bridge.wrap(SyncVectorEnv([Game] * 2), **options)
    if kind == "batch":
        vector = SyncVectorEnv([Game] * 2, autoreset_mode=AutoresetMode.DISABLED)
        return bridge.wrap(gymnasium.wrappers.vector.TransformReward(vector, lambda x: x), **options)
    return bridge.wrap(AsyncVectorEnv([Game] * 2, autoreset_mode=AutoresetMode(kind)), **options)


@pytest.mark.parametrize("kind", ["single", "sync", "batch", "SameStep", "NextStep"])
def test_chosen_entries_of_info_are_in_every_timestep(kind):
    with make(kind, info=["lives", "action_mask", "heat"], reset_options={"time": 1}) as env:
        state, timestep = env.reset(random.key(0))
        batch = (env.num_envs,)
        for time in range(1, 7):
            assert {name: x.dtype for name, x in timestep.info.items()} == {
                "lives": torch.int64,
                "action_mask": torch.int8,
                "heat": torch.float32,
            }
            assert torch.equal(timestep.info["lives"], torch.full(batch, 3 - time // 2))
            assert torch.equal(timestep.info["heat"], torch.full(batch, 0.5 * time))
            mask = torch.tensor([1, time % 2, 1], dtype=torch.int8)
            assert torch.equal(timestep.info["action_mask"], mask.expand(*batch, 3))
            if time < 6:
                state, timestep = env.step(random.key(time), state, torch.zeros(batch, dtype=torch.int64))
        assert bool(timestep.terminated.all())


@pytest.mark.parametrize("kind", ["single", "sync"])
def test_transforms_read_them(kind):
    with make(kind, info=["lives", "action_mask"]) as env:
        game = transforms.compose(env, transforms.end_of_life(), transforms.action_mask())
        state = game.reset(random.key(0))
        transitions = funrl.rollout(None, random.key(1), state, (), env=game, num_steps=20)[1]
        assert transitions.terminated.reshape(20, -1)[1::2].all()


def test_where_info_lacks_what_was_asked_for():
    with pytest.raises(ValueError, match=r"end_of_life: in_key: expected an entry 'lives' .*info come with make\(..., info=\[...\]\)"):
        transforms.compose(bridge.wrap(Game()), transforms.end_of_life()).reset(random.key(0))
    for name, message in (("life", "expected an entry 'life' in each step, as requested, got"), ("word", "expected 'word' to be")):
        with pytest.raises(HostError, match=f"gymnasium:Game: info: {message}"):
            bridge.wrap(Game(), info=[name]).reset(random.key(0))
    game = Game()
    game.without = ("heat",)
    env = bridge.wrap(game, info=["heat"])
    with pytest.raises(HostError, match="info: expected an entry 'heat' in each step"):
        funrl.rollout(None, random.key(1), env.reset(random.key(0)), (), env=env, num_steps=3)
    for options, message in (
        ({"info": "lives"}, "info: expected a list of names"),
        ({"reset_options": 3}, "reset_options: expected a dict"),
    ):
        with pytest.raises(TypeError, match=message):
            bridge.wrap(Game(), **options)


def test_a_limit_that_only_a_wrapper_knows():
    limited = lambda n: gymnasium.wrappers.TimeLimit(Game(), n)  # noqa: E731
    assert bridge.wrap(limited(5)).max_episode_steps == 5
    assert bridge.wrap(gymnasium.wrappers.TimeLimit(limited(5), 3)).max_episode_steps == 3
    assert bridge.wrap(SyncVectorEnv([lambda: limited(4), lambda: limited(7)])).max_episode_steps == 7
    assert bridge.wrap(SyncVectorEnv([lambda: limited(4), Game])).max_episode_steps == 100_000


@pytest.mark.parametrize(("dtype", "ours"), [(np.uint16, torch.int32), (np.uint32, torch.int64), (np.uint64, torch.int64)])
def test_unsigned_integers_become_wider(dtype, ours):
    most = min(np.iinfo(dtype).max, (1 << 63) - 1)

    class Wide(gymnasium.Env):
        observation_space, action_space = gymnasium.spaces.Box(0, most, (2,), dtype), gymnasium.spaces.Box(0, 9, (2,), dtype)

        def reset(self, *, seed=None, options=None):
            return np.array([1, most], dtype), {"more": np.array([most], dtype)}

        def step(self, action):
            assert action.dtype == dtype
            return action, 0.0, False, False, {"more": np.array([most], dtype)}

    env = bridge.wrap(Wide(), info=["more"])
    state, timestep = env.reset(random.key(0))
    assert timestep.observation.dtype == timestep.info["more"].dtype == env.action_space.dtype == ours
    assert (
        timestep.observation.tolist() == [[1, most]]
        and timestep.info["more"].tolist() == [[most]]
        and int(env.observation_space.high[0]) == most
    )
    assert env.step(random.key(1), state, torch.tensor([[3, 4]], dtype=ours))[1].observation.tolist() == [[3, 4]]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_observations_that_are_not_finite_are_refused(value):
    class Broken(Game):
        observation_space = gymnasium.spaces.Dict({"a": gymnasium.spaces.Box(-np.inf, np.inf, (2,)), "b": gymnasium.spaces.Discrete(2)})

        def _seen(self):
            return {"a": np.array([1e30, value if self.time == 2 else -1e30], np.float32), "b": 0}, {}

    env = bridge.wrap(Broken())
    kind = "NaN" if np.isnan(value) else "infinity"
    with pytest.raises(HostError, match=f"gymnasium:Broken returned an observation with an entry 'a' with {kind}"):
        funrl.rollout(None, random.key(1), env.reset(random.key(0)), (), env=env, num_steps=3)


class Reuse(gymnasium.Env):
    """Gives the same array each time."""

    observation_space, action_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32), gymnasium.spaces.Discrete(2)

    def __init__(self):
        self.seen = np.zeros(1, np.float32)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.seen[:] = -1
        return self.seen, {}

    def step(self, action):
        self.seen += 1 + (self.seen < 0)
        return self.seen, 1.0, bool(self.seen[0] >= 3), False, {}


@pytest.mark.parametrize("shared_memory", [True, False])
@pytest.mark.parametrize("of_the_batch", [False, True])
def test_a_reused_array_whose_last_observation_is_lost_is_refused(shared_memory, of_the_batch):
    vector = AsyncVectorEnv([Reuse], autoreset_mode=AutoresetMode.SAME_STEP, shared_memory=shared_memory)
    if of_the_batch:
        vector = gymnasium.wrappers.vector.TransformReward(vector, lambda x: x)
    with (
        bridge.wrap(vector) as env,
        pytest.raises(HostError, match=r"copy 0.*: the last observation of its episode equals the first of the next.*DISABLED"),
    ):
        funrl.rollout(None, random.key(1), env.reset(random.key(0)), (), env=env, num_steps=7)


@pytest.mark.parametrize("of_the_batch", [False, True])
def test_a_reused_array_of_copies_in_this_process_keeps_its_last_observation(of_the_batch):
    vector = SyncVectorEnv([Reuse], autoreset_mode=AutoresetMode.SAME_STEP)
    if of_the_batch:
        vector = gymnasium.wrappers.vector.TransformReward(vector, lambda x: x)
    with bridge.wrap(vector) as env:
        transitions = funrl.rollout(None, random.key(1), env.reset(random.key(0)), (), env=env, num_steps=4)[1]
    assert transitions.next_observation.flatten().tolist() == [1, 2, 3, 1]
    assert transitions.terminated.flatten().tolist() == [False, False, True, False]


class Goal(Reuse):
    """Observes a dict, of which one entry is an array that it gives each time."""

    observation_space = gymnasium.spaces.Dict({"seen": Reuse.observation_space, "goal": gymnasium.spaces.Box(-9, 9, (1,), np.float32)})

    def reset(self, seed=None, options=None):
        return self._with_goal(*super().reset(seed=seed))

    def step(self, action):
        return self._with_goal(*super().step(action))

    def _with_goal(self, seen, *rest):
        return {"seen": seen, "goal": np.float32([self.np_random.random()])}, *rest


class Fresh(Goal):
    """Gives copies."""

    def _with_goal(self, seen, *rest):
        return {"seen": seen.copy(), "goal": np.zeros(1, np.float32)}, *rest


class Constant(Reuse):
    """Observes a number, which is no array that could be reused, and which is always the same."""

    observation_space = gymnasium.spaces.Discrete(1)

    def reset(self, seed=None, options=None):
        return 0, super().reset(seed=seed)[1]

    def step(self, action):
        return 0, *super().step(action)[1:]


@pytest.mark.parametrize("shared_memory", [True, False])
def test_a_reused_entry_of_an_observation_is_warned_of(shared_memory):
    same_step = dict(autoreset_mode=AutoresetMode.SAME_STEP, shared_memory=shared_memory)
    with (
        bridge.wrap(AsyncVectorEnv([Goal], **same_step)) as env,
        pytest.warns(UserWarning, match=r"copy 0 .*: the last observation of its episode equals the first of the next.*an entry of it"),
    ):
        funrl.rollout(None, random.key(1), env.reset(random.key(0)), (), env=env, num_steps=7)
    for kind in (Fresh, Constant):
        with bridge.wrap(AsyncVectorEnv([kind], **same_step)) as env:
            funrl.rollout(None, random.key(1), env.reset(random.key(0)), (), env=env, num_steps=7)


@pytest.mark.parametrize("vector", [SyncVectorEnv, AsyncVectorEnv])
@pytest.mark.parametrize("mode", [AutoresetMode.DISABLED, AutoresetMode.NEXT_STEP])
def test_a_reused_array_in_the_other_modes(vector, mode):
    with bridge.wrap(vector([Reuse], autoreset_mode=mode)) as env:
        transitions = funrl.rollout(None, random.key(1), env.reset(random.key(0)), (), env=env, num_steps=4)[1]
    assert transitions.next_observation.flatten().tolist() == [1, 2, 3, 1]


def test_the_spec_of_a_transformed_environment_travels():
    ours = transforms.compose(funrl.envs.make("CartPole-v1"), transforms.time_limit(6))
    for env in (bridge.to_gymnasium(ours), bridge.to_gymnasium_vector(ours, 2)):
        spec = pickle.loads(pickle.dumps(env.spec))
        assert spec.id == env.spec.id == copy.deepcopy(env.spec).id and spec.max_episode_steps == 6
        if not isinstance(env, PureVectorEnv):
            again = gymnasium.make(spec)
            np.testing.assert_array_equal(again.reset(seed=3)[0], env.reset(seed=3)[0])
            np.testing.assert_array_equal(again.step(1)[0], env.step(1)[0])
