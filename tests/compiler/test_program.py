import itertools
import json
import math
import os
import subprocess
import sys
import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch.func import grad, grad_and_value, jacrev, vjp, vmap

from funrl import compiler, random, tree
from funrl.compiler import scan
from tests.support import compilations, same


@tree.dataclass
class Ball:
    """A state with a static field."""

    height: torch.Tensor
    speed: torch.Tensor
    name: str = tree.static(default="ball")


class Pair(NamedTuple):
    """A named tuple."""

    left: torch.Tensor
    right: torch.Tensor


def compile(f, **options):
    return compiler.compile(f, **{"backend": "aot_eager", **options})


def copy(t):
    return tree.map(torch.clone, t)


def loop(f, init, xs=None, *, length=None, reverse=False):
    """The oracle of scan: its definition."""
    columns = tree.leaves(xs)
    steps = range(columns[0].shape[0] if columns else length)
    carry, ys = init, {}
    for t in reversed(steps) if reverse else steps:
        carry, ys[t] = f(carry, tree.map(lambda x, t=t: x[t], xs))
    return carry, tree.stack([ys[t] for t in steps])


def numbers(seed, *shape, dtype=torch.float32):
    return random.normal(random.key(seed), shape, dtype=dtype)


# Each case is a function of (scan, tensors): it is run with the oracle, and eagerly and compiled with scan.
def plain(scan, x):
    return scan(lambda c, x: (c * 0.9 + x, c), torch.zeros_like(x[0]), x)


def backwards(scan, x):
    return scan(lambda c, x: (c * 0.9 + x, c), torch.zeros_like(x[0]), x, reverse=True)


def trees(scan, x):
    def f(carry, row):
        ball, (pair, none) = carry["ball"], carry["rest"]
        ball = ball.replace(height=ball.height + ball.speed, speed=ball.speed - row[0]["g"])
        pair = Pair(pair.right, pair.left + row[1].sum())
        return {"rest": (pair, none), "ball": ball}, {"y": ball.replace(name="y"), "n": [None, pair]}

    init = {"ball": Ball(x[0, 0], x[0, 1]), "rest": (Pair(x[0, 2], x[0, 2] + 1), None)}
    return scan(f, init, ({"g": x[:, 0]}, x))


def only_length(scan, x):
    return scan(lambda c, none: ({"a": c["a"] + x.sum()}, (none, c["a"])), {"a": x[0, 0]}, None, length=5)


def no_carry(scan, x):
    return scan(lambda c, x: ((), x.cos()), (), x)


def no_y(scan, x):
    return scan(lambda c, x: (c + x, ()), x[0], x)


def aliases(scan, x):
    """Carries that stay or change places, and a y that is the carry, the row, or a constant from outside."""
    return (
        scan(lambda c, x: ((c[1], c[0], c[2]), (c[0], c[2], x, outside)), (x[0], x[1], x[2]), x)
        if (outside := x[0, 0]) is not None
        else None
    )


def kinds(scan, x):
    """Integers and booleans, and float64 beside float32."""

    def f(c, row):
        n, flag, big = c
        return (n + 1, flag ^ (row.sum() > 0), big + row.to(torch.float64).sum()), {"n": n, "flag": flag}

    return scan(f, (torch.tensor(0), torch.tensor(False), torch.tensor(0.5, dtype=torch.float64)), x)


def strided(scan, x):
    """First carries and rows that are not contiguous, and a carry whose update is a transpose."""
    square = x.T @ x
    return scan(lambda c, row: (c.T + row, c.sum()), square.T, x.T.unsqueeze(-1).expand(x.shape[1], x.shape[0], 1)[:, : square.shape[0]])


def nested(scan, x):
    def outer(c, row):
        inner, ys = scan(lambda a, r: (a * 0.5 + r * c, a + r), c.sum(), row)
        return c + inner, ys

    return scan(outer, x[0, 0], x)


def gradient_inside(scan, x):
    def loss(w, row):
        return ((row @ w).tanh() - row.sum()).square().mean(), w.sum()

    def f(w, row):
        gradient, (value, aux) = grad_and_value(loss, has_aux=True)(w, row)
        return w - 0.1 * gradient, (value, aux)

    return scan(f, torch.ones_like(x[0]), x)


def scan_inside_gradient_inside(scan, x):
    """A gradient of a body that calls vmap, inside two scans."""

    def outer(w, rows):
        def inner(w, row):
            return w - 0.1 * grad(lambda w: vmap(lambda r: (r * w).sin().sum())(row[None]).sum())(w), w.sum()

        return scan(inner, w, rows)

    return scan(outer, torch.ones_like(x[0]), x.reshape(2, -1, x.shape[1]))


