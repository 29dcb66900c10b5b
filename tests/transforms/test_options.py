"""Options against a loop over the steps of the environment below, and the discount that learners get from them."""

import pytest
import torch
from torch.func import vmap

import funrl
from funrl import algos, envs, random, transforms, tree
from funrl.env import check_env

GAMMA, K = 0.8, 3


def steer(params, key, observation):
    """A random policy of an option: one of two actions, by a logit that the observation shifts."""
    return random.bernoulli(key, (params["logit"] + observation[2]).sigmoid()).long(), {}


def stop(params, key, observation):
    return random.bernoulli(key, params["stop"])


POLICIES = {"logit": torch.tensor([-2.0, 0.0, 2.0], dtype=torch.float64), "stop": torch.tensor([0.0, 0.3, 0.9], dtype=torch.float64)}


def cartpole(max_steps=500):
    env = envs.make("CartPole-v1")
    params = env.default_params.replace(max_steps=torch.tensor(max_steps))
    return env._replace(default_params=tree.to(params, torch.float64))


def optional(num_steps=5, terminate=stop, max_steps=500):
    return transforms.options(steer, POLICIES, num_steps=num_steps, gamma=GAMMA, terminate=terminate)(cartpole(max_steps))


def naive(env, key, state, observation, option, num_steps, terminate):
    """Play an option step by step in Python; return the sum of rewards, the discount and the last timestep."""
    params, total, m = tree.index(POLICIES, option), 0.0, 0
    for each in random.split(key, num_steps):
        act_key, step_key, stop_key = random.split(each, 3)
        state, timestep = env.step(step_key, state, steer(params, act_key, observation)[0], env.default_params)
        observation = timestep.observation
        total, m = total + GAMMA**m * timestep.reward.item(), m + 1
        if timestep.terminated or timestep.truncated or (terminate and stop(params, stop_key, observation)):
            break
    return total, m, state, timestep


@pytest.mark.parametrize(("num_steps", "terminate"), [(5, stop), (4, None), (1, None), (30, stop)])
def test_agrees_with_a_loop(num_steps, terminate):
    env, below = optional(num_steps, terminate, max_steps=23), cartpole(23)
    lengths, ends = set(), set()
    for seed in range(6):
        key = random.key(seed)
        state, timestep = env.reset(key)
        assert timestep.discount == 1 and timestep.reward == 0
        twin, first = below.reset(key)
        observation = first.observation
        for i in range(12):
            step_key, option = random.fold_in(key, i), (seed + i) % K
            state, timestep = env.step(step_key, state, torch.tensor(option))
            total, m, twin, last = naive(below, step_key, twin, observation, option, num_steps, terminate)
            observation = last.observation
            assert timestep.reward.item() == pytest.approx(total, rel=1e-12) and timestep.discount.item() == pytest.approx(GAMMA**m)
            assert tree.allclose(state.below, twin) and tree.allclose(timestep.observation, observation)
            assert (timestep.terminated, timestep.truncated) == (last.terminated, last.truncated)
            lengths.add(m)
            ends.add((bool(last.terminated), bool(last.truncated)))
            if last.done:
                break
    assert num_steps == 1 or (len(lengths) > 1 and len(ends) > 1)


def test_keeps_the_contract_and_policies_differ_between_copies():
    env = optional()
    check_env(env, random.key(0))
    assert env.action_space == funrl.spaces.Discrete(K) and env.max_episode_steps == 500
    assert optional(4, None).max_episode_steps == 125 and "options(num_options=3, num_steps=5, gamma=0.8)" in repr(env)
    params = tree.stack([env.default_params, env.default_params.replace(policies={**POLICIES, "stop": torch.ones(3, dtype=torch.float64)})])
    state, _ = env.reset(random.key(0))
    _, timestep = vmap(env.step, (None, None, None, 0))(random.key(1), state, torch.tensor(0), params)
    torch.testing.assert_close(timestep.discount, torch.tensor([GAMMA**5, GAMMA], dtype=torch.float64))


def test_a_rollout_has_the_discounts_and_they_reach_the_buffer_and_the_target():
    env, seen = optional(max_steps=23), []

    def loss(params, target, batch, *, default, gamma, **options):
        seen.append((batch, gamma))
        return default(params, target, batch, gamma=gamma, **options)

    algo = algos.dqn.make(
        env, num_envs=2, num_steps=8, num_updates=1, batch_size=64, num_cells=(4,), learning_starts=0, loss=loss, gamma=0.5
    )
    state = algo.init(random.key(0))
    actor, transitions = algo.collect(random.key(1), state)
    discount = transitions.extras["discount"]
    assert discount.shape == (8, 2) and len(discount.unique()) > 2 and actor.timestep.discount.shape == (2,)
    again, _ = algo.collect(random.key(1), algo.init(random.key(0)))
    assert tree.structure(actor) == tree.structure(state.actor) == tree.structure(again)
    learner, _ = algo.learn(random.key(2), state.learner, transitions)
    assert torch.equal(learner.buffer.data.extras["discount"][:16], discount.reshape(-1))
    batch, gamma = seen[0]
    torch.testing.assert_close(gamma, batch.extras["discount"])
    assert (gamma != 0.5).any()


