"""Layouts that a trace has to follow: shapes changed in place, captured tensors that are not contiguous, views of complex numbers."""

import numpy
import pytest
import torch
from torch.func import grad, jacfwd, jvp, vmap

from funrl import compiler, scan, tree
from tests.support import same

W = torch.arange(9.0, dtype=torch.float64).reshape(3, 3)
V = (W * 1.7).sin()


def agrees(f, *args):
    for _ in range(2):
        same(compiler.compile(f, backend="aot_eager")(*args), f(*args))


def of_a_view(x):
    x = x.sin()
    r = x[:]
    r.t_()
    r.mul_(W)
    return (x * V).sum()


def of_a_base(x):
    x = x.sin()
    r = x[:]
    x.t_()
    r.mul_(W)
    return (r * V).sum() + (x * V * V).sum()


def of_zeros(x):
    y = x * 0
    r = y[:]
    r.transpose_(0, 1)
    r.copy_(x * W)
    return (r * V).sum() + (y * V * V).sum()


def of_a_row(x):
    x = x.sin()
    r = x[1]
    r.unsqueeze_(1)
    r.mul_(W[:, :1])
    r.squeeze_()
    return r.sin().sum() + x.sum()


def viewed_again(x):
    r = x.sin().view(9)
    r.unsqueeze_(0)
    r = r.t()
    r.add_(1)
    return r.sin().sum()


@pytest.mark.parametrize("f", [of_a_view, of_a_base, of_zeros, of_a_row, viewed_again])
def test_derivatives_of_shapes_changed_in_place(f):
    """Autograd, which replays views, does not note that a tensor has become a view of itself: such a trace is made again without."""
    x = V + 0.3
    agrees(grad(f), x)
    agrees(vmap(grad(f)), torch.stack([x, x * 2]))
    agrees(lambda x: jvp(f, (x,), (x.cos(),)), x)
    agrees(jacfwd(grad(f)), x)


def test_a_shape_changed_in_the_body_of_a_loop():
    def step(c, x):
        y = (c * x).sin()
        r = y[:]
        r.t_()
        r.mul_(W)
        return y, r[0]

    total = lambda x: sum((y * y).sum() for y in tree.leaves(scan(step, x, torch.ones(2, dtype=torch.float64))))
    agrees(grad(total), V)
    agrees(lambda x: grad(lambda x: scan(lambda c, _: (c + total(x), x[0] * c), x[0, 0], length=2)[0])(x), V)


def test_a_row_at_a_tensor_index_keeps_its_shape_within_derivatives():
    def f(x, i):
        r = x.sin()[i]
        r.unsqueeze_(1)
        return (r * W[:, :1]).sum()

    i = torch.tensor(1)
    agrees(f, W, i)
    with pytest.raises(compiler.TraceError, match=r"another shape in place \(unsqueeze_\).*y = x.unsqueeze\("):
        compiler.compile(grad(f), backend="aot_eager")(W, i)


def test_vmap_over_captured_tensors_that_are_not_contiguous():
    """torch treats them by their strides."""
    base = torch.arange(24).reshape(2, 3, 4) % 5
    functions = [
        lambda r: r.reshape(-1) * 2,
        lambda r: r.flatten(),
        lambda r: (r > 1).any(),
        lambda r: r.all(),
        lambda r: r.flatten().sort()[0],
    ]
    for x in (base.mT, base.permute(2, 0, 1), base[:, :, ::2], base.bool().mT):
        for f in functions:
            for dim in range(3):
                agrees(lambda a, f=f, x=x, dim=dim: vmap(f, in_dims=dim)(x) * a, torch.tensor(2))
        agrees(
            lambda a, x=x: grad(lambda a: scan(lambda c, _: (c * a, vmap(lambda r: r.reshape(-1) * a)(x)), a, length=2)[1].sum())(a),
            W[0, 1],
        )


def test_captured_columns_under_a_gradient():
    """A captured tensor that grad wraps is a tensor like others: its rows are those of a scan."""
    rows = torch.linspace(0, 1, 3, dtype=torch.float64)

    def f(a):
        return grad(lambda a: grad(lambda b: scan(lambda c, x: (c * b + x, c), a, b * 0 + rows)[0])(a) * a)(a)

    agrees(f, torch.tensor(0.5, dtype=torch.float64))
    agrees(grad(lambda x: scan(lambda c, x: (c + x.sum(), c), x[0, 0], grad(lambda r: (r * r).sum())(W) + x)[0]), W)


