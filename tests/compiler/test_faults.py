"""Programs that once came out wrong compiled, each with its whole kind, compiled by XLA and traced alone beside what torch gives eagerly."""

import functools
from random import Random

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, grad_and_value, hessian, jacfwd, jacrev, jvp, vjp, vmap

import funrl
from funrl import buffers, compiler, random, returns, scan, tree
from tests.support import compilations, same

BACKENDS = ["aot_eager", pytest.param("xla", marks=pytest.mark.skipif(not compiler._backends.has_jax(), reason="jax is not installed"))]
BACKENDS += [pytest.param("inductor", marks=pytest.mark.weekly)]  # minutes of g++; tests/compiler/test_inductor.py runs each day
backends = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    yield
    compiler.clear()


def numbers(seed, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def agrees(backend, cases, rtol=1e-9):
    """Fail unless functions (name: (f, *args)), compiled as one program, give what they give eagerly."""
    names, functions, args = list(cases), [f for f, *_ in cases.values()], [args for _, *args in cases.values()]

    def together(args):
        return {name: f(*a) for name, f, a in zip(names, functions, args, strict=True)}

    right = together(args)
    got = compiler.compile(together, backend=backend)(args)
    for name in names:
        try:
            same(got[name], right[name], rtol=rtol, atol=rtol)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from None


def donated(backend, cases, rtol=1e-9):
    """Fail unless functions of a state and more, (name: (f, state, *args)), give eager results where the state is donated, twice."""
    names, functions, states = list(cases), [f for f, *_ in cases.values()], [tree.map(torch.clone, s) for _, s, *_ in cases.values()]
    args = [args for _, _, *args in cases.values()]

    def together(states, args):
        return [f(s, *a) for f, s, a in zip(functions, states, args, strict=True)]

    step = compiler.compile(together, donate=0, backend=backend)
    right = states
    for _ in range(2):
        right, states = together(right, args), step(tree.map(torch.clone, states), args)
        for name, x, y in zip(names, states, right, strict=True):
            try:
                same(x, y, rtol=rtol, atol=rtol)
            except AssertionError as error:
                raise AssertionError(f"{name}: {error}") from None


# c01, c24: a donated state that is read at other places than it is written at, permuted, viewed or gathered --------------------------


def write_in_place(x, rows):
    x = x.clone()
    x[3:7] = rows
    x.t()[0] *= 2
    x.diagonal()[:5].copy_(x[-1, :5])
    x.view(-1)[::3].neg_()
    return x


@backends
def test_donated_states(backend):
    x, rows, order = (
        numbers(0, 1024, 64, dtype=torch.float32),
        numbers(1, 4, 64, dtype=torch.float32),
        torch.tensor([3, 3, 1, 7, 0, 0, 5, 2]),
    )
    wide = numbers(2, 130, 130)
    buffer = buffers.uniform(64)
    pop = vmap(buffer.extend)(vmap(lambda _: buffer.init(torch.zeros(40)))(torch.zeros(8)), torch.rand(8, 50, 40))
    two = {"now": torch.zeros(200, 200), "before": torch.full((200, 200), 7.0)}
    place = torch.arange(4)
    donated(
        backend,
        {
            "scroll": (lambda x, rows: x.index_copy(0, place, rows).roll(1, 0), x, rows),
            "swap": (lambda x: x.reshape(32, 32, 64).transpose(0, 1).reshape(1024, 64), x),
            "survivors": (lambda pop, new, order: tree.index(vmap(buffer.extend)(pop, new), order), pop, torch.rand(8, 8, 40), order),
            "transposed": (lambda x: x.T + x, wide),
            "transposed alone": (lambda x: x.T, wide),
            "reversed": (lambda x: x.flip(0), x),
            "gathered": (lambda x: x[torch.arange(1023, -1, -1)], x),
            "gathered, written": (lambda x, rows: x.index_put((place * 5,), rows)[torch.arange(1024) // 2], x, rows),
            "written in place": (write_in_place, x, rows),
            "shifted into itself": (lambda x: x.slice_scatter(x[:-1], 0, 1), x),
            "rows of itself": (lambda x: x.index_copy(0, torch.tensor([0, 5]), x[[5, 0]]), x),
            "sums with its neighbour": (lambda x: torch.cat([x[1:], x[:1]]) + x, x),
            "index_add of itself": (lambda x: x.index_add(0, torch.tensor([0, 0, 1]), x[1:4]), x),
            "a triangle": (lambda x: x.tril() + x.T.triu(1), wide),
            "cumulated": (lambda x: x.cumsum(0) * 0.5, x),
            "scattered": (lambda x: x.scatter(1, torch.zeros(1024, 1, dtype=torch.int64) + 3, x[:, :1].flip(0)), x),
            "in a loop": (lambda x, rows: scan(lambda x, r: (x.index_copy(0, place[:1], r[None] + x[1023:]), ()), x, rows)[0], x, rows),
            "old value in another place": (lambda s: {"now": s["now"] + 1, "before": s["now"]}, two),
            "as a view": (lambda s: {"now": s["now"] + 1, "before": s["now"][None].squeeze(0)}, two),
            "as an expanded view": (lambda s: {"now": s["now"] + 1, "before": s["now"].expand(1, 200, 200)[0]}, two),
            "changed places": (lambda s: {"now": s["before"], "before": s["now"]}, two),
            "changed places, seen twice": (lambda s: {"now": s["before"] * 1, "before": s["now"].view(-1).view(200, 200)}, two),
        },
        rtol=1e-6,
    )


# c02: scatters into constants under vmap --------------------------------------------------------------------------------------------


@backends
def test_scatters_into_constants_under_vmap(backend):
    pos = torch.tensor([[0, 0], [1, 2], [3, 3], [4, 1]])
    one = torch.tensor(1.0)

    def drawn(pos):
        board = torch.zeros(5, 5) + 0 * pos[0]
        board[pos[0], pos[1]] = 1
        board[0].add_(pos[0])
        return board

    def shared(pos):
        return torch.full((5,), 2.0).index_add(0, pos, torch.ones(2)), torch.arange(5).scatter(0, pos, 9)

    blank = torch.zeros(5, 5)
    cases = {
        "index_put": (lambda p: torch.zeros(5, 5).index_put((p[0], p[1]), one), pos),
        "accumulate": (lambda p: torch.zeros(5, 5).index_put((p[0], p[1]), one, accumulate=True), pos),
        "setitem": (drawn, pos),
        "scatter": (lambda p: torch.zeros(5).scatter(0, p, torch.ones(2)), pos),
        "scatter_add": (lambda p: torch.ones(5).scatter_add(0, p, torch.ones(2)), pos),
        "shared": (shared, pos),
        "index_copy": (lambda p: torch.zeros(5, 2).index_copy(0, p[:1], torch.ones(1, 2)), pos),
        "one_hot": (lambda p: torch.nn.functional.one_hot(p, 5), pos),
        "closed over": (lambda p: blank.index_put((p[0], p[1]), one), pos),
        "masked_fill": (lambda p: torch.zeros(5).masked_fill(torch.arange(5) == p[0], 1.0), pos),
        "select_scatter": (lambda p: torch.zeros(3, 2).select_scatter(p.to(torch.float32), 0, 1), pos),
    }
    agrees(backend, {name: (vmap(f), p) for name, (f, p) in cases.items()})
    agrees(backend, {name: (vmap(vmap(f)), p.expand(2, 4, 2)) for name, (f, p) in cases.items()})
    step = lambda c, p: (c + 1, cases["index_put"][0](p) + cases["setitem"][0](p))
    agrees(
        backend,
        {
            "in a loop": (lambda p: scan(step, torch.zeros(()), p), pos),
            "mapped": (vmap(lambda p: scan(step, torch.zeros(()), p[None])), pos),
        },
    )


# c03, c09, c26: reductions of bytes and narrow integers; places of extremes; shapes [] ----------------------------------------------


@backends
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool])
def test_reductions(backend, dtype):
    board = torch.tensor([3, 1, 2, 5, 4, 3, 2, 1, 6, 7, 1, 2, 3, 4, 1, 2] * 3)
    board = board.to(dtype) if dtype in (torch.uint8, torch.bool) else -board.to(dtype)
    rows, scalar = torch.stack([board, board.roll(5), board.flip(0)]), board[0]

    def all_of(x):
        parts = [x.amin(), x.amax(), x.sum(), x.any(), x.all(), x.prod(), x.min(), x.max()]
        parts += [x.sum(dtype=torch.uint8), x.count_nonzero()]
        if dtype != torch.bool:
            parts += [x.argmin(), x.argmax(), x.sum(dtype=torch.int16), x.sum(dtype=torch.float64)]
        return parts

    def along(x, d):
        parts = [
            x.amin(d),
            x.amax(d),
            x.sum(d),
            x.any(d),
            x.all(d),
            x.cumsum(d),
            x.prod(d),
            x.min(d),
            x.max(d),
            x.cumprod(d),
            torch.sort(x, dim=d, stable=True),
        ]
        if dtype != torch.bool:
            parts += [x.argmin(d), x.argmax(d), x.cummax(d)[0], x.median(d)[0]]
        return [tuple(x) if isinstance(x, tuple) else x for x in parts]

    agrees(
        backend,
        {
            "flat": (all_of, board),
            "rows": (all_of, rows),
            "transposed": (lambda x: all_of(x.t()), rows),
            "scalar": (all_of, scalar),
            "first": (lambda x: along(x, 0), rows),
            "last": (lambda x: along(x, -1), rows),
            "of a scalar": (lambda x: [x.amin(-1), x.sum(0), x.any(0), x.argmax(-1) if dtype != torch.bool else x], scalar),
            "mapped": (vmap(all_of), rows),
            "of a vector": (lambda x: along(x, 0), board),
        },
    )


@backends
def test_places_of_extremes_count_in_the_order_of_the_tensor(backend):
    q = torch.tensor([[0.0, 1.0, 9.0], [2.0, 3.0, 4.0]])
    b = numbers(0, 3, 4, 5)
    nan = torch.tensor([1.0, float("nan"), 5.0, float("nan")])
    agrees(
        backend,
        {
            "transposed": (lambda q: (q.t() * 2).argmax(), q),
            "masked": (lambda b: torch.where(b.movedim(0, -1) > 0, b.movedim(0, -1), -1.0).argmax(), b),
            "permuted": (lambda b: [b.permute(2, 0, 1).argmin(), b.mT.argmax(), b.flip(1).argmax(), (b.mT + 1).argmax(0)], b),
            "ties": (lambda x: [x.argmax(), x.argmin(), x.max(0).indices, x.argmax(keepdim=True)], torch.tensor([1.0, 3.0, 3.0, 1.0])),
            "nan": (lambda x: [x.argmax(), x.argmin(), x.max(), x.amin(), x.max(0).indices], nan),
            "shape []": (lambda x: [torch.argmax(x, -1), x.argmin(), x.max(0).indices, x.sort().indices], torch.tensor(3.0)),
            "mapped": (vmap(lambda q: (q.t() * 2).argmax()), q.expand(3, 2, 3)),
            "viewed": (lambda q: q.t().reshape(-1).argmax() + q.t().flatten().argmin(), q),
        },
    )


@backends
def test_lowerings_that_were_wrong(backend):
    inf = float("inf")
    mask = torch.ones(3, 32, dtype=torch.bool)
    mask[:, 5] = False
    x, w = torch.tensor([1.0, 0.5, 6.0, 0.3]), torch.tensor([0.1, 0.1, 0.2, 0.1])
    agrees(
        backend,
        {
            "first False": (lambda m: tuple(m.min(1)), mask),
            "bins": (lambda x, w: x // w, x, w),
            "by infinity": (lambda x: torch.remainder(x, torch.full_like(x, inf)), torch.tensor([5.5, -5.5, 0.0, 1.0])),
            "half": (lambda x: [x.half().float(), x.bfloat16().double(), x.half() * 3], torch.linspace(0, 1, 9)),
            "cumsum with a dtype": (
                lambda x: [torch.ones(5, dtype=torch.bool).cumsum(0, dtype=d) for d in (torch.bfloat16, torch.float64, torch.uint8)],
                x,
            ),
            "2 ** n": (lambda n: [2**n, n**2, 2.0**n, 3 ** n.to(torch.int32), (-2) ** n], torch.arange(5)),
            "shifts": (
                lambda n: [n << 2, -n >> 1, 1 << n, n % 3, -n % 3, -n // 2, torch.div(-n, 2, rounding_mode="trunc")],
                torch.arange(5),
            ),
            "wrap": (lambda n: [n * n * n * 3, (n * 100).to(torch.uint8) * 5], torch.arange(5) + 2**40),
            "addmv": (lambda x, w: [torch.addmv(x, x.outer(w), w, beta=b, alpha=2) for b in (0, 3)], x, w),
            "fills of another dtype": (
                lambda x, v: [y.index_fill(0, torch.tensor([-1, 1]), v) for y in (x, x.int(), x > 1, x.double())],
                x,
                torch.tensor(2.7, dtype=torch.float64),
            ),
        },
    )


# c05, c23, c25: loops with one output, no ys, no carry, no xs ------------------------------------------------------------------------


@backends
def test_thin_loops(backend):
    c, xs = torch.tensor([1.0, 2.0, 3.0, 4.0]), numbers(0, 2, 4, dtype=torch.float32)
    total = lambda c, x: (c + x, ())
    w = numbers(2, 8, 8, dtype=torch.float32) / 3
    cases = {
        "one carry": (lambda xs: scan(total, torch.zeros(4), xs)[0], xs),
        "of a key": (lambda k: scan(lambda k, _: (random.split(k)[0], ()), k, length=4)[0], random.key(0)),
        "only ys": (lambda xs: scan(lambda c, x: ((), x * 2), (), xs)[1], xs),
        "nothing at all": (lambda xs: scan(lambda c, x: ((), ()), (), xs), xs),
        "no xs": (lambda c: scan(lambda c, _: (c * 2, c), c, length=3), c),
        "no xs, no ys": (lambda c: scan(lambda c, _: (c * 2, ()), c, length=3), c),
        "one step": (lambda c, xs: scan(lambda c, x: (c + x, c), c, xs[:1]), c, xs),
        "ys that are constants": (lambda xs: scan(lambda c, x: ((), torch.ones(2)), (), xs)[1], xs),
        "a carry that stays": (lambda c, xs: scan(lambda c, x: (c, x), c, xs), c, xs),
        "y that is the carry": (lambda c, xs: scan(lambda c, x: (x, c), c, xs, reverse=True), c, xs),
        "carries that change places": (lambda c, xs: scan(lambda c, x: ((c[1], c[0]), c[0]), (c, c * 2), xs), c, xs),
        "y from around": (lambda c, xs: scan(lambda d, x: (d + x, c), c, xs), c, xs),
        "unused xs": (lambda c, xs: scan(lambda c, x: (c + 1, ()), c, xs), c, xs),
        "nested": (lambda c, xs: scan(lambda c, x: (scan(total, c, xs)[0] + x, c), c, xs), c, xs),
        "nested, no xs": (lambda c: scan(lambda c, _: (scan(lambda d, _: (2 * d, ()), c, length=2)[0], c), c, length=3), c),
        "thin": (lambda w, x: scan(lambda c, _: (torch.tanh(c @ w), c.sum()), x, length=4), w, numbers(3, 600, 8, dtype=torch.float32)),
        "thinner": (lambda w, x: scan(lambda c, _: (torch.tanh(c @ w), c[:, 0]), x, length=4), w, numbers(3, 1, 8, dtype=torch.float32)),
        "wholes and truths": (lambda n: scan(lambda c, n: ((c[0] + n, ~c[1]), (c[0] > 2, n)), (n[0], n[0] > 0), n), torch.arange(4)),
    }
    agrees(backend, cases, rtol=1e-5)
    mapped = {
        name: (vmap(f, in_dims=tuple(0 for _ in args)), *[torch.stack([x, x + 1]) for x in args])
        for name, (f, *args) in cases.items()
        if name not in ("of a key", "nothing at all")
    }
    agrees(backend, mapped, rtol=1e-5)


# c06: constants in loop bodies -------------------------------------------------------------------------------------------------------


@backends
def test_constants_in_loop_bodies(backend):
    moves = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]])
    table = np.arange(6.0).reshape(3, 2)

    def walk(pos, actions):
        def step(pos, a):
            move = torch.tensor([[0, 1], [0, -1], [1, 0], [-1, 0]]).index_select(0, a[None])[0]
            return (pos + move).clamp(0, 4), pos

        return scan(step, pos, actions)

    def step(c, r):
        literal = torch.tensor([float(i) for i in range(9)]).sum()
        return c + literal, (
            c,
            torch.tensor(3),
            torch.eye(2),
            torch.arange(3),
            torch.as_tensor(table),
            torch.full((2,), 7, dtype=torch.uint8),
        )

    def written(c, r):
        board = torch.tensor([1.0, 2.0, 3.0])
        board[1] += r
        board.mul_(2)
        return c + board.sum(), board

    actions = torch.tensor([0, 2, 2, 1])
    agrees(
        backend,
        {
            "a table": (walk, torch.tensor([0, 0]), actions),
            "a table outside": (lambda p, a: scan(lambda p, a: (p + moves[a], p), p, a), torch.tensor([0, 0]), actions),
            "literals": (lambda x: scan(step, x, length=3), torch.zeros(2)),
            "literals, nested": (lambda x: scan(lambda c, _: (scan(step, c, length=2)[0], ()), x, length=3), torch.zeros(2)),
            "written": (lambda x: scan(written, torch.zeros(()), x), torch.ones(3)),
            "mapped": (vmap(walk), torch.zeros(2, 2, dtype=torch.int64), torch.stack([actions, actions.flip(0)])),
            "in a gradient": (grad(lambda x: scan(lambda c, _: (c * torch.tensor([1.0, 2.0]), ()), x, length=3)[0].sum()), torch.ones(2)),
        },
    )


