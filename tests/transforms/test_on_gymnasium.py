"""The introduction's chain on gymnasium's own Pendulum, one and four side by side."""

import pytest
import torch

import funrl
from funrl import algos, random, transforms, tree
from funrl.env import check_env
from funrl.transforms import compose, frame_stack, noop_reset, observation_norm, reward_sum, time_limit, to_tensor_image, vec_norm

bridge = pytest.importorskip("funrl.envs.gymnasium")

KEY = random.key(0)


def chain(base):
    return compose(base, noop_reset(3), to_tensor_image(), observation_norm(in_keys=["pixels"], loc=2, scale=1))


def test_the_three_transforms_on_gymnasium():
    with chain(bridge.make("Pendulum-v1", frame_skip=3, from_pixels=True, pixels_only=False)) as env:
        state = env.reset(KEY)
        observation = state[1].observation
        assert observation["pixels"].shape == (1, 3, 500, 500) and 2 <= observation["pixels"].min() < observation["pixels"].max() <= 3
        _, batch = funrl.rollout(None, random.key(1), state, (), env=env, num_steps=2)
        assert batch.next_observation["pixels"].shape == (2, 1, 3, 500, 500) and batch.observation["state"].shape == (2, 1, 3)
        bottom = "VectorEnv(gymnasium:Pendulum-v1, frame_skip=3, from_pixels=True, num_envs=1, host=True)"
        assert str(env).startswith(f"compose(\n    {bottom},\n    noop_reset(noops=3),")


def test_four_in_parallel_with_transforms_on_the_batch():
    with chain(bridge.make("Pendulum-v1", num_envs=4, frame_skip=3, from_pixels=True)) as env:
        state, timestep = env.reset(KEY)
        assert timestep.observation["pixels"].shape == (4, 3, 500, 500) and timestep.observation["state"].shape == (4, 3)
        assert env.action_space.shape == (1,) and env.num_envs == 4
        where = torch.tensor([True, False, False, True])
        new, after = env.step(random.key(1), state, torch.zeros(4, 1), (), where)
        assert bool((after.observation["pixels"] != timestep.observation["pixels"]).flatten(1).any(1)[where].all())
        assert torch.equal(new.token[~where], state.token[~where])


def test_what_remembers_keeps_the_contract_on_gymnasium():
    env = compose(bridge.make("CartPole-v1", num_envs=3), frame_stack(2), time_limit(5), vec_norm(), reward_sum())
    with env:
        check_env(env, KEY, num_steps=12)
        params = env.default_params
        _, batch = funrl.rollout(None, random.key(1), env.reset(KEY, params), params, env=env, num_steps=20)
        assert batch.done.sum(0).tolist() == [4, 4, 4]
        assert (batch.next_observation["episode_return"][batch.done] == 5).all()


@pytest.mark.slow
def test_pixels_of_gymnasium_are_learned_from():
    """The chain of notebooks/from_gymnasium.ipynb; without its end learners take the dict, or say what lacks."""
    with bridge.make("CartPole-v1", num_envs=2, from_pixels=True, pixels_only=True) as base:
        small = transforms.compose(base, transforms.resize(20, 30), transforms.grayscale())
        whole = transforms.compose(small, transforms.cat_tensors())
        env = transforms.compose(whole, transforms.squeeze(-1), transforms.frame_stack(4))
        assert env.observation_space.shape == (4, 20, 30) and env.observation_space.dtype == torch.uint8
        for make, options in ((algos.ppo.make, {"num_minibatches": 1}), (algos.dqn.make, {"learning_starts": 0, "batch_size": 4})):
            algo = make(env, num_envs=2, num_steps=4, num_channels=(2,), num_cells=(4,), **options)
            before = algo.init(random.key(0))
            after, metrics = algo.step(random.key(1), before)
            assert int(metrics["steps"]) == 8 and not tree.equal(after.learner.params, before.learner.params)
            assert make(small, num_envs=2).env is small  # a dict of one picture
            with pytest.raises(ValueError, match=r"got Box.*put transforms.squeeze\(-1\) before transforms.frame_stack"):
                make(transforms.compose(whole, transforms.frame_stack(4)), num_envs=2)
