"""Collectors with workers: what the introduction shows, the same batches as rollouts by hand, and whatever is lost is made again."""

import itertools
import os
import signal
import threading
import time

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import funrl
from funrl import checkpoint, collectors, distributions, nn, policies, random, transforms, tree
from tests.collectors.toys import odd
from tests.support import same

LOCK = threading.Lock()  # which cannot be pickled
LINEAR = policies.deterministic(nn.mlp((), 1))
LINEAR_PARAMS = LINEAR.init(random.key(0), torch.zeros(3))


def pendulum():
    return funrl.envs.gymnasium.make("Pendulum-v1", num_envs=3)


def scaled(params, factor):
    return tree.map(lambda x: factor * x, params)


def check_introduction(make, shape):
    """Four batches of 60 frames, trajectory by trajectory, each by the latest parameters; ``shape`` is that of a batch."""
    sizes = dict(num_workers=2, frames_per_batch=60, total_frames=240, split_trajectories=True)
    seen = []
    with make(pendulum, LINEAR.act, LINEAR_PARAMS, **sizes) as collector:
        for i, batch in enumerate(collector):
            assert batch.transition.reward.shape == shape == batch.mask.shape and batch.mask.all()
            assert batch.transition.observation.shape == (*shape, 3) and batch.transition.action.shape == (*shape, 1)
            assert batch.step_count.dtype == batch.traj_ids.dtype == batch.version.dtype == torch.int64
            assert (batch.step_count.diff(dim=1) == 1).all() and (batch.traj_ids == batch.traj_ids[:, :1]).all()
            version = batch.version.unique()
            assert len(version) == 1 and collector.staleness == i - version
            action, _ = LINEAR.act(scaled(LINEAR_PARAMS, 1 + version), None, batch.transition.observation)
            torch.testing.assert_close(batch.transition.action, action)
            collector.update_params(scaled(LINEAR_PARAMS, 2 + i))
            seen.append(batch)
        assert i == 3 and collector.frames == 240 and collector.version == 4
    return seen


def test_multi_sync_collector():
    batches = check_introduction(collectors.synchronous, (6, 10))
    for i, batch in enumerate(batches):
        assert batch.traj_ids[:, 0].tolist() == list(range(6)) and batch.step_count[:, 0].tolist() == [10 * i] * 6
        assert (batch.version == i).all()
    for before, after in itertools.pairwise(batches):
        assert torch.equal(before.transition.next_observation[:, -1], after.transition.observation[:, 0])


def test_multi_async_collector():
    batches = check_introduction(collectors.asynchronous, (3, 20))
    seen = {}
    for batch in batches:
        whose = tuple(batch.traj_ids[:, 0].tolist())
        assert whose in ((0, 1, 2), (3, 4, 5)) and (batch.step_count[:, 0] == 20 * seen.get(whose, 0)).all()
        seen[whose] = seen.get(whose, 0) + 1


# One pair of workers for all that follows: to start them takes seconds.

POLICY = policies.recurrent(nn.gru(4), policies.stochastic(nn.mlp((), 2), distributions.Categorical))
PARAMS = POLICY.init(random.key(3), torch.zeros(4))
KEY, LIMIT, STEPS = random.key(7), 11, 16


def cartpole():
    return funrl.envs.gymnasium.make("CartPole-v1", num_envs=2)


def collect(**options):
    sizes = dict(num_workers=2, frames_per_batch=4 * STEPS, total_frames=-1, max_frames_per_traj=LIMIT, key=KEY)
    return collectors.synchronous(cartpole, POLICY, PARAMS, **{**sizes, **options})


