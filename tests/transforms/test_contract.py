"""The contract of every transform: on pure and host environments, single and batched."""

import inspect

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import envs, random, transforms, tree
from funrl.env import VectorEnv, check_env
from funrl.transforms import (
    action_discretize,
    action_mask,
    action_scale,
    cast,
    cat_tensors,
    center_crop,
    compose,
    discrete_to_one_hot,
    end_of_life,
    exclude,
    flatten_observation,
    frame_skip,
    frame_stack,
    grayscale,
    init_tracker,
    noop_reset,
    observation_norm,
    permute,
    rename,
    resize,
    reward_clip,
    reward_scale,
    reward_sum,
    select,
    squeeze,
    step_counter,
    sticky_actions,
    target_return,
    time_limit,
    time_max_pool,
    to_tensor_image,
    unsqueeze,
    vec_norm,
)
from tests.oracles import rollout as oracle
from tests.support import compilations
from tests.transforms import toys

B = 3
# One transform each: which environment it is put on, and how.
CASES = {
    "noop_reset": (toys.arcade, noop_reset(3)),
    "noop_reset an action": (lambda: toys.arcade(continuous=True), noop_reset(2, action=torch.tensor([[1.0, -1.0]]))),
    "to_tensor_image": (toys.arcade, to_tensor_image()),
    "to_tensor_image the whole": (lambda: toys.arcade("pixels"), to_tensor_image()),
    "observation_norm": (toys.arcade, observation_norm(torch.tensor([1.0, 0.5]), -3.0, in_keys=["velocity"])),
    "observation_norm of integers": (lambda: toys.arcade("pixels"), observation_norm(loc=2, scale=0.5)),
    "vec_norm": (toys.arcade, vec_norm(in_keys=["position", "velocity"], out_keys=["x", "v"])),
    "vec_norm the whole": (lambda: toys.arcade("position"), vec_norm()),
    "time_limit": (toys.arcade, time_limit(2)),
    "step_counter": (toys.arcade, step_counter()),
    "step_counter the whole": (lambda: toys.arcade("position"), step_counter(out_key="n")),
    "reward_sum": (toys.arcade, reward_sum()),
    "reward_scale": (toys.arcade, reward_scale(3.0, loc=-1.0)),
    "reward_clip": (toys.arcade, reward_clip(-0.9, 0.5)),
    "frame_skip": (toys.arcade, frame_skip(3)),
    "frame_stack": (toys.arcade, frame_stack(3, in_keys=["pixels", "level", "flags"])),
    "frame_stack the whole": (lambda: toys.arcade("position"), frame_stack(2, padding="zero")),
    "grayscale": (toys.arcade, grayscale()),
    "resize": (toys.arcade, resize(5, 7, in_keys=["pixels"], out_keys=["small"])),
    "center_crop": (toys.arcade, center_crop(5, 6)),
    "flatten_observation": (toys.arcade, flatten_observation(in_keys=["pixels", "lives"])),
    "cat_tensors": (toys.arcade, cat_tensors(["velocity", "position"], out_key="vector")),
    "select": (toys.arcade, select(["level", "position"])),
    "exclude": (toys.arcade, exclude(["level", "pixels"])),
    "rename": (toys.arcade, rename(["pixels", "position"], ["position", "x"])),
    "cast": (toys.arcade, cast(torch.float64, in_keys=["flags", "level", "velocity"])),
    "action_scale": (lambda: toys.arcade(continuous=True), action_scale(low=torch.tensor([-1.0, 0.0]))),
    "action_discretize": (lambda: toys.arcade(continuous=True), action_discretize([3, 5])),
    "action_mask": (toys.arcade, action_mask("mask")),
    "action_mask from info": (lambda: toys.arcade("position"), action_mask("mask")),
    "sticky_actions": (toys.arcade, sticky_actions(0.5)),
    "sticky_actions of numbers": (lambda: toys.arcade(continuous=True), sticky_actions(0.5)),
    "init_tracker": (toys.arcade, init_tracker()),
    "target_return": (toys.arcade, target_return(10)),
    "time_max_pool": (toys.arcade, time_max_pool(2, in_keys=["pixels", "level"])),
    "end_of_life": (toys.arcade, end_of_life()),
    "end_of_life from info": (lambda: toys.arcade("position"), end_of_life()),
    "permute": (toys.arcade, permute((2, 0, 1), in_keys=["pixels"])),
    "squeeze": (toys.arcade, lambda env: squeeze(-1, in_keys=["gray"])(grayscale(out_keys=["gray"], in_keys=["pixels"])(env))),
    "unsqueeze": (toys.arcade, unsqueeze(0, in_keys=["lives", "flags"])),
    "discrete_to_one_hot": (toys.arcade, discrete_to_one_hot(in_keys=["level", "keys"])),
}
# Those that take a part of the key of a reset or step for themselves.
RANDOM = ("noop_reset", "frame_skip", "action_mask", "sticky_actions")
# Those that are compiled, each in a program that holds several of them.
CHAINS = {
    "steps": (toys.counter, (noop_reset(3), frame_skip(2))),
    "pictures": (
        lambda: toys.arcade(("pixels", "lives")),
        (
            time_max_pool(2, in_keys=["pixels"]),
            grayscale(),
            resize(6, 6),
            center_crop(4, 4),
            to_tensor_image(),
            observation_norm(loc=2, scale=1, in_keys=["pixels"]),
            frame_stack(4, in_keys=["pixels"]),
            squeeze(1, in_keys=["pixels"]),
            flatten_observation(1, 2, in_keys=["pixels"]),
            permute((1, 0), in_keys=["pixels"]),
            reward_scale(0.5),
            reward_clip(),
            end_of_life(),
            sticky_actions(),
            action_mask("mask"),
        ),
    ),
    "numbers": (
        lambda: toys.arcade(("position", "velocity", "level", "keys"), continuous=True),
        (
            time_limit(4),
            step_counter(),
            reward_sum(),
            init_tracker(),
            target_return(5.0),
            action_scale(),
            action_discretize(3),
            rename(["is_init"], ["first"]),
            unsqueeze(0, in_keys=["target_return"]),
            discrete_to_one_hot(in_keys=["level", "keys"]),
            vec_norm(in_keys=["position"]),
            exclude(["velocity"]),
            select(["position", "level", "keys", "step_count", "episode_return", "first", "target_return"]),
            cast(torch.float32, in_keys=["first", "step_count"]),
            cat_tensors(),
        ),
    ),
}