# c07: indices of shape [] --------------------------------------------------------------------------------------------------------------


@backends
def test_indices_of_shape_empty(backend):
    t, i, x = torch.arange(12.0).reshape(3, 4), torch.tensor(2), numbers(0, 2, 3, 4)

    def put(t, i):
        t = t.clone()
        t[i] = 9.0
        t[0, i] += 1
        t[..., i] *= 2
        t[i, 1:] = torch.tensor([1.0, 2.0, 3.0])
        t[i - 1, i] = -1.0
        return t

    cases = {
        "row": (lambda t, i: t[i], t, i),
        "entry": (lambda t, i: t[i, i + 1], t, i),
        "negative": (lambda t, i: [t[-i], t[i - 3], t[..., -i]], t, i),
        "with slices": (lambda t, i: [t[:, i], t[..., i], t[1:, i], t[i, 1:], t[i, None], t[None, i], t[i, ..., 0]], t, i),
        "with lists": (lambda t, i: [t[i, [0, 2]], t[[0, 1], i], t[i, torch.tensor([1, 3])]], t, i),
        "narrow dtypes": (lambda t, i: [t[i.to(torch.int32)], t[i.to(torch.int8)], t[i.to(torch.uint8).to(torch.int64)]], t, i),
        "three dimensions": (lambda x, i: [x[:, i], x[0, i], x[..., i, :], x[:, i, i], x[0, :, i]], x, i),
        "put": (put, t, i),
        "tree": (lambda t, i: [tree.index({"t": t}, i), tree.set({"t": t}, i, {"t": torch.full((4,), 9.0)})], t, i),
        "in a loop": (lambda t, i: scan(lambda c, _: ((c + 1) % 3, t[c]), i, length=3), t, i),
        "of a loop's row": (lambda t, i: scan(lambda c, k: (c + t[k].sum(), t[k, k]), torch.zeros(()), torch.arange(3)), t, i),
        "argmax": (lambda t, i: t[t[:, 0].argmax()], t, i),
        "gradient": (lambda t, i: grad(lambda t: (t[i] ** 2).sum() + t[i, i])(t), t, i),
        "select": (lambda t, i: [t.index_select(0, i), t.index_select(1, i[None])], t, i),
    }
    agrees(backend, cases)
    agrees(
        backend,
        {
            "mapped": (vmap(lambda t, i: t[i], (None, 0)), t, torch.tensor([1, 2])),
            "both": (vmap(lambda t, i: t[i]), t.expand(2, 3, 4), torch.tensor([1, 2])),
        },
    )


