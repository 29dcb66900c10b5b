import math

import chex
import numpy as np
import pytest
import torch
from torch.func import grad, grad_and_value, jvp, vmap

from funrl import compiler, nn, optim, random, tree
from funrl.distributions import Categorical, Independent, Normal
from funrl.losses import PPOBatch, clipped_surrogate, clipped_value_loss, explained_variance, normalize_advantage, ppo_loss
from tests.oracles import advantages
from tests.oracles.deepmind import rlax

NET = nn.mlp((8,), 3)


def apply(params, observation):
    out = NET.apply(params, observation)
    return Categorical(out[..., :2]), out[..., 2]


def experience(n=32, dtype=torch.float64, seed=0):
    keys = random.split(random.key(seed), 7)
    params = NET.init(keys[0], torch.zeros(4, dtype=dtype))
    log_prob, value, advantage, target = (random.normal(key, (n,), dtype=dtype) for key in keys[3:])
    return params, PPOBatch(
        observation=random.normal(keys[1], (n, 4), dtype=dtype),
        action=random.randint(keys[2], (n,), 0, 2),
        log_prob=0.3 * log_prob - 0.7,
        value=value,
        advantage=advantage,
        target=target,
    )


def draws(*sizes, dtype=torch.float64):
    return [random.normal(random.key(i), sizes, dtype=dtype) for i in range(3)]


def test_surrogate_by_hand():
    ratio = torch.tensor([0.5, 0.5, 1.0, 1.5, 1.5])
    advantage = torch.tensor([2.0, -2.0, 3.0, 2.0, -2.0])
    got = clipped_surrogate(ratio.log(), torch.zeros(5), advantage, clip=0.25)
    torch.testing.assert_close(got, torch.tensor([-1.0, 1.5, -3.0, -2.5, 3.0]))


def test_surrogate_agrees_with_rlax():
    log_prob, old, advantage = draws(64, dtype=torch.float32)
    expected = rlax.clipped_surrogate_pg_loss(torch.exp(log_prob - old).numpy(), advantage.numpy(), 0.2)
    got = clipped_surrogate(log_prob, old, advantage, clip=0.2).mean()
    chex.assert_trees_all_close(got.numpy(), np.asarray(expected), rtol=1e-5)


def test_surrogate_has_no_gradient_where_it_is_clipped():
    ratio = torch.tensor([0.5, 0.5, 1.0, 1.5, 1.5])
    advantage = torch.tensor([2.0, -2.0, 3.0, 2.0, -2.0])
    got = grad(lambda x: clipped_surrogate(x, torch.zeros(5), advantage, clip=0.25).sum())(ratio.log())
    torch.testing.assert_close(got, torch.tensor([-1.0, 0.0, -3.0, 0.0, 3.0]))


def test_surrogate_survives_extreme_ratios():
    log_prob = torch.tensor([1e4, 1e4, -1e4, -1e4, 0.0])
    advantage = torch.tensor([1.0, 0.0, 1.0, -1.0, 0.0])
    gradient, value = grad_and_value(lambda x: clipped_surrogate(x, torch.zeros(5), advantage, clip=0.2).sum())(log_prob)
    assert gradient.isfinite().all() and value.isfinite()


def test_value_loss_by_hand():
    value, old = torch.tensor([2.0, 2.0, 1.25, 0.0]), torch.ones(4)
    target = torch.tensor([3.0, 0.0, 0.0, 1.0])
    got = clipped_value_loss(value, old, target, clip=0.5)
    torch.testing.assert_close(got, 0.5 * torch.tensor([1.5**2, 2.0**2, 1.25**2, 1.0]))
    gradient = grad(lambda v: clipped_value_loss(v, old, target, clip=0.5).sum())(value)
    torch.testing.assert_close(gradient, torch.tensor([0.0, 2.0, 1.25, -1.0]))