def of(name):
    make, transform = CASES[name]
    return make(), transform


def is_random(name):
    return name.split()[0] in RANDOM


def assert_same(one, other, tolerance=0.0):
    assert tree.structure(one) == tree.structure(other)
    for path, x, y in zip(tree.paths(one), tree.leaves(one), tree.leaves(other), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance, msg=lambda message, path=path: f"{path}: {message}")


def sample_actions(env, key, num_steps):
    """Actions [T] or [T, B]."""
    copies = (env.num_envs,) if isinstance(env, VectorEnv) else ()
    sample = vmap(env.action_space.sample)
    return (vmap(sample) if copies else sample)(random.split(key, (num_steps, *copies)))


def play(env, key, num_steps=7):
    """Timesteps of an environment with random actions; what is done is reset, in a batch with a mask."""
    reset_key, action_key, *keys = random.split(key, num_steps + 2).unbind(0)
    state, timestep = env.reset(reset_key, env.default_params)
    timesteps = [timestep]
    for action, key in zip(sample_actions(env, action_key, num_steps), keys, strict=True):
        step_key, again_key = random.split(key).unbind(0)
        state, timestep = env.step(step_key, state, action, env.default_params)
        timesteps.append(timestep)
        if bool(timestep.done.any()):
            if isinstance(env, VectorEnv):
                state, fresh = env.reset(again_key, env.default_params, state, timestep.done)
                timestep = tree.where(timestep.done, fresh, timestep)
            else:
                state, timestep = env.reset(again_key, env.default_params)
            timesteps.append(timestep)
    return timesteps


def test_every_transform_is_here():
    settings = {"compose", "parent", "stateful", "stateless", "update_vec_norm"}
    of_one_copy = {"options"}  # see test_options.py
    public = {name for name in transforms.__all__ if inspect.isfunction(getattr(transforms, name))} - settings - of_one_copy
    assert public == {name.split()[0] for name in CASES}
    compiled = {line.split("(")[0] for make, chain in CHAINS.values() for line in repr(compose(make(), *chain)).split("\n    ")[2:]}
    assert compiled == public


@pytest.mark.parametrize("name", CASES)
def test_keeps_the_contract(name):
    env, transform = of(name)
    check_env(transform(env), random.key(0), num_steps=6)
    check_env(transform(envs.vectorize(env, B)), random.key(1), num_steps=6)