def test_a_gradient_of_a_loop_over_what_has_tangents():
    """jvp around grad of a scan, one of whose operands is of jvp's level alone."""
    xs = torch.linspace(0, 1, 3, dtype=torch.float64)

    def f(x):
        return grad(lambda w: scan(lambda c, row: (c * w + row * x, c), x, xs)[0])(x.detach() + x)

    x = torch.tensor(0.7, dtype=torch.float64)
    agrees(lambda x: jvp(f, (x,), (x.cos(),)), x)
    agrees(vmap(lambda x: jvp(f, (x,), (x.cos(),))[1]), xs)


COMPLEX = {
    "written through conj": lambda z: (z.conj().mul_(2j), z),
    "of a part": lambda z: (z.conj().imag.add_(2), z.real.t()[1].zero_(), z),
    "adjoint": lambda z: (z.mH[0].fill_(1 + 2j), z, z @ z.mH),
    "reductions": lambda z: (z.sum(0) * 2, z.abs() + 1, z.mean(), z.var(), z.norm(), z.cumsum(0) / 2, z.prod(), z.std(0)),
    "polar": lambda z: torch.polar(z.abs(), z.angle()),
    "imag of conj": lambda z: z.conj().imag,
}


@pytest.mark.parametrize("name", list(COMPLEX))
def test_complex_numbers(name):
    z = torch.complex(W, V) / 4
    agrees(lambda z: COMPLEX[name](z.clone()), z)


def test_loops_of_complex_numbers():
    z = torch.complex(W, V) / 4
    loop = lambda z: scan(lambda c, r: (c * r, c + r.conj()), z[0], z)
    total = lambda z: sum(x.abs().sum() for x in tree.leaves(loop(z)))
    agrees(loop, z)
    agrees(grad(total), z)
    agrees(lambda z: jvp(loop, (z,), (z.conj(),)), z)
    agrees(vmap(loop, 1), torch.stack([z, 2 * z], 1))
    outside = z.conj()
    agrees(lambda a: (outside * a, outside.imag * a, vmap(lambda r: r * a)(outside)), W[0])


def test_whole_numbers_of_32_bits_are_places():
    def f(x, i):
        x = x.clone()
        x[i] += 1
        x[i][i] = 5
        return x

    agrees(f, W, torch.tensor(-1, dtype=torch.int32))


def test_rows_out_of_range_are_read_nearby_and_not_written():
    """As compile's docstring says of XLA."""
    pytest.importorskip("jax")
    f = compiler.compile(lambda x, i: (x[i], written(x, i)), backend="xla")
    x = torch.arange(3) + 1

    def written(x, i):
        x = x.clone()
        x[i] = 9
        return x

    for i, near in ((3, 3), (7, 3), (-4, 1), (-6, 1), (-7, 1)):
        row, new = f(x, torch.tensor(i))
        assert row.item() == near and new.tolist() == [1, 2, 3]


def test_arguments_of_other_kinds():
    f = compiler.compile(lambda x, dtype: x.to(dtype) * 2, backend="aot_eager")
    assert f(torch.ones(2), torch.int32).tolist() == [2, 2] and f(torch.ones(2), torch.float64).dtype == torch.float64
    swapped = numpy.arange(3).astype(">i4")
    assert f(swapped, torch.int64).tolist() == [0, 2, 4] and swapped.dtype == numpy.dtype(">i4")


def test_parameters_are_not_made_of_traced_tensors():
    with pytest.raises(compiler.TraceError, match="makes a parameter of a traced tensor"):
        compiler.compile(grad(lambda x: (torch.nn.Parameter(torch.empty(3)) * x).sum()), backend="aot_eager")(W)


def test_linearize_is_refused():
    f = lambda x: torch.func.linearize(torch.sin, x)[1](x)
    with pytest.raises(compiler.TraceError, match="torch.func.jvp"):
        compiler.compile(f, backend="aot_eager")(W)
