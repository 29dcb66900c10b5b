"""Tangents and their layouts in a traced function: kinds of fault that random programs found."""

import pytest
import torch
from torch.func import grad, hessian, jvp, vmap

from funrl import compiler, scan
from tests.support import same

X = torch.tensor([1.0, 2.0, 3.0])


def descent(x):
    return scan(lambda w, _: (torch.sin(w - 0.1 * grad(lambda w: torch.sin(w * x))(w)), ()), x, length=2)[0]


def batched_tangent(x):
    """A tangent that is batched along its last dimension, of a value that is not: torch gives it the layout of the value."""

    def outer(x):
        slopes = torch.sin(x)[:, None] * torch.arange(3.0)
        return vmap(lambda dx: jvp(lambda y: y[0] * 2, (x * 2,), (dx,))[1], 1)(slopes)

    return jvp(outer, (x,), (x,))


def copied(x):
    """A copy of a tensor in another order, read by way of its layout."""
    y = torch.zeros(3, 3)
    y.copy_((x[:, None] * torch.arange(3.0)).t())
    z = torch.zeros_like(y)  # in the layout of y
    z.view(-1)[1] = 7.0
    return y.as_strided((9,), (1,)), z


CASES = {
    "batched tangent": batched_tangent,
    "copied": copied,
    "bools": lambda x: jvp(lambda x: torch.minimum(x, torch.tensor([True, False, True])), (x,), (x,)),
    "tangents of a carry": lambda x: [y.float() for y in vmap(lambda x: jvp(descent, (x,), (x,)))(x)],
    "hessian of a loop": lambda x: vmap(hessian(descent))(x),
    "tangents of a gradient": lambda x: [y.float() for y in vmap(lambda x: jvp(grad(descent), (x,), (x,)))(x)],
}


BACKENDS = ["aot_eager", pytest.param("xla", marks=pytest.mark.skipif(not compiler._backends.has_jax(), reason="jax is not installed"))]
backends = pytest.mark.parametrize("backend", BACKENDS)


@backends
def test_tangents(backend):
    def all_of_them(x):
        return {name: f(x) for name, f in CASES.items()}

    same(compiler.compile(all_of_them, backend=backend)(X), all_of_them(X))


@backends
def test_bools_are_not_subtracted(backend):
    for f in (lambda x: x - (x > 1), lambda x: (x > 1) - x, lambda x: x - True, lambda x: 1 - (x > 1)):
        for run in (f, compiler.compile(f, backend=backend)):
            with pytest.raises(RuntimeError, match="with a bool tensor is not supported"):
                run(X)
