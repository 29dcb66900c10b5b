"""Recordings on a GPU, and on a CPU that takes itself for one."""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from funrl import tree
from funrl.compiler import _cuda_graph
from funrl.compiler._cuda_graph import _MOST_RECORDINGS, replayed


class Recorder(TorchDispatchMode):
    """A CUDA graph on a CPU: the operators of a program, run again on the memory that they had; recording them changes nothing."""

    def __init__(self):
        super().__init__()
        self.calls, self.before = [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function._schema.is_mutable:
            self.before.append((args[0], args[0].clone()))
        result = function(*args, **kwargs)
        self.calls.append((function, args, kwargs, result))
        return result

    def __exit__(self, *error):
        super().__exit__(*error)
        for x, old in reversed(self.before):
            x.copy_(old)

    def replay(self):
        for function, args, kwargs, result in self.calls:
            again = function(*args, **kwargs)
            for x, new in zip(tree.leaves(result), tree.leaves(again), strict=True):
                x.copy_(new)


def refuses(graph, **options):
    raise RuntimeError("operation not permitted when stream is capturing")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"))])
def device(request, monkeypatch):
    """A GPU, or a CPU that takes itself for one."""
    if request.param == "cpu":
        monkeypatch.setattr(_cuda_graph, "_on_one_gpu", lambda values: True)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorder)
        monkeypatch.setattr(torch.cuda, "graph", lambda recorder, **options: recorder)
        monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    return request.param


class Calls:
    """A program that counts how often Python runs it, and empties its list as inductor's programs do."""

    def __init__(self, program):
        self.program, self.number = program, 0

    def __call__(self, inputs):
        self.number += 1
        given = list(inputs)
        inputs.clear()
        return self.program(*given)


def test_the_cpu_runs_the_program_itself():
    program = Calls(lambda x: [x + 1])
    run = replayed(program)
    for i in range(4):
        assert run([torch.tensor(i)])[0] == i + 1
    assert program.number == 4


def test_results_are_those_of_the_program_and_stay(device):
    program = Calls(lambda x, n: [x.sin() @ x.cos(), n + 1])
    run = replayed(program)
    inputs = [[torch.randn(8, 8, device=device), torch.tensor(i, device=device)] for i in range(5)]
    results = [run(pair) for pair in inputs]
    assert program.number == 2, "the second call records"
    for (x, n), (product, rest) in zip(inputs, results, strict=True):
        torch.testing.assert_close(product, x.sin() @ x.cos())
        assert rest == n + 1


def add_in_place(total, x):
    total.add_(x)
    return [total, total.sum()]


def test_tensors_that_are_held_stay_where_they_are(device):
    program = Calls(add_in_place)
    run = replayed(program, [0])
    totals = [torch.zeros(100, device=device) for _ in range(2)]
    for i in range(1, 5):  # two at once: neither may disturb the other
        for k, total in enumerate(totals):
            result, sum_ = run([total, torch.full((100,), float(k + 1), device=device)])
            assert result is total and sum_ == 100 * i * (k + 1)
            assert (total == i * (k + 1)).all()
    assert program.number == 3, "one to compile, and a recording for each place"


def test_a_held_tensor_is_read_at_each_call(device):
    program = Calls(lambda x, weight: [x * weight])
    run = replayed(program, [1])
    weight = torch.ones(3, device=device)
    for i in range(1, 5):
        weight.fill_(i)
        assert (run([torch.ones(3, device=device), weight])[0] == i).all()
    assert program.number == 2


def test_nothing_to_copy_in_or_out(device):
    """All that is given is held, and all that comes is what was given."""
    program = Calls(lambda total: [total.add_(1)])
    run = replayed(program, [0])
    total = torch.zeros(100, device=device)
    for i in range(1, 5):
        assert run([total])[0] is total and (total == i).all()
    assert program.number == 2


def test_ever_other_places_are_not_recorded_without_end(device):
    run = replayed(Calls(add_in_place), [0])
    places = [torch.zeros(100, device=device) for _ in range(_MOST_RECORDINGS + 3)]
    for _ in range(2):
        for place in places:
            run([place, torch.ones(100, device=device)])
    assert all((place == 2).all() for place in places)


def test_what_cannot_be_recorded_runs_as_it_is(device, monkeypatch):
    monkeypatch.setattr(torch.cuda, "graph", refuses)
    program = Calls(lambda x: [x + 1])
    run = replayed(program)
    for i in range(4):
        assert run([torch.tensor(i, device=device)])[0] == i + 1
    assert program.number == 4


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@needs_gpu
def test_what_reads_a_value_on_the_host_runs_as_it_is():
    program = Calls(lambda x: [x * 2 if x.sum().item() > 0 else x * 3])
    run = replayed(program)
    for sign in (1.0, -1.0, 1.0, -1.0):
        x = torch.full((3,), sign, device="cuda")
        assert torch.equal(run([x])[0], x * (2 if sign > 0 else 3))
    assert (torch.zeros(2, device="cuda") + 1).sum() == 2, "the device goes on"


@needs_gpu
def test_mixed_devices_run_as_they_are():
    program = Calls(lambda x, y: [x.cpu() + y])
    run = replayed(program)
    for _ in range(3):
        assert run([torch.ones(2, device="cuda"), torch.ones(2)])[0].tolist() == [2, 2]
    assert program.number == 3
