"""``funrl.debug``: print, callback, check_finite and keys; eagerly, mapped, compiled, in loops and under gradients."""

import math
import re
import threading

import pytest
import torch
from torch.func import grad, jvp, vjp, vmap

from funrl import compiler, debug, random, scan
from tests.support import same

HAS_JAX = compiler._backends.has_jax()
BACKENDS = ["eager", "aot_eager", pytest.param("xla", marks=pytest.mark.skipif(not HAS_JAX, reason="jax is not installed"))]
backends = pytest.mark.parametrize("backend", BACKENDS)
inf, nan = math.inf, math.nan


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    yield
    compiler.clear()


def lines(capsys):
    return capsys.readouterr().out.splitlines()


# print -------------------------------------------------------------------------------------------------------------------------------------


@backends
def test_print(backend, capsys):
    def f(x, n):
        debug.print("{0} {1:.2f} {name} {0}", x, x.sum(), name={"n": n, "text": "a"})
        debug.print("no values")
        debug.print("{}", n)
        return x * 2

    compiled = compiler.compile(f, backend=backend)
    for k in (1, 2):
        same(compiled(torch.full((2,), float(k)), 3), torch.full((2,), 2.0 * k))
        assert lines(capsys) == [f"[{k}.0, {k}.0] {2 * k:.2f} {{'n': 3, 'text': 'a'}} [{k}.0, {k}.0]", "no values", "3"]


@backends
def test_print_under_transforms_and_in_loops(backend, capsys):
    def show(x):
        debug.print("{}", x)
        return x * x

    def expect(f, x, texts, ordered=True):
        compiler.compile(f, backend=backend)(x)
        found = lines(capsys)
        assert (found if ordered else sorted(found)) == texts, found

    x = torch.arange(3.0)
    expect(vmap(show), x, ["0.0", "1.0", "2.0"])
    expect(vmap(vmap(show)), x.reshape(1, 3), ["0.0", "1.0", "2.0"])
    expect(vmap(vmap(show, out_dims=0), in_dims=1), torch.tensor([[0.0, 1.0], [2.0, 3.0]]), ["0.0", "2.0", "1.0", "3.0"])
    expect(lambda x: vmap(lambda y: show(x[0]) + y)(x), x, ["0.0"] if backend == "never" else ["0.0"] * 3)
    expect(grad(show), torch.tensor(2.0), ["2.0"])
    expect(vmap(grad(show)), x, ["0.0", "1.0", "2.0"])
    expect(grad(lambda x: vmap(show)(x).sum()), x, ["0.0", "1.0", "2.0"])
    expect(lambda x: jvp(show, (x,), (x,))[1], torch.tensor(3.0), ["3.0"])
    expect(lambda x: vjp(show, x)[0], torch.tensor(3.0), ["3.0"])
    expect(lambda x: scan(lambda c, r: (show(c) * 0 + c + r, ()), x[0], x)[0], x, ["0.0", "0.0", "1.0"])
    expect(lambda x: scan(lambda c, r: (c, show(r)), x[0], x, reverse=True), x, ["2.0", "1.0", "0.0"])
    expect(lambda x: scan(lambda c, r: (c, scan(lambda d, s: (d, show(s)), c, x[1:])), x[0], x)[0], x, ["1.0", "2.0"] * 3)
    rows = torch.tensor([[0.0, 1.0], [2.0, 3.0]])
    expect(lambda x: vmap(lambda r: scan(lambda c, s: (c, show(s)), r[0], r)[0])(x), rows, ["0.0", "1.0", "2.0", "3.0"], ordered=False)


@backends
def test_print_in_the_gradient_of_a_loop(backend, capsys):
    def loss(w):
        def step(c, x):
            debug.print("{}", x)
            return c * w + x, ()

        return scan(step, torch.ones(()), torch.arange(3.0))[0]

    same(compiler.compile(grad(loss), backend=backend)(torch.tensor(2.0)), grad(loss)(torch.tensor(2.0)))
    found = lines(capsys)
    assert found[:3] == ["0.0", "1.0", "2.0"] and set(found) == {"0.0", "1.0", "2.0"}


# callback ------------------------------------------------------------------------------------------------------------------------------------