def test_advantages_bootstrap_with_the_discount_of_each_step():
    env, seen = optional(max_steps=23), []

    def loss(params, rows, hparams, *, default, apply):
        seen.append((rows, apply))
        return default(params, rows, hparams)

    algo = algos.a2c.make(env, num_envs=2, num_steps=8, num_cells=(4,), loss=loss, lambda_=0.0, gamma=0.5)
    state = algo.init(random.key(0))
    _, x = algo.collect(random.key(1), state)
    algo.learn(random.key(2), state.learner, x)
    rows, apply = seen[0]
    _, value = apply(state.learner.params.network, x.next_observation.reshape(16, -1))
    expected = x.reward.reshape(-1) + x.extras["discount"].reshape(-1) * torch.where(x.terminated.reshape(-1), 0.0, value)
    torch.testing.assert_close(rows.target, expected)


@pytest.mark.parametrize("name", ["ppo", "impala", "pqn", "reinforce", "option_critic"])
def test_on_policy_learners_take_it(name):
    algo = algos.make(
        name,
        optional(max_steps=9),
        num_envs=2,
        num_steps=4,
        num_cells=(4,),
        **({"num_minibatches": 1} if name in ("ppo", "impala", "pqn") else {}),
    )
    _, metrics = algo.step(random.key(1), algo.init(random.key(0)))
    assert metrics["gradient_norm"].isfinite()


def test_the_values_are_those_of_the_semi_markov_process():
    """Walk left or right on CartPole's clock: with reward 1 a step and no end, an option of any length is worth 1 / (1 - gamma)."""
    below = cartpole(10**6)

    def step(key, state, action, env_params=below.default_params):
        state, timestep = below.step(key, state, action, env_params)
        return state, timestep.replace(terminated=torch.zeros_like(timestep.terminated))

    env = transforms.options(steer, POLICIES, num_steps=6, gamma=GAMMA, terminate=stop)(below._replace(step=step))
    actor = funrl.acting.start(random.key(0), env=env, num_envs=4)
    _, x = funrl.rollout((), random.key(1), actor, env.default_params, env=env, num_steps=10)
    value = torch.full_like(x.reward, 1 / (1 - GAMMA))
    _, target = funrl.returns.gae(x.reward, value, value, x.terminated, x.truncated, gamma=x.extras["discount"], lambda_=0.9)
    assert len(x.extras["discount"].unique()) > 3
    torch.testing.assert_close(target, value)


@pytest.mark.parametrize("kind", ["options", "frame_skip", "batch", "trials"])
def test_transforms_above_keep_the_discount(kind):
    """CartPole gives 1 in each step: options of 2 steps are worth 1 + g with the discount g^2, and so on."""
    pair = transforms.options(steer, POLICIES, num_steps=2, gamma=GAMMA)(cartpole())
    steps = 4 if kind == "options" else 2 if kind == "trials" else 6
    if kind == "options":  # its own gamma has no use
        env = transforms.options(lambda params, key, observation: (params, {}), torch.arange(K), num_steps=2, gamma=0.1)(pair)
    elif kind == "trials":
        same = funrl.envs.tasks.Tasks("same", pair, pair.default_params, lambda key, params, held_out: params, lambda params: params)
        env = funrl.meta.trials(same, 2)(pair)
    else:
        env = transforms.frame_skip(3)(pair if kind == "frame_skip" else envs.vectorize(pair, 2))
    state, timestep = env.reset(random.key(0))
    _, timestep = env.step(random.key(1), state, torch.ones_like(timestep.reward, dtype=torch.int64))
    torch.testing.assert_close(timestep.reward, torch.full_like(timestep.reward, (1 - GAMMA**steps) / (1 - GAMMA)))
    torch.testing.assert_close(timestep.discount, torch.full_like(timestep.reward, GAMMA**steps))


def test_learners_that_would_ignore_the_discount_refuse_it():
    env = optional()
    for make in (lambda: algos.make("ars", env), lambda: algos.make("meta_a2c", env)):
        with pytest.raises(ValueError, match="steps all have the learner's discount, got CartPole-v1 with discounts of its own"):
            make().init(random.key(0))
    for options in (dict(n_step=2),):
        with pytest.raises(ValueError, match="n_step, buffer: expected n_step = 1"):
            algos.dqn.make(env, **options).init(random.key(0))


def test_wrong_arguments():
    for options, message in (
        (dict(act=3), "options: act: expected a function"),
        (dict(terminate=3), "options: terminate: expected a function or None"),
        (dict(num_steps=0), "options: num_steps: expected an integer of at least 1"),
        (dict(gamma=1.5), "options: gamma: expected a number in"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            transforms.options(**{"act": steer, "policies": POLICIES, "num_steps": 2, "gamma": 0.9, **options})
    with pytest.raises(TypeError, match="options: env: expected an Env"):
        transforms.options(steer, POLICIES, num_steps=2, gamma=0.9)(envs.vectorize(cartpole(), 2))
    env = transforms.options(lambda params, key, observation: params, torch.arange(2), num_steps=2, gamma=0.9)(cartpole())
    with pytest.raises(TypeError, match=r"options: act: expected it to return the pair \(action, extras\), got a Tensor"):
        env.step(random.key(0), env.reset(random.key(0))[0], torch.tensor(0))
    env = optional(terminate=lambda params, key, observation: params["stop"])
    with pytest.raises(TypeError, match="options: terminate: expected a bool tensor"):
        env.step(random.key(0), env.reset(random.key(0))[0], torch.tensor(0))