# A row at an index that is a tensor is a view, as it is eagerly ------------------------------------------------------------------------


def out_of_a_row(x, i, j, v):
    torch.add(x[j], 1, out=x[i])


def in_a_loop(x, i, j, v):
    def body(y, k):
        y = y.clone()
        y[k].mul_(2)
        y[i].add_(y[k])
        return y, y[k].sum()

    return scan(body, x, torch.arange(3))


def read_after(x, i, j, v):
    r = x[i]
    x[i, j] = 7
    x.mul_(2)
    return r


def through_views(x, i, j, v):
    i = i.clone()
    r = x.transpose(0, 2)[:, i]
    i += 1  # the row stays where it is
    r.T[j].mul_(v[0])
    x[i, :, 1] -= 1
    x[i, j][1:] = v[1:]
    return r


def of_copies(x, i, j, v):
    y, z = x[i], x[i].clone()
    y = y + 1
    z += 1
    return y, z


def of_kinds(x, i, j, v):
    x[i, :, j] = v[:4]
    x[True, i] = 7
    x[j] = v[None, None]
    x[j, i] = v[None]
    x[j, :, [0, 1]] = v[:2]
    x[j, i, None] *= 2
    return x[True, i], x[:, i, [0, 2]], x[0, [i, j]], x[..., j].reshape(-1), x[i].view(-1)


