import chex
import numpy as np
import pytest
import torch
from torch.func import grad, vmap

from funrl import compiler, random
from funrl.distributions import Bernoulli, Categorical, Independent, MultiCategorical, Normal, OneHotCategorical
from funrl.spaces import MultiDiscrete
from tests.oracles.deepmind import distrax


def logits_of(*shape, dtype=torch.float64, seed=0):
    return 2 * random.normal(random.key(seed), shape, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_torch_and_distrax(dtype):
    logits, other = logits_of(5, 3, 4, dtype=dtype), logits_of(5, 3, 4, dtype=dtype, seed=1)
    x = random.randint(random.key(2), (5, 3), 0, 4)
    mine, theirs = Categorical(logits), torch.distributions.Categorical(logits=logits)
    for got, expected in [
        (mine.log_prob(x), theirs.log_prob(x)),
        (mine.entropy(), theirs.entropy()),
        (mine.probs, theirs.probs),
        (mine.log_probs, theirs.logits),
        (mine.kl(Categorical(other)), torch.distributions.kl_divergence(theirs, torch.distributions.Categorical(logits=other))),
    ]:
        assert got.dtype == dtype
        torch.testing.assert_close(got, expected)
    assert torch.equal(mine.mode(), theirs.mode)
    jax_version = distrax.Categorical(logits=logits.numpy())
    chex.assert_trees_all_close(mine.log_prob(x).numpy(), np.asarray(jax_version.log_prob(x.numpy())), rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(mine.entropy().numpy(), np.asarray(jax_version.entropy()), rtol=1e-4, atol=1e-5)


def test_samples_have_the_probabilities():
    logits = torch.tensor([[0.0, 1.0, -1.0], [2.0, -torch.inf, 0.0]])
    dist = Categorical(logits)
    x = vmap(dist.sample)(random.split(random.key(3), 20000))
    chex.assert_shape(x, (20000, 2))
    assert x.dtype == torch.int64
    frequencies = torch.nn.functional.one_hot(x, 3).double().mean(0)
    torch.testing.assert_close(frequencies, dist.probs.double(), atol=0.015, rtol=0)
    assert frequencies[1, 1] == 0


def test_sample_with_log_prob_is_log_prob_of_the_sample():
    dist = Categorical(logits_of(6, 4))
    x, log_prob = dist.sample_with_log_prob(random.key(0))
    assert torch.equal(x, dist.sample(random.key(0)))
    torch.testing.assert_close(log_prob, dist.log_prob(x))


def test_forbidden_classes_and_extreme_logits_stay_finite():
    logits = torch.tensor([[0.0, -torch.inf, 1.0], [1e30, 0.0, -1e30], [300.0, -300.0, 0.0]])
    dist = Categorical(logits)
    assert dist.entropy().isfinite().all()
    assert (dist.kl(dist) == 0).all()
    assert dist.kl(Categorical(torch.zeros(3, 3))).isfinite().all()
    assert Categorical(torch.zeros(3)).kl(Categorical(torch.tensor([0.0, 0.0, -torch.inf]))) == torch.inf
    for f in (
        lambda z: Categorical(z).entropy().sum(),
        lambda z: Categorical(z).kl(Categorical(torch.zeros(3, 3))).sum(),
        lambda z: Categorical(z).log_prob(torch.tensor([0, 0, 0])).sum(),
    ):
        assert grad(f)(logits).isfinite().all()


def test_a_class_that_does_not_exist_has_no_probability():
    log_prob = Categorical(torch.zeros(3)).log_prob(torch.tensor([-1, 0, 2, 3]))
    assert torch.equal(log_prob == -torch.inf, torch.tensor([True, False, False, True]))


def test_gradients():
    logits, other = logits_of(3, 4).requires_grad_(), logits_of(3, 4, seed=1).requires_grad_()
    x = torch.tensor([0, 3, 1])
    assert torch.autograd.gradcheck(lambda z: Categorical(z).log_prob(x), logits)
    assert torch.autograd.gradcheck(lambda z: Categorical(z).entropy(), logits)
    assert torch.autograd.gradcheck(lambda z, w: Categorical(z).kl(Categorical(w)), (logits, other))


def everything(key, logits, other):
    dist = Categorical(logits)
    x, log_prob = dist.sample_with_log_prob(key)
    return x, log_prob, dist.entropy(), dist.mode(), dist.kl(Categorical(other)), dist.log_prob(x + 0 * x)


def test_compiled_and_vmapped_agree_with_a_loop():
    keys, logits, other = (
        random.split(random.key(0), 3),
        logits_of(3, 2, 4, dtype=torch.float32),
        logits_of(3, 2, 4, dtype=torch.float32, seed=1),
    )
    loop = [everything(*row) for row in zip(keys, logits, other, strict=True)]
    expected = [torch.stack(column) for column in zip(*loop, strict=True)]
    batched = vmap(everything)(keys, logits, other)
    compiled = compiler.compile(vmap(everything), backend="aot_eager")(keys, logits, other)
    for want, one, two in zip(expected, batched, compiled, strict=True):
        torch.testing.assert_close(one, want)
        torch.testing.assert_close(two, want)


def test_more_samples_than_parameters_broadcast():
    dist = Categorical(logits_of(5, 4))
    chex.assert_shape(dist.log_prob(torch.zeros(7, 5, dtype=torch.int64)), (7, 5))
    chex.assert_shape(dist.log_prob(torch.tensor(1)), (5,))
    chex.assert_shape(Independent(dist, 1).log_prob(torch.zeros(5, dtype=torch.int64)), ())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_hot_agrees_with_torch_and_distrax(dtype):
    logits, other = logits_of(5, 4, dtype=dtype), logits_of(5, 4, dtype=dtype, seed=1)
    mine, theirs = OneHotCategorical(logits), torch.distributions.OneHotCategorical(logits=logits)
    x = torch.nn.functional.one_hot(torch.tensor([0, 3, 1, 2, 2]), 4)
    for got, expected in [
        (mine.log_prob(x), theirs.log_prob(x.to(dtype))),
        (mine.log_prob(x.bool()), theirs.log_prob(x.to(dtype))),
        (mine.entropy(), theirs.entropy()),
        (mine.mean(), theirs.mean),
        (mine.stddev().square(), theirs.variance),
        (mine.mode(), theirs.mode),
        (mine.kl(OneHotCategorical(other)), torch.distributions.kl_divergence(theirs, torch.distributions.OneHotCategorical(logits=other))),
    ]:
        assert got.dtype == dtype
        torch.testing.assert_close(got, expected)
    jax_version = distrax.OneHotCategorical(logits=logits.numpy())
    chex.assert_trees_all_close(mine.log_prob(x).numpy(), np.asarray(jax_version.log_prob(x.numpy())), rtol=1e-4, atol=1e-5)
    y = mine.sample(random.key(0))
    assert torch.equal(y.argmax(-1), Categorical(logits).sample(random.key(0))) and torch.equal(y.sum(-1), torch.ones(5, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bernoulli_agrees_with_torch_and_distrax(dtype):
    logits, other = 2 * logits_of(6, dtype=dtype), logits_of(6, dtype=dtype, seed=1)
    mine, theirs = Bernoulli(logits), torch.distributions.Bernoulli(logits=logits)
    x = torch.tensor([True, False, True, True, False, False])
    for got, expected in [
        (mine.log_prob(x), theirs.log_prob(x.to(dtype))),
        (mine.entropy(), theirs.entropy()),
        (mine.mean(), theirs.mean),
        (mine.stddev(), theirs.stddev),
        (mine.kl(Bernoulli(other)), torch.distributions.kl_divergence(theirs, torch.distributions.Bernoulli(logits=other))),
    ]:
        assert got.dtype == dtype
        torch.testing.assert_close(got, expected)
    assert torch.equal(mine.mode(), theirs.mode.bool())
    jax_version = distrax.Bernoulli(logits=logits.numpy())
    chex.assert_trees_all_close(mine.log_prob(x).numpy(), np.asarray(jax_version.log_prob(x.numpy())), rtol=1e-4, atol=1e-5)
    extreme = Bernoulli(torch.tensor([200.0, -200.0], dtype=dtype))
    torch.testing.assert_close(extreme.log_prob(torch.tensor([False, True])), torch.full((2,), -200.0, dtype=dtype))
    assert extreme.kl(Bernoulli(-extreme.logits)).isfinite().all() and (extreme.entropy() < 1e-30).all()
    draws = vmap(mine.sample)(random.split(random.key(0), 20000))
    torch.testing.assert_close(draws.double().mean(0), mine.probs.double(), atol=0.015, rtol=0)
    z = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda z: (Bernoulli(z).log_prob(x), Bernoulli(z).entropy(), Bernoulli(z).kl(Bernoulli(other.double()))), z
    )


def test_multi_categorical_is_its_choices():
    logits, nvec = logits_of(5, 9), (2, 4, 3)
    mine = MultiCategorical(logits, nvec)
    theirs = [torch.distributions.Categorical(logits=part) for part in logits.split(nvec, -1)]
    x, log_prob = mine.sample_with_log_prob(random.key(0))
    chex.assert_shape(x, (5, 3))
    torch.testing.assert_close(log_prob, sum(d.log_prob(y) for d, y in zip(theirs, x.unbind(-1), strict=True)))
    torch.testing.assert_close(mine.entropy(), sum(d.entropy() for d in theirs))
    assert torch.equal(mine.mode(), torch.stack([d.mode for d in theirs], -1))
    other = [torch.distributions.Categorical(logits=-part) for part in logits.split(nvec, -1)]
    expected = sum(torch.distributions.kl_divergence(p, q) for p, q in zip(theirs, other, strict=True))
    torch.testing.assert_close(mine.kl(MultiCategorical(-logits, nvec)), expected)
    space = MultiDiscrete(nvec)
    draws = vmap(mine.sample)(random.split(random.key(1), 20000))
    assert vmap(vmap(space.contains))(draws).all()
    for i, d in enumerate(theirs):
        frequencies = torch.nn.functional.one_hot(draws[..., i], nvec[i]).double().mean(0)
        torch.testing.assert_close(frequencies, d.probs, atol=0.015, rtol=0)
    a, b = (draws[:, 0, i].double() for i in (0, 1))
    assert torch.corrcoef(torch.stack([a, b]))[0, 1].abs() < 0.03  # the choices do not share their noise


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: Categorical(torch.tensor([0, 1])).probs, TypeError, "logits: expected a floating-point tensor, got torch.int64"),
        (lambda: Categorical([0.0, 1.0]).entropy(), TypeError, "logits.*got a list"),
        (lambda: Categorical(torch.tensor(0.0)).mode(), ValueError, r"expected the shape \[..., K\]"),
        (lambda: Categorical(torch.zeros(3, 0)).mode(), ValueError, "K at least 1"),
        (lambda: Categorical(torch.zeros(3)).log_prob(torch.tensor(1.0)), TypeError, "integers, got torch.float32"),
        (lambda: Categorical(torch.zeros(3)).log_prob(1), TypeError, "integers, got an int"),
        (lambda: Categorical(torch.zeros(5, 3)).log_prob(torch.zeros(5, 1, dtype=torch.int64)), ValueError, r"got \[5, 1\] and \[5\]"),
        (lambda: Categorical(torch.zeros(3)).mean(), TypeError, "use mode"),
        (lambda: Categorical(torch.zeros(3)).kl(Categorical(torch.zeros(4))), ValueError, "expected 3 classes, got 4"),
        (lambda: Categorical(torch.zeros(3)).stddev(), TypeError, "Categorical.stddev: classes are labels"),
        (
            lambda: OneHotCategorical(torch.zeros(3)).log_prob(torch.tensor(1)),
            ValueError,
            r"one-hot vectors \[..., 3\], got the shape \[\]",
        ),
        (lambda: OneHotCategorical(torch.zeros(3)).log_prob([1, 0, 0]), TypeError, "x: expected a tensor"),
        (lambda: OneHotCategorical(torch.zeros(3)).kl(Categorical(torch.zeros(3))), TypeError, "expected an OneHotCategorical"),
        (
            lambda: MultiCategorical(torch.zeros(4), (2, 3)).mode(),
            ValueError,
            r"expected the shape \[..., 5\], got",
        ),
        (lambda: MultiCategorical(torch.zeros(4), (4, 0)).mode(), ValueError, r"nvec: expected integers of at least 1, got \(4, 0\)"),
        (
            lambda: MultiCategorical(torch.zeros(4), (2, 2)).log_prob(torch.tensor([1])),
            ValueError,
            r"expected the shape \[..., 2\], got \[1\]",
        ),
        (lambda: MultiCategorical(torch.zeros(4), (2, 2)).mean(), TypeError, "MultiCategorical.mean: classes are labels"),
        (
            lambda: MultiCategorical(torch.zeros(4), (2, 2)).kl(MultiCategorical(torch.zeros(4), (4,))),
            ValueError,
            r"expected nvec \(2, 2\), got \(4,\)",
        ),
        (lambda: Bernoulli(torch.zeros(3)).log_prob(torch.zeros(3)), TypeError, "x: expected a bool tensor, got torch.float32; .*x == 1"),
        (lambda: Bernoulli(torch.zeros(3)).log_prob(torch.zeros(3, 1).bool()), ValueError, r"got \[3, 1\] and \[3\]"),
        (lambda: Bernoulli(torch.tensor([1])).mode(), TypeError, "Bernoulli: logits: expected a floating-point tensor"),
        (lambda: Categorical(torch.zeros(3)).kl(Normal(torch.zeros(3), torch.ones(3))), TypeError, "expected a Categorical, got a Normal"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
