import math

import jax
import numpy as np
import pytest
import torch
from torch.func import grad, jacrev, vmap

from funrl import compiler, optim, random, schedules, tree
from tests.oracles.deepmind import optax
from tests.support import compilations

STEPS = 20


def start(dtype=torch.float64, seed=0):
    keys = random.split(random.key(seed), 3)
    return {
        "w": random.normal(keys[0], (3, 2), dtype=dtype),
        "b": random.normal(keys[1], (2,), dtype=dtype),
        "c": random.normal(keys[2], (), dtype=dtype),
    }


def loss(params):
    """A function with gradients of very different sizes."""
    w, b, c = params["w"], params["b"], params["c"]
    return (3 * w.square()).sum() + (b**4).sum() + 100 * c.cos() + (w @ b).sum() * c


def train(opt, params, steps=STEPS):
    state = opt.init(params)
    for _ in range(steps):
        updates, state = opt.update(grad(loss)(params), state, params)
        params = optim.apply_updates(params, updates)
    return params, state


def train_torch(make, params, schedule=None, max_norm=None):
    leaves = {name: x.clone().requires_grad_() for name, x in params.items()}
    opt = make(list(leaves.values()))
    scheduler = torch.optim.lr_scheduler.LambdaLR(opt, schedule) if schedule else None
    for _ in range(STEPS):
        opt.zero_grad()
        loss(leaves).backward()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(leaves.values()), max_norm)
        opt.step()
        if scheduler:
            scheduler.step()
    return {name: x.detach() for name, x in leaves.items()}


def close(got, expected, **tolerance):
    for x, y in zip(tree.leaves(got), tree.leaves(expected), strict=True):
        torch.testing.assert_close(x, y, **tolerance)


