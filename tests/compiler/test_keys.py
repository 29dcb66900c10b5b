"""Changes that need another program, and values that a program reads at each call: none of them is missed."""

import copy
import io
import math
import threading

import numpy as np
import pytest
import torch
from torch.func import grad, vmap
from torch.nn import functional as F

from funrl import compiler, scan, tree
from tests.support import same

needs_jax = pytest.mark.skipif(not compiler._backends.has_jax(), reason="jax is not installed")
BACKENDS = ["aot_eager", pytest.param("xla", marks=needs_jax)]
backends = pytest.mark.parametrize("backend", BACKENDS)


def compile(f, **options):
    return compiler.compile(f, **{"backend": "aot_eager", **options})


@needs_jax
def test_copies_of_results_are_tensors_of_their_own():
    f = compile(lambda s: {"n": s["n"] + 1, "m": s["m"] * 2, "t": s["t"] + 1}, backend="xla")
    state = f({"n": torch.zeros(2), "m": torch.ones(3), "t": torch.zeros(200, 200)})
    for copied in (copy.deepcopy(state), copy.copy(state), {name: x.clone() for name, x in state.items()}):
        for name in ("n", "t"):
            copied[name] = copied[name].clone() if copied[name] is state[name] else copied[name]
            copied[name] += 10
        assert f(copied)["n"].tolist() == [12, 12] and f(copied)["t"][0, 0] == 12
    for options in ({}, {"weights_only": False}):
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        loaded = torch.load(file, **options)
        loaded["n"] += 10
        assert f(loaded)["n"].tolist() == [12, 12]
    assert f(state)["n"].tolist() == [2, 2]


def test_gradients_of_autograd_end_with_a_word():
    x = torch.ones(3, requires_grad=True)
    f = compile(lambda tree, y: (tree["x"] ** 2).sum() + y)
    with pytest.warns(UserWarning, match=r"argument 0\['x'\] requires a gradient, and torch.autograd sees nothing"):
        assert not f({"x": x}, 1.0).requires_grad
    with torch.no_grad():
        compile(lambda x: x * 2)(x)
    compile(lambda x: x * 2)(torch.nn.Parameter(torch.ones(2)))  # which is how modules hand out their weights
    f({"x": x}, 1.0)  # said once


def test_floats_that_change_are_floats():
    f = compile(lambda x, a: x * a if isinstance(a, float) else x - a)
    assert [f(torch.ones(1), a).item() for a in (0.5, 0.25, 0.125)] == [0.5, 0.25, 0.125]

    def g(x, a):
        try:
            return x * math.exp(a)
        except Exception:  # what asks for a number of ours again is none of these
            return x

    g = compile(g)
    assert [g(torch.ones(1), a).item() for a in (0.0, 1.0, 2.0)] == pytest.approx([1, math.e, math.e**2])


def test_static_values_that_are_equal_and_not_the_same():
    @tree.dataclass
    class Scaled:
        x: torch.Tensor
        k: object = tree.static()

    f = compile(lambda s: s.x * s.k)
    x = torch.arange(3)
    for k in (1, 1.0, True, 2, 2.0):
        same(f(Scaled(x, k)), x * k)
    g = compile(lambda s: torch.full((), s.k).copysign(torch.tensor(s.k)) if s.x.ndim else s.x)
    assert [math.copysign(1, g(Scaled(x, k))) for k in (0.0, -0.0, 0.0)] == [1, -1, 1]
    h = compile(lambda s: s.x + s.k[0])
    assert [h(Scaled(x, k)).dtype for k in ((1,), (1.0,))] == [torch.int64, torch.float32]


def test_the_order_of_a_dict():
    a, b = torch.ones(2), torch.zeros(2)
    f = compile(lambda d, **more: (torch.stack(list(d.values())), {k: x + 1 for k, x in d.items()}))
    for d in ({"a": a, "b": b}, {"b": b, "a": a}):
        stacked, out = f(d, n={"x": a})
        same(stacked, torch.stack(list(d.values())))
        assert list(out) == list(d)
    assert len(f.programs) == 2


def test_the_default_dtype_of_numbers():
    assert compile(lambda x: x * 0.5)(torch.arange(3)).dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert compile(lambda x: x * 0.5)(torch.arange(3)).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