CASES = [
    plain,
    backwards,
    trees,
    only_length,
    no_carry,
    no_y,
    aliases,
    kinds,
    strided,
    nested,
    gradient_inside,
    scan_inside_gradient_inside,
]


@pytest.mark.parametrize("case", CASES)
def test_scan_agrees_with_its_definition(case):
    x = numbers(0, 4, 3)
    kept = x.clone()
    expected = case(loop, x)
    same(case(scan, x), expected, rtol=0, atol=0)
    same(compile(lambda x: case(scan, x))(x), expected)
    same(case(scan, x.double()), case(loop, x.double()), rtol=0, atol=0)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("case", CASES)
def test_scan_under_vmap_agrees_with_a_loop(case):
    """Also where a carry starts unbatched and becomes batched: all that do not come from x are."""
    x = numbers(1, 2, 4, 3)
    expected = tree.stack([case(loop, row) for row in x])
    leaves = lambda x: tree.leaves(case(scan, x))
    expected = tree.leaves(expected)
    same(vmap(leaves)(x), expected)
    same(compile(vmap(leaves))(x), expected)


def mixed(scan, carry, x, weight, other):
    """Of four carries: one is batched by x, one by its weight, one by the carry before it, and one never."""

    def f(c, row):
        a, b, d, e = c
        return (a + row, b @ weight, d + b.sum() * a.sum(), e * other), (a, e)

    return scan(f, (carry, torch.ones(2), torch.zeros(()), torch.ones(())), x)


@pytest.mark.parametrize("dims", [(0, None, None), (None, 0, None), (None, None, 0), (None, 1, 0), (1, 0, None)])
def test_scan_batches_only_what_it_must(dims):
    sizes = [(3,), (4, 3), (2, 2)]
    args = [
        numbers(i, *(size if dim is None else (*size[:dim], 5, *size[dim:]))) for i, (size, dim) in enumerate(zip(sizes, dims, strict=True))
    ]
    other = torch.tensor(0.5)
    rows = [[x if dim is None else x.select(dim, i) for x, dim in zip(args, dims, strict=True)] for i in range(5)]
    expected = tree.stack([mixed(loop, *row, other) for row in rows])
    batched = vmap(lambda *args: mixed(scan, *args, other), dims)
    same(batched(*args), expected)
    same(compile(batched)(*args), expected)


def test_scan_under_two_vmaps():
    args = (numbers(0, 2, 3), numbers(1, 3, 4, 3), numbers(2, 2, 2, 2), torch.tensor(0.5))
    expected = tree.stack([tree.stack([mixed(loop, args[0][i], args[1][j], args[2][i], args[3]) for j in range(3)]) for i in range(2)])

    def both(*args):
        return vmap(vmap(lambda *args: mixed(scan, *args), (None, 0, None, None)), (0, None, 0, None))(*args)

    same(both(*args), expected)
    same(compile(both)(*args), expected)


def test_vmap_inside_a_scan_inside_a_vmap():

    def f(x, w):
        return scan(lambda c, row: (vmap(lambda c, r: c + w * r)(c, row), c.sum()), torch.zeros_like(x[0]), x)

    x, w = numbers(0, 2, 4, 3), numbers(1, 2)
    expected = tree.stack([f(*row) for row in zip(x, w, strict=True)])
    same(compile(vmap(f))(x, w), expected)


def recurrence(params, x):
    def f(h, row):
        h = torch.tanh(params["w"] @ h + row)
        return h, h.sum()

    last, ys = scan(f, torch.zeros_like(x[0]), x)
    return last.sum() + ys.square().sum()


def test_scan_is_differentiable_eagerly():
    params, x = {"w": numbers(0, 3, 3, dtype=torch.float64)}, numbers(1, 4, 3, dtype=torch.float64)
    w = params["w"].clone().requires_grad_()
    rows = x.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda w, x: recurrence({"w": w}, x), (w, rows))
    assert torch.autograd.gradgradcheck(lambda w, x: recurrence({"w": w}, x), (w, rows))
    slope = grad(recurrence)(params, x)
    recurrence({"w": w}, x).backward()
    torch.testing.assert_close(slope["w"], w.grad)
    torch.testing.assert_close(jacrev(recurrence)(params, x)["w"], w.grad)
    batched = vmap(grad(recurrence), (None, 0))(params, torch.stack([x, 2 * x]))
    torch.testing.assert_close(batched["w"], torch.stack([slope["w"], grad(recurrence)(params, 2 * x)["w"]]))


