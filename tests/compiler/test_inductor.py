"""Programs on inductor against the same functions run eagerly: each kind of program that it, or an earlier way to it, got wrong."""

import os
import subprocess
import sys

import pytest
import torch
from torch.func import grad, jacfwd, vmap

import funrl
from funrl import buffers, random, tree
from funrl.compiler import _inductor
from funrl.compiler._graph import Graph

LARGE = _inductor.LARGE // 4  # entries of a float32 tensor that is large enough to be written in place


def same(f, *args, donate=(), **tolerances):
    """Require that a function gives compiled what it gives eagerly, twice, and changes no argument that is not donated."""
    right = f(*args)
    run = funrl.compile(f, backend="inductor", donate=donate)
    for _ in range(2):
        given = tree.clone(args)
        found = run(*given)
        assert tree.structure(found) == tree.structure(right)
        for path, x, y in zip(tree.paths(right), tree.leaves(found), tree.leaves(right), strict=True):
            torch.testing.assert_close(x, y, equal_nan=True, msg=lambda text, path=path: f"{path}: {text}", **tolerances)
        for i, arg in enumerate(args):
            if i not in ((donate,) if isinstance(donate, int) else donate):
                assert tree.equal(given[i], arg), f"argument {i} was changed"
    return run


# Reductions -----------------------------------------------------------------------------------------------------------------

REDUCTIONS = {
    "amax": lambda x: (x.amax(), x.amax(1)),
    "amin": lambda x: (x.amin(), x.amin(0), x.amin((0, 1))),
    "max": lambda x: (x.max(), tuple(x.max(1)), tuple(x.max(0, keepdim=True))),
    "min": lambda x: (x.min(), tuple(x.min(1)), tuple(x.min(0))),
    "argmax": lambda x: (x.argmax(), x.argmax(1), x.argmax(0, keepdim=True)),
    "argmin": lambda x: (x.argmin(), x.argmin(1), x.t().argmin()),
    "aminmax": lambda x: tuple(torch.aminmax(x, dim=1)),
    "sum": lambda x: (x.sum(), x.sum(1), x.any(1), x.all(0)),
}


def numbers(dtype):
    """Return 3 x 33 numbers of which none is 0, of one sign."""
    x = torch.randint(1, 100, (3, 33), generator=torch.Generator().manual_seed(0))
    if dtype == torch.bool:
        return torch.ones(3, 33, dtype=torch.bool).index_fill(1, torch.tensor([5]), False)
    return (x if dtype == torch.uint8 else -x).to(dtype)


def test_reductions_of_narrow_numbers():
    kinds = {str(dtype): numbers(dtype) for dtype in (torch.uint8, torch.int8, torch.int16, torch.bool)}
    refused = ("argmax", "argmin", "aminmax")  # by torch, of bools

    def f(kinds):
        return {
            kind: {name: reduce(x) for name, reduce in REDUCTIONS.items() if x.dtype != torch.bool or name not in refused}
            for kind, x in kinds.items()
        }

    same(f, kinds)


def test_places_count_in_the_order_of_the_tensor():
    q, b = torch.tensor([[0.0, 1.0, 9.0], [2.0, 3.0, 4.0]]), torch.randn(3, 4, 5)
    same(
        lambda q, b: {
            "transposed": (q.t() * 2).argmax(),
            "masked": torch.where(b.movedim(0, -1) > 0, b.movedim(0, -1), -1.0).argmax(),
            "kept": b.transpose(0, 2).argmin(keepdim=True),
            "mapped": vmap(lambda x: x.t().argmax())(b),
            "number": (torch.argmax(q[0, 0], -1), torch.argmin(q[0, 0])),
        },
        q,
        b,
    )


