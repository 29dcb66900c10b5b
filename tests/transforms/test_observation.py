"""Numbers, dtypes and shapes of observations, against gymnasium and by hand."""

import gymnasium
import numpy as np
import pytest
import torch

from funrl import envs, random, tree
from funrl.env import check_env
from funrl.spaces import Binary, Box, Discrete, MultiDiscrete, Tuple
from funrl.transforms import (
    cast,
    discrete_to_one_hot,
    flatten_observation,
    frame_stack,
    observation_norm,
    permute,
    squeeze,
    step_counter,
    unsqueeze,
)
from tests.oracles import gymnasium_twin as twin
from tests.transforms import toys

INF = float("inf")


def see(transform, observation, space):
    """Return one observation after a transform, and its space."""
    env = transform(toys.constant(observation, space))
    shown = env.reset(random.key(0), env.default_params)[1].observation
    assert bool(env.observation_space.contains(shown))
    return shown, env.observation_space


def reshape(shape):
    return lambda env: gymnasium.wrappers.ReshapeObservation(env, shape)


@pytest.mark.parametrize(
    ("name", "transform", "wrap"),
    [
        ("velocity", observation_norm(2.0, 0.5), lambda env: gymnasium.wrappers.RescaleObservation(env, np.float32(1.5), np.float32(2.5))),
        ("position", cast(torch.float64), lambda env: gymnasium.wrappers.DtypeObservation(env, np.float64)),
        ("position", flatten_observation(), reshape((3,))),
        ("pixels", flatten_observation(), gymnasium.wrappers.FlattenObservation),
        ("pixels", flatten_observation(0, 1), reshape((120, 3))),
        ("pixels", flatten_observation(-2), reshape((12, 30))),
        ("pixels", unsqueeze(1), reshape((12, 1, 10, 3))),
        ("pixels", unsqueeze(-1), reshape((12, 10, 3, 1))),
        ("level", discrete_to_one_hot(), gymnasium.wrappers.FlattenObservation),
        ("keys", discrete_to_one_hot(), gymnasium.wrappers.FlattenObservation),
    ],
)
def test_it_is_that_of_gymnasium(name, transform, wrap):
    env = toys.arcade(name)
    twin.assert_agree(env, transform, wrap)
    theirs = wrap(twin.Twin(env, (), ())).observation_space
    ours = transform(env).observation_space
    if isinstance(theirs, gymnasium.spaces.Box):
        np.testing.assert_allclose(ours.low, theirs.low, rtol=1e-6)
        np.testing.assert_allclose(ours.high, theirs.high, rtol=1e-6)
    assert ours.shape == theirs.shape


def test_observation_norm_by_hand():
    x = torch.tensor([[1.0, -2.0], [0.5, 4.0]])
    box = Box(-2.0, torch.tensor([[1.0, 4.0], [INF, 4.0]]))
    shown, space = see(observation_norm(loc=torch.tensor([10.0, 20.0]), scale=-2), x, box)
    assert torch.equal(shown, torch.tensor([[8.0, 24.0], [9.0, 12.0]]))
    assert torch.equal(space.low, torch.tensor([[8.0, 12.0], [-INF, 12.0]])) and torch.equal(space.high, torch.tensor([[14.0, 24.0]] * 2))
    shown, space = see(observation_norm(1, 0.5), torch.tensor([7, 255], dtype=torch.uint8), Box(0, 255, (2,), torch.uint8))
    assert torch.equal(shown, torch.tensor([4.5, 128.5])) and space == Box(1.0, 128.5, (2,))


def test_observation_norm_gives_gradients():
    env = observation_norm(loc=1.0, scale=3.0)(envs.make("Pendulum-v1"))

    def speed(key, state):
        return env.step(key, state, torch.zeros(1))[1].observation[2]

    state, _ = env.reset(random.key(0))
    below = torch.func.grad(lambda s: envs.make("Pendulum-v1").step(random.key(1), s, torch.zeros(1))[1].observation[2])
    ours, theirs = torch.func.grad(speed, argnums=1), below
    floats = state.replace(time=torch.tensor(0.0))
    assert ours(random.key(1), floats).angular_velocity == 3 * theirs(floats).angular_velocity != 0


