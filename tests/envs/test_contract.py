"""The contract of every pure environment."""

import inspect
import pickle

import chex
import gymnasium
import numpy as np
import pytest
import torch
from torch.func import vmap

from funrl import compiler, envs, random, spaces, tree
from funrl.env import check_env
from tests.support import counted, same

PHYSICAL = ["CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0", "PointRobot-misc", "Reacher-misc"]
GYMNASIUM = [*PHYSICAL[:-2], "FrozenLake-v1", "FrozenLake8x8-v1"]
MINATAR = [f"{game}-MinAtar" for game in ("Breakout", "Asterix", "Freeway", "SpaceInvaders", "Seaquest")]
CONTINUOUS = [name for name in envs.names() if isinstance(envs.make(name).action_space, spaces.Box)]
LIMITED = [name for name in envs.names() if hasattr(envs.make(name).default_params, "max_steps")]


@pytest.fixture(params=envs.names())
def env(request):
    return envs.make(request.param)


def over(names):
    """Run the test with the environments of these names, instead of with all."""
    return pytest.mark.parametrize("env", names, indirect=True)


def assert_same(one, other, tolerance=1e-5):
    assert tree.structure(one) == tree.structure(other)
    for path, x, y in zip(tree.paths(one), tree.leaves(one), tree.leaves(other), strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance, msg=lambda message, path=path: f"{path}: {message}")


def start(env, n):
    keys = random.split(random.key(0), (3, n))
    state, _ = vmap(env.reset, (0, None))(keys[0], env.default_params)
    return keys[1], state, vmap(env.action_space.sample)(keys[2])


def test_names_lists_what_make_knows():
    assert set(envs.names()) == {
        *GYMNASIUM,
        *("Catch-bsuite", "DeepSea-bsuite", "MemoryChain-bsuite"),
        *("BernoulliBandit-misc", "GaussianBandit-misc", "FourRooms-misc", "Maze-misc", "PointRobot-misc"),
        *("SparsePointRobot-misc", "Reacher-misc", "TabularMDP-misc", "GridRules-misc"),
        *("BitFlip-misc", "GoalPointRobot-misc"),
        *MINATAR,
    }
    assert [envs.make(name).name for name in envs.names()] == envs.names()


@pytest.mark.parametrize(
    ("name", "offer"),
    [
        ("CartPole", "did you mean CartPole-v1"),
        ("pendulum-v0", "Pendulum-v1"),
        ("MountainCarContinous-v0", "MountainCarContinuous-v0"),
        ("xyz", "one of CartPole-v1"),
        ("HalfCheetah-v5", "those of gymnasium are called 'gymnasium:' and their id"),
    ],
)
def test_an_unknown_name_offers_the_nearest(name, offer):
    with pytest.raises(ValueError, match=offer):
        envs.make(name)


def test_make_wants_a_string():
    with pytest.raises(TypeError, match="expected a string"):
        envs.make(3)


def test_make_hands_settings_on():
    env = envs.make("DeepSea-bsuite", size=5)
    assert env.observation_space.shape == (5, 5) and env.default_params.action_mapping.shape == (5, 5) and env.max_episode_steps == 5
    with pytest.raises(ValueError, match=r"envs\.make: Catch-bsuite has no setting 'colums'; did you mean columns\?"):
        envs.make("Catch-bsuite", colums=3)
    with pytest.raises(ValueError, match=r"no setting 'num_envs'; those named 'gymnasium:ID' have it, .* envs\.vectorize\(env, num_envs\)"):
        envs.make("Pendulum-v1", num_envs=4)
    with pytest.raises(ValueError, match=r"Pendulum-v1 has no setting 'gravity'; leave it out, it takes none; .* env_params"):
        envs.make("Pendulum-v1", gravity=3.0)


@pytest.mark.parametrize("name", [name for name in envs.names() if inspect.signature(envs._FACTORIES[name]).parameters])
def test_settings_are_checked(name):
    for setting in inspect.signature(envs._FACTORIES[name]).parameters:
        with pytest.raises(TypeError, match=f"{name}: {setting}: expected a"):
            envs.make(name, **{setting: [2.0]})
        with pytest.raises(ValueError, match=f"{name}: {setting}: expected "):
            envs.make(name, **{setting: "S" if setting == "layout" else 0})


