import math

import chex
import pytest
import torch
from torch.func import vmap

from funrl import compiler, nn, policies, random, schedules, spaces, tree

KEY = random.key(0)
IDENTITY = nn.sequential(lambda x: x)
PARAMS = ((),)
GREEDY, PLAIN = policies.q_value(IDENTITY), policies.deterministic(IDENTITY)
BOX = spaces.Box([-1.0, -2.0], [1.0, 3.0])
NO, YES = torch.zeros(()).bool(), torch.ones(()).bool()


def batch(policy, x):
    return vmap(policy.start, (None, 0))(PARAMS, x)


def test_epsilon_greedy_plays_each_action_as_often_as_it_should():
    policy = policies.epsilon_greedy(GREEDY, spaces.Discrete(4), 0.4)
    x = torch.tensor([0.0, 5.0, 1.0, 2.0]).expand(40000, 4)
    state, action, extras = policy.act(PARAMS, KEY, batch(policy, x), x, torch.zeros(40000).bool())
    frequencies = torch.bincount(action, minlength=4) / 40000
    torch.testing.assert_close(frequencies, torch.tensor([0.1, 0.7, 0.1, 0.1]), atol=0.01, rtol=0)
    assert torch.equal(state.count, torch.ones(40000, dtype=torch.int64)) and (extras["value"] == 5).all()


def test_epsilon_is_annealed_by_the_steps_of_each_copy():
    policy = policies.epsilon_greedy(GREEDY, spaces.Discrete(4), schedules.linear(1.0, 0.0, 100))
    x = torch.tensor([0.0, 5.0, 1.0, 2.0]).expand(4000, 4)
    state = batch(policy, x)
    for count, low, high in ((0, 0.73, 0.77), (50, 0.35, 0.40), (100, 0.0, 0.0)):
        state = state.replace(count=torch.full((4000,), count))
        _, action, _ = policy.act(PARAMS, KEY, state, x, torch.ones(4000).bool())
        assert low <= (action != 1).float().mean() <= high
    state = state.replace(count=torch.tensor([0, 100]).repeat(2000))
    _, action, _ = policy.act(PARAMS, KEY, state, x, torch.ones(4000).bool())
    assert (action[1::2] == 1).all() and (action[::2] != 1).any()


@pytest.mark.parametrize("epsilon", [0.0, 1.0])
def test_epsilon_greedy_takes_any_space_and_one_hot_actions(epsilon):
    cases = [
        (PLAIN, spaces.MultiDiscrete((3, 5)), torch.tensor([2, 4])),
        (PLAIN, BOX, torch.tensor([0.5, 2.5])),
        (PLAIN, spaces.Dict({"a": spaces.Discrete(3), "b": spaces.Binary((2,))}), {"a": torch.tensor(2), "b": torch.tensor([True, False])}),
        (policies.q_value(IDENTITY, encoding="one_hot"), spaces.Discrete(3), torch.tensor([0.0, 1.0, 0.5])),
    ]
    for base, space, x in cases:
        policy = policies.epsilon_greedy(base, space, epsilon)
        greedy = base.act(PARAMS, KEY, x)[0]
        many = tree.map(lambda y: y.expand(200, *y.shape), x)
        _, action, _ = policy.act(PARAMS, KEY, vmap(policy.start, (None, 0))(PARAMS, many), many, torch.zeros(200).bool())
        for y, z in zip(tree.leaves(action), tree.leaves(greedy), strict=True):
            assert y.shape == (200, *z.shape) and y.dtype == z.dtype
        same = torch.stack([(y == z).flatten(1).all(1) if y.ndim > 1 else y == z
                            for y, z in zip(tree.leaves(action), tree.leaves(greedy), strict=True)]).all(0)  # fmt: skip
        assert same.all() if epsilon == 0 else not same.all()
        if isinstance(space, spaces.Discrete):
            assert torch.equal(action.sum(-1), torch.ones(200))
        else:
            assert vmap(space.contains)(action).all()


def test_gaussian_noise_has_its_scale_and_stays_in_the_box():
    policy = policies.additive_gaussian(PLAIN, BOX, schedules.linear(0.2, 0.0, 10))
    x = torch.zeros(20000, 2)
    state, action, _ = policy.act(PARAMS, KEY, batch(policy, x), x, torch.zeros(20000).bool())
    torch.testing.assert_close(action.std(0), torch.full((2,), 0.2), atol=0.005, rtol=0)
    torch.testing.assert_close(action.mean(0), torch.zeros(2), atol=0.006, rtol=0)
    assert abs(torch.corrcoef(action.T)[0, 1]) < 0.03
    late = state.replace(count=state.count + 9)
    assert torch.equal(policy.act(PARAMS, KEY, late, x, torch.zeros(20000).bool())[1], x)
    wide = policies.additive_gaussian(PLAIN, BOX, torch.tensor(10.0))
    _, action, _ = wide.act(PARAMS, KEY, batch(wide, x), x, torch.zeros(20000).bool())
    assert torch.equal(action.amin(0), BOX.low) and torch.equal(action.amax(0), BOX.high)


def test_ornstein_uhlenbeck_is_the_recursion_and_resets_with_the_episode():
    theta, sigma, dt = 0.3, 0.5, 0.1
    policy = policies.ornstein_uhlenbeck(PLAIN, spaces.Box(-9.0, 9.0, (2,)), 0.7, theta=theta, sigma=sigma, dt=dt)
    x = random.normal(KEY, (3, 2))
    state = batch(policy, x)
    chex.assert_shape(state.noise, (3, 2))
    noise = torch.zeros(3, 2)
    for t in range(6):
        key = random.key(t)
        reset = torch.tensor([t == 3, False, t == 0])
        drawn = random.normal(random.split(key)[1], (3, 2))
        noise = torch.where(reset[:, None], 0.0, noise)
        noise = noise - theta * noise * dt + sigma * math.sqrt(dt) * drawn
        state, action, _ = policy.act(PARAMS, key, state, x, reset)
        torch.testing.assert_close(state.noise, noise)
        torch.testing.assert_close(action, x + 0.7 * noise)
    assert torch.equal(state.count, torch.full((3,), 6))