def test_cast_by_hand():
    shown, space = see(cast(torch.float32), torch.tensor([1, 3]), MultiDiscrete((2, 5), start=(0, -1)))
    assert torch.equal(shown, torch.tensor([1.0, 3.0])) and space == Box([0.0, -1.0], [1.0, 3.0])
    shown, space = see(cast(torch.float32), torch.tensor([True, False]), Binary((2,)))
    assert torch.equal(shown, torch.tensor([1.0, 0.0])) and space == Box(0.0, 1.0, (2,))
    shown, space = see(cast(torch.float32), torch.tensor([0.1], dtype=torch.float64), Box(-1.0, 1.0, (1,), torch.float64))
    assert torch.equal(shown, torch.tensor([0.1])) and space == Box(-1.0, 1.0, (1,))


def test_cast_takes_the_precision_out_of_the_hands_of_env_params():
    env = cast(torch.float32)(envs.make("CartPole-v1"))
    params = tree.to(env.default_params, torch.float64)
    state, timestep = env.reset(random.key(0), params)
    assert timestep.observation.dtype == torch.float32 and state.position.dtype == torch.float64
    with pytest.raises(ValueError, match=r"with env_params in float64, leaf .*observation of the timestep is float32"):
        check_env(env, random.key(0))


def test_one_hot_by_hand():
    shown, space = see(discrete_to_one_hot(), torch.tensor(-1), Discrete(3, start=-2))
    assert torch.equal(shown, torch.tensor([0.0, 1.0, 0.0])) and space == Box(0.0, 1.0, (3,))
    shown, _ = see(discrete_to_one_hot(), torch.tensor([2, 4]), MultiDiscrete((3, 2), start=(0, 4)))
    assert torch.equal(shown, torch.tensor([0.0, 0.0, 1.0, 1.0, 0.0]))


def test_shapes_by_hand():
    x = torch.arange(24.0).reshape(2, 3, 4)
    box = Box(x - 1, x + 1)
    for transform, f in (
        (permute((2, 0, 1)), lambda x: x.permute(2, 0, 1)),
        (permute((-1, 1, 0)), lambda x: x.permute(2, 1, 0)),
        (flatten_observation(1, 2), lambda x: x.reshape(2, 12)),
        (unsqueeze(3), lambda x: x[..., None]),
    ):
        shown, space = see(transform, x, box)
        assert torch.equal(shown, f(x)) and space == Box(f(x - 1), f(x + 1))
    assert torch.equal(see(squeeze(0), x[:1], Box(box.low[:1], box.high[:1]))[0], x[0])
    assert see(flatten_observation(), torch.tensor(2), Discrete(3))[1] == Box(0, 2, (1,), torch.int64)
    assert see(unsqueeze(0), torch.tensor([True]), Binary((1,)))[1] == Binary((1, 1))


def test_out_keys_leave_the_entries_that_were_read():
    env = toys.arcade()
    norm = observation_norm(1.0, 2.0, in_keys=["position", "velocity"], out_keys=["p", "v"])(env)
    observation = norm.reset(random.key(0), env.default_params)[1].observation
    assert set(observation) == {*env.observation_space.spaces, "p", "v"} == set(norm.observation_space.spaces)
    assert torch.equal(observation["p"], 2 * observation["position"] + 1)
    assert norm.label == "observation_norm(in_keys=['position', 'velocity'], out_keys=['p', 'v'], loc=1.0, scale=2.0)"
    swapped = cast(torch.float32, in_keys=["velocity", "flags"], out_keys=["flags", "velocity"])(env)
    assert swapped.observation_space.spaces["flags"].shape == (2,) and isinstance(swapped.observation_space.spaces["velocity"], Box)