@backends
def test_as_strided_of_what_is_not_contiguous(backend):
    f = compile(lambda x: x.as_strided((4,), (1,)) * 1, backend=backend)
    x = torch.arange(9.0).reshape(3, 3)
    same(f(x), x.as_strided((4,), (1,)))
    with pytest.raises(
        ValueError, match=r"as_strided is applied to leaf 0 of the arguments, which is not contiguous; hand in .contiguous\(\)"
    ):
        f(x.t())
    with pytest.raises(ValueError, match="as_strided"):
        compile(lambda x: x.as_strided((4,), (1,)) * 1, backend=backend)(x.t())
    table = x.t()
    with pytest.raises(compiler.TraceError, match="from outside the function that is not contiguous"):
        compile(lambda y: table.as_strided((4,), (1,)) * y, backend=backend)(torch.ones(4))


def test_objects_that_change_are_no_arguments():
    class Model:
        def __init__(self):
            self.scale = 2.0

        def forward(self, x):
            return x * self.scale

    with pytest.raises(
        TypeError, match=r"argument 0 is an object of .*Model, whose attributes would stay .* make the class a funrl.tree.dataclass"
    ):
        compile(Model.forward)(Model(), torch.ones(2))
    assert compile(lambda f, x: f(x))(torch.sin, torch.zeros(1)) == 0


@needs_jax
def test_the_backend_that_is_chosen_later(monkeypatch):
    seen = []
    f = compiler.compile(lambda x: (seen.append(1), x + 1)[1])
    f(torch.ones(1))
    with compiler.using("aot_eager"):
        f(torch.ones(1))
        f(torch.ones(1))
    monkeypatch.setenv("FUNRL_BACKEND", "aot_eager")
    f(torch.ones(1))
    monkeypatch.delenv("FUNRL_BACKEND")
    f(torch.ones(1))
    assert len(seen) == 3 and [program.kind for program in f.programs.values()] == ["xla", "aot_eager", "aot_eager"]


@needs_jax
def test_losses_of_torch():
    x, y = torch.rand(3, 4), torch.rand(3, 4).round()

    def common(x, y):
        return (
            F.mse_loss(x, y),
            F.smooth_l1_loss(x, y),
            F.huber_loss(x, y),
            F.binary_cross_entropy(x, y),
            F.binary_cross_entropy_with_logits(x, y),
        )

    def f(x, y):
        margins = F.soft_margin_loss(x, 2 * y - 1), F.multilabel_margin_loss(x, y.long()), F.multi_margin_loss(x, y[:, 0].long())
        return common(x, y), margins, torch.special.i0(x), torch.special.i1e(x), vmap(grad(lambda x, y: sum(common(x, y))))(x, y)

    same(compile(f, backend="xla")(x, y), f(x, y))


@needs_jax
def test_settings_of_jax_that_are_the_users():
    import jax

    f = compile(lambda x, large: (torch.log(x), large * 2), backend="xla")
    x, large = torch.tensor([-1.0, 1.0]), torch.ones(200, 200)
    for setting in (jax.debug_nans(True), jax.disable_jit(True), jax.default_device(jax.devices("cpu")[0]), jax.enable_x64(False)):
        with setting:
            same(f(x, large), (torch.log(x), large * 2))
    with jax.disable_jit(True), jax.debug_nans(True):
        same(compile(lambda x: torch.log(x), backend="xla")(x), torch.log(x))


def test_threads_that_trace_loops_at_once():
    errors = []

    def work():
        try:
            for _ in range(5):
                f = compile(vmap(grad(lambda x: scan(lambda c, _: (c * torch.sin(x) + c, c), x, length=3)[0])))
                x = torch.rand(2)
                same(f(x), vmap(grad(lambda x: scan(lambda c, _: (c * torch.sin(x) + c, c), x, length=3)[0]))(x))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


@backends
def test_numpy_arrays_that_are_closed_over(backend):
    """Their numbers are those of the call, as of tensors."""
    table = np.ones(3, dtype=np.float32)
    shared = torch.from_numpy(table)
    f = compile(lambda x: x * shared, backend=backend)
    for k in range(3):
        assert f(torch.ones(3)).tolist() == [k + 1] * 3
        table += 1