def swapped(x, i, j, v):
    x.swapaxes_(0, 1)
    x[i].add_(1)
    x.swapdims_(1, 2)
    x[j, i].mul_(v[:3])


WRITES_TO_ROWS = {
    "add_": lambda x, i, j, v: x[i].add_(1),
    "zero_": lambda x, i, j, v: x[i].zero_(),
    "+=": lambda x, i, j, v: x[i].__iadd__(v),
    "of a row": lambda x, i, j, v: x[i].__setitem__(j, v),
    "of an entry": lambda x, i, j, v: x[i, j, i].mul_(3),
    **{f.__name__: f for f in (in_a_loop, read_after, through_views, of_copies, of_kinds, swapped)},
}


def row_writes(f):
    def run(x, i, j, v):
        x = x.clone()
        r = f(x, i, j, v)
        return x, () if r is None else r

    return run


@backends
def test_writes_to_rows_at_tensor_indices(backend):
    x, i, j, v = numbers(0, 3, 4, 5), torch.tensor(1), torch.tensor(-2), numbers(1, 5)
    agrees(backend, {name: (row_writes(f), x, i, j, v) for name, f in {**WRITES_TO_ROWS, "out": out_of_a_row}.items()})

    if backend == "aot_eager":
        with pytest.raises(compiler.TraceError, match="an argument of the function"):
            compiler.compile(lambda x, i: x[i].add_(1), backend=backend)(x, i)
        with pytest.raises(compiler.TraceError, match=r"as_strided of a row taken at a tensor index"):
            compiler.compile(lambda x, i: x.clone()[i].as_strided((2,), (1,)), backend=backend)(x, i)