@pytest.mark.parametrize("clip", [math.inf, torch.tensor(math.inf)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_value_clipping_is_exactly_the_squared_error(clip, dtype):
    value, old, target = draws(64, dtype=dtype)
    got = grad_and_value(lambda v: clipped_value_loss(v, 1e4 * old, target, clip=clip).sum())(value)
    expected = grad_and_value(lambda v: (0.5 * (v - target).square()).sum())(value)
    assert all(torch.equal(x, y) for x, y in zip(got, expected, strict=True))


@pytest.mark.parametrize("clip, value_clip", [(0.2, 0.3), (0.05, math.inf), (0.0, 0.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_agrees_with_the_naive_loop(clip, value_clip, dtype):
    params, batch = experience(dtype=dtype)
    loss, metrics = ppo_loss(params, batch, apply=apply, clip=clip, value_clip=value_clip, value_weight=0.7, entropy_weight=0.02)
    distribution, value = apply(params, batch.observation)
    log_prob, entropy = distribution.log_prob(batch.action), distribution.entropy()
    numbers = (log_prob, batch.log_prob, batch.advantage, value, batch.value, batch.target, entropy)
    expected, expected_metrics = advantages.ppo(*numbers, clip, value_clip, 0.7, 0.02)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    assert loss.dtype == dtype
    assert float(loss) == pytest.approx(expected, rel=tolerance, abs=tolerance)
    assert metrics.keys() == expected_metrics.keys()
    for name, x in metrics.items():
        chex.assert_shape(x, ())
        assert x.dtype == dtype
        assert float(x) == pytest.approx(expected_metrics[name], rel=tolerance, abs=tolerance), name


def test_hyperparameters_may_be_tensors_of_another_dtype():
    params, batch = experience(dtype=torch.float32)
    numbers = {"clip": 0.25, "value_clip": 0.5, "value_weight": 0.5, "entropy_weight": 0.125}
    tensors = {name: torch.tensor(x, dtype=torch.float64) for name, x in numbers.items()}
    one, two = (ppo_loss(params, batch, apply=apply, **given) for given in (numbers, tensors))
    assert all(torch.equal(x, y) for x, y in zip(tree.leaves(one), tree.leaves(two), strict=True))
    three = vmap(lambda given: ppo_loss(params, batch, apply=apply, **given))(tree.map(lambda x: x.expand(2), tensors))
    assert all(x.dtype == torch.float32 for x in tree.leaves(three))


def test_approximate_kl_keeps_its_digits_near_zero():
    params, batch = experience(dtype=torch.float32)
    log_prob = apply(params, batch.observation)[0].log_prob(batch.action)
    same = ppo_loss(params, batch.replace(log_prob=log_prob), apply=apply)[1]
    assert same["approximate_kl"] == 0 and same["clip_fraction"] == 0
    near = ppo_loss(params, batch.replace(log_prob=log_prob - 1e-3), apply=apply)[1]
    assert float(near["approximate_kl"]) == pytest.approx(5e-7, rel=1e-2)


def test_the_gradient():
    params, batch = experience(n=6)
    vector, unravel = tree.ravel(params)
    hyperparameters = {"clip": 0.2, "value_clip": 0.5, "value_weight": 0.5, "entropy_weight": 0.01}
    assert torch.autograd.gradcheck(lambda v: ppo_loss(unravel(v), batch, apply=apply, **hyperparameters)[0], vector.requires_grad_())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # of torch, when it first makes a jvp
def test_nothing_in_the_batch_carries_a_gradient():
    params, batch = experience(n=6)

    def loss(numbers):
        return ppo_loss(params, batch.replace(**numbers), apply=apply, value_clip=0.5)[0]

    numbers = {name: getattr(batch, name) for name in ("log_prob", "value", "advantage", "target")}
    assert all((g == 0).all() for g in grad(loss)(numbers).values())
    assert jvp(loss, (numbers,), ({name: torch.ones_like(x) for name, x in numbers.items()},))[1] == 0
    leaves = {name: x.clone().requires_grad_() for name, x in numbers.items()}
    assert not ppo_loss(params, batch.replace(**leaves), apply=apply)[0].requires_grad
    assert grad(lambda a: normalize_advantage(a).sum())(batch.advantage).eq(0).all()
    # Nested: the inner gradient of the loss, differentiated by the advantage outside.
    outer = grad(lambda a: grad(lambda p: ppo_loss(p, batch.replace(advantage=a), apply=apply)[0])(params)[0]["weight"].sum())
    assert outer(batch.advantage).eq(0).all()


def test_normalize_advantage():
    x = 3 + 2 * random.normal(random.key(0), (8, 5), dtype=torch.float64)
    got = normalize_advantage(x)
    torch.testing.assert_close(got, (x - x.mean()) / x.std(correction=0))
    assert torch.equal(normalize_advantage(torch.tensor([5.0])), torch.zeros(1))
    assert torch.equal(normalize_advantage(torch.full((4,), 5.0)), torch.zeros(4))


def test_explained_variance():
    target, noise, _ = draws(4, 50)
    assert explained_variance(target, target) == 1
    torch.testing.assert_close(explained_variance(noise, target), 1 - (target - noise).var() / target.var())
    torch.testing.assert_close(explained_variance(torch.zeros_like(target), target), torch.zeros((), dtype=torch.float64))
    assert explained_variance(noise[0], torch.ones(50, dtype=torch.float64)) == 0


def test_continuous_actions_and_further_batch_dimensions():
    params, batch = experience(n=12, dtype=torch.float32)
    batch = tree.reshape(batch, (3, 4)).replace(action=random.normal(random.key(0), (3, 4, 2)))

    def gaussian(params, observation):
        out = NET.apply(params, observation)
        return Independent(Normal(out[..., :2], torch.ones_like(out[..., :2])), 1), out[..., 2]

    loss, _ = ppo_loss(params, batch, apply=gaussian)
    flat, _ = ppo_loss(params, tree.reshape(batch, (12,), batch_dims=2), apply=gaussian)
    torch.testing.assert_close(loss, flat)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")
def test_an_update_compiled_and_vmapped_agrees_with_a_loop():

    def update(params, batch, rate, clip, value_clip):
        opt = optim.flatten(optim.chain(optim.clip_by_global_norm(0.5), optim.adam(rate)))
        batch = batch.replace(advantage=normalize_advantage(batch.advantage))
        hyperparameters = {"clip": clip, "value_clip": value_clip, "value_weight": 0.5 + 0 * rate, "entropy_weight": rate}
        grads, (loss, metrics) = grad_and_value(ppo_loss, has_aux=True)(params, batch, apply=apply, **hyperparameters)
        updates, _ = opt.update(grads, opt.init(params), params)
        return optim.apply_updates(params, updates), loss, metrics, explained_variance(batch.value, batch.target)

    params, batch = tree.stack([experience(seed=i, dtype=torch.float32) for i in range(3)])
    numbers = torch.tensor([1e-3, 1e-2, 0.1]), torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.1, math.inf, 0.5])
    rows = [tree.index((params, batch, *numbers), i) for i in range(3)]
    expected = tree.stack([update(*row) for row in rows])
    batched = vmap(update)(params, batch, *numbers)
    compiled = compiler.compile(vmap(update), backend="xla")(params, batch, *numbers)
    for want, one, two in zip(tree.leaves(expected), tree.leaves(batched), tree.leaves(compiled), strict=True):
        torch.testing.assert_close(one, want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(two, want, rtol=1e-4, atol=1e-5)


A = torch.zeros(4)
PARAMS, BATCH = experience(n=4, dtype=torch.float32)


def not_independent(params, observation):
    return Normal(torch.zeros(4, 2), torch.ones(4, 2)), torch.zeros(4)


def not_squeezed(params, observation):
    distribution, value = apply(params, observation)
    return distribution, value.unsqueeze(-1)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (
            lambda: clipped_surrogate(A, A, A[:, None], clip=0.2),
            ValueError,
            r"advantage: .* \[4\] of log_prob, got \[4, 1\]",
        ),
        (lambda: clipped_surrogate(A, A, A, clip=-0.2), ValueError, "clip: expected a number of at least 0, got -0.2"),
        (lambda: clipped_surrogate(A, A, A.int(), clip=0.2), TypeError, "advantage: expected a floating-point tensor, got torch.int32"),
        (lambda: clipped_value_loss(A, A[:1], A, clip=0.2), ValueError, r"old_value: .* got \[1\]"),
        (lambda: clipped_value_loss(A, A, A, clip=math.nan), ValueError, "clip"),
        (lambda: explained_variance(A, torch.zeros(5)), ValueError, r"target: .* got \[5\]"),
        (lambda: ppo_loss(PARAMS, BATCH, apply=apply, value_weight=-1.0), ValueError, "value_weight"),
        (lambda: ppo_loss(PARAMS, BATCH, apply=apply, value_clip=-1.0), ValueError, "value_clip"),
        (lambda: ppo_loss(PARAMS, BATCH, apply=not_squeezed), ValueError, r"apply's value: .* got \[4, 1\]; .*squeeze"),
        (
            lambda: ppo_loss(PARAMS, BATCH.replace(action=torch.zeros(4, 2)), apply=not_independent),
            ValueError,
            r"apply's log_prob: .*wrap .* Independent",
        ),
        (lambda: ppo_loss(PARAMS, BATCH.replace(target=torch.zeros(4, 1)), apply=apply), ValueError, r"batch.target: .* got \[4, 1\]"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_equal_advantages_are_0_in_half_precision_too(dtype):
    assert torch.equal(normalize_advantage(torch.ones(3, dtype=dtype)), torch.zeros(3, dtype=dtype))


def test_a_ratio_beyond_20_still_pushes_back():
    """The paper's objective rises without bound there; held at 20 its gradient was 0, and the action stayed far too likely."""
    old, advantage = torch.zeros(3), torch.tensor([-1.0, 1.0, -1.0])
    f = lambda x: clipped_surrogate(x, old, advantage, clip=0.2)  # noqa: E731
    x = torch.tensor([25.0, 25.0, 1000.0])
    slope = grad(lambda x: f(x).sum())(x)
    assert slope[0] > 1e8 and slope[1] == 0 and slope[2] > 1e8 and slope.isfinite().all()
    torch.testing.assert_close(f(torch.full((3,), 20.0))[0], torch.tensor(20.0).exp())
    assert f(x)[0] > f(x - 1)[0] and f(x)[1] == -1.2