def test_backpropagation_through_time_compiles_written_out():

    def cell(params, h, row):
        h = torch.tanh(params["w"] @ h + row)
        return h, h.square().sum()

    def bptt(params, x):
        _, (carries, ys) = scan(lambda h, row: ((out := cell(params, h, row))[0], (h, out[1])), torch.zeros(3), x)

        def back(carry, row):
            cotangent, total = carry
            h, x = row
            _, pull = vjp(lambda params, h: cell(params, h, x), params, h)
            slope, cotangent = pull((cotangent, torch.ones(())))
            return (cotangent, tree.map(torch.add, total, slope)), ()

        (_, slope), _ = scan(back, (torch.zeros(3), tree.map(torch.zeros_like, params)), (carries, x), reverse=True)
        return slope, ys.sum()

    params, x = {"w": numbers(0, 2, 3, 3)}, numbers(1, 2, 6, 3)

    def loss(params, x):
        return loop(lambda h, row: cell(params, h, row), torch.zeros(3), x)[1].sum()

    expected = [grad_and_value(loss)(tree.index(params, i), x[i]) for i in range(2)]
    same(compile(bptt)(tree.index(params, 0), x[0]), expected[0])
    same(compile(vmap(bptt))(params, x), tree.stack(expected))


def keep(c, x):
    return c, ()