@backends
@pytest.mark.parametrize("name", ["a write", "views", "a loop"])
def test_derivatives_of_writes_to_rows(name, backend):
    x, i, j, v = numbers(0, 3, 4, 5), torch.tensor(1), torch.tensor(-2), numbers(1, 5)
    f = row_writes({"a write": read_after, "views": through_views, "a loop": in_a_loop}[name])
    total = lambda x, i, j, v: sum((y**2).sum() for y in tree.leaves(f(x, i, j, v)))
    many = (0, None, None, 0)
    pairs = torch.stack([x, x + 1]), i, j, torch.stack([v, -v])
    cases = {"mapped": (vmap(f, many), *pairs), "mapped gradient": (vmap(grad(total, (0, 3)), many), *pairs)}
    if backend == "aot_eager":
        cases |= {
            "gradient": (grad(total, (0, 3)), x, i, j, v),
            "gradient of mapped": (grad(lambda *a: vmap(total, many)(*a).sum()), *pairs),
            "tangents": (lambda x, i, j, v: jvp(lambda x, v: f(x, i, j, v), (x, v), (x + 1, v)), x, i, j, v),
            "by rows": (lambda x, i, j, v: jacrev(lambda v: f(x + v.sum(), i, j, v))(v), x, i, j, v),
            "by columns": (lambda x, i, j, v: jacfwd(lambda v: f(x + v.sum(), i, j, v))(v), x, i, j, v),
            "twice": (lambda x, i, j, v: grad(lambda x: (grad(total)(x, i, j, v) ** 2).sum())(x), x, i, j, v),
        }
    agrees(backend, cases)


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
def test_lists_of_indices():
    x, i, j = numbers(0, 3, 4, 5), torch.tensor(1), torch.tensor(-2)
    agrees("aot_eager", {"lists": (lambda x, i, j: [x[[i, j]], x[[[i, j]]], x[[i, 2], 0], x[:, [0, j]], x[[i]]], x, i, j)})


def random_index(r):
    """Return an index of a tensor [3, 4, 5], in which "i", "j" and "rows" stand for tensors."""
    several = r.random() < 0.5  # also True, lists and tensors with a dimension

    def entry(size):
        first = slice(r.randrange(2), r.choice([None, -1, 3]), r.choice([1, 2]))
        return r.choice(["i", "j", r.randrange(-size, size), slice(None), first, *([r.sample(range(3), 2), "rows"] if several else [])])

    index = [entry(size) for size in (3, 4, 5)[: r.randrange(1, 4)]]
    if len(index) < 3 and r.random() < 0.4:
        end = r.randrange(len(index) + 1)
        index = [*index[:end], ..., *(entry(3) for _ in index[end:])]
    for more in (None, True) if several else (None,):
        if r.random() < 0.3:
            index.insert(r.randrange(len(index) + 1), more)
    return index


def random_reads_and_writes(seed):
    r = Random(seed)
    steps = [(r.choice(["read", "view", "set", "write", "+="]), r.randrange(4), random_index(r)) for _ in range(5)]

    def run(x, v, tensors):
        x, found = x.clone(), []
        for what, kind, index in steps:
            at = tuple(tensors[k] if isinstance(k, str) else k for k in index)
            shape = x[at].shape
            own = v[: shape.numel()].reshape(shape)
            if what == "read":
                found.append(x[at] * 1)
            elif what == "view":
                found.append(x[at])
            elif what == "set":
                x[at] = [own, own[None, None], own[..., :1] if shape else own, 3.0][kind]
            elif what == "write":
                x[at].mul_(v[0])
            else:
                x[at] += v[1]
        return x, found

    return run


@backends
def test_random_reads_and_writes(backend):
    tensors = {"i": torch.tensor(1), "j": torch.tensor(-2), "rows": torch.tensor([2, 0])}
    x, v = numbers(0, 3, 4, 5), numbers(1, 100)
    agrees(backend, {f"seed {seed}": (random_reads_and_writes(seed), x, v, tensors) for seed in range(20 if backend == "aot_eager" else 6)})


# c08: layouts of arguments -------------------------------------------------------------------------------------------------------------


@backends
def test_layouts_of_arguments(backend):
    r, wide = numbers(0, 4, 6), numbers(1, 6, 4)
    back = lambda r: scan(lambda g, x: (x + 0.9 * g, g), torch.zeros(4, dtype=torch.float64), r)[1]
    layouts = {
        "transposed": wide.T,
        "expanded": r[:, :1].expand(4, 6),
        "sliced": numbers(2, 8, 12)[::2, ::2],
        "offset": numbers(3, 5, 6)[1:],
        "permuted": numbers(4, 2, 6, 4)[1].T,
        "of a view": numbers(5, 24).view(4, 6),
        "reshaped": numbers(6, 3, 24)[1].reshape(4, 6),
    }
    outside = dict(layouts)
    cases = {}
    for name, x in layouts.items():
        cases[name] = (
            lambda x, name=name: [x * 2, x.T @ x, x.sum(0), x.argmax(), outside[name] + x, outside[name].T @ x, x.reshape(-1), x[1]],
            x,
        )
        cases["scan over " + name] = (
            lambda x: [back(x.T), back(x.t()), back(x.mT), scan(lambda c, x: (c + x, x), x[0], x, reverse=True)],
            x,
        )
    cases["reward to go"] = (lambda r: returns.reward_to_go(r.T, (r > 5).T, (r > 9).T, gamma=0.9), r)
    cases["data"] = (lambda r: r.T.data.sum(0), r)
    cases["empty"] = (lambda r: [r[:0], r[:, :0].sum(0), torch.cat([r[:0], r]), r[:0].sum(), r.new_zeros(0, 3).T], r)
    agrees(backend, cases)


