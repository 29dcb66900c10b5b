"""Independent, and the contract that all distributions keep."""

import chex
import pytest
import torch
from torch.func import vmap

from funrl import compiler, random, tree
from funrl.distributions import (
    Bernoulli,
    Categorical,
    Delta,
    Independent,
    MultiCategorical,
    Normal,
    OneHotCategorical,
    TanhDelta,
    TanhNormal,
    TruncatedNormal,
)


def parameters(*shape, dtype=torch.float64, seed=0):
    keys = random.split(random.key(seed), 2)
    return random.normal(keys[0], shape, dtype=dtype), random.uniform(keys[1], shape, 0.3, 1.5, dtype=dtype)


def masks(x):
    return x > x.amax(-1, keepdim=True) - 1.0


# Each makes a distribution of parameters [..., 4] and positive ones [..., 4].
KINDS = {
    "Normal": Normal,
    "TanhNormal": lambda m, s: TanhNormal(m, s, (-1.0, -2.0, 0.0, 0.0), 3.0),
    "TruncatedNormal": lambda m, s: TruncatedNormal(m, s, -1.0, 0.5),
    "Delta": lambda m, s: Delta(m),
    "TanhDelta": lambda m, s: TanhDelta(m, -2.0, 2.0, atol=1e-6),
    "Categorical": lambda m, s: Categorical(m),
    "OneHotCategorical": lambda m, s: OneHotCategorical(m),
    "Categorical with a mask": lambda m, s: Categorical(m, mask=masks(m)),
    "OneHotCategorical with a mask": lambda m, s: OneHotCategorical(m, mask=masks(m)),
    "MultiCategorical": lambda m, s: MultiCategorical(m, (3, 1)),
    "Bernoulli": lambda m, s: Bernoulli(m),
    "Independent": lambda m, s: Independent(TanhNormal(m, s), 1),
}
LABELS = ("Categorical", "Categorical with a mask", "MultiCategorical")


def estimates(dist, key):
    """Mean, deviation and entropy, with a key for those that are estimated."""
    return [getattr(dist, name)(*((key, 64) if name in dist.estimated else ())) for name in ("mean", "stddev", "entropy")]


def everything(name, key, loc, scale):
    dist = KINDS[name](loc, scale)
    x, log_prob = dist.sample_with_log_prob(key)
    values = [x, log_prob, dist.log_prob(x), dist.mode(), dist.kl(KINDS[name](loc, 1.3 * scale)), dist.sample(key)]
    return values + ([dist.entropy()] if name in LABELS else estimates(dist, key))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_and_their_log_probabilities(name, dtype):
    loc, scale = parameters(5, 4, dtype=dtype)
    dist = KINDS[name](loc, scale)
    x, log_prob = dist.sample_with_log_prob(random.key(1))
    assert torch.equal(x, dist.sample(random.key(1)))
    assert log_prob.dtype == dtype and log_prob.isfinite().all()
    torch.testing.assert_close(log_prob, dist.log_prob(x), rtol=1e-4, atol=1e-4)
    assert x.dtype == (torch.bool if name == "Bernoulli" else torch.int64 if name in LABELS else dtype)
    assert dist.mode().shape == x.shape and dist.mode().dtype == x.dtype
    torch.testing.assert_close(dist.kl(dist), torch.zeros_like(log_prob))
    assert dist.log_prob(dist.mode()).isfinite().all()


@pytest.mark.parametrize("name", [name for name in KINDS if name not in LABELS])
def test_mean_and_deviation_are_those_of_the_samples(name):
    dist = KINDS[name](*parameters(4))
    x = vmap(dist.sample)(random.split(random.key(2), 40000)).double()
    mean, stddev, _ = estimates(dist, random.key(3))
    loose = 0.3 if dist.estimated else 0.015
    torch.testing.assert_close(mean.double(), x.mean(0), atol=loose, rtol=0)
    torch.testing.assert_close(stddev.double(), x.std(0), atol=loose, rtol=0)