ERRORS = {
    "python number in init": (lambda x: scan(keep, {"a": [x, 1.0]}, x), TypeError, r"leaf \['a'\]\[1\] of init is a float; .*torch.tensor"),
    "python number in xs": (lambda x: scan(keep, x, {"a": 2}), TypeError, r"leaf \['a'\] of xs is a int"),
    "no length": (lambda x: scan(keep, x), ValueError, "xs holds no tensor and length is missing"),
    "zero length": (lambda x: scan(keep, x, length=0), ValueError, "length is 0; expected at least one step"),
    "no rows": (lambda x: scan(keep, x, x[:0]), ValueError, "length is 0"),
    "scalar xs": (lambda x: scan(keep, x, (x, x[0, 0])), ValueError, r"leaf \[1\] of xs has shape \[\]"),
    "lengths": (lambda x: scan(keep, x, {"a": x, "b": x[1:]}), ValueError, r"leaf \['b'\] of xs has 3 rows, expected 4 as leaf \['a'\]"),
    "length and xs": (lambda x: scan(keep, x, x, length=5), ValueError, "the whole tree. of xs has 4 rows, expected length 5"),
    "no pair": (lambda x: scan(lambda c, x: c, x, x), TypeError, r"pair \(carry, y\), got Tensor"),
    "structure": (
        lambda x: scan(lambda c, x: ({"a": c["a"], "c": x}, ()), {"a": x, "b": x}, x),
        ValueError,
        r"the carry that f returned has another structure than init: it has no leaf \['b'\]; its leaf \['c'\] is new",
    ),
    "static": (lambda x: scan(lambda c, x: (c.replace(name="o"), ()), Ball(x, x), x), ValueError, "static fields, differ"),
    "shape": (
        lambda x: scan(lambda c, x: (c.replace(speed=x), ()), Ball(x, x), x),
        ValueError,
        r"leaf \.speed is float32 \[3\], but in init it is float32 \[4, 3\]",
    ),
    "dtype": (
        lambda x: scan(lambda c, x: ((c[0], c[1] + 1.0), ()), (x, torch.tensor(0)), x),
        ValueError,
        r"leaf \[1\] is float32 \[\], but in init it is int64 \[\]",
    ),
    "python number in the carry": (
        lambda x: scan(lambda c, x: (0.0, ()), x[0, 0], x),
        ValueError,
        r"is a float, but in init it is float32 \[\]",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_scan_errors(name):
    f, kind, message = ERRORS[name]
    with pytest.raises(kind, match=message):
        f(numbers(0, 4, 3))
    with pytest.raises(kind, match=message):
        compile(f)(numbers(0, 4, 3))
    if name in ("structure", "shape"):
        with pytest.raises(kind, match=message):
            vmap(f)(numbers(0, 2, 4, 3))


def test_scan_refuses_a_python_number_as_y():
    with pytest.raises(TypeError, match=r"leaf \(the whole tree\) of y is a float"):
        scan(lambda c, x: (c, 1.0), torch.zeros(()), torch.zeros(3))
    with pytest.raises(TypeError, match=r"leaf \(the whole tree\) of y is a float"):
        compile(lambda x: scan(lambda c, x: (c, 1.0), torch.zeros(()), x))(torch.zeros(3))


@pytest.mark.parametrize(
    "cases",
    [
        (kinds, nested, gradient_inside),
        (aliases, gradient_inside),
    ],
)
def test_scan_compiled_by_xla(cases):
    x = numbers(0, 2, 4, 3)
    f = vmap(lambda x: tree.leaves([case(scan, x) for case in cases]))
    same(compiler.compile(f)(x), tree.leaves(f(x)), rtol=1e-5, atol=1e-5)


# compile


def test_what_a_body_closes_over_may_share_memory():
    """As parameters that are parts of one vector do; the operator alone refuses it."""

    def f(vector, xs):
        a, b = vector[:4], vector[4:]
        return scan(lambda c, x: (c * a + b + x, c), torch.zeros(4), xs)

    arguments = torch.arange(8.0), torch.ones(3, 4)
    same(compiler.compile(f)(*arguments), f(*arguments))


def test_small_products_compiled_by_xla():
    """Products of a few numbers, and of none, beside larger ones."""

    def f(x, w, v, wide):
        h = torch.tanh(x @ w)
        gradient = grad(lambda w: (torch.tanh(x @ w) @ v).square().sum())(w)
        return h @ v, x.T @ h, v.T @ h.T, gradient, (h @ h.T) @ wide @ wide.T, x[:, :0] @ w[:0]

    args = numbers(0, 6, 4), numbers(1, 4, 8), numbers(2, 8, 1), numbers(3, 6, 2000)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        inputs = [x.to(dtype) for x in args]
        same(compiler.compile(f)(*inputs), f(*inputs), rtol=tolerance, atol=tolerance * 1000)


def test_thin_products_compiled_by_xla():
    """Few columns are computed as few rows, alone and batched by vmap, with the gradients that stand on them."""

    def f(x, w, v):
        gradients = grad(lambda w, v: ((torch.tanh(x @ w) @ v)[:, 0].square()).sum(), (0, 1))(w, v)
        return torch.tanh(x @ w) @ v, gradients, x @ w[:, :1], x.T @ (x @ w[:, :3])

    x, w = numbers(0, 3, 100, 40), numbers(1, 3, 40, 64)
    for columns in (1, 2):
        v = numbers(2, 3, 64, columns)
        same(compiler.compile(vmap(f))(x, w, v), vmap(f)(x, w, v), rtol=1e-4, atol=1e-2)
        same(compiler.compile(f)(x[0], w[0], v[0]), f(x[0], w[0], v[0]), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_expm1_keeps_its_digits_compiled_by_xla(dtype):
    x = torch.cat([torch.logspace(-30, 1.9, 200, dtype=dtype), torch.tensor([0.0, math.inf], dtype=dtype)])
    x = torch.cat([x, -x])
    same(compiler.compile(lambda x: torch.expm1(x))(x), x.expm1(), rtol=8 * torch.finfo(dtype).eps, atol=0)


def test_argmax_over_few_entries_compiled_by_xla():
    """Of equal entries the first counts, and the first NaN before them all."""
    rows = torch.tensor(list(itertools.product((-math.inf, 1.0, 2.0, math.nan), repeat=3)))

    def f(x, wide):
        return x.argmax(-1), x.T.argmax(0), x[:, :2].argmax(1), x.argmax(-1, keepdim=True), (wide @ wide.T)[:, :9].argmax(-1)

    for x in (rows, rows.double(), torch.arange(12).reshape(6, 2) % 5):
        same(compiler.compile(f)(x, numbers(0, 16, 8)), f(x, numbers(0, 16, 8)))


def test_stacks_compiled_by_xla():
    """Numbers of a batch stacked as columns, of one dtype or several, given on and reduced, beside stacks that are left alone."""

    def f(x, count):
        columns = torch.stack([x.sin(), x * x, x - 1], -1)
        mixed = torch.stack([x.cos(), count.to(x.dtype)], -1).to(torch.float64)
        joined = torch.cat([x[:, None], columns], -1), torch.cat([count[:, None], columns[:, :1]], 1)
        return columns, columns.sum(0), columns.T, mixed, *joined

    x, count = numbers(0, 40), torch.arange(40)
    same(compiler.compile(f)(x, count), f(x, count))
    batch = (numbers(1, 2, 40), count.expand(2, 40).contiguous())
    same(compiler.compile(torch.func.vmap(f))(*batch), torch.func.vmap(f)(*batch))


def test_one_graph_or_an_error():
    with compilations(1):
        assert compile(lambda x: x + 1)(torch.ones(2)).tolist() == [2, 2]

    def branch(x):
        return x + 1 if x.sum() > 0 else x

    for f in (branch, lambda x: x + x.tolist()[0], lambda x: x + x.sum().item(), lambda x: x + float(x[0])):
        with pytest.raises(compiler.TraceError, match=r"test_program\.py:\d+: .*the value of a traced tensor .* was asked for"):
            compile(f)(torch.ones(2))


def test_a_print_shows_that_there_is_no_value(capsys):
    def show(x):
        print(x)
        return x + 1

    f = compile(show)
    for _ in range(2):
        assert f(torch.ones(2)).tolist() == [2, 2]
    shown = capsys.readouterr().out
    assert shown == "<traced float32 [2]: it has no value before the program runs; funrl.debug.print shows it then>\n"


def test_errors_of_checks_arrive_as_they_were_raised():

    def check(kind, text):
        def f(x):
            if x.shape[0] == 3:
                raise kind(text)
            return x + 1

        return f

    text = "x: expected 'two' rows, got [3];\n\"take\" {one} away"
    for kind in (ValueError, TypeError):
        with pytest.raises(kind) as error:
            compile(check(kind, text))(torch.ones(3))
        assert str(error.value) == text
    assert compile(check(ValueError, text))(torch.ones(2)).tolist() == [2, 2]


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: compiler.compile(3), "fn is an int; expected a function"),
        (lambda: compiler.compile(copy, donate="x"), "donate is 'x'; expected positions"),
        (lambda: compiler.compile(copy, donate=-1), "donate is -1"),
        (lambda: compiler.compile(copy, donate=(0, 1.0)), r"donate is \(0, 1.0\)"),
    ],
)
def test_compile_errors(call, message):
    with pytest.raises(TypeError, match=message):
        call()


