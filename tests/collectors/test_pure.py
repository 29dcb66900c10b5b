"""The collector of pure environments, against rollouts by hand."""

import functools

import pytest
import torch

import funrl
from funrl import checkpoint, collectors, distributions, nn, policies, random, transforms, tree

POLICY = policies.recurrent(nn.gru(4), policies.stochastic(nn.mlp((), 2), distributions.Categorical))
PARAMS = POLICY.init(random.key(3), torch.zeros(4))
DOUBLED = tree.map(lambda x: 2 * x, PARAMS)
SIZES = dict(num_envs=3, frames_per_batch=24, total_frames=96, max_frames_per_traj=5, key=random.key(7), backend="eager")


def create_env():
    return funrl.envs.make("CartPole-v1")


def collect(**options):
    return collectors.compiled(create_env, POLICY, PARAMS, **{**SIZES, **options})


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Four batches, of which the last two have other parameters, and the last three again from what was saved after the first."""
    path = tmp_path_factory.mktemp("collector") / "state"
    with collect() as collector:
        batches = [next(collector)]
        checkpoint.save(collector.state(), path)
        batches.append(next(collector))
        collector.update_params(DOUBLED)
        batches.extend(collector)
        state, _ = checkpoint.load(path, collector.state())
        collector.update_params(PARAMS)
        collector.restore(state)
        again = [next(collector)]
        collector.update_params(DOUBLED)
        again.extend(collector)
        return dict(batches=batches, again=again, frames=collector.frames, path=path, staleness=collector.staleness)


def test_batches_are_rollouts(story):
    env = transforms.compose(create_env(), transforms.time_limit(5))
    reset_key, key = random.split(random.fold_in(random.key(7), 0)).unbind(0)
    state = torch.func.vmap(env.reset, (0, None))(random.split(reset_key, 3), env.default_params)
    state = funrl.acting.with_memory(PARAMS, state, env=env, policy=POLICY)
    for n, batch in enumerate(story["batches"]):
        params = PARAMS if n < 2 else DOUBLED
        state, expected = funrl.rollout(params, random.fold_in(key, n), state, env.default_params, env=env, act=POLICY, num_steps=8)
        assert tree.allclose(batch.transition.replace(place=()), expected)
        assert batch.mask.all() and (batch.version == (n >= 2)).all() and (batch.step_count < 5).all()
        assert torch.equal(batch.step_count == 4, batch.transition.truncated)
    assert n == 3 and story["frames"] == 96 and story["staleness"] == 0


def test_it_goes_on_where_its_state_says(story):
    assert tree.equal(story["again"], story["batches"][1:])


@pytest.mark.slow
def test_another_goes_on_where_it_was(story):
    with collect(split_trajectories=True) as other:
        state, _ = checkpoint.load(story["path"], other.state())
        other.restore(state)
        batch = next(other)
        assert tree.equal(batch, collectors._tracker.split(story["batches"][1])) and other.frames == 48
        with pytest.raises(ValueError, match="restore: state"):
            other.restore(collect(num_envs=4).state())


def test_it_plays_with_the_env_params_that_it_is_given():
    params = create_env().default_params
    short = dict(frames_per_batch=24, total_frames=24, env_params=params.replace(max_steps=params.max_steps - 497))
    pure = collectors.compiled(create_env, None, (), num_envs=3, **short, backend="eager")
    workers = collectors.synchronous(lambda: funrl.envs.vectorize(create_env(), 3), None, (), num_workers=1, **short)
    for collector in (pure, workers):
        with collector:
            batch = next(collector)
        assert torch.equal(batch.transition.truncated, batch.step_count == 2)
    with pytest.raises(
        ValueError, match=r"env_params: expected a tree like the default_params of CartPole-v1 \(CartPoleParams\), got another"
    ):
        collect(env_params={})


def test_argument_errors():
    batched, host = lambda: funrl.envs.vectorize(create_env(), 2), lambda: funrl.envs.make("gymnasium:CartPole-v1")
    for message, make in (
        ("num_envs: expected an integer of at least 1, got 0", lambda: collect(num_envs=0)),
        ("num_envs: expected a divisor of frames_per_batch = 25, got 3", lambda: collect(frames_per_batch=25)),
        ("total_frames: expected an integer of at least 1, got 0; give -1", lambda: collect(total_frames=0)),
        ("max_frames_per_traj: expected an integer of at least 1, got -2; give -1", lambda: collect(max_frames_per_traj=-2)),
        ("single pure environment, got a batched one", lambda: collectors.compiled(batched, None, (), **SIZES)),
        ("single pure environment, got one on the host", lambda: collectors.compiled(host, None, (), **SIZES)),
        ("update_params: params", lambda: collect().update_params(())),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(TypeError, match=r"params: leaf \['w'\]: expected a tensor, got a float"):
        collectors.compiled(create_env, None, {"w": 0.5}, **SIZES)
    with pytest.raises(TypeError, match="create_env: expected a function that returns an Env, got an int"):
        collectors.compiled(lambda: 3, None, (), **SIZES)
    for make in (collectors.compiled, functools.partial(collectors.synchronous, create_env)):
        arguments = (create_env,) if make is collectors.compiled else ()
        sizes = SIZES if make is collectors.compiled else dict(num_workers=1, frames_per_batch=24, total_frames=24)
        with pytest.raises(TypeError, match=r"key: expected one key, int64 \[\], got an int; make it with funrl.random.key"):
            make(*arguments, None, (), **{**sizes, "key": 0})
        with pytest.raises(TypeError, match=r"act: expected a function or a StatefulPolicy, got a Policy; give its act: policy\.act"):
            make(*arguments, policies.deterministic(nn.mlp((), 1)), (), **sizes)
    with pytest.raises(ValueError, match="num_workers: expected an integer of at least 1, got -1"):
        collectors.asynchronous(create_env, None, (), num_workers=-1, frames_per_batch=24, total_frames=24)


def test_published_parameters_are_its_own():
    mine = tree.clone(PARAMS)
    with collect() as collector:
        collector.update_params(mine)
        for x in tree.leaves(mine):
            x.fill_(torch.nan)
        assert all(x.isfinite().all() for x in tree.leaves(next(collector).transition.action.float()))
        assert tree.equal(collector._params, PARAMS)
