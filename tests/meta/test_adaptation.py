"""Gradients through gradient steps: against finite differences in float64, alone, vmapped and compiled."""

import pytest
import torch
from torch.func import grad, grad_and_value, vmap

import funrl
from funrl import meta, nn, random, tree
from funrl.envs import tasks
from tests.support import same

NET = nn.mlp((5,), 1)
TASKS = tasks.sinusoids()
N, STEPS = 3, 2


def loss(params, batch):
    x, y = batch
    return (NET.apply(params, x) - y).square().mean()


def initial(step_size=None):
    params = NET.init(random.key(0), torch.zeros(1, dtype=torch.float64))
    sizes = tree.map(lambda x: torch.full_like(x, 0.01), params)
    return meta.MetaParams(params, sizes if step_size is None else step_size)


def batches(key, num=6):
    drawn = tree.to(TASKS.train(random.key(5), N), torch.float64)
    return vmap(tasks.sinusoid_batch, (0, 0, None))(random.split(key, N), drawn, num)


SUPPORT, QUERY = batches(random.key(1)), batches(random.key(2))


def maml(start, adapt=meta.adapt):
    return meta.maml_loss(start, SUPPORT, QUERY, loss=loss, num_steps=STEPS, adapt=adapt)


def differences(f, at, size=1e-6):
    """The gradient of f by central differences."""
    vector, unravel = tree.ravel(at)
    offsets = size * torch.eye(len(vector), dtype=vector.dtype)
    return unravel(torch.stack([(f(unravel(vector + x)) - f(unravel(vector - x))) / (2 * size) for x in offsets]))


def test_the_gradient_of_maml_agrees_with_differences_alone_vmapped_and_compiled():
    start = initial()
    expected = differences(lambda x: maml(x)[0], start)
    gradient = grad(maml, has_aux=True)
    tolerances = dict(rtol=1e-5, atol=1e-8)
    same(gradient(start)[0], expected, **tolerances)
    other = tree.map(lambda x: 1.1 * x, start)
    both = tree.stack([start, other])
    expected = tree.stack([expected, differences(lambda x: maml(x)[0], other)])
    same(vmap(gradient)(both)[0], expected, **tolerances)
    for backend in ("xla", "aot_eager"):
        same(funrl.compile(vmap(gradient), backend=backend)(both)[0], expected, **tolerances)


def test_many_steps_are_a_loop_of_single_ones():
    start = initial(torch.tensor(0.02, dtype=torch.float64))
    one, (x, y) = tree.index(SUPPORT, 0), tree.index(SUPPORT, 0)
    params, values = start.params, []
    for _ in range(6):
        values.append(params)
        params = tree.map(lambda p, g: p - 0.02 * g, params, grad(loss)(params, one))
    for i, expected in enumerate([*values, params]):
        same(meta.adapt(start, one, loss=loss, num_steps=i), expected)
        same(meta.adapt_first_order(start, one, loss=loss, num_steps=i), expected)

    def after(start, *parts):
        for steps in parts:
            start = start.replace(params=meta.adapt(start, one, loss=loss, num_steps=steps))
        return loss(start.params, one)

    same(grad(after)(start, 6), grad(after)(start, 3, 3))  # few steps are written out, six are a loop
    each = tree.stack([one] * 6)
    same(meta.adapt(start, each, loss=loss), params)
    other = tree.stack([(x, y), (x + 1, y), (x, y - 2)])
    params = start.params
    for i in range(3):
        params = tree.map(lambda p, g: p - 0.02 * g, params, grad(loss)(params, tree.index(other, i)))
    same(meta.adapt(start, other, loss=loss), params)


def test_the_first_order_gradient_is_the_mean_gradient_at_the_learned_parameters():
    start = initial()
    found, _ = grad(maml, has_aux=True)(start, meta.adapt_first_order)
    learned = vmap(lambda data: meta.adapt(start, data, loss=loss, num_steps=STEPS))(SUPPORT)
    expected = tree.map(lambda x: x.mean(0), vmap(grad(loss))(learned, QUERY))
    same(found.params, expected)
    exact, _ = grad(maml, has_aux=True)(start)
    assert not torch.allclose(tree.ravel(found.params)[0], tree.ravel(exact.params)[0], rtol=1e-3)


def test_reptile_with_one_step_is_the_mean_gradient():
    start = initial(torch.tensor(0.02, dtype=torch.float64))
    expected = tree.map(lambda x: 0.02 * x.mean(0), vmap(grad(loss), (None, 0))(start.params, SUPPORT))
    same(meta.reptile_gradient(start, SUPPORT, loss=loss, num_steps=1), expected, rtol=1e-9, atol=1e-12)
    learned = vmap(lambda data: meta.adapt(start, data, loss=loss, num_steps=3))(SUPPORT)
    expected = tree.map(lambda old, new: old - new.mean(0), start.params, learned)
    same(meta.reptile_gradient(start, SUPPORT, loss=loss, num_steps=3), expected)


def test_metrics_and_learned_step_sizes():
    start = initial()
    value, metrics = maml(start)
    torch.testing.assert_close(metrics["loss_after"], value)
    before = vmap(loss, (None, 0))(start.params, QUERY).mean()
    torch.testing.assert_close(metrics["loss_before"], before)
    shared = start.replace(step_size=torch.tensor(0.01, dtype=torch.float64))
    per_leaf = start.replace(step_size=tree.map(lambda x: x.flatten()[0], start.step_size))
    values = [grad_and_value(maml, has_aux=True)(x) for x in (start, shared, per_leaf)]
    for gradient, (found, _) in values:
        torch.testing.assert_close(found, value)
        total = sum(x.sum() for x in tree.leaves(gradient.step_size))
        torch.testing.assert_close(total, sum(x.sum() for x in tree.leaves(values[0][0].step_size)))
    assert values[1][0].step_size != 0


def test_errors():
    start = initial()
    with pytest.raises(TypeError, match=r"adapt: meta: expected a MetaParams, got tuple; write MetaParams\(params, torch.tensor"):
        meta.adapt(start.params, tree.index(SUPPORT, 0), loss=loss, num_steps=1)
    with pytest.raises(ValueError, match="adapt: num_steps: expected an integer of at least 0, got -1"):
        meta.adapt(start, tree.index(SUPPORT, 0), loss=loss, num_steps=-1)
    with pytest.raises(ValueError, match=r"adapt_first_order: step_size: expected a tensor \[\] or a tree like params, got"):
        meta.adapt_first_order(start.replace(step_size=torch.zeros(2)), tree.index(SUPPORT, 0), loss=loss, num_steps=1)
    wrong = start.replace(step_size=tree.map(lambda x: torch.zeros(7, 1, dtype=x.dtype), start.params))
    with pytest.raises(ValueError, match=r"adapt: step_size: leaf .*: expected a shape that broadcasts to \[.*\], got \[7, 1\]"):
        meta.adapt(wrong, tree.index(SUPPORT, 0), loss=loss, num_steps=1)