def test_ornstein_uhlenbeck_has_the_stationary_moments():
    """Variance sigma^2 dt / (1 - (1 - theta dt)^2), and correlation 1 - theta dt from step to step."""
    policy = policies.ornstein_uhlenbeck(PLAIN, spaces.Box(-99.0, 99.0, (1,)), theta=1.0, sigma=0.6, dt=0.2)
    x = torch.zeros(20000, 1)
    state, off = batch(policy, x), torch.zeros(20000).bool()
    for t in range(40):
        before = state.noise
        state, _, _ = policy.act(PARAMS, random.key(t), state, x, off)
    variance = 0.36 * 0.2 / (1 - 0.8**2)
    assert abs(state.noise.var() / variance - 1) < 0.04
    assert abs(torch.corrcoef(torch.cat([before, state.noise], 1).T)[0, 1] - 0.8) < 0.01


def test_exploration_on_a_recurrent_policy_keeps_both_states():
    inner = policies.recurrent(nn.gru(4), policies.deterministic(nn.mlp((), 2)))
    policy = policies.ornstein_uhlenbeck(inner, BOX)
    x = random.normal(KEY, (5,))
    params = policy.init(KEY, x)
    state = policy.start(params, x)
    new, action, _ = policy.act(params, KEY, state, x, NO)
    h, _, _ = inner.act(params, KEY, state.policy, x, NO)
    assert torch.equal(new.policy, h) and BOX.contains(action)
    cleared, _, _ = policy.act(params, KEY, new, x, YES)
    torch.testing.assert_close(cleared.policy, h)


def explore(key, x):
    """All three, single copies, a few steps with a reset."""
    results = []
    for policy in (
        policies.epsilon_greedy(GREEDY, spaces.Discrete(2), schedules.cosine(1.0, 0.1, 5)),
        policies.additive_gaussian(PLAIN, BOX, 0.3),
        policies.ornstein_uhlenbeck(PLAIN, BOX, schedules.linear(1.0, 0.5, 3)),
    ):
        state = policy.start(PARAMS, x)
        for t, k in enumerate(random.split(key, 3).unbind(0)):
            state, action, extras = policy.act(PARAMS, k, state, x, torch.full((), t == 1))
            results += [state, action, extras]
    return results


def test_compiled_and_vmapped_agree_with_a_loop():
    keys, x = random.split(KEY, 3), random.normal(random.key(1), (3, 2))
    expected = tree.stack([explore(*row) for row in zip(keys, x, strict=True)])
    batched, compiled = vmap(explore)(keys, x), compiler.compile(vmap(explore), backend="aot_eager")(keys, x)
    for want, one, two in zip(tree.leaves(expected), tree.leaves(batched), tree.leaves(compiled), strict=True):
        torch.testing.assert_close(one, want)
        torch.testing.assert_close(two, want)


def acted(policy, x, reset=NO):
    return policy.act(PARAMS, KEY, policy.start(PARAMS, x), x, reset)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: policies.epsilon_greedy(IDENTITY, spaces.Discrete(2), 0.1), TypeError, "epsilon_greedy: policy: expected a policy"),
        (lambda: policies.epsilon_greedy(GREEDY, 2, 0.1), TypeError, "space: expected a space of funrl.spaces, got a int"),
        (lambda: policies.epsilon_greedy(GREEDY, spaces.Discrete(2), 1.5), ValueError, r"epsilon: expected a number in \[0, 1\], got 1.5"),
        (lambda: policies.epsilon_greedy(GREEDY, spaces.Discrete(2), "0.1"), TypeError, "epsilon: expected a number .* got a str"),
        (lambda: policies.epsilon_greedy(GREEDY, spaces.Discrete(2), torch.zeros(2)), TypeError, r"epsilon: .*got float32 \[2\]"),
        (lambda: policies.additive_gaussian(PLAIN, spaces.Discrete(2), 0.1), TypeError, "expected a floating-point Box, .*use epsilon"),
        (lambda: policies.additive_gaussian(PLAIN, BOX, -0.1), ValueError, "scale: expected a number of at least 0, got -0.1"),
        (lambda: policies.ornstein_uhlenbeck(PLAIN, BOX, theta=-1.0), ValueError, "theta: expected a number of at least 0, got -1.0"),
        (lambda: policies.ornstein_uhlenbeck(PLAIN, BOX, dt=0.0), ValueError, "dt: expected a number above 0, got 0.0"),
        (lambda: acted(policies.epsilon_greedy(PLAIN, BOX, 0.5), torch.zeros(3)), ValueError, r"policy's action.*float32 \[3\]"),
        (
            lambda: acted(policies.epsilon_greedy(policies.q_value(IDENTITY, encoding="one_hot"), spaces.Discrete(2), 0.5), torch.zeros(3)),
            ValueError,
            r"one-hot actions \[..., 2\], got the shape \[3\]",
        ),
        (lambda: acted(policies.additive_gaussian(PLAIN, BOX, 0.5), torch.zeros(2), NO.float()), TypeError, "reset: expected a bool"),
        (lambda: acted(policies.ornstein_uhlenbeck(PLAIN, BOX), torch.zeros(2), YES.expand(2, 1)), ValueError, r"bool tensor .*\[2, 1\]"),
    ],
)  # fmt: skip
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