@backends
def test_callback(backend):
    seen = []

    def f(x, n):
        debug.callback(lambda *values, **named: seen.append(values), {"x": x, "y": [x.sum(), "text"]}, n, None)
        debug.callback(seen.append, x.to(torch.bfloat16))
        debug.callback(lambda: seen.append("no tensors"))
        return x + 1

    compiled = compiler.compile(f, backend=backend)
    for k in range(2):
        compiled(torch.tensor([1, 2]) + k, 5)
        (values, half, text), seen[:] = list(seen), []
        same(values[0]["x"], torch.tensor([1, 2]) + k)
        assert values[0]["y"][0].item() == 3 + 2 * k and values[0]["y"][1] == "text" and values[1:] == (5, None)
        assert half.dtype == torch.bfloat16 and half.tolist() == [1 + k, 2 + k] and text == "no tensors"


@backends
def test_a_callback_is_kept_though_nothing_is_returned_of_it(backend):
    seen = []
    f = compiler.compile(lambda x: debug.callback(seen.append, x * 2), backend=backend)
    assert f(torch.ones(1)) is None and [x.item() for x in seen] == [2]
    g = compiler.compile(lambda x: scan(lambda c, r: (debug.callback(seen.append, r) or c, ()), x[0], x) and x, backend=backend)
    g(torch.arange(3.0))
    assert [x.item() for x in seen] == [2, 0, 1, 2]


@backends
def test_what_a_callback_raises(backend):
    class Stop(Exception):
        """An error of a user's own."""

    calls = []

    def check(x):
        calls.append(x.item())
        if x > 1:
            raise Stop(f"at {x.item()}")

    f = compiler.compile(lambda x: scan(lambda c, r: (debug.callback(check, r) or c + r, ()), x[0], x)[0], backend=backend)
    with pytest.raises(Stop, match=r"^at 2.0$"):
        f(torch.arange(4.0))
    # The next call is as if nothing had been.
    calls.clear()
    assert f(torch.zeros(4)).item() == 0 and calls == [0, 0, 0, 0]
    with pytest.raises(Stop, match=r"^at 5.0$"):
        f(torch.full((4,), 5.0))
    assert compiler.compile(lambda x: x + 1, backend=backend)(torch.ones(1)).item() == 2


@backends
def test_a_callback_may_compute(backend):
    """A call of Python may run torch, a compiled function and a gradient, while the program waits."""
    seen = []
    inner = compiler.compile(lambda x: x * 3, backend="aot_eager")

    def call(x):
        seen.append((x @ x).item() + inner(x).sum().item() + grad(lambda y: y.sum())(x).sum().item())

    compiler.compile(lambda x: debug.callback(call, x) or x, backend=backend)(torch.ones(2))
    assert seen == [2 + 6 + 2]


