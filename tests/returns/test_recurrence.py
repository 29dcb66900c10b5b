import pytest
import torch
from torch.func import grad, vmap

from funrl import compiler, random
from funrl.returns._recurrence import n_step_recurrence, parallel_recurrence, running_sum, sequential_recurrence, solve_recurrence


def coefficients(*shape, dtype=torch.float64, seed=0):
    """Return a [T, ...] and b [T, ...] in [0, 1], a tenth of it 0."""
    keys = random.split(random.key(seed), 3)
    a, b = random.normal(keys[0], shape, dtype=dtype), random.uniform(keys[1], shape, dtype=dtype)
    return a, torch.where(random.bernoulli(keys[2], 0.1, shape), 0.0, b)


def loop(a, b):
    ys, y = [], torch.zeros_like(a[0])
    for t in reversed(range(a.shape[0])):
        y = a[t] + b[t] * y
        ys.append(y)
    return torch.stack(ys[::-1])


# Below and beyond where blocks begin, whole blocks and not.
SHAPES = [(1, 3), (2,), (7, 2, 3), (8, 1), (9, 4), (100, 3), (128, 16), (1, 20_000), (5, 4_000), (67, 300), (1000, 17)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("recurrence", [sequential_recurrence, parallel_recurrence])
def test_both_forms_agree_with_a_loop(recurrence, shape):
    a, b = coefficients(*shape)
    torch.testing.assert_close(recurrence(a, b), loop(a, b), rtol=1e-12, atol=1e-12)
    a, b = a.float(), b.float()
    torch.testing.assert_close(recurrence(a, b), loop(a, b), rtol=1e-5, atol=1e-5)


def test_long_memory_keeps_its_digits():
    """b = 1: sums of 10,000 numbers, in float32 at least as exact in the parallel form as step by step."""
    a = random.uniform(random.key(0), (10_000, 3))
    exact = loop(a.double(), torch.ones_like(a, dtype=torch.float64))
    errors = [(f(a, torch.ones_like(a)) - exact).abs().max() for f in (parallel_recurrence, sequential_recurrence)]
    assert errors[0] <= errors[1] < 0.1


def test_what_follows_a_zero_does_not_come_back():
    a, b = coefficients(40, 2)
    b[20] = 0.0
    for recurrence in (sequential_recurrence, parallel_recurrence):
        torch.testing.assert_close(recurrence(a, b)[:21], loop(a[:21], b[:21]))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 12, 13, 100])
def test_n_steps_agree_with_a_loop(n):
    a, b = coefficients(12, 2)
    last = random.normal(random.key(1), (12, 2), dtype=torch.float64)
    expected = last
    for _ in range(n - 1):
        expected = a + b * torch.cat([expected[1:], torch.zeros_like(expected[:1])])
    torch.testing.assert_close(n_step_recurrence(a, b, last, n), expected)


@pytest.mark.parametrize("shape", [(20, 2), (20, 900)])
def test_gradients_agree_with_a_loop(shape):
    a, b = coefficients(*shape)
    weights = random.normal(random.key(1), shape, dtype=torch.float64)

    def gradient(recurrence):
        return grad(lambda ab: (recurrence(*ab) * weights).sum())((a, b))

    for got in (gradient(parallel_recurrence), gradient(sequential_recurrence)):
        for x, y in zip(got, gradient(loop), strict=True):
            torch.testing.assert_close(x, y)


@pytest.mark.parametrize(("backend", "form"), [("xla", sequential_recurrence), ("aot_eager", parallel_recurrence)])
def test_the_faster_form_is_taken(backend, form, monkeypatch):
    taken = []
    monkeypatch.setattr(f"funrl.returns._recurrence.{form.__name__}", lambda a, b: taken.append(form.__name__) or a + b)
    assert compiler.compile(solve_recurrence, backend=backend)(*coefficients(2, 3)).shape == (2, 3)
    assert taken == [form.__name__]


def test_compiled_agrees():
    """Small and in blocks, batched and not, and its gradient, in one program."""

    def f(small, large):
        gradient = grad(lambda a: parallel_recurrence(a, small[1][0]).square().sum())(small[0][0])
        return vmap(parallel_recurrence)(*small), parallel_recurrence(*large), sequential_recurrence(*large), gradient

    small, large = coefficients(3, 20, 4, dtype=torch.float32), coefficients(35, 500, dtype=torch.float32)
    expected = (torch.stack([loop(*x) for x in zip(*small, strict=True)]), loop(*large), loop(*large))
    compiled = compiler.compile(f, backend="xla")
    for _ in range(2):
        got = compiled(small, large)
        torch.testing.assert_close(got[:3], expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got[3], f(small, large)[3], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("steps", [1, 2, 7, 64, 100])
def test_running_sums_are_those_of_each_episode_by_itself(steps, dtype):
    keys = random.split(random.key(steps), 3)
    x, begins = random.normal(keys[0], (steps, 5), dtype=dtype), random.bernoulli(keys[1], 0.1, (steps, 5))
    start = random.normal(keys[2], (5,), dtype=dtype)
    expected, y = [], start.double()
    for row, new in zip(x.double(), begins, strict=True):
        y = row + torch.where(new, 0.0, y)
        expected.append(y)
    got = running_sum(x, begins, start)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), torch.stack(expected), rtol=1e-5, atol=1e-5 if dtype == torch.float32 else 1e-13)
    torch.testing.assert_close(vmap(running_sum, (1, 1, 0), 1)(x, begins, start), got)


def test_nothing_of_one_episode_reaches_another():
    x = torch.tensor([1e30, torch.inf, 0.25, 0.5, torch.nan, 1.0, 2.0])
    begins = torch.tensor([False, False, True, False, True, True, False])
    got = running_sum(x, begins, torch.tensor(-torch.inf))
    torch.testing.assert_close(got, torch.tensor([-torch.inf, torch.nan, 0.25, 0.75, torch.nan, 1.0, 3.0]), equal_nan=True)
    gradient = grad(lambda x: running_sum(x, begins, torch.tensor(0.0))[3])(x)
    assert gradient.tolist() == [0, 0, 1, 1, 0, 0, 0]