def test_every_layout_is_one_program():
    f = compiler.compile(lambda x: x * 2, backend="aot_eager")
    x = numbers(0, 4, 4)
    with compilations(1):
        for y in (x, x.T, x[:1].expand(4, 4), numbers(1, 8, 8)[::2, ::2]):
            same(f(y), y * 2)


# c21, c22, c27: gradients through mapped bodies, of the first carry, second derivatives ---------------------------------------------------


@backends
def test_gradients(backend):
    xs, w, p = numbers(0, 3, 4), numbers(1, 4), torch.tensor(0.5, dtype=torch.float64)
    mapped = lambda p, x: scan(lambda c, _: (vmap(lambda c: torch.tanh(c * p))(c), c), x, length=3)[0].sum()
    inner = lambda w, x: w - 0.1 * grad(lambda v: (x @ v) ** 2)(w)
    maml = lambda w: scan(lambda w, x: (inner(w, x), w.sum()), w, xs)[0].pow(2).sum()
    power = lambda w: scan(lambda c, x: (c * w + x, c), torch.ones((), dtype=torch.float64), xs[:, 0])[0]
    first = lambda h: scan(lambda h, x: (torch.tanh(h + x), h), h, xs[:, 0])[0]

    def rnn(w, xs):
        h, ys = scan(lambda h, x: (torch.tanh(h * w + x), (h, h.argmax())), torch.zeros(4, dtype=torch.float64), xs)
        return (h * ys[0]).sum()

    def written(w):
        def step(c, x):
            y = c.clone()
            y[0] += x[0]
            y[1:].mul_(w[1:])
            return y.sin(), y[1]

        c, ys = scan(step, w, xs)
        return c.sum() + ys.sum()

    agrees(
        backend,
        {
            "mapped body": (grad(mapped), p, w),
            "mapped body, by all": (grad(mapped, (0, 1)), p, w),
            "mapped around": (vmap(grad(mapped), (0, None)), torch.linspace(0, 1, 3, dtype=torch.float64), w),
            "mapped around and inside": (lambda w: vmap(grad(lambda p: vmap(lambda x: mapped(p, x[None]))(w).sum()))(w), w),
            "of the first carry": (grad(first), p),
            "of xs": (grad(rnn, (0, 1)), w, xs),
            "maml": (grad(maml), w),
            "maml, mapped": (vmap(grad(maml)), numbers(5, 2, 4)),
            "twice": (grad(grad(power)), p),
            "forward over reverse": (jacfwd(grad(power)), p),
            "reverse over forward": (jacrev(jacfwd(power)), p),
            "hessian": (hessian(lambda w: rnn(w, xs)), w),
            "jvp": (lambda w, t: jvp(lambda w: rnn(w, xs), (w,), (t,)), w, numbers(3, 4)),
            "vjp": (lambda w: vjp(lambda w: scan(lambda c, x: (c * w + x, c), w, xs), w)[1]((w, xs)), w),
            "jacrev of ys": (jacrev(lambda p: scan(lambda c, x: (c * p + x, c), p, xs[:, 0])[1]), p),
            "grad_and_value": (grad_and_value(lambda w: (rnn(w, xs), w * 2), has_aux=True), w),
            "third": (grad(grad(grad(power))), p),
            "written in place": (grad(written), w),
            "a gradient in a mapped body in a gradient": (
                grad(lambda p: scan(lambda c, x: (vmap(grad(lambda c: (c * p * x).sin()))(c), c), w, xs[:, 0])[0].sum()),
                p,
            ),
            "reverse": (grad(lambda w: scan(lambda c, x: (c * w + x, c), w, xs, reverse=True)[1].square().sum()), w),
        },
    )


# c10 is above; c16, f12: what a compiled function takes and says -------------------------------------------------------------------------


def test_numbers_that_change():
    """A float that changes is an input from its second value on; a number whose value is asked for is fixed, and the 65th is an error."""
    update = compiler.compile(lambda x, learning_rate: x - learning_rate * x, backend="aot_eager")
    x = torch.ones(3)
    with compilations(2):
        for i in range(100):
            same(update(x, 1e-3 * 0.99**i), x - 1e-3 * 0.99**i * x)

    def many(x, a, *, b):
        return (
            x * a + b,
            (x + a) ** b,
            a - x,
            a / (x + 2),
            torch.where(x > a, x, b),
            -a,
            a * 2 + b,
            torch.maximum(x, torch.as_tensor(b)),
            x.clamp(a, b),
        )

    f = compiler.compile(many, backend="aot_eager")
    for x in (torch.ones(3), torch.ones(3, dtype=torch.float64), torch.arange(3)):
        for a, b in ((0.5, 2.0), (0.25, 2.0), (0.125, 3.0)):
            same(f(x, a, b=b), many(x, a, b=b), rtol=1e-6, atol=1e-6)

    g = compiler.compile(lambda x, n: x + 1 if n > 0.5 else x, backend="aot_eager")
    for n in (0.1, 0.2, 0.7, 0.2):
        same(g(torch.ones(2), n), torch.ones(2) + (n > 0.5))


