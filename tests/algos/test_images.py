"""Layouts of images that learners find, and the layers for them."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import funrl
from funrl import algos, random, spaces, transforms, tree
from funrl.algos.images import ATARI, convolutions

NAMES = ("ppo", "a2c", "reinforce", "impala", "pqn", "dqn")


class Pictures(gym.Env):
    """Pictures of one shape, as gymnasium's wrappers and environments show them."""

    action_space = gym.spaces.Discrete(4)

    def __init__(self, shape):
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)

    def reset(self, *, seed=None, options=None):
        return np.zeros(self.observation_space.shape, np.uint8), {}

    def step(self, action):
        return np.zeros(self.observation_space.shape, np.uint8), 1.0, False, False, {}


def pictures(*shape):
    return funrl.envs.gymnasium.wrap(gym.vector.SyncVectorEnv([lambda: Pictures(shape)] * 2))


def first_layer(name, env, **options):
    """The shape [out, in, h, w] of the first convolution."""
    also = {"num_minibatches": 1} if name in ("ppo", "impala", "pqn") else {}
    algo = algos.make(name, env, num_envs=2, num_steps=2, num_cells=(4,), **also, **options)
    network = algo.init(random.key(0)).learner.params.network
    return next(tuple(x.shape) for x in tree.leaves(network) if x.ndim == 4)


@pytest.mark.parametrize("name", NAMES)
def test_channels_are_where_the_space_has_them(name):
    assert first_layer(name, pictures(4, 20, 24)) == (16, 4, 3, 3)  # frames that gymnasium stacked
    assert first_layer(name, pictures(20, 24, 3)) == (16, 3, 3, 3)
    tensor = transforms.compose(pictures(20, 24, 3), transforms.to_tensor_image())
    assert tensor.observation_space.layout == "chw" and first_layer(name, tensor) == (16, 3, 3, 3)
    gray = transforms.compose(pictures(20, 24, 3), transforms.grayscale(), transforms.to_tensor_image())
    assert first_layer(name, gray) == (16, 1, 3, 3)
    assert first_layer(name, pictures(7, 8, 9), layout="chw") == (16, 7, 3, 3)
    assert first_layer(name, pictures(7, 8, 9), layout="hwc") == (16, 9, 3, 3)
    with pytest.raises(ValueError, match=r"layout: expected 'hwc' or 'chw', as the shape \(7, 8, 9\) does not show"):
        first_layer(name, pictures(7, 8, 9))


def test_environments_of_funrl_say_where_their_channels_are():
    for name, channels in (("Seaquest-MinAtar", 10), ("Freeway-MinAtar", 7), ("SpaceInvaders-MinAtar", 6)):
        assert first_layer("pqn", funrl.envs.make(name)) == (16, channels, 3, 3)
    maze = funrl.envs.make("Maze-misc")
    assert maze.observation_space.layout == "chw" and first_layer("ppo", maze) == (16, 3, 3, 3)
    moved = transforms.compose(funrl.envs.make("Freeway-MinAtar"), transforms.cast(torch.float32), transforms.vec_norm())
    assert first_layer("pqn", moved) == (16, 7, 3, 3)


def test_both_layouts_are_one_network():
    chw, hwc = spaces.Box(0, 255, (4, 20, 24), torch.uint8), spaces.Box(0, 255, (20, 24, 4), torch.uint8)
    config = algos.ppo.PPOConfig()
    one, other = convolutions(config, chw), convolutions(config, hwc)
    params = one.init(random.key(0), torch.zeros(4, 20, 24))
    again = other.init(random.key(0), torch.zeros(20, 24, 4))
    assert all(torch.equal(a, b) for a, b in zip(tree.leaves(params), tree.leaves(again), strict=True))
    x = random.randint(random.key(1), (5, 4, 20, 24), 0, 256).to(torch.uint8)
    torch.testing.assert_close(one.apply(params, x), other.apply(params, x.movedim(-3, -1)))


def test_the_usual_layers_of_an_atari():
    env = pictures(4, 84, 84)
    algo = algos.make("dqn", env, num_envs=2, num_steps=2, buffer_size=8, **ATARI)
    sizes = [tuple(x.shape) for x in tree.leaves(algo.init(random.key(0)).learner.params.network) if x.ndim > 1]
    assert sizes[:3] == [(32, 4, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3)] and {3136, 512} in [set(size) for size in sizes]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"stride": 0}, "stride: expected 1 integer of at least 1, got .0,.; give one number, or one for each of the layers"),
        ({"kernel_size": (3, 3)}, r"kernel_size: .*, got \(3, 3\)"),
        ({"layout": "HWC"}, "layout: expected 'hwc', 'chw' or '', got 'HWC'"),
    ],
)
def test_layers_that_do_not_fit_are_refused(options, message):
    for name in ("ppo", "pqn", "dqn"):
        with pytest.raises(ValueError, match=message):
            algos.make(name, funrl.envs.make("Breakout-MinAtar"), **options)
