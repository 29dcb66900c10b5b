"""compose, parent, repr, and what builds an environment from functions of a single copy."""

import pytest
import torch

from funrl import algos, envs, random, tree
from funrl.transforms import (
    TransformState,
    compose,
    flatten_observation,
    frame_stack,
    noop_reset,
    parent,
    reward_clip,
    reward_scale,
    sticky_actions,
    time_limit,
    vec_norm,
)
from tests.transforms import toys

KEY = random.key(0)
CARTPOLE = envs.make("CartPole-v1")


def test_repr_of_a_plain_environment():
    assert repr(CARTPOLE) == "Env(CartPole-v1)"
    assert repr(toys.host(CARTPOLE, 3)) == "VectorEnv(CartPole-v1, num_envs=3, host=True)"


def test_repr_shows_the_chain_with_the_batch_in_it():
    env = compose(CARTPOLE, time_limit(9), lambda env: envs.vectorize(env, 2), reward_scale(0.5))
    assert str(env) == "\n".join(
        [
            "compose(",
            "    Env(CartPole-v1),",
            "    time_limit(max_steps=9),",
            "    vectorize(num_envs=2),",
            "    reward_scale(scale=0.5, loc=0.0),",
            ")",
        ]
    )


def test_parent_walks_down_the_chain():
    one = time_limit(9)(CARTPOLE)
    two = reward_clip()(one)
    assert parent(two) is one and parent(one) is CARTPOLE and parent(CARTPOLE) is None
    with pytest.raises(TypeError, match="parent: env: expected an Env or a VectorEnv, got a str"):
        parent("CartPole-v1")


def test_compose_applies_the_first_next_to_the_environment():
    scaled_then_clipped = compose(CARTPOLE, reward_scale(5.0), reward_clip(-2, 2))
    clipped_then_scaled = compose(CARTPOLE, reward_clip(-2, 2), reward_scale(5.0))
    rewards = [env.step(KEY, env.reset(KEY)[0], torch.tensor(0))[1].reward.item() for env in (scaled_then_clipped, clipped_then_scaled)]
    assert rewards == [2.0, 5.0]
    assert compose(CARTPOLE) is CARTPOLE


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("CartPole-v1",), "env: expected an Env or a VectorEnv, got a str"),
        ((CARTPOLE, "time_limit"), "transform 1: expected a function, got a str"),
        ((CARTPOLE, time_limit(3), lambda env: None), "transform 2: expected a function that returns an environment, got None"),
    ],
)
def test_compose_refuses_what_is_no_transform(arguments, message):
    with pytest.raises(TypeError, match=message):
        compose(*arguments)


def test_a_factory_that_was_not_called_is_named():
    with pytest.raises(TypeError, match=r"time_limit: max_steps: expected an integer of at least 1, got .*Env"):
        compose(CARTPOLE, time_limit)


def test_a_state_of_the_environment_below_is_refused():
    env = frame_stack(2)(CARTPOLE)
    state, _ = CARTPOLE.reset(KEY)
    with pytest.raises(TypeError, match=r"frame_stack\(.*\): state: expected a TransformState, got a CartPoleState"):
        env.step(KEY, state, torch.tensor(0))
    with pytest.raises(TypeError, match="state: expected a TransformState"):
        env.render(state)


def test_what_remembers_nothing_leaves_the_state_as_it_is():
    state, _ = compose(CARTPOLE, reward_clip(), reward_scale(2.0)).reset(KEY)
    assert type(state) is type(CARTPOLE.reset(KEY)[0])
    state, _ = compose(CARTPOLE, reward_clip(), time_limit(3), frame_stack(2)).reset(KEY)
    assert isinstance(state, TransformState) and isinstance(state.below, TransformState)
    assert state.below.own == 0 and state.own[0].shape == (2, 4)


def test_keys_go_on_whole_where_nothing_is_drawn():
    env = compose(CARTPOLE, time_limit(3), frame_stack(2), reward_clip())
    assert torch.equal(env.reset(KEY)[1].observation[-1], CARTPOLE.reset(KEY)[1].observation)


def test_no_key_is_used_twice():
    seen = []

    def watched(env):
        def reset(key, env_params):
            seen.append(key)
            return env.reset(key, env_params)

        def step(key, state, action, env_params):
            seen.append(key)
            return env.step(key, state, action, env_params)

        return env._replace(reset=reset, step=step)

    env = compose(watched(toys.arcade("position")), noop_reset(3), sticky_actions())
    state, _ = env.reset(random.key(1), env.default_params)
    env.step(random.key(2), state, torch.tensor(1), env.default_params)
    keys = torch.stack([random.key(1), random.key(2), *seen])
    assert len(keys.unique()) == len(keys) >= 7


def test_render_and_close_reach_the_environment_below():
    closed = []
    env = envs.vectorize(toys.arcade(), 2)._replace(close=lambda: closed.append(1))
    chain = compose(env, frame_stack(2, in_keys=["position"]), vec_norm(in_keys=["position"]), reward_clip(), time_limit(9))
    with chain:
        state, _ = chain.reset(KEY, chain.default_params)
        below = env.reset(KEY, env.default_params)[0]
        assert torch.equal(chain.render(state, chain.default_params), env.render(below, env.default_params))
    assert closed == [1]


def test_copies_with_params_of_their_own():
    env = compose(envs.vectorize(CARTPOLE, 3), frame_stack(2), time_limit(5))
    params = env.default_params.replace(force=torch.tensor([1.0, 10.0, 30.0]))
    state, _ = env.reset(KEY, params)
    _, timestep = env.step(KEY, state, torch.tensor([1, 1, 1]), params)
    singles = [frame_stack(2)(CARTPOLE)] * 3
    keys = random.split(KEY, 3)
    for i, single in enumerate(singles):
        own = params.replace(force=params.force[i])
        expected = single.step(keys[i], single.reset(keys[i], own)[0], torch.tensor(1), own)[1]
        torch.testing.assert_close(tree.index(timestep.observation, i), expected.observation)


def test_a_learner_takes_it_as_any_environment():
    env = compose(CARTPOLE, frame_stack(2), flatten_observation(), reward_scale(0.1), time_limit(6))
    algo = algos.ppo.make(env, num_envs=2, num_steps=8, num_epochs=1, num_minibatches=1, num_cells=(4,))
    _, metrics = algo.step(random.key(1), algo.init(random.key(0)))
    assert metrics["episode_length"] <= 6 and metrics["episode_return"] <= 0.6 + 1e-6
