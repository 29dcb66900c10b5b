"""Collectors whose workers get parameters and give batches by value, beside those that share memory with them."""

import pickle

import pytest
import torch

from funrl import collectors, policies, random, tree
from funrl.collectors import RemoteWorker, Transport, by_transport
from funrl.env import HostError
from tests.collectors.toys import odd
from tests.support import same

SIZES = dict(num_workers=2, frames_per_batch=24, total_frames=-1, key=random.key(5))
# It repeats the parameters that were there when its environment began.
FAITHFUL = policies.StatefulPolicy(
    init=lambda key, observation: torch.tensor(1.0),
    start=lambda params, observation: params,
    act=lambda params, key, state, observation, reset: (state, (state > 0).long(), {"now": params}),
)


class Inside(Transport):
    """Workers of this process. ``lost`` is one that ends before its next answer."""

    def __init__(self):
        self.workers, self.answers, self.lost, self.threads = {}, [], None, torch.get_num_threads()

    def connect(self, worker):
        self.workers[worker] = RemoteWorker()

    def request(self, worker, method, *args):
        answer = self.workers[worker].answer(method, *pickle.loads(pickle.dumps(args)))
        if worker == self.lost and method == "collect":
            self.lost, answer = None, collectors.Answer(lost="was lost")
        self.answers.append((worker, answer))

    def wait(self, seconds):
        answers, self.answers = self.answers, []
        return answers

    def close(self):
        for worker in self.workers.values():
            worker.close()
        torch.set_num_threads(self.threads)
        torch.set_grad_enabled(True)


def inside(transport, create_env=odd, **options):
    settings = dict(together=True, queue_size=1, max_staleness=None, transport=lambda: transport)
    return by_transport("inside", create_env, FAITHFUL, torch.tensor(1.0), **{**settings, **SIZES, **options})


def story(collector):
    """Batches before and after new parameters, and again from a state between them."""
    with collector:
        batches = [next(collector)]
        state = collector.state()
        collector.update_params(torch.tensor(2.0))
        batches += [next(collector), next(collector)]
        collector.update_params(torch.tensor(3.0))
        collector.restore(state)
        return [*batches, next(collector)]


def test_batches_are_those_of_processes():
    expected = story(collectors.synchronous(odd, FAITHFUL, torch.tensor(1.0), **SIZES))
    found = story(inside(Inside()))
    same(found, expected, rtol=0, atol=0)
    assert [batch.transition.extras["now"].unique().tolist() for batch in found] == [[1.0], [2.0], [2.0], [3.0]]
    assert (found[0].transition.action == 1).all()


@pytest.mark.parametrize("together", [True, False])
def test_a_lost_worker_is_replaced(together):
    expected = [next(batches) for batches in [inside(Inside(), together=together)] for _ in range(6)]
    transport = Inside()
    with inside(transport, together=together, restart_workers=True) as collector:
        found = [next(collector) for _ in range(2)]
        transport.lost = 1
        found += [next(collector) for _ in range(4)]
        assert collector.restarts == 1
    if together:
        same(found, expected, rtol=0, atol=0)
    of = lambda batches, worker: [tree.clone(b.transition) for b in batches if (b.traj_ids[0] // 2 % 2 == worker).all()]  # noqa: E731
    for worker in range(2 * (not together)):
        pairs = list(zip(of(found, worker), of(expected, worker), strict=False))
        assert len(pairs) > 1
        for one, other in pairs:
            same(one, other, rtol=0, atol=0)


def test_a_lost_worker_that_is_not_replaced_and_one_that_raises():
    transport = Inside()
    with inside(transport) as collector:
        transport.lost = 0
        with pytest.raises(HostError, match=r"inside: worker 0 was lost in its batch 0; .*restart_workers=True"):
            next(collector)
    with inside(Inside(), create_env=[odd, lambda: odd(fault="raises")]) as collector:
        with pytest.raises(HostError, match=r"inside: worker 1: .*the motor is broken") as caught:
            next(collector)
        assert any("Traceback" in note for note in caught.value.__notes__)