@pytest.mark.parametrize("name", CASES)
def test_on_the_host_it_does_the_same(name):
    env, transform = of(name)
    for num_envs in (1, B):
        hosted = transform(toys.host(env, num_envs))
        assert hosted.host
        check_env(hosted, random.key(0), num_steps=4)
        assert_same(play(hosted, random.key(1)), play(transform(envs.vectorize(env, num_envs)), random.key(1)))


@pytest.mark.parametrize("name", [name for name in CASES if not is_random(name)])
def test_a_batch_with_a_mask_equals_singles(name):
    env, transform = of(name)
    single, batch = transform(env), transform(envs.vectorize(env, B))
    reset_key, action_key, mask_key, *keys = random.split(random.key(2), 8).unbind(0)
    state, timestep = batch.reset(reset_key)
    singles = [single.reset(k) for k in random.split(reset_key, B).unbind(0)]
    assert_same(timestep, tree.stack([t for _, t in singles]))
    masks = random.bernoulli(mask_key, 0.5, (len(keys), B))
    for key, action, where in zip(keys, sample_actions(batch, action_key, len(keys)), masks, strict=True):
        step_key, again_key = random.split(key).unbind(0)
        step_keys, again_keys = random.split(step_key, B), random.split(again_key, B)
        state, timestep = batch.step(step_key, state, action, where=where)
        for i in where.nonzero().flatten().tolist():
            singles[i] = single.step(step_keys[i], singles[i][0], tree.index(action, i))
            assert_same(tree.index(timestep, i), singles[i][1], 1e-6)
        again = where & random.bernoulli(mask_key, 0.5, (B,))
        state, timestep = batch.reset(again_key, state=state, where=again)
        for i in again.nonzero().flatten().tolist():
            singles[i] = single.reset(again_keys[i])
            assert_same(tree.index(timestep, i), singles[i][1], 1e-6)
        assert_same(state, tree.stack([s for s, _ in singles]), 1e-6)


@pytest.mark.parametrize("name", CASES)
def test_the_spaces_agree_below_and_above_a_batch(name):
    env, transform = of(name)
    single, batch = transform(env), transform(envs.vectorize(env, B))
    for field in ("observation_space", "action_space", "max_episode_steps", "name", "label"):
        assert getattr(batch, field) == getattr(single, field)
    assert single.label.split("(")[0] == name.split()[0]


@pytest.mark.parametrize("backend", ["aot_eager", "xla"])
@pytest.mark.parametrize("name", CHAINS)
def test_a_compiled_rollout_equals_an_eager_one(name, backend):
    make, chain = CHAINS[name]
    env = compose(make(), *chain)

    def act(params, key, observation):
        env.observation_space.check(observation)
        return env.action_space.sample(key), {"log_prob": params * tree.leaves(observation)[0].sum()}

    def program(key, state, env_params):
        return funrl.rollout(torch.tensor(2.0), key, state, env_params, env=env, act=act, num_steps=12)

    reset_key, key = random.split(random.key(3)).unbind(0)
    state = vmap(env.reset, (0, None))(random.split(reset_key, B), env.default_params)
    eager = program(key, state, env.default_params)
    assert bool(eager[1].done.any()) and not bool(eager[1].done.all())
    compiled = funrl.compile(program, backend=backend)
    assert_same(compiled(key, state, env.default_params), eager, 1e-5)
    with compilations(0):
        compiled(random.fold_in(key, 1), state, env.default_params)

    keys = random.split(key, (12, B, 3))
    slow = oracle.rollout(
        torch.tensor(2.0),
        state,
        env.default_params,
        env=env,
        act=act,
        act_keys=keys[..., 0],
        step_keys=keys[..., 1],
        reset_keys=keys[..., 2],
    )
    last = (eager[0].env, eager[0].timestep)
    assert_same((last, eager[1]), slow, 1e-5)


@pytest.mark.parametrize("name", CASES)
def test_it_follows_the_device(name):
    """The device without numbers stands in for a GPU: what is made on the CPU instead shows."""
    env, transform = of(name)
    env = transform(env)
    key, params = random.key(0, device="meta"), tree.to(env.default_params, "meta")
    state, timestep = env.reset(key, params)
    action = tree.to(env.action_space.sample(random.key(0)), "meta")
    for x in tree.leaves((state, timestep, env.step(key, state, action, params))):
        assert x.device.type == "meta"