def test_keeps_the_contract(env):
    counting, steps = counted(env)
    for seed in range(3):
        check_env(counting, random.key(seed))
    assert len(steps) >= 3


@over(GYMNASIUM)
def test_spaces_and_time_limit_are_those_of_gymnasium(env):
    theirs = gymnasium.make(env.name)
    for space, its in ((env.observation_space, theirs.observation_space), (env.action_space, theirs.action_space)):
        if isinstance(its, gymnasium.spaces.Discrete):
            assert (space.n, space.start) == (its.n, its.start)
        else:
            np.testing.assert_allclose(space.low, its.low, rtol=1e-6)
            np.testing.assert_allclose(space.high, its.high, rtol=1e-6)
    assert env.max_episode_steps == env.default_params.max_steps.item() == theirs.spec.max_episode_steps


def test_the_default_params_are_the_default_argument(env):
    key = random.key(3)
    action = env.action_space.sample(key)
    state, _ = assert_twins(env.reset(key), env.reset(key, env.default_params))
    assert_twins(env.step(key, state, action), env.step(key, state, action, env.default_params))


def assert_twins(one, other):
    assert_same(one, other, 0.0)
    return one


@over(LIMITED)
def test_an_episode_is_truncated_at_the_time_limit_and_goes_on(env):
    params = env.default_params.replace(max_steps=torch.tensor(3))
    state, timestep = env.reset(random.key(0), params)
    action = env.action_space.project(torch.zeros_like(env.action_space.sample(random.key(1))))
    flags = []
    for _ in range(4):
        state, timestep = env.step(random.key(2), state, action, params)
        flags.append((timestep.truncated.item(), timestep.terminated.item(), state.time.item()))
    assert flags == [(False, False, 1), (False, False, 2), (True, False, 3), (True, False, 4)]


def test_each_copy_has_its_own_params(env):
    key, state, action = start(env, 3)
    params = tree.stack([scaled(env.default_params, scale) for scale in (1.0, 0.5, 1.1)])
    batch = vmap(env.step)(key, state, action, params)
    loop = [env.step(key[i], tree.index(state, i), action[i], tree.index(params, i)) for i in range(3)]
    assert_same(batch, tree.stack(loop))
    unscaled = vmap(env.step, (0, 0, 0, None))(key, state, action, env.default_params)
    assert_same(tree.index(batch[1].observation, 0), tree.index(unscaled[1].observation, 0))
    if env.name in PHYSICAL:
        assert not torch.equal(batch[1].observation[1], unscaled[1].observation[1])


def scaled(params, scale):
    return tree.map(lambda x: x * scale if x.is_floating_point() else x, params)


def test_float64_params_make_a_float64_environment(env):
    params = tree.to(env.default_params, torch.float64)
    state, timestep = env.reset(random.key(0), params)
    for x in (
        *tree.leaves((state, timestep)),
        *tree.leaves(env.step(random.key(1), state, env.action_space.sample(random.key(2)), params)),
    ):
        assert x.dtype in (torch.float64, torch.int64, torch.bool)
    single, _ = env.reset(random.key(0))
    assert_same(tree.to(state, torch.float32), single, 1e-6)


# FrozenLake8x8-v1 is the code of FrozenLake-v1; one game of MinAtar stands for the others.
@over([pytest.param(name, marks=[pytest.mark.slow] * (name in MINATAR[1:])) for name in envs.names() if name != "FrozenLake8x8-v1"])
def test_compiled_agrees_with_eager(env):
    params = tree.to(env.default_params, torch.float64)
    keys = random.split(random.key(0), (3, 4))
    actions = vmap(env.action_space.sample)(keys[2])

    def program(keys, actions, params):
        state, first = vmap(env.reset, (0, None))(keys[0], params)
        return first, vmap(env.step, (0, 0, 0, None))(keys[1], state, actions, params)

    compiled = compiler.compile(program, backend="aot_eager")
    assert_same(compiled(keys, actions, params), program(keys, actions, params), 1e-9)


def test_xla_gives_the_same_step(env):
    key, state, action = start(env, 16)
    step = vmap(env.step, (0, 0, 0, None))
    compiled = compiler.compile(step, backend="xla")
    assert_same(compiled(key, state, action, env.default_params), step(key, state, action, env.default_params))