def test_the_65th_program_is_an_error():
    f = compiler.compile(lambda x, n: x[:n], backend="aot_eager")
    for n in range(1, 65):
        f(torch.ones(2), n)
    with pytest.raises(
        ValueError, match="compiled 64 times, each for other arguments; argument 1 is a Python number .* that changes: make it a tensor"
    ):
        f(torch.ones(2), 65)
    assert f(torch.ones(2), 1).tolist() == [1]
    g = compiler.compile(lambda x: x * 2, backend="aot_eager")
    for n in range(64):
        g(torch.ones(n + 1))
    with pytest.raises(ValueError, match="argument 0 has another shape or dtype each time: pad it, or use a mask"):
        g(torch.ones(65))


@backends
def test_what_a_compiled_function_takes(backend):
    def f(x, lr, *, flag=False, name="a", none=None):
        return {"x": x * lr, "steps": 128, "name": name, "none": none, "flag": flag, "lr": lr}

    compiled = compiler.compile(f, backend=backend)
    for args, kwargs in (
        ((np.ones(2), 0.5), {}),
        ((np.ones(2, dtype=np.float32)[::-1], np.float32(0.5)), {"flag": True}),
        ((torch.ones(2), np.int64(3)), {"name": "b", "none": {"y": torch.zeros(1)}}),
        ((torch.nn.Parameter(torch.ones(2)), torch.tensor(2.0)), {"none": ()}),
    ):
        got, right = compiled(*args, **kwargs), f(*[torch.as_tensor(a.copy()) if isinstance(a, np.ndarray) else a for a in args], **kwargs)
        assert {k: v for k, v in got.items() if not isinstance(v, torch.Tensor) and k != "none"}.keys() >= {"steps", "name", "flag"}
        assert got["steps"] == 128 and got["name"] == right["name"] and got["flag"] is right["flag"]
        torch.testing.assert_close(got["x"], right["x"].detach() if isinstance(right["x"], torch.Tensor) else right["x"])
        same(got["none"], right["none"])
        assert not got["x"].requires_grad

    big = {"w": torch.nn.Parameter(torch.ones(200, 200))}
    new = compiler.compile(lambda p: {"w": p["w"] - 0.1}, donate=0, backend=backend)(big)
    same(new["w"], torch.full((200, 200), 0.9))


@backends
def test_modules(backend):
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Tanh(), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2)
    ).eval()
    f = compiler.compile(lambda x: module(x), backend=backend)
    g = compiler.compile(lambda p, x: functional_call(module, p, (x,)), backend=backend)
    x = torch.randn(5, 3)
    with torch.no_grad():
        same(f(x), module(x), rtol=1e-5, atol=1e-6)
        same(g(dict(module.named_parameters()), x), module(x), rtol=1e-5, atol=1e-6)
        module[0].weight.mul_(2)
        module[3].running_mean.add_(1)
        with compilations(0):
            same(f(x), module(x), rtol=1e-5, atol=1e-6)
        module[0].weight.data = torch.randn(4, 3)
        with compilations(0):
            same(f(x), module(x), rtol=1e-5, atol=1e-6)


# c17 ------------------------------------------------------------------------------------------------------------------------------------


@backends
def test_none_under_vmap(backend):
    env = funrl.envs.make("CartPole-v1")
    act = lambda p, k, o: (torch.zeros((), dtype=torch.int64), None)
    four = vmap(env.reset, (0, None))(random.split(random.key(0), 4), env.default_params)
    f = functools.partial(funrl.rollout, None, env=env, act=act, num_steps=2)
    agrees(backend, {"rollout": (lambda k, s, p: f(k, s, p), random.key(1), four, env.default_params)}, rtol=1e-5)
    agrees(backend, {"mapped": (vmap(lambda x, mask: (x + 1 if mask is None else x, ()), (0, None)), torch.ones(3), None)})


# c11: half precision leaves ----------------------------------------------------------------------------------------------------------------


@backends
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(backend, dtype):
    x, w = numbers(0, 4, 3, dtype=dtype), numbers(1, 3, 2, dtype=dtype)
    outside = numbers(2, 3, dtype=dtype)
    cases = {
        "arithmetic": (lambda x: [x * 2 + 1, x.float() * 3, x / 3, x - x.mean(), (x + 1) * (x - 1), x.abs().sqrt()], x),
        "reductions": (lambda x: [x.sum(0), x.amax(1), x.mean(), x.softmax(0), x.var(0), x.argmax(0), x.sort(0).values, x.cumsum(0)], x),
        "product": (lambda x, w: torch.relu(x @ w), x, w),
        "gradient": (grad(lambda w, x: torch.tanh(x @ w).sum()), w, x),
        "loop": (lambda x: scan(lambda c, x: (torch.tanh(c + x), c * 2), outside, x), x),
        "constants": (lambda x: x + torch.tensor([1, 2, 3], dtype=dtype) + torch.tensor(0.5, dtype=dtype) + outside, x),
        "places": (
            lambda x: [x[1], x[:, [0, 2]], torch.zeros(4, 3, dtype=dtype).index_put((torch.tensor([1]),), x[0]), x.T.contiguous()],
            x,
        ),
    }
    agrees(backend, cases, rtol=0.02)
    step = compiler.compile(lambda s, x: {"a": s["a"] * 0.5 + x, "b": s["b"].roll(1, 0)}, donate=0, backend=backend)
    s = {"a": numbers(3, 300, 200, dtype=dtype), "b": numbers(4, 300, 200, dtype=dtype)}
    for _ in range(3):
        right = {"a": s["a"] * 0.5 + 1, "b": s["b"].roll(1, 0)}
        s = step(s, torch.ones((), dtype=dtype))
        same(s, right, rtol=0.02, atol=0.02)


# Writes at places out of range, of which one alone is a block ---------------------------------------------------------------------------