@backends
@pytest.mark.parametrize("shared", [True, False])
def test_errors_of_callbacks_stay_in_their_call(backend, shared):
    """Three threads, each with a program of its own, or all with one: each call raises what its own values raise."""

    def check(x):
        if x.item():
            raise ValueError(str(int(x.item())))

    def compiled():
        f = lambda x: compiler.elementwise_call(lambda x: check(x) or 2 * x, x) + 1
        return compiler.compile(lambda x: debug.callback(check, x) or f(x), backend=backend)

    seen, one = [], compiled()
    one(torch.zeros(1))

    def work(k):
        f = one if shared else compiled()
        for i in range(40):
            expected = 10 * i + k if k else 0
            try:
                seen.append((f(torch.full((1,), float(expected))).item() == 1, expected == 0))
            except ValueError as error:
                seen.append((str(error) == str(expected), expected != 0))

    threads = [threading.Thread(target=work, args=(k,)) for k in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [(True, True)] * 120


def test_inductor_says_that_it_cannot():
    with pytest.raises(compiler.TraceError, match=r"test_debug.py:\d+: .*inductor compiles cannot call Python .*backend='xla'"):
        compiler.compile(lambda x: debug.print("{}", x) or x, backend="inductor")(torch.ones(1))


# check_finite ------------------------------------------------------------------------------------------------------------------------------------


@backends
def test_check_finite(backend):
    def f(x, y):
        tree = debug.check_finite({"x": x, "y": [y, y.long() * 0, "text"]}, "batch")
        return debug.check_finite(tree["x"] * 2, "advantage"), tree["y"][1]

    compiled = compiler.compile(f, backend=backend)
    good, other = torch.ones(2), torch.ones(3)
    assert compiled(good, other)[0].tolist() == [2, 2]
    for x, y, text in (
        (torch.tensor([1.0, nan]), other, r"batch\['x'\]: 1 of 2 entries is not finite \(NaN or infinite\)"),
        (good, torch.tensor([inf, -inf, 1.0]), r"batch\['y'\]\[0\]: 2 of 3 entries are not finite"),
        (torch.tensor([3e38, 0.0]), other, r"advantage: 1 of 2 entries is not finite"),
    ):
        with pytest.raises(FloatingPointError, match=text):
            compiled(x, y)
        assert compiled(good, other)[0].tolist() == [2, 2]
    single = compiler.compile(lambda x: debug.check_finite(x), backend=backend)
    with pytest.raises(FloatingPointError, match=r"^value: 1 of 1 entry is not finite"):
        single(torch.tensor(nan))
    assert single(torch.tensor(1)).item() == 1 and single(torch.zeros(0)).shape == (0,)


@backends
def test_check_finite_under_transforms(backend):
    def loss(x):
        return debug.check_finite(torch.log(x), "log")

    x = torch.tensor([1.0, 0.0, 2.0])
    for f in (
        vmap(loss),
        vmap(grad(loss)),
        grad(lambda x: loss(x).sum()),
        lambda x: scan(lambda c, r: (c + loss(r), ()), x[0], x)[0],
        lambda x: grad(lambda x: scan(lambda c, r: (c + loss(r), ()), x[0], x)[0])(x),
    ):
        compiled = compiler.compile(f, backend=backend)
        with pytest.raises(FloatingPointError, match=r"^log: 1 of [13] entr(y|ies) is not finite"):
            compiled(x)
        same(compiled(x + 1), f(x + 1))


def test_a_gradient_flows_through_check_finite():
    same(grad(lambda x: debug.check_finite(x * x))(torch.tensor(3.0)), torch.tensor(6.0))


# keys --------------------------------------------------------------------------------------------------------------------------------------------------


def use_twice(key):
    a = random.normal(key)  # one
    return a + random.uniform(key)  # two


GOOD = {
    "split": lambda key: sum(random.normal(k) for k in random.split(key, 3)),
    "fold_in": lambda key: sum(random.normal(random.fold_in(key, i)) for i in range(3)),
    "mapped": lambda key: vmap(random.normal)(random.split(key, 3)),
    "in a loop": lambda key: scan(lambda c, k: (c + random.normal(k), ()), torch.zeros(()), random.split(key, 3))[0],
    "as a carry": lambda key: scan(lambda k, _: ((n := random.split(k))[0], random.normal(n[1])), key, length=3)[1],
    "mapped loops": lambda key: vmap(lambda k: scan(lambda c, k: (c, random.normal(k)), k, random.split(k, 2))[1])(random.split(key, 2)),
    "permutation, choice": lambda key: (random.permutation((k := random.split(key))[0], 4), random.randint(k[1], (2,), 0, 3)),
    "folded within a loop": lambda key: scan(lambda c, i: (c, random.normal(random.fold_in(key, i))), key, torch.arange(3))[1],
    "a gradient": lambda key: grad(lambda x: (x * random.normal(key)).sum())(torch.ones(())),
}
BAD = {
    "twice": use_twice,
    "split twice": lambda key: (random.split(key), random.split(key)),
    "split and drawn": lambda key: (random.split(key), random.normal(key)),
    "one of split": lambda key: (random.normal((k := random.split(key))[0]), random.uniform(k[0])),
    "row by two names": lambda key: (random.normal((k := random.split(key))[0]), random.uniform(k.unbind(0)[0])),
    "mapped": lambda key: vmap(lambda k: (random.normal(k), random.uniform(k)))(random.split(key)),
    "in a loop": lambda key: scan(lambda c, k: (c + random.normal(k) + random.uniform(k), ()), torch.zeros(()), random.split(key, 3))[0],
    "from around a loop": lambda key: scan(lambda c, _: (c + random.normal(key), ()), torch.zeros(()), length=3)[0],
    "around and in the loop": lambda key: (
        random.normal(key),
        scan(lambda c, _: (c + random.normal(key), ()), torch.zeros(()), length=2)[0],
    ),
    "the same for each": lambda key: vmap(lambda x: x + random.normal(key) + random.uniform(key))(torch.zeros(2)),
    "folded twice alike": lambda key: random.normal(random.fold_in(key, 1)) + random.uniform(random.fold_in(key, 1)),
    "under grad": lambda key: grad(lambda x: x * random.normal(key) * random.uniform(key))(torch.ones(())),
}


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", GOOD)
def test_keys_that_are_used_once(backend, name):
    with debug.keys():
        seen = compiler.compile(GOOD[name], backend=backend)(random.key(0))
    same(seen, GOOD[name](random.key(0)))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", BAD)
def test_keys_that_are_used_twice(backend, name):
    f = compiler.compile(BAD[name], backend=backend)
    with (
        debug.keys(),
        pytest.raises(
            debug.KeyReused, match=r"a key was used twice: by random\.|a key from around a loop is used at each of its steps"
        ) as error,
    ):
        f(random.key(0))
    assert "test_debug.py" in str(error.value)
    compiler.compile(BAD[name], backend=backend)(random.key(0))  # outside of the context it is nobody's business


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_both_lines_are_named(backend):
    with debug.keys(), pytest.raises(debug.KeyReused) as error:
        compiler.compile(use_twice, backend=backend)(random.key(0))
    first = use_twice.__code__.co_firstlineno + 1
    assert re.search(
        rf"by random.normal \(test_debug.py:{first}\) and by random.uniform \(test_debug.py:{first + 1}\); split it", str(error.value)
    )


def test_equal_keys_from_two_places_are_one_key():
    with debug.keys(), pytest.raises(debug.KeyReused):
        random.normal(random.key(3))
        random.normal(random.key(3))


def test_the_context_ends():
    with debug.keys():
        random.normal(random.key(0))
    with debug.keys():
        random.normal(random.key(0))
        with debug.keys():
            random.normal(random.key(0))
    random.normal(random.key(0)), random.normal(random.key(0))
    with pytest.raises(KeyError), debug.keys():
        raise KeyError
    random.normal(random.key(0)), random.normal(random.key(0))


# Calls that return a tensor ----------------------------------------------------------------------------------------------------------------


@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_elementwise_call(backend, dtype):
    seen = []

    def double(x):
        seen.append(x.shape)
        return x + x

    def f(x, y):
        def step(total, row):
            total = total + compiler.elementwise_call(double, row)
            return total, compiler.elementwise_call(double, total.sum())

        total, sums = scan(step, x, y)
        return total, sums, compiler.elementwise_call(double, vmap(lambda x: compiler.elementwise_call(double, 2 * x))(y))

    x, y = torch.arange(3).to(dtype), torch.arange(6).reshape(2, 3).to(dtype)
    for _ in range(2):
        total, sums, last = compiler.compile(f, backend=backend)(x, y)
        expected = x + 2 * y[0], x + 2 * y.sum(0)
        same((total, sums, last), (expected[1], torch.stack([2 * z.sum() for z in expected]), 8 * y))
    assert seen[:6] == [(3,), (), (3,), (), (2, 3), (2, 3)]


@backends
def test_elementwise_call_under_gradients(backend):
    def f(x):
        return (compiler.elementwise_call(lambda x: x * x, x) * x).sum()  # a constant times x

    compiled = compiler.compile(lambda x: (grad(f)(x[0]), vmap(grad(f), 1, 1)(x)), backend=backend)
    x = torch.arange(6.0).reshape(2, 3)
    same(compiled(x), (x[0] ** 2, x**2))


@backends
def test_elementwise_call_of_a_large_tensor_and_an_error(backend):
    def fail(x):
        calls.append(len(x))
        raise ValueError("no answer")

    calls = []
    x = torch.arange(1 << 20, dtype=torch.float32)
    same(compiler.compile(lambda x: compiler.elementwise_call(lambda x: 2 * x, x + 1), backend=backend)(x), 2 * x + 2)
    twice = compiler.compile(lambda x: compiler.elementwise_call(fail, compiler.elementwise_call(fail, x) + 1), backend=backend)
    with pytest.raises(ValueError, match="no answer"):
        twice(x)
    assert calls == [1 << 20]


def test_elementwise_call_by_inductor_is_an_error():
    with pytest.raises(compiler.TraceError, match=r"cannot call Python \(funrl.debug, funrl.distributed\)"):
        compiler.compile(lambda x: compiler.elementwise_call(torch.neg, x), backend="inductor")(torch.ones(2))


def test_elementwise_call_checks_the_result_and_leaves_the_argument_alone():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    for f in (lambda z: z.int(), lambda z: z.reshape(2, 2), lambda z: z.sum(), lambda z: None):
        for run in (lambda g: g, lambda g: compiler.compile(g, backend="xla")):
            with pytest.raises(TypeError, match="elementwise_call: f: expected to return a tensor like its argument"):
                run(lambda x, f=f: compiler.elementwise_call(f, x))(x)
    same(compiler.elementwise_call(lambda z: z.mul_(2), x), 2 * torch.arange(1.0, 5.0))
    same(x, torch.arange(1.0, 5.0))