PAIRS = {
    "sgd": (optim.sgd(0.01), lambda p: torch.optim.SGD(p, 0.01)),
    "momentum": (optim.sgd(0.01, 0.9), lambda p: torch.optim.SGD(p, 0.01, momentum=0.9)),
    "nesterov": (optim.sgd(0.01, 0.9, nesterov=True), lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, nesterov=True)),
    "adam": (optim.adam(0.05), lambda p: torch.optim.Adam(p, 0.05)),
    "adam_betas": (optim.adam(0.05, 0.5, 0.9, 1e-3), lambda p: torch.optim.Adam(p, 0.05, (0.5, 0.9), 1e-3)),
    "adam_zero": (optim.adam(0.05, 0.0, 0.9), lambda p: torch.optim.Adam(p, 0.05, (0.0, 0.9))),
    "adamw": (optim.adamw(0.05, weight_decay=0.1), lambda p: torch.optim.AdamW(p, 0.05, weight_decay=0.1)),
    "rmsprop": (optim.rmsprop(0.05), lambda p: torch.optim.RMSprop(p, 0.05)),
    "rmsprop_momentum": (optim.rmsprop(0.05, 0.9, 1e-5, 0.7), lambda p: torch.optim.RMSprop(p, 0.05, alpha=0.9, eps=1e-5, momentum=0.7)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_agrees_with_torch(name):
    opt, make = PAIRS[name]
    params = start()
    expected = train_torch(make, params)
    close(train(opt, params)[0], expected, rtol=1e-9, atol=1e-10)
    close(train(optim.flatten(opt), params)[0], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", PAIRS)
def test_agrees_with_torch_in_float32(name):
    opt, make = PAIRS[name]
    params = start(torch.float32)
    got, state = train(opt, params)
    close(got, train_torch(make, params), rtol=2e-4, atol=2e-5)
    assert all(x.dtype in (torch.float32, torch.int64) for x in tree.leaves(state))
    assert state.count.dtype == torch.int64 and state.count == STEPS


def test_clipping_and_schedule_agree_with_torch():
    params = start()
    opt = optim.chain(optim.clip_by_global_norm(0.5), optim.adam(schedules.linear(0.05, 0.0, 10)))
    expected = train_torch(lambda p: torch.optim.Adam(p, 0.05), params, lambda count: max(0.0, 1 - count / 10), max_norm=0.5)
    close(train(opt, params)[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "mine, theirs",
    [
        (optim.sgd(0.01, 0.9, nesterov=True), optax.sgd(0.01, 0.9, nesterov=True)),
        (optim.adam(0.05, 0.8, 0.9, 1e-5), optax.adam(0.05, 0.8, 0.9, 1e-5)),
        (optim.adamw(0.05, weight_decay=0.1), optax.adamw(0.05, weight_decay=0.1)),
        (optim.rmsprop(0.05, 0.9, 1e-6), optax.rmsprop(0.05, 0.9, 1e-6, eps_in_sqrt=False)),
        (optim.chain(optim.clip_by_global_norm(1.0), optim.scale(-0.1)), optax.chain(optax.clip_by_global_norm(1.0), optax.scale(-0.1))),
        (optim.sgd(schedules.cosine(0.05, 0.01, 15)), optax.sgd(optax.cosine_decay_schedule(0.05, 15, alpha=0.2))),
        (optim.sgd(schedules.linear(0.05, 0.01, 15)), optax.sgd(optax.linear_schedule(0.05, 0.01, 15))),
    ],
)
def test_agrees_with_optax(mine, theirs):
    params = start(torch.float32)
    mirrored = jax.tree.map(lambda x: jax.numpy.asarray(x.numpy()), params)
    mine_state, theirs_state = mine.init(params), theirs.init(mirrored)
    for i in range(STEPS):
        grads = start(torch.float32, seed=i + 1)
        updates, mine_state = mine.update(grads, mine_state, params)
        expected, theirs_state = theirs.update(jax.tree.map(lambda x: jax.numpy.asarray(x.numpy()), grads), theirs_state, mirrored)
        for name in params:
            np.testing.assert_allclose(updates[name].numpy(), np.asarray(expected[name]), rtol=2e-4, atol=1e-6)


def test_bias_correction_keeps_its_digits_in_float32():
    """The first update of Adam is the learning rate, exactly but for rounding; 1 - b2 ** t in float32 is off by 3e-5."""
    g = torch.tensor([1e-3, 5.0, -2e4])
    for b2 in (0.999, 0.99999):
        opt = optim.adam(1.0, b2=b2, eps=0.0)
        torch.testing.assert_close(opt.update(g, opt.init(g), g)[0], -g.sign(), rtol=1e-6, atol=0)
    update = vmap(lambda g: opt.update(g, opt.init(g), g)[0])
    g = torch.tensor([1e-3, 5.0, -2e4] * 11).expand(16, 33).clone()
    torch.testing.assert_close(compiler.compile(update)(g), -g.sign(), rtol=1e-6, atol=0)


def test_inputs_are_left_as_they_were_and_results_repeat():
    opt = optim.chain(optim.clip_by_global_norm(1.0), optim.adamw(0.05))
    params = start()
    state = opt.init(params)
    grads = grad(loss)(params)
    before = tree.map(torch.clone, (params, state, grads))
    first, second = opt.update(grads, state, params), opt.update(grads, state, params)
    close((params, state, grads), before, rtol=0, atol=0)
    close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("opt", [optim.adam(0.1), optim.rmsprop(0.1, momentum=0.5), optim.sgd(0.1, momentum=0.5)])
def test_means_of_a_gradient_that_stays_zero_become_zero(opt, dtype):
    """Among numbers below the least normal one a mean would shrink no further, and cost a hundred times as long at each update."""
    tiny = torch.finfo(dtype).tiny
    params = torch.ones(4, dtype=dtype)
    state = tree.map(lambda x: torch.tensor([1.0, -1.0, math.nan, 1e9]).to(dtype) * tiny if x.ndim else x, opt.init(params))
    updates, state = opt.update(torch.zeros_like(params), state, params)
    for x in (x for x in tree.leaves(state) if x.ndim):
        assert x[:2].tolist() == [0, 0] and x[2].isnan() and x[3] > tiny
    assert updates[:2].tolist() == [0, 0] and updates[2].isnan() and updates[3].isfinite()


def test_small_gradients_count_in_half_precision():
    """The least normal number of float16 is 6e-5, more than the square of many a gradient."""
    g = torch.full((3,), 0.1, dtype=torch.float16)
    opt = optim.adam(0.01)
    torch.testing.assert_close(opt.update(g, opt.init(g), g)[0], torch.full_like(g, -0.01), rtol=1e-2, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["adam", "adamw", "rmsprop", "clip_up"])
def test_half_precision_goes_the_way_of_float32(kind, dtype):
    """Epsilon, squares and means that this precision does not hold; gradients of 0, small ones, and ones whose square overflows."""
    opt = getattr(optim, kind)(0.01)
    params = torch.ones(5, dtype=dtype)
    state, wide_state = opt.init(params), opt.init(params.float())
    for i in range(20):
        g = torch.tensor([0.0, 1e-4, -1e-6, 0.5, 1000.0], dtype=dtype) * (1 + i % 3)
        updates, state = opt.update(g, state, params)
        expected, wide_state = opt.update(g.float(), wide_state, params.float())
        assert updates.dtype == dtype and all(x.dtype == torch.float32 for x in tree.leaves(state) if x.ndim)
        torch.testing.assert_close(updates, expected.to(dtype))


@pytest.mark.parametrize("opt", [optim.adam(1.0, eps=0.0), optim.rmsprop(1.0, eps=0.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nothing_is_divided_by_a_mean_of_squares_that_vanished(opt, dtype):
    g = torch.tensor([0.0, 1e-18, -1e-18, 1e-30, 1e-45], dtype=dtype)
    updates, _ = opt.update(g, opt.init(g), g)
    assert updates.isfinite().all() and updates[0] == 0 and updates.abs().max() < 10.1
    assert updates[1] < 0 < updates[2]
    slope = grad(lambda g: opt.update(g, opt.init(g), g)[0].sum())(torch.zeros(2, dtype=dtype))
    assert not slope.isnan().any()


def test_a_nan_in_one_leaf_is_seen_in_all():
    g = {"a": torch.tensor([math.nan]), "b": torch.tensor([100.0])}
    theirs = optax.clip_by_global_norm(1.0).update({k: x.numpy() for k, x in g.items()}, optax.EmptyState())[0]
    for bound in (1.0, torch.tensor(1.0)):
        updates, _ = optim.clip_by_global_norm(bound).update(g, (), g)
        assert all(x.isnan().all() for x in tree.leaves(updates)) and all(np.isnan(x).all() for x in theirs.values())
    assert optim.clip_by_global_norm(math.inf).update(g, (), g)[0]["b"] == 100
    large = {"a": torch.full((4,), 6e4, dtype=torch.float16)}
    torch.testing.assert_close(optim.clip_by_global_norm(1.0).update(large, (), large)[0]["a"], torch.full((4,), 0.5, dtype=torch.float16))


def test_global_norm_is_that_of_one_vector():
    params = start()
    torch.testing.assert_close(optim.global_norm(params), tree.ravel(params)[0].norm())
    assert grad(optim.global_norm)(torch.zeros(3)).isfinite().all()


@pytest.mark.parametrize("max_norm", [math.inf, torch.tensor(math.inf), 1e9])
def test_no_clipping_changes_nothing(max_norm):
    for grads in (start(torch.float32), tree.map(torch.zeros_like, start(torch.float32))):
        updates, _ = optim.clip_by_global_norm(max_norm).update(grads, (), grads)
        close(updates, grads, rtol=0, atol=0)


def test_clipping_under_vmap_is_for_each_copy():
    grads = {"w": torch.tensor([[3.0, 4.0], [0.3, 0.4], [30.0, 40.0], [0.0, 0.0]])}
    limits = torch.tensor([1.0, 1.0, math.inf, 1.0])
    got = vmap(lambda g, limit: optim.clip_by_global_norm(limit).update(g, (), g)[0])(grads, limits)
    torch.testing.assert_close(got["w"], torch.tensor([[0.6, 0.8], [0.3, 0.4], [30.0, 40.0], [0.0, 0.0]]))


def test_derivatives_by_a_limit_are_finite():
    jacobian = jacrev(lambda limit: optim.clip_by_global_norm(limit).update(torch.tensor([3.0, 4.0]), (), None)[0])
    torch.testing.assert_close(jacobian(torch.tensor(1.0)), torch.tensor([0.6, 0.8]))
    torch.testing.assert_close(jacobian(torch.tensor(9.0)), torch.zeros(2))
    g = torch.zeros(2)
    assert grad(lambda g: optim.clip_by_global_norm(1.0).update(g, (), None)[0].sum())(g).isfinite().all()


def test_schedules():
    counts = torch.tensor([0, 1, 5, 10, 100])
    torch.testing.assert_close(schedules.constant(0.3)(counts), torch.full((5,), 0.3))
    torch.testing.assert_close(schedules.linear(1.0, 0.2, 10)(counts), torch.tensor([1.0, 0.92, 0.6, 0.2, 0.2]))
    torch.testing.assert_close(schedules.cosine(1.0, 0.0, 10)(counts), 0.5 * (1 + torch.cos(math.pi * (counts / 10).clamp(max=1))))
    lengths = torch.tensor([10, 20])
    got = vmap(lambda start, n: schedules.linear(start, 0.0, n)(torch.tensor(5)))(torch.tensor([1.0, 2.0]), lengths)
    torch.testing.assert_close(got, torch.tensor([0.5, 1.5]))


def test_clip_up_agrees_with_a_loop():
    opt = optim.clip_up(schedules.linear(0.5, 0.1, 6), momentum=0.8, max_speed=0.7)
    params = start(torch.float64)
    state, velocity, lengths = opt.init(params), 0.0, []
    for i in range(8):
        grads = tree.map(lambda x, i=i: torch.sin(x * (i + 1)) * 10.0 ** (i - 3), params)
        updates, state = opt.update(grads, state, params)
        g = tree.ravel(grads)[0].numpy()
        velocity = 0.8 * velocity + (0.5 - 0.4 * min(i / 6, 1)) * g / (g**2).sum() ** 0.5
        speed = (velocity**2).sum() ** 0.5
        velocity = velocity * min(1.0, 0.7 / speed)
        lengths.append(speed)
        torch.testing.assert_close(tree.ravel(updates)[0], torch.from_numpy(-velocity))
        params = optim.apply_updates(params, updates)
    assert min(lengths) < 0.7 < max(lengths) and state.count == 8
    still, _ = opt.update(tree.zeros_like(grads), opt.init(params), params)
    assert all((x == 0).all() for x in tree.leaves(still))
    tiny = torch.full((2,), torch.finfo(torch.float64).tiny, dtype=torch.float64)
    decayed = opt.update(torch.zeros_like(tiny), opt.init(tiny).replace(velocity=tiny), tiny)[1]
    assert decayed.velocity.tolist() == [0, 0]  # and no subnormal number, with which a processor is slow


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hyperparameters_may_be_tensors(dtype):
    """A tensor of another dtype must not promote updates, and a tensor means what the same number means."""
    params = start(dtype)
    for number, tensor in [
        (optim.sgd(0.25, 0.5), optim.sgd(torch.tensor(0.25), torch.tensor(0.5, dtype=torch.float64))),
        (optim.adam(0.25, 0.5, 0.75, 0.125), optim.adam(*(torch.tensor(x, dtype=torch.float64) for x in (0.25, 0.5, 0.75, 0.125)))),
        (optim.adamw(0.25, weight_decay=0.5), optim.adamw(torch.tensor(0.25), weight_decay=torch.tensor(0.5))),
        (optim.rmsprop(0.25, 0.5, 0.125, 0.5), optim.rmsprop(*(torch.tensor(x, dtype=torch.float64) for x in (0.25, 0.5, 0.125, 0.5)))),
        (optim.clip_up(0.25, 0.5, 0.3), optim.clip_up(*(torch.tensor(x, dtype=torch.float64) for x in (0.25, 0.5, 0.3)))),
        (optim.scale(0.5), optim.scale(torch.tensor(0.5, dtype=torch.float64))),
        (optim.clip_by_global_norm(0.5), optim.clip_by_global_norm(torch.tensor(0.5, dtype=torch.float64))),
        (optim.sgd(0.25), optim.sgd(schedules.constant(0.25))),
    ]:
        one, _ = number.update(params, number.init(params), params)
        two, _ = tensor.update(params, tensor.init(params), params)
        close(two, one, rtol=1e-6, atol=1e-7)
        assert all(x.dtype == dtype for x in tree.leaves(two))


@pytest.mark.parametrize("wrap", [lambda opt: opt, optim.flatten])
def test_compiled_and_vmapped_agree_with_a_loop(wrap):

    def step(rate, limit, params):
        opt = wrap(optim.chain(optim.clip_by_global_norm(limit), optim.adam(schedules.linear(rate, 0.0, 10))))
        return train(opt, params, steps=2)

    rates, limits = torch.tensor([0.1, 0.01, 0.05]), torch.tensor([1.0, math.inf, 10.0])
    params = [start(torch.float32, seed=i) for i in range(3)]
    expected = tree.stack([step(*row) for row in zip(rates, limits, params, strict=True)])
    batched = vmap(step)(rates, limits, tree.stack(params))
    compiled = compiler.compile(vmap(step), backend="aot_eager")(rates, limits, tree.stack(params))
    close(batched, expected, rtol=1e-4, atol=1e-5)
    close(compiled, expected, rtol=1e-4, atol=1e-5)


def test_many_updates_compile_once_in_a_scan():
    opt = optim.flatten(optim.adam(schedules.cosine(0.1, 0.0, 20)))

    def body(carry, _):
        params, state = carry
        updates, state = opt.update(grad(loss)(params), state, params)
        return (optim.apply_updates(params, updates), state), state[0].count if isinstance(state, tuple) else state.count

    def run(params, state):
        return compiler.scan(body, (params, state), None, length=STEPS)

    params = start()
    (expected, _), _ = run(params, opt.init(params))
    compiled = compiler.compile(run, backend="aot_eager")
    (got, state), counts = compiled(params, opt.init(params))
    close(got, expected)
    assert torch.equal(counts, torch.arange(1, STEPS + 1)) and state.count == STEPS
    step = compiler.compile(opt.update, backend="xla")
    state = opt.init(params)
    with compilations(1):
        for _ in range(3):
            _, state = step(params, state, params)


P = {"w": torch.zeros(2)}


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: optim.sgd(-0.1), ValueError, "sgd: learning_rate: expected a number of at least 0, got -0.1"),
        (lambda: optim.adam(-1), ValueError, "adam: learning_rate.*got -1"),
        (lambda: optim.adamw(math.nan), ValueError, "adamw: learning_rate"),
        (lambda: optim.rmsprop(math.inf), ValueError, "rmsprop: learning_rate: expected a finite number"),
        (lambda: optim.adam("fast"), TypeError, "learning_rate.*got a str"),
        (lambda: optim.adam(torch.zeros(3)), TypeError, r"got float32 \[3\]; for one value a copy, build it inside"),
        (lambda: optim.adam(torch.tensor(1)), TypeError, r"got int64 \[\]"),
        (lambda: optim.adam(0.1, b1=1.0), ValueError, r"b1: expected a number in \[0, 1\), got 1.0"),
        (lambda: optim.adam(0.1, b2=-0.1), ValueError, "b2"),
        (lambda: optim.adam(0.1, eps=-1e-8), ValueError, "eps"),
        (lambda: optim.adamw(0.1, weight_decay=-1.0), ValueError, "weight_decay"),
        (lambda: optim.sgd(0.1, 1.5), ValueError, "momentum"),
        (lambda: optim.sgd(0.1, nesterov=True), ValueError, "nesterov"),
        (lambda: optim.rmsprop(0.1, decay=1.0), ValueError, "decay"),
        (lambda: optim.clip_up(-1.0), ValueError, "clip_up: learning_rate"),
        (lambda: optim.clip_up(0.1, momentum=1.0), ValueError, "clip_up: momentum"),
        (lambda: optim.clip_up(0.1, max_speed=0.0), ValueError, "clip_up: max_speed: expected a number above 0, got 0.0; use math.inf"),
        (lambda: optim.clip_by_global_norm(0.0), ValueError, "use math.inf"),
        (lambda: optim.clip_by_global_norm(math.nan), ValueError, "max_norm"),
        (lambda: optim.scale(None), TypeError, "factor.*got None"),
        (lambda: schedules.linear(0.1, -0.1, 3), ValueError, "end"),
        (lambda: schedules.cosine(0.1, 0.0, 0), ValueError, "num_steps.*got 0"),
        (lambda: schedules.linear(0.1, 0.0, 1.5), TypeError, "num_steps.*got 1.5"),
        (lambda: schedules.constant(-1.0), ValueError, "value"),
        (lambda: optim.chain(optim.adam), TypeError, r"argument 0: expected an Optimizer, got the function adam; call the factory"),
        (lambda: optim.chain(optim.sgd(0.1)).update(P, (), P), ValueError, "expected 1 states, got 0"),
        (
            lambda: optim.adam(0.1).init({"w": torch.zeros(2, dtype=torch.int64)}),
            TypeError,
            r"leaf \['w'\]: expected a floating-point tensor, got torch.int64",
        ),
        (lambda: optim.adam(0.1).init({}), ValueError, "at least one leaf"),
        (lambda: optim.global_norm({}), ValueError, "at least one leaf"),
        (lambda: optim.adam(0.1).update({"v": torch.zeros(2)}, optim.adam(0.1).init(P), P), ValueError, "grads has another structure"),
        (lambda: optim.sgd(0.1).update({"w": torch.zeros(3)}, optim.sgd(0.1).init(P), P), ValueError, r"sgd: grads: leaf \['w'\]"),
        (lambda: optim.apply_updates(P, {"w": torch.zeros(2, 1)}), ValueError, r"updates: leaf \['w'\] is float32 \[2, 1\]"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
