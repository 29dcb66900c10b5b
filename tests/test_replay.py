"""On a GPU; a CPU is left alone."""

import pytest
import torch

from funrl.replay import _MOST_RECORDINGS, replayed

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


class Calls:
    """A program that counts how often Python runs it."""

    def __init__(self, program):
        self.program, self.number = program, 0

    def __call__(self, *args):
        self.number += 1
        return self.program(*args)


def test_the_cpu_runs_the_program_itself():
    program = Calls(lambda tree: {"y": tree["x"] + 1})
    run = replayed(program)
    for i in range(4):
        assert run({"x": torch.tensor(i)})["y"] == i + 1
    assert program.number == 4


@needs_gpu
def test_results_are_those_of_the_program_and_stay():
    program = Calls(lambda x, n: (x.sin() @ x.cos(), {"n": n + 1}))
    run = replayed(program)
    inputs = [(torch.randn(8, 8, device="cuda"), torch.tensor(i, device="cuda")) for i in range(5)]
    kept = [run(*pair) for pair in inputs]
    assert program.number == 2, "the second call records"
    for (x, n), (product, rest) in zip(inputs, kept, strict=True):
        torch.testing.assert_close(product, x.sin() @ x.cos())
        assert rest["n"] == n + 1
    other = torch.randn(4, 4, device="cuda")
    for _ in range(3):
        torch.testing.assert_close(run(other, inputs[0][1])[0], other.sin() @ other.cos())
    assert program.number == 4, "other shapes are another program"


def add_in_place(total, x):
    total.add_(x)
    return total, total.sum()


@needs_gpu
def test_large_donated_tensors_stay_where_they_are():
    program = Calls(add_in_place)
    run = replayed(program, donated=[0], in_place=16)
    totals = [torch.zeros(100, device="cuda") for _ in range(2)]
    for i in range(1, 5):  # two at once: neither may disturb the other
        for k, total in enumerate(totals):
            result, sum_ = run(total, torch.full((100,), float(k + 1), device="cuda"))
            assert result is total and sum_ == 100 * i * (k + 1)
            assert (total == i * (k + 1)).all()
    assert program.number == 3, "one for the shapes, and a recording for each place"


@needs_gpu
def test_ever_other_places_are_not_recorded_without_end():
    program = Calls(add_in_place)
    run = replayed(program, donated=[0], in_place=16)
    places = [torch.zeros(100, device="cuda") for _ in range(_MOST_RECORDINGS + 3)]
    for _ in range(2):
        for place in places:
            run(place, torch.ones(100, device="cuda"))
    assert all((place == 2).all() for place in places)


@needs_gpu
def test_what_reads_a_value_on_the_host_runs_as_it_is():
    program = Calls(lambda x: x * 2 if x.sum().item() > 0 else x * 3)
    run = replayed(program)
    for sign in (1.0, -1.0, 1.0, -1.0):
        x = torch.full((3,), sign, device="cuda")
        assert torch.equal(run(x), x * (2 if sign > 0 else 3))
    assert (torch.zeros(2, device="cuda") + 1).sum() == 2, "the device goes on"


@needs_gpu
def test_mixed_devices_run_as_they_are():
    program = Calls(lambda x, y: x.cpu() + y)
    run = replayed(program)
    for _ in range(3):
        assert run(torch.ones(2, device="cuda"), torch.ones(2)).tolist() == [2, 2]
    assert program.number == 3
