"""Numbers of a function that was edited: the executable is found again, and its results are those of the new numbers."""

import math

import pytest
import torch
from torch.func import grad, vmap

from funrl import compiler, scan
from tests.support import same

pytest.importorskip("jax")
X = torch.linspace(-2, 2, 12).reshape(3, 4)


def steps_of(f, *args):
    """Return the results of the first call of a compiled function, and the steps that it took."""
    steps = []
    with compiler.listening(lambda name, ended, seconds, begins: steps.append(begins)):
        result = compiler.compile(f, backend="xla")(*args)
    return result, steps


def edited(a, b, c):
    def loss(w, x):
        y = scan(lambda w, r: (torch.tanh(w * a - r), (w + b).sum()), w, x)
        return y[0].sum() * c + (y[1] * a).mean() - b

    return lambda x: (vmap(lambda w: grad(loss)(w, x))(x), x - a, b - x, x * 1.0, torch.add(x, 0.5, alpha=2))


def test_an_edited_number_needs_no_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("FUNRL_CACHE", str(tmp_path))
    first, steps = steps_of(edited(0.3, 0.7, 1.5), X)
    assert "compiling" in steps
    same(first, edited(0.3, 0.7, 1.5)(X))
    for numbers in ((0.31, 0.7, 1.5), (-4.0, 1e-9, 35.0), (2.5, 0.125, -0.1)):
        result, steps = steps_of(edited(*numbers), X)
        assert "loading" in steps and "compiling" not in steps
        same(result, edited(*numbers)(X))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_numbers_of_all_kinds(dtype, tmp_path, monkeypatch):
    """A number that meets integers, half precision or another dtype's tensor is what it is eagerly."""
    monkeypatch.setenv("FUNRL_CACHE", str(tmp_path))
    x = (torch.arange(6) - 3).to(dtype)
    for a in (1 / 3, 1e-30, -0.0, math.inf, math.nan):

        def f(x, a=a):
            return (
                x + a,
                a - x,
                x * a,
                torch.sub(x, a, alpha=2),
                vmap(lambda r: (r * a, r + a, torch.where(r > a, r, a), r / a))(x),
                a * x[0],
            )

        same(compiler.compile(f, backend="xla")(x), f(x))
