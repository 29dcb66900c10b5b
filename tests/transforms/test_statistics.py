"""vec_norm: statistics that are the learner's, in compiled rollouts, against gymnasium and NumPy."""

import gymnasium
import numpy as np
import pytest
import torch
from torch.func import vmap

import funrl
from funrl import envs, random, stats, tree
from funrl.transforms import VecNormParams, compose, frame_stack, step_counter, update_vec_norm, vec_norm
from tests.oracles import gymnasium_twin as twin
from tests.transforms import toys

T, B, UPDATES = 8, 4, 3


def test_it_is_the_frozen_normalisation_of_gymnasium():
    env = toys.arcade("position")
    mean, var = np.array([0.5, -1.0, 0.0]), np.array([4.0, 0.25, 1.0])
    moments = stats.Moments(torch.tensor(7), torch.tensor(mean, dtype=torch.float32), torch.tensor(var, dtype=torch.float32))

    def transform(env):
        normed = vec_norm()(env)
        return normed._replace(default_params=normed.default_params.replace(moments=moments))

    def wrap(env):
        normed = gymnasium.wrappers.NormalizeObservation(env)
        normed.update_running_mean = False
        normed.obs_rms.mean, normed.obs_rms.var = mean, var
        return normed

    twin.assert_agree(env, transform, wrap, tolerance=1e-5)


def test_before_the_first_update_nothing_changes():
    env = vec_norm()(toys.arcade("position"))
    plain = toys.arcade("position")
    key = random.key(0)
    ours, theirs = env.reset(key, env.default_params)[1], plain.reset(key, plain.default_params)[1]
    torch.testing.assert_close(ours.observation, theirs.observation)
    assert env.default_params.moments.count == 0 and env.observation_space.high.isinf().all()


def learner(env):
    """A whole program: roll out, bring the statistics up to date, again and again."""

    def act(params, key, observation):
        return random.randint(key, (), 0, 3), {}

    def step(key, carry):
        state, env_params = carry
        state, batch = funrl.rollout(None, key, state, env_params, env=env, act=act, num_steps=T)
        return (state, update_vec_norm(env_params, batch.next_observation, env=env)), batch

    return step


def begin(env, key):
    return funrl.acting.start(key, env=env, num_envs=B), env.default_params


def test_the_statistics_of_a_compiled_learner_are_those_of_what_it_saw():
    env = compose(toys.arcade(("position", "velocity", "level")), vec_norm(in_keys=["position"], out_keys=["scaled"]))
    program = funrl.compile(learner(env), backend="aot_eager")
    carry, raw = begin(env, random.key(0)), []
    for i in range(UPDATES):
        before = carry[1].moments
        carry, batch = program(random.fold_in(random.key(1), i), carry)
        seen = batch.next_observation["position"].reshape(-1, 3).double()
        scaled = batch.next_observation["scaled"].reshape(-1, 3)
        expected = (seen - before.mean["scaled"]) / (before.var["scaled"] + 1e-8).sqrt()
        torch.testing.assert_close(scaled.double(), expected, rtol=1e-4, atol=1e-4)
        raw.append(seen.numpy())
    moments, raw = carry[1].moments, np.concatenate(raw)
    assert moments.count == len(raw) == UPDATES * T * B
    np.testing.assert_allclose(moments.mean["scaled"], raw.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(moments.var["scaled"], raw.var(0), rtol=1e-4, atol=1e-5)


def test_each_agent_of_an_ensemble_has_its_own_statistics():
    env = vec_norm()(toys.arcade("position"))
    step, keys = learner(env), random.split(random.key(3), (2, 2))
    states, params = zip(*[begin(env, key) for key in keys[0].unbind(0)], strict=True)
    both, _ = vmap(step)(keys[1], (tree.stack(states), tree.stack(params)))
    singles = [step(keys[1, i], (states[i], params[i]))[0] for i in range(2)]
    for x, y in zip(tree.leaves(both), tree.leaves(tree.stack(singles)), strict=True):
        torch.testing.assert_close(x, y)
    assert not torch.equal(both[1].moments.mean[0], both[1].moments.mean[1])


def test_the_state_holds_no_statistics_and_a_reset_clears_none():
    env, plain = vec_norm()(toys.arcade("position")), toys.arcade("position")
    assert type(env.reset(random.key(0), env.default_params)[0]) is type(plain.reset(random.key(0), plain.default_params)[0])


def test_below_and_above_other_transforms():
    env = compose(toys.arcade("position"), vec_norm(), frame_stack(2), step_counter())
    params = env.default_params.replace(moments=stats.Moments(torch.tensor(1), torch.ones(3), torch.full((3,), 4.0)))
    observation = env.reset(random.key(0), params)[1].observation["observation"]
    expected = (toys.arcade("position").reset(random.key(0))[1].observation - 1) / 2
    torch.testing.assert_close(observation, torch.stack([expected] * 2))


def test_float64_params_normalise_float32_observations_in_float64():
    env = vec_norm()(toys.host(toys.arcade("position")))
    params = VecNormParams(env.default_params.below, tree.to(env.default_params.moments, torch.float64))
    assert env.reset(random.key(0), params)[1].observation.dtype == torch.float64


def test_copies_with_statistics_of_their_own():
    env = vec_norm()(envs.vectorize(envs.make("Pendulum-v1"), 2))
    mean = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    params = env.default_params.replace(moments=stats.Moments(torch.tensor([1, 1]), mean, torch.ones(2, 3)))
    key = random.key(0)
    plain, shifted = env.reset(key)[1].observation, env.reset(key, params)[1].observation
    torch.testing.assert_close(shifted, plain - mean)


def test_bad_arguments_are_named():
    env = toys.arcade()
    with pytest.raises(ValueError, match=r"vec_norm: observation\['pixels'\]: expected floating-point numbers \(a Box\), got uint8"):
        vec_norm(in_keys=["pixels"])(env)
    with pytest.raises(ValueError, match="vec_norm: observation: expected a tensor, got a dict"):
        vec_norm()(env)
    normed = vec_norm(in_keys=["position"])(env)
    with pytest.raises(TypeError, match="vec_norm: env_params: expected VecNormParams, got an ArcadeParams; begin with the environment's"):
        normed.reset(random.key(0), env.default_params)
    with pytest.raises(TypeError, match="expected VecNormParams, got an ArcadeParams"):
        update_vec_norm(env.default_params, torch.zeros(3), env=env)
    with pytest.raises(ValueError, match="the structure of the state"):
        update_vec_norm(normed.default_params, torch.zeros(5, 3), env=normed)
    with pytest.raises(ValueError, match=r"expected torch.float32 \[N..., 3\]"):
        update_vec_norm(normed.default_params, {"position": torch.zeros(5, 4)}, env=normed)
