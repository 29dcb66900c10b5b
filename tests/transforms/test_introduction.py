"""The transforms of the TorchRL introduction, under the names of its examples."""

import pytest
import torch
from torch.func import vmap

from funrl import envs, random
from funrl.spaces import Box, Dict
from funrl.transforms import compose, noop_reset, observation_norm, parent, to_tensor_image
from tests.transforms import toys


def with_pixels(env, size=16):
    """``env`` with its picture as a further entry: what ``from_pixels`` does; every 25th pixel is enough here."""

    def look(result, env_params):
        state, timestep = result
        pixels = env.render(state, env_params)[:: 400 // size, :: 400 // size]
        return state, timestep.replace(observation={"pixels": pixels, "state": timestep.observation})

    def reset(key, env_params=env.default_params):
        return look(env.reset(key, env_params), env_params)

    def step(key, state, action, env_params=env.default_params):
        return look(env.step(key, state, action, env_params), env_params)

    space = Dict({"pixels": Box(0, 255, (size, size, 3), torch.uint8), "state": env.observation_space})
    return env._replace(reset=reset, step=step, observation_space=space)


PENDULUM = with_pixels(envs.make("Pendulum-v1"))
BASES = {"pure": lambda: (PENDULUM, ()), "host": lambda: (toys.host(PENDULUM), (1,))}
PARALLEL = {"pure": lambda: envs.vectorize(PENDULUM, 4), "host": lambda: toys.host(PENDULUM, 4)}


def transformed(base):
    env = compose(base, noop_reset(3), to_tensor_image())
    return compose(env, observation_norm(in_keys=["pixels"], loc=2, scale=1))


@pytest.mark.parametrize("kind", BASES)
def test_the_three_transforms_and_append(kind):
    base, copies = BASES[kind]()
    env = transformed(base)
    state, timestep = env.reset(random.key(0))
    pixels, position = timestep.observation["pixels"], timestep.observation["state"]
    assert pixels.shape == (*copies, 3, 16, 16) and pixels.dtype == torch.float32 and position.shape == (*copies, 3)
    assert 2 <= pixels.min() < pixels.max() <= 3
    key = random.split(random.key(0)).unbind(0)[0]
    below = PENDULUM.reset(random.split(key, 1)[0] if copies else key)[0]
    assert not torch.equal(torch.stack([torch.cos(below.angle), torch.sin(below.angle)]), position[..., :2].flatten())  # no-ops since
    state, after = env.step(random.key(1), state, torch.ones(*copies, 1))
    assert not torch.equal(after.observation["pixels"], pixels)
    assert env.observation_space.spaces["pixels"] == Box(2.0, 3.0, (3, 16, 16))
    if kind == "pure":
        plain = PENDULUM.render(state, env.default_params)[::25, ::25]
        torch.testing.assert_close(after.observation["pixels"], plain.movedim(-1, 0) / 255 + 2)


def test_the_printed_chain():
    env = transformed(PENDULUM)
    chain = [
        "compose(",
        "    Env(Pendulum-v1),",
        "    noop_reset(noops=3),",
        "    to_tensor_image(in_keys=['pixels']),",
        "    observation_norm(in_keys=['pixels'], loc=2, scale=1),",
        ")",
    ]
    assert str(env) == repr(env) == "\n".join(chain)
    assert str(parent(env)) == "\n".join(chain[:4] + chain[5:])
    assert parent(parent(parent(env))) is PENDULUM


@pytest.mark.parametrize("kind", PARALLEL)
def test_parallel_env_of_four_with_transforms_on_the_batch(kind):
    env = transformed(PARALLEL[kind]())
    assert env.num_envs == 4
    state, timestep = env.reset(random.key(0))
    assert timestep.observation["pixels"].shape == (4, 3, 16, 16) and timestep.observation["state"].shape == (4, 3)
    assert env.action_space == Box(-2.0, 2.0, (1,)) and env.observation_space.shape == {"pixels": (3, 16, 16), "state": (3,)}
    actions = vmap(env.action_space.sample)(random.split(random.key(1), 4))
    state, timestep = env.step(random.key(2), state, actions)
    assert timestep.reward.shape == (4,) and len(timestep.observation["pixels"].flatten(1).unique(dim=0)) == 4