@over(PHYSICAL)
def test_params_have_gradients_through_a_step(env):
    key, state, action = random.key(0), env.reset(random.key(0))[0], env.action_space.sample(random.key(1))

    def total(params):
        _, timestep = env.step(key, state, action, params)
        return timestep.observation.sum() + timestep.reward

    floating = [x for x in tree.leaves(torch.func.grad(lambda p: total(merge(env.default_params, p)))(split_floats(env.default_params)))]
    assert all(bool(x.isfinite().all()) for x in floating) and any(bool((x != 0).any()) for x in floating)


def split_floats(params):
    return {str(i): x for i, x in enumerate(tree.leaves(params)) if x.is_floating_point()}


def merge(params, floats):
    values, form = tree.flatten(params)
    return tree.unflatten(form, [floats.get(str(i), x) for i, x in enumerate(values)])


@over(CONTINUOUS)
def test_actions_have_gradients_through_five_steps(env):
    params = tree.to(env.default_params, torch.float64)
    start, _ = env.reset(random.key(0), params)
    actions = vmap(env.action_space.sample)(random.split(random.key(1), 5)).double()

    def total(actions):
        state, total = start, 0.0
        for key, action in zip(random.split(random.key(2), 5), actions, strict=True):
            state, timestep = env.step(key, state, action, params)
            total = total + timestep.reward + sum(x.sin().sum() for x in tree.leaves(timestep.observation))
        return total

    gradient = torch.func.grad(total)(actions)
    offsets = 1e-6 * torch.eye(actions.numel(), dtype=torch.float64).reshape(-1, *actions.shape)
    differences = [(total(actions + offset) - total(actions - offset)) / 2e-6 for offset in offsets]
    torch.testing.assert_close(gradient.flatten(), torch.stack(differences), rtol=1e-5, atol=1e-7)
    assert (gradient != 0).all()


def test_wrong_arguments_are_clear_errors(env):
    key = random.key(0)
    state, _ = env.reset(key)
    action = env.action_space.sample(key)
    with pytest.raises(TypeError, match=rf"{env.name}: state: expected an? \w+State, got \w+"):
        env.step(state, action, key)
    with pytest.raises(TypeError, match=r"env_params: expected an? \w+Params, got a dict"):
        env.step(key, state, action, {})
    with pytest.raises(TypeError, match="action: expected"):
        env.step(key, state, 1)
    with pytest.raises(ValueError, match=r"for a batch use torch\.func\.vmap"):
        env.step(key, state, action.expand(4, *action.shape))
    wrong = action.double() if action.dtype == torch.int64 else action.long()
    with pytest.raises(TypeError, match=r"action: expected .* cast it"):
        env.step(key, state, wrong)


def test_render_draws_the_state(env):
    state, _ = env.reset(random.key(0))
    image = env.render(state, env.default_params)
    chex.assert_rank(image, 3)
    assert image.dtype == torch.uint8 and image.shape[-1] == 3 and min(image.shape[:2]) >= 200
    assert len(image.reshape(-1, 3).unique(dim=0)) > 50
    for action_key, step_key in random.split(random.key(1), (8, 2)):
        state, _ = env.step(step_key, state, env.action_space.sample(action_key))
    later = env.render(state, env.default_params)
    changed = (later != image).any(-1).float().mean()
    assert 0.0005 < changed < 0.3
    double = env.render(tree.to(state, torch.float64), tree.to(env.default_params, torch.float64))
    assert (double != later).any(-1).float().mean() < 1e-3  # an edge may fall on the other side of the middle of a pixel


def test_render_can_be_vmapped(env):
    keys, state, actions = start(env, 4)
    state, _ = vmap(env.step, (0, 0, 0, None))(keys, state, actions, env.default_params)
    images = vmap(env.render, (0, None))(state, env.default_params)
    for i in range(4):
        difference = (images[i].int() - env.render(tree.index(state, i), env.default_params).int()).abs()
        assert difference.max() <= 1
    assert not all(torch.equal(images[0], image) for image in images)


@pytest.mark.parametrize("name", ["CartPole-v1", "Seaquest-MinAtar"])
def test_an_environment_of_a_module_can_be_pickled(name):
    env = envs.make(name)
    again = pickle.loads(pickle.dumps(env))
    same(again.reset(random.key(0)), env.reset(random.key(0)), rtol=0, atol=0)
    assert again.step.__doc__ == env.step.__doc__ and env.step.__doc__.splitlines()[0].endswith(".")