class Copies(TorchDispatchMode):
    """Counts the tensors of a shape that get memory of their own."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {x.untyped_storage().data_ptr() for x in tree.leaves(list(args)) if isinstance(x, torch.Tensor)}
        for x in out if isinstance(out, (list, tuple)) else [out]:
            self.count += isinstance(x, torch.Tensor) and x.shape == self.shape and x.untyped_storage().data_ptr() not in given
        return out


@pytest.fixture(scope="module")
def story(tmp_path_factory):
    """Four batches and the state after two; the two after it again from that state, and again with a worker that is killed."""
    path = tmp_path_factory.mktemp("collector") / "state"
    with collect(restart_workers=True) as collector:
        with Copies((STEPS, 4, 4)) as copies:
            first = [next(collector)]
        first.append(next(collector))
        checkpoint.save(collector.state(), path)
        rest = [next(collector), next(collector)]
        state, _ = checkpoint.load(path, collector.state())
        collector.restore(state)
        again = [next(collector), next(collector)]
        collector.restore(state)
        frames = collector.frames
        lost = collector.processes[1]
        os.kill(lost, signal.SIGKILL)
        spared = [next(collector), next(collector)]
        return dict(
            first=first, rest=rest, again=again, spared=spared, path=path, frames=(frames, collector.frames),
            restarts=collector.restarts, lost=lost, processes=collector.processes, copies=copies.count,
        )  # fmt: skip


def test_batches_are_rollouts(story):
    for worker in range(2):
        columns = slice(2 * worker, 2 * worker + 2)
        with transforms.compose(cartpole(), transforms.time_limit(LIMIT)) as env:
            reset_key, key = random.split(random.fold_in(KEY, worker)).unbind(0)
            state = funrl.acting.with_memory(PARAMS, env.reset(reset_key), env=env, policy=POLICY)
            count, number = [0, 0], [0, 0]
            for n, batch in enumerate([*story["first"], *story["rest"]]):
                state, expected = funrl.rollout(PARAMS, random.fold_in(key, n), state, (), env=env, act=POLICY, num_steps=STEPS)
                same(tree.index(batch.transition.replace(place=()), (slice(None), columns)), expected)  # a worker's policy is traced
                for t in range(STEPS):
                    for b in range(2):
                        assert batch.step_count[t, columns][b] == count[b]
                        assert batch.traj_ids[t, columns][b] == 2 * worker + b + 4 * number[b]
                        ends = bool(expected.done[t, b])
                        count[b], number[b] = (0, number[b] + 1) if ends else (count[b] + 1, number[b])
    truncated = batch.transition.truncated
    assert truncated.any() and torch.equal(truncated, (batch.step_count == LIMIT - 1) & ~batch.transition.terminated | truncated)
    assert (batch.step_count[truncated] == LIMIT - 1).all()


def test_what_workers_wrote_is_copied_once(story):
    """Of [T, B, 4] there are two, ``observation`` and ``next_observation``."""
    assert story["copies"] == 2


def test_it_goes_on_where_its_state_says(story):
    assert tree.equal(story["again"], story["rest"])


def test_a_killed_worker_is_replaced_and_no_frame_is_lost_or_double(story):
    assert tree.equal(story["spared"], story["rest"]) and story["frames"] == (8 * STEPS, 16 * STEPS)
    assert story["restarts"] == 1 and story["lost"] not in story["processes"]


def test_after_a_restore_the_present_parameters_act():
    """No worker has read them, and they get the number of those that all workers have."""
    sizes = dict(num_workers=1, frames_per_batch=30, total_frames=-1)
    with collectors.synchronous(pendulum, LINEAR.act, LINEAR_PARAMS, **sizes) as collector:
        next(collector)
        state = collector.state()
        collector.update_params(scaled(LINEAR_PARAMS, 2))
        collector.restore(state)
        batch = next(collector)
    action, _ = LINEAR.act(scaled(LINEAR_PARAMS, 2), None, batch.transition.observation)
    assert collector.version == 0
    torch.testing.assert_close(batch.transition.action, action)


@pytest.mark.slow
def test_a_new_process_goes_on_where_another_was(story):
    with collect(split_trajectories=False) as collector:
        state, _ = checkpoint.load(story["path"], collector.state())
        collector.restore(state)
        assert tree.equal([next(collector), next(collector)], story["rest"])


@pytest.mark.slow
def test_asynchronous_bounds_and_reports():
    """Staleness, what is discarded for it, what is in flight, and a worker that is lost."""
    sizes = dict(num_workers=2, frames_per_batch=2 * STEPS, total_frames=64 * STEPS, restart_workers=True, queue_size=2, max_staleness=1)
    ahead = {}

    def count(batch):
        assert collector.version - batch.version.max() == collector.staleness <= 1
        for b in range(2):
            episode, place = divmod(int(batch.traj_ids[0, b]), 4)
            assert (int(batch.step_count[0, b]), episode) == ahead.get(place, (0, 0)), "a frame is lost or double"
            step, episode = int(batch.step_count[-1, b]), int(batch.traj_ids[-1, b]) // 4
            ahead[place] = (0, episode + 1) if batch.transition.done[-1, b] else (step + 1, episode)

    with collectors.asynchronous(cartpole, POLICY, PARAMS, **sizes) as collector:
        assert collector.state().in_flight == 0
        for _ in range(2):
            count(next(collector))
        state = collector.state()
        assert state.in_flight == 4 * 2 * STEPS and state.frames == 4 * STEPS
        os.kill(collector.processes[0], signal.SIGKILL)
        while not collector.restarts:
            count(next(collector))
        collector.restore(state)
        assert collector.frames == 4 * STEPS and collector.lost_frames == 8 * STEPS
        for _ in range(3):
            collector.update_params(PARAMS)
        time.sleep(0.1)
        version = collector.version
        batch = next(collector)
        assert (batch.version == version).all() and collector.discarded_frames == 0
        for _ in range(2):
            collector.update_params(PARAMS)
        while not collector.discarded_frames:
            batch = next(collector)
            assert version <= batch.version.min() and collector.staleness <= 1
            version = int(batch.version.min())
            collector.update_params(PARAMS)
            collector.update_params(PARAMS)
        assert collector.discarded_frames % (2 * STEPS) == 0
        frames = sum(batch.mask.numel() for batch in collector)
        assert frames > 0 and collector.frames == 64 * STEPS
    assert collector.restarts == 1


@pytest.mark.slow
def test_workers_of_their_own():
    """A list of functions; environments of different numbers of copies, whose batches fit together."""
    single, pair = lambda: funrl.envs.gymnasium.make("CartPole-v1"), cartpole
    act = policies.stochastic(nn.mlp((), 2), distributions.Categorical)
    params = act.init(random.key(0), torch.zeros(4))
    sizes = dict(num_workers=2, frames_per_batch=30, total_frames=60, key=KEY)
    with collectors.synchronous([single, pair], act.act, params, **sizes) as collector:
        batches = list(collector)
    assert batches[0].transition.observation.shape == (10, 3, 4)
    with single() as env:
        reset_key, key = random.split(random.fold_in(KEY, 0)).unbind(0)
        state = env.reset(reset_key)
        for n, batch in enumerate(batches):
            state, expected = funrl.rollout(params, random.fold_in(key, n), state, (), env=env, act=act.act, num_steps=10)
            torch.testing.assert_close(batch.transition.action[:, :1], expected.action)
            torch.testing.assert_close(batch.transition.next_observation[:, :1], expected.next_observation)


@pytest.mark.slow
def test_pure_environments_in_workers():
    """They are stepped in Python there, by the same loop."""
    make = lambda: funrl.envs.vectorize(funrl.envs.make("CartPole-v1"), 2)  # noqa: E731
    with collectors.synchronous(make, None, (), num_workers=1, frames_per_batch=40, total_frames=120) as collector:
        next(collector)
        state = collector.state()
        rest = list(collector)
    with collectors.synchronous(make, None, (), num_workers=1, frames_per_batch=40, total_frames=120) as collector:
        collector.restore(state)
        assert tree.equal(list(collector), rest)


@pytest.mark.slow
def test_a_state_is_as_large_as_its_episodes_are_long(tmp_path):
    """Where no limit is known there may be 100,000 steps; a file of any length is read, by a new collector and by one that went on."""
    make = lambda: odd(length=30)._replace(max_episode_steps=100_000)  # noqa: E731
    options = dict(num_workers=1, frames_per_batch=8, total_frames=-1)
    with collectors.synchronous(make, None, (), **options) as collector:
        assert tree.nbytes(collector.state()) < 1_000
        next(collector)
        checkpoint.save(collector.state(), tmp_path / "state")
        rest = [next(collector) for _ in range(3)]
        assert collector._tracker.capacity > 8 and tree.nbytes(collector.state()) < 2_000
        collector.restore(checkpoint.load(tmp_path / "state", collector.state())[0])
        assert tree.equal([next(collector) for _ in range(3)], rest)
    with collectors.synchronous(make, None, (), **options) as collector:
        collector.restore(checkpoint.load(tmp_path / "state", collector.state())[0])
        assert tree.equal([next(collector) for _ in range(3)], rest)
    with collectors.synchronous(make, None, (), max_frames_per_traj=3, **options) as collector:
        state = checkpoint.load(tmp_path / "state", collector.state())[0]
        with pytest.raises(ValueError, match=r"up to 4 steps, and the limit here is 3.*max_frames_per_traj"):
            collector.restore(state)


@pytest.mark.slow
def test_an_environment_that_is_not_deterministic_is_refused():
    make = lambda: odd(fault="drifts")  # noqa: E731
    with collectors.synchronous(make, None, (), num_workers=1, frames_per_batch=8, total_frames=80) as collector:
        next(collector)
        state = collector.state()
        next(collector)
        with pytest.raises(funrl.envs.gymnasium.HostError, match=r"worker 0 .*not deterministic"):
            collector.restore(state)


@pytest.mark.slow
def test_an_episode_longer_than_it_may_be_is_told():
    make = lambda: odd()._replace(max_episode_steps=5)  # noqa: E731
    with collectors.synchronous(make, None, (), num_workers=1, frames_per_batch=8, total_frames=80) as collector:
        next(collector)
        collector.state()
        next(collector)
        with pytest.raises(funrl.envs.gymnasium.HostError, match="an episode has 8 steps, but max_episode_steps is 5"):
            collector.state()


@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_policies_and_batches_on_a_gpu():
    """The policy runs there, and its batches arrive there; resets and recorded actions lead to the same place again."""
    sizes = dict(frames_per_batch=8 * STEPS, device="cuda", policy_device="cuda", restart_workers=True)
    with collect(**sizes) as collector:
        batches = [next(collector)]
        collector.update_params(tree.to(PARAMS, "cuda"))
        state = collector.state()
        batches += [next(collector), next(collector)]
        collector.restore(state)
        again = [next(collector), next(collector)]
    assert all(x.is_cuda for x in tree.leaves(batches)) and tree.equal(again, batches[1:])
    assert [int(batch.version.max()) for batch in batches] == [0, 1, 1]


def test_argument_errors():
    good = dict(num_workers=1, frames_per_batch=6, total_frames=6)
    for error, message, options in (
        (ValueError, "num_workers: expected an integer of at least 1, got 0", dict(num_workers=0)),
        (TypeError, "frames_per_batch: expected an integer of at least 1, got 2.5", dict(frames_per_batch=2.5)),
        (ValueError, "timeout: expected a number above 0, got 0; give seconds", dict(timeout=0)),
        (ValueError, "create_env: expected a function, or one for each of 1 workers", dict(create_env=[pendulum, pendulum])),
        (TypeError, "params: leaf .*: expected a tensor, got a float", dict(params=[1.0])),
        (TypeError, "act: it cannot be sent to a worker process", dict(act=lambda params, key, observation: LOCK)),
    ):
        options = {**dict(create_env=pendulum, act=LINEAR.act, params=LINEAR_PARAMS), **good, **options}
        with pytest.raises(error, match=message):
            collectors.synchronous(**options)
    for name in ("queue_size", "max_staleness"):
        with pytest.raises((TypeError, ValueError), match=f"{name}: expected an integer"):
            collectors.asynchronous(pendulum, None, (), **good, **{name: -1})