@pytest.mark.parametrize(
    ("transform", "error", "message"),
    [
        (
            lambda env: squeeze(0, in_keys=["speed"])(env),
            ValueError,
            r"squeeze: observation: expected an entry 'speed', got a dict with the",
        ),
        (lambda env: squeeze(0)(env), ValueError, r"squeeze: observation: expected a tensor, got a dict.*; name the entries"),
        (lambda env: squeeze(0, in_keys="pixels")(env), TypeError, r"squeeze: in_keys: expected a list of names such as \['pixels'\]"),
        (lambda env: squeeze(0, in_keys=[])(env), ValueError, "squeeze: in_keys: expected at least one name"),
        (lambda env: squeeze(0, in_keys=["level", "level"])(env), ValueError, "squeeze: in_keys: expected .* each once"),
        (lambda env: unsqueeze(0, in_keys=["level"], out_keys=["a", "b"])(env), ValueError, "out_keys: expected 1 names"),
        (lambda env: unsqueeze(0, in_keys=["level"], out_keys=["keys"])(env), ValueError, "out_keys: expected new names, got 'keys'"),
        (lambda env: squeeze(0, in_keys=["position"])(env), ValueError, r"squeeze: .*expected size 1 in dimension 0, got float32 \[3\]"),
        (lambda env: squeeze(True), TypeError, "squeeze: dim: expected an integer, got True"),
        (lambda env: unsqueeze(3, in_keys=["position"])(env), ValueError, "unsqueeze: .*expected a place 3 for a new dimension"),
        (lambda env: permute((0, 1), in_keys=["pixels"])(env), ValueError, r"permute: .*expected the 2 dimensions \[0, 1\], got uint8"),
        (lambda env: permute((0, 1, 1), in_keys=["pixels"])(env), ValueError, "permute: .*expected the 3 dimensions"),
        (lambda env: permute(1), TypeError, "permute: dims: expected integers"),
        (lambda env: flatten_observation(0, 3, in_keys=["pixels"])(env), ValueError, "expected dimensions from 0 to 3, got uint8"),
        (lambda env: flatten_observation(2, 1, in_keys=["pixels"])(env), ValueError, "expected dimensions from 2 to 1"),
        (lambda env: discrete_to_one_hot(in_keys=["position"])(env), ValueError, "expected Discrete or MultiDiscrete, got float32"),
        (lambda env: cast(torch.int64), TypeError, "cast: dtype: expected a floating-point dtype"),
        (
            lambda env: observation_norm(0, 1, in_keys=["level"])(env),
            ValueError,
            r"observation_norm: .*expected numbers \(a Box\), got Disc",
        ),
        (lambda env: observation_norm(0, 0), ValueError, "observation_norm: scale: expected finite numbers, not 0, got 0"),
        (lambda env: observation_norm(INF, 1), ValueError, "observation_norm: loc: expected finite numbers, got inf"),
        (lambda env: observation_norm("0", 1), TypeError, "observation_norm: loc: expected a number or a tensor, got str"),
        (
            lambda env: observation_norm(torch.zeros(3, 1), 1, in_keys=["position"])(env),
            ValueError,
            r"expected a shape that loc \[3, 1\] broadcasts to, got float32 \[3\]; reshape loc",
        ),
    ],
)
def test_bad_settings_are_named(transform, error, message):
    with pytest.raises(error, match=message):
        transform(toys.arcade())


def test_a_tuple_is_named():
    zero = torch.zeros(2)
    env = toys.constant((zero, zero), Tuple([Box(-1.0, 1.0, (2,))] * 2))
    for transform in (cast(torch.float32), unsqueeze(0), frame_stack(2)):
        with pytest.raises(ValueError, match="observation: expected a tensor, got a tuple of 2 entries; leave it out"):
            transform(env)
    assert step_counter()(env).reset(random.key(0), env.default_params)[1].observation["observation"] == (zero, zero)


def test_keys_for_what_is_no_dict_are_named():
    with pytest.raises(
        ValueError, match=r"squeeze: observation: expected a dict with the entries \['a'\], got float32 \[3\]; leave in_keys out"
    ):
        squeeze(0, in_keys=["a"])(toys.arcade("position"))
    with pytest.raises(ValueError, match="expected a dict, as out_keys are given"):
        unsqueeze(0, out_keys=["a"])(toys.arcade("position"))
