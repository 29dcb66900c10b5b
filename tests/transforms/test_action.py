"""Actions, against gymnasium and by hand."""

import types

import gymnasium
import numpy as np
import pytest
import torch
from torch.func import vmap

from funrl import envs, random, tree
from funrl.spaces import Box, Discrete, MultiDiscrete
from funrl.transforms import action_discretize, action_mask, action_scale, sticky_actions
from tests.oracles import gymnasium_twin as twin
from tests.transforms import toys

KEY = random.key(0)


def recorder(space, mask=None):
    """An environment that shows the action it got as its reward (several: summed up in thousands)."""
    env = toys.arcade("position", max_steps=1000)

    def step(key, state, action, env_params):
        state, timestep = env.step(key, state, torch.tensor(0), env_params)
        weights = 1000.0 ** torch.arange(action.numel())
        return state, timestep.replace(reward=(action.flatten() * weights).sum(), terminated=timestep.terminated & False)

    return env._replace(step=step, action_space=space)


def carried_out(env, action):
    """The action that arrives below."""
    state, _ = env.reset(KEY, env.default_params)
    return env.step(KEY, state, action, env.default_params)[1].reward


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (0.0, 5.0), ([[-1.0, 0.0]], [[0.5, 0.25]])])
def test_action_scale_is_that_of_gymnasium(low, high):
    def bound(x):
        return torch.tensor(x) if isinstance(x, list) else x

    def wrap(env):
        return gymnasium.wrappers.RescaleAction(env, np.float32(low), np.float32(high))

    env = toys.arcade("position", continuous=True)
    twin.assert_agree(env, action_scale(bound(low), bound(high)), wrap, tolerance=1e-5)
    assert action_scale(bound(low), bound(high))(env).action_space == Box(low, high, (1, 2))


def test_action_scale_by_hand():
    env = action_scale()(recorder(Box(-2.0, 6.0, (1,))))
    assert [carried_out(env, torch.tensor([x])).item() for x in (-1.0, 0.0, 0.5, 1.0, 2.0)] == [-2.0, 2.0, 4.0, 6.0, 10.0]
    assert carried_out(env, torch.tensor([0.5], dtype=torch.float64)).dtype == torch.float64


@pytest.mark.parametrize("bins", [1, 4, [3, 7]])
def test_action_discretize_is_that_of_gymnasium(bins):
    def wrap(env):
        return gymnasium.wrappers.DiscretizeAction(env, bins, multidiscrete=True)

    twin.assert_agree(toys.arcade("position", continuous=True), action_discretize(bins), wrap, tolerance=1e-5)


def test_action_discretize_of_one_number_is_discrete():
    env = envs.make("Pendulum-v1")

    def wrap(env):
        return gymnasium.wrappers.DiscretizeAction(env, 9)

    for timestep, observation, *_ in twin.play_both(env, action_discretize(9), wrap, num_steps=30):
        np.testing.assert_allclose(timestep.observation, observation, rtol=1e-5, atol=1e-5)
    assert action_discretize(9)(env).action_space == Discrete(9)
    assert [carried_out(action_discretize(4)(recorder(Box(0.0, 8.0, (1,)))), torch.tensor(i)).item() for i in range(4)] == [1, 3, 5, 7]


@pytest.mark.parametrize("continuous", [False, True])
def test_sticky_actions_are_those_of_gymnasium(continuous):
    """Their random number is replayed: 0 where ours repeats, 1 where it does not."""
    env = toys.arcade("position", continuous=continuous, max_steps=20)
    ours = sticky_actions(0.5)(env)
    keys, reset_key, action_key = random.split(random.key(4), (30,)), random.key(5), random.split(random.key(6), (30,))
    below, own = zip(*[random.split(key).unbind(0) for key in keys.unbind(0)], strict=True)
    theirs = gymnasium.wrappers.StickyAction(twin.Twin(env, [reset_key] * 99, below), 0.5)
    state, _ = ours.reset(reset_key, env.default_params)
    theirs.reset()
    repeated = 0
    for t in range(30):
        action = ours.action_space.sample(action_key[t])
        repeat = random.bernoulli(own[t], 0.5)
        theirs.np_random = types.SimpleNamespace(uniform=lambda repeat=repeat: 0.0 if repeat else 1.0, integers=lambda low, high: low)
        before = state.own
        state, timestep = ours.step(keys[t], state, action, env.default_params)
        observation, reward, terminated, truncated, _ = theirs.step(action.numpy())
        np.testing.assert_allclose(timestep.observation, observation, rtol=1e-6)
        np.testing.assert_allclose(timestep.reward, reward, rtol=1e-5)
        repeated += bool(before.taken) and bool(repeat) and not torch.equal(action, state.own.action)
        if terminated or truncated:
            state, _ = ours.reset(reset_key, env.default_params)
            theirs.reset()
            assert not state.own.taken
    assert repeated > 3


def test_sticky_actions_repeat_what_was_carried_out_with_the_given_probability():
    env = sticky_actions(0.3)(recorder(Discrete(1000)))
    number = 4000
    state, _ = vmap(env.reset, (0, None))(random.split(KEY, number), env.default_params)
    step = vmap(env.step, (0, 0, None, None))
    for t, expected in ((1, [1.0, 0.0, 0.0]), (2, [0.3, 0.7, 0.0]), (3, [0.09, 0.21, 0.7])):
        state, timestep = step(random.split(random.fold_in(KEY, t), number), state, torch.tensor(t), env.default_params)
        share = [(timestep.reward == action).double().mean().item() for action in (1, 2, 3)]
        assert share == pytest.approx(expected, abs=0.03)