def test_masks_compiled_by_xla():

    def f(first, second, x):
        either, both = first | second, first.T & second.T
        late = torch.cat([either, both.T])  # a mask that one kernel writes and another reads
        return [
            *(torch.where(either, x.to(dtype), 2) for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32)),
            torch.where(both, x.T, 0.0),
            (x * ~first).sum(0),
            late.sum(0),
            late.flip(0) ^ late,
            first.any(1),
            first.to(torch.float64).mean(1),
            *(x.to(dtype) > 0 for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int32, torch.uint8)),
            *(kept.to(torch.uint8) for kept in (either, both)),
            torch.stack([either, torch.arange(67) == 5 * x[:, :1], first & ~second], -1),
            both.clone(),
            torch.where(either[:, :1], first, False),
        ]

    x = 9 * numbers(0, 33, 67).abs()  # neither is a multiple of what a vector holds
    first, second = (random.bernoulli(key, 0.4, (33, 67)) for key in random.split(random.key(1)).unbind(0))
    same(compiler.compile(f)(first, second, x), f(first, second, x))


def test_what_a_loop_wrote_may_be_all_that_is_computed_with():
    def f(carry, xs):
        carry, ys = scan(lambda carry, x: (carry + x, carry * x), carry, xs)
        return carry, ys.sin()

    arguments = numbers(0, 16), numbers(1, 64, 16)
    same(compiler.compile(f)(*arguments), f(*arguments))


def test_steps_of_a_loop_take_turns_at_memory():
    """Carries that move on, change places, are cut from others or stay, in loops of loops: none is written over while it counts."""

    def f(carry, xs, weight):
        def step(carry, x):
            a, b, c, cut, still, left, right = carry
            mixed = torch.tanh(weight @ (a + x)) + cut.sum()
            total, sums = scan(lambda s, y: (((weight @ s[0]).sin() + y, s[0]), s[1] * y), (b, c), torch.stack([a, x, mixed]))
            new = torch.tanh(mixed - total[0] + sums.mean(0) + still)
            both = torch.cat([new, c * x])
            return (new, a, b, both[3:11], still, right, left * new), (both, total[1])

        carry, ys = scan(step, carry, xs)
        return carry, ys, carry[0] * 2

    def arguments(seed):
        carry = tuple(numbers(seed + i, 8) for i in range(7))
        return tree.map(torch.Tensor.double, (carry, numbers(seed + 7, 6, 8), numbers(seed + 8, 8, 8)))

    compiled = compiler.compile(f)
    out = compiled(*arguments(0))
    same(out, f(*arguments(0)))
    same(compiled(*arguments(9)), f(*arguments(9)))
    same(out, f(*arguments(0)))
    several = tree.map(lambda *x: torch.stack(x), *map(arguments, (20, 40, 60)))
    same(compiler.compile(vmap(f))(*several), vmap(f)(*several))


def test_a_compiled_function_keeps_its_name():
    assert compile(keep).__name__ == "keep"


BIG = 1 << 14  # float32 numbers in 64 KiB


# Tensors whose memory a program of XLA can take: those that torch made are copied first.
owned = compiler.compile(copy, backend="xla")


