"""The moments of ``vec_norm`` under learners and collectors, and under other transforms."""

import pytest
import torch

import funrl
from funrl import collectors, random, training, transforms as T, tree

BASE = funrl.envs.make("Pendulum-v1")
ENV = T.compose(BASE, T.vec_norm())
LEARNERS = {
    "ppo": {"num_envs": 4, "num_steps": 16, "num_minibatches": 1, "num_epochs": 1},
    "a2c": {"num_envs": 4, "num_steps": 16},
    "sac": {"num_envs": 4, "num_steps": 16, "num_updates": 1, "batch_size": 8, "learning_starts": 0},
}


@pytest.mark.parametrize("name", LEARNERS)
def test_learners_update_the_moments(name):
    algo = funrl.algos.make(name, ENV, **LEARNERS[name])
    state = algo.init(random.key(0))
    for i in range(3):
        before = state.learner.env_params.moments
        state, _ = algo.step(random.key(i), state)
        assert state.learner.env_params.moments.count == 64 * (i + 1) and not torch.equal(
            before.mean, state.learner.env_params.moments.mean
        )
    wide = state.learner.env_params.moments.var
    assert (wide > 0.01).all() and wide[2] > wide[0]  # the velocity moves more than the cosine
    result = training.evaluate_agents(algo._replace(env=ENV._replace(max_episode_steps=5)), state, random.key(1), 2)
    again = funrl.evaluate(
        state.learner.params,
        random.fold_in(random.split(random.key(1), 1)[0], -1),
        state.learner.env_params,
        env=ENV._replace(max_episode_steps=5),
        act=algo.greedy,
        num_episodes=2,
    )
    assert torch.equal(result.episode_return, again.episode_return)


@pytest.mark.parametrize("above", [T.time_limit(30), T.reward_scale(0.1)])
def test_moments_are_those_of_the_observations_below(above):
    env = T.compose(ENV, above)
    batches = {}
    for which in (env, T.compose(BASE, above)):
        state = which.reset(random.key(0), which.default_params)
        batches[which.name, which is env] = funrl.rollout(None, random.key(1), state, which.default_params, env=which, num_steps=100)[1]
    shown, raw = batches[env.name, True].next_observation, batches[env.name, False].next_observation
    moments = T.update_vec_norm(env.default_params, shown, env=env).moments
    assert moments.count == 100
    torch.testing.assert_close(moments.var, raw.var(0, correction=0))
    algo = funrl.algos.a2c.make(env, num_envs=2, num_steps=8)
    assert algo.step(random.key(0), algo.init(random.key(0)))[0].learner.env_params.moments.count == 16


@pytest.mark.parametrize("above", [T.observation_norm(1.0, 2.0), T.frame_stack(3), T.time_max_pool(2)])
def test_what_would_be_counted_wrongly_is_refused(above):
    env = T.compose(ENV, above, T.time_limit(30))
    with pytest.raises(ValueError, match=r"vec_norm: expected no transform of observations after it.*apply vec_norm after it"):
        T.update_vec_norm(env.default_params, torch.zeros(3), env=env)
    with pytest.raises(ValueError, match="vec_norm: expected no transform of observations after it"):
        funrl.algos.ppo.make(T.compose(env, T.flatten_observation()))
    with pytest.raises(ValueError, match="vec_norm: expected it among the transforms of Pendulum-v1"):
        T.update_vec_norm(ENV.default_params, torch.zeros(3), env=BASE)


def test_collectors_refuse_moments_that_would_stay_empty():
    def create():
        return T.compose(funrl.envs.make("Pendulum-v1"), T.vec_norm())

    with pytest.raises(ValueError, match=r"create_env: Pendulum-v1 has a vec_norm whose moments are empty.*normalize_observation"):
        collectors.compiled(create, None, (), num_envs=2, frames_per_batch=4, total_frames=4)
    with pytest.raises(funrl.env.HostError, match="has a vec_norm whose moments are empty"):
        collectors.synchronous(create, None, (), num_workers=1, frames_per_batch=4, total_frames=4)
    learned = T.update_vec_norm(ENV.default_params, torch.randn(10, 3, generator=torch.Generator().manual_seed(0)), env=ENV)
    algo = funrl.algos.a2c.make(create()._replace(default_params=learned), num_envs=2, num_steps=2)
    state = algo.init(random.key(0))
    with collectors.compiled(
        create, algo.act, state.learner.params, num_envs=2, frames_per_batch=4, total_frames=4, env_params=learned, backend="eager"
    ) as collector:
        batch = next(collector)
    # They stay, in the collector as in the learner: it would take what was normalised by some for what was by others.
    assert tree.equal(algo.learn(random.key(1), state.learner, batch.transition)[0].env_params, learned)
