"""Programs that a traced function may contain, and the errors of the others: each names the user's own line."""

import copy
import functools
import re
import threading
import traceback

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, vjp, vmap

from funrl import compiler, random, scan, tree
from funrl.compiler import TraceError
from tests.support import compilations, same

BACKENDS = ["aot_eager", pytest.param("xla", marks=pytest.mark.skipif(not compiler._backends.has_jax(), reason="jax is not installed"))]
backends = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(scope="module", autouse=True)
def forgotten():
    yield
    compiler.clear()


def compile(f, **options):
    return compiler.compile(f, **{"backend": "aot_eager", **options})


def refused(f, *args, match, error=TraceError, **options):
    """Fail unless compiling ``f`` raises an error that names the line in this file that ends in ``# here``, and eagerly there is none."""
    with pytest.raises(error) as caught:
        compile(f, **options)(*args)
    text = str(caught.value)
    assert re.search(match, text), text
    place = re.match(re.escape(__file__) + r":(\d+): `(.*)`: ", text)
    assert place and place[2].endswith("# here"), text
    return text


# A value is asked for ----------------------------------------------------------------------------------------------------------


VALUES = {
    "bool": lambda x: bool(x.sum() > 0),  # here
    "int": lambda x: int(x.sum()),  # here
    "float": lambda x: float(x.sum()),  # here
    "complex": lambda x: complex(x.sum()),  # here
    "item": lambda x: x.sum().item(),  # here
    "if": lambda x: x if x.sum() > 0 else -x,  # here
    "and": lambda x: x.sum() > 0 and x,  # here
    "not": lambda x: not x.sum(),  # here
    "tolist": lambda x: x.tolist(),  # here
    "numpy": lambda x: x.numpy(),  # here
    "asarray": lambda x: np.asarray(x),  # here
    "format": lambda x: f"{x.sum():.3f}",  # here
    "range": lambda x: [x for _ in range(x.sum().long())],  # here
    "in": lambda x: 3.0 in x,  # here
    "==": lambda x: [1, 2] if x[0] == x[1] else x,  # here
    "equal": lambda x: torch.equal(x, x + 1),  # here
    "allclose": lambda x: torch.allclose(x, x),  # here
    "max": lambda x: max(x[0], x[1]),  # here
    "slice": lambda x: x[: x.sum().long()],  # here
    "index of a list": lambda x: [1, 2, 3][x.sum().long()],  # here
    "full": lambda x: torch.full((2,), x.sum().item()),  # here
    "is_nonzero": lambda x: x.sum().is_nonzero(),  # here
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_is_asked_for(name):
    f = VALUES[name]
    text = refused(f, torch.ones(2), match=r"the value of a traced tensor \((float32|int64|bool) \[2?\]\) was asked for")
    for part in ("torch.where", "funrl.scan", "funrl.debug.print", "funrl.compiler.eager()"):
        assert part in text
    with compiler.eager():
        compile(f)(torch.ones(2))


def test_a_value_is_asked_for_by_another_library():
    refused(lambda x: x + np.ones(2, np.float32), torch.ones(2), match="torch.as_tensor for an array of NumPy")  # here
    refused(lambda x: torch.distributions.Normal(x, 1.0).log_prob(x), torch.ones(2), match="funrl.distributions")  # here


def test_an_optimizer_of_torch_is_refused():
    weight = torch.ones(2, requires_grad=True)
    optimizer = torch.optim.SGD([weight], 0.1)

    def f(x):
        (weight * x).sum().backward()
        optimizer.step()  # here

    assert "use torch.func.grad and funrl.optim" in refused(f, torch.ones(2), match="would change a tensor from outside")


def test_a_slice_of_unknown_length():
    remedy = r"take a fixed number of rows: x\[i \+ torch.arange\(n\)\]"
    refused(lambda x, i: x.clone()[i:], torch.ones(3), torch.tensor(1), match=remedy)  # here


def test_a_value_is_asked_for_within_transforms():
    for transform in (vmap, grad, lambda f: lambda x: jvp(f, (x,), (x,)), lambda f: lambda x: vjp(f, x)[0]):

        def f(x):
            return x * 2 if x.sum() > 0 else x.sum()  # here

        with pytest.raises((TraceError, RuntimeError)):
            compile(transform(f))(torch.ones(2))
        refused(lambda x: scan(lambda c, x: (c + x if x > 0 else c, ()), x[0], x), torch.ones(2), match="was asked for")  # here
    refused(lambda x: grad(lambda x: x.sum() * float(x[0]))(x), torch.ones(2), match="was asked for")  # here


def test_what_shows_a_tensor_shows_its_shape(capsys):
    shown = []

    def f(x):
        print(x, [x])
        shown.extend([repr(x), str(x), f"{x}", f"{x!r}", "%s" % x])  # noqa: UP031
        shown.append(repr(vmap(lambda y: shown.append(repr(y)) or y)(x)))
        return x + 1

    compile(f)(torch.ones(2, 3))
    assert (
        capsys.readouterr().out.count("<traced float32 [2, 3]: it has no value before the program runs; funrl.debug.print shows it then>")
        == 2
    )
    assert all("traced float32 [" in text for text in shown) and len(shown) == 7


# torch's generator -----------------------------------------------------------------------------------------------------------------


DRAWS = {
    "randn": lambda x: x + torch.randn(2),  # here
    "rand_like": lambda x: x + torch.rand_like(x),  # here
    "randint": lambda x: x + torch.randint(0, 3, (2,)),  # here
    "randperm": lambda x: x[torch.randperm(2)],  # here
    "bernoulli": lambda x: torch.bernoulli(x),  # here
    "normal_": lambda x: torch.empty(2).normal_() + x,  # here
    "uniform_": lambda x: torch.empty(2).uniform_() + x,  # here
    "multinomial": lambda x: torch.multinomial(x, 1),  # here
    "dropout": lambda x: torch.nn.functional.dropout(x, 0.5),  # here
    "distribution": lambda x: torch.distributions.Normal(x, x, validate_args=False).rsample(),  # here
    "poisson": lambda x: torch.poisson(x),  # here
}


@pytest.mark.parametrize("name", DRAWS)
def test_torchs_generator(name):
    state = torch.random.get_rng_state()
    refused(DRAWS[name], torch.ones(2), match=r"draws from torch's global generator; .* funrl.random and a key")
    assert torch.equal(state, torch.random.get_rng_state())


def test_dropout_that_draws_nothing():
    f = compile(lambda x: torch.nn.functional.dropout(torch.nn.functional.dropout(x, 0.5, training=False), 0.0))
    assert f(torch.ones(2)).tolist() == [1, 1]


# Tensors from outside are not changed -------------------------------------------------------------------------------------------------


class Holder:
    """An object that a test closes over; each test makes its own."""


def test_arguments_and_captured_tensors_are_not_mutated():
    outside = torch.arange(6.0).reshape(2, 3)
    module = torch.nn.BatchNorm1d(2)

    def named(x):
        y = x[0]
        y.add_(1)  # here
        return x

    def through_vmap(x):
        return vmap(lambda row: row.mul_(2))(x)  # here

    writes = {
        "argument": (lambda x: x.add_(1), "an argument of the function"),  # here
        "an item": (lambda x: x.__setitem__(0, 1.0) or x, "an argument"),  # here
        "a view": (named, "an argument"),
        "a view of a view": (lambda x: x.t()[0].zero_(), "an argument"),  # here
        "detached": (lambda x: x.detach().zero_(), "an argument"),  # here
        "out": (lambda x: torch.sin(x, out=x), "an argument"),  # here
        "mapped": (through_vmap, "an argument"),
        "captured": (lambda x: outside.add_(x.sum()), "a tensor from outside the function"),  # here
        "a view of it": (lambda x: outside[0].mul_(x.sum()), "a tensor from outside the function"),  # here
        "a buffer": (lambda x: module(x.reshape(3, 2)), "a tensor from outside the function"),  # here
        "in a loop": (lambda x: scan(lambda c, r: (c.add_(r), ()), x[0], x), "an argument of the loop's body"),  # here
        "from around a loop": (
            lambda x: (y := x * 2, scan(lambda c, r: (c + y.add_(1).sum(), ()), x[0], x)),  # here
            "a tensor from outside the loop's body",
        ),
    }
    for name, (f, what) in writes.items():
        x = torch.arange(6.0).reshape(2, 3)
        assert what in refused(f, x, match=r"would change .* in place; a traced function changes nothing"), name
        assert x.flatten().tolist() == outside.flatten().tolist() == list(range(6)), name
    assert module.running_mean.tolist() == [0, 0]


def test_own_tensors_may_be_mutated():
    outside = torch.arange(6.0).reshape(2, 3)

    def f(x):
        y = outside.clone()
        y[0].add_(x)
        z = y[:, 1]
        y += 1
        total = torch.zeros(())
        for row in y:
            total += row.sum()
        w = torch.empty(3)
        w[:] = z.sum()
        return y, z, total, w, torch.add(x, 1, out=torch.empty(3))

    same(compile(f)(torch.ones(3)), f(torch.ones(3)))
    assert outside.flatten().tolist() == list(range(6))


# Shapes that depend on values -----------------------------------------------------------------------------------------------------------


SHAPES = {
    "masked": lambda x: x[x > 0],  # here
    "nonzero": lambda x: x.nonzero(),  # here
    "where": lambda x: torch.where(x > 0)[0],  # here
    "unique": lambda x: x.unique(),  # here
    "masked_select": lambda x: x.masked_select(x > 0),  # here
    "argwhere": lambda x: torch.argwhere(x),  # here
    "bincount": lambda x: x.long().bincount(),  # here
    "repeat_interleave": lambda x: x.repeat_interleave(x.long()),  # here
    "unique_consecutive": lambda x: x.unique_consecutive(),  # here
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_that_depend_on_values(name):
    refused(SHAPES[name], torch.ones(2), match=r"the shape of what .* gives depends on values|the value of a traced tensor")


def test_masks_that_are_constants_or_written_through():
    def f(x):
        y = x.clone()
        y[x > 1] = 0
        y[torch.tensor([True, False, False])] += 1
        return y, x.masked_fill(x > 1, 3), torch.where(x > 1, x, 0)

    x = torch.arange(3.0)
    same(compile(f)(x), f(x))


# Operators without a lowering, and tensors that get out -----------------------------------------------------------------------------------


def test_an_operator_without_a_lowering():
    pytest.importorskip("jax")

    @torch.library.custom_op("funrl_test::odd", mutates_args=())
    def odd(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    odd.register_fake(torch.empty_like)
    text = refused(
        lambda x: odd(x + 1),  # here
        torch.eye(2),
        match=r"the operator funrl_test\.odd\.default \(float32 \[2, 2\]\) has no lowering",
        backend="xla",
    )
    assert "backend='inductor'" in text


def test_a_tensor_that_outlives_its_trace():
    kept = []
    f = compile(lambda x: kept.append(x * 2) or x + 1)
    f(torch.ones(2))
    for use in (lambda x: x + 1, lambda x: torch.ones(2) * x, lambda x: x.clone(), lambda x: x[0], lambda x: torch.stack([x, x])):
        with pytest.raises(TraceError, match=r"test_trace.py:\d+: .*a traced tensor was used after its trace ended"):
            use(kept[0])
    assert "traced float32 [2]" in repr(kept[0])
    for use in (lambda x: x.tolist(), lambda x: x.numpy(), lambda x: float(x.sum()), lambda x: x[0].item()):
        with pytest.raises(TraceError):
            use(kept[0])
    # In another trace, and compiled as an argument.
    with pytest.raises(TraceError):
        compile(lambda y: y + kept[0])(torch.ones(2))
    with pytest.raises((TraceError, TypeError, ValueError)):
        compile(lambda y: y + 1)(kept[0])


def test_a_tensor_that_leaks_out_of_a_loop():
    def leak(x):
        kept = []
        scan(lambda c, r: (kept.append(c * 2) or c + r, ()), x[0], x)
        return kept[-1] + 1  # here

    refused(leak, torch.ones(3), match="left the body of a loop")

    def returned(x):
        kept = []
        scan(lambda c, r: (kept.append(c * 2) or c + r, ()), x[0], x)
        return kept[0]

    with pytest.raises(TraceError, match="left the body of a loop"):
        compile(returned)(torch.ones(3))


def test_appending_to_a_list_happens_once():
    log = []
    f = compile(lambda x: log.append(x.shape) or x + len(log))
    assert [f(torch.ones(1)).item() for _ in range(3)] == [2, 2, 2] and len(log) == 1


# Exceptions ---------------------------------------------------------------------------------------------------------------------------------


class Boom(Exception):
    """An error of a user's own, with arguments of its own."""

    def __init__(self, code, *, more):
        super().__init__(code)
        self.more = more


@pytest.mark.parametrize(
    "error", [KeyError("no such joint"), Boom(3, more=[1]), KeyboardInterrupt(), SystemExit(2), StopIteration(1), GeneratorExit()]
)
def test_exceptions_come_through_as_they_are(error):
    for around in (
        lambda f: f,
        vmap,
        lambda f: grad(lambda x: f(x).sum()),
        lambda f: lambda x: scan(lambda c, r: (f(c), r), x[0], x),
        lambda f: lambda x: vmap(grad(lambda x: scan(lambda c, r: (f(c), r), x, x[None])[0]))(x),
    ):
        fails = [True]

        def deep(x):
            if fails[0]:
                raise error
            return x * 2

        f = compile(around(lambda x: deep(x)))
        x = torch.ones(3)
        if isinstance(error, StopIteration):
            with pytest.raises((StopIteration, RuntimeError)):
                f(x)
        else:
            with pytest.raises(type(error)) as caught:
                f(x)
            assert caught.value is error
            assert "deep" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
        # The same call again works, and so do all else: no mode or level of torch.func is left behind.
        assert not compiler.tracing() and torch._C._functorch.peek_interpreter_stack() is None
        assert torch._C._len_torch_dispatch_stack() == 0 and torch._C._len_torch_function_stack() == 0
        fails[0] = False
        same(f(x), around(deep)(x))
        same(vmap(grad(lambda x: x * x))(x), 2 * x)
        assert torch.ones(2).sum().item() == 2


def test_errors_of_torch_come_through():
    def f(x):
        return x @ torch.ones(5)

    with pytest.raises(RuntimeError) as caught:
        compile(f)(torch.ones(3))
    assert "f" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    bad = [
        lambda x: x + torch.ones(5),
        lambda x: x.reshape(7),
        lambda x: x.sum(3),
        lambda x: torch.cat([x, x[None]]),
        lambda x: x[5],
        lambda x: x.view(2, 2),
    ]
    bad += [
        lambda x: torch.stack([x, x[:1]]),
        lambda x: x.clone().copy_(torch.ones(5)),
        lambda x: x.long().clone().add_(0.5),
        lambda x: x.transpose(0, 2),
    ]
    bad += [
        lambda x: x.expand(2, 7),
        lambda x: x.squeeze(4),
        lambda x: x.index_select(1, torch.tensor([0])),
        lambda x: x.softmax(2),
        lambda x: x.argmax(3),
    ]
    bad += [
        lambda x: x.long().mean(),
        lambda x: x.unfold(0, 9, 1),
        lambda x: x.split([1, 1]),
        lambda x: x.amax(2),
        lambda x: x.expand(3, 3).clone()[0].t().t()[7],
    ]
    bad += [
        lambda x: x.expand(2, 3).add_(1),
        lambda x: x.gather(1, torch.tensor([0])),
        lambda x: torch.where(x > 0, x, torch.ones(5)),
        lambda x: x.bool() - x.bool(),
    ]
    bad += [lambda x: -(x > 0), lambda x: x & x, lambda x: x.flip(1), lambda x: x.tril(), lambda x: x.scatter(0, torch.tensor([[0]]), 1.0)]
    bad += [lambda x: torch.nn.functional.layer_norm(x, (2,)), lambda x: x.sum((0, 0)), lambda x: x.index_add(0, torch.tensor([0, 1]), x)]
    for g in bad:
        with pytest.raises((RuntimeError, IndexError, TypeError)) as eager:
            g(torch.ones(3))
        with pytest.raises((RuntimeError, IndexError, TypeError)) as traced:
            compile(g)(torch.ones(3))
        assert not isinstance(traced.value, TraceError) or "would change" in str(traced.value), (eager.value, traced.value)


# Python that runs once ------------------------------------------------------------------------------------------------------------------------


@functools.lru_cache
def cached(n):
    return n + 1


class Net:
    """A class of a user's own, with state that Python keeps."""

    def __init__(self):
        self.weights = {f"w{i}": torch.full((2,), float(i)) for i in range(3)}
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        parts = {name: x * w for name, w in self.weights.items() if name != "w0"}
        return sum(parts.values()) + cached(3)

    @property
    def total(self):
        return functools.reduce(lambda a, b: a + b, self.weights.values())


@backends
def test_python_runs_once(backend):
    net, scale = Net(), torch.tensor(2.0)

    def generator(x):
        for i in range(3):
            yield x + i

    def f(x, *rest, key=1, **more):
        try:
            [][0]
        except IndexError:
            x = x + 1
        a, *b = generator(x)
        first, second = sorted([torch.zeros(2), torch.zeros(3)], key=lambda t: t.shape[0])
        with torch.no_grad():
            y = functools.partial(torch.mul, scale)(a)
        match b:
            case [one, two]:
                y = y + one * two
        return {"y": y, "net": net(y), "total": net.total, "shape": tuple(first.shape + second.shape), "rest": [*rest], **more, "key": key}

    args, kwargs = (torch.ones(2), torch.ones(1)), {"key": 5, "extra": torch.zeros(1), "text": "a"}
    compiled = compiler.compile(f, backend=backend)
    right = f(*args, **kwargs)
    for _ in range(2):
        got = compiled(*args, **kwargs)
        assert tree.structure({k: v for k, v in got.items() if k != "text"}) == tree.structure(
            {k: v for k, v in right.items() if k != "text"}
        )
        same([got[k] for k in ("y", "net", "total", "rest", "extra")], [right[k] for k in ("y", "net", "total", "rest", "extra")])
        assert got["key"] == 5 and got["shape"] == (2, 3) and got["text"] == "a"
    assert net.calls == 2
    # Closed-over tensors count with their present values.
    scale.mul_(3)
    net.weights["w1"].add_(1)
    with compilations(0):
        got = compiled(*args, **kwargs)
    same([got["y"], got["net"], got["total"]], [(r := f(*args, **kwargs))["y"], r["net"], r["total"]])


def test_methods_and_decorators():
    class Agent:
        def __init__(self, w):
            self.w = w

        @functools.partial(compiler.compile, backend="aot_eager")
        def act(self, x):
            return x * 2

        @staticmethod
        @functools.partial(compiler.compile, backend="aot_eager")
        def static(x):
            """Double."""
            return x * 2

    assert Agent.static(torch.ones(1)).item() == 2 and Agent.static.__doc__ == "Double." and Agent.static.__name__ == "static"
    bound = compile(functools.partial(lambda a, x: a * x, 3))
    assert bound(torch.ones(1)).item() == 3


@backends
def test_captured_tensors_of_all_kinds(backend):
    base = torch.arange(12.0).reshape(3, 4)
    kinds = {
        "transposed": base.T,
        "strided": base[:, ::2],
        "expanded": torch.ones(3, 1).expand(3, 4),
        "bool": torch.tensor([True, False]),
        "number": torch.tensor(3),
        "empty": torch.zeros(0, 3),
        "uint8": torch.arange(4, dtype=torch.uint8),
        "bfloat16": torch.arange(4).to(torch.bfloat16),
        "int8": torch.arange(4, dtype=torch.int8),
        "float16": torch.arange(4).to(torch.float16),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "float64": torch.ones(2, dtype=torch.float64),
        "requires grad": torch.ones(2, requires_grad=True),
        "offset": base.view(-1)[3:],
    }

    def f(x):
        return (
            [w * 1 if w.dtype != torch.bool else ~w for w in kinds.values()],
            [w for w in kinds.values()],
            base.T[1] + x,
            vmap(lambda x: x + base)(x[:1]),
        )

    compiled = compiler.compile(f, backend=backend)
    x = torch.ones(3)
    for _ in range(2):
        got, right = compiled(x), tree.map(lambda t: t.detach(), f(x))
        same(got, right)
        base.add_(1)
        kinds["bool"].logical_not_()
        kinds["number"].add_(2)
        kinds["bfloat16"].mul_(2)
        kinds["parameter"].data = torch.full((2,), 5.0)
        kinds["requires grad"].data.mul_(3)


def test_what_is_captured_and_returned_is_no_alias():
    outside = torch.ones(3)
    f = compile(lambda x: (outside, outside[1:], x[1:], x.view(-1)))
    x = torch.zeros(3)
    for y in f(x)[:3]:
        y.add_(5)
    assert outside.tolist() == [1, 1, 1] and x.tolist() == [0, 0, 0]


@backends
def test_modules_with_buffers_and_parameters(backend):
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten(), torch.nn.GELU(), torch.nn.Linear(8, 3), torch.nn.Dropout(0.1)
    ).eval()
    gru = torch.nn.GRUCell(3, 3)
    x = torch.randn(2, 1, 4, 4)

    def f(x):
        return gru(module(x))

    def loss(params, x):
        return functional_call(module, params, (x,)).square().mean()

    compiled, slope = compiler.compile(f, backend=backend), compiler.compile(grad(loss), backend=backend)
    params = {name: p.detach() for name, p in module.named_parameters()}
    for change in (
        lambda: None,
        lambda: module[0].weight.mul_(2),
        lambda: module[1].running_var.add_(1),
        lambda: setattr(module[4].bias, "data", torch.ones(3)),
    ):
        with torch.no_grad():
            change()
            same(compiled(x), f(x), rtol=1e-4, atol=1e-5)
    same(slope(params, x), grad(loss)(params, x), rtol=1e-3, atol=1e-4)
    assert not compiled(x).requires_grad


@pytest.mark.parametrize(
    "options", [dict(bidirectional=True, num_layers=2), dict(bias=False, batch_first=True), dict(proj_size=2)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_lstm_of_torch(options, dtype):
    torch.manual_seed(0)
    module, x = torch.nn.LSTM(3, 4, dtype=dtype, **options), torch.randn(5, 2, 3, dtype=dtype)
    params = {name: p.detach() for name, p in module.named_parameters()}

    def loss(params, x):
        y, (h, c) = functional_call(module, params, (x,))
        return y.square().sum() + h.sin().sum() + c.pow(3).sum(), (y, h, c)

    f = grad(loss, argnums=(0, 1), has_aux=True)
    same(compiler.compile(f)(params, x), f(params, x), rtol=1e-4, atol=1e-5)


# Compiled functions in compiled functions, and threads ---------------------------------------------------------------------------------------------


def test_nested_compiled_functions_are_inlined():
    inner = compile(lambda x, n: (x * n, {"n": n}))

    def outer(x):
        y, more = inner(x, 3)
        return (
            vmap(lambda y: inner(y, 2)[0])(y) + grad(lambda y: inner(y, 2)[0].sum())(y),
            scan(lambda c, r: (inner(c + r, 2)[0], c), x[0], x),
            more,
        )

    right = outer(torch.ones(3))
    with compilations(1):
        same(compile(outer)(torch.ones(3)), right)
    with compilations(0):
        same(vmap(lambda x: inner(x, 2)[0])(torch.ones(3)), 2 * torch.ones(3))
        same(grad(lambda x: inner(x, 2)[0].sum())(torch.ones(3)), 2 * torch.ones(3))
        same(vmap(grad(lambda x: inner(x, 2)[0]))(torch.ones(3)), 2 * torch.ones(3))
    with compilations(1):
        plain = compile(lambda x, n: x * n)
        f = plain.vmapped((0, None))
        same(f(torch.ones(3), 4), torch.full((3,), 4.0))
        assert plain.vmapped((0, None)) is f


def test_closing_over_a_tensor_of_a_transform_needs_an_argument():
    def f(x):
        return compile(lambda y: y + x)(torch.ones(2))

    with pytest.raises(TraceError, match="a tensor of an outer vmap or grad .* hand it in as an argument"):
        vmap(f)(torch.ones(3, 2))


@backends
def test_two_threads_at_once(backend):
    started, results, errors = threading.Barrier(4), {}, []

    @functools.partial(compiler.compile, backend=backend)
    def f(x, n):
        return scan(lambda c, r: (c * r + n, c), x, torch.arange(1.0, 4.0))[0]

    def work(k):
        try:
            started.wait()
            for i in range(5):
                results[k, i] = f(torch.full((k % 2 + 1,), float(k)), i // 3)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for (k, i), got in results.items():
        same(got, f.fn(torch.full((k % 2 + 1,), float(k)), i // 3))
    assert len(f.programs) == 4


def test_a_thread_beside_a_trace_is_not_traced():
    def f(x):
        found = []

        def other():
            found.extend([compiler.tracing(), torch.ones(2).sum().item(), compile(lambda y: y * 2)(torch.ones(1)).item()])

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert found == [False, 2, 2]
        return x + 1

    assert compile(f)(torch.ones(1)).item() == 2


# Arguments and results -------------------------------------------------------------------------------------------------------------------------


def test_arguments_that_are_the_same_tensor():
    x = torch.ones(3)
    f = compile(lambda a, b, c: (a + 1, b * 2, c - 1, a))
    got = f(x, x, x.view(3))
    same(got, (x + 1, x * 2, x - 1, x))
    assert got[3] is x


def test_the_key_of_a_program():
    @tree.dataclass
    class Config:
        rate: torch.Tensor
        size: int = tree.static(default=2)

    f = compile(lambda c, x, *rest, **kw: x * c.rate + c.size + len(rest) + len(kw))
    one = torch.tensor(1.0)
    for expected, args, kwargs in (
        (1, (Config(one, 2), torch.ones(2)), {}),
        (0, (Config(one * 3, 2), torch.zeros(2)), {}),
        (1, (Config(one, 3), torch.ones(2)), {}),
        (1, (Config(one, 3), torch.ones(3)), {}),
        (1, (Config(one, 3), torch.ones(3, dtype=torch.float64)), {}),
        (1, (Config(one, 3), torch.ones(3), one), {}),
        (1, (Config(one, 3), torch.ones(3)), {"a": "text"}),
        (1, (Config(one, 3), torch.ones(3)), {"a": "other"}),
        (0, (Config(one, 3), torch.ones(3)), {"a": "text"}),
        (1, (Config(one, 3), torch.ones(3)), {"a": None}),
        (1, (Config(one, 3), torch.ones(3)), {"a": True}),
        (1, (Config(one, 3), torch.ones(3)), {"a": 1}),
        (0, (Config(one, 3), np.ones(3, dtype=np.float32)), {"a": 1}),
    ):
        with compilations(expected):
            same(f(*args, **kwargs), f.fn(*[torch.as_tensor(a) if isinstance(a, np.ndarray) else a for a in args], **kwargs))
    with pytest.raises(TypeError, match=r"leaf argument 1\[0\]|leaf argument 1 is a set|neither a tensor nor a fixed value"):
        f(Config(one, 3), {1, 2})


def test_keys_of_funrl_are_traced():
    def f(key):
        a, b = random.split(key)
        return random.normal(a, (3,)), random.uniform(b), random.randint(random.fold_in(b, 3), (4,), 0, 9), random.permutation(a, 5)

    key = random.key(7)
    same(compile(f)(key), f(key), rtol=1e-6, atol=1e-6)


def test_default_dtype_and_devices():
    def f(x):
        return (
            torch.zeros(2),
            torch.tensor(1.0),
            torch.arange(3) * 0.5,
            x.new_zeros(2),
            torch.full((2,), 3),
            x.to("cpu"),
            torch.ones(1, device="cpu"),
        )

    same(compile(f)(torch.ones(1)), f(torch.ones(1)))
    torch.set_default_dtype(torch.float64)
    try:
        same(compile(f)(torch.ones(1)), f(torch.ones(1)))
    finally:
        torch.set_default_dtype(torch.float32)


def averages(x, mean, variance, weight):
    mean, variance = mean.clone(), variance.clone()
    return torch.nn.functional.batch_norm(x, mean, variance, weight, training=True, momentum=0.3), mean, variance


@backends
def test_batch_norm_moves_its_averages(backend):
    """In place, as torch does: into tensors of the function. Those of a module or an argument are not changed, and that is said."""
    x, rest = torch.randn(2, 6, 3), (torch.randn(2, 3), torch.rand(2, 3) + 1, torch.randn(2, 3))

    def f(x, *rest):
        slope = vmap(grad(lambda *p: averages(*p)[0].pow(3).sum(), argnums=(0, 3)))
        return vmap(averages)(x, *rest), slope(x, *rest), jvp(lambda x: averages(x, *(y[0] for y in rest)), (x[0],), (x[1],))

    same(compile(f, backend=backend)(x, *rest), f(x, *rest), rtol=1e-4, atol=1e-4)
    module = torch.nn.BatchNorm1d(3)

    def step(buffers, x):
        buffers = {name: y.clone() for name, y in buffers.items()}
        return torch.func.functional_call(module, buffers, (x,)), buffers

    buffers = {name: y.clone() for name, y in module.named_buffers()}
    same(compile(step, backend=backend)(buffers, x[0]), step(buffers, x[0]), rtol=1e-5, atol=1e-5)
    refused(lambda x: torch.batch_norm(x, None, None, rest[0][0], rest[1][0], True, 0.1, 1e-5, False), x[0], match="from outside")  # here


@backends
def test_derivatives_of_determinants(backend):
    """Their factors are of the matrix or of the transposed one, by whether it is contiguous."""
    matrix = torch.randn(3, 3, dtype=torch.float64)
    for change in (lambda a: a, lambda a: a.t(), lambda a: a.flip(0).t()):

        def f(a, change=change):
            return [d(g)(a) for d in (jacfwd, jacrev) for g in (lambda a: change(a).det(), lambda a: torch.linalg.slogdet(change(a))[1])]

        same(compile(f, backend=backend)(matrix), f(matrix), rtol=1e-9, atol=1e-9)


# What a program depends on besides its arguments -----------------------------------------------------------------------------------------------


@backends
def test_captured_tensors_that_are_given_other_data(backend):
    """Other values, the same memory in another order, and another shape, which is an error."""
    w = torch.arange(4.0).reshape(2, 2)
    f = compiler.compile(lambda x: x * w, backend=backend)
    for change in (torch.t, torch.clone, torch.t, torch._neg_view, lambda _: torch.ones(4).reshape(2, 2).t()):
        same(f(torch.ones(2)), w)
        w.data = change(w.data)
        same(f(torch.ones(2)), w.resolve_neg())
    large = torch.randn(200, 200)
    g = compiler.compile(lambda x: x * 1, backend=backend)
    y = g(large)
    y.data = y.data.t()
    same(g(y), large.t())
    y.data = y.data.t().reshape(-1)
    same(g(y), large.reshape(-1))
    if backend == "xla":
        for other in (torch.ones(3, 2), torch.ones(2, 2, dtype=torch.float64), w.data.reshape(4, 1)):
            w.data = other
            with pytest.raises(
                ValueError, match=r"a tensor that it closes over has become .* when it was traced, it was torch.float32 \[2, 2\]"
            ):
                f(torch.ones(2))
        w.data = torch.ones(2, 2)
        f(torch.ones(2))
        w.data = w.data.view(torch.int32)  # at the same address
        with pytest.raises(ValueError, match=r"has become torch.int32 \[2, 2\]"):
            f(torch.ones(2))


def test_other_settings_of_torch_are_other_programs():
    f = compile(lambda x: (torch.nn.functional.linear(x, torch.ones(2, 2, dtype=x.dtype)), torch.zeros(1)))
    x = torch.ones(2)
    for _ in range(2):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert f(x)[0].dtype == torch.bfloat16
        assert f(x)[0].dtype == torch.float32
        torch.set_default_dtype(torch.float64)
        try:
            assert f(x)[1].dtype == torch.float64
        finally:
            torch.set_default_dtype(torch.float32)
    g = compile(lambda x, n: torch.copysign(x, torch.tensor(n)))
    assert [g(torch.ones(()), n).item() for n in (0.0, -0.0, 0.0, -0.0)] == [1, -1, 1, -1]


@backends
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_modes(backend, mode):
    with mode():
        x = torch.ones(3)
        f = compiler.compile(lambda x: (vmap(lambda y: y * 2)(x), grad(lambda y: (y * y).sum())(x), x[0]), backend=backend)
        y = f(x)[0]
        y = f(y)[1]
    assert y.tolist() == [4, 4, 4] and not f(torch.nn.Parameter(torch.ones(3)))[1].requires_grad
    same(f(y)[0], 2 * y)


def test_autograd_of_torch_in_a_traced_function():
    class Tenfold(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x):
            return x**2

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)

        @staticmethod
        def backward(ctx, g):
            return 10 * ctx.saved_tensors[0] * g

    def f(x):
        y = x.detach().clone().requires_grad_()
        (y**3).sum().backward()
        z = x.clone().requires_grad_()
        return (
            y.grad,
            torch.autograd.grad((z**2).sum(), z)[0],
            vmap(grad(Tenfold.apply))(x),
            grad(lambda x: scan(lambda q, r: (q + Tenfold.apply(r) * x[0], ()), x[0], x)[0])(x),
        )

    same(compile(f)(torch.arange(3.0)), f(torch.arange(3.0)))


@backends
def test_tensors_made_of_numbers_of_the_program(backend):
    """``torch.tensor`` of a list of tensors [], and ``.data =`` on a tensor of the function."""

    def f(x):
        y = x.clone()
        y.data = x * 3
        z = x.clone()
        z.data = x.new_ones(5)
        made = (
            torch.tensor([x[0], x[1]]),
            torch.tensor([[x[0], 1], [2.5, x.sum()]]),
            torch.as_tensor([x[0].long(), 3]),
            torch.tensor([x[0]], dtype=torch.float64),
        )
        made = *made, copy.copy(x), copy.deepcopy({"x": x})["x"]
        return y + 1, z, made, torch.tensor(x[0] * 2), torch.full((2,), x[1]), torch.stack([x[0], x[1]]), np.float32(2) * x

    with pytest.warns(UserWarning, match="To copy construct"):
        right = f(torch.arange(2.0))
    with pytest.warns(UserWarning, match="To copy construct"):
        same(compiler.compile(f, backend=backend)(torch.arange(2.0)), right)


def test_the_data_of_a_tensor_from_outside_is_not_set():
    module = torch.nn.Linear(2, 2)
    before = module.weight.detach().clone()

    def f(x):
        module.weight.data = torch.eye(2) * x[0]  # here
        return module(x)

    assert "functional_call" in refused(f, torch.ones(2), match="would change a tensor from outside the function")

    def g(x):
        x.data = x * 2  # here
        return x

    refused(g, torch.ones(2), match="would change an argument of the function")
    assert torch.equal(module.weight, before)


def test_tensors_that_have_no_program():
    with pytest.raises(TypeError, match=r"a tensor of layout torch.sparse_coo, which has none; use .to_dense\(\)"):
        compile(lambda x: x + 1)(torch.eye(2).to_sparse())


def test_products_with_a_transposed_matrix():
    """XLA gets ``a' b`` as the transpose of ``b' a`` where b has fewer columns, and ``a b'`` of several matrices without a transposition."""

    def products(a, b):  # [K, M], [K, N]
        weight = torch.zeros(a.shape[1], b.shape[1], dtype=a.dtype) + 1
        mapped = vmap(lambda a, b: (a.mT @ b, a @ (a + 1).mT, a.mT @ b @ b.mT))(a[None], b[None])
        return a.mT @ b, a.T @ b + weight, torch.addmm(weight, a.t(), b), b.mT @ a, mapped

    pairs = [
        tuple((4 * random.normal(random.key(seed), (4, 16, n))).round().to(dtype) for seed, n in ((0, 8), (1, columns)))
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int64)
        for columns in (1, 3)
    ]
    compiled = compiler.compile(lambda pairs: [(products(a[0], b[0]), vmap(products)(a, b)) for a, b in pairs], backend="xla")(pairs)
    for (a, b), (first, mapped) in zip(pairs, compiled, strict=True):
        same(first, products(a[0], b[0]))
        same(mapped, tree.stack([products(*pair) for pair in zip(a, b, strict=True)]))


def test_in_place_powers_and_quotients():
    """Operators whose overloads have other names in place."""

    def f(x, y):
        z = x.clone()
        return z.pow_(y).floor_divide_(x).pow_(2.0)

    x, y = torch.tensor([1.5, 2.5]), torch.tensor([3.0, 2.0])
    torch.testing.assert_close(compile(f)(x, y), f(x, y))