def test_sticky_actions_keep_float64():
    env = sticky_actions(1.0)(envs.make("Pendulum-v1"))
    state, _ = env.reset(KEY, tree.to(env.default_params, torch.float64))
    assert state.own.action.dtype == torch.float64
    state, _ = env.step(KEY, state, torch.tensor([0.5]), tree.to(env.default_params, torch.float64))
    assert state.own.action.dtype == torch.float64 and state.own.action == 0.5


@pytest.mark.parametrize("start", [0, 5])
def test_action_mask_draws_uniformly_among_what_is_allowed(start):
    below = recorder(Discrete(4, start))
    allowed = torch.tensor([True, False, True, True])

    def masked(result):
        return result[0], result[1].replace(info={"mask": allowed.to(torch.int8)})

    env = action_mask("mask")(
        below._replace(
            reset=lambda key, params: masked(below.reset(key, params)),
            step=lambda key, state, action, params: masked(below.step(key, state, action, params)),
        )
    )
    number = 6000
    keys = random.split(KEY, (3, number))
    state, timestep = vmap(env.reset, (0, None))(keys[0], env.default_params)
    assert torch.equal(timestep.observation["mask"], allowed.expand(number, 4)) and timestep.observation["mask"].dtype == torch.bool
    actions = vmap(env.action_space.sample)(keys[1])
    done = vmap(env.step, (0, 0, 0, None))(keys[2], state, actions, env.default_params)[1].reward - start
    chosen = actions - start
    assert torch.equal(done[chosen != 1], chosen[chosen != 1].float())
    for group in (done, done[chosen == 1]):
        shares = [(group == action).double().mean().item() for action in range(4)]
        assert shares == pytest.approx([1 / 3, 0, 1 / 3, 1 / 3], abs=0.04)


def test_action_mask_is_that_of_the_state_that_is_left():
    env = action_mask("mask")(toys.arcade(("mask",)))
    state, timestep = env.reset(KEY, env.default_params)
    for t in range(4):
        assert torch.equal(state.own, timestep.observation["mask"])
        state, timestep = env.step(random.fold_in(KEY, t), state, torch.tensor(0), env.default_params)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: action_scale()(toys.arcade()), ValueError, r"action_scale: the action: expected floating-point numbers .*, got Discrete"),
        (lambda: action_scale()(recorder(Box(0.0, float("inf"), (1,)))), ValueError, "the action: expected finite bounds, got low="),
        (lambda: action_scale(1, 1)(envs.make("Pendulum-v1")), ValueError, "action_scale: expected low < high everywhere, got low=1"),
        (lambda: action_scale(torch.zeros(3))(envs.make("Pendulum-v1")), ValueError, "do not broadcast"),
        (lambda: action_discretize(3)(toys.arcade()), ValueError, "action_discretize: the action: expected floating-point"),
        (lambda: action_discretize(0), ValueError, "action_discretize: bins: expected an integer of at least 1, got 0"),
        (lambda: action_discretize([2, 2.0]), TypeError, "action_discretize: bins: expected an integer of at least 1, got 2.0"),
        (
            lambda: action_discretize([2, 2])(envs.make("Pendulum-v1")),
            ValueError,
            r"expected 2 numbers, as many as bins, got float32 \[1\]",
        ),
        (lambda: sticky_actions(1.5), ValueError, r"sticky_actions: probability: expected a number in \[0, 1\], got 1.5"),
        (lambda: sticky_actions(None), TypeError, "sticky_actions: probability: expected a number, got None"),
        (lambda: action_mask()(toys.arcade(continuous=True)), ValueError, "action_mask: the action: expected Discrete, got float32"),
        (
            lambda: action_mask("level")(toys.arcade()),
            ValueError,
            r"action_mask: observation\['level'\]: expected a mask \[3\], got Discrete",
        ),
        (lambda: action_mask(3)(toys.arcade()), TypeError, "action_mask: in_key: expected a string, got an int"),
        (
            lambda: action_mask()(toys.arcade()).reset(KEY, toys.arcade().default_params),
            ValueError,
            r"action_mask: in_key: expected an entry 'action_mask' in .* or in info, got a dict .* and \['energy', 'lives', 'mask'\]",
        ),
        (lambda: action_mask("lives")(toys.arcade("level")).reset(KEY), ValueError, r"info\['lives'\]: expected a mask \[3\], got \[\]"),
    ],
)
def test_bad_settings_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_bad_actions_are_named():
    for transform, good, bad in (
        (action_scale(), torch.tensor([0.5]), torch.tensor(1)),
        (action_discretize(3), torch.tensor(1), torch.tensor([0.5])),
        (sticky_actions(), torch.tensor([0.5]), torch.tensor(1)),
    ):
        env = transform(envs.make("Pendulum-v1"))
        state, _ = env.reset(KEY)
        env.step(KEY, state, good)
        with pytest.raises(TypeError, match=rf"{env.label.split('(')[0]}: action: expected"):
            env.step(KEY, state, bad)
    assert action_discretize(3)(toys.arcade(continuous=True)).action_space == MultiDiscrete((3, 3))