@pytest.mark.parametrize("name", KINDS)
def test_entropy_and_divergence_are_expectations(name):
    if name in ("Delta", "TanhDelta"):
        return
    loc, scale = parameters(4)
    dist, other = KINDS[name](loc, scale), KINDS[name](0.7 * loc if "Masked" not in name else loc, 1.2 * scale)
    x, log_prob = vmap(dist.sample_with_log_prob)(random.split(random.key(2), 40000))
    entropy = dist.entropy(random.key(3), 20000) if "entropy" in dist.estimated else dist.entropy()
    torch.testing.assert_close(entropy, -log_prob.mean(0), atol=0.03, rtol=0.01)
    torch.testing.assert_close(dist.kl(other), (log_prob - other.log_prob(x)).mean(0), atol=0.02, rtol=0.02)


@pytest.mark.parametrize("name", KINDS)
def test_vmapped_agrees_with_a_loop(name):
    keys = random.split(random.key(0), 3)
    loc, scale = parameters(3, 2, 4, dtype=torch.float32)
    expected = tree.stack([everything(name, *row) for row in zip(keys, loc, scale, strict=True)])
    for want, got in zip(expected, vmap(lambda *args: everything(name, *args))(keys, loc, scale), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_compiled_agrees_with_eager():
    """All in one program, over distributions as arguments and results."""
    loc, scale = parameters(2, 4, dtype=torch.float32)

    def all_of_them(key, loc, scale):
        return [everything(name, key, loc, scale) for name in KINDS], KINDS["Independent"](loc, scale)

    compiled = compiler.compile(all_of_them, backend="aot_eager")
    expected, got = (tree.leaves(f(random.key(0), loc, scale)) for f in (all_of_them, compiled))
    for want, x in zip(expected, got, strict=True):
        torch.testing.assert_close(x, want, rtol=1e-4, atol=1e-4)


def test_independent_sums_over_events():
    loc, scale = parameters(4, 3, 2)
    base = Normal(loc, scale)
    x, log_prob = Independent(base, 2).sample_with_log_prob(random.key(0))
    reference = torch.distributions.Independent(torch.distributions.Normal(loc, scale), 2)
    chex.assert_shape(log_prob, (4,))
    torch.testing.assert_close(log_prob, reference.log_prob(x))
    torch.testing.assert_close(Independent(base, 2).entropy(), reference.entropy())
    other = parameters(4, 3, 2, seed=1)
    expected = torch.distributions.kl_divergence(reference, torch.distributions.Independent(torch.distributions.Normal(*other), 2))
    torch.testing.assert_close(Independent(base, 2).kl(Independent(Normal(*other), 2)), expected)
    assert torch.equal(Independent(base, 0).entropy(), base.entropy())
    assert torch.equal(Independent(base, 1).mode(), loc) and torch.equal(Independent(base, 1).mean(), loc)
    assert torch.equal(Independent(base, 1).stddev(), scale) and Independent(base, 1).estimated == ()
    squashed = Independent(TanhNormal(loc, scale), 1)
    chex.assert_shape(squashed.entropy(random.key(0), 8), (4, 3))
    chex.assert_shape(squashed.mean(random.key(0), num_samples=8), (4, 3, 2))
    assert squashed.estimated == ("mean", "stddev")


def test_distributions_are_trees():
    dist = Independent(TanhNormal(*parameters(5, 2), low=(-1.0, -2.0)), 1)
    assert len(tree.leaves(dist)) == 2
    first = tree.index(dist, 0)
    x = dist.sample(random.key(0))
    torch.testing.assert_close(first.log_prob(x[0]), dist.log_prob(x)[0])
    torch.testing.assert_close(vmap(lambda d, y: d.log_prob(y))(dist, x), dist.log_prob(x))
    returned = vmap(lambda m, s: Independent(TanhNormal(m, s), 1))(*parameters(5, 2))
    chex.assert_shape(returned.mode(), (5, 2))


ZERO, ONE = torch.zeros(3), torch.ones(3)


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: Independent(Normal(ZERO, ONE), 2).entropy(), ValueError, "event_dims: expected an integer from 0 to 1"),
        (lambda: Independent(Normal(ZERO, ONE), 1).kl(Normal(ZERO, ONE)), TypeError, "expected an Independent"),
        (lambda: Independent(Normal(ZERO, ONE), 1).kl(Independent(Normal(ZERO, ONE), 0)), ValueError, "event_dims 1, got 0"),
        (lambda: Independent(Normal(ZERO, ONE), 1).kl(Independent(Categorical(ONE), 1)), TypeError, "got a Categorical"),
        (lambda: Normal(ZERO, ONE).kl(TruncatedNormal(ZERO, ONE)), TypeError, "expected a Normal, got a TruncatedNormal"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