@backends
def test_single_writes_out_of_range(backend):
    w, first, two, value = numbers(0, 3, 2), torch.tensor([0]), torch.tensor([0, 1]), torch.tensor(5.0, dtype=torch.float64)
    embedding = torch.nn.functional.embedding
    bag = functools.partial(torch.nn.functional.embedding_bag, first)
    no, yes, one = torch.tensor([False]), torch.tensor([True]), torch.tensor([1])
    cases = {
        "gradient of the padding": (grad(lambda w: (embedding(first, w, padding_idx=0) * 2).sum()), w),
        "gradient beside the padding": (grad(lambda w: (embedding(first, w, padding_idx=1) * 2).sum()), w),
        **{f"{mode} of padding": (lambda w, mode=mode: bag(w, two, mode=mode, padding_idx=0), w) for mode in ("sum", "mean", "max")},
        "false": (lambda w: [w[:1].index_put((no, one), value, accumulate=a) for a in (False, True)], w),
        "true": (lambda w: [w[:1].index_put((yes, one), value, accumulate=a) for a in (False, True)], w),
        "the last, from behind": (
            lambda w: [w.index_put((-one,), value), w.index_add(0, -one + 3, w[:1]), w.index_put((one - 4,), value)],
            w,
        ),
    }
    agrees(backend, cases)


# Rounding in half precision, signs of zeros, casts of what no whole number can hold -----------------------------------------------------


def exactly(cases, *args, share=0.0):
    """Fail unless functions, compiled as one program by XLA, give what they give eagerly to the last bit, all but a share of the elements."""
    got = compiler.compile(lambda *args: {name: f(*args) for name, f in cases.items()}, backend="xla")(*args)
    for name, f in cases.items():
        x, y = got[name], f(*args)
        assert x.dtype == y.dtype, name
        equal = (x == y) | ((x != x) & (y != y))
        if y.dtype.is_floating_point:
            equal &= (torch.signbit(x) == torch.signbit(y)) | (y != y)
        assert (~equal).double().mean() <= share, (name, x[~equal][:4], y[~equal][:4])


needs_xla = pytest.mark.skipif(not compiler._backends.has_jax(), reason="jax is not installed")


@needs_xla
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_of_half_precision(dtype):
    x, y, three = numbers(0, 192, dtype=dtype), numbers(1, 192, dtype=dtype), torch.tensor(0.3)
    cases = {
        "add": lambda x, y: torch.stack([x + 0.1, x + three, x * 0.1 + 0.1, x.add(0.1, alpha=0.3)]),
        "sub": lambda x, y: torch.stack([x - 0.1, 0.1 - x, three - x, x - three]),
        "mul": lambda x, y: torch.stack([x * 0.1, x * three, x * torch.arange(1000, 1192)]),
        "div": lambda x, y: torch.stack([x / 0.1, x / three, x.div(0.3, rounding_mode="trunc"), x // 0.3]),
        "pow": lambda x, y: torch.stack([x.abs() ** e for e in (0.3, 1.7, -0.3, 2, 3, -2, -1, 0.5, three)] + [0.3**x, three**x]),
        "remainder": lambda x, y: torch.stack([x % 0.3, torch.fmod(x, 0.3), torch.remainder(0.3, x), x % y]),
        "functions": lambda x, y: torch.stack([torch.atan2(x, three), torch.hypot(x, three), torch.xlogy(x, 0.3), torch.xlogy(x, y.abs())]),
        "three": lambda x, y: torch.stack([torch.lerp(x, y, 0.3), torch.addcmul(x, y, y, value=0.3), x.clamp(-0.3, 0.3)]),
        "equal": lambda x, y: torch.stack([x.round(decimals=1) == 0.3, x.round(decimals=1) >= three, x == x[0]]),
    }
    exactly(cases, x, y)
    scaled = {"alpha": lambda x, y: torch.stack([x.add(y, alpha=0.3), x.sub(y, alpha=0.3), torch.rsub(x, y, alpha=0.3)])}
    exactly(scaled, x, y, share=0.03)  # eagerly a multiply-add, rounded once


@needs_xla
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_signs_of_zeros(dtype):
    F = torch.nn.functional
    functions = (torch.sign, torch.sgn, torch.relu, F.relu6, F.softshrink, F.hardshrink, F.hardtanh, F.leaky_relu)
    cases = {f.__name__: f for f in functions}
    cases["clamp"] = lambda x: torch.stack([x.clamp(0), x.clamp_min(0), x.clamp(max=-0.0), x.clamp(0, 1)])
    exactly(cases, torch.tensor([-0.0, 0.0, 1, -1, torch.nan, 0.25, -torch.inf, torch.inf]).repeat(8).to(dtype))
    if dtype != torch.float32:  # whose sign depends on the processor: torch calls another library on some
        exactly({"gelu": F.gelu}, torch.tensor([-0.0, 0.0, -30]).repeat(32).to(dtype))


@needs_xla
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_casts_of_what_no_whole_number_holds(dtype):
    far = [torch.nan, torch.inf, -torch.inf, 1e20, -1e20, 3e9, -3e9, 70000, 2.0**31, -(2.0**31) - 1, 2.0**63, -(2.0**63), 300, -300, -1.5]
    kinds = (torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8)
    exactly({str(kind): (lambda x, kind=kind: x.to(kind)) for kind in kinds}, torch.tensor(far, dtype=torch.float64).to(dtype))


@needs_xla
@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
def test_divisors_of_the_lowest_number(dtype):
    m = torch.iinfo(dtype).min
    x, y = torch.tensor([[m, m, m, m, 6, 0, m, -4, 25, m + 1, m], [6, 0, m, 3, m, m, 1, 6, 8, 3, 64]]).to(dtype)
    exactly({"gcd": torch.gcd, "lcm": torch.lcm}, x, y)