def test_arithmetic():
    inf = float("inf")
    x = torch.tensor([1.0, 0.5, 6.0, 0.3, -7.0, 0.0, inf, -0.2, 1e-9])
    y = torch.tensor([0.1, 0.1, 0.2, 0.1, 2.0, 3.0, 2.0, -0.1, 4.0])
    n = torch.tensor([7, -7, 5, -5, 0, 3, 9, -9, 1])

    def f(x, y, n):
        return {
            "floor": (x // y, torch.floor_divide(x, 0.1), torch.div(x, -y, rounding_mode="floor"), torch.div(x, y, rounding_mode="trunc")),
            "remainder": (x % y, torch.remainder(x, -y), torch.remainder(x, torch.full_like(x, inf)), x % 0.3, torch.fmod(x, y)),
            "integers": (n // 2, n % 3, n // -2, torch.div(n, 2, rounding_mode="trunc"), n >> 1),
            "by zero": (x // torch.zeros_like(x), x % torch.zeros_like(x)),
            "half": (x.half().float(), (x / 3).bfloat16().float() + 1, x.half() * 3, x.half().argmax()),
            "powers": (2 ** n.clamp(0, 5), n**2, 2.0**n, 2**x),
            "small": (torch.expm1(x * 1e-6), torch.expm1(-x), torch.log1p(x.abs() * 1e-6)),
            "sums": ((x > 0).cumsum(0), (x > 0).cumsum(0, dtype=torch.float64), n.cumprod(0), x.cumsum(0, dtype=torch.float64)),
            "wrap": (n * 6364136223846793005 + 1442695040888963407, (n * 0x5851F42D4C957F2D) >> 33, n.to(torch.int32) * 1103515245),
        }

    same(f, x, y, n)


# Scatters -------------------------------------------------------------------------------------------------------------------


def test_scatters_into_constants_and_what_shares_memory():
    places = torch.tensor([[0, 0], [1, 2], [3, 3], [4, 1]])
    one, rows = torch.tensor(1.0), torch.randn(4, 5)

    def plane(p):
        return torch.zeros(5, 5).index_put((p[0], p[1]), one)

    def f(places, rows):
        return {
            "constant": vmap(plane)(places),
            "expanded": rows[:1].expand(4, 5).index_put((places[:, 1],), rows),
            "added": torch.ones(5).expand(3, 5).index_add(1, places[:, 1], rows[:3, :4]),
            "copied": rows[0].expand(4, 5).index_copy(0, places[:2, 1], rows[:2]),
            "scattered": vmap(lambda p: torch.zeros(5).scatter(0, p, 2.0))(places),
            "scattered rows": vmap(lambda p, r: torch.zeros(5).scatter_add(0, p, r[:2]))(places, rows),
            "in place": vmap(written)(places, rows),
        }

    def written(p, r):
        x = r.sum() + torch.zeros(5)
        x[p[1]] = r[0]
        x[1:3] += r[1:3]
        return x

    same(f, places, rows)


# Donation -------------------------------------------------------------------------------------------------------------------


def scroll(board, rows):
    return board.index_copy(0, torch.arange(4), rows).roll(1, 0)


def swap(x):
    return x.reshape(32, 32, 64).transpose(0, 1).reshape(1024, 64)


def put_rows(x, rows):
    y = x.index_copy(0, torch.tensor([3, 900, 7, 8]), rows)
    return y, y[::100].sum(), y.flip(0)[5]


def put_slices(x, rows):
    y = x.clone()
    y[:4] = rows
    y[-1] = rows[0]
    y[:, 3] = 1.0
    return y, y.index_select(0, torch.tensor([0, 1, 1023]))


def put_and_look_back(x, rows):
    return x.index_copy(0, torch.arange(4), rows), x[:8].clone(), x.sum(0)


def put_and_hand_out_a_view(x, rows):
    y = x.index_put((torch.arange(4),), rows)
    return y, {"rows": y[2:6], "whole": y}


DONATED = {f.__name__: f for f in (scroll, put_rows, put_slices, put_and_look_back, put_and_hand_out_a_view)}


@pytest.mark.parametrize("name", DONATED)
def test_donated(name):
    same(DONATED[name], torch.randn(1024, 64), torch.randn(4, 64), donate=0, rtol=1e-4, atol=1e-3)  # sums of a thousand numbers


def test_donated_and_permuted():
    same(swap, torch.randn(1024, 64), donate=0)


def test_donated_into_another_place():
    state = {"now": torch.zeros(200, 200), "before": torch.full((200, 200), 7.0), "older": torch.full((200, 200), 9.0)}
    same(lambda s: {"now": s["now"] + 1, "before": s["now"][None].squeeze(0), "older": s["before"].expand(1, 200, 200)[0]}, state, donate=0)


def test_what_is_written_in_place_keeps_its_memory():
    run = funrl.compile(put_rows, donate=0, backend="inductor")
    x, rows = torch.randn(1024, 64), torch.randn(4, 64)
    place, right = x.data_ptr(), put_rows(x.clone(), rows)
    for _ in range(3):
        x, *rest = run(x, rows)
        assert x.data_ptr() == place and torch.equal(x, right[0])
        torch.testing.assert_close(rest, list(right[1:]))


def test_which_outputs_are_written_in_place():
    aten = torch.ops.aten

    def graph(finish):
        g = Graph()
        x, i, v = (g.input(torch.empty(shape, device="meta")) for shape in ((LARGE,), (3,), (3,)))
        put = g.add(aten.index_put.default, (x, [i], v), {}, x.meta)
        g.outputs = finish(g, x, put)
        return g

    def other(g, x):
        return g.add(aten.sum.default, (x,), {}, torch.empty((), device="meta"))

    def again(g, put):
        return g.add(aten.slice_scatter.default, (put, other(g, put)), {}, put.meta)

    assert _inductor.written(graph(lambda g, x, put: [put]), {0}) == {0: 0}
    assert _inductor.written(graph(lambda g, x, put: [other(g, put), put]), {0}) == {1: 0}, "the new values may be read"
    assert _inductor.written(graph(lambda g, x, put: [put]), set()) == {}
    assert _inductor.written(graph(lambda g, x, put: [put, other(g, x)]), {0}) == {}, "the old values are read"
    assert _inductor.written(graph(lambda g, x, put: [again(g, put)]), {0}) == {}, "what is in between is read"
    assert _inductor.written(graph(lambda g, x, put: [g.add(aten.neg.default, (put,), {}, x.meta)]), {0}) == {}


@pytest.mark.slow
def test_replay_buffers():
    buffer = buffers.uniform(64)
    state = vmap(buffer.extend)(vmap(lambda _: buffer.init(torch.zeros(40)))(torch.zeros(8)), torch.rand(8, 50, 40))
    order = torch.tensor([3, 3, 1, 7, 0, 0, 5, 2])

    def step(state, new, key):
        state = vmap(buffer.extend)(state, new)
        return state, vmap(lambda s, k: buffer.sample(k, s, 16))(state, random.split(key, 8))

    same(step, state, torch.rand(8, 8, 40), random.key(0), donate=0)
    same(lambda state, new, order: tree.index(vmap(buffer.extend)(state, new), order), state, torch.rand(8, 8, 40), order, donate=0)


# Loops ----------------------------------------------------------------------------------------------------------------------


def total(c, x):
    return c + x, ()


LOOPS = {
    "one carry": lambda x: funrl.scan(total, x[0], x)[0],
    "no xs": lambda x: funrl.scan(lambda c, _: (2 * c, ()), x, length=4)[0],
    "no carry": lambda x: funrl.scan(lambda c, r: ((), r.sum()), (), x)[1],
    "neither": lambda x: funrl.scan(lambda c, _: ((), x.sum()), (), length=3)[1],
    "keys": lambda x: funrl.scan(lambda k, _: (random.split(k)[0], ()), random.key(0), length=4)[0],
    "nested": lambda x: funrl.scan(lambda c, _: (funrl.scan(lambda d, r: (d * r, ()), c, x)[0], c), x[0], length=3),
    "nested ys": lambda x: funrl.scan(lambda c, r: funrl.scan(lambda d, s: (d + s, d * r), c, x), x[0], x),
    "reverse": lambda x: funrl.scan(lambda c, r: (0.9 * c + r, c), x[0], x, reverse=True),
    "transposed": lambda x: funrl.scan(lambda c, r: (0.9 * c + r, (r, c)), torch.zeros(6), x.T),
    "the row itself": lambda x: funrl.scan(lambda c, r: (r, c), x[0], x),
    "exchanged": lambda x: funrl.scan(lambda c, r: ((c[1], c[0]), (c[0], c[0])), (x[0], x[1]), x),
    "a view of a carry": lambda x: funrl.scan(lambda c, r: (c.t(), c[0].t().reshape(-1)), x[:4], length=3),
    "a table": lambda x: funrl.scan(lambda c, r: (c + torch.tensor([float(i) for i in range(9)]).sum(), c), x[0], x),
    "a number as index": lambda x: funrl.scan(lambda i, _: ((i + 1) % 4, x[i]), torch.tensor(2), length=5),
    "thin products": lambda x: funrl.scan(lambda c, _: (c @ x[:4, :4], c.sum()), x.repeat(100, 1), length=3),
    "mapped": lambda x: vmap(lambda r: funrl.scan(lambda c, s: (c + s * r, c), torch.zeros(()), x[0]))(x[:, 0]),
    "bools": lambda x: funrl.scan(lambda c, r: (c ^ (r > 0), c), x[0] > 0, x),
    "results used up": lambda x: (funrl.scan(lambda c, r: (c + r, c * r), x[0], x)[1] * 2 + x).tanh(),
    "two of one": lambda x: funrl.scan(lambda c, r: ((c[0] + r[1], c[1] * r[0]), c[0]), (x[0], x[0]), (x, x)),
}


@pytest.fixture(scope="module")
def loops():
    """All loops as one program: its results, compiled and right."""
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))

    def f(x):
        return {name: run(x) for name, run in LOOPS.items()}

    return funrl.compile(f, backend="inductor")(x), f(x)


@pytest.mark.parametrize("name", LOOPS)
def test_loops(name, loops):
    found, right = loops
    for x, y in zip(tree.leaves(found[name]), tree.leaves(right[name]), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["one carry", "reverse", "the row itself", "exchanged", "results used up"])
@pytest.mark.nightly
def test_loops_alone(name):
    """Alone their results are the memory that the program gives away, and nothing stands between them and its inputs."""
    same(LOOPS[name], torch.randn(6, 4))


def test_gradients():
    x, w = torch.randn(3, 4), torch.tensor(0.5)

    def batched(p):
        return funrl.scan(lambda c, _: (vmap(lambda c: torch.tanh(c * p))(c), c), x[0], length=3)[0].sum()

    def adapted(w):
        return funrl.scan(lambda w, r: (w - 0.1 * grad(lambda v: (r @ v) ** 2)(w), w.sum()), w, x)[0].pow(2).sum()

    def power(w):
        return funrl.scan(lambda c, r: (c * w + r, c), torch.tensor(1.0), torch.ones(3))[0]

    same(
        lambda w, x: {
            "by the first carry": grad(lambda h: funrl.scan(lambda h, r: (torch.tanh(h + r), h), h, x[0])[0])(w),
            "through mapped bodies": grad(batched)(w),
            "of gradients": grad(adapted)(x[0]),
            "twice": (grad(grad(power))(w), jacfwd(grad(power))(w)),
            "for each": vmap(grad(power))(x[0]),
        },
        w,
        x,
    )


# What a function closes over, and how it is called ----------------------------------------------------------------------------


def test_captured_tensors_have_their_present_values():
    table, scale = torch.arange(4.0), torch.nn.Parameter(torch.ones(4, 3).t())
    run = funrl.compile(lambda i: (table[i], scale * table[1]), backend="inductor")
    i = torch.tensor(2)
    for k in range(3):
        found, scaled = run(i)
        assert found == 2 + k and torch.equal(scaled, scale.detach() * (1 + k)) and not scaled.requires_grad
        table += 1


def test_constants_are_those_of_the_function():
    """The same program with another table is found in inductor's cache, and gives that table's numbers."""
    for shift in (0.0, 1.0):
        numbers = [shift + i for i in range(20)]
        run = funrl.compile(lambda x, numbers=tuple(numbers): x + torch.tensor(numbers), backend="inductor")
        assert run(torch.zeros(20)).tolist() == numbers


def test_arguments_and_results_share_no_memory():
    x = torch.randn(8, 3)
    run = funrl.compile(lambda x: (x.t(), x[2:], x.reshape(-1), x.t() + 0.0, torch.zeros(3), torch.zeros(3)), backend="inductor")
    found, right = run(x.t().contiguous().t()), (x.t(), x[2:], x.reshape(-1), x.t(), torch.zeros(3), torch.zeros(3))
    places = {y.data_ptr() for y in found} | {x.data_ptr()}
    assert len(places) == 7 and all(torch.equal(y, z) and y.is_contiguous() for y, z in zip(found, right, strict=True))


def test_operators_that_have_no_mend_are_taken_as_they_are():
    x = torch.randn(5, 5)
    spd = x @ x.t() + 5 * torch.eye(5)
    same(
        lambda x, spd: (torch.linalg.cholesky(spd), torch.linalg.solve(spd, x), tuple(x.sort(1)), tuple(torch.cummax(x, 1)), x.topk(2)[0]),
        x,
        spd,
        rtol=1e-4,
        atol=1e-4,
    )


def test_writes_into_results_of_decomposed_operators():
    def f(x):
        y = x.to(torch.float32, copy=True)
        y.add_(1)
        z = torch.nn.functional.pad(x, (0, 0))
        z.mul_(2)
        return x + 0, y, z

    same(f, torch.randn(3, 4))


def test_what_inductor_cannot_compile_is_refused(monkeypatch):
    def fails(*args, **kwargs):
        raise AssertionError("an operator unheard of\nand more")

    monkeypatch.setattr(_inductor.private.inductor(), "compile_fx_inner", fails)

    def cosine(x):
        return x.cos()

    with pytest.raises(RuntimeError, match=r"cosine: .* cannot compile this program \(an operator unheard of\).*backend='xla'"):
        funrl.compile(cosine, backend="inductor")(torch.ones(3))


def test_threads():
    x = torch.randn(300, 300)
    outside = torch.get_num_threads()
    one, two = (funrl.compile(lambda x: (x @ x).sin().sum(0), backend="inductor", threads=n)(x) for n in (1, 2))
    torch.testing.assert_close(one, two)
    assert torch.get_num_threads() == outside


AGAIN = """
import torch, funrl
from torch._dynamo.utils import counters
f = funrl.compile(lambda x: funrl.scan(lambda c, r: (c + r * 1.25, c), x[0], x), backend="inductor")
assert f(torch.ones(3, 4))[0].tolist() == [4.75] * 4
print(dict(counters["inductor"]))
"""


@pytest.mark.nightly
def test_a_second_process_finds_the_program(tmp_path):
    """It starts two processes, and the first compiles without a cache: some ten seconds."""
    env = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", AGAIN]
    first, second = (subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert "'fxgraph_cache_miss': 1" in first and "'fxgraph_cache_hit': 1" in second, (first, second)