def test_donation_compiled_by_xla():
    """Writes in place, swaps, target = params, what stays, and metrics of the old values, in one program."""

    def update(state, batch):
        new = {
            "buffer": state["buffer"].index_copy(0, batch["rows"], batch["x"]),
            "params": state["params"] * 0.5 + 1,
            "target": state["params"],
            "a": state["b"],
            "b": state["a"],
            "still": state["still"],
            "small": state["small"] + 1,
        }
        return new, {"old": state["buffer"].sum(), "new": new["buffer"].sum(), "first": state["a"][:2], "whole": state["b"]}

    def state():
        big = {name: numbers(i, BIG) for i, name in enumerate(("params", "target", "a", "b", "still"))}
        return {"buffer": numbers(9, BIG // 4, 4), **big, "small": torch.zeros(3)}

    batch = {"rows": torch.tensor([3, 5]), "x": torch.full((2, 4), 7.0)}
    expected = [copy(state())]
    metrics = []
    for _ in range(3):
        new, metric = update(copy(expected[-1]), batch)
        expected.append(copy(new))
        metrics.append(copy(metric))
    step = compiler.compile(update, donate=0)
    old, kept = owned(state()), copy(batch)
    places = {name: x.data_ptr() for name, x in old.items()}
    for i in range(3):
        with compilations(int(i == 0)):
            new, metric = step(old, batch)
        same(new, expected[i + 1])
        same(metric, metrics[i], rtol=1e-5, atol=1e-3)
        same(batch, kept, rtol=0, atol=0)
        # What is computed is written in place; what only moves is handed over.
        moved = {"buffer": "buffer", "target": "params", "a": "b", "b": "a", "still": "still"}
        assert {name: new[name].data_ptr() for name in moved} == {name: places[old] for name, old in moved.items()}
        places = {name: x.data_ptr() for name, x in new.items()}
        with pytest.raises(
            ValueError, match=r"update: leaf \['buffer'\] of argument 0 was donated to update before.*use what that call returned"
        ):
            step(old, batch)
        with pytest.raises(ValueError, match="this tensor was donated to update, which wrote over it; use what that call returned"):
            old["buffer"] + 1
        old = new


def test_donation_changes_nothing_but_the_memory():

    def f(a, b, x):
        return (
            b.replace(height=b.height + x, speed=b.speed + x),
            a.replace(height=a.height - 1, speed=b.speed * x),
            a.height.sum() + b.height.sum(),
        )

    def args():
        return Ball(numbers(0, BIG), numbers(1, BIG), "a"), Ball(numbers(2, BIG), numbers(3, BIG), "b"), torch.tensor(2.0)

    expected = f(*args())
    same(compile(f)(*args()), expected)
    for donate in (0, 1, (0, 1), (1, 0)):
        given = owned(args())
        places = [given[0].height.data_ptr(), given[1].height.data_ptr(), given[1].speed.data_ptr()]
        result = compiler.compile(f, donate=donate, backend="xla")(*given)
        same(result, expected)
        donated = (donate,) if isinstance(donate, int) else donate
        taken = {x.data_ptr() for x in tree.leaves(result)}
        assert [place in taken for place in places] == [0 in donated, 1 in donated, 1 in donated]
        for i, fresh in enumerate(args()):
            if i not in donated:
                same(given[i], fresh, rtol=0, atol=0)


def test_a_tuple_is_donated_to_a_tuple():
    """As parameters of nn.mlp are: the output itself, and not one of its items."""
    params = owned((torch.zeros(1 << 15), torch.zeros(1 << 16)))
    place = params[0].data_ptr()
    new = compiler.compile(lambda p: tree.map(lambda x: x + 1, p), donate=0)(params)
    assert new[0].data_ptr() == place and all((x == 1).all() for x in new)
    both, total = compiler.compile(lambda p: (tree.map(lambda x: x + 1, p), p[0].sum()), donate=0)(new)
    assert both[0].data_ptr() == place and (both[1] == 2).all() and total == 1 << 15


def test_a_donated_dict_gives_its_memory_by_key():
    step = compiler.compile(lambda s: {"a": s["a"] + 1, "b": s["b"] * 2}, donate=0)
    old = owned({"b": torch.ones(BIG), "a": torch.zeros(BIG)})
    places = {name: x.data_ptr() for name, x in old.items()}
    new = step(old)
    assert list(new) == ["a", "b"] and {name: x.data_ptr() for name, x in new.items()} == places
    same(new, {"a": torch.ones(BIG), "b": torch.full((BIG,), 2.0)})


def test_a_donated_argument_is_used_once():
    step, other = compile(lambda s: {"n": s["n"] + 1}, donate=0), compile(lambda x, s: s["n"] + x)
    old = {"n": torch.zeros(2)}
    new = step(old)
    for again in (lambda: step(old), lambda: other(torch.ones(2), old), lambda: other(old["n"], new)):
        with pytest.raises(ValueError, match=r"was donated to fn before"):
            again()
    assert other(torch.ones(2), new).tolist() == [2, 2]
    assert step(step(new))["n"].tolist() == [3, 3]


def test_donation_errors():
    x = torch.zeros(3)
    for f in (lambda s, x: x.sum(), lambda s, x: {"b": s["a"]}, lambda s, x: ({"a": s["a"].double()}, x), lambda s, x: {"a": s["a"][:2]}):
        with pytest.raises(ValueError, match="no output has the structure, shapes and dtypes of donated argument 0; return its successor"):
            compile(f, donate=0)({"a": x.clone()}, x)
    with pytest.raises(ValueError, match="donated argument 1"):  # one output is not enough for two
        compile(lambda a, b: a + b, donate=(0, 1))(x.clone(), x.clone())
    with pytest.raises(ValueError, match="argument 1 is to be donated, but only 1 were given"):
        compile(lambda *args: args[0], donate=1)(x.clone())


def test_arguments_are_left_alone():

    def f(a, b):
        return a, tree.map(lambda x: x.clone().add_(1), b), a["x"]

    a, b = {"x": numbers(0, BIG)}, {"y": numbers(1, 3)}
    kept = copy((a, b))
    out = compile(f)(a, b)
    for x in tree.leaves(out):
        x.add_(1)
    same(b, kept[1], rtol=0, atol=0)


def test_nothing_compiles_on_the_second_call():

    def f(state, x):
        ball, twin = state
        carry, ys = scan(lambda c, row: (c + row, c), ball.height, x)
        return (ball.replace(height=carry, speed=ball.height), twin), {"ys": ys.T, "same": ball.height}

    step = compile(f)
    x = numbers(0, 4, 3)
    shared = torch.zeros(3)
    state = Ball(shared, shared.clone()), shared.clone()
    with compilations(1):
        state, metrics = step(state, x)
    with compilations(0):
        for _ in range(3):
            state, metrics = step(state, x)
        # Other layouts and leaves that share memory are the same program.
        step(state, numbers(0, 3, 4).T)
        step(state, torch.zeros(1, 3).expand(4, 3))
        step(state, metrics["ys"].T.contiguous())
        step((Ball(shared, shared), shared[:]), x)
        step(state, torch.cat([x, x])[4:])
        step(state, numbers(0, 8, 3)[::2])
    with compilations(1):
        step(state, numbers(0, 5, 3))
    expected, _ = f((Ball(shared, shared), shared), x)
    same(step((Ball(shared, shared), shared), x)[0], expected)


def test_many_programs_in_one_process():

    def make(n):
        return compile(lambda x: x + n)

    with compilations(12):
        functions = [make(float(n)) for n in range(12)]
        assert [f(torch.zeros(())).item() for f in functions] == list(range(12))
    with compilations(0):
        assert [f(torch.zeros(())).item() for f in functions] == list(range(12))
    sized = compile(lambda x: x.sum())
    with compilations(8):
        assert [sized(torch.ones(n)).item() for n in range(2, 10)] == list(range(2, 10))


PROGRAM = """
import json
import funrl, torch
from funrl import compiler
parts = []
step = compiler.compile(lambda s, x: compiler.scan(lambda c, r: (c * 0.9 + r, c.sum()), s, x), donate=0)
with compiler.listening(lambda name, ended, seconds, begins: parts.append(begins)):
    carry, ys = step(torch.zeros(3), torch.ones(16, 3))
print(json.dumps({"carry": carry.tolist(), "parts": parts}))
"""


@pytest.mark.slow
def test_a_second_process_finds_the_program(tmp_path):
    (tmp_path / "step.py").write_text(PROGRAM)
    environment = {**os.environ, "FUNRL_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    runs = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "step.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        runs.append(json.loads(done.stdout))
    first, second = runs
    assert first["carry"] == second["carry"]
    assert first["parts"] == ["tracing", "lowering", "compiling", ""]
    assert second["parts"] == ["tracing", "loading", ""]


def test_donated_leaves_that_come_back_as_they_are_keep_their_present_values():
    """Whatever is done to results between two calls, the next call reads what eager torch reads: they travel as views of one vector."""
    both = torch.tensor([3.0])
    for dtype in (torch.float32, torch.bfloat16):
        step = compiler.compile(
            lambda s: {**s, "w": s["w"] - s["rate"] * s["scale"].sum() + s["a"] + s["b"], "v": s["v"] + 1}, donate=0, backend="xla"
        )
        shared = both.to(dtype, copy=True)
        first = {
            "w": torch.ones(3),
            "v": torch.ones(3),
            "rate": torch.tensor(0.5),
            "scale": torch.tensor([[1.0, 2.0]]),
            "none": torch.ones(0),
        }
        first = {**tree.map(lambda x: x.to(dtype), first), "a": shared, "b": shared}
        copied = tree.clone(first) | {"a": (other := shared.clone()), "b": other}
        state, expected = step(first), step.fn(copied)
        same(state, expected, rtol=0, atol=0)
        for change in (
            lambda s: s["rate"].mul_(2),
            lambda s: s["a"].mul_(3),  # and so "b"
            lambda s: s.update(scale=torch.full((1, 2), 3.0, dtype=dtype)),
            lambda s: s.update(scale=s["scale"].mT.contiguous().mT),
            lambda s: s.update(v=torch._neg_view(s["v"])),
            lambda s: s.update(v=s["w"], w=s["v"]),
            lambda s: s["w"].mul_(2),
            lambda s: None,
        ):
            state, expected = step(state), step.fn(expected)
            change(state), change(expected)
            same(state, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_results_have_memory_of_their_own(dtype):
    """Small results travel in one vector; no write to one, nor a change of its size, reaches another one."""
    f = compiler.compile(lambda x: {"a": x[0] ^ x[1] if dtype == torch.bool else x[0] + x[1], "b": x[:, :1].clone(), "c": x[:0].clone()})
    x = torch.ones(2, 3).to(dtype)
    for _ in range(2):
        out, right = f(x), f.fn(x)
        same(out, right, rtol=0, atol=0)
        assert all(x.stride() == right[k].stride() and x.untyped_storage().nbytes() == right[k].nbytes for k, x in out.items())
        with pytest.raises(RuntimeError, match="not resizable"):
            out["a"].resize_(4)
        same(out["b"], right["b"], rtol=0, atol=0)
        out["a"] = f(x)["a"].resize_(2)
        out["b"].fill_(0)
        same(out, {**right, "a": right["a"][:2], "b": torch.zeros_like(right["b"])}, rtol=0, atol=0)


def test_a_call_unlike_the_last_one_is_noticed():
    """A call is compared with the last one at the speed of C; each thing that is part of a program's key counts there."""

    def f(ball, x, d):
        return (
            ball.height + x + (ball.name == "other"),
            torch.zeros(1),
            "".join(d) == "ab",
            torch.is_autocast_enabled("cpu"),
            d["a"] - d["b"],
        )

    def usual():
        return Ball(torch.ones(2), torch.ones(2)), torch.ones(2), {"a": torch.ones(1), "b": torch.zeros(1)}

    compiled = compile(f)
    ball, x, d = usual()
    part = Ball(torch.ones(2, requires_grad=True), torch.ones(2))
    with torch.inference_mode():
        inference = torch.ones(2)
    for changed in (
        (ball, x, {"b": d["b"], "a": d["a"]}),
        (ball.replace(name="other"), x, d),
        (ball, x.double(), d),
        (ball, torch.ones(1), d),
        (ball, torch.ones(2, 2)[:, 0], d),
        (ball, torch.ones(2, 1).expand(2, 2)[0], d),
        (ball, torch.zeros(2)._neg_view(), d),
        (ball, torch.nn.Parameter(x), d),
        (ball, x.numpy(), d),
        (ball, inference, d),
        (part, x, d),
        (ball, 1.0, d),
        (ball, 2.0, d),
        (ball, 2, d),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            same(compiled(*usual()), f(*usual()), rtol=0, atol=0)
            given = [torch.as_tensor(a) if isinstance(a, np.ndarray) else a for a in changed]
            with torch.no_grad():
                same(compiled(*changed), f(*given), rtol=0, atol=0)
    for context in (torch.autocast("cpu"), torch.inference_mode(), torch.no_grad(), compiler.eager()):
        with context:
            same(compiled(*usual()), f(*usual()), rtol=0, atol=0)
        same(compiled(*usual()), f(*usual()), rtol=0, atol=0)
    double = torch.zeros((), dtype=torch.float64)
    try:
        torch.set_default_dtype(torch.float64)
        assert compiled(*usual())[1].dtype == double.dtype
    finally:
        torch.set_default_dtype(torch.float32)
    same(vmap(lambda x: compiled(ball, x, d)[0])(torch.ones(3, 2)), torch.full((3, 2), 2.0))
    same(grad(lambda x: compiled(ball, x, d)[0].sum())(x), torch.ones(2))


def test_donated_leaves_that_come_back_are_apart_from_what_was_given():
    """They are new tensors in one vector; another state, and another program, may have been given the same ones."""
    step = compiler.compile(lambda s: {**s, "n": s["n"] + s["rate"]}, donate=0)
    rate, size = torch.tensor(1.0), torch.ones(2)
    one, two = ({"n": torch.zeros(()), "rate": rate, "size": size} for _ in range(2))
    one, two = step(one), step(two)
    one["rate"].fill_(5.0)
    for _ in range(3):
        one, two = step(one), step(two)
    assert (one["n"].item(), two["n"].item(), rate.item()) == (16, 4, 1)
    places = [x.data_ptr() for x in (one["rate"], one["size"])]
    one = step(one)
    assert [x.data_ptr() for x in (one["rate"], one["size"])] == places  # no copies any more
