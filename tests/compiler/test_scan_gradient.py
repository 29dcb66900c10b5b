"""Gradients through a compiled scan, against torch's own through the loop that the scan is eagerly."""

import pytest
import torch
from torch.func import grad, grad_and_value, jacrev, vjp, vmap
from torch.nn.functional import linear

from funrl import compiler, random, tree
from tests.support import compilations, operators, same

B, D, H, T = 4, 3, 5, 6


def problem(key, dtype=torch.float32):
    keys = random.split(key, 4)
    params = {"w": random.normal(keys[0], (H, D), dtype=dtype), "u": 0.4 * random.normal(keys[1], (H, H), dtype=dtype)}
    return params, random.normal(keys[2], (B, H), dtype=dtype), random.normal(keys[3], (T, B, D), dtype=dtype)


def loss(params, h, xs):
    """A recurrence whose carry also holds integers and a number that begins as a constant."""

    def body(carry, x):
        h, total, count = carry
        h = torch.tanh(linear(x, params["w"]) + torch.where(count % 3 == 0, 0.5, 1.0) * linear(h, params["u"]))
        total = total + h.square().sum()
        return (h, total, count + 1), (h.sum(-1), count, h.detach())

    start = (h, torch.zeros((), dtype=h.dtype), torch.zeros((), dtype=torch.int64))
    (h, total, count), (ys, counts, _) = compiler.scan(body, start, xs)
    return (ys * (1 + counts).unsqueeze(-1)).mean() + 0.1 * total + h.mean() / count


def backwards(params, h, xs):
    h, ys = compiler.scan(lambda h, x: (torch.tanh(linear(h, params["u"]) + linear(x, params["w"])), x.sum() * h), h, xs, reverse=True)
    return ys.square().mean() + h.mean()


def second(params, h, xs):
    return grad(lambda p: sum(x.square().sum() for x in tree.leaves(grad(loss)(p, h, xs))))(params)


def learn(params, h, xs):
    """Gradient steps in a scan, each through a scan of its own."""

    def step(params, _):
        gradient, value = grad_and_value(loss)(params, h, xs)
        return tree.map(lambda p, g: p - 0.1 * g, params, gradient), value

    return compiler.scan(step, params, length=3)


def nested(params, h, xs):
    """A scan over chunks of a scan, differentiated as a whole."""

    def chunk(h, xs):
        return compiler.scan(lambda h, x: (torch.tanh(linear(x, params["w"]) + linear(h, params["u"])), h.sum()), h, xs)

    h, ys = compiler.scan(chunk, h, xs.reshape(2, T // 2, B, D))
    return h.mean() + ys.square().mean()


def pulled_back(params, h, xs):
    """A vjp whose level has ended when its function is called, and one more through its cotangents."""
    value, pull = vjp(lambda p: loss(p, h, xs), params)
    return value, pull(2.0 * torch.ones_like(value)), grad(lambda c: tree.leaves(pull(c))[0].sum())(torch.ones_like(value))


def of_a_vector(params, h, xs):
    """Parameters that share their memory, in the scan and in its gradient."""
    vector, unravel = tree.ravel(params)
    return loss(unravel(vector), h, xs), grad_and_value(lambda vector: loss(unravel(vector), h, xs))(vector)


CASES = {
    "all arguments": lambda *args: grad_and_value(loss, argnums=(0, 1, 2))(*args),
    "rows and carry alone": lambda *args: grad(loss, argnums=(1, 2))(*args),
    "reverse": lambda *args: grad_and_value(backwards)(*args),
    "twice": second,
    "inside a scan": learn,
    "parameters in one vector": of_a_vector,
    "a scan of scans": lambda *args: grad_and_value(nested)(*args),
    "a batch inside": lambda p, h, xs: grad(lambda p: vmap(loss, (None, 0, 1))(p, h.unsqueeze(1), xs.unsqueeze(2)).mean())(p),
    "of what does not depend on it": lambda p, h, xs: grad(lambda p: p["w"].square().sum() + loss(tree.map(torch.detach, p), h, xs))(p),
    "vjp": pulled_back,
    "jacrev": lambda p, h, xs: jacrev(lambda h: compiler.scan(lambda h, x: (linear(h, p["u"]), x.sum()), h, xs)[0])(h[0]),
}


@pytest.mark.parametrize("name", CASES)
def test_compiled_gradients_agree_with_the_loop(name):
    f, arguments = CASES[name], problem(random.key(0), torch.float64)
    same(compiler.compile(f, backend="aot_eager")(*arguments), f(*arguments))


def test_many_at_once():
    f, arguments = vmap(CASES["all arguments"]), vmap(problem)(random.split(random.key(1), 2))
    same(compiler.compile(f, backend="aot_eager")(*arguments), f(*arguments))


def test_it_agrees_on_xla_and_is_compiled_once():
    f = grad_and_value(loss, argnums=(0, 1))
    compiled = compiler.compile(f)
    arguments, others = problem(random.key(0)), problem(random.key(1))
    same(compiled(*arguments), f(*arguments))
    with compilations(0):
        same(compiled(*others), f(*others))


def test_gradients_are_right_in_float64():
    params, h, xs = problem(random.key(2), torch.float64)
    u = params["u"].requires_grad_()
    assert torch.autograd.gradcheck(lambda u: loss({**params, "u": u}, h, xs), u)


def test_the_program_does_not_grow_with_the_steps():
    """As many operators for 3 steps as for 30."""

    def size(num_steps):
        params, h, xs = problem(random.key(0))
        xs = xs[:1].expand(num_steps, B, D).contiguous()
        compiled = compiler.compile(grad(loss), backend="aot_eager")
        compiled(params, h, xs)
        return operators(compiled)

    assert size(3) == size(30)
